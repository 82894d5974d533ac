"""The whole way of one frame."""

import json

import numpy as np
import pytest

from sfxlab.crystal import read_cell
from sfxlab.frames import Frame, FrameId, open_frames
from sfxlab.pipeline import process_frame
from sfxlab.recipe import Recipe


@pytest.fixture(scope="module")
def lyso(shared_data):
    folder = shared_data / "lyso"
    truth = json.loads((folder / "truth/truth.json").read_text())["frames"]
    recipe = Recipe().with_cell(read_cell(folder / "lyso.cell"))
    return open_frames(folder / "lyso.cxi", folder / "lyso.geom"), truth, recipe


def first_of(truth, kind):
    return next(facts for facts in truth if facts["kind"] == kind)


def rotation_to_truth(crystal, facts):
    """Smallest angle in degrees to a true lattice."""
    angles = [180.0]
    for true in facts["crystals"]:
        basis = np.array([true["astar"], true["bstar"], true["cstar"]]).T / 10
        change = np.rint(np.linalg.inv(basis) @ crystal.basis)
        if round(np.linalg.det(change)) == 1:
            u, _, vt = np.linalg.svd(crystal.basis @ np.linalg.inv(basis @ change))
            angles.append(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))
    return min(angles)


def test_a_single_crystal_is_found_refined_and_integrated(lyso):
    frames, truth, recipe = lyso
    facts = first_of(truth, "single")
    result = process_frame(frames[facts["frame"]], recipe)
    assert result.status == "indexed"
    assert result.reason == ""
    (crystal,) = result.crystals
    assert rotation_to_truth(crystal, facts) < 0.3
    assert crystal.cell.a == pytest.approx(79.344, rel=0.005)
    assert crystal.log10_p < -5
    assert len(result.reflections[0]) > 100
    assert set(result.seconds) == {"peaks", "ice and salt", "indexing", "refinement", "integration"}


def test_both_crystals_of_a_double_hit_are_found(lyso):
    frames, truth, recipe = lyso
    facts = first_of(truth, "double")
    result = process_frame(frames[facts["frame"]], recipe)
    assert len(result.crystals) == 2
    assert all(rotation_to_truth(crystal, facts) < 0.5 for crystal in result.crystals)


@pytest.mark.parametrize("kind", ["blank", "blank_strong_background", "blank_ice_rings"])
def test_a_blank_stays_a_blank(lyso, kind):
    frames, truth, recipe = lyso
    result = process_frame(frames[first_of(truth, kind)["frame"]], recipe)
    assert result.status == "blank"
    assert result.crystals == ()


def test_without_a_cell_a_crystal_is_indexed_in_its_reduced_cell(lyso):
    frames, truth, _ = lyso
    facts = first_of(truth, "single")
    (crystal,) = process_frame(frames[facts["frame"]], Recipe()).crystals
    assert rotation_to_truth(crystal, facts) < 0.5
    assert crystal.cell.lattice_type == "triclinic"
    assert sorted(crystal.cell.lengths) == pytest.approx([37.81, 79.344, 79.344], rel=0.01)


def test_with_indexing_switched_off_a_hit_says_so(lyso):
    frames, truth, recipe = lyso
    result = process_frame(frames[first_of(truth, "single")["frame"]], recipe.without_indexing())
    assert (result.status, result.reason) == ("hit", "indexing is switched off")


def test_a_hit_with_the_wrong_cell_says_why_it_is_not_indexed(lyso):
    frames, truth, recipe = lyso
    wrong = recipe.with_cell(recipe.cell.with_parameters((61.0, 61.0, 53.0, 90, 90, 90)))
    result = process_frame(frames[first_of(truth, "single")["frame"]], wrong)
    assert result.status == "hit"
    assert result.reason.startswith("no lattice: ")


def test_the_result_is_the_same_again(lyso):
    frames, truth, recipe = lyso
    frame = frames[first_of(truth, "weak")["frame"]]
    one, other = process_frame(frame, recipe), process_frame(frame, recipe)
    for a, b in zip(one.reflections, other.reflections, strict=True):
        np.testing.assert_array_equal(a.intensity, b.intensity)
    for a, b in zip(one.crystals, other.crystals, strict=True):
        np.testing.assert_array_equal(a.basis, b.basis)


def test_an_empty_frame_is_a_blank(detector):
    frame = Frame(
        np.zeros(detector.shape, np.uint16), np.zeros(detector.shape, np.uint8), 9500.0, detector, FrameId("a", "//0")
    )
    assert process_frame(frame, Recipe()).status == "blank"
