"""Two who start the same run, a writer that dies, a disk that is full: nothing that was computed is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfxlab.errors import RunError
from sfxlab.frames import FrameSource
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.store import Run

MakeFrames = Callable[..., FrameSource]
Start = Callable[..., subprocess.Popen[str]]
Content = Callable[[Run], dict[str, Any]]
WaitFor = Callable[[Callable[[], object], str], None]


def _parts(path: Path) -> int:
    return len(list(path.glob("frames/part-*.parquet")))


def test_of_two_who_start_the_same_run_one_writes_and_the_other_attaches(
    make_frames: MakeFrames, recipe: Recipe, content: Content, start: Start, tmp_path: Path
) -> None:
    frames, output = make_frames(40, seconds=0.05), tmp_path / "run"
    both = [start(frames, recipe, output=output, chunk_size=2) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [out.splitlines()[-1] for out, _ in said] == ["finished", "finished"]
    attached = [process for process, (_, errors) in zip(both, said, strict=True) if "being written by" in errors]
    (writer,) = set(both) - set(attached)
    assert len(attached) == 1
    assert f"being written by process {writer.pid} of " in said[both.index(attached[0])][1]
    assert len(said[both.index(attached[0])][0].splitlines()) > 2  # the progress of the other
    assert len(list((output / "writers").iterdir())) == 1
    assert content(Run(output)) == content(
        process(make_frames(40), recipe, output=tmp_path / "undisturbed", chunk_size=2)
    )


def test_whoever_is_attached_learns_that_the_writer_died_or_takes_its_place(
    make_frames: MakeFrames, recipe: Recipe, content: Content, start: Start, wait_for: WaitFor, tmp_path: Path
) -> None:
    frames, output = make_frames(80, seconds=0.05), tmp_path / "run"
    writer = start(frames, recipe, output=output, chunk_size=2)
    wait_for(lambda: _parts(output) > 0, "first chunk")
    heir = start(frames, recipe, output=output, resume=True)
    assert heir.stdout is not None
    heir.stdout.readline()  # it is attached
    seen: list[Progress] = []

    def kill(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            heir.send_signal(signal.SIGSTOP)  # so that nobody writes when this process looks

    with pytest.raises(RunError, match=rf"of 80 frames are missing .* process {writer.pid} of ") as caught:
        Run(output).attach(kill, interval=0.1)
    heir.send_signal(signal.SIGCONT)
    assert caught.value.remedy == "continue it with --resume"
    assert 0 < seen[1].done.frames < 80
    done = _parts(output)

    out, errors = heir.communicate(timeout=120)
    assert (heir.returncode, out.splitlines()[-1]) == (0, "finished"), errors
    assert 0 < done < 40
    assert len(Run(output).record.resumed) == 1
    assert content(Run(output)) == content(
        process(make_frames(80), recipe, output=tmp_path / "undisturbed", chunk_size=2)
    )


def test_a_process_killed_while_it_joins_projections_loses_none(
    make_frames: MakeFrames, recipe: Recipe, content: Content, start: Start, tmp_path: Path
) -> None:
    frames, output = make_frames(12), tmp_path / "run"

    def interrupt(progress: Progress) -> None:
        if progress.done.frames >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process(frames, recipe, output=output, chunk_size=2, progress=interrupt)
    for death in (
        # as the joined file is about to be put in place, and before the files that it is of are gone
        "projection._write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        "Path.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)",
    ):
        first = f"import os, signal\nfrom sfxlab.store import projection, run, under_way\n{death}"
        victim = start(
            frames, recipe, first.replace("Path.unlink", "projection.Path.unlink"), output=output, resume=True
        )
        victim.communicate(timeout=120)
        assert victim.returncode == -signal.SIGKILL
    resumed = process(frames, recipe, output=output, resume=True)
    assert content(resumed) == content(process(frames, recipe, output=tmp_path / "undisturbed", chunk_size=2))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.getuid() or mount is None:
        pytest.skip("only root can mount a small file system")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(
    make_frames: MakeFrames, recipe: Recipe, content: Content, small_disk: Path, tmp_path: Path
) -> None:
    frames, output = make_frames(60), small_disk / "run"
    with pytest.raises(RunError, match="No space left on device") as caught:
        process(frames, recipe, output=output, chunk_size=1)
    assert "free space" in str(caught.value.remedy)
    run = Run(output)
    assert run.writer is None
    done = len(run.frames)
    assert 0 < done < 60
    assert run.missing() == f"{60 - done} of 60 frames are missing ({60 - done} of 60 chunks)"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    resumed = process(frames, recipe, output=output, resume=True)
    assert content(resumed) == content(process(frames, recipe, output=tmp_path / "undisturbed", chunk_size=1))
