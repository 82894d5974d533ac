"""A program run in a directory of its own, under limits, and ended as a whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_LAUNCHER = Path(__file__).with_name("launcher.py")
_KEPT = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HDF5_PLUGIN_PATH", "LIBTBX_BUILD", "CONDA_PREFIX",
    "CCP4", "CCP4_LIB", "CLIB", "CLIBD", "CINCL", "SYMINFO", "MOSFLM_WISH", "XDS_PATH",
)  # fmt: skip
"""What programs need of the environment: where they and their libraries are, and CCP4's own."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LAST_WORDS = 300


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    problem: str
    """What went wrong, with the program's last words; empty where nothing did."""
    late: bool
    """Whether it was ended because its time was up."""
    words: str
    """All that it wrote to its standard output and error."""


@contextmanager
def sandbox() -> Iterator[Path]:
    """A directory for one call of a program, which goes with all that is in it."""
    # Files of a program that is being ended may come and go while they are removed.
    with TemporaryDirectory(prefix="sfxlab-", ignore_cleanup_errors=True) as folder:
        work = Path(folder, "work")
        work.mkdir()
        yield work


def run(command: Sequence[str], work: Path, seconds: float, memory: float) -> Ended:
    """Run a command in the directory `work` of a sandbox for `seconds` at most, each process within `memory` GB.

    Whatever it starts is ended with it, also where this call is interrupted.
    """
    ended, words = work.with_name("ended.json"), work.with_name("words.txt")
    ended.unlink(missing_ok=True)
    limits = [str(ended), repr(float(seconds)), str(int(memory * 1e9))]
    with open(words, "wb") as output:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER), *limits, *command],
            cwd=work, env=_environment(work), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            launcher.wait()
        except BaseException:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            raise
    said = words.read_text(encoding="utf-8", errors="replace")
    try:
        facts = json.loads(ended.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {"status": launcher.returncode, "late": False, "problem": "it could not be started within the limits"}
    return Ended(_problem(facts, said), bool(facts["late"]), said)


def _environment(work: Path) -> dict[str, str]:
    """A reduced one: what is not named is nobody's business, and a Python of ours would lead theirs astray."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"HOME": str(work), "TMPDIR": str(work), "LC_ALL": "C.UTF-8"} | dict.fromkeys(_ONE_THREAD, "1")


def _problem(facts: Mapping[str, object], said: str) -> str:
    status = facts["status"]
    if facts["late"] or (status == 0 and not facts["problem"]):
        return ""
    what = str(facts["problem"]) or _status(status)
    words = " ".join(said.split())[-_LAST_WORDS:]
    return f"{what}; last words: {words}" if words else what


def _status(status: object) -> str:
    if not isinstance(status, int):
        return "it was ended"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"
