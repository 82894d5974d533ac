"""A real hub in front of people's browsers: who works together, who looks on, and who stays outside."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.browser

PROPOSALS = """
[proposals.one@]
title = "Lysozyme at room temperature"
members = { anna@ = "lead", bob@ = "analyst", carol@ = "viewer" }

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }
"""

# Written and signed by the proposal's account, so that widgets show at once at everybody's.
WRITE = """
import nbformat
from nbformat.sign import NotebookNotary
cells = ["# Notes:", "import ipywidgets\\nipywidgets.IntText(42, description='peaks at least')"]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(notebook, "together.ipynb")
NotebookNotary().sign(nbformat.read("together.ipynb", as_version=4))
"""

NOTES, NUMBER = ".jp-Notebook .jp-Cell:nth-of-type(1) .cm-content", ".jp-OutputArea input[type=number]"


@pytest.fixture(scope="module")
def hub_module() -> ModuleType:
    """`conftest.py` of the hub's tests."""
    path = Path(__file__).parents[1] / "hub" / "conftest.py"
    spec = importlib.util.spec_from_file_location("hub_for_browsers", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["hub_for_browsers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := module.what_is_missing():
        pytest.skip(f"no JupyterHub can be started here; {missing}")
    return module


@pytest.fixture(scope="module")
def hub(hub_module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    people, accounts = ["anna", "bob", "carol", "dan"], ["proposal-one", "proposal-two"]
    with hub_module.real_hub(tmp_path_factory.mktemp("hub"), PROPOSALS, people, accounts) as running:
        shared = running.name("proposal-one")
        assert running.start_server("anna", shared).ok
        assert running.run("anna", shared, WRITE) == ""
        yield running


@pytest.fixture(scope="module")
def open_as(hub: Any, hub_module: ModuleType, lab_module: ModuleType) -> Iterator[Callable[[str, str], Any]]:
    """`open_as(person, path)`: the page that a person gets to see who has logged in with a browser of his own."""
    with lab_module.browser() as browser:
        contexts: dict[str, Any] = {}

        def open_page(person: str, path: str) -> Any:
            if person not in contexts:
                contexts[person] = browser.new_context(viewport={"width": 1100, "height": 700})
                page = contexts[person].new_page()
                page.goto(f"{hub.address}/hub/login?next=%2Fhub%2Fhome")
                page.fill("#username_input", hub.name(person))
                page.fill("#password_input", hub_module.PASSWORD)
                page.click("#login_submit")
                page.wait_for_url("**/hub/home")
            page = contexts[person].new_page()
            page.set_default_timeout(90_000)
            page.goto(f"{hub.address}{path}")
            if page.locator("form input[name=scopes]").count():  # asks whether this server may know who comes
                page.click("form [type=submit]")
            return page

        yield open_page
        for context in contexts.values():
            context.close()


@pytest.fixture(scope="module")
def together(hub: Any, open_as: Callable[[str, str], Any]) -> dict[str, Any]:
    """The pages of three people who have the same notebook open."""
    pages = {}
    for person in ("anna", "bob", "carol"):
        path = f"/user/{hub.name('proposal-one')}/lab/workspaces/{person}/tree/together.ipynb?reset"
        pages[person] = open_as(person, path)
    for page in pages.values():
        page.wait_for_selector(NOTES)
    pages["anna"].locator(".jp-Notebook .jp-Cell .cm-content").nth(1).click()
    pages["anna"].wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    pages["anna"].keyboard.press("Control+Enter")
    for page in pages.values():
        page.wait_for_selector(NUMBER)
    return pages


def _write(page: Any, text: str) -> None:
    page.locator(NOTES).click()
    page.keyboard.press("Control+End")
    page.keyboard.type(text)


def _shows(page: Any, text: str) -> None:
    page.wait_for_function(
        "([place, text]) => document.querySelector(place).textContent.includes(text)", arg=[NOTES, text]
    )


def _has(page: Any, number: str) -> None:
    page.wait_for_function("([place, value]) => document.querySelector(place).value === value", arg=[NUMBER, number])


def test_two_people_see_the_same_text_and_the_same_state_of_a_widget(together: dict[str, Any]) -> None:
    anna, bob = together["anna"], together["bob"]
    _write(anna, " ice in run 7")
    _shows(bob, "ice in run 7")
    _write(bob, ", leave it out")
    _shows(anna, "ice in run 7, leave it out")
    anna.fill(NUMBER, "17")
    anna.press(NUMBER, "Enter")
    _has(bob, "17")
    bob.fill(NUMBER, "23")
    bob.press(NUMBER, "Enter")
    _has(anna, "23")


def test_a_spectator_sees_what_a_widget_shows_and_changes_nothing(together: dict[str, Any]) -> None:
    anna, bob, carol = together["anna"], together["bob"], together["carol"]
    anna.fill(NUMBER, "31")
    anna.press(NUMBER, "Enter")
    _has(carol, "31")
    carol.fill(NUMBER, "99")
    carol.press(NUMBER, "Enter")
    # What is not so is not shown for long.
    _has(carol, "31")
    assert {page.input_value(NUMBER) for page in (anna, bob)} == {"31"}
    anna.fill(NUMBER, "37")
    anna.press(NUMBER, "Enter")
    for page in (bob, carol):
        _has(page, "37")


def test_a_spectator_follows_the_text_and_writes_nothing(hub: Any, together: dict[str, Any]) -> None:
    anna, carol = together["anna"], together["carol"]
    _write(anna, " and see run 8")
    _shows(carol, "and see run 8")
    _write(carol, " CAROL WAS HERE")
    # What anna writes after that reaches all, what carol wrote nobody.
    _write(anna, " tomorrow")
    _shows(together["bob"], "tomorrow")
    for person in ("anna", "bob"):
        assert "CAROL" not in together[person].locator(NOTES).text_content()
    carol.keyboard.press("Control+Enter")
    kernels = hub.ask("anna", "GET", f"/user/{hub.name('proposal-one')}/api/kernels").json()
    assert len(kernels) == 1


def test_an_outsider_is_told_which_proposal_is_closed_and_whom_to_ask(
    hub: Any, open_as: Callable[[str, str], Any]
) -> None:
    name = f"one{hub.suffix}"
    page = open_as("dan", f"/user/{hub.name('proposal-one')}/lab")
    assert page.locator("h1").inner_text() == f"Proposal {name} is not open to you"
    said = page.locator(".error").inner_text()
    assert hub.name("dan") in said
    assert f"ask a lead of proposal {name}" in said
    assert hub.name("anna") not in page.content()
