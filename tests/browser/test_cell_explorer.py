"""The cell explorer in a browser: ranges dragged and typed, groups, cells proposed and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sfxlab.crystal import UnitCell, read_cell

pytestmark = pytest.mark.browser

LARGE = UnitCell(52, 52, 71, lattice_type="tetragonal", unique_axis="c")


@pytest.fixture(scope="module")
def page(lab: Any, mockdata: Callable[[str], ModuleType]) -> Any:
    """Two thirds of the crystals are of one form, the others of another."""
    runs = mockdata("made_up_runs")
    results = [runs.frame_result(i, cell=LARGE if i % 3 == 2 else runs.CELL) for i in range(60)]
    runs.write_run(lab.notebooks / "two_forms", results)
    page = lab.open([
        "from sfxlab.session import Session\n"
        "from sfxlab.widgets.cell_explorer import CellExplorer\n"
        "session = Session('cells', 'sqlite:///cells.sqlite', 'anna')\n"
        "cells = CellExplorer('two_forms', session)\n"
        "cells"
    ])  # fmt: skip
    page.wait_for_selector(".cell-explorer svg .bars")
    return page


def drag(page: Any, title: str, start: float, end: float) -> None:
    """Drag in a histogram, from one share of its width to another."""
    picture = page.get_by_role("img", name=f"histogram of {title}", exact=True)
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    y = box["y"] + box["height"] / 3
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (start + end) / 2 * box["width"], y, steps=3)
    page.mouse.move(box["x"] + end * box["width"], y, steps=3)
    page.mouse.up()


def selected(page: Any, n: int) -> None:
    page.wait_for_selector(f".cell-explorer .facts b:text-is('{n}')")


def test_a_range_that_is_dragged_selects_crystals_everywhere(lab: Any, page: Any) -> None:
    drag(page, "c", 0.6, 0.95)
    selected(page, 20)
    items = lab.kernel(page, "session.get('selection')['items']")
    assert items == [i for i in range(60) if i % 3 == 2]
    low, high = lab.kernel(page, "session.get('cells.ranges')['c']")
    assert 30 < low < 71 < high
    assert page.locator(".cell-explorer svg .range").count() == 1
    # A click without a drag takes the range away.
    drag(page, "c", 0.3, 0.3)
    selected(page, 60)


def test_ranges_can_be_typed(page: Any) -> None:
    page.get_by_role("spinbutton", name="greatest a", exact=True).fill("45")
    page.get_by_role("spinbutton", name="greatest a", exact=True).press("Enter")
    selected(page, 40)
    page.get_by_role("button", name="select none").click()
    selected(page, 60)


def test_what_others_select_is_shown(lab: Any, page: Any) -> None:
    lab.kernel(page, "session.set('cells.ranges', {'a': [51, 53]})\n0")
    page.wait_for_function(
        "() => document.querySelector('.cell-explorer input[aria-label=\"least a\"]').value === '51'"
    )
    selected(page, 20)
    page.get_by_role("button", name="select none").click()
    selected(page, 60)


def test_clusters_have_colours_of_their_own(page: Any) -> None:
    page.get_by_role("button", name="by cluster").click()
    page.wait_for_selector(".cell-explorer .key:has-text('B: ')", timeout=120_000)
    assert page.locator(".cell-explorer svg .bars.blue").count() > 0
    page.get_by_role("button", name="by centring").click()
    page.wait_for_selector(".cell-explorer .key:has-text('tetragonal P')")


def test_a_proposed_cell_is_chosen_and_saved(lab: Any, page: Any) -> None:
    page.get_by_role("button", name="propose cells").click()
    page.wait_for_selector(".cell-explorer input[type=radio] >> nth=2", timeout=120_000)
    page.get_by_role("radio", name="cell 3").check()
    page.get_by_role("textbox", name="file to save the cell in").fill("large.cell")
    page.get_by_role("button", name="save .cell").click()
    page.wait_for_selector(".cell-explorer :text('saved: ')")
    saved = read_cell(Path(lab.notebooks) / "large.cell")
    assert saved.parameters == pytest.approx(LARGE.parameters, abs=0.1)
    page.get_by_role("button", name="save .cell").click()
    page.wait_for_selector(".cell-explorer .message:has-text('already')")
    assert page.problems == []


def test_the_fit_follows_the_zoom_and_the_figures_fit_the_page(page: Any) -> None:
    drag(page, "a", 0.05, 0.5)
    selected(page, 40)
    page.get_by_role("button", name="zoom to selected").click()
    page.wait_for_selector(".cell-explorer h4:has-text('of 40 selected')")
    overflow = page.locator(".cell-explorer").evaluate("e => e.scrollWidth - e.clientWidth")
    assert overflow <= 0
