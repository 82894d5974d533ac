"""Two runs compared in a browser: clicked by one person, seen by another one."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import pytest

import sfxlab

pytestmark = pytest.mark.browser

CELL = """
from sfxlab.session import Session
from sfxlab.widgets import Compare
session = Session("compare", "sqlite:///compare.sqlite", "{person}")
compare = Compare("{before}", "{after}", session, height=300)
compare
"""
SHOWN = "() => [...document.querySelectorAll('.frame-viewer')].map(one => one.dataset.marks).join()"


def comes(lab: Any, page: Any, code: str, value: Any) -> None:
    """Wait until an expression in the kernel has this value: the browser is ahead of it."""
    deadline = time.monotonic() + 30
    while (found := lab.kernel(page, code)) != value:
        assert time.monotonic() < deadline, f"{code} is {found}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def found(small_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small run with its own recipe, and with one that finds one lattice at most."""
    one_lattice = small_run.recipe.indexing.model_copy(update={"max_lattices": 1})
    recipe = small_run.recipe.model_copy(update={"indexing": one_lattice})
    folder = tmp_path_factory.mktemp("compared")
    return sfxlab.compare_recipes(
        small_run.open_frames(), small_run.recipe, recipe, output=folder, most=None, progress=None
    )


@pytest.fixture(scope="module")
def pages(lab: Any, found: Any) -> Any:
    """Anna's notebook in JupyterLab, and Ben's in Notebook where that is installed."""
    paths = {"before": found.before.path, "after": found.after.path}
    names = [lab.server.write([CELL.format(person=person, **paths)]) for person in ("anna", "ben")]
    in_notebook = importlib.util.find_spec("notebook") is not None
    return [lab.join(names[0], run=True), lab.join(names[1], run=True, notebook=in_notebook)]


def test_counts_choose_what_is_listed_and_a_click_shows_both_frames(lab: Any, pages: Any, found: Any) -> None:
    anna, ben = pages
    lost = found.of_state("lost")["frame"].to_pylist()
    anna.wait_for_function(f"() => ({SHOWN})() === '0,0'", timeout=60_000)
    difference = anna.locator(".comparison table.figures td").all_inner_texts()
    before = str(found.before.recipe.indexing.max_lattices)
    assert difference == ["recipe", "indexing.max_lattices", before, "1"]
    anna.locator(".comparison button.lost").click()
    anna.wait_for_selector(f".frame-table .count:has-text('{len(lost)} of 12 frames')")
    anna.wait_for_function(f"() => document.querySelectorAll('.frame-table .status.lost').length === {len(lost)}")
    anna.locator(f".frame-table .line > span:first-child:text-is('{lost[-1]}')").click()
    both = f"() => ({SHOWN})() === '{lost[-1]},{lost[-1]}'"
    for page in pages:  # the other person sees them, too
        page.wait_for_function(both, timeout=60_000)
        page.wait_for_selector(f".comparison .about:has-text('frame {lost[-1]} lost: 2 → 1 lattices')")
        assert (
            page.locator(".frame-viewer").evaluate_all("all => all.map(one => one.dataset.status)") == ["indexed"] * 2
        )
        sentences = page.locator(".frame-viewer .sentence").all_inner_texts()
        assert [text.split(",")[0] for text in sentences] == ["indexed: 2 lattices", "indexed: 1 lattice"]
    assert ben.locator(".frame-table .count").inner_text() == "12 frames"  # what is listed is one's own
    comes(
        lab, ben, "[session.get('view.frame'), compare.frame, *(one.frame for one in compare.viewers)]", [lost[-1]] * 4
    )


def test_both_pictures_are_panned_and_zoomed_together_for_everybody(lab: Any, pages: Any) -> None:
    anna, ben = pages
    stages = anna.locator(".frame-viewer .stage")
    stages.nth(1).dblclick(position={"x": 150, "y": 100})
    views = "[[round(one.zoom, 6), [round(at) for at in one.centre]] for one in compare.viewers]"
    comes(lab, anna, "compare.viewers[0].zoom > 0", True)
    zoomed = lab.kernel(anna, views)
    assert zoomed[0] == zoomed[1]
    comes(lab, ben, views, zoomed)
    anna.locator(".frame-viewer").first.focus()
    anna.keyboard.press("Shift+ArrowRight")
    comes(lab, anna, f"{views}[1][1][0] > {zoomed[0][1][0]}", True)
    moved = lab.kernel(anna, views)
    comes(lab, ben, views, moved)
    anna.keyboard.press("0")
    comes(lab, ben, "[one.zoom for one in compare.viewers]", [0, 0])


def test_keys_go_through_what_is_listed(lab: Any, pages: Any, found: Any) -> None:
    anna, _ = pages
    lost = found.of_state("lost")["frame"].to_pylist()
    anna.locator(".comparison").focus()
    anna.keyboard.press("a")
    anna.wait_for_selector(".frame-table .count:text-is('12 frames')")
    anna.keyboard.press("l")
    comes(lab, anna, "[compare.table.filter, compare.table.n_shown]", ["state = lost", len(lost)])
    anna.keyboard.press("p")
    anna.wait_for_selector(f".comparison .about:has-text('frame {lost[-2]} lost')")
    anna.keyboard.press("n")
    anna.wait_for_selector(f".comparison .about:has-text('frame {lost[-1]} lost')")
    filter = anna.get_by_role("textbox", name="filter")
    filter.fill("state = same and rotation > 90")
    anna.wait_for_selector(".frame-table .empty:not([hidden])")
    filter.fill("stat = same")
    anna.wait_for_selector(".frame-table .message:has-text('there is no column')")
    filter.fill("")
    anna.wait_for_selector(".comparison button.on:has-text('all')")
    assert anna.problems == []
    lab.keep(anna, "compare")
