"""Refinement of displaced detectors."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.cluster import connect
from sfxlab.crystal import UnitCell
from sfxlab.detector_refinement import Still, refine_detector
from sfxlab.detector_refinement.bodies import centres_of, moved
from sfxlab.detector_refinement.refine import moves_between
from sfxlab.detector_refinement.run import on_workers
from sfxlab.detector_refinement.stills import Given, reindexed
from sfxlab.errors import RunError
from sfxlab.geometry import Detector
from sfxlab.recipe import Recipe


def displaced(detector: Detector, seed: int = 2, distance: float = 0.003) -> Detector:
    """By up to 2 pixels and 0.4°; without a rotation of the whole about the beam, which nobody could find."""
    rng = np.random.default_rng(seed)
    moves = np.zeros((len(detector.panels), 6))
    moves[:, :2] = rng.uniform(-2e-4, 2e-4, (len(moves), 2))
    moves[:, 5] = np.radians(rng.uniform(-0.4, 0.4, len(moves)))
    moves[:, 2] = distance * detector.camera_length
    x, y = centres_of(detector)[:, 0], centres_of(detector)[:, 1]
    turn = (x * moves[:, 1] - y * moves[:, 0]).sum() / (x**2 + y**2).sum()
    moves[:, 0] += turn * y
    moves[:, 1] -= turn * x
    moves[:, 5] -= turn
    return moved(detector, moves)


def parts_of(stills, n: int = 3):
    return [Given(stills[i::n]) for i in range(n)]


def test_displaced_panels_and_distance_come_back_as_exactly_as_is_claimed(
    four_panels: Detector, make_stills, cell: UnitCell
) -> None:
    parts = parts_of(make_stills(four_panels, 60))
    found = refine_detector(parts, displaced(four_panels), cell=cell, cell_deviation=0.001)
    left = moves_between(four_panels, found.detector)
    claimed = np.array([[*p.shift_error[:2], p.rotation_error[2]] for p in found.panels])
    assert found.settled
    assert np.abs(left[:, :2]).max() < 0.1
    assert np.abs(left[:, 5]).max() < 0.02
    assert np.abs(left[:, [0, 1, 5]] / claimed).max() < 4
    assert abs(left[:, 2].mean() / 900) < max(2e-4, 4 * found.distance_error)
    assert found.sums_after.median_distance < 0.3 < found.sums_before.median_distance
    assert found.n_crystals == 60


def test_the_whole_detector_alone_can_be_moved(four_panels: Detector, make_stills, cell: UnitCell) -> None:
    moves = np.tile([1.5e-4, -1e-4, 3e-4, 0.0, 0.0, 0.0], (4, 1))
    found = refine_detector(
        parts_of(make_stills(four_panels, 20)), moved(four_panels, moves), level="detector", cell=cell,
        cell_deviation=0.001,
    )  # fmt: skip
    np.testing.assert_allclose(found.shift[:2], [-1.5, 1.0], atol=0.05)
    assert abs(found.shift[2] + 3) < 0.5
    shifts = np.array([p.shift for p in found.panels])
    np.testing.assert_allclose(moves_between(four_panels, found.detector)[:, 5], 0, atol=0.01)
    assert np.ptp(shifts, axis=0)[:2].max() < 0.05


def test_panels_of_a_group_move_together(four_panels: Detector, make_stills, cell: UnitCell) -> None:
    moves = np.zeros((4, 6))
    moves[:2, 1], moves[2:, 1] = 2e-4, -2e-4
    found = refine_detector(
        parts_of(make_stills(four_panels, 20)), moved(four_panels, moves), [[0, 1], [2, 3]], level="groups", cell=cell
    )
    shifts = np.array([p.shift[1] for p in found.panels])
    np.testing.assert_allclose(shifts - shifts.mean(), [-2, -2, 2, 2], atol=0.1)


def test_tilted_panels_come_back_where_that_is_asked_for(four_panels: Detector, make_stills, cell: UnitCell) -> None:
    moves = np.zeros((4, 6))
    moves[0, 3], moves[1, 4], moves[2, 2] = np.radians(0.5), np.radians(-0.5), 3e-4
    found = refine_detector(
        parts_of(make_stills(four_panels, 60)), moved(four_panels, moves), out_of_plane=True, cell=cell,
        cell_deviation=0.001,
    )  # fmt: skip
    left = moves_between(four_panels, found.detector)
    assert np.abs(left[:, 3:5]).max() < 0.2
    assert np.abs(left[:, 2]).max() < 1.0


def test_a_panel_without_peaks_stays_in_its_place(flat_panels: Detector, make_stills, cell: UnitCell) -> None:
    stills = make_stills(flat_panels, 20)
    blind = tuple(Still(s.peaks[s.peaks.panel != 3], s.photon_energy, s.crystals) for s in stills)
    found = refine_detector(parts_of(blind), flat_panels, cell=cell)
    assert found.held == ("p3",)
    assert found.panels[3].n_peaks == 0
    assert np.isnan(found.panels[3].median_after)
    assert np.abs(moves_between(flat_panels, found.detector)[3, [0, 1, 5]]).max() < 0.5
    # Nobody knows better where it is than before.
    assert found.panels[3].shift_error[:2].min() > 2 > 0.2 > found.panels[2].shift_error[:2].max()


def test_a_panel_with_few_peaks_that_is_further_off_than_all_others_comes_back(
    flat_panels: Detector, make_stills, cell: UnitCell
) -> None:
    stills = make_stills(flat_panels, 20)
    seldom = []
    for s in stills:
        kept = s.peaks.panel != 3
        kept[np.flatnonzero(~kept)[:1]] = True
        seldom.append(Still(s.peaks[kept], s.photon_energy, s.crystals))
    moves = np.zeros((4, 6))
    moves[3, :2] = 4e-4, 4e-4  # away from the beam; nothing of it is a rotation about it
    found = refine_detector(parts_of(tuple(seldom)), moved(flat_panels, moves), cell=cell)
    assert found.held == ()
    left = moves_between(flat_panels, found.detector)[3] - moves_between(flat_panels, found.detector)[:3].mean(axis=0)
    assert np.abs(left[:2] / found.panels[3].shift_error[:2]).max() < 4
    assert np.abs(left[:2]).max() < 0.5


def test_few_crystals_with_few_peaks_are_not_lost_while_panels_move(
    four_panels: Detector, make_stills, cell: UnitCell
) -> None:
    stills = tuple(Still(s.peaks[::4], s.photon_energy, s.crystals) for s in make_stills(four_panels, 15))
    start = displaced(four_panels)
    turned = tuple(
        Still(s.peaks, s.photon_energy, reindexed(Given((s,)), start, Recipe().with_cell(cell)).crystals[0])
        for s in stills
    )
    found = refine_detector(parts_of(turned), start, cell=cell)
    assert found.settled
    assert found.n_crystals >= sum(len(s.crystals) for s in turned) - 1
    assert found.sums_after.median_distance < 0.4 < found.sums_before.median_distance


def test_a_single_panel_is_the_whole_detector(four_panels: Detector, make_stills, cell: UnitCell) -> None:
    one = Detector(four_panels.panels[:1], (600, 600), 0.09)
    moves = np.array([[1e-4, 1e-4, 0, 0, 0, 0]])
    found = refine_detector(parts_of(make_stills(one, 20)), moved(one, moves), cell=cell, cell_deviation=0.001)
    # A shift along with a rotation about the beam is a rotation of all crystals.
    left = moves_between(one, found.detector)[0]
    x, y = centres_of(one)[0, :2]
    assert abs(left[0] * x + left[1] * y) / np.hypot(x, y) < 0.1


def test_crystals_of_nearer_and_farther_frames_agree(four_panels: Detector, make_stills, cell: UnitCell) -> None:
    near, far = make_stills(four_panels, 10), make_stills(four_panels.moved(z=1e-3), 10, seed=1)
    far = tuple(Still(s.peaks, s.photon_energy, s.crystals, 1e-3) for s in far)
    found = refine_detector([Given(near + far)], four_panels, level="detector", cell=cell, cell_deviation=0.001)
    assert np.abs(found.shift).max() < 0.5
    assert found.n_crystals == 20


def test_no_crystals_are_refused(four_panels: Detector, make_stills) -> None:
    stills = tuple(Still(s.peaks, s.photon_energy) for s in make_stills(four_panels, 2))
    with pytest.raises(RunError, match="no crystal can be used"):
        refine_detector([Given(stills)], four_panels)
    with pytest.raises(RunError, match="no crystal can be used"):
        refine_detector([], four_panels)


def test_workers_make_no_difference(four_panels: Detector, make_stills, cell: UnitCell) -> None:
    parts, start = parts_of(make_stills(four_panels, 9)), displaced(four_panels)
    here = refine_detector(parts, start, cell=cell)
    with connect("local", 2, dashboard=False) as client:
        there = refine_detector(parts, start, cell=cell, gather=on_workers(client))
    assert there.detector == here.detector
    assert np.array_equal(there.sums_after.normal, here.sums_after.normal)
