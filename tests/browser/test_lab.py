"""The laboratory itself: a widget is drawn, clicked and read back."""

from __future__ import annotations

from typing import Any

import pytest

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
