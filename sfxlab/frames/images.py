"""Frames from image files: CBF, SMV, TIFF, EDF and whatever else fabio reads, one frame a file or several."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import FrameError, GeometryError, InputError, SfxlabWarning, UnreachableError
from sfxlab.frames.events import format_event, parse_event
from sfxlab.frames.frame import Frame, FrameId
from sfxlab.frames.hdf5_file import OpenFiles
from sfxlab.frames.image_file import Image, read_image
from sfxlab.frames.image_header import BEAM_X, BEAM_Y, DISTANCE, geometry_of_header, read_header
from sfxlab.frames.listing import IMAGE_SUFFIXES, Listed
from sfxlab.frames.pixel_masks import PixelMasks
from sfxlab.frames.saturation_maps import SaturationMaps, check_separate_maps
from sfxlab.frames.sequence import FrameSequence, as_slice, detector_at
from sfxlab.geometry import Geometry, Quantity

_SINGLE_SUFFIXES = (".cbf", ".cbf.gz", ".cbf.bz2", ".img", ".smv", ".mccd")
"""Formats that never have more than one image in a file."""
_MOST_SURVEYED = 100
_ENERGY_TOLERANCE = 0.02


def is_image_file(path: str) -> bool:
    """Whether a path has the ending of a format that fabio reads."""
    return path.lower().endswith(IMAGE_SUFFIXES)


@dataclass(frozen=True)
class ImageName:
    """An image of a file; `number` is None where the file has no other."""

    path: str
    number: int | None = None

    @property
    def event(self) -> str:
        """`//` of a single image, `//3` of the fourth of several."""
        return format_event((), () if self.number is None else (self.number,))


def open_images(listed: Sequence[Listed], geometry: Geometry | None) -> ImageFrames:
    """The frames of image files, of which only as many are opened as it takes.

    Of a geometry file, `data` and `dim…` mean nothing here: its panels are parts of the one image. A photon energy or
    a camera length that it gives as a path are those of each file's header. Without a geometry file the header has to
    describe the detector.

    Raises `InputError` where no file can be read, `GeometryError` where the geometry does not fit or is missing.
    """
    path, first = _first_readable(list(dict.fromkeys(entry.path for entry in listed)))
    if geometry is None:
        geometry = geometry_of_header(read_header(first.header), first.data.shape, path)
    _check(geometry, first, path)
    check_separate_maps(geometry, path)
    return ImageFrames(geometry, _names(listed, path, first))


class ImageFrames(FrameSequence):
    """Frames of image files; `open_frames` makes them."""

    def __init__(self, geometry: Geometry, images: Sequence[ImageName], numbers: range | None = None) -> None:
        super().__init__(geometry, range(len(images)) if numbers is None else numbers)
        self.images = tuple(images)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageFrames, (self.geometry, self.images, self.numbers)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The files, in order of first use."""
        return tuple(dict.fromkeys(image.path for image in self.images))

    def _identity(self, position: int) -> FrameId:
        return FrameId(self.images[position].path, self.images[position].event)

    def _part(self, positions: range) -> ImageFrames:
        return ImageFrames(self.geometry, self.images[as_slice(positions)], self._numbers_at(positions))

    def _frame(self, position: int, name: FrameId) -> Frame:
        image = self._image(position)
        rows, columns = self.geometry.shape
        if image.data.shape[0] < rows or image.data.shape[1] < columns:
            raise _shape_error(self.geometry, image, name.path)
        data = np.ascontiguousarray(image.data[:rows, :columns])
        header = read_header(image.header)
        lengths = [
            0.0 if quantity is None else _of_header(quantity, header.value(path))
            for quantity, path in (
                (self.geometry.camera_length, DISTANCE),
                (self.geometry.detector_shift_x, BEAM_X),
                (self.geometry.detector_shift_y, BEAM_Y),
            )
        ]
        if not all(math.isfinite(length) for length in lengths):
            raise InputError(
                "the header does not say where the detector is", path=name.path, expected="a distance and beam centre",
                remedy="give a geometry file with -g FILE.geom that says 'clen = … m' with the number",
            )  # fmt: skip
        detector = detector_at(self.geometry, lengths[0], (lengths[1], lengths[2]))
        energy = _of_header(self.geometry.photon_energy, header.photon_energy)
        bad, number = self._bad(data), self.numbers[position]
        return Frame(data, bad, energy, detector, name, number, image.header, self._saturation_map)

    def _image(self, position: int) -> Image:
        wanted = self.images[position]
        image = read_image(wanted.path, wanted.number or 0)
        if wanted.number is None and image.n_images > 1:
            raise FrameError(
                "the file has several images, not one as the first file has", path=wanted.path,
                found=f"{image.n_images} images", remedy="open it by itself",
            )  # fmt: skip
        return image

    def _photon_energy(self, position: int) -> float:
        try:
            return read_header(self._image(position).header).photon_energy
        except InputError:
            return math.nan

    @property
    def _compression(self) -> str:
        return read_image(self.images[0].path).format

    @cached_property
    def _masks(self) -> PixelMasks:
        return PixelMasks(self.geometry)

    @cached_property
    def _lasting(self) -> NDArray[np.uint8]:
        """What is bad in every frame."""
        return self._masks.of_geometry(OpenFiles())

    @cached_property
    def _saturation_map(self) -> NDArray[np.float32] | None:
        return SaturationMaps(self.geometry).of_geometry(OpenFiles())

    def _bad(self, data: NDArray[Any]) -> NDArray[np.uint8]:
        return self._masks.with_values(data, self._lasting)


def _of_header(quantity: Quantity, in_header: float) -> float:
    """A quantity in metres or eV, of the geometry file where that has the number, or else of the header."""
    return quantity.convert(quantity.value) if isinstance(quantity.value, float) else in_header


def _first_readable(paths: Sequence[str]) -> tuple[str, Image]:
    """The first file that can be read, and its first image. One damaged file is no reason to give up."""
    damage: InputError | None = None
    for path in paths[:_MOST_SURVEYED]:
        try:
            return path, read_image(path)
        except UnreachableError:
            raise
        except InputError as error:
            damage = damage or error
    raise damage or InputError("no files are given")


def _names(listed: Sequence[Listed], first_path: str, first: Image) -> list[ImageName]:
    """The images that the inputs name. Files after the first are opened where they may hold several."""
    counts = {first_path: first.n_images}
    paths = dict.fromkeys(entry.path for entry in listed)
    if first.n_images > 1 or len(paths) <= _MOST_SURVEYED:
        for path in paths.keys() - counts.keys():
            if not path.lower().endswith(_SINGLE_SUFFIXES):
                counts[path] = _count(path)
    names = []
    for entry in listed:
        count = counts.get(entry.path, 1)
        all_of_file = [ImageName(entry.path, number if count > 1 else None) for number in range(count)]
        names += all_of_file if entry.event is None else [_named(entry, all_of_file)]
    return names


def _count(path: str) -> int:
    try:
        return max(read_image(path).n_images, 1)
    except UnreachableError:
        raise
    except InputError:
        # It is said when the frame is wanted.
        return 1


def _named(entry: Listed, images: Sequence[ImageName]) -> ImageName:
    try:
        wanted = parse_event(entry.event or "")
        return next(image for image in images if parse_event(image.event) == wanted)
    except (ValueError, StopIteration):
        raise entry.unknown_event(f"{images[0].event} to {images[-1].event}") from None


def _check(geometry: Geometry, image: Image, path: str) -> None:
    """Raise `GeometryError` where a geometry does not suit an image, and warn of what of it is not used."""
    rows, columns = geometry.shape
    if len(geometry.blocks) > 1 or rows > image.data.shape[0] or columns > image.data.shape[1]:
        raise _shape_error(geometry, image, path)
    header = read_header(image.header)
    for quantity, in_header in (
        (geometry.photon_energy, header.photon_energy),
        (geometry.camera_length, header.distance),
    ):
        if isinstance(quantity.value, str) and not math.isfinite(in_header):
            raise GeometryError(
                f"'{quantity.key}' is to come from the header of the image, which does not say", path=path,
                found=f"{quantity.key} = {quantity.value}", expected=f"'{quantity.key} = …' with a number",
                remedy=f"write the number into {geometry.path or 'the geometry file'}",
            )  # fmt: skip
    for shift, own in ((geometry.detector_shift_x, BEAM_X), (geometry.detector_shift_y, BEAM_Y)):
        if shift is not None and isinstance(shift.value, str) and shift.value != own:
            raise GeometryError(
                f"an image file has no HDF5 path for '{shift.key}'", path=path, found=shift.value,
                expected=f"a number, or {own} for the header's", remedy="correct the geometry file",
            )  # fmt: skip
    _warn_of_differences(geometry, header.photon_energy, path)


def _warn_of_differences(geometry: Geometry, found: float, path: str) -> None:
    energy = geometry.photon_energy
    if isinstance(energy.value, float) and math.isfinite(found):
        given = energy.convert(energy.value)
        if abs(given - found) > _ENERGY_TOLERANCE * given:
            _warn(path, f"the header says {found:.0f} eV, the geometry file {given:.0f} eV, which is used")
    if any(mask.file is None for source in geometry.panels for mask in source.masks):
        _warn(path, "an image file holds no mask; masks of the geometry file are used where 'mask…_file' names a file")


def _warn(path: str, message: str) -> None:
    warnings.warn(f"{path}: {message}", SfxlabWarning, stacklevel=5)


def _shape_error(geometry: Geometry, image: Image, path: str) -> GeometryError:
    sizes = " and ".join(f"{block.rows} × {block.columns}" for block in geometry.blocks[:3])
    return GeometryError(
        "the image does not suit the geometry", path=path,
        found=f"one image of {image.data.shape[0]} × {image.data.shape[1]} pixels (ss × fs)",
        expected=f"{len(geometry.blocks)} of at least {sizes}, as the geometry has",
        remedy=f"is this geometry for this detector? It is from {geometry.path or 'a text'}",
    )  # fmt: skip
