"""Whole data sets against their truth and reference solutions, with default parameters."""

import json

import h5py
import numpy as np
import pytest

from sfxlab.crystal import read_cell
from sfxlab.frames import open_frames
from sfxlab.pipeline import process_frame
from sfxlab.recipe import Recipe


def rotation_between(found, true):
    """Degrees between two primitive bases; 180 where they are not one lattice."""
    change = np.rint(np.linalg.inv(true) @ found)
    if round(np.linalg.det(change)) != 1:
        return 180.0
    u, _, vt = np.linalg.svd(found @ np.linalg.inv(true @ change))
    return np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1)))


@pytest.mark.parametrize(("name", "file", "least"), [("lyso", "lyso.cxi", 98), ("psii", "psii.h5", 20)])
def test_nearly_every_true_lattice_is_found_and_no_other(shared_data, name, file, least):
    folder = shared_data / name
    truth = json.loads((folder / "truth/truth.json").read_text())["frames"]
    recipe = Recipe().with_cell(read_cell(folder / f"{name}.cell"))
    right, false = 0, 0
    for frame, facts in zip(open_frames(folder / file, folder / f"{name}.geom"), truth, strict=True):
        left = [np.array([c["astar"], c["bstar"], c["cstar"]]).T / 10 for c in facts["crystals"]]
        for crystal in process_frame(frame, recipe).crystals:
            angles = [rotation_between(crystal.basis, basis) for basis in left]
            if angles and min(angles) < 1:
                right += 1
                left.pop(int(np.argmin(angles)))
            else:
                false += 1
    assert right >= least
    assert false == 0


def test_the_measured_thermolysin_frames_are_indexed_as_dials_did(shared_data):
    folder = shared_data / "real/thermolysin_cspad"
    recipe = Recipe().with_cell(read_cell(folder / "thermolysin.cell"))
    with h5py.File(folder / "thermolysin_reference.h5") as file:
        reference = file["frames/A"][...]
    for frame, basis in zip(
        open_frames(folder / "thermolysin_cspad.cxi", folder / "thermolysin_cspad.geom"), reference, strict=True
    ):
        result = process_frame(frame, recipe)
        assert result.status == "indexed"
        assert rotation_between(result.crystals[0].basis, basis) < 0.15
        # Event 1 carries a second lattice, which two indexers of CrystFEL find as well, and a third one: more than half
        # of its peaks have indices within 0.06 of whole numbers, up to l = 47, where chance gives one peak in 600.
        assert len(result.crystals) == (3 if frame.id.event == "//1" else 1)
        for crystal in result.crystals:
            q = frame.detector.q(result.peaks.panel, result.peaks.fs, result.peaks.ss, frame.photon_energy)
            errors = np.abs((h := q @ np.linalg.inv(crystal.basis).T) - np.rint(h)).max(axis=1)
            assert np.median(errors[errors < 0.25]) < 0.06
