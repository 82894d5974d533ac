"""Two runs of the same frames: which gained, lost and moved, and what differs in what they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import sfxlab
from sfxlab.crystal import Crystal, UnitCell
from sfxlab.errors import RunError, SfxlabWarning
from sfxlab.frames import FrameId, open_frames
from sfxlab.pipeline import FrameResult
from sfxlab.processing import process, rerun
from sfxlab.recipe import Recipe
from sfxlab.store import Run, describe

MockData = Callable[[str], ModuleType]
CENTRED = UnitCell(84.0, 55.0, 62.0, 90.0, 108.0, 90.0, "monoclinic", "C", "b")
HITS = "def hits(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):\n    return {}\n"


@pytest.fixture
def make_frame(mockdata: MockData) -> Callable[..., FrameResult]:
    """`make_frame(index, crystals, status)`: a frame with these crystals."""
    made_up = mockdata("made_up_runs").frame_result

    def make(index: int, crystals: list[Crystal], status: str | None = None, reason: str = "") -> FrameResult:
        result = made_up(index, (5,) * len(crystals), status=status, reason=reason)
        return replace(result, crystals=tuple(crystals))

    return make


def turned(cell: UnitCell, orientation: Rotation, degrees: float = 0.0, stretch: float = 1.0) -> Crystal:
    """A crystal in an orientation, turned about some axis by so many degrees."""
    axis = np.array([0.3, -0.5, 0.8])
    rotation = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)) * orientation
    basis = rotation.as_matrix() @ cell.reciprocal_basis / stretch
    return Crystal(cell.with_basis(basis), basis, 0.002)


def test_lattices_are_followed_whatever_cell_describes_them(
    make_frame: Callable[..., FrameResult], mockdata: MockData, tmp_path: Path
) -> None:
    one, other = Rotation.random(2, random_state=3)
    here, there = turned(CENTRED, one), turned(CENTRED, other)
    # The same lattice: its reduced cell, and the setting that the twofold axis along b turns into itself.
    primitive = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]]) @ CENTRED.primitive_transform
    reduced = turned(CENTRED, one, 0.3)
    basis = np.linalg.inv(primitive @ np.linalg.inv(reduced.basis))
    as_reduced = replace(reduced, basis=basis, cell=UnitCell.of_basis(basis))
    about_b = replace(here, basis=here.basis @ np.diag([-1.0, 1.0, -1.0]))
    pairs = [
        ([here], [here]),
        ([here], [about_b]),
        ([here], [turned(CENTRED, one, 0.05)]),
        ([here], [as_reduced]),
        ([here], [turned(CENTRED, one, 0.0, 1.02)]),
        ([here], [there]),
        ([here, there], [turned(CENTRED, other, 0.02), turned(CENTRED, one, 0.2)]),
        ([here, there], [there]),
        ([here], [there, about_b]),
    ]
    runs = [
        mockdata("made_up_runs").write_run(
            tmp_path / name, [make_frame(index, pair[which]) for index, pair in enumerate(pairs)]
        )
        for which, name in enumerate("ab")
    ]
    found = sfxlab.compare(*runs)
    frames = found.frames.to_pydict()
    assert frames["state"] == ["same", "same", "same", "moved", "moved", "moved", "moved", "lost", "gained"]
    assert frames["lattices_kept"] == [1, 1, 1, 1, 1, 0, 2, 1, 1]
    np.testing.assert_allclose(frames["rotation"], [0, 0, 0.05, 0.3, 0, np.nan, 0.2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(frames["strain"], [0, 0, 0, 0, 0.02, np.nan, 0, 0, 0], atol=1e-9)
    assert sfxlab.compare(*runs, rotation=0.5, strain=0.03).counts == {"same": 6, "gained": 1, "lost": 1, "moved": 1}
    back = sfxlab.compare(*reversed(runs)).counts
    assert (back["gained"], back["lost"], back["moved"]) == (1, 1, 4)


def test_frames_without_lattices_gain_and_lose_what_became_of_them(
    make_frame: Callable[..., FrameResult], mockdata: MockData, tmp_path: Path
) -> None:
    ranks = ["failed", "blank", "hit"]
    results = [
        [make_frame(index, [], status, reason=f"{status} here") for index, status in enumerate(statuses)]
        for statuses in ([one for one in ranks for _ in ranks], ranks * 3)
    ]
    runs = [
        mockdata("made_up_runs").write_run(tmp_path / name, frames) for name, frames in zip("ab", results, strict=True)
    ]
    found = sfxlab.compare(*runs)
    pairs = [(one, other) for one in range(3) for other in range(3)]
    expected = ["gained" if other > one else "lost" if other < one else "same" for one, other in pairs]
    assert found.frames["state"].to_pylist() == expected
    assert found.of_state("lost")["reason_after"].to_pylist() == ["failed here", "failed here", "blank here"]
    assert str(found) == "9 frames: 3 same, 3 gained, 3 lost, 0 moved"


def test_frames_are_told_by_file_and_event_in_whatever_order(
    make_frame: Callable[..., FrameResult], tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    for folder in ("old", "new"):
        (tmp_path / folder / "a.cxi").write_bytes(b"the same content")
    events = {"old": [0, 1, 2, 3], "new": [5, 3, 2]}
    runs = []
    for folder, numbers in events.items():
        path = str(tmp_path / folder / "a.cxi")
        names = [FrameId(path, f"//{number}") for number in numbers]
        record = describe(Recipe(), names, n_frames=len(names), chunk_size=len(names), paths=[path])
        run = Run.create(tmp_path / f"run-{folder}", record, names)
        with run.writing():
            results = [replace(make_frame(index, []), id=name) for index, name in enumerate(names)]
            run.write_chunk(0, results)
        runs.append(run)
    found = sfxlab.compare(*runs)
    assert found.frames.select(["frame", "frame_after", "event"]).to_pylist() == [
        {"frame": 2, "frame_after": 2, "event": "//2"}, {"frame": 3, "frame_after": 1, "event": "//3"},
    ]  # fmt: skip
    assert found.only_before["event"].to_pylist() == ["//0", "//1"]
    assert found.only_after["event"].to_pylist() == ["//5"]
    # The file was moved; that is no other input, but there are fewer frames.
    assert found.input_differences == ("the frames are others: 4 in the first run, 3 in the second",)
    assert "2 frames only in run-old" in str(found)


def test_runs_are_not_compared_with_merged_data(mockdata: MockData, tmp_path: Path) -> None:
    run = mockdata("made_up_runs").empty_run(tmp_path / "run", 1, 1)
    with pytest.raises(TypeError, match="two runs, or two merged data sets, and not Run and int"):
        sfxlab.compare(run, 7)  # type: ignore[call-overload]


@pytest.fixture
def small_run(make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path) -> Run:
    """A run of four small frames, with a function of the user's for hits."""
    frames = make_cxi()
    (tmp_path / "a.geom").write_text(two_panels)
    (tmp_path / "mine.py").write_text(HITS.format("(snr > 20).sum() >= 3"))
    recipe = Recipe().changed(hits={"function": f"{tmp_path / 'mine.py'}:hits"}, profiles={"learn": False})
    return process(
        open_frames(frames, tmp_path / "a.geom"), recipe, output=tmp_path / "run", chunk_size=3, progress=None
    )


def test_a_run_is_made_anew_from_its_record_alone(small_run: Run, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "run.json").write_bytes((small_run.path / "run.json").read_bytes())
    again = rerun(alone, tmp_path / "again", progress=None)
    found = sfxlab.compare(small_run, again)
    assert found.is_identical
    assert again.record.chunk_size == 3
    assert again.record.recipe == small_run.recipe
    assert not [*found.recipe_differences, *found.input_differences, *found.version_differences]


def test_a_run_is_made_anew_from_frames_that_were_moved_and_its_own_copies_of_the_rest(
    small_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    moved = (tmp_path / "frames.cxi").rename(tmp_path / "disk" / "frames.cxi")
    (tmp_path / "a.geom").unlink()
    (tmp_path / "mine.py").write_text(HITS.format("True"))
    again = rerun(small_run, tmp_path / "again", inputs=[str(moved)], progress=None)
    found = sfxlab.compare(small_run, again)
    assert found.differing_columns == ("frames.path",)
    assert found.counts == {"same": 4, "gained": 0, "lost": 0, "moved": 0}
    assert list(found.recipe_differences) == ["hits.function"]
    assert not found.input_differences


def test_a_run_whose_input_has_changed_is_not_made_anew(small_run: Run, make_cxi: Any, tmp_path: Path) -> None:
    make_cxi(frames=np.ones((4, 8, 6), np.uint16))
    with pytest.raises(RunError, match=r"frames\.cxi: it has another content"):
        rerun(small_run, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_versions_of_programs_are_a_warning(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (small_run.path / "run.json").read_text()
    versions = small_run.record.versions
    assert text.count(f'"numpy": "{versions["numpy"]}"') == 1
    (small_run.path / "run.json").write_text(text.replace(f'"numpy": "{versions["numpy"]}"', '"numpy": "1.0"'))
    with pytest.warns(SfxlabWarning, match=f"numpy 1.0 then, {versions['numpy']} now"):
        again = rerun(small_run, tmp_path / "again", progress=None)
    assert sfxlab.compare(small_run, again).version_differences == {"numpy": ("1.0", versions["numpy"])}
