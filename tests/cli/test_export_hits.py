"""`sfxlab export RUN --to cxi`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from sfxlab.frames import open_frames
from sfxlab.store import Run

Sfxlab = Callable[..., Result]


def test_export_writes_hits_and_says_how_much_smaller_they_are(sfxlab: Sfxlab, example: Path, tmp_path: Path) -> None:
    hits = Run(example / "run").counts.hits
    result = sfxlab("export", example / "run", "--to", "cxi", tmp_path / "hits.cxi", "--workers", 0)
    assert result.exit_code == 0, result.output
    assert f"{hits} hits of 16 frames" in result.stdout
    assert "times smaller" in result.stdout
    assert len(open_frames(tmp_path / "hits.cxi", tmp_path / "hits.geom")) == hits


def test_export_counts_photons_and_bins_where_asked_to(sfxlab: Sfxlab, example: Path, tmp_path: Path) -> None:
    lossy = ("--bin", 2, "--photons", "uint8", "--workers", 0, "--json")
    result = sfxlab("export", example / "run", "--to", "cxi", tmp_path / "hits.cxi", *lossy)
    values = json.loads(result.stdout)
    assert values["pixels"].startswith("lossy: ")
    assert values["factor"] == values["bytes_before"] / values["bytes_after"]
    assert values["unreadable"] == []


def test_export_refuses_to_reduce_what_has_no_pixels(refused: Callable[..., str], example: Path) -> None:
    assert "no pixels" in refused("export", example / "run", "--to", "stream", example / "no.stream", "--bin", 2)


def test_export_refuses_to_write_a_merged_file_as_frames(refused: Callable[..., str], example: Path) -> None:
    assert "cannot be written as cxi" in refused("export", example / "merged.mtz", "--to", "cxi", example / "no.cxi")
