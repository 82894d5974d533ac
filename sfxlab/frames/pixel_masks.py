"""Which pixels of a frame are bad: by the geometry, by masks in files, by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError
from sfxlab.frames.flagged_values import FlaggedWindow, with_flagged
from sfxlab.frames.hdf5_file import OpenFiles
from sfxlab.frames.pixel_arrays import PixelArray, sources_by_block
from sfxlab.geometry import Geometry
from sfxlab.geometry.masks import geometry_bad_map, masked, window


@lru_cache(maxsize=4)
def _geometry_bad(geometry: Geometry) -> NDArray[np.uint8]:
    """The same for every file, and slow where bad regions are given in x and y."""
    bad = geometry_bad_map(geometry)
    bad.flags.writeable = False
    return bad


@dataclass(frozen=True)
class _Mask:
    """A mask array, and which of its bits mean what."""

    number: int
    """0 to 7; masks of one number are of different parts of the slab."""
    array: PixelArray
    good_bits: int
    bad_bits: int

    def mark(
        self, bad: NDArray[np.uint8], files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]
    ) -> tuple[int, int]:
        """Read the mask and set what it calls bad, and pixels that it is missing for.

        Returns the number of these, and of all pixels that it is for.
        """
        n_missing, n_pixels = 0, 0
        for place, values, missing in self.array.parts(files, path, tags, indices):
            bad[place] |= masked(values, self.good_bits, self.bad_bits) | missing
            n_missing, n_pixels = n_missing + int(np.count_nonzero(missing)), n_pixels + missing.size
        return n_missing, n_pixels


class PixelMasks:
    """Bad pixels of the frames of one geometry."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._masks = tuple(
            _Mask(
                mask.number, PixelArray("mask", "mask…_data", "iubf", block, mask.data, mask.file, windows),
                mask.good_bits, mask.bad_bits,
            )
            for mask, block, windows in sources_by_block(geometry, lambda source: source.masks)
        )  # fmt: skip
        self._flags = _flag_windows(geometry)
        self._everywhere: NDArray[np.uint8] | None = None

    @property
    def arrays(self) -> tuple[PixelArray, ...]:
        """The masks that come from files."""
        return tuple(mask.array for mask in self._masks)

    def bad(
        self, data: NDArray[Any], files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]
    ) -> NDArray[np.uint8]:
        """The map of bad pixels of a frame, read-only: frames without masks or flags of their own share one.

        Raises `SfxlabError` where a mask is missing or does not fit.
        """
        bad = self._of_file(files, path)
        per_frame = [mask for mask in self._masks if not mask.array.is_lasting(files, path)]
        if per_frame:
            bad = bad.copy()
        _mark(bad, per_frame, files, path, tags, indices)
        return self.with_values(data, bad)

    def with_values(self, data: NDArray[Any], bad: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`bad` with the pixels that are flagged or not finite, read-only; itself where there are none."""
        bad = with_flagged(data, bad, self._flags)
        bad.flags.writeable = False
        return bad

    def check(self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]) -> None:
        """Raise `SfxlabError` where a mask of a frame is missing or does not fit, reading none of it."""
        for array in self.arrays:
            array.check(files, path, tags, indices)

    def of_geometry(self, files: OpenFiles) -> NDArray[np.uint8]:
        """What is bad whatever file the frames are in: by the geometry, and by masks in files of their own."""
        if self._everywhere is None:
            elsewhere = [m for m in self._masks if m.array.file and m.array.is_lasting(files, m.array.file)]
            self._everywhere = _marked(_geometry_bad(self._geometry), elsewhere, files, "")
        return self._everywhere

    def _of_file(self, files: OpenFiles, path: str) -> NDArray[np.uint8]:
        """What is bad in every frame of a file."""
        derived = files[path].derived
        if "bad" not in derived:
            own = [m for m in self._masks if m.array.file is None and m.array.is_lasting(files, path)]
            derived["bad"] = _marked(self.of_geometry(files), own, files, path)
        found: NDArray[np.uint8] = derived["bad"]
        return found


def _marked(bad: NDArray[np.uint8], masks: Sequence[_Mask], files: OpenFiles, path: str) -> NDArray[np.uint8]:
    """`bad` with masks that hold for all frames, read-only; itself where there are none."""
    if masks:
        bad = bad.copy()
        _mark(bad, masks, files, path)
        bad.flags.writeable = False
    return bad


def _mark(
    bad: NDArray[np.uint8],
    masks: Sequence[_Mask],
    files: OpenFiles,
    path: str,
    tags: Sequence[str] = (),
    indices: Sequence[int] | None = None,
) -> None:
    """Set what masks call bad. Raises `InputError` where nothing of one is there, which would leave no good pixel."""
    counts: dict[int, tuple[int, int]] = {}
    for mask in masks:
        numbers = (0,) * len(mask.array.block.dims) if indices is None else indices
        missing, pixels = mask.mark(bad, files, path, tags, numbers)
        before = counts.get(mask.number, (0, 0))
        counts[mask.number] = before[0] + missing, before[1] + pixels
    for mask in masks:
        missing, pixels = counts[mask.number]
        if missing == pixels:
            raise InputError(
                "the file with the mask is missing, or has not what the virtual dataset refers to",
                path=mask.array.file or path, place=mask.array.data, expected="that file beside this one",
                remedy="copy it there; frames whose masks are there can be read",
            )  # fmt: skip


def _flag_windows(geometry: Geometry) -> tuple[FlaggedWindow, ...]:
    """What to compare values with. All of the slab at once for numbers that are not finite, and for flags where the
    panels have the same ones.
    """
    whole = FlaggedWindow(slice(0, geometry.shape[0]), slice(0, geometry.shape[1]))
    if len({source.flags for source in geometry.panels}) == 1:
        return (replace(whole, flags=geometry.panels[0].flags),)
    return whole, *(FlaggedWindow(*window(source.panel), source.flags) for source in geometry.panels if source.flags)
