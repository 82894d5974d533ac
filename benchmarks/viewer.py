"""How fast the frame viewer and the live parameters answer, from the click to the paint, in Chromium.

    python benchmarks/viewer.py [RUN …] [--sizes 4 16]

Opens a notebook in a JupyterLab of its own on the loopback interface and prints, for each run (or for simulated frames
of so many megapixels): the time from the widget's drawing to its first picture; from a click to the paint of the next
frame, of one far away, and of another part; to other colours; and from a slider's move to the peaks and lattices that
it gives. Times are medians in ms, measured in the page. They tell something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

CELLS = """
import sfxlab
from sfxlab.widgets import FrameViewer, LiveParameters
viewer = FrameViewer({source}, bits={bits})
live = LiveParameters(viewer)
live.beside()
"""

TIMED = """async (act, event) => {
  const root = document.querySelector(".frame-viewer"), began = performance.now();
  const done = new Promise(resolve => root.addEventListener(event, resolve, {once: true}));
  act();
  await done;
  const taken = performance.now() - began;
  await new Promise(resolve => setTimeout(resolve, 400));
  return taken;
}"""

CLICK = f"""async ([selector, times]) => {{
  const taken = [];
  for (let i = 0; i < times; i++)
    taken.push(await ({TIMED})(() => document.querySelector(selector).click(), "sfxlab-painted"));
  return taken;
}}"""

JUMP = f"""async frames => {{
  const number = document.querySelector(".frame-viewer .number"), taken = [];
  for (const frame of frames) {{
    number.value = frame;
    taken.push(await ({TIMED})(() => number.dispatchEvent(new Event("change")), "sfxlab-painted"));
  }}
  return taken;
}}"""

SLIDE = f"""async values => {{
  const slider = document.querySelector('.parameter[data-name="peaks.min_snr"] input[type=range]'), taken = [];
  for (const value of values) {{
    slider.value = value;
    taken.push(await ({TIMED})(() => slider.dispatchEvent(new Event("input")), "sfxlab-marks"));
  }}
  return taken;
}}"""

CPU = "__import__('time').process_time()"

PAINT = """() => {
  const map = document.querySelector(".frame-viewer .map"), began = performance.now();
  map.selectedIndex = (map.selectedIndex + 1) % 7;
  map.dispatchEvent(new Event("change"));
  return performance.now() - began;
}"""

FIRST = """() => performance.getEntriesByName("sfxlab-first-picture").map(entry => entry.duration)"""


def lab_module() -> ModuleType:
    """The browser of the tests."""
    path = Path(__file__).parents[1] / "tests" / "browser" / "lab.py"
    spec = importlib.util.spec_from_file_location("browser_lab", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["browser_lab"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def simulated(megapixels: int, folder: Path) -> Path:
    """A run of a few frames of a detector of four panels."""
    from sfxlab.crystal import read_cell
    from sfxlab.frames import open_frames
    from sfxlab.processing import process
    from sfxlab.recipe import Recipe
    from sfxlab.simulation import simulate

    side = int((megapixels * 1e6 / 4) ** 0.5)
    step = 0.16 / (2 * side)
    lines = ["photon_energy = 9500 eV", "clen = 0.11", f"res = {1 / step}", "adu_per_photon = 1"]
    lines += ["data = /entry_1/data_1/data", "dim0 = %", "dim1 = ss", "dim2 = fs"]
    for i in range(4):
        x, y = (i % 2) * (side + 8) - side - 4, side + 4 - (i // 2) * (side + 8)
        lines += [f"p{i}/min_fs = {(i % 2) * side}", f"p{i}/max_fs = {(i % 2 + 1) * side - 1}"]
        lines += [f"p{i}/min_ss = {(i // 2) * side}", f"p{i}/max_ss = {(i // 2 + 1) * side - 1}"]
        lines += [f"p{i}/corner_x = {x}", f"p{i}/corner_y = {y}", f"p{i}/fs = x", f"p{i}/ss = -y"]
    geometry = folder / f"{megapixels}M.geom"
    geometry.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = simulate(folder / f"{megapixels}M", frames=10, detector=geometry, kinds={"single": 1.0})
    recipe = Recipe().with_cell(read_cell(data.cell))
    return process(open_frames(data.frames, data.geometry), recipe, output=folder / f"run-{megapixels}M").path


def measure(lab: Any, run: Path, bits: int) -> None:
    """Print what one run's frames take."""
    page = lab.open([CELLS.format(source=f"sfxlab.Run({str(run)!r})", bits=bits)])
    page.wait_for_selector(".frame-viewer[data-marks]", timeout=300_000)
    page.wait_for_timeout(1500)
    shape = lab.kernel(page, "list(viewer.model.frame(0).data.shape)")
    print(f"{run}: {shape[0]} × {shape[1]} pixels, {bits} bits, load {os.getloadavg()[0]:.1f}")

    def tell(what: str, taken: list[float]) -> None:
        print(f"  {what:<44} {statistics.median(taken):7.0f}   ({min(taken):.0f} to {max(taken):.0f})")

    tell("first picture", page.evaluate(FIRST))
    cpu = lab.kernel(page, CPU)
    tell("next frame, read ahead", page.evaluate(CLICK, [".next", 5]))
    print(f"    of these, CPU time of the kernel with reading ahead: {1e3 * (lab.kernel(page, CPU) - cpu) / 5:.0f}")
    lab.kernel(page, "viewer.set_trait('frame', 0)")
    page.wait_for_timeout(1500)
    tell("a frame far away, not read ahead", page.evaluate(JUMP, [7, 1, 9, 3]))
    tell("1:1", page.evaluate(CLICK, [".one-to-one", 1]))
    tell("whole picture", page.evaluate(CLICK, [".fit", 1]))
    tell("other colours, without the kernel", [page.evaluate(PAINT) for _ in range(5)])
    tell("new peaks and lattices for a slider", page.evaluate(SLIDE, [5.5, 6, 6.5, 7, 8]))
    seconds = lab.kernel(page, "live.outcome['seconds']")
    print(f"    of these, in the kernel: {', '.join(f'{step} {1e3 * s:.0f}' for step, s in seconds.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument(
        "--sizes", nargs="*", type=int, default=[4], help="megapixels to simulate where no run is given"
    )
    parser.add_argument("--bits", type=int, default=8)
    given = parser.parse_args()
    lab = lab_module()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [run.absolute() for run in given.runs] or [simulated(size, folder) for size in given.sizes]
        server = lab.LabServer(folder / "lab")
        try:
            with lab.browser() as browser:
                for run in runs:
                    opened = lab.Lab(server, browser)
                    measure(opened, run, given.bits)
                    opened.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
