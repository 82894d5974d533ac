"""Finding the frames that a user names: files, globs, directories, lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike
from pathlib import Path

import numpy as np

from sfxlab.errors import GeometryError, InputError
from sfxlab.frames.events import EventRange, parse_event
from sfxlab.frames.frame import FrameSource
from sfxlab.frames.hdf5 import Hdf5Frames
from sfxlab.frames.hdf5_file import OpenFiles
from sfxlab.frames.survey import has_placeholders, survey_file, warn_of_units
from sfxlab.geometry import Geometry, read_geometry

Inputs = str | PathLike[str] | Sequence[str | PathLike[str]]

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".cxi", ".nxs")
LIST_SUFFIXES = (".lst", ".list", ".txt")
_MOST_SURVEYED = 100
"""Of more files with a single frame each, only the first is opened beforehand: there may be 100,000."""


def open_frames(inputs: Inputs, geometry: str | PathLike[str] | Geometry | None = None) -> FrameSource:
    """The frames of a file, a glob, a directory, a `.lst` list with or without events, or several of these.

    Files of many frames are all opened once, read nowhere but in their headers and small tables. Of more than 100
    single-frame files only the first is opened; another that cannot be read is a `FrameError` later on.

    Raises `InputError` or `GeometryError` with file, place and what to do where there is nothing to read, a file cannot
    be read, or the geometry does not fit.
    """
    named = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    listed = [entry for item in named for entry in _expand(os.fspath(item))]
    if not listed:
        raise InputError("no files are given", expected="a file, a glob, a directory or a .lst list of frames")
    if geometry is None:
        raise GeometryError(
            "this file does not carry its geometry", path=listed[0].path, expected="a CrystFEL geometry file",
            remedy="give one with -g FILE.geom, or in Python open_frames(inputs, 'FILE.geom')",
        )  # fmt: skip
    if not isinstance(geometry, Geometry):
        geometry = read_geometry(Path(geometry))
    geometry = _with_mask_files(geometry)
    files = OpenFiles()
    frames = Hdf5Frames(geometry, list(_find(geometry, files, listed)))
    if not len(frames):
        raise InputError(
            "there are no frames", path=named[0], found=f"{len({entry.path for entry in listed})} files without frames",
            expected="at least one frame", remedy="is the run still being written, or 'data' the wrong HDF5 path?",
        )  # fmt: skip
    first = frames.ranges[0]
    warn_of_units(geometry, files[first.path], first.tags)
    return frames


def _expand(item: str) -> Iterator[_Listed]:
    """The files, and events of them, that one input names."""
    if "://" in item:
        raise InputError("addresses cannot be read here", path=item, expected="a path", remedy="copy or mount the file")
    if os.path.isdir(item):
        paths = sorted(p for p in os.listdir(item) if p.lower().endswith(HDF5_SUFFIXES) and not p.startswith("."))
        if not paths:
            raise InputError(
                "the directory has no HDF5 files", path=item, found=f"{len(os.listdir(item))} other files",
                expected=f"files ending in {', '.join(HDF5_SUFFIXES)}", remedy="give a glob such as 'run*/data_*.h5'",
            )  # fmt: skip
        yield from (_Listed(os.path.abspath(os.path.join(item, p))) for p in paths)
    elif not os.path.exists(item) and glob.has_magic(item):
        paths = sorted(glob.glob(item, recursive=True))
        if not paths:
            raise InputError("no file matches", path=item, remedy="check the pattern; in a shell, quote it")
        for path in paths:
            yield from _expand(path)
    elif not os.path.exists(item):
        raise InputError(
            "there is no such file", path=item, expected="an HDF5 file, a glob, a directory or a .lst list",
            remedy=f"the working directory is {os.getcwd()}" if not os.path.isabs(item) else "check the path",
        )  # fmt: skip
    elif item.lower().endswith(LIST_SUFFIXES):
        yield from _read_list(item)
    else:
        yield _Listed(os.path.abspath(item))


def _read_list(path: str) -> Iterator[_Listed]:
    """Files of a list, one a line, each with or without an event (METHODS.md section 1.3)."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the list cannot be read", path=path, found=str(error), expected="text") from error
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = True
        *head, last = line.strip().rsplit(None, 1)
        name, event = (head[0], last) if head and "//" in last else (line.strip(), None)
        place = f"line {number}"
        near = os.path.join(os.path.dirname(path), name)
        file = next((candidate for candidate in (name, near) if os.path.isfile(candidate)), None)
        if file is None:
            raise InputError(
                "the list names a file that does not exist", path=path, place=place, found=name,
                expected=f"a path from {os.getcwd()}, or from the list's own directory",
            )  # fmt: skip
        yield _Listed(os.path.abspath(file), event, path, place)
    if not found:
        raise InputError("the list is empty", path=path, expected="one file a line, and an event where wanted")


def _find(geometry: Geometry, files: OpenFiles, listed: Sequence[_Listed]) -> Iterator[EventRange]:
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


def _named_event(entry: _Listed, frames: tuple[EventRange, ...]) -> tuple[EventRange, int]:
    """The range that holds an event of a list, and its number there."""
    try:
        tags, indices = parse_event(entry.event or "")
        part = next(part for part in frames if part.tags == tags and len(part.shape) == len(indices))
        return part, int(np.ravel_multi_index(indices, part.shape)) if indices else 0
    except (ValueError, StopIteration):
        known = f"{frames[0].event(0)} to {frames[-1].event(len(frames[-1]) - 1)}" if frames else "no frame"
        raise InputError(
            "the list names an event that does not exist", path=entry.list_path, place=entry.place, found=entry.event,
            expected=f"{known} of {entry.path}", remedy="correct the list, or leave out the event to take them all",
        ) from None  # fmt: skip


def _join(events: Iterable[tuple[EventRange, int]]) -> Iterator[EventRange]:
    for part, group in groupby(events, key=lambda event: event[0]):
        numbers = [number for _, number in group]
        consecutive = range(numbers[0], numbers[0] + len(numbers))
        chosen = consecutive if numbers == list(consecutive) else np.array(numbers, dtype=np.int64)
        yield replace(part, events=chosen)


def _with_mask_files(geometry: Geometry) -> Geometry:
    """The geometry with the absolute paths of its mask files, for workers that run elsewhere."""
    places = ["", os.path.dirname(geometry.path)] if geometry.path else [""]
    found: dict[str, str] = {}
    for source in geometry.panels:
        for name in {mask.file for mask in source.masks if mask.file is not None} - found.keys():
            candidates = [os.path.abspath(os.path.join(place, name)) for place in places]
            file = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
            if file is None:
                raise GeometryError(
                    "there is no such mask file", path=geometry.path, place=f"panel {source.panel.name}", found=name,
                    expected=f"one of {', '.join(candidates)}", remedy="correct mask…_file in the geometry file",
                )  # fmt: skip
            found[name] = file
    if not found:
        return geometry
    panels = tuple(
        replace(s, masks=tuple(replace(m, file=found[m.file]) if m.file else m for m in s.masks))
        for s in geometry.panels
    )
    return replace(geometry, panels=panels)


@dataclass(frozen=True)
class _Listed:
    """A file, or an event of it, and the list that named it."""

    path: str
    event: str | None = None
    list_path: str | None = None
    place: str | None = None
