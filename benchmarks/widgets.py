"""How fast widgets answer: a table of millions of frames, and a merge that follows its cuts.

    python benchmarks/widgets.py [--frames 3000000] [--crystals 2000]

Times are CPU seconds of this process; what travels to the browser is counted as JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sfxlab.widgets.models.frame_table import FrameTable, columns_of
from sfxlab.widgets.models.merging_board import Cuts, MergingBoard, Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3_000_000)
    parser.add_argument("--crystals", type=int, default=2000)
    arguments = parser.parse_args()
    frame_table(arguments.frames)
    merging_board(arguments.crystals)


def frame_table(n: int) -> None:
    """Sort, filter and scroll."""
    frames, crystals = tables(n)
    print(f"{n:,} frames, {len(crystals):,} crystals")
    table = timed("columns from the tables of the run", lambda: FrameTable(columns_of(frames, crystals)))
    for name, descending in (
        ("worst", True),
        ("n_peaks", True),
        ("resolution", False),
        ("reason", False),
        ("event", False),
    ):
        timed(f"sort by {name}", lambda name=name, descending=descending: table.arrange(name, descending))
    for text in (
        "status = hit and n_peaks > 60",
        "reason ~ 'wrong cell'",
        "resolution < 2 or a > 80.2",
        "event = //77777",
    ):
        n_shown = timed(f"filter {text}", lambda text=text: table.arrange("worst", True, text))
        print(f"{'':>44}{n_shown:>10,} shown")
    table.arrange()
    rng = np.random.default_rng(1)
    places = rng.integers(0, n - 100, 200).tolist()
    begun = time.process_time()
    sizes = [len(json.dumps(table.page(place, 100))) for place in places]
    seconds = (time.process_time() - begun) / len(places)
    print(f"{'a page of 100 rows, anywhere':<44}{1000 * seconds:>10.2f} ms {np.mean(sizes) / 1000:>8.1f} kB")


def merging_board(n: int) -> None:
    """Cuts on crystals and what is drawn of the merge."""
    runs = _made_up_runs()
    with tempfile.TemporaryDirectory() as folder:
        run = runs.write_run(Path(folder, "run"), (runs.frame_result(i, (250,), noise=60.0) for i in range(n)))
        board = MergingBoard(run, "4/mmm", polarisation=None)
        print(f"\n{n:,} crystals, {250 * n:,} observations")
        correlation = board.running.crystals["correlation"].to_numpy()
        settings = Settings()
        board.figures(Cuts(), settings)  # compiled
        for share in (0.02, 0.1, 0.5):
            cuts = Cuts(correlation=float(np.nanquantile(correlation, share)))
            timed(f"cut {share:.0%} of the crystals, all figures", lambda cuts=cuts: board.figures(cuts, settings))
        beside = Settings(beside=Cuts(correlation=float(np.nanquantile(correlation, 0.3))))
        board.figures(Cuts(), beside)
        figures = timed("the same with a merge beside", lambda: board.figures(cuts, beside))
        print(f"{'all figures':<44}{len(json.dumps(figures)) / 1000:>10.1f} kB")


def tables(n: int) -> tuple[pa.Table, pa.Table]:
    """Made-up tables of frames and crystals of a run."""
    rng = np.random.default_rng(0)
    status = rng.choice(["blank", "hit", "indexed", "failed"], n, p=[0.6, 0.15, 0.24, 0.01])
    reasons = np.array([f"{kind}: only {share} %" for kind in ("wrong cell", "no lattice") for share in range(100)])
    frames = pa.table({
        "frame": np.arange(n), "status": status, "n_peaks": rng.poisson(60, n).astype(np.int32),
        "n_crystals": (status == "indexed").astype(np.int32),
        "peak_resolution": rng.uniform(0.2, 0.6, n).astype(np.float32), "ice_spots": rng.exponential(1, n),
        "ice_rings": rng.exponential(1, n),
        "reason": np.where(status == "hit", rng.choice(reasons, n), ""), "photon_energy": rng.normal(9500, 10, n),
        "event": pa.array([f"//{i}" for i in range(n)]), "path": pa.array(["/data/run1.cxi"] * n),
    })  # fmt: skip
    of_frame = np.flatnonzero(status == "indexed")
    m = len(of_frame)
    crystals = {
        "frame": of_frame, **{name: rng.normal(80, 0.2, m) for name in ("a", "b", "c", "alpha", "beta", "gamma")},
        "n_peaks": rng.integers(10, 50, m), "n_reflections": rng.integers(100, 900, m),
        "log10_p": rng.normal(-30, 5, m),
    }  # fmt: skip
    return frames, pa.table(crystals)


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do it, and say how long it took."""
    begun = time.process_time()
    made = work()
    print(f"{what:<44}{1000 * (time.process_time() - begun):>10.0f} ms")
    return made


def _made_up_runs() -> Any:
    path = Path(__file__).parents[1] / "tests" / "mockdata" / "made_up_runs.py"
    spec = importlib.util.spec_from_file_location("made_up_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made_up_runs"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
