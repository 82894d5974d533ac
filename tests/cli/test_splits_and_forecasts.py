"""Labelled frames merged from the command line, and forecasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

from sfxlab.merging import read_merged
from sfxlab.store import Run

Sfxlab = Callable[..., Result]


def write_labels(path: Path, run: Path) -> Path:
    rows = enumerate(Run(run).frames.select(["path", "event"]).to_pylist())
    lines = [f"{row['path']},{row['event']},{'light' if i % 2 else 'dark'}" for i, row in rows]
    path.write_text("\n".join(["path,event,label", *lines]) + "\n")
    return path


def test_each_label_gets_a_file_and_differences_are_told(
    sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    labels = write_labels(tmp_path / "labels.csv", example / "run")
    arguments = ("merge", example / "run", "-y", "4/mmm", "--split", labels, "--min-observations", 1)
    values = told(*arguments, "-o", tmp_path / "m.mtz")
    assert list(values["labels"]) == ["dark", "light"]
    for label, facts in values["labels"].items():
        assert facts["file"] == str(tmp_path / f"m-{label}.mtz")
        assert len(read_merged(facts["file"])) == facts["shells"][-1]["n_unique"]
        assert facts["history"]["runs"] == [str(example / "run")]
    (difference,) = values["differences"]
    assert difference["labels"] == ["dark", "light"]
    assert difference["shells"][-1]["n_common"] > 50
    text = sfxlab(*arguments, "-o", tmp_path / "m.hkl").stdout
    assert "m-light.hkl" in text
    assert "dark / light" in text
    assert (tmp_path / "m-light.hkl2").exists()


def test_a_column_of_the_table_of_frames_may_be_the_label(
    told: Callable[..., Any], refused: Callable[..., str], example: Path, tmp_path: Path
) -> None:
    arguments = ("merge", example / "run", "-y", "4/mmm")
    values = told(*arguments, "--split-by", "status", "-o", tmp_path / "m.mtz", "--memory", 1)
    assert list(values["labels"]) == ["indexed"]
    assert values["differences"] == []
    assert "no such column" in refused(*arguments, "--split-by", "delay", "-o", tmp_path / "n.mtz")
    both = ("--split-by", "status", "--split", "labels.csv")
    assert "Give one of" in refused(*arguments, *both, "-o", tmp_path / "n.mtz", exit_code=2)


def test_files_of_labels_are_not_written_over(refused: Callable[..., str], example: Path, tmp_path: Path) -> None:
    (tmp_path / "m-indexed.mtz").write_text("mine")
    said = refused("merge", example / "run", "-y", "4/mmm", "--split-by", "status", "-o", tmp_path / "m.mtz")
    assert "m-indexed.mtz" in said
    assert not (tmp_path / "m.mtz").exists()


def test_a_forecast_says_what_it_does_not_know(
    sfxlab: Sfxlab, told: Callable[..., Any], refused: Callable[..., str], example: Path, tmp_path: Path
) -> None:
    arguments = ("forecast", example / "run", "-y", "4/mmm", "--at", 3)
    result = sfxlab(*arguments, "--cc-half", 0.5, "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "96 are needed to see a trend" in result.stdout
    assert "not known" in (tmp_path / "page.html").read_text()
    values = told(*arguments, "--rsplit", 0.2)
    assert (values["verdict"], values["more_frames"]) == ("unknown", [None, None, None])
    assert "Give one of" in refused(*arguments, exit_code=2)
