"""Looking into a file before any work is done: which frames it has, and whether the geometry fits it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

from sfxlab.errors import GeometryError, InputError, SfxlabWarning
from sfxlab.frames.chunks import StoredArray
from sfxlab.frames.events import PLACEHOLDER, EventRange, all_events, fill_placeholders, tags_in
from sfxlab.frames.growing import length_written
from sfxlab.frames.hdf5 import quantity_of_frame
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFile, OpenFiles
from sfxlab.frames.joined_data import awaited_links
from sfxlab.frames.layout import check_block, frame_axes
from sfxlab.frames.pixel_masks import PixelMasks
from sfxlab.frames.saturation_maps import SaturationMaps
from sfxlab.frames.virtual_data import VirtualArray, check_sources
from sfxlab.geometry import Geometry, Quantity

_SAME_UNIT = {"angstrom": "A", "å": "A", "ångström": "A", "ev": "eV", "kev": "keV", "metre": "m", "meter": "m"}


def has_placeholders(geometry: Geometry) -> bool:
    """Whether a file may have more than one frame."""
    return any(PLACEHOLDER in block.data.split("/") or PLACEHOLDER in block.dims for block in geometry.blocks)


def survey_file(geometry: Geometry, files: OpenFiles, path: str) -> tuple[EventRange, ...]:
    """The frames of a file, in order.

    Raises `InputError` or `GeometryError` naming the file and the HDF5 path where the file cannot be read, or where
    data, masks, saturation map, photon energy or camera length are missing or do not fit the geometry.
    """
    file = files[path]
    try:
        shapes = {tags: _frame_shape(geometry, file, tags) for tags in _tags(geometry, file)}
        ranges = tuple(all_events(path, tags, shape) for tags, shape in shapes.items() if math.prod(shape))
        if ranges:
            _check_quantities(geometry, file, ranges[0])
            for arrays in (PixelMasks(geometry), SaturationMaps(geometry)):
                arrays.check(files, path, ranges[0].tags, ranges[0].indices(0))
            _check_sources_beside(geometry, files, ranges[0])
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
    written: list[int] = []
    for block in geometry.blocks:
        path = fill_placeholders(block.data, tags)
        dataset = file.dataset(path)
        check_block(geometry, block, dataset)
        check_sources(file.array(path), "frames that lie in them cannot be read, parts of frames that do are masked")
        _warn_of_awaited(file, path)
        shapes[path] = frame_axes(block.dims, dataset.shape)
        if PLACEHOLDER in block.dims:
            written += _written(file.array(path), block.dims.index(PLACEHOLDER))
    if written:
        n_frames = min(*written, *_table_lengths(geometry, file, tags), *(shape[0] for shape in shapes.values()))
        shapes = {path: (n_frames, *shape[1:]) for path, shape in shapes.items()}
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


def _warn_of_awaited(file: OpenFile, path: str) -> None:
    if awaited := awaited_links(file.file, path):
        warnings.warn(
            f"{file.path}, {path}: data files that it links to are not there yet, from {awaited[0]} on; the frames "
            "before are read",
            SfxlabWarning,
            stacklevel=2,
        )


def _written(array: StoredArray, axis: int) -> list[int]:
    """How many frames there are in an array that another process is writing; nothing where none is."""
    if isinstance(array, VirtualArray):
        length = array.length_written(axis)
        return [] if length is None else [length]
    return [length_written(array.dataset, axis)] if array.dataset.file.swmr_mode else []


def _table_lengths(geometry: Geometry, file: OpenFile, tags: tuple[str, ...]) -> Iterator[int]:
    """Lengths of the tables with a number for each frame that grow too, perhaps behind the frames."""
    for quantity in _quantities(geometry):
        if isinstance(quantity.value, str):
            table = file.dataset(fill_placeholders(quantity.value, tags))
            if table.file.swmr_mode and table.shape and table.maxshape[0] != table.shape[0]:
                yield int(table.shape[0])


def _check_sources_beside(geometry: Geometry, files: OpenFiles, frames: EventRange) -> None:
    """Warn of missing files that virtual datasets beside the data refer to; raises `InputError` where all are."""

    def array(place: str, file: str | None = None) -> StoredArray:
        return files[file or frames.path].array(fill_placeholders(place, frames.tags))

    # European XFEL's masks lie in the files of the data.
    known = {name for block in geometry.blocks for name in _missing_files(array(block.data))}
    consequences: dict[str, list[tuple[str, str | None]]] = {
        "pixels whose masks lie in them are masked": [(a.data, a.file) for a in PixelMasks(geometry).arrays],
        "pixels whose saturation values lie in them are saturated by max_adu alone":
            [(a.data, a.file) for a in SaturationMaps(geometry).arrays],
        "frames whose values lie in them cannot be read":
            [(q.value, None) for q in _quantities(geometry) if isinstance(q.value, str)],
    }  # fmt: skip
    for consequence, places in consequences.items():
        for place, file in dict.fromkeys(places):
            if not known.issuperset(_missing_files(array(place, file))):
                check_sources(array(place, file), consequence)


def _missing_files(array: StoredArray) -> list[str]:
    return array.missing_files() if isinstance(array, VirtualArray) else []


def _quantities(geometry: Geometry) -> list[Quantity]:
    of_frames = (
        geometry.photon_energy, geometry.camera_length, geometry.detector_shift_x, geometry.detector_shift_y
    )  # fmt: skip
    return [quantity for quantity in of_frames if quantity is not None]


def _check_quantities(geometry: Geometry, file: OpenFile, frames: EventRange) -> None:
    for quantity in _quantities(geometry):
        for position in (0, len(frames) - 1):
            quantity_of_frame(quantity, file, frames.tags, frames.indices(position))
