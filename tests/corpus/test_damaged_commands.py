"""Some of the corpus through the command line: exit code 1, sentences, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sfxlab.cli import main
from sfxlab.store import Run

Outcomes = Mapping[str, dict[str, Any]]
FolderOf = Callable[[Any], Path]


def command(damaged: Any, folder: Path, output: Path) -> list[str]:
    """The command that meets a damaged input."""
    if damaged.kind == "stream":
        return ["import", str(folder / damaged.file), "-o", str(output)]
    inputs, geometry = (
        [str(folder / name) for name in damaged.inputs if name != "detector.geom"],
        folder / "detector.geom",
    )
    if damaged.kind == "frames":
        return ["show", *inputs, "-g", str(geometry)]
    option = {"cell": "-p", "recipe": "--recipe"}[damaged.kind]
    frames = str(folder / "frames.cxi")
    return ["process", frames, "-g", str(geometry), option, str(folder / damaged.file), "-o", str(output)]


def run(arguments: list[str]) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.fixture(scope="session")
def refused(corpus: list[Any], outcomes: Outcomes) -> list[Any]:
    """Thirty inputs that cannot be used at all, of each kind."""
    found = [damaged for damaged in corpus if outcomes[damaged.name].get("error")]
    by_kind = [[d for d in found if d.kind == kind] for kind in ("frames", "cell", "recipe", "stream")]
    return [damaged for same, n in zip(by_kind, (15, 5, 5, 5), strict=True) for damaged in Random(1).sample(same, n)]


def test_commands_refuse_damaged_inputs_in_sentences(
    refused: list[Any], folder_of: FolderOf, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for damaged in refused:
        result = run(command(damaged, folder_of(damaged), tmp_path / "out"))
        assert result.exit_code == 1, damaged.name
        assert "Error: " in result.stderr, damaged.name
        assert any(name in result.stderr for name in {damaged.file, *damaged.inputs}), damaged.name
        assert "Traceback" not in result.output, damaged.name
        assert list(tmp_path.glob("out*")) == [], damaged.name


def test_a_process_of_its_own_ends_with_1_and_no_traceback(
    refused: list[Any], folder_of: FolderOf, tmp_path: Path
) -> None:
    for damaged in (refused[0], refused[15]):
        arguments = command(damaged, folder_of(damaged), tmp_path / "out")
        done = subprocess.run(
            [sys.executable, "-c", "from sfxlab.cli import main; main()", *arguments],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.count("Error: ") == 1
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["bitshuffle chunk", "LZ4 chunk", "gzip chunk", "/LCLS/photon_energy_eV = nan"])
def test_process_records_a_damaged_frame_and_goes_on(
    kind: str, corpus: list[Any], folder_of: FolderOf, tmp_path: Path
) -> None:
    damaged = next(d for d in corpus if d.name.startswith(kind) and len(d.struck) == 1 and d.expected == "noticed")
    folder, out = folder_of(damaged), tmp_path / "out"
    result = run(
        ["process", str(folder / "frames.cxi"), "-g", str(folder / "detector.geom"), "-o", str(out), "--workers", "0"]
    )
    assert result.exit_code == 0, result.output
    rows = Run(out).table("frames", ["event", "status", "reason"]).to_pylist()
    assert [row["event"] for row in rows if row["status"] == "failed"] == list(damaged.struck)
    assert len(rows) == 4


def test_show_prints_its_doubts(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = folder_of(None)
    geometry = tmp_path / "far.geom"
    geometry.write_text((folder / "detector.geom").read_text().replace("EncoderValue mm", "EncoderValue m"))
    with_doubt = run(["show", str(folder / "frames.cxi"), "-g", str(geometry)])
    assert with_doubt.exit_code == 0
    assert "doubt 1        a camera length of 100000" in with_doubt.stdout
    sound = run(["show", str(folder / "frames.cxi"), "-g", str(folder / "detector.geom")])
    assert "doubt" not in sound.stdout
