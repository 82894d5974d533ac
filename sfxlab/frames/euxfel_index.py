"""Where the frames of a European XFEL run are: EXtra-data says which file and row holds a module's data of a pulse."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError, InputError, SfxlabWarning
from sfxlab.frames.euxfel_files import open_run, raw_run
from sfxlab.frames.euxfel_values import quantities_of_trains
from sfxlab.frames.hdf5_file import READ_ERRORS
from sfxlab.geometry import Geometry

_PULSE_BITS = 24
_KEYS = (("image.data", "image.mask"), ("data.adc", "data.mask"))
"""Pixels and mask of AGIPD, DSSC and LPD; of JUNGFRAU."""


@dataclass(frozen=True)
class ModuleFile:
    """A file of one module: its HDF5 paths of pixels and of their mask, empty where there is none."""

    path: str
    data: str
    mask: str


@dataclass(frozen=True)
class ModulePlace:
    """The part of the slab that a module fills, from the module's own first pixel on."""

    module: int
    row: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class RunTable:
    """n frames of m modules: what names each, and where its modules are."""

    directories: tuple[str, ...]
    files: tuple[ModuleFile, ...]
    places: tuple[ModulePlace, ...]
    """(m)"""
    dtype: np.dtype[Any]
    directory: NDArray[np.int32]
    """(n,) index into `directories`."""
    train: NDArray[np.int64]
    """(n,)"""
    pulse: NDArray[np.int64]
    """(n,) pulse id; for JUNGFRAU the position in its train."""
    cell: NDArray[np.int32]
    """(n,) second index of the data array, −1 where that has none."""
    file: NDArray[np.int32]
    """(n, m) index into `files`, −1 where the module is missing."""
    row: NDArray[np.int32]
    """(n, m) first index of the data array."""
    photon_energy: NDArray[np.float64]
    """(n,) eV, NaN where the run does not say."""
    lengths: NDArray[np.float64]
    """(n, 3) camera length and detector shift in x and y, metres."""

    def __len__(self) -> int:
        return len(self.train)

    def part(self, which: slice | NDArray[np.int64]) -> RunTable:
        """Some of the frames, with no other files than theirs."""
        used, renumbered = np.unique(self.file[which], return_inverse=True)
        missing = int(used.size > 0 and used[0] < 0)
        columns: dict[str, Any] = {name: getattr(self, name)[which].copy() for name in (*_COLUMNS, "row")}
        return replace(
            self,
            files=tuple(self.files[i] for i in used[missing:]),
            file=(renumbered.reshape(-1, len(self.places)) - missing).astype(np.int32),
            **columns,
        )

    def numbers(self, train: int, pulse: int) -> NDArray[np.int64]:
        """The frames of this name: one, or none."""
        return np.flatnonzero((self.train == train) & (self.pulse == pulse))


_COLUMNS = ("directory", "train", "pulse", "cell", "photon_energy", "lengths")


def joined(tables: Sequence[RunTable]) -> RunTable:
    """The frames of several tables of the same detector."""
    first = tables[0]
    if len(tables) == 1:
        return first
    n_files = np.cumsum([0, *(len(table.files) for table in tables)])
    n_directories = np.cumsum([0, *(len(table.directories) for table in tables)])
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(table, name) for table in tables]) for name in (*_COLUMNS, "row")
    }
    columns["directory"] = np.concatenate(
        [table.directory + np.int32(n) for table, n in zip(tables, n_directories, strict=False)]
    )
    return replace(
        first,
        directories=tuple(directory for table in tables for directory in table.directories),
        files=tuple(file for table in tables for file in table.files),
        dtype=np.result_type(*(table.dtype for table in tables)),
        file=np.concatenate(
            [np.where(table.file < 0, -1, table.file + n).astype(np.int32)
             for table, n in zip(tables, n_files, strict=False)]
        ),
        **columns,
    )  # fmt: skip


def index_run(path: str, geometry: Geometry) -> RunTable:
    """All frames of a run directory for which at least one module has data, by train and pulse.

    Raises `InputError` where EXtra-data is not installed, the folder has no detector data or several that suit the
    geometry; `GeometryError` where none does, or where it says nothing of photon energy or camera length.
    """
    runs = [open_run(path), *raw_run(path)]
    try:
        return _table(runs, geometry, path)
    except READ_ERRORS as error:
        raise InputError(
            "a file of the run cannot be read", path=path, found=str(error), remedy="is it still being written?"
        ) from error
    finally:
        for run in runs:
            for file in run.files:
                file.close()


def _table(runs: list[Any], geometry: Geometry, path: str) -> RunTable:
    """The frames of the first run; the others may know photon energy and camera length."""
    name, kind, places = _detector(runs[0], geometry, path)
    files: list[ModuleFile] = []
    dtypes = set()
    modules: dict[int, _ModuleRows] = {}
    for index, interface in _interfaces(runs[0], kind, name, places, path).items():
        pixels, mask = _keys(interface)
        dtypes.add(pixels.dtype)
        modules[index] = _module_rows(pixels, mask, files, path)
    if not modules:
        raise GeometryError("none of the modules of the geometry is in the run", path=path, place=geometry.path)
    keys = np.unique(np.concatenate([module.key for module in modules.values()]))
    file = np.full((len(keys), len(places)), -1, dtype=np.int32)
    row, cell = np.zeros_like(file), np.full(len(keys), -1, dtype=np.int32)
    for column, place in enumerate(places):
        if place.module in modules:
            found = modules[place.module]
            where = np.searchsorted(keys, found.key)
            file[where, column], row[where, column], cell[where] = found.file, found.row, found.cell
    train = keys >> _PULSE_BITS
    energies, lengths = quantities_of_trains(geometry, runs, train, path)
    return RunTable(
        directories=(path,),
        files=tuple(files),
        places=places,
        dtype=np.result_type(*dtypes).newbyteorder("="),
        directory=np.zeros(len(keys), dtype=np.int32),
        train=train,
        pulse=keys & ((1 << _PULSE_BITS) - 1),
        cell=cell,
        file=file,
        row=row,
        photon_energy=energies,
        lengths=lengths,
    )


def module_places(geometry: Geometry, shape: tuple[int, int]) -> tuple[ModulePlace, ...] | None:
    """Where modules of a shape (ss, fs) go in the slab; None where the geometry is not for such modules.

    Either an axis of the data array numbers the modules, as in virtual CXI files, or they follow one another along ss.
    """
    rows, columns = shape
    blocks = geometry.blocks
    if max(block.columns for block in blocks) != columns:
        return None
    numbers = [[value for value in block.dims if isinstance(value, int)] for block in blocks]
    if all(len(fixed) == 1 for fixed in numbers) and max(block.rows for block in blocks) == rows:
        return tuple(
            ModulePlace(fixed[0], block.row, block.rows, block.columns)
            for block, fixed in zip(blocks, numbers, strict=True)
        )
    if len(blocks) == 1 and not numbers[0] and blocks[0].rows % rows == 0:
        return tuple(ModulePlace(i, i * rows, rows, columns) for i in range(blocks[0].rows // rows))
    return None


@dataclass(frozen=True)
class _ModuleRows:
    """The frames of one module, each (n,)."""

    key: NDArray[np.int64]
    """Train and pulse in one number."""
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    cell: NDArray[np.int32]


def _detector(run: Any, geometry: Geometry, path: str) -> tuple[str, Any, tuple[ModulePlace, ...]]:
    """The one detector of the run that the geometry is for: its name, EXtra-data's class, where its modules go."""
    from extra_data.components import identify_multimod_detectors

    found = sorted(identify_multimod_detectors(run), key=lambda item: str(item[0]))
    if not found:
        raise InputError(
            "the run has no data of a detector of several modules", path=path,
            found=", ".join(sorted(run.instrument_sources)[:5]) or "no data of instruments",
            expected="AGIPD, LPD or JUNGFRAU; is this the right run?",
        )  # fmt: skip
    suiting = [(name, kind, module_places(geometry, kind.module_shape)) for name, kind in found]
    chosen = [(name, kind, places) for name, kind, places in suiting if places is not None]
    named = [item for item in chosen if f"/{item[0]}/" in geometry.blocks[0].data]
    chosen = named or chosen
    described = ", ".join(f"{name} (modules of {' × '.join(map(str, kind.module_shape))})" for name, kind in found)
    if not chosen:
        raise GeometryError(
            "the geometry is not for the detector of this run", path=path, found=described,
            expected=f"modules in arrays of {geometry.blocks[0].rows} × {geometry.blocks[0].columns} pixels, "
            f"as {geometry.path or 'the geometry'} has them",
        )  # fmt: skip
    if len(chosen) > 1:
        raise InputError(
            "several detectors of this run suit the geometry", path=path, found=described, expected="one",
            remedy="name it in the geometry file, such as 'data = /INSTRUMENT/SPB_DET_AGIPD1M-1/'",
        )  # fmt: skip
    return chosen[0]


def _interfaces(run: Any, kind: Any, name: str, places: tuple[ModulePlace, ...], path: str) -> dict[int, Any]:
    """EXtra-data's view of each module that has data, corrected ones where there are any.

    Of each module by itself: a detector as a whole may not have more pulses of one module than of another.
    """
    from extra_data.exceptions import SourceNameError

    first_number = 1 if kind.__name__ == "JUNGFRAU" else 0
    found = {}
    for raw in (False, True):
        for place in places:
            try:
                found[place.module] = kind(run, name, modules={place.module + first_number}, raw=raw)
            except (SourceNameError, ValueError):
                # There is no such module, or no train with data of it.
                continue
        if found:
            break
    if found and raw:
        warnings.warn(
            f"{path}: the data of {name} are raw: no offset is subtracted and no gain applied; take the corrected run "
            f"(proc) where there is one",
            SfxlabWarning,
            stacklevel=2,
        )
    return found


def _keys(interface: Any) -> tuple[Any, Any | None]:
    """EXtra-data's pixels and mask of a module."""
    run, source = interface.data, next(iter(interface.source_to_modno))
    known = run.keys_for_source(source)
    pixels, mask = next((pixels, mask) for pixels, mask in _KEYS if pixels in known)
    return run[source, pixels], run[source, mask] if mask in known else None


def _module_rows(pixels: Any, mask: Any | None, files: list[ModuleFile], path: str) -> _ModuleRows:
    """The frames of a module; its files are appended to `files`."""
    parts = list(_file_rows(pixels, mask, files, path))
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return _ModuleRows(empty, *(empty.astype(np.int32),) * 3)
    keys, numbers, rows, cells = (np.concatenate(column) for column in zip(*parts, strict=True))
    # A train can be in two files of a run that was interrupted; the first has it.
    unique, first = np.unique(keys, return_index=True)
    return _ModuleRows(unique, *(column[first].astype(np.int32) for column in (numbers, rows, cells)))


def _file_rows(pixels: Any, mask: Any | None, files: list[ModuleFile], path: str) -> Iterator[tuple[Any, ...]]:
    """Of each file of a module: keys, number of the file, rows and cells of its frames."""
    group = pixels.key.partition(".")[0]
    for file in sorted(pixels.files, key=lambda one: str(one.filename)):
        firsts, counts = file.get_index(pixels.source, group)
        firsts, counts = firsts.astype(np.int64), counts.astype(np.int64)
        if not counts.sum():
            continue
        trains = np.repeat(np.asarray(file.train_ids, dtype=np.int64), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(firsts, counts) + within
        cells = np.full(len(rows), -1)
        if group == "image":
            pulses = _pulse_ids(file, pixels.source, rows, trains, within, path)
        else:
            n_cells = pixels.entry_shape[0] if len(pixels.entry_shape) == 3 else 0
            repeated = max(n_cells, 1)
            trains, rows = np.repeat(trains, repeated), np.repeat(rows, repeated)
            pulses = np.repeat(within, repeated) * repeated + np.tile(np.arange(repeated), len(within))
            cells = np.tile(np.arange(repeated) if n_cells else [-1], len(within))
        files.append(ModuleFile(str(file.filename), pixels.hdf5_data_path, "" if mask is None else mask.hdf5_data_path))
        yield (trains << _PULSE_BITS) | pulses, np.full(len(rows), len(files) - 1), rows, cells


def _pulse_ids(
    file: Any, source: str, rows: NDArray[np.int64], trains: NDArray[np.int64], within: NDArray[np.int64], path: str
) -> NDArray[np.int64]:
    """Pulse ids of the rows of a file; positions in the train where the ids are wrong."""
    stored = np.asarray(file.file[f"/INSTRUMENT/{source}/image/pulseId"][()]).reshape(-1).astype(np.int64)
    pulses = stored[rows]
    keys = (trains << _PULSE_BITS) | pulses
    if pulses.min() >= 0 and pulses.max() < 1 << _PULSE_BITS and len(np.unique(keys)) == len(keys):
        return np.asarray(pulses)
    warnings.warn(
        f"{path}: pulse ids repeat within a train in {os.path.basename(file.filename)}; frames are named by their "
        f"position in the train",
        SfxlabWarning,
        stacklevel=2,
    )
    return within
