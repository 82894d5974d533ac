from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from sfxlab.progress import Progress, reported, terminal_bar
from sfxlab.store import Counts, progress

HALF = Progress(Counts(frames=50, hits=20, indexed=15, failed=0, lattices=18), total=100, fresh=40, seconds=8.0)


def test_rates_are_of_frames_and_of_hits_and_speed_is_of_this_session() -> None:
    assert str(HALF) == "5.0 frames/s, hits 40.0%, indexed 75.0%"
    assert str(Progress(Counts(4, 0, 0, 2, 0), 8, 0, 0.0)) == "0.0 frames/s, hits 0.0%, indexed 0.0%, failed 2"


def test_the_bar_fits_a_terminal_of_80_columns() -> None:
    screen = io.StringIO()
    with terminal_bar(Console(file=screen, force_terminal=True, width=80)) as report:
        report(HALF)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert " 50/100 " in shown
    assert "5.0 frames/s, hits 40.0%, indexed 75.0%" in shown
    assert "…" not in shown


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with reported("auto") as report:
        report(HALF)
    assert capfd.readouterr() == ("", "")


def test_a_function_gets_the_numbers_themselves() -> None:
    seen: list[Progress] = []
    with reported(seen.append) as report:
        report(HALF)
    assert seen == [HALF]


def test_a_notebook_gets_widgets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    widgets = pytest.importorskip("ipywidgets")
    made: list[object] = []
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", made.append)
    with reported("auto") as report:
        report(HALF)
    (box,) = made
    assert isinstance(box, widgets.HBox)
    bar, label = box.children
    assert (bar.value, bar.max) == (50, 100)
    assert label.value == "50 of 100 frames, 5.0 frames/s, hits 40.0%, indexed 75.0%"
