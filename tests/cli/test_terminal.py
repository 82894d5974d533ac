"""Commands as processes of their own: pipes, Ctrl-C, resuming."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import Result

from sfxlab.store import SCHEMAS, Run

SFXLAB = str(Path(sys.executable).with_name("sfxlab"))


def rows_of(run: Run) -> list[str]:
    """All that two runs of the same frames have in common; representations, because NaN differs from NaN.

    Radial averages are sums over chunks, and chunks may be others.
    """
    tables = [run.table(name).to_pylist() for name in SCHEMAS if name not in ("timings", "radial")]
    return [repr(row) for table in tables for row in table]


def wait_for(condition: Callable[[], bool], victim: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert victim.poll() is None, "the command ended before it could be interrupted"
        time.sleep(0.02)


def interrupted(victim: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Output and errors of a command after Ctrl-C, which a terminal sends to all its processes."""
    os.killpg(victim.pid, signal.SIGINT)
    output, errors = victim.communicate(timeout=60)
    assert victim.returncode == 1
    return output.decode(), errors.decode()


@pytest.fixture
def process(example: Path, tmp_path: Path) -> tuple[object, ...]:
    """Processes the 16 frames of the example four times over, with two workers, into `tmp_path / "run"`."""
    listing = tmp_path / "many.lst"
    listing.write_text(f"{example / 'frames.cxi'}\n" * 4)
    return (
        *("process", listing, "-g", example / "frames.geom", "-p", example / "frames.cell", "-o", tmp_path / "run"),
        *("--chunk-size", "2", "--workers", "2"),
    )


def test_ctrl_c_leaves_a_run_that_resumes_as_if_undisturbed(
    process: tuple[object, ...], sfxlab: Callable[..., Result], tmp_path: Path
) -> None:
    run, pipe = tmp_path / "run", subprocess.PIPE
    victim = subprocess.Popen((SFXLAB, *map(str, process)), stdout=pipe, stderr=pipe, start_new_session=True)
    wait_for(lambda: any(run.glob("frames/part-*.parquet")), victim)
    output, errors = interrupted(victim)
    assert output == ""
    missing = r"\d+ of 64 frames are missing \(\d+ of 32 chunks\)"
    message = rf"Error: interrupted; {missing} in {run}: go on with the same command and --resume\n"
    assert re.fullmatch(message, errors)
    assert Run(run).record.status == "interrupted"
    assert 2 <= len(Run(run).frames) < 64

    assert sfxlab(*process[:-1], "0", "--resume").exit_code == 0
    assert Run(run).is_finished
    undisturbed = (*process[:-5], tmp_path / "undisturbed", *process[-4:-1], "0")
    assert sfxlab(*undisturbed).exit_code == 0
    assert rows_of(Run(run)) == rows_of(Run(tmp_path / "undisturbed"))


def test_ctrl_c_while_workers_start_shows_no_traceback_of_theirs(process: tuple[object, ...]) -> None:
    pipe = subprocess.PIPE
    victim = subprocess.Popen((SFXLAB, *map(str, process)), stdout=pipe, stderr=pipe, start_new_session=True)
    main = psutil.Process(victim.pid)
    wait_for(lambda: sum(child.cpu_times().user for child in main.children()) > 0.2, victim)
    output, errors = interrupted(victim)
    assert (output, errors.strip()) == ("", "Aborted!")


def test_a_reader_that_leaves_early_is_no_error_to_be_seen(example: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen((SFXLAB, "stats", example / "merged.mtz"), stdout=pipe, stderr=pipe) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""


def test_letters_that_an_encoding_does_not_have_are_escaped(example: Path) -> None:
    result = subprocess.run(
        (SFXLAB, "stats", example / "merged.mtz"), env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True, check=True,
    )  # fmt: skip
    assert b"I/\\u03c3" in result.stdout


def test_the_same_command_elsewhere_attaches_and_shows_the_run_when_it_is_done(
    process: tuple[object, ...], sfxlab: Callable[..., Result], tmp_path: Path
) -> None:
    pipe = subprocess.PIPE
    first = subprocess.Popen((SFXLAB, *map(str, process)), stdout=pipe, stderr=pipe, text=True)
    wait_for(lambda: any((tmp_path / "run").glob("frames/part-*.parquet")), first)
    second = sfxlab(*process)
    output, errors = first.communicate(timeout=120)
    assert (first.returncode, second.exit_code, errors) == (0, 0, "")
    assert f"being written by process {first.pid} of " in second.stderr
    assert second.stdout == output
    assert "64 of 64" in output
