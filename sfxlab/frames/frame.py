"""One exposure, and a sequence of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.spot_profiles import SpotProfiles
from sfxlab.geometry import HC_EV_ANGSTROM, Detector


@dataclass(frozen=True)
class FrameId:
    """What names a frame for good: its file and its event (CrystFEL's notation, for example `//17`)."""

    path: str
    event: str

    def __str__(self) -> str:
        return f"{self.path} {self.event}"


@dataclass(frozen=True)
class Frame:
    """One exposure with all that is needed to make sense of it."""

    data: NDArray[Any]
    """Pixels as the file holds them, (slow, fast) = `detector.shape`, in ADU, any integer or float type."""

    bad: NDArray[np.uint8]
    """1 where a pixel is not to be trusted (masks, bad regions, gaps, flagged values, NaN), same shape as `data`."""

    photon_energy: float
    """eV."""

    detector: Detector

    id: FrameId
    index: int = 0
    """Position in the source that it came from, counting from 0."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else came along, by its name in the file."""

    saturation_map: NDArray[np.float32] | None = None
    """Values from which on single pixels are saturated, as all are from `max_adu` of their panel on; infinite where
    there is none, same shape as `data`. None where no geometry file names such a map."""

    bandwidth: float | None = None
    """Standard deviation of the spectrum, relative; None where the geometry does not say."""

    profiles: SpotProfiles | None = None
    """What spots look like in the run that the frame is of; None where it was not learned."""

    @property
    def wavelength(self) -> float:
        """Å."""
        return HC_EV_ANGSTROM / self.photon_energy

    def saturated_near(
        self,
        panel: NDArray[np.integer],
        fs: NDArray[np.floating],
        ss: NDArray[np.floating],
        radius: NDArray[np.floating],
    ) -> NDArray[np.bool_]:
        """Whether a good pixel within `radius` (pixels) of the one under fs, ss is saturated, (n,); all arguments (n,).

        Pixels of other panels do not count.
        """
        reach = math.ceil(radius.max(initial=0.0))
        down, right = (offsets.ravel() for offsets in np.mgrid[-reach : reach + 1, -reach : reach + 1])
        row = np.floor(ss).astype(np.int64)[:, None] + down
        column = np.floor(fs).astype(np.int64)[:, None] + right
        r0, r1, c0, c1 = (bound[:, None] for bound in self.detector.arrays.bounds[panel].T)
        counts = (r0 <= row) & (row < r1) & (c0 <= column) & (column < c1)
        counts &= down**2 + right**2 <= radius[:, None] ** 2
        row, column = np.where(counts, row, 0), np.where(counts, column, 0)
        limit = np.broadcast_to(self.detector.arrays.max_adu[panel][:, None], row.shape)
        if self.saturation_map is not None:
            limit = np.minimum(limit, self.saturation_map[row, column])
        saturated = counts & (self.bad[row, column] == 0) & (self.data[row, column] >= limit)
        return np.asarray(saturated.any(axis=1))

    def __repr__(self) -> str:
        rows, columns = self.data.shape
        return (
            f"<Frame {self.index}, {PurePath(self.id.path).name} {self.id.event}: {rows} × {columns} {self.data.dtype},"
            f" {self.photon_energy:.1f} eV, camera length {1e3 * self.detector.camera_length:.2f} mm>"
        )


class FrameSource(Protocol):
    """A sequence of frames that opens its files late and never sends pixels anywhere.

    A source pickles as paths, layout and event numbers; slices are sources again; integers give frames. A frame that
    cannot be read raises `FrameError`, and the others can still be read.
    """

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, item: int) -> Frame: ...
    @overload
    def __getitem__(self, item: slice) -> FrameSource: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def identity(self, index: int) -> FrameId:
        """The name of a frame, without reading its pixels."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that the frames come from, in order of first use."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the frames: `paths`, and others that these or the geometry lead to."""
        ...

    @property
    def geometry_text(self) -> str:
        """The geometry file as it was read, empty where the frames carry their geometry themselves."""
        ...

    @property
    def detector(self) -> Detector:
        """The detector of the first frame."""
        ...
