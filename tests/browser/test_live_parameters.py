"""The live parameters in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from sfxlab.store import Run

pytestmark = pytest.mark.browser

ROOT = "document.querySelector('.live-parameters')"


class Parameters:
    """Sliders on a page, and the kernel behind them."""

    def __init__(self, lab: Any, page: Any) -> None:
        self.lab, self.page = lab, page

    def control(self, name: str, kind: str) -> Any:
        return self.page.locator(f'.live-parameters .parameter[data-name="{name}"] {kind}')

    def type(self, name: str, value: float) -> None:
        self.control(name, "input[type=number]").fill(str(value))
        self.control(name, "input[type=number]").press("Enter")

    def get(self, expression: str) -> Any:
        return self.lab.kernel(self.page, expression)

    def waits(self, condition: str, seconds: float = 60.0) -> None:
        self.page.wait_for_function(f"() => {condition}", timeout=1000 * seconds)

    def text(self, name: str) -> str:
        found: str = self.page.locator(f".live-parameters .{name}").inner_text()
        return found


@pytest.fixture(scope="module")
def parameters(lab: Any, small_run: Run) -> Parameters:
    """Sliders beside a viewer on the first indexed frame."""
    first = small_run.frames["status"].to_pylist().index("indexed")
    cell = f"""
import sfxlab
from sfxlab.widgets import FrameViewer, LiveParameters
live = LiveParameters(FrameViewer(sfxlab.Run({str(small_run.path)!r}), frame={first}, height=400))
live.beside()
"""
    opened = Parameters(lab, lab.open([cell]))
    opened.waits(f"{ROOT}.dataset.status === 'indexed'")
    return opened


@pytest.fixture(autouse=True)
def anew(parameters: Parameters) -> None:
    """Each test begins with the recipe as it was."""
    parameters.page.locator(".live-parameters .search").fill("")
    parameters.page.locator(".live-parameters .reset").click()
    parameters.waits(f"{ROOT}.innerText.includes('as before')")


def test_the_frame_is_searched_anew_as_the_slider_moves(parameters: Parameters) -> None:
    parameters.waits("document.querySelector('.frame-viewer').dataset.marks !== undefined")
    before = parameters.get("len(live.viewer.result().peaks)")
    slider = parameters.control("peaks.min_snr", "input[type=range]")
    slider.focus()
    for _ in range(12):
        parameters.page.keyboard.press("ArrowRight")  # a notebook would move on to the next cell
    parameters.waits(f"{ROOT}.innerText.includes('before: indexed')")
    assert 0 < parameters.get("len(live.viewer.result().peaks)") < before
    value = parameters.get("live.changes['peaks.min_snr']")
    assert value > 5
    assert float(parameters.control("peaks.min_snr", "input[type=number]").input_value()) == pytest.approx(value)
    parameters.control("peaks.min_snr", ".back").click()
    parameters.waits(f"{ROOT}.innerText.includes('as before')")
    assert parameters.get("live.changes") == {}


def test_why_a_frame_is_not_indexed_stands_beside_it(parameters: Parameters) -> None:
    parameters.type("peaks.max_peaks", 11)
    parameters.type("indexing.min_peaks", 12)
    parameters.waits(f"{ROOT}.dataset.status === 'hit'")
    assert parameters.text("reason").startswith("Why not indexed: too few peaks")
    assert "before: indexed" in parameters.text("before")
    assert "not indexed" in parameters.page.locator(".frame-viewer .sentence").inner_text()


def test_choices_and_switches(parameters: Parameters) -> None:
    parameters.control("peaks.method", "select").select_option("peakfinder8")
    parameters.waits(f"{ROOT}.innerText.includes('before: indexed')")
    assert parameters.get("live.recipe.peaks.method") == "peakfinder8"
    parameters.page.locator(".live-parameters .reset").click()
    parameters.control("indexing.enabled", "input[type=checkbox]").uncheck()
    parameters.waits(f"{ROOT}.innerText.includes('indexing is switched off')")
    assert parameters.get("live.recipe.indexing.enabled") is False


def test_a_value_that_the_recipe_refuses_is_a_sentence(parameters: Parameters) -> None:
    parameters.type("peaks.min_pixels", 100)
    parameters.waits(f"{ROOT}.querySelector('.message').innerText.includes('min_pixels')")
    assert parameters.page.problems == []


def test_parameters_are_found_by_words_of_their_help(parameters: Parameters) -> None:
    parameters.page.locator(".live-parameters .search").fill("mosaic")
    shown = parameters.page.locator(".live-parameters .parameter:visible")
    assert shown.count() == 0
    parameters.page.locator(".live-parameters .search").fill("least significance")
    assert shown.count() == 1
    parameters.page.locator(".live-parameters .search").fill("")
    assert shown.count() > 20


def test_changes_are_applied_and_the_lost_frames_shown(parameters: Parameters, small_run: Run) -> None:
    parameters.type("hits.min_peaks", 5000)
    parameters.waits(f"{ROOT}.dataset.status === 'blank'")
    parameters.page.locator(".live-parameters .apply-some").click()
    parameters.waits(f"{ROOT}.dataset.applying === 'done'", 120)
    indexed = small_run.counts.indexed
    assert f"{indexed} → 0 indexed" in parameters.text("comparison")
    lost = parameters.page.locator(".live-parameters button.lost")
    assert lost.count() == indexed
    lost.last.click()
    parameters.waits(f"document.querySelector('.frame-viewer').dataset.frame === '{lost.last.inner_text()}'")
    assert parameters.get("live.run.recipe.hits.min_peaks") == 5000


SLOW = """
import time
import sfxlab.processing

as_it_was = sfxlab.processing.process_one

def slowly(*arguments, **options):
    time.sleep(1)
    return as_it_was(*arguments, **options)

sfxlab.processing.process_one = slowly
"""


def test_applying_to_the_run_can_be_cancelled(parameters: Parameters) -> None:
    # So few frames would be done before anybody could click.
    parameters.get(f"exec({SLOW!r}, globals())")
    parameters.page.locator(".live-parameters .apply-all").click()
    parameters.page.locator(".live-parameters .cancel").click()
    parameters.waits(f"['stopped', 'done'].includes({ROOT}.dataset.applying)", 120)
    parameters.get("exec('sfxlab.processing.process_one = as_it_was', globals())")
    assert parameters.get("live.applying['state']") == "stopped"
