"""`sfxlab watch`: a run while it grows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from sfxlab.store import Run

SFXLAB = str(Path(sys.executable).with_name("sfxlab"))


@pytest.fixture
def growing(example: Path, tmp_path: Path) -> Path:
    """A run that somebody seems to be at work on, with half of its chunks."""
    folder = tmp_path / "growing"
    shutil.copytree(example / "run", folder)
    record = (folder / "run.json").read_text()
    assert '"status": "finished"' in record
    (folder / "run.json").write_text(record.replace('"status": "finished"', '"status": "running"'))
    (tmp_path / "kept").mkdir()
    for part in sorted((folder / "frames").iterdir())[1:]:
        part.rename(tmp_path / "kept" / part.name)
    return folder


def test_a_finished_run_is_shown_once(sfxlab: Callable[..., Result], example: Path) -> None:
    counts, result = Run(example / "run").counts, sfxlab("watch", example / "run")
    assert result.exit_code == 0
    assert f"{counts.frames} of 16" in result.stdout
    assert re.search(rf"hits +{counts.hits}, {counts.hit_rate:.1%} \(\d+\.\d to \d+\.\d\)", result.stdout)
    assert "finished" in result.stdout


def test_figures_go_to_programs_too(sfxlab: Callable[..., Result], growing: Path) -> None:
    values = json.loads(sfxlab("watch", growing, "--json").stdout)
    assert (values["status"], values["frames"], values["n_frames"]) == ("running", 8, 16)
    rate = values["hit_rate"]
    assert sum(rate["hits"]) == values["hits"]
    assert all(low <= middle <= high for low, middle, high in zip(rate["low"], rate["rate"], rate["high"], strict=True))
    assert values["last_minutes"]["frames"] == 8


def test_a_growing_run_is_followed_to_its_end(growing: Path, tmp_path: Path) -> None:
    picture, page = tmp_path / "now.png", tmp_path / "now.html"
    command = (SFXLAB, "watch", str(growing), "--interval", "0.2", "--png", str(picture), "--html", str(page))
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (picture.exists() and page.exists()):
            assert watching.poll() is None, watching.stderr and watching.stderr.read()
            time.sleep(0.05)
        assert '<meta http-equiv="refresh"' in page.read_text()
        for part in (tmp_path / "kept").iterdir():
            shutil.move(part, growing / "frames" / part.name)
        record = (growing / "run.json").read_text()
        (growing / "aside.json").write_text(record.replace('"status": "running"', '"status": "finished"'))
        (growing / "aside.json").rename(growing / "run.json")
        output, errors = watching.communicate(timeout=120)
    finally:
        watching.kill()
    assert (watching.returncode, errors) == (0, "")
    assert "16 of 16" in output
    with Image.open(picture) as image:
        assert image.width > 2 * 600
    text = page.read_text()
    assert "refresh" not in text
    assert text.count("<figure>") == 2
    assert "Virtual powder" in text


def test_files_are_not_overwritten_without_being_asked(
    refused: Callable[..., str], sfxlab: Callable[..., Result], growing: Path, tmp_path: Path
) -> None:
    (tmp_path / "now.png").write_text("mine")
    assert "already there" in refused("watch", growing, "--once", "--png", tmp_path / "now.png")
    assert sfxlab("watch", growing, "--once", "--png", tmp_path / "now.png", "--overwrite").exit_code == 0
    assert (tmp_path / "now.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "this is not a run" in refused("watch", tmp_path)
