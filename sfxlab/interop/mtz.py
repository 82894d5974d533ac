"""Tables of reflections as MTZ files, by way of gemmi."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import MergeError

_HISTORY_LINES, _HISTORY_WIDTH = 30, 80


@dataclass(frozen=True)
class MtzTable:
    """The content of a merged MTZ file."""

    cell: gemmi.UnitCell
    space_group: str
    """Hermann-Mauguin symbol with the setting, as `R 3:H`."""
    hkl: NDArray[np.int32]
    """(n, 3)."""
    columns: Mapping[str, NDArray[np.float64]]
    """By label, each (n,); NaN where a value is missing."""
    types: Mapping[str, str]
    """The MTZ type letter of each column: J intensity, Q sigma, K and M those of I(+) and I(-), I integer…"""
    wavelength: float = float("nan")
    """Å; NaN where it is unknown."""
    history: Sequence[str] = ()


def mtz_bytes(table: MtzTable) -> bytes:
    """The MTZ file as bytes. Reflections are put in CCP4's order."""
    return bytes(mtz_of(table).write_to_bytes())


def mtz_of(table: MtzTable) -> gemmi.Mtz:
    """The MTZ file as gemmi has it. Reflections are put in CCP4's order."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = "Merged intensities"
    mtz.spacegroup = gemmi.SpaceGroup(table.space_group)
    mtz.set_cell_for_all(table.cell)
    dataset = mtz.add_dataset("merged")
    dataset.project_name, dataset.crystal_name = "sfxlab", "crystal"
    dataset.cell = table.cell
    # Readers that look at one data set only may look at the base.
    for any_dataset in mtz.datasets:
        any_dataset.wavelength = table.wavelength if math.isfinite(table.wavelength) else 0.0
    for label in table.columns:
        mtz.add_column(label, table.types[label], dataset_id=dataset.id)
    mtz.set_data(np.column_stack([table.hkl, *table.columns.values()]).astype(np.float32))
    mtz.sort()
    mtz.history = [line[:_HISTORY_WIDTH] for line in table.history][:_HISTORY_LINES]
    return mtz


def read_mtz(path: str | Path) -> MtzTable:
    """Read a merged MTZ file. Raises `MergeError` where it is missing, damaged, unmerged or without a space group."""
    path = Path(path)
    if not path.is_file():
        raise MergeError("there is no such MTZ file", path=path)
    try:
        mtz = gemmi.read_mtz_file(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise MergeError("the MTZ file cannot be read", path=path, found=error) from error
    if mtz.batches:
        raise MergeError("the MTZ file is not merged", path=path, found=f"{len(mtz.batches)} batches")
    if mtz.spacegroup is None:
        raise MergeError("the MTZ file has no known space group", path=path, found=mtz.spacegroup_name)
    columns = {column.label: np.array(column.array, dtype=np.float64) for column in mtz.columns[3:]}
    return MtzTable(
        cell=mtz.get_cell(),
        space_group=mtz.spacegroup.xhm(),
        hkl=np.asarray(mtz.make_miller_array(), dtype=np.int32),
        columns=columns,
        types={column.label: column.type for column in mtz.columns[3:]},
        wavelength=max((d.wavelength for d in mtz.datasets), default=0.0) or float("nan"),
        history=tuple(mtz.history),
    )
