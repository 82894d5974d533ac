"""Finding the frames that a user names: files, globs, directories, lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike

import numpy as np

from sfxlab.errors import GeometryError, InputError
from sfxlab.frames.euxfel import holds_run, is_run_directory, open_run_directories
from sfxlab.frames.events import EventRange, parse_event
from sfxlab.frames.frame import FrameSource
from sfxlab.frames.hdf5 import Hdf5Frames
from sfxlab.frames.hdf5_file import OpenFiles
from sfxlab.frames.images import is_image_file, open_images
from sfxlab.frames.listing import Listed, expand
from sfxlab.frames.nexus import carried_geometry, without_data_files
from sfxlab.frames.survey import has_placeholders, survey_file, warn_of_units
from sfxlab.geometry import Geometry, PanelSource, read_geometry
from sfxlab.remote.addresses import beside, is_address

Inputs = str | PathLike[str] | Sequence[str | PathLike[str]]

_MOST_SURVEYED = 100
"""Of more files with a single frame each, only the first is opened beforehand: there may be 100,000."""


def open_frames(inputs: Inputs, geometry: str | PathLike[str] | Geometry | None = None) -> FrameSource:
    """The frames of a file, a glob, a directory, a `.lst` list with or without events, or several of these.

    Files are HDF5 (CXI, NeXus…), images that fabio reads (CBF, SMV, TIFF…), or whole run directories of European XFEL;
    all of one kind. HDF5 files of many frames are all opened once, read nowhere but in their headers and small tables.
    Of more than 100 single-frame files only the first is opened; one that cannot be read is a `FrameError` later on.
    Of HDF5 files that a SWMR writer is still filling there are the frames so far: open again for those that come later.

    Raises `InputError` or `GeometryError` with file, place and what to do where there is nothing to read, a file cannot
    be read, or the geometry does not fit.
    """
    named = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    listed = [entry for item in named for entry in expand(os.fspath(item), holds_run)]
    if not listed:
        raise InputError("no files are given", expected="a file, a glob, a directory or a .lst list of frames")
    kind = _kind(listed[0].path)
    other = next((entry for entry in listed if _kind(entry.path) is not kind), None)
    if other is not None:
        raise InputError(
            "the inputs are of different kinds", path=other.path, found=_kind(other.path).name,
            expected=f"{kind.name}, as {listed[0].path}", remedy="process them apart",
        )  # fmt: skip
    if geometry is not None:
        geometry = _with_named_files(geometry if isinstance(geometry, Geometry) else read_geometry(os.fspath(geometry)))
    frames = kind.open(listed, geometry)
    if not len(frames):
        raise InputError(
            "there are no frames", path=named[0], found=f"{len({entry.path for entry in listed})} files without frames",
            expected="at least one frame", remedy="is the run still being written, or 'data' the wrong HDF5 path?",
        )  # fmt: skip
    return frames


def _open_hdf5(listed: Sequence[Listed], geometry: Geometry | None) -> FrameSource:
    """The frames of HDF5 files; without a geometry those of NXmx masters."""
    listed = without_data_files(listed)
    files = OpenFiles()
    if geometry is None:
        geometry = carried_geometry(files, (entry.path for entry in listed))
    frames = Hdf5Frames(geometry, list(_find(geometry, files, listed)))
    if len(frames):
        first = frames.ranges[0]
        warn_of_units(geometry, files[first.path], first.tags)
    return frames


def _find(geometry: Geometry, files: OpenFiles, listed: Sequence[Listed]) -> Iterator[EventRange]:
    """The frames that the inputs name, neighbours together."""
    surveyed: dict[str, tuple[EventRange, ...]] = {}
    many = not has_placeholders(geometry) and len(listed) > _MOST_SURVEYED
    for path, group in groupby(listed, key=lambda entry: entry.path):
        if path not in surveyed:
            single = (EventRange(path, (), (), range(1)),)
            surveyed[path] = single if many and surveyed else survey_file(geometry, files, path)
        for whole, entries in groupby(group, key=lambda entry: entry.event is None):
            if whole:
                for _ in entries:
                    yield from surveyed[path]
            else:
                yield from _join(_named_event(entry, surveyed[path]) for entry in entries)


def _named_event(entry: Listed, frames: tuple[EventRange, ...]) -> tuple[EventRange, int]:
    """The range that holds an event of a list, and its number there."""
    try:
        tags, indices = parse_event(entry.event or "")
        part = next(part for part in frames if part.tags == tags and len(part.shape) == len(indices))
        return part, int(np.ravel_multi_index(indices, part.shape)) if indices else 0
    except (ValueError, OverflowError, TypeError, StopIteration):
        known = f"{frames[0].event(0)} to {frames[-1].event(len(frames[-1]) - 1)}" if frames else "no frame"
        raise entry.unknown_event(known) from None


def _join(events: Iterable[tuple[EventRange, int]]) -> Iterator[EventRange]:
    for part, group in groupby(events, key=lambda event: event[0]):
        numbers = [number for _, number in group]
        consecutive = range(numbers[0], numbers[0] + len(numbers))
        chosen = consecutive if numbers == list(consecutive) else np.array(numbers, dtype=np.int64)
        yield replace(part, events=chosen)


def _with_named_files(geometry: Geometry) -> Geometry:
    """The geometry with the absolute paths of the files that it names, for workers that run elsewhere."""
    found: dict[str, str] = {}
    for source in geometry.panels:
        for name, (kind, key) in _named_files(source).items():
            if name in found:
                continue
            candidates = _candidates(name, geometry.path)
            file = next((path for path in candidates if is_address(path) or os.path.isfile(path)), None)
            if file is None:
                raise GeometryError(
                    f"there is no such {kind}", path=geometry.path, place=f"panel {source.panel.name}", found=name,
                    expected=f"one of {', '.join(candidates)}", remedy=f"correct {key} in the geometry file",
                )  # fmt: skip
            found[name] = file
    if not found:
        return geometry
    panels = tuple(
        replace(
            s, masks=tuple(replace(m, file=found[m.file]) if m.file else m for m in s.masks),
            saturation_map_file=s.saturation_map_file and found[s.saturation_map_file],
        )
        for s in geometry.panels
    )  # fmt: skip
    return replace(geometry, panels=panels)


def _named_files(source: PanelSource) -> dict[str, tuple[str, str]]:
    """The files that a panel names, with what they are and the key that names them."""
    files = {mask.file: ("mask file", "mask…_file") for mask in source.masks if mask.file is not None}
    if source.saturation_map_file is not None:
        files[source.saturation_map_file] = ("saturation map file", "saturation_map_file")
    return files


def _candidates(name: str, geometry_path: str | None) -> list[str]:
    """Where a file may be that a geometry file names: from the working directory, or from the geometry file on."""
    if is_address(name):
        return [name]
    if geometry_path is not None and is_address(geometry_path):
        return [beside(geometry_path, name)]
    places = ["", os.path.dirname(geometry_path)] if geometry_path else [""]
    return [os.path.abspath(os.path.join(place, name)) for place in places]


@dataclass(frozen=True)
class _Kind:
    """A kind of input: how to know it and how to open it."""

    name: str
    holds: Callable[[str], bool]
    """Whether a path is of this kind."""
    open: Callable[[Sequence[Listed], Geometry | None], FrameSource]


_KINDS = (
    _Kind("a European XFEL run directory", is_run_directory, open_run_directories),
    _Kind("an image file", is_image_file, open_images),
    _Kind("an HDF5 file", lambda path: True, _open_hdf5),
)
"""In the order of asking."""


def _kind(path: str) -> _Kind:
    return next(kind for kind in _KINDS if kind.holds(path))
