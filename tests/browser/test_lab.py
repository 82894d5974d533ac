"""The laboratory itself: a widget is drawn, clicked and read back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sfxlab.store import Run

pytestmark = pytest.mark.browser

COUNTER = """
import anywidget, traitlets
class Counter(anywidget.AnyWidget):
    _esm = '''
    export default { render({ model, el }) {
      const button = document.createElement("button");
      button.className = "counter";
      const show = () => { button.textContent = `clicked ${model.get("count")}`; };
      button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
      model.on("change:count", show);
      show();
      el.append(button);
    } };
    '''
    count = traitlets.Int(0).tag(sync=True)
counter = Counter()
counter
"""


def test_a_click_reaches_the_kernel_and_a_change_there_reaches_the_page(lab: Any) -> None:
    page = lab.open([COUNTER])
    button = page.locator("button.counter")
    button.click()
    page.wait_for_function("() => document.querySelector('button.counter').textContent === 'clicked 1'")
    assert lab.kernel(page, "counter.count") == 1
    lab.kernel(page, "counter.count = 17\n0")
    page.wait_for_function("() => document.querySelector('button.counter').textContent === 'clicked 17'")
    assert page.problems == []


def test_a_cell_that_fails_fails_the_test(lab: Any) -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        lab.open(["raise ValueError('no such thing')"])


def test_the_frame_viewer_works_in_notebook_too(lab: Any, small_run: Run) -> None:
    # Errors of the page do not count: jupyter-collaboration wants JupyterLab's status bar, and says so in Notebook.
    pytest.importorskip("notebook", reason="Notebook is not installed; it is part of sfxlab[dev]")
    name = lab.server.write([
        "import sfxlab\nfrom sfxlab.widgets import FrameViewer\n"
        f"viewer = FrameViewer(sfxlab.Run({str(small_run.path)!r}))\nviewer"
    ])  # fmt: skip
    page = lab.join(name, run=True, notebook=True)
    assert page.evaluate("() => window.jupyterapp.name") == "Jupyter Notebook"
    page.wait_for_selector(".frame-viewer[data-marks='0']")
    page.locator(".frame-viewer .next").click()
    page.wait_for_selector(".frame-viewer[data-frame='1'][data-marks='1']")
    page.locator(".frame-viewer").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".frame-viewer[data-frame='2'][data-marks='2']")
    page.keyboard.press("c")
    page.wait_for_function("() => document.querySelector('.frame-viewer .map').value === 'grey'")
    deadline = time.monotonic() + 60
    while lab.kernel(page, "[viewer.frame, viewer.contrast['map']]") != [2, "grey"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lab.keep(page, "notebook-7")
