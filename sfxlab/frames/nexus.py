"""Files that carry their geometry: NXmx masters, and the data files beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from sfxlab.errors import GeometryError, InputError
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFile, OpenFiles
from sfxlab.frames.listing import Listed
from sfxlab.geometry import Geometry
from sfxlab.geometry.nexus import is_nexus_mx, read_nexus_geometry

_DATA_FILE = re.compile(r"(.+)_data_\d+(\.\w+)")


def carried_geometry(files: OpenFiles, paths: Iterable[str]) -> Geometry:
    """The geometry that all files carry.

    Raises `GeometryError` where one of them carries none, or another than the first, `InputError` where it is damaged.
    """
    first: Geometry | None = None
    for path in dict.fromkeys(paths):
        geometry = _geometry_of(files[path])
        first = first or geometry
        if geometry != first:
            raise GeometryError(
                "the files carry different geometries", path=path, expected=f"that of {first.path}",
                remedy="process them apart, or give one geometry for all with -g",
            )  # fmt: skip
    if first is None:
        raise GeometryError("there are no files that could carry a geometry")
    return first


def _geometry_of(file: OpenFile) -> Geometry:
    try:
        if is_nexus_mx(file.file):
            return read_nexus_geometry(file.file, file.dataset)
    except (*READ_ERRORS, TypeError) as error:
        raise InputError(
            "the file is damaged where its geometry is", path=file.path, found=str(error),
            remedy="copy it again, or give a geometry file with -g",
        ) from error  # fmt: skip
    raise _no_geometry(file.path)


def without_data_files(listed: Sequence[Listed]) -> list[Listed]:
    """The inputs without the data files of masters that are inputs too, because the masters give all their frames."""
    paths = {entry.path for entry in listed}
    return [entry for entry in listed if entry.event is not None or _master_of(entry.path) not in paths]


def _master_of(path: str) -> str | None:
    """Dectris' name for the master of what is named like a data file."""
    match = _DATA_FILE.fullmatch(path)
    return f"{match[1]}_master{match[2]}" if match else None


def _no_geometry(path: str) -> GeometryError:
    master = _master_of(path)
    if master is None:
        return GeometryError(
            "this file does not carry its geometry", path=path, expected="a CrystFEL geometry file",
            remedy="give one with -g FILE.geom, or in Python open_frames(inputs, 'FILE.geom')",
        )  # fmt: skip
    found = "it is there" if os.path.exists(master) else "there is none of that name"
    return GeometryError(
        "this is a data file; the geometry is in its master", path=path, found=f"{found}: {master}",
        expected="the master, which gives the frames of all its data files",
        remedy="give the master instead, or a geometry file with -g",
    )  # fmt: skip
