"""How long it takes from what one person does until another one sees it, from click to paint, in Chromium.

    python benchmarks/together.py [POSTGRESQL ADDRESS] [--megapixels 4] [--times 30]

Two people look at one run, in a JupyterLab on the loopback interface: with a kernel each in one session, which is in an
SQLite file, behind a session service, or in PostgreSQL where an address is given; and on one shared notebook. Times are
in ms, and end when the second one has what the first one did on the screen. They tell something on a quiet machine
only.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from session import service  # beside this file
from viewer import lab_module, simulated

CELL = """
import os
os.environ["SFXLAB_TOKEN"] = {token!r}
import sfxlab
from sfxlab.widgets import FrameViewer
session = sfxlab.Session("p1/{name}", {catalogue!r})
viewer = FrameViewer(sfxlab.Run({run!r}), session=session)
viewer
"""

# In the page of the second one, and what the first one does; `N` counts.
DEEDS = {
    "next frame": (
        "document.querySelector('.frame-viewer').dataset.frame === String(1 + N % 5)",
        "const number = document.querySelector('.frame-viewer .number'); number.value = 1 + N % 5;"
        " number.dispatchEvent(new Event('change'))",
    ),
    "colour map": (
        "document.querySelector('.frame-viewer .map').selectedIndex === (1 + N) % 5",
        "const map = document.querySelector('.frame-viewer .map'); map.selectedIndex = (1 + N) % 5;"
        " map.dispatchEvent(new Event('change'))",
    ),
    "tag": (
        "document.querySelectorAll('.frame-viewer .tag').length === (N + 1) % 2",
        "document.querySelector('.frame-viewer .flag').click()",
    ),
}  # fmt: skip
NOW = "performance.timeOrigin + performance.now()"
WAIT = f"""([seen, n]) => {{
  const isSeen = new Function("N", "return " + seen);
  window.seenAt = new Promise(resolve => {{
    const look = () => isSeen(n) ? setTimeout(() => resolve({NOW})) : requestAnimationFrame(look);
    requestAnimationFrame(look);
  }});
}}"""
ACT = f"([act, n]) => {{ const began = {NOW}; new Function('N', act)(n); return began; }}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("postgresql", nargs="?", help="address of an empty PostgreSQL database")
    parser.add_argument("--megapixels", type=int, default=4)
    parser.add_argument("--times", type=int, default=30)
    options = parser.parse_args()
    table = Table("way", "what the first one does", "median", "95 %", "max", box=None)
    lab = lab_module()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        run = simulated(options.megapixels, folder)
        server = lab.LabServer(folder / "lab", collaborative=True)
        stack.callback(server.stop)
        browser = stack.enter_context(lab.browser())
        for way, catalogue in ways(folder, options.postgresql, stack):
            opened = lab.Lab(server, browser, f"together-{len(table.rows)}")
            cell = CELL.format(
                token=os.environ.get("SFXLAB_TOKEN", ""), catalogue=catalogue, run=str(run), name=secrets.token_hex(3)
            )
            first = opened.open([cell])
            second = opened.join(notebook_of(first)) if "shared" in way else opened.open([cell])
            for page in (first, second):
                page.wait_for_selector(".frame-viewer[data-marks]", timeout=300_000)
            for deed in DEEDS:
                taken = sorted(measured(first, second, deed, n) for n in range(options.times))
                figures = (statistics.median(taken), taken[int(0.95 * len(taken))], taken[-1])
                table.add_row(way, deed, *(f"{value:.0f}" for value in figures))
            opened.close()
        console = Console(width=110)
        console.print(f"{options.megapixels} Mpx, {options.times} times each, in ms")
        console.print(table)
        console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def ways(folder: Path, postgresql: str | None, stack: ExitStack) -> Iterator[tuple[str, str]]:
    """Ways from one person to another, each with the catalogue."""
    yield "kernels, SQLite", f"sqlite:///{folder}/direct.sqlite"
    yield "kernels, service over SQLite", stack.enter_context(service(f"sqlite:///{folder}/served.sqlite", folder))
    if postgresql:
        yield "kernels, PostgreSQL", postgresql
    yield "one shared notebook, SQLite", f"sqlite:///{folder}/shared.sqlite"


def measured(first: Any, second: Any, deed: str, n: int) -> float:
    """Milliseconds until the second page shows what was done in the first one."""
    seen, act = DEEDS[deed]
    second.evaluate(WAIT, [seen, n])
    began = first.evaluate(ACT, [act, n])
    shown: float = second.evaluate("() => window.seenAt")
    first.wait_for_timeout(300)
    return shown - began


def notebook_of(page: Any) -> str:
    """The name of the notebook on a page."""
    name: str = page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path.split(':').at(-1)")
    return name


if __name__ == "__main__":
    main()
