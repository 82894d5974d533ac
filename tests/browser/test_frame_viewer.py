"""The frame viewer in a real browser: every control is used, and what it does is read back from page and kernel."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfxlab.store import Run

pytestmark = pytest.mark.browser

COLOURED = """() => {
  const canvas = document.querySelector(".frame-viewer .%s");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const counts = new Map();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] < 200) continue;
    const colour = `${data[i]},${data[i + 1]},${data[i + 2]}`;
    counts.set(colour, (counts.get(colour) ?? 0) + 1);
  }
  return Object.fromEntries(counts);
}"""


class Viewer:
    """A viewer on a page, and the kernel behind it."""

    def __init__(self, lab: Any, page: Any) -> None:
        self.lab, self.page = lab, page

    def click(self, name: str) -> None:
        self.page.locator(f".frame-viewer .{name}").click()

    def press(self, *keys: str) -> None:
        self.page.locator(".frame-viewer").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def get(self, expression: str) -> Any:
        return self.lab.kernel(self.page, expression)

    def becomes(self, expression: str, value: Any) -> None:
        """Wait until the kernel says so."""
        for _ in range(100):
            if self.get(expression) == value:
                return
            self.page.wait_for_timeout(100)
        assert self.get(expression) == value

    def shows(self, frame: int) -> None:
        """Wait until a frame is painted with its marks."""
        root = "document.querySelector('.frame-viewer').dataset"
        self.page.wait_for_function(f"() => {root}.frame === '{frame}' && {root}.marks === '{frame}'")

    def says(self, words: str, where: str = "sentence") -> None:
        self.page.wait_for_function(
            "([where, words]) => document.querySelector(`.frame-viewer .${where}`).innerText.includes(words)",
            arg=[where, words],
        )

    def colours(self, canvas: str = "pixels") -> dict[str, int]:
        found: dict[str, int] = self.page.evaluate(COLOURED % canvas)
        return found

    def draws(self, what: Callable[[dict[str, int]], bool], canvas: str = "pixels") -> None:
        """Wait until a canvas has such colours."""
        for _ in range(100):
            if what(self.colours(canvas)):
                return
            self.page.wait_for_timeout(50)
        assert what(self.colours(canvas))


@pytest.fixture(scope="module")
def viewer(lab: Any, small_run: Run) -> Viewer:
    """A viewer on the run."""
    cell = f"""
import sfxlab
from sfxlab.widgets import FrameViewer
viewer = FrameViewer(sfxlab.Run({str(small_run.path)!r}))
viewer
"""
    page = lab.open([cell])
    opened = Viewer(lab, page)
    opened.shows(0)
    return opened


@pytest.fixture(autouse=True)
def anew(viewer: Viewer) -> None:
    """Each test begins with frame 0, whole."""
    viewer.get(
        "viewer.set_trait('frame', 0) or viewer.set_trait('zoom', 0.0) or viewer.set_trait('centre', [])"
        " or viewer.set_trait('contrast', {'low': None, 'high': None, 'gamma': 1.0, 'map': 'inverted grey'})"
    )
    viewer.shows(0)


def test_a_frame_is_drawn_with_its_peaks_lattices_and_rings(viewer: Viewer, small_run: Run) -> None:
    pixels = viewer.colours()
    assert sum(pixels.values()) > 200 * 200
    assert len(pixels) > 8
    assert all(len(set(colour.split(","))) == 1 for colour in pixels)  # grey
    assert small_run.frames["n_crystals"].to_pylist()[0] == 2
    for colour in ("213,94,0", "0,158,115", "95,105,120"):  # two lattices, and rings
        viewer.draws(lambda colours, colour=colour: colours.get(colour, 0) > 100, "overlay")  # type: ignore[misc]
    assert viewer.page.problems == []


def test_next_and_previous_frame_by_button_key_and_number(viewer: Viewer) -> None:
    viewer.click("next")
    viewer.shows(1)
    viewer.press("ArrowRight")
    viewer.shows(2)
    assert viewer.get("viewer.frame") == 2
    viewer.press("ArrowLeft")
    viewer.shows(1)
    viewer.click("previous")
    viewer.shows(0)
    viewer.page.locator(".frame-viewer .number").fill("7")
    viewer.page.locator(".frame-viewer .number").press("Enter")
    viewer.shows(7)
    assert viewer.get("viewer.frame") == 7


def test_the_next_hit_and_the_end_of_them(viewer: Viewer, small_run: Run) -> None:
    hits = [i for i, status in enumerate(small_run.frames["status"].to_pylist()) if status in ("hit", "indexed")]
    following = [number for number in hits if number > 0]
    viewer.click("next-hit")
    viewer.shows(following[0])
    viewer.press("h")
    viewer.shows(following[1])
    viewer.press("Shift+H")
    viewer.shows(following[0])
    viewer.get(f"viewer.set_trait('frame', {hits[-1]})")
    viewer.shows(hits[-1])
    viewer.press("h")
    viewer.says("no further hit")
    unindexed = [i for i, status in enumerate(small_run.frames["status"].to_pylist()) if status == "hit" and i > 0]
    viewer.get("viewer.set_trait('frame', 0)")
    viewer.shows(0)
    viewer.click("next-unindexed")
    if unindexed:
        viewer.shows(unindexed[0])
    else:
        viewer.says("no further hit without a lattice")


def test_playing_goes_on_by_itself_and_stops(viewer: Viewer) -> None:
    viewer.page.locator(".frame-viewer .speed").select_option("10")
    viewer.press(" ")
    viewer.page.wait_for_function("() => Number(document.querySelector('.frame-viewer').dataset.frame) >= 3")
    viewer.click("play")
    stopped = viewer.get("viewer.frame")
    viewer.page.wait_for_timeout(600)
    assert viewer.get("viewer.frame") <= stopped + 1


def test_contrast_gamma_and_colours_change_without_the_kernel(viewer: Viewer) -> None:
    requests = "document.querySelector('.frame-viewer').dataset.requests"
    viewer.page.wait_for_timeout(500)
    before, asked = viewer.colours(), viewer.page.evaluate(requests)
    viewer.page.locator(".frame-viewer .map").select_option("viridis")
    viewer.draws(lambda colours: all(len(set(colour.split(","))) > 1 for colour in colours))
    viewer.becomes("viewer.contrast['map']", "viridis")
    viewer.press("a")
    for name, value in (("low", "2"), ("high", "30")):
        viewer.page.locator(f".frame-viewer .{name}").fill(value)
        viewer.page.locator(f".frame-viewer .{name}").press("Enter")
    viewer.page.locator(".frame-viewer .gamma").fill("0.5")
    viewer.becomes("[viewer.contrast[name] for name in ('low', 'high', 'gamma')]", [2, 30, 0.5])
    box = viewer.page.locator(".frame-viewer .strip").bounding_box()
    viewer.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 10)
    viewer.page.mouse.down()
    viewer.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 10, steps=4)
    viewer.page.mouse.up()
    viewer.page.wait_for_timeout(300)
    assert viewer.get("viewer.contrast['high']") < 30
    viewer.press("c")
    viewer.becomes("viewer.contrast['map']", "inferno")
    viewer.click("auto")
    viewer.becomes("[viewer.contrast[name] for name in ('low', 'high', 'gamma')]", [None, None, 1])
    viewer.page.locator(".frame-viewer .map").select_option("inverted grey")
    viewer.draws(lambda colours: colours == before)
    assert viewer.page.evaluate(requests) == asked


def test_layers_are_switched_by_boxes_and_keys(viewer: Viewer) -> None:
    shown = sum(viewer.colours("overlay").values())
    for key, name in (("p", "peaks"), ("l", "predictions"), ("r", "rings"), ("b", "beam")):
        viewer.press(key)
        viewer.becomes(f"viewer.layers[{name!r}]", False)
    viewer.draws(lambda colours: not colours, "overlay")
    for name in ("peaks", "predictions", "rings", "beam"):
        viewer.page.locator(f".frame-viewer .layer-{name}").check()
    viewer.becomes("viewer.layers['beam']", True)
    viewer.draws(lambda colours: sum(colours.values()) == shown, "overlay")
    viewer.press("n")
    viewer.becomes("viewer.layers['panels']", True)
    viewer.draws(lambda colours: sum(colours.values()) > shown, "overlay")
    viewer.press("n", "m")
    viewer.becomes("viewer.layers['mask']", True)
    viewer.press("m")
    viewer.becomes("viewer.layers['mask']", False)


def test_zooming_shows_single_pixels_and_the_pointer_tells_of_them(viewer: Viewer) -> None:
    stage = viewer.page.locator(".frame-viewer .stage").bounding_box()
    x, y = stage["x"] + stage["width"] / 2 + 60, stage["y"] + stage["height"] / 2 - 80
    viewer.press("+")
    viewer.page.wait_for_timeout(300)
    assert viewer.get("viewer.zoom") > 1
    viewer.page.mouse.move(x, y)
    for _ in range(25):
        viewer.page.mouse.wheel(0, -300)
    viewer.becomes("viewer.zoom", 96)
    viewer.page.mouse.move(x + 3, y)
    viewer.says("ADU", "under")
    text = viewer.page.locator(".frame-viewer .under").inner_text()
    value, resolution, place, *_ = text.split(" · ")
    panel, _, fs, _, ss = place.split(" ")
    assert resolution.endswith("Å")
    near = viewer.get(f"[float(v) for v in viewer.model.frame(0).data[{ss}-1:{ss}+2, {fs}-1:{fs}+2].ravel()]")
    assert float(value.split()[0]) in near
    assert panel in ("left", "right")
    viewer.draws(lambda colours: colours.get("34,34,34", 0) > 100, "overlay")  # the values, in figures
    viewer.press("0")
    viewer.becomes("viewer.zoom", 0)
    viewer.click("one-to-one")
    viewer.becomes("viewer.zoom", 1)
    viewer.press("Shift+ArrowRight")
    viewer.page.wait_for_timeout(300)
    centre = viewer.get("viewer.centre")
    viewer.page.mouse.move(x, y)
    viewer.page.mouse.down()
    viewer.page.mouse.move(x - 50, y - 30, steps=5)
    viewer.page.mouse.up()
    viewer.page.wait_for_timeout(300)
    assert np.subtract(viewer.get("viewer.centre"), centre) == pytest.approx([50, 30], abs=1.5)
    viewer.click("fit")
    viewer.becomes("viewer.zoom", 0)


def test_tags_and_flags(viewer: Viewer) -> None:
    viewer.press("f")
    viewer.becomes("viewer.tags", ["flag"])
    viewer.press("t")
    viewer.page.keyboard.type("ice")
    viewer.page.keyboard.press("Enter")
    viewer.becomes("viewer.tags", ["flag", "ice"])
    viewer.click("flag")
    viewer.becomes("viewer.tags", ["ice"])
    viewer.page.locator(".frame-viewer .tag").click()
    viewer.becomes("viewer.tags", [])
    viewer.click("add-tag")
    viewer.page.keyboard.press("Escape")
    assert viewer.page.locator(".frame-viewer .tag-input").is_hidden()


def test_help_lists_the_keys(viewer: Viewer) -> None:
    viewer.press("?")
    assert "next, previous hit" in viewer.page.locator(".frame-viewer .help-panel").inner_text()
    viewer.press("Escape")
    assert viewer.page.locator(".frame-viewer .help-panel").is_hidden()
    viewer.click("help")
    assert viewer.page.locator(".frame-viewer .help-panel").is_visible()
    viewer.click("help")


def test_a_picture_for_a_paper_is_saved(viewer: Viewer, tmp_path: Path) -> None:
    viewer.press("s")
    viewer.page.locator(".frame-viewer .save-predictions").check()
    viewer.page.locator(".frame-viewer .save-legend").uncheck()
    viewer.page.locator(".frame-viewer .save-scale").select_option("2")
    with viewer.page.expect_download() as download:
        viewer.click("save-now")
    download.value.save_as(tmp_path / "picture.png")
    picture = Image.open(io.BytesIO((tmp_path / "picture.png").read_bytes()))
    columns, rows = viewer.get("[viewer.model.scene(0)['columns'], viewer.model.scene(0)['rows']]")
    assert picture.size == (2 * columns, 2 * rows)
    viewer.says("saved as")


def test_keys_of_the_notebook_stay_in_the_notebook(viewer: Viewer) -> None:
    cells = viewer.page.locator(".jp-Cell").count()
    # In a notebook these would make new cells and delete one.
    viewer.press("b", "b", "a", "d", "d")
    assert viewer.page.locator(".jp-Cell").count() == cells


def test_a_frame_that_cannot_be_read_is_a_sentence(lab: Any, small_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "broken.cxi"
    copy.write_bytes(Path(small_run.record.inputs[0]).read_bytes())
    cell = f"""
import sfxlab
from sfxlab.widgets import FrameViewer
frames = sfxlab.open_frames({str(copy)!r}, {str(small_run.path / "geometry.geom")!r})
viewer = FrameViewer(frames, sfxlab.Run({str(small_run.path)!r}).recipe)
copy = open({str(copy)!r}, "r+b"); copy.truncate(2000); copy.close()
viewer
"""
    page = lab.open([cell])
    page.wait_for_function("() => document.querySelector('.frame-viewer .message').innerText.length > 20")
    assert "broken.cxi" in page.locator(".frame-viewer .message").inner_text()
    assert page.problems == []


def test_two_viewers_in_two_kernels_follow_each_other(lab: Any, small_run: Run, tmp_path: Path) -> None:
    cell = f"""
import sfxlab
from sfxlab.session import Person, Session
from sfxlab.widgets import FrameViewer
session = Session("beamtime", "sqlite:///{tmp_path / "sessions.sqlite"}", Person("%s", "%s", "%s"))
viewer = FrameViewer(sfxlab.Run({str(small_run.path)!r}), session=session, bits=16)
viewer
"""
    anna = Viewer(lab, lab.open([cell % ("anna", "Anna", "lead")]))
    anna.shows(0)
    anna.draws(lambda colours: len(colours) > 8 and sum(colours.values()) > 200 * 200)
    anna.press("ArrowRight", "f")
    anna.shows(1)
    vera = Viewer(lab, lab.open([cell % ("vera", "Vera", "viewer")]))
    vera.shows(1)  # she joins late
    vera.becomes("viewer.tags", ["flag"])
    anna.page.locator(".frame-viewer .map").select_option("inferno")
    anna.press("ArrowRight")
    vera.shows(2)
    vera.becomes("viewer.contrast['map']", "inferno")
    assert vera.page.locator(".frame-viewer .next").is_disabled()
    vera.press("ArrowRight")
    vera.page.wait_for_timeout(300)
    assert anna.get("viewer.frame") == vera.get("viewer.frame") == 2
    assert "viewer" in vera.get("(viewer.set_trait('frame', 5), viewer.message)[1]")
    assert vera.get("viewer.frame") == 2
