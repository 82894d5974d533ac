"""The run monitor: a run as it grows, whoever writes it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfxlab.pipeline import FrameResult
from sfxlab.session import Person, Session
from sfxlab.store import Run
from sfxlab.store.monitor import RunMonitor as StoreMonitor
from sfxlab.widgets.models.run_monitor import WatchedRun
from sfxlab.widgets.run_monitor import RunMonitor


@pytest.fixture
def result(make_result: Callable[..., FrameResult]) -> Callable[[int], FrameResult]:
    """Frames of which some are blank, one in ten fails, and one in five is a hit without a lattice."""

    def make(index: int) -> FrameResult:
        if index % 10 == 0:
            return make_result(index, (), status="failed", reason=f"FrameError: chunk {index} is damaged")
        if index % 5 == 1:
            return make_result(index, (), status="hit", reason="no lattice: the best one explains 17 of 80 peaks")
        return make_result(index, (7,) if index % 2 else ())

    return make


def test_what_is_seen_grows_with_the_run(make_run: Callable[..., Run], result: Callable[[int], FrameResult]) -> None:
    run = make_run(100, 20)
    watched = WatchedRun(run)
    assert watched.look()["counts"]["frames"] == 0
    assert watched.picture("peaks") is None
    pictures = []
    with run.writing() as writing:
        for chunk in range(5):
            run.write_chunk(chunk, [result(i) for i in range(20 * chunk, 20 * chunk + 20)])
            seen = watched.look()
            assert seen["counts"]["frames"] == 20 * (chunk + 1)
            assert seen["status"] == "running"
            assert str(run.writer).split(",")[0] in seen["writer"]
            pictures.append(watched.picture("peaks"))
        assert watched.look()["version"] == seen["version"]  # nothing new
        assert writing is not None
    assert watched.look()["status"] == "finished"
    assert len(set(pictures)) == 5
    assert Image.open(io.BytesIO(pictures[-1] or b"")).width == 700
    assert watched.picture("maximum") is None  # no pixels were seen
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen


def test_rates_and_reasons_are_those_of_the_run(
    make_run: Callable[..., Run], result: Callable[[int], FrameResult]
) -> None:
    run = make_run(100, 20)
    with run.writing():
        for chunk in range(5):
            run.write_chunk(chunk, [result(i) for i in range(20 * chunk, 20 * chunk + 20)])
    watched = WatchedRun(run)
    seen, rates = watched.look(), run.hit_rate(10)
    assert seen["rates"]["hit"] == pytest.approx(rates.rate, rel=1e-3)
    assert seen["rates"]["hit_low"] == pytest.approx(rates.band[0], rel=1e-3)
    assert dict(map(tuple, seen["reasons"])) == run.reasons()
    for reason, n in run.reasons().items():
        frames = watched.frames_because(reason)
        assert len(frames) == n
        assert all(frame % 10 == 0 for frame in frames) or all(frame % 5 == 1 for frame in frames)
    assert seen["counts"]["failed"] == 10


def test_speed_along_time_counts_every_frame_after_the_first_chunk(
    make_run: Callable[..., Run], result: Callable[[int], FrameResult]
) -> None:
    run = make_run(100, 20)
    with run.writing():
        for chunk in range(5):
            run.write_chunk(chunk, [result(i) for i in range(20 * chunk, 20 * chunk + 20)])
    monitor = StoreMonitor(run)
    monitor.update()
    found = monitor.throughput(windows=3)
    assert found.frames.sum() == 80
    assert (found.frames_per_second * np.diff(found.edges)).sum() == pytest.approx(80)
    assert found.hits.sum() >= found.indexed.sum() > 0


def test_a_run_that_somebody_started_is_found_by_the_session(
    make_run: Callable[..., Run],
    result: Callable[[int], FrameResult],
    tmp_path: Path,
    until: Callable[[Callable[[], bool]], None],
) -> None:
    runs = [make_run(20, 20, name) for name in ("one", "two")]
    with runs[1].writing():
        runs[1].write_chunk(0, [result(i) for i in range(20)])
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("beamtime", catalogue, "anna") as anna, Session("beamtime", catalogue, "ben") as ben:
        monitor = RunMonitor(session=ben)
        assert "No run" in monitor.message
        anna.set("view.run", str(runs[0].path))
        until(lambda: monitor.seen.get("path") == str(runs[0].path))
        assert monitor.message == ""
        anna.set("view.run", str(runs[1].path))
        until(lambda: monitor.seen.get("path") == str(runs[1].path))
        assert monitor.seen["counts"]["frames"] == 20
        reason = next(iter(runs[1].reasons()))
        monitor.select_because(reason)
        until(lambda: (anna.get("selection") or {}).get("why") == reason)
        assert anna.get("selection")["items"] == WatchedRun(runs[1]).frames_because(reason)  # type: ignore[index, call-overload]
        monitor.figure()
        anna.set("view.run", str(tmp_path / "nothing"))
        until(lambda: "nothing" in monitor.message)
        monitor.close()


def test_a_viewer_watches_and_selects_nothing(
    make_run: Callable[..., Run], result: Callable[[int], FrameResult], tmp_path: Path
) -> None:
    run = make_run(20, 20)
    with run.writing():
        run.write_chunk(0, [result(i) for i in range(20)])
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with (
        Session("beamtime", catalogue, "anna") as anna,
        Session("beamtime", catalogue, Person("vera", "Vera V.", "viewer")) as vera,
    ):
        anna.set("view.run", str(run.path))
        anna.set("selection", {"kind": "frame", "items": [3], "why": "chosen in the table"})
        monitor = RunMonitor(session=vera)
        assert monitor.disabled
        assert monitor.seen["counts"]["frames"] == 20
        monitor.select_because(next(iter(run.reasons())))
        assert "vera, viewer" in monitor.message
        assert monitor.selection["items"] == [3]
        monitor.message = ""
        asyncio.run(monitor._select(next(iter(run.reasons()))))  # as a page that goes past its controls asks
        assert anna.get("selection") == {"kind": "frame", "items": [3], "why": "chosen in the table"}
        monitor.close()
