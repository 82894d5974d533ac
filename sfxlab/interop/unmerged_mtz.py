"""The observations of all crystals as an unmerged MTZ file, for careless, reciprocalspaceship and CCP4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.errors import CellError, OutputExistsError, RunError
from sfxlab.geometry import HC_EV_ANGSTROM, Detector
from sfxlab.integration import Reflections
from sfxlab.interop.usable import usable_reflections
from sfxlab.pipeline import FrameResult
from sfxlab.whole_files import written_aside

_COLUMNS = (
    ("M/ISYM", "Y"), ("BATCH", "B"), ("I", "J"), ("SIGI", "Q"), ("PARTIALITY", "R"), ("EWALD_OFFSET", "R"),
    ("LAMBDA", "R"), ("XDET", "R"), ("YDET", "R"),
)  # fmt: skip
# Numbers of batches are kept as single-precision floating-point numbers.
_MOST_BATCHES = 1 << 24
_MOST_STRAIN = 0.05


def write_unmerged_mtz(
    path: str | Path,
    results: Iterable[FrameResult],
    detector_at: Callable[[float], Detector],
    space_group: str,
    *,
    cell: UnitCell | None = None,
    history: Sequence[str] = (),
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write one batch for each crystal, numbered from 1; how many crystals and observations there are.

    Columns besides indices, M/ISYM and BATCH: I and SIGI as integrated, neither scaled nor corrected for polarisation;
    PARTIALITY; EWALD_OFFSET (1/Å); LAMBDA (Å); XDET and YDET, where the spot is across the beam (mm). Each batch has
    the cell of its crystal, and its title is the frame; that of the file is `cell` or the median over the crystals,
    with the symmetry of the space group.
    Saturated observations, and those without an intensity, are left out. All observations are in memory meanwhile.

    `detector_at` gives the detector at a camera length (metres). Raises `CellError` for a space group that is unknown
    or not that of the cell, `OutputExistsError` where the file exists and `overwrite` is false, `RunError` where there
    are no crystals.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError("this file exists", path=path, remedy="choose another name or remove it")
    group = gemmi.find_spacegroup_by_name(space_group)
    if group is None:
        raise CellError(f"unknown space group '{space_group}'", remedy="write it as in 'P 43 21 2'")
    mtz = gemmi.Mtz(with_base=True)
    mtz.title, mtz.spacegroup = "Observations of single crystals", group
    dataset = mtz.add_dataset("unmerged")
    dataset.project_name, dataset.crystal_name = "sfxlab", "crystal"
    for label, kind in _COLUMNS:
        mtz.add_column(label, kind, dataset_id=dataset.id)
    parts: list[NDArray[np.float32]] = []
    cells, wavelengths = [], []
    detectors: dict[float, Detector] = {}
    for result in results:
        for crystal, reflections in zip(result.crystals, result.reflections, strict=True):
            wavelength = HC_EV_ANGSTROM / result.photon_energy
            length = result.camera_length
            detector = detectors[length] if length in detectors else detectors.setdefault(length, detector_at(length))
            parts.append(_rows(usable_reflections(reflections), detector, len(parts) + 1, wavelength))
            cells.append(crystal.cell.parameters)
            wavelengths.append(wavelength)
            mtz.batches.append(_batch(crystal, len(parts), dataset.id, wavelength, str(result.id)))
    if not parts or len(parts) >= _MOST_BATCHES:
        raise RunError(
            "crystals are too few or too many for an unmerged MTZ file", found=len(parts),
            expected=f"1 to {_MOST_BATCHES - 1}", remedy="export a part of them",
        )  # fmt: skip
    mtz.set_cell_for_all(_symmetric(cell.parameters if cell else np.median(cells, axis=0), group))
    for any_dataset in mtz.datasets:
        any_dataset.wavelength = float(np.nan_to_num(np.mean(wavelengths)))
    rows = np.concatenate(parts)
    rows[:, :4] = _in_asu(rows[:, :3], group)
    mtz.set_data(rows)
    mtz.sort(5)
    mtz.history = [line[:80] for line in history][:30]
    with written_aside(path) as aside:
        mtz.write_to_file(str(aside))
    return len(parts), len(rows)


def _symmetric(parameters: Sequence[float] | NDArray[np.float64], group: gemmi.SpaceGroup) -> gemmi.UnitCell:
    """A cell made to obey the space group exactly, as careless asks for; its metric is the mean over the operations.

    Raises `CellError` where the cell is far from what the space group asks for.
    """
    given = gemmi.UnitCell(*parameters)
    basis = np.array(given.orth.mat.tolist())
    turns = np.array([operation.rot for operation in group.operations().sym_ops]) / gemmi.Op.DEN
    metric = np.mean(turns.transpose(0, 2, 1) @ (basis.T @ basis) @ turns, axis=0)
    lengths = np.sqrt(np.diag(metric))
    pairs = ((1, 2), (0, 2), (0, 1))
    angles = np.degrees(np.arccos([metric[i, j] / (lengths[i] * lengths[j]) for i, j in pairs]))
    off = np.abs([*(lengths / given.parameters[:3] - 1), *np.radians(angles - given.parameters[3:])])
    if off.max() > _MOST_STRAIN:
        raise CellError(
            f"the cell does not have the symmetry of space group {group.xhm()}",
            found=", ".join(f"{value:.2f}" for value in given.parameters),
            remedy="check the space group and its axes",
        )  # fmt: skip
    return gemmi.UnitCell(*lengths, *angles)


def _in_asu(hkl: NDArray[np.float32], group: gemmi.SpaceGroup) -> NDArray[np.float32]:
    """Indices in CCP4's asymmetric unit, and M/ISYM, the operation that led there, (n, 4)."""
    unique, place = np.unique(hkl.astype(np.int32), axis=0, return_inverse=True)
    asu, operations = gemmi.ReciprocalAsu(group), group.operations()
    moved = [(*index, isym) for index, isym in (asu.to_asu(one, operations) for one in unique.tolist())]
    return np.array(moved, dtype=np.float32)[place.reshape(-1)]


def _batch(crystal: Crystal, number: int, dataset: int, wavelength: float, title: str) -> gemmi.Mtz.Batch:
    batch = gemmi.Mtz.Batch()
    batch.number, batch.dataset_id = number, dataset
    batch.cell = crystal.cell.gemmi
    batch.wavelength = wavelength
    # A title has 70 characters; what tells frames apart is at the end.
    batch.title = title.encode("ascii", "replace").decode()[-70:]
    return batch


def _rows(r: Reflections, detector: Detector, batch: int, wavelength: float) -> NDArray[np.float32]:
    n = len(r)
    place = detector.positions(r.panel, r.fs, r.ss) * 1000
    columns = (
        r.h, r.k, r.l, np.zeros(n), np.full(n, batch), r.intensity, r.sigma, r.partiality, r.excitation_error,
        np.full(n, wavelength), place[:, 0], place[:, 1],
    )  # fmt: skip
    return np.column_stack(columns).astype(np.float32)
