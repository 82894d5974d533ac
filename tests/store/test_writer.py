"""Who may write a run: one at a time, the dead are noticed, and whoever was taken for dead does not write on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sfxlab.errors import RunError, RunInUseError
from sfxlab.progress import Progress
from sfxlab.store import Counts, Run
from sfxlab.store.writer import STALE, begin_writing, last_writer

MakeRun = Callable[..., Run]


def left_by(run: Path, age: float, **changes: Any) -> Path:
    """The file of a writer that gave its last sign of life so many seconds ago."""
    begin_writing(run).close()
    path = max((run / "writers").iterdir())
    content = json.loads(path.read_text()) | {"ended": False} | changes
    path.write_text(json.dumps(content))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_writer_of_another_machine_is_given_up_once_it_gives_no_sign_of_life(tmp_path: Path) -> None:
    left_by(tmp_path, STALE - 20, machine="elsewhere", host="node7", user="anna", pid=41)
    with pytest.raises(RunInUseError, match=r"another process .*\n.*process 41 of anna on node7, since .* 1\d\d s ago"):
        begin_writing(tmp_path)
    left = max((tmp_path / "writers").iterdir())
    os.utime(left, (time.time() - STALE - 20,) * 2)
    with closing(begin_writing(tmp_path)):
        now = last_writer(tmp_path)
        assert now is not None
        assert now.is_this_process
        assert now.is_alive
        assert now.number == 2


def test_a_writer_of_this_machine_is_known_by_its_process_however_old_its_file(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        text = Path(f"/proc/{sleeper.pid}/stat").read_text() if sys.platform == "linux" else pytest.skip("no /proc")
        began = text.rpartition(")")[2].split()[19]
        path = left_by(tmp_path, 10 * STALE, pid=sleeper.pid, began=began)
        with pytest.raises(RunInUseError, match=f"process {sleeper.pid}"):
            begin_writing(tmp_path)
        # Another process that got the same number later is not the writer.
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"began": str(int(began) - 1)}))
        begin_writing(tmp_path).close()
        assert left_by(tmp_path, 0, pid=sleeper.pid, began=began)
    finally:
        sleeper.kill()
        dead = last_writer(tmp_path)  # not waited for yet, so its number is still taken
        sleeper.communicate()
    assert dead is not None
    begin_writing(tmp_path).close()


def test_a_writer_that_does_not_say_who_it_is_yet_is_respected(tmp_path: Path) -> None:
    (tmp_path / "writers").mkdir()
    (tmp_path / "writers" / "writer-000001.json").touch()
    with pytest.raises(RunInUseError):
        begin_writing(tmp_path)


def test_whoever_was_taken_for_dead_writes_no_more(make_run: MakeRun) -> None:
    run = make_run(6, 2)
    asleep, path = begin_writing(run.path), run.path / "writers" / "writer-000001.json"
    asleep._closing.set()
    asleep._news.set()
    asleep._pulse.join()
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"machine": "elsewhere"}))
    os.utime(path, (time.time() - STALE - 1,) * 2)
    with run.writing(), pytest.raises(RunError, match="taken this run over"):
        asleep.tell(Progress(Counts(), 6, 0, 0.0))
    asleep.close()
    assert run.record.status == "interrupted"


def test_those_who_are_attached_see_the_progress_of_the_writer(make_run: MakeRun) -> None:
    run = make_run(6, 2)
    told, seen = Progress(Counts(4, 3, 2, 1, 2), 6, 4, 2.0, "a stage"), []
    with run.writing() as writing:
        writing.tell(told)
        deadline = time.monotonic() + 60
        while (now := Run(run.path).writer) is None or now.progress != told:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        def look(progress: Progress) -> None:
            seen.append(progress)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Run(run.path).attach(look)
    assert seen == [told]
    with pytest.raises(RunError, match=r"6 of 6 frames are missing \(3 of 3 chunks\)"):
        run.attach(None)


def test_nobody_but_one_of_many_gets_the_right_to_write(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from sfxlab.store.writer import begin_writing\n"
        "from sfxlab.errors import RunInUseError\n"
        "print('ready', flush=True); input()\n"
        "try: begin_writing(Path(sys.argv[1])); print('mine', flush=True)\n"
        "except RunInUseError: print('taken', flush=True)\n"
        "input()\n"
    )
    left_by(tmp_path, 2 * STALE, machine="elsewhere")  # all of them find the same dead one
    pipe = subprocess.PIPE
    many = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], stdin=pipe, stdout=pipe, text=True) for _ in range(4)
    ]
    try:
        for process in many:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in many:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = sorted(process.stdout.readline() for process in many if process.stdout)
    finally:
        for process in many:
            process.kill()
            process.communicate()
    assert said == ["mine\n", "taken\n", "taken\n", "taken\n"]
