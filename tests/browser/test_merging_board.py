"""The merging board in a browser: sliders, the merge beside, table 1, files."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import sfxlab
from sfxlab.crystal import UnitCell

pytestmark = pytest.mark.browser

N = 60
BOARD = """
from sfxlab.session import Person, Session
from sfxlab.widgets.merging_board import MergingBoard
session = Session("merge", "sqlite:///merge.sqlite", "anna")
board = MergingBoard("measured", "4/mmm", session, polarisation=None, reject_harmful=False, space_group="P 43 21 2")
board
"""


def comes(lab: Any, page: Any, code: str, value: Any) -> None:
    """Wait until an expression in the kernel has this value: the browser is ahead of it."""
    deadline = time.monotonic() + 30
    while (found := lab.kernel(page, code)) != value:
        assert time.monotonic() < deadline, f"{code} is {found}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def page(lab: Any, mockdata: Callable[[str], ModuleType]) -> Any:
    """A run of which every fifth crystal is noisy and every tenth a little wide."""
    runs = mockdata("made_up_runs")
    wide = UnitCell(40.6, 40.6, 30, lattice_type="tetragonal", unique_axis="c")
    runs.write_run(lab.notebooks / "measured", [
        runs.frame_result(i, (150,), wide if i % 10 == 3 else runs.CELL, 150.0 if i % 5 == 0 else 3.0)
        for i in range(N)
    ])  # fmt: skip
    page = lab.open([BOARD])
    page.wait_for_selector(".merging-board svg .line", timeout=120_000)
    return page


def slide(page: Any, label: str, value: float) -> None:
    page.get_by_role("slider", name=label).evaluate(
        f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }}"
    )


def passing(page: Any, n: int) -> None:
    page.wait_for_selector(f".merging-board span:text('{n} of {N} crystals pass')")


def test_a_slider_cuts_and_the_curves_follow(lab: Any, page: Any) -> None:
    before = page.locator(".merging-board svg .line").first.get_attribute("d")
    slide(page, "a, b, c within", 1)
    passing(page, N - N // 10)
    page.wait_for_function(
        "before => document.querySelector('.merging-board svg .line').getAttribute('d') !== before", arg=before
    )
    comes(lab, page, "session.get('merge.cuts')", {"lengths": 1})
    page.get_by_role("button", name="all crystals").click()
    passing(page, N)
    slide(page, "CC at least", 0.8)
    passing(page, N - N // 5)
    assert page.locator(".merging-board svg .rule").count() == 1
    page.get_by_role("button", name="all crystals").click()
    passing(page, N)


def test_a_slider_that_is_dragged_ends_where_it_was_left(lab: Any, page: Any) -> None:
    for hundredths in range(1, 81):
        slide(page, "CC at least", hundredths / 100)
    passing(page, N - N // 5)
    comes(lab, page, "board.cuts", {"correlation": 0.8})
    page.get_by_role("slider", name="CC at least").press("Home")  # by keyboard, to no limit
    passing(page, N)
    comes(lab, page, "board.cuts", {})


def test_a_merge_is_kept_beside(page: Any) -> None:
    page.get_by_role("button", name="keep beside").click()
    page.wait_for_selector(".merging-board .totals :text-is('beside')")
    slide(page, "a, b, c within", 1)
    passing(page, N - N // 10)
    page.wait_for_selector(".merging-board span:text('CC of the two')")
    assert page.locator(".merging-board svg .line.orange.dashed").count() >= 5
    page.get_by_role("button", name="only one").click()
    page.wait_for_selector(".merging-board .totals :text-is('beside')", state="detached")
    page.get_by_role("button", name="all crystals").click()
    passing(page, N)


def test_tags_and_the_selection_of_others_cut(lab: Any, page: Any) -> None:
    lab.kernel(page, "session.tag('frame', ['1', '2', '4'], 'ice')\n0")
    page.get_by_label("ice").check()
    passing(page, N - 3)
    page.get_by_label("ice").uncheck()
    passing(page, N)
    lab.kernel(page, "session.set('selection', {'kind': 'crystal', 'items': list(range(20)), 'why': 'a range'})\n0")
    page.get_by_label("selected crystals only").check()
    passing(page, 20)
    page.get_by_role("button", name="all crystals").click()
    passing(page, N)


def test_scales_are_fitted_again_and_shells_and_limits_change(lab: Any, page: Any) -> None:
    slide(page, "CC at least", 0.8)
    passing(page, N - N // 5)
    page.get_by_role("button", name="fit scales again").click()
    comes(lab, page, "session.get('merge.settings')", {"scaled_on": {"correlation": 0.8}})
    page.get_by_role("spinbutton", name="number of shells").fill("4")
    page.get_by_role("spinbutton", name="number of shells").press("Enter")
    page.get_by_role("spinbutton", name="least spacing").fill("3")
    page.get_by_role("spinbutton", name="least spacing").press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.merging-board svg .points').getAttribute('d').split('M').length - 1 === 4"
    )
    comes(lab, page, "board.figures['main']['d_min'][-1]", 3)


def test_table_one_is_shown_and_the_merge_saved(lab: Any, page: Any) -> None:
    page.get_by_text("Table 1").click()
    page.wait_for_selector(".merging-board details td:text-is('Rsplit (%)')")
    page.get_by_role("button", name="save MTZ").click()
    page.wait_for_selector(".merging-board :text('saved: ')")
    written = sfxlab.read_merged(lab.notebooks / "merged.mtz")
    assert len(written) == lab.kernel(page, "len(board.merged())")
    page.get_by_role("button", name="save MTZ").click()
    page.wait_for_selector(".merging-board .message:has-text('merged.mtz')")
    assert page.problems == []


def test_a_viewer_sees_the_cuts_of_others_and_moves_none(lab: Any, page: Any) -> None:
    viewer = lab.open([BOARD.replace('"anna"', 'Person("vera", "Vera", "viewer")')])
    viewer.wait_for_selector(".merging-board svg .line", timeout=120_000)
    assert viewer.get_by_role("slider", name="CC at least").is_disabled()
    assert viewer.get_by_role("button", name="fit scales again").is_disabled()
    page.get_by_role("button", name="all crystals").click()
    passing(viewer, N)
    assert viewer.problems == []
