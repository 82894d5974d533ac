"""A worker that is killed while it merges: another one gives what an undisturbed merge gives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gemmi
import numpy as np
import pytest
from click.testing import CliRunner

from sfxlab.cli import main, merged


def test_a_merge_whose_worker_is_killed_is_done_by_another(
    mockdata: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = mockdata("made_up_runs")
    run = made_up.write_run(tmp_path / "run", [made_up.frame_result(index, (200,)) for index in range(40)])
    here, there, log = tmp_path / "here.mtz", tmp_path / "there.mtz", tmp_path / "log"
    command = ["merge", str(run.path), "-y", "4/mmm", "-o"]
    merging = merged._merged

    # A function inside a function travels to workers as a whole.
    def killed_the_first_time(*arguments: Any) -> Any:
        first = not log.exists()
        with log.open("a") as file:
            file.write("begun\n")
        if first:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        found = merging(*arguments)
        with log.open("a") as file:
            file.write("ended\n")
        return found

    CliRunner().invoke(main, [*command, str(here)], catch_exceptions=False)
    monkeypatch.setattr(merged, "_merged", killed_the_first_time)
    done = CliRunner().invoke(main, [*command, str(there), "--cluster", "local"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert log.read_text().split() == ["begun", "begun", "ended"]
    np.testing.assert_array_equal(*(np.array(gemmi.read_mtz_file(str(path))) for path in (here, there)))
    assert gemmi.read_mtz_file(str(here)).nreflections > 100
