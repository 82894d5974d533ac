"""Notes of frames that are under way: what they say to whoever tries next when a worker has died."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from sfxlab.store.under_way import UnderWay, forget_notes

_VICTIM = """
import ctypes, os, signal, sys
from pathlib import Path
from sfxlab.store.under_way import UnderWay

with UnderWay(Path(sys.argv[1]), "chunk-000000", 0.2, alone=sys.argv[2] == "alone") as notes:
    for frame in (0, 1, 2):
        with notes.at(frame):
            if frame == 1:
                exec(sys.argv[3])
"""
_KILL = "os.kill(os.getpid(), signal.SIGKILL)"
_HANG = "ctypes.PyDLL(None).sleep(600)"


def dies(run: Path, how: str, alone: str = "alone") -> None:
    ended = subprocess.run([sys.executable, "-c", _VICTIM, run, alone, how], timeout=120, capture_output=True)
    assert ended.returncode, ended.stderr


def notes(run: Path) -> UnderWay:
    return UnderWay(run, "chunk-000000", 0.2, alone=True)


def test_a_frame_is_given_up_after_three_deaths_or_two_hangs(tmp_path: Path) -> None:
    for run, deaths, reason in (
        (tmp_path / "killed", (_KILL, _KILL, _KILL), "KilledWorker: the worker process died 3 times on this frame"),
        (tmp_path / "hung", (_HANG, _KILL, _HANG), "TimeLimit: it took more than 0.2 s, 2 times"),
    ):
        run.mkdir()
        for how in deaths:
            with UnderWay(run, "chunk-000001", 0.2, alone=True) as other:
                assert other.suspects == ()
            now = notes(run)
            if (run / "under_way" / "chunk-000000").exists():
                now._read((run / "under_way" / "chunk-000000").read_bytes())
                assert now.suspects == (1,)
            assert now.verdict(1) is None
            dies(run, how)
        with notes(run) as now:
            assert now.suspects == (1,)
            assert now.verdict(1) == reason
            assert now.verdict(0) is now.verdict(2) is None
        with notes(run) as later:
            assert later.verdict(1) == reason  # what was said is said again


def test_a_frame_that_had_others_beside_it_is_suspected_and_not_blamed(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "under_way").mkdir(exist_ok=True)
        with open(tmp_path / "under_way" / "chunk-000000", "a") as file:
            file.write("abc beside 0\nabc beside 1\n" * 3)
    dies(tmp_path, _KILL, "beside")  # alone nevertheless, because it is a suspect
    with notes(tmp_path) as now:
        assert now.suspects == (1,)
        assert now.verdict(1) is None
        assert now._deaths[1] == 1


def test_a_suspect_is_alone_in_its_process(tmp_path: Path) -> None:
    order: list[str] = []
    dies(tmp_path, _KILL)

    def other() -> None:
        with UnderWay(tmp_path, "chunk-000001", 60, alone=False) as mine:
            for frame in range(50):
                with mine.at(frame):
                    order.append("in")
                    time.sleep(0.002)
                    order.append("out")

    beside = threading.Thread(target=other)
    beside.start()
    with UnderWay(tmp_path, "chunk-000000", 60, alone=False) as now:
        for _ in range(5):
            with now.at(1):
                assert order.count("in") == order.count("out")
                time.sleep(0.01)
                assert order.count("in") == order.count("out")
    beside.join()
    assert len(order) == 100


def test_notes_go_with_the_task_and_with_the_session(tmp_path: Path) -> None:
    with notes(tmp_path) as now, now.at(0):
        assert list((tmp_path / "under_way").iterdir())
    assert not list((tmp_path / "under_way").iterdir())
    dies(tmp_path, _KILL)
    forget_notes(tmp_path)
    with notes(tmp_path) as now:
        assert now.suspects == ()
