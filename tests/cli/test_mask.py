from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from sfxlab.frames import open_frames


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sfxlab: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("mask") / "try"
    sfxlab("simulate", folder, "--frames", 20, "--seed", 2)
    return folder


def test_a_mask_is_learned_from_frames_and_named_for_the_geometry_file(
    made: Path, sfxlab: Callable[..., Any], tmp_path: Path
) -> None:
    data = (made / "frames.cxi", "-g", made / "frames.geom", "--workers", 0)
    out = sfxlab("mask", *data, "-o", tmp_path / "mask.h5", "--png", tmp_path / "mask.png").output
    lines = [line.strip() for line in out.splitlines() if line.startswith("  mask7")]
    listed = np.loadtxt(made / "truth/unmasked_hot_pixels.csv", delimiter=",", skiprows=1, ndmin=2)
    hot = listed[:, 1].astype(int), listed[:, 0].astype(int)
    text = (made / "frames.geom").read_text()
    (tmp_path / "better.geom").write_text("\n".join([*lines, text]))
    before, after = open_frames(data[0], data[2])[0].bad, open_frames(data[0], tmp_path / "better.geom")[0].bad
    assert not before[hot].any()
    assert after[hot].mean() >= 0.95
    picture = Image.open(io.BytesIO((tmp_path / "mask.png").read_bytes()))
    assert picture.width > 900
    with h5py.File(tmp_path / "mask.h5") as file:
        assert (file["mask"][()] == 8).sum() > 1000  # the arm of the beam stop


def test_a_mask_is_learned_from_the_frames_of_a_run(made: Path, sfxlab: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = sfxlab("process", made / "frames.cxi", "-g", made / "frames.geom", "-o", run, "--workers", 0).output
    assert "learned from 20 frames" in out
    result = sfxlab("mask", run, "-o", tmp_path / "mask.h5", "--workers", 0, "--json")
    values = json.loads(result.stdout)
    # Those that the run has learned itself are found again.
    with h5py.File(run / "bad_pixels.h5") as file:
        assert values["hot"] == np.count_nonzero(file["mask"][()] == 1) > 20
    assert values["frames"] == 20
    assert sum(panel["hot"] for panel in values["panels"]) == values["hot"]


def test_too_few_frames_are_said(made: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused(
        "mask", made / "frames.cxi", "-g", made / "frames.geom", "-o", tmp_path / "mask.h5", "--workers", 0,
        "--frames", 4,
    )  # fmt: skip
    assert "too few frames" in message
    assert not (tmp_path / "mask.h5").exists()
