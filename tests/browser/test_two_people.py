"""Two people in a real JupyterLab: with a kernel each in one session, and on one shared notebook."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli_w

from sfxlab.store import Run

pytestmark = pytest.mark.browser

ROLES = {"anna": "lead", "ben": "analyst", "carl": "analyst", "vera": "viewer"}
OWN_KERNEL = """
import os
os.environ["SFXLAB_TOKEN"] = {token!r}
import sfxlab
from sfxlab.widgets import CellExplorer, FrameViewer, attendance
attendance.ASKED_EVERY = 5.0
session = sfxlab.Session("p1/lyso", {catalogue!r})
viewer = FrameViewer(sfxlab.Run({run!r}), session=session, height=300)
viewer
"""
SHARED = """
import sfxlab
from sfxlab.widgets import CellExplorer, FrameViewer
session = sfxlab.Session("shared", "sqlite:///shared.sqlite", "group")
viewer = FrameViewer(sfxlab.Run({run!r}), session=session, height=300)
viewer
"""
EXPLORER = "explorer = CellExplorer(sfxlab.Run({run!r}), session)\nexplorer"
IS_BLUE = (
    "() => [...document.querySelector('.frame-viewer .map').options].some(o => o.selected && o.value === 'viridis')"
)


class Somebody:
    """A person in front of a notebook with a frame viewer and a cell explorer."""

    def __init__(self, lab: Any, page: Any) -> None:
        self.lab, self.page = lab, page

    def get(self, expression: str) -> Any:
        return self.lab.kernel(self.page, expression)

    def shows(self, frame: int) -> None:
        self.page.wait_for_function(f"() => document.querySelector('.frame-viewer')?.dataset.frame === '{frame}'")

    def goes_to(self, frame: int) -> None:
        number = self.page.locator(".frame-viewer .number")
        number.fill(str(frame))
        number.press("Enter")

    def press(self, *keys: str) -> None:
        self.page.locator(".frame-viewer").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def reads(self, words: str, where: str = ".news") -> None:
        """Wait until this is written there."""
        self.page.wait_for_function(
            "([where, words]) => document.querySelector(`.frame-viewer ${where}`)?.innerText.includes(words) ?? false",
            arg=[where, words],
        )

    def has_tags(self, *tags: str) -> None:
        self.page.wait_for_function(
            "tags => [...document.querySelectorAll('.frame-viewer .tag')].map(e => e.innerText).join() === tags",
            arg=",".join(f"{tag} ×" for tag in tags),
        )

    def sees_people(self, *names: str) -> None:
        self.page.wait_for_function(
            "names => names === [...document.querySelectorAll('.person')].map(e => e.dataset.name).join()",
            arg=",".join(sorted(names)),
        )

    def brushes(self) -> None:
        """Drag over the middle of a histogram, which selects some of the crystals."""
        before = self.selected()
        picture = self.page.get_by_role("img", name="histogram of a", exact=True)
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        y = box["y"] + box["height"] / 3
        self.page.mouse.move(box["x"] + 0.45 * box["width"], y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + 0.7 * box["width"], y, steps=4)
        self.page.mouse.up()
        self.page.wait_for_selector(f".cell-explorer .facts b:not(:text-is('{before}'))")

    def selected(self) -> int:
        return int(self.page.locator(".cell-explorer .facts b").first.inner_text())

    def sees_what_is_selected_by(self, other: Somebody) -> None:
        """Wait until both see the same crystals selected, and not all; a drag selects anew while it goes on."""
        for _ in range(300):
            n, n_here = other.get("len(session.get('selection')['items'])"), self.selected()
            if n == n_here == other.selected():
                break
            self.page.wait_for_timeout(100)
        assert n_here == n
        assert 0 < n < other.get("explorer.n_crystals")

    def sees_selected(self, n: int) -> None:
        self.page.wait_for_selector(f".cell-explorer .facts b:text-is('{n}')")


@pytest.fixture(scope="module")
def run(mockdata: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twenty frames."""
    made: Run = mockdata("small_run").make(tmp_path_factory.mktemp("twenty"), frames=20)
    return made


@pytest.fixture(scope="module")
def tokens() -> dict[str, str]:
    """One of each person, at the Jupyter server and at the session service."""
    return {name: uuid.uuid4().hex for name in ROLES}


@pytest.fixture(scope="module")
def catalogue(tokens: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a session service that knows everybody's role."""
    folder = tmp_path_factory.mktemp("service")
    path = folder / "tokens.toml"
    path.touch(0o600)
    people = [
        {"name": name, "display_name": name.title(), "token": tokens[name], "proposals": {"p1": role}}
        for name, role in ROLES.items()
    ]
    path.write_text(tomli_w.dumps({"people": people}), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("sfxlab")), "session", "serve", "--port", "0"]
    command += ["--catalogue", f"sqlite:///{folder / 'sessions.sqlite'}", "--tokens", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def lab(lab_module: ModuleType, tokens: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A JupyterLab in which people have accounts and share notebooks."""
    server = lab_module.LabServer(tmp_path_factory.mktemp("shared-lab"), collaborative=True, people=tokens)
    try:
        with lab_module.browser() as browser:
            opened = lab_module.Lab(server, browser, "two_people")
            yield opened
            opened.close()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def join(lab: Any, catalogue: str, tokens: dict[str, str], run: Run) -> Callable[[str], Somebody]:
    """Somebody with a notebook and a kernel of his or her own in the session."""
    known: dict[str, Somebody] = {}

    def joined(name: str) -> Somebody:
        if name not in known or known[name].page.is_closed():
            first = OWN_KERNEL.format(token=tokens[name], catalogue=catalogue, run=str(run.path))
            page = lab.open([first, EXPLORER.format(run=str(run.path))], person=name)
            known[name] = Somebody(lab, page)
        return known[name]

    return joined


@pytest.fixture
def anna(join: Callable[[str], Somebody], run: Run) -> Somebody:
    """Everybody looks at frame 0, with everybody, and nothing is selected or tagged."""
    anna = join("anna")
    anna.get(
        "session.follow('') or session.set('view.frame', 0) or session.set('selection', {}) or"
        " session.set('cells.ranges', {}) or session.untag('frame', ['17'], 'flag') or"
        " session.set('view.contrast', {'low': None, 'high': None, 'gamma': 1.0, 'map': 'inverted grey'})"
    )
    anna.shows(0)
    anna.sees_selected(len(run.crystals))
    anna.has_tags()
    return anna


@pytest.fixture
def ben(anna: Somebody, join: Callable[[str], Somebody]) -> Somebody:
    ben = join("ben")
    ben.get("session.follow('')")
    ben.shows(0)
    return ben


def does_everything(anna: Somebody) -> None:
    """What Anna does: frame, contrast, cells, a tag."""
    anna.goes_to(17)
    anna.shows(17)
    anna.page.locator(".frame-viewer .map").select_option("viridis")
    anna.press("f")
    anna.brushes()


def sees_everything(somebody: Somebody, anna: Somebody) -> None:
    somebody.shows(17)
    somebody.page.wait_for_function(IS_BLUE)
    somebody.has_tags("flag")
    somebody.sees_what_is_selected_by(anna)


def test_what_one_does_the_other_sees_with_the_name(anna: Somebody, ben: Somebody) -> None:
    anna.goes_to(17)
    ben.shows(17)
    ben.reads("Anna went to frame 17")
    anna.page.locator(".frame-viewer .map").select_option("viridis")
    ben.page.wait_for_function(IS_BLUE)
    ben.reads("Anna changed the contrast")
    anna.press("f")
    ben.has_tags("flag")
    ben.reads("Anna tagged frame 17: flag")
    anna.brushes()
    ben.sees_what_is_selected_by(anna)
    ben.reads("Anna selected")
    assert ben.get("[c.person for c in session.history('tag', 'flag')][-1]") == "anna"
    ben.goes_to(3)
    anna.reads("Ben went to frame 3")
    assert "Anna" not in anna.page.locator(".frame-viewer .news").inner_text()  # her own doings are no news to her
    assert anna.page.problems == ben.page.problems == []


def test_who_comes_late_sees_the_present_state_and_who_is_there(
    anna: Somebody, ben: Somebody, join: Callable[[str], Somebody]
) -> None:
    does_everything(anna)
    carl = join("carl")
    sees_everything(carl, anna)
    for somebody in (anna, carl):
        for name in ("anna", "ben", "carl"):
            somebody.page.wait_for_selector(f".frame-viewer .person[data-name={name}]")
    carl.reads("Carl (you)", ".names")
    colours = "() => [...document.querySelectorAll('.frame-viewer .person')].map(e => e.style.cssText)"
    assert len(anna.page.evaluate(colours)) == len(set(anna.page.evaluate(colours)))
    assert anna.page.evaluate(colours) == carl.page.evaluate(colours)


def test_a_kernel_that_restarts_loses_nothing(lab: Any, anna: Somebody, ben: Somebody) -> None:
    does_everything(anna)
    lab.restart_kernel(anna.page)
    sees_everything(anna, ben)
    sees_everything(ben, anna)
    anna.goes_to(4)
    ben.shows(4)


def test_one_follows_another_until_he_moves_himself(anna: Somebody, ben: Somebody) -> None:
    ben.press("o", "ArrowRight")
    ben.shows(1)
    anna.reads("frame 1", ".person[data-name=ben]")
    assert anna.get("viewer.frame") == 0
    anna.page.locator(".frame-viewer .person[data-name=ben]").click()
    anna.shows(1)
    ben.goes_to(5)
    anna.shows(5)
    ben.page.locator(".frame-viewer .map").select_option("viridis")
    anna.page.wait_for_function(IS_BLUE)
    ben.reads("follows Ben", ".person[data-name=anna]")
    anna.press("ArrowRight")
    anna.shows(6)
    assert (ben.get("viewer.frame"), ben.get("session.get('view.frame')")) == (5, 0)
    anna.press("w")
    anna.shows(5)
    anna.press("e")
    anna.shows(0)
    assert anna.get("viewer.contrast['map']") == "inverted grey"


def test_a_viewers_change_is_refused_with_a_sentence_and_she_may_look_around(
    anna: Somebody, join: Callable[[str], Somebody]
) -> None:
    vera = join("vera")
    vera.shows(0)
    vera.page.wait_for_selector(".frame-viewer .next:disabled")
    vera.press("ArrowRight")
    vera.reads("look on your own", ".message")
    # Whoever goes past her widget is refused where it is written.
    with pytest.raises(AssertionError, match="your role does not allow this"):
        vera.get("session.set('view.frame', 5)")
    assert "vera, viewer" in vera.get("(viewer.set_trait('frame', 5), viewer.message)[1]")
    vera.reads("your role does not allow this", ".message")
    vera.press("o")
    vera.page.wait_for_selector(".frame-viewer .next:enabled")
    vera.press("ArrowRight")
    vera.shows(1)
    assert vera.page.locator(".frame-viewer .flag").is_disabled()
    assert anna.get("viewer.frame") == 0
    vera.press("e")
    vera.shows(0)


def test_who_closes_the_browser_is_gone(anna: Somebody, join: Callable[[str], Somebody]) -> None:
    vera = join("vera")
    vera.shows(0)
    anna.page.wait_for_selector(".frame-viewer .person[data-name=vera]")
    vera.page.close()
    anna.page.wait_for_selector(".frame-viewer .person[data-name=vera]", state="detached")


def _notebook_of(somebody: Somebody) -> str:
    name: str = somebody.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path.split(':').at(-1)")
    return name


def test_two_people_on_one_notebook_share_a_kernel_and_are_known_apart(lab: Any, run: Run) -> None:
    cells = [SHARED.format(run=str(run.path)), EXPLORER.format(run=str(run.path))]
    anna = Somebody(lab, lab.open(cells, person="anna"))
    anna.shows(0)
    does_everything(anna)
    ben = Somebody(lab, lab.join(_notebook_of(anna), person="ben"))
    sees_everything(ben, anna)  # he comes late
    ben.sees_people("anna via group", "ben via group")
    ben.reads("ben (kernel of group) (you)", ".names")
    ben.press("f")
    anna.has_tags()
    anna.reads("ben (kernel of group) took flag off frame 17")
    anna.goes_to(9)
    ben.shows(9)
    ben.reads("anna (kernel of group) went to frame 9")
    anna.page.get_by_role("button", name="select none").click()
    ben.sees_selected(len(run.crystals))
    ben.reads("anna (kernel of group) selected nothing")
    who = "[c.person for kind in ('tag', 'untag') for c in session.history(kind)]"
    assert ben.get(who) == ["anna via group", "ben via group"]
    ben.goes_to(2)
    anna.shows(2)
    lab.restart_kernel(anna.page)
    anna.shows(2)
    anna.goes_to(7)
    anna.shows(7)
    ben.shows(7)
    ben.goes_to(5)
    anna.shows(5)
