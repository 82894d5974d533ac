"""Two people in front of notebooks of their own talk about frames; a third one may only look."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import pytest

pytestmark = pytest.mark.browser

ANNA = """
from sfxlab.session import Session
from sfxlab.widgets import Discussion
session = Session("talk", "sqlite:///talk.sqlite", "anna")
session.set("view.frame", 17)
discussion = Discussion(session)
discussion
"""
BEN = ANNA.replace('"anna"', '"ben"').replace('session.set("view.frame", 17)\n', "")
VERA = """
from sfxlab.session import Person
looking = Discussion(Session("talk", "sqlite:///talk.sqlite", Person("vera", "Vera", "viewer")))
looking
"""


def comes(lab: Any, page: Any, code: str, value: Any) -> None:
    """Wait until an expression in the kernel has this value: the browser is ahead of it."""
    deadline = time.monotonic() + 30
    while (found := lab.kernel(page, code)) != value:
        assert time.monotonic() < deadline, f"{code} is {found}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def anna(lab: Any) -> Any:
    page = lab.open([ANNA])
    page.wait_for_selector(".discussion .empty")
    return page


@pytest.fixture(scope="module")
def ben(lab: Any, anna: Any) -> Any:
    """Who comes late, in Notebook where that is installed; the viewer's discussion is below his own."""
    name, in_notebook = lab.server.write([BEN, VERA]), importlib.util.find_spec("notebook") is not None
    page = lab.join(name, run=True, notebook=in_notebook)
    page.wait_for_selector(".discussion >> nth=1")
    return page


def test_what_one_person_says_the_other_one_reads_with_the_name(lab: Any, anna: Any, ben: Any) -> None:
    anna.locator(".discussion").focus()
    anna.keyboard.press("c")
    anna.keyboard.type("rings at 3.9 Å")
    anna.keyboard.press("Enter")
    anna.keyboard.press("Escape")
    anna.keyboard.press("t")
    anna.keyboard.type("ice")
    anna.keyboard.press("Enter")
    anna.keyboard.press("Escape")
    anna.keyboard.press("-")
    theirs = ben.locator(".discussion").first
    theirs.locator(".line:has-text('voted against frame 17')").wait_for()
    assert theirs.locator(".line .who").all_inner_texts() == ["anna"] * 3
    assert theirs.locator(".line .text").inner_text() == "rings at 3.9 Å"
    assert theirs.locator("button.tag").inner_text() == "ice anna"
    assert theirs.get_by_role("button", name="▼ 1").get_attribute("title") == "vote against frame 17: anna"
    comes(lab, anna, "[session.votes('frame 17'), sorted(session.tagged('frame', 'ice'))]", [{"anna": -1}, ["17"]])


def test_where_two_people_differ_is_listed_for_both_and_a_click_shows_it(lab: Any, anna: Any, ben: Any) -> None:
    theirs, mine = ben.locator(".discussion").first, anna.locator(".discussion")
    theirs.locator("button.tag").click()  # gives it too
    theirs.locator("button.tag.own").click()  # and takes it away
    theirs.get_by_role("button", name="▲ 0").click()
    mine.locator("button.tag.disputed").wait_for()
    lab.kernel(ben, "session.set('view.frame', 3)\n0")
    mine.locator("button.on:text-is('frame 3')").wait_for()
    mine.get_by_role("button", name="people differ (1)").click()
    line = mine.locator(".line:has-text('frame 17')")
    assert line.locator(".opinion").all_inner_texts() == ["anna ice ▼", "ben ice ▲"]
    assert line.locator(".opinion s").all_inner_texts() == ["ice"]
    lab.keep(anna, "discussion")
    assert mine.locator(".agreements").inner_text() == "anna and ben agree on 0 of 1"
    mine.focus()
    anna.keyboard.press("n")
    theirs.locator("button.on:text-is('frame 17')").wait_for()
    comes(lab, ben, "session.get('view.frame')", 17)
    assert lab.kernel(ben, "discussion.differences()[0].is_disputed") is True


def test_everything_is_filtered_and_walked_through_by_keys(lab: Any, anna: Any, ben: Any) -> None:
    lab.kernel(ben, "session.tag('frame', [str(i) for i in range(40, 50)], 'salt')\n0")
    mine = anna.locator(".discussion")
    mine.focus()
    anna.keyboard.press("2")
    mine.locator(".line:has-text('frame 42 and 7 more')").wait_for()
    mine.get_by_role("textbox", name="filter").fill("ben salt")
    anna.wait_for_function("() => document.querySelectorAll('.discussion .line').length === 1")
    anna.keyboard.press("Escape")
    anna.keyboard.press("ArrowDown")
    anna.keyboard.press("Enter")
    mine.locator("button.on:text-is('frame 40')").wait_for()
    anna.keyboard.press("?")
    assert mine.locator("table.help").is_visible()
    anna.keyboard.press("Escape")
    mine.get_by_role("textbox", name="filter").fill("")
    comes(lab, anna, "[discussion.scope, discussion.filter, session.get('view.frame')]", ["everything", "", 40])


def test_a_viewer_reads_and_has_no_controls_that_write(lab: Any, anna: Any, ben: Any) -> None:
    looking = ben.locator(".discussion").nth(1)
    for control in (*looking.locator(".writing > *").all(), *looking.locator(".said input, .said button").all()):
        assert control.is_disabled()
    looking.get_by_role("button", name="everything").click()  # looking is allowed
    looking.locator(".line:has-text('rings at 3.9 Å')").wait_for()
    looking.focus()
    ben.keyboard.press("+")
    with pytest.raises(AssertionError, match="NotAllowedError: your role does not allow this"):
        lab.kernel(ben, "looking.vote(1)\n0")
    assert "vera" not in lab.kernel(ben, "session.votes('frame 40')")


def test_it_reads_well_in_the_dark(anna: Any) -> None:
    anna.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    anna.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    brightness = """selector => {
      const style = getComputedStyle(document.querySelector(selector));
      const mean = colour => colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
      return [mean(style.color), mean(style.backgroundColor)];
    }"""
    anna.wait_for_function(f"() => ({brightness})('.discussion')[1] < 80")
    for selector in (".discussion", ".discussion textarea"):
        text, behind = anna.evaluate(brightness, selector)
        assert text - behind > 120, selector
    anna.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    anna.wait_for_function("() => document.body.dataset.jpThemeLight === 'true'")  # which the server keeps
    assert anna.problems == []
