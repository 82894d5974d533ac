"""The table of frames in a browser: millions of rows scrolled, sorted, filtered, clicked and tagged."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.browser

N = 3_000_000
TABLE = f"""
import numpy as np
import pyarrow as pa
from sfxlab.session import Session
from sfxlab.widgets.frame_table import FrameTable
from sfxlab.widgets.models import frame_table as models
n = {N}
def text(values):
    return pa.array(values).dictionary_encode()
n_peaks = (np.arange(n) * 7919) % 211
status = np.array(["blank", "hit", "indexed"])[np.arange(n) % 3]
texts = ("status", "tags", "reason", "event", "path")
columns = {{name: text(np.full(n, "")) if name in texts else np.zeros(n, np.float32) for name in models.LABELS}}
columns |= {{"frame": np.arange(n), "n_peaks": n_peaks, "status": text(status), "worst": n_peaks.astype(np.float32)}}
session = Session("table", "sqlite:///table.sqlite", "anna")
table = FrameTable(models.FrameTable(columns), session)
sent = []
send = table.send
def counted(content, buffers=None):
    sent.append([content["first"], len(content["columns"]["frame"])])
    send(content, buffers)
table.send = counted
table
"""
LINES = ".frame-table .line:not(.waiting)"
FIRST = "() => Number(document.querySelector('.frame-table .line:not(.waiting) > span')?.textContent)"


def comes(lab: Any, page: Any, code: str, value: Any) -> None:
    """Wait until an expression in the kernel has this value: the browser is ahead of it."""
    deadline = time.monotonic() + 30
    while (found := lab.kernel(page, code)) != value:
        assert time.monotonic() < deadline, f"{code} is {found}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def page(lab: Any) -> Any:
    """The table in a notebook, its first rows there."""
    page = lab.open([TABLE])
    page.wait_for_selector(LINES)
    return page


def shown_first(page: Any, frame: int) -> None:
    page.wait_for_function(f"() => ({FIRST})() === {frame}")


def press(page: Any, key: str) -> None:
    page.locator(".frame-table .scroller").press(key)


def test_millions_of_rows_are_scrolled_to_the_end_and_only_what_is_seen_travels(lab: Any, page: Any) -> None:
    page.locator(".frame-table .head button[data-column=frame]").click()
    shown_first(page, 0)
    box = page.locator(".frame-table .scroller")
    box.hover()
    page.mouse.wheel(0, 22 * 30)
    shown_first(page, 30)  # single rows, though the bar stands for three million
    lab.kernel(page, "sent.clear()\n0")
    for share in (0.25, 0.5, 0.75):
        box.evaluate(f"e => {{ e.scrollTop = {share} * (e.scrollHeight - e.clientHeight); }}")
        page.wait_for_function(f"() => Math.abs(({FIRST})() / {N} - {share}) < 0.001")
    press(page, "End")
    last = "[...document.querySelectorAll('.frame-table .line > span:first-child')].at(-1)?.textContent"
    page.wait_for_function(f"() => {last} === '{N - 1}'")
    asked = lab.kernel(page, "sent")
    assert sum(count for _, count in asked) < 5000
    assert max(count for _, count in asked) <= 100
    assert page.locator(".frame-table .line").count() < 60
    press(page, "Home")
    shown_first(page, 0)


def test_a_click_on_a_head_sorts_and_another_one_turns_the_order(page: Any) -> None:
    head = page.locator(".frame-table .head button[data-column=n_peaks]")
    peaks = "() => Number(document.querySelectorAll('.frame-table .line:not(.waiting) > span')[2]?.textContent)"
    head.click()
    page.wait_for_function(f"() => ({peaks})() === 210")
    head.click()
    page.wait_for_function(f"() => ({peaks})() === 0")
    page.get_by_role("button", name="worst first").click()
    page.wait_for_function(f"() => ({peaks})() === 210")


def test_a_filter_that_is_typed_is_applied_and_a_wrong_one_explained(lab: Any, page: Any) -> None:
    box = page.get_by_role("textbox", name="filter")
    box.fill("status = hit and n_peaks > 200")
    page.wait_for_function("() => document.querySelector('.frame-table .count').textContent.includes(' of 3,000,000')")
    comes(lab, page, "table.n_shown == int(((np.arange(n) % 3 == 1) & (n_peaks > 200)).sum())", True)
    box.fill("n_peak > 3")
    page.wait_for_selector(".frame-table .message:has-text('there is no column')")
    box.fill("")
    page.wait_for_function("() => document.querySelector('.frame-table .count').textContent.startsWith('3,000,000')")
    page.get_by_role("button", name="not indexed").click()
    page.wait_for_function("() => document.querySelector('.frame-table .count').textContent.startsWith('1,000,000')")
    page.get_by_role("button", name="all", exact=True).click()
    page.wait_for_function("() => document.querySelector('.frame-table .count').textContent.startsWith('3,000,000')")


def test_a_click_shows_the_frame_and_keys_go_on(lab: Any, page: Any) -> None:
    page.locator(".frame-table .head button[data-column=frame]").click()
    shown_first(page, 0)
    page.locator(LINES).nth(4).click()
    page.wait_for_selector(".frame-table .line.shown")
    for _ in range(3):
        press(page, "ArrowDown")
    page.wait_for_function("() => document.querySelector('.frame-table .line.shown > span')?.textContent === '7'")
    comes(lab, page, "[table.frame, session.get('view.frame')]", [7, 7])
    lab.kernel(page, "session.set('view.frame', 2_000_001)\n0")  # another person goes there
    page.wait_for_function("() => document.querySelector('.frame-table .line.shown > span')?.textContent === '2000001'")


def test_rows_are_marked_selected_and_tagged(lab: Any, page: Any) -> None:
    press(page, "Home")
    shown_first(page, 0)
    page.locator(LINES).nth(2).click()
    page.locator(LINES).nth(5).click(modifiers=["Shift"])
    page.wait_for_selector(".frame-table .count:has-text('4 selected')")
    comes(lab, page, "session.get('selection')['items']", [2, 3, 4, 5])
    page.get_by_role("textbox", name="tag").fill("ice")
    page.get_by_role("textbox", name="tag").press("Enter")
    page.wait_for_selector(".frame-table .tag:has-text('ice')")
    comes(lab, page, "sorted(session.tagged('frame', 'ice'))", ["2", "3", "4", "5"])
    page.get_by_label("selected only").check()
    page.wait_for_selector(".frame-table .count:has-text('4 of 3,000,000')")
    page.get_by_label("selected only").uncheck()
    assert page.problems == []


def test_a_viewer_has_no_controls_that_change(lab: Any) -> None:
    viewer = TABLE.replace('"anna"', 'Person("vera", "Vera", "viewer")').replace(
        "import Session", "import Person, Session"
    )
    page = lab.open([viewer.replace(str(N), "3000")])
    page.wait_for_selector(LINES)
    assert page.get_by_role("textbox", name="tag").is_disabled()
    page.locator(LINES).nth(3).click()
    page.get_by_role("textbox", name="filter").fill("n_peaks > 100")  # looking is allowed
    page.wait_for_selector(".frame-table .count:has-text('of 3,000 frames')")
    assert lab.kernel(page, "[table.disabled, table.frame, session.get('view.frame')]")[0]
    comes(lab, page, "table.frame == session.get('view.frame', -1)", True)
    assert page.problems == []
