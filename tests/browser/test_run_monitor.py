"""The run monitor in a browser: a run that another process writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.browser

MONITOR = """
from sfxlab.session import Session
from sfxlab.widgets.run_monitor import RunMonitor
session = Session("monitor", "sqlite:///monitor.sqlite", "anna")
session.set("view.run", "growing")
monitor = RunMonitor(session=session, seconds=0.2)
monitor
"""


def comes(lab: Any, page: Any, code: str, value: Any) -> None:
    """Wait until an expression in the kernel has this value: the browser is ahead of it."""
    deadline = time.monotonic() + 30
    while (found := lab.kernel(page, code)) != value:
        assert time.monotonic() < deadline, f"{code} is {found}"
        time.sleep(0.1)


def test_a_run_that_another_process_writes_grows_on_the_page(lab: Any, mockdata: Callable[[str], ModuleType]) -> None:
    runs = mockdata("made_up_runs")
    run = runs.empty_run(lab.notebooks / "growing", 60, 20)

    def result(index: int) -> Any:
        if index % 10 == 0:
            return runs.frame_result(index, (), status="failed", reason=f"FrameError: chunk {index} is damaged")
        return runs.frame_result(index, (7,) if index % 2 else ())

    picture = "() => document.querySelector('.run-monitor img:not([hidden])')?.src ?? ''"
    with run.writing():
        run.write_chunk(0, [result(i) for i in range(20)])
        page = lab.open([MONITOR])
        page.wait_for_selector(".run-monitor .state:text-is('running')")
        page.wait_for_selector(".run-monitor .facts b:text-is('20')")
        page.wait_for_function(f"() => ({picture})() !== ''", timeout=60_000)
        first = page.evaluate(picture)
        run.write_chunk(1, [result(i) for i in range(20, 40)])
        page.wait_for_selector(".run-monitor .facts b:text-is('40')")
        page.wait_for_function(f"first => ({picture})() !== first", arg=first)
        assert page.locator(".run-monitor .quiet:has-text('written by process')").count() == 1
        run.write_chunk(2, [result(i) for i in range(40, 60)])
    page.wait_for_selector(".run-monitor .state:text-is('finished')")
    assert page.locator(".run-monitor svg .band").count() == 2
    assert page.locator(".run-monitor svg .bars").get_attribute("d")

    # A click on a reason selects its frames, one on a rate shows a frame there.
    page.get_by_role("button", name="FrameError").click()
    page.wait_for_selector(".run-monitor .reasons button.on")
    comes(lab, page, "session.get('selection')['items']", [0, 10, 20, 30, 40, 50])
    rates = page.get_by_role("img", name="hit rate and indexing rate along the run")
    box = rates.bounding_box()
    rates.click(position={"x": box["width"] / 2, "y": 60})
    page.wait_for_selector(".run-monitor svg .rule", state="attached")
    comes(lab, page, "20 < (session.get('view.frame') or 0) < 40", True)

    # The largest value of each pixel is not known of a run without pixels.
    page.get_by_role("button", name="maximum").click()
    page.wait_for_selector(".run-monitor :text-is('no picture yet')")
    assert page.problems == []


def test_a_run_that_is_not_there_is_a_sentence(lab: Any) -> None:
    page = lab.open(["from sfxlab.widgets.run_monitor import RunMonitor\nmonitor = RunMonitor('no_such_run')\nmonitor"])
    page.wait_for_selector(".run-monitor .message:has-text('no_such_run')")
