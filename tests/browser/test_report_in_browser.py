"""The HTML report of a run as a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sfxlab.crystal import read_cell
from sfxlab.frames import open_frames
from sfxlab.merging import merge
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.report import write_report
from sfxlab.simulation import simulate
from sfxlab.store import Run

pytestmark = pytest.mark.browser

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,4000",
)  # fmt: skip

COLLECT_ERRORS = """<script>
window.problems = [];
window.addEventListener("error", event => window.problems.push(event.message || event.target.tagName), true);
for (const kind of ["error", "warn"]) console[kind] = (...words) => window.problems.push(words.join(" "));
</script>"""

# Bokeh draws on canvases within shadow trees, which a dumped DOM leaves out; so the page itself looks into them.
LOOK = """<script>
function canvases(root) {
  const inner = [...root.querySelectorAll("*")].filter(element => element.shadowRoot);
  return [...root.querySelectorAll("canvas"), ...inner.flatMap(element => canvases(element.shadowRoot))];
}
function coloured(canvas) {
  if (!canvas.width || !canvas.height) return 0;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [red, green, blue, opacity] = pixels.subarray(i, i + 4);
    if (opacity > 0 && Math.max(red, green, blue) - Math.min(red, green, blue) > 50) count++;
  }
  return count;
}
window.addEventListener("load", () => setTimeout(() => {
  const charts = [...document.querySelectorAll("[data-root-id]")];
  const seen = {
    text: document.body.innerText,
    problems: window.problems,
    pictures: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
    charts: charts.map(chart => Math.max(0, ...canvases(chart).map(coloured))),
    requests: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^data:/.test(name)),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  const answer = document.createElement("pre");
  answer.id = "seen";
  answer.textContent = JSON.stringify(seen);
  document.body.replaceChildren(answer);
}, 3000));
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser; tests that need it are skipped where it is absent."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium in PATH; make system-deps installs it on Debian")
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run of simulated frames."""
    folder = tmp_path_factory.mktemp("run")
    data = simulate(folder / "data", frames=12, kinds={"single": 0.75, "blank": 0.25})
    recipe = Recipe().with_cell(read_cell(data.cell))
    return process(open_frames(data.frames, data.geometry), recipe, output=folder / "run", progress=None)


@pytest.fixture(scope="module")
def seen(chromium: str, run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is on the page of that run and its merged data, three seconds after it is loaded."""
    folder = tmp_path_factory.mktemp("page")
    page = write_report(run, folder / "report.html", merge(run, "4/mmm")).read_text(encoding="utf-8")
    assert page.count("<head>") == page.count("</body>") == 1
    page = page.replace("<head>", "<head>" + COLLECT_ERRORS).replace("</body>", LOOK + "</body>")
    (folder / "seen.html").write_text(page, encoding="utf-8")
    return look_at(chromium, folder / "seen.html")


def look_at(chromium: str, page: Path) -> dict[str, Any]:
    """Load a page with `LOOK` in it."""
    command = [
        chromium, *SWITCHES, f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=10000", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    answer = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer is not None, f"the page did not load: {done.stderr[-2000:]}"
    seen: dict[str, Any] = json.loads(html.unescape(answer[1]))
    return seen


def test_the_headline_shows_what_became_of_the_frames(seen: dict[str, Any], run: Run) -> None:
    counts = run.counts
    for name, value in (("frames", counts.frames), ("hits", counts.hits), ("indexed", counts.indexed)):
        assert re.search(rf"^{name}\s+{value}$", seen["text"], re.MULTILINE), name
    assert f"{counts.indexing_rate:.1%} of hits" in seen["text"]


def test_every_chart_is_drawn(seen: dict[str, Any]) -> None:
    # Rates, a, c, peaks by resolution, and the merged data by shells.
    assert len(seen["charts"]) >= 5
    assert min(seen["charts"]) > 500  # pixels in colour, which axes and their labels are not


def test_every_picture_is_shown(seen: dict[str, Any]) -> None:
    assert len(seen["pictures"]) >= 3
    assert min(seen["pictures"]) >= 500


def test_the_page_reports_no_errors_and_asks_the_network_for_nothing(seen: dict[str, Any]) -> None:
    assert seen["problems"] == []
    assert seen["requests"] == []


def test_the_page_fits_the_window(seen: dict[str, Any]) -> None:
    assert seen["overflow"] <= 0
