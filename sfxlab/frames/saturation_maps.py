"""At which values single pixels are saturated: `saturation_map` of geometry files (METHODS.md section 1.2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError, SfxlabWarning
from sfxlab.frames.hdf5_file import OpenFiles
from sfxlab.frames.pixel_arrays import PixelArray, sources_by_block
from sfxlab.geometry import Geometry, PanelSource

Map = NDArray[np.float32]


class SaturationMaps:
    """Saturation values of the frames of one geometry."""

    def __init__(self, geometry: Geometry) -> None:
        self._shape = geometry.shape
        self.arrays = tuple(
            PixelArray("saturation map", "saturation_map", "iuf", block, data, file, windows)
            for (data, file), block, windows in sources_by_block(geometry, _named)
        )
        self._elsewhere: Map | None = None

    def of_frame(self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]) -> Map | None:
        """The map of a frame, read-only: frames share one that is the same for all. None where there is no map.

        It is infinite where no pixel is ever saturated, or only by `max_adu`. Raises `SfxlabError` where a map is
        missing, damaged or does not fit.
        """
        if not self.arrays:
            return None
        values = self._of_file(files, path)
        per_frame = [array for array in self.arrays if not array.is_lasting(files, path)]
        return self._filled(values, per_frame, files, path, tags, indices)

    def of_geometry(self, files: OpenFiles) -> Map | None:
        """The map that files of its own hold, for frames whose own files can hold none; None where there is no such.

        Raises `SfxlabError`, also where it is one for each frame.
        """
        elsewhere = [array for array in self.arrays if array.file is not None]
        for array in elsewhere:
            if array.file is not None and not array.is_lasting(files, array.file):
                raise GeometryError(
                    "the saturation map differs from frame to frame", path=array.file, place=array.data,
                    expected="one map for all frames, as these are not in HDF5 files that a geometry file describes",
                    remedy="correct saturation_map in the geometry file",
                )  # fmt: skip
        return self._from_elsewhere(files) if elsewhere else None

    def check(self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]) -> None:
        """Raise `SfxlabError` where a map of a frame is missing or does not fit, reading none of it."""
        for array in self.arrays:
            array.check(files, path, tags, indices)

    def _of_file(self, files: OpenFiles, path: str) -> Map:
        """What holds for every frame of a file."""
        derived = files[path].derived
        if "saturation" not in derived:
            own = [array for array in self.arrays if array.file is None and array.is_lasting(files, path)]
            derived["saturation"] = self._filled(self._from_elsewhere(files), own, files, path)
        found: Map = derived["saturation"]
        return found

    def _from_elsewhere(self, files: OpenFiles) -> Map:
        """What holds whatever file the frames are in."""
        if self._elsewhere is None:
            lasting = [array for array in self.arrays if array.file and array.is_lasting(files, array.file)]
            self._elsewhere = self._filled(np.full(self._shape, np.inf, dtype=np.float32), lasting, files, "")
        return self._elsewhere

    @staticmethod
    def _filled(
        before: Map,
        arrays: Sequence[PixelArray],
        files: OpenFiles,
        path: str,
        tags: Sequence[str] = (),
        indices: Sequence[int] | None = None,
    ) -> Map:
        """`before` with what is in some arrays, read-only; itself where there are none."""
        if arrays:
            before = before.copy()
            for array in arrays:
                numbers = (0,) * len(array.block.dims) if indices is None else indices
                for place, values, missing in array.parts(files, path, tags, numbers):
                    before[place] = np.where(missing, np.inf, _rounded_down(values))
            before[np.isnan(before)] = np.inf
        before.flags.writeable = False
        return before


def check_separate_maps(geometry: Geometry, path: str) -> None:
    """Look at the maps of a geometry for frames at `path`, whose own files can hold none.

    Warns (`SfxlabWarning`) of maps that should be in these files; raises as `SaturationMaps.of_geometry` does.
    """
    if any(source.saturation_map and source.saturation_map_file is None for source in geometry.panels):
        warnings.warn(
            f"{path}: there is no saturation map in such files; one is used where 'saturation_map_file' names a file",
            SfxlabWarning,
            stacklevel=4,
        )
    SaturationMaps(geometry).of_geometry(OpenFiles())


def saturation_map_names(geometry: Geometry) -> str:
    """The maps that a geometry names, for a user."""
    names = dict.fromkeys(name for source in geometry.panels for name in _named(source))
    return ", ".join(data if file is None else f"{data} of {file}" for data, file in names)


def _rounded_down(values: NDArray[Any]) -> Map:
    """As single precision holds them, never more: many a detector clips at the very value."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    too_much = found > values
    found[too_much] = np.nextafter(found[too_much], np.float32(-np.inf))
    return found


def _named(source: PanelSource) -> Iterable[tuple[str, str | None]]:
    return () if source.saturation_map is None else ((source.saturation_map, source.saturation_map_file),)
