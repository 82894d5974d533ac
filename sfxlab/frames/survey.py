"""Looking into a file before any work is done: which frames it has, and whether the geometry fits it."""

from __future__ import annotations

import math
import warnings

from sfxlab.errors import GeometryError, InputError, SfxlabWarning
from sfxlab.frames.events import PLACEHOLDER, EventRange, all_events, fill_placeholders, tags_in
from sfxlab.frames.hdf5 import quantity_of_frame
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFile, OpenFiles
from sfxlab.frames.layout import check_block, frame_axes
from sfxlab.frames.pixel_masks import PixelMasks
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.geometry import Geometry

_SAME_UNIT = {"angstrom": "A", "å": "A", "ångström": "A", "ev": "eV", "kev": "keV", "metre": "m", "meter": "m"}


def has_placeholders(geometry: Geometry) -> bool:
    """Whether a file may have more than one frame."""
    return any(PLACEHOLDER in block.data.split("/") or PLACEHOLDER in block.dims for block in geometry.blocks)


def survey_file(geometry: Geometry, files: OpenFiles, path: str) -> tuple[EventRange, ...]:
    """The frames of a file, in order.

    Raises `InputError` or `GeometryError` naming the file and the HDF5 path where the file cannot be read, or where
    data, masks, photon energy or camera length are missing or do not fit the geometry.
    """
    file = files[path]
    try:
        shapes = {tags: _frame_shape(geometry, file, tags) for tags in _tags(geometry, file)}
        ranges = tuple(all_events(path, tags, shape) for tags, shape in shapes.items() if math.prod(shape))
        if ranges:
            _check_quantities(geometry, file, ranges[0])
            PixelMasks(geometry).check(files, path, ranges[0].tags, ranges[0].indices(0))
    except READ_ERRORS as error:
        raise InputError("the file is damaged", path=path, found=str(error), remedy="copy it again") from error
    return ranges


def warn_of_units(geometry: Geometry, file: OpenFile, tags: tuple[str, ...]) -> None:
    """Warn where a dataset says that its unit is another than the geometry takes it for."""
    for quantity in (geometry.photon_energy, geometry.camera_length):
        if isinstance(quantity.value, float):
            continue
        path = fill_placeholders(quantity.value, tags)
        unit = file.dataset(path).attrs.get("units")
        unit = unit.decode() if isinstance(unit, bytes) else unit
        if isinstance(unit, str) and _SAME_UNIT.get(unit.lower(), unit) != quantity.unit:
            warnings.warn(
                f"{file.path}, {path}: '{quantity.key}' is taken to be in {quantity.unit}, but the file says '{unit}'; "
                f"write the unit after the path in the geometry file",
                SfxlabWarning,
                stacklevel=2,
            )


def _tags(geometry: Geometry, file: OpenFile) -> list[tuple[str, ...]]:
    pattern = geometry.blocks[0].data
    if PLACEHOLDER not in pattern.split("/"):
        return [()]
    tags = list(tags_in(file.file, pattern))
    if not tags:
        raise InputError(
            "nothing in the file matches the HDF5 path", path=file.path, place=pattern,
            found=", ".join(f"/{name}" for name in list(file.file)[:12]) or "an empty file",
            expected="a dataset at that path, any one name in the place of each %",
            remedy="correct 'data' in the geometry file",
        )  # fmt: skip
    return tags


def _frame_shape(geometry: Geometry, file: OpenFile, tags: tuple[str, ...]) -> tuple[int, ...]:
    """Sizes of the axes of frames, in which all data arrays have to agree."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in geometry.blocks:
        path = fill_placeholders(block.data, tags)
        dataset = file.dataset(path)
        check_block(geometry, block, dataset)
        _warn_of_missing_sources(file, path)
        shapes[path] = frame_axes(block.dims, dataset.shape)
    (first, shape), *others = shapes.items()
    for path, other in others:
        if other != shape:
            raise GeometryError(
                "data arrays have different numbers of frames", path=file.path, place=path,
                found=" × ".join(str(n) for n in other),
                expected=f"{' × '.join(str(n) for n in shape)} as {first} has",
                remedy="these arrays were not recorded together, or dim… has '%' in the wrong place",
            )  # fmt: skip
    return shape


def _check_quantities(geometry: Geometry, file: OpenFile, frames: EventRange) -> None:
    quantities = (
        geometry.photon_energy,
        geometry.camera_length,
        geometry.detector_shift_x,
        geometry.detector_shift_y,
    )
    for quantity in quantities:
        if quantity is not None:
            for position in (0, len(frames) - 1):
                quantity_of_frame(quantity, file, frames.tags, frames.indices(position))


def _warn_of_missing_sources(file: OpenFile, path: str) -> None:
    """HDF5 silently gives a fill value for the parts of a virtual dataset whose files are not there."""
    sources = file.array(path)
    if not isinstance(sources, VirtualArray) or not (missing := sources.missing_files()):
        return
    if len(missing) == len(sources.files):
        raise InputError(
            "all files that this virtual dataset refers to are missing", path=file.path, place=path,
            found=f"no {missing[0]}", expected="that file beside this one", remedy="copy the data files too",
        )  # fmt: skip
    warnings.warn(
        f"{file.path}, {path}: {len(missing)} of the {len(sources.files)} files that it refers to are missing "
        f"({missing[0]}…); frames that lie in them cannot be read, parts of frames that do are masked",
        SfxlabWarning,
        stacklevel=2,
    )
