"""What spots look like on the frames of a run, as a value and as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import RunError
from sfxlab.whole_files import written_aside

_FORMAT = 1


@dataclass(frozen=True)
class SpotProfiles:
    """Mean shape of spots by resolution, and where they lie on each panel; learned from the strong spots of frames."""

    tables: NDArray[np.float64]
    """Share of a spot's intensity in a pixel, by the offset of the pixel's centre from the spot, (n_zones, 2m+1, 2m+1).

    Rows go along the direction away from the beam, columns across it, m being no offset. The sum over the pixels of
    a peak is about 1, such that fitted and summed intensities agree.
    """
    step: float
    """Between entries of the tables, pixels."""
    resolution: NDArray[np.float64]
    """|q| = 1/d that each zone stands for, rising, (n_zones,), 1/Å."""
    misfit: NDArray[np.float64]
    """Relative scatter of fitted intensities of one and the same spot beyond counting statistics, (n_zones,)."""
    offsets: NDArray[np.float64]
    """Where spots lie from their predictions on each panel, along fs and ss, (n_panels, 2), pixels."""
    peak_radius: float
    """Radius of the peak whose pixels count as all of a spot, pixels."""
    frames: int
    """Frames that the spots came from."""
    spots: int
    """Spots learned from."""

    @property
    def width(self) -> NDArray[np.float64]:
        """Standard deviations of each zone's profile along and across the direction from the beam, (n_zones, 2), px."""
        # The square of a Gaussian has half its variance; tails hold noise only.
        offset = (np.arange(self.tables.shape[1]) - self.tables.shape[1] // 2) * self.step
        square = np.where(self.tables > 0.05 * self.tables.max(axis=(1, 2), keepdims=True), self.tables, 0.0) ** 2
        spread = [(square.sum(axis=axis) * offset**2).sum(axis=1) for axis in (2, 1)]
        return np.asarray(np.sqrt(2 * np.stack(spread, axis=1) / square.sum(axis=(1, 2))[:, None]))

    def __str__(self) -> str:
        along, across = self.width[len(self.width) // 2].tolist()
        return f"{along:.2f} × {across:.2f} pixels (σ), learned from {self.spots} spots of {self.frames} frames"

    def save(self, path: str | Path) -> None:
        """Write an HDF5 file, whole or not at all. Raises `RunError`."""
        with written_aside(Path(path)) as aside, h5py.File(aside, "x") as file:
            file.attrs.update(
                format=_FORMAT, step=self.step, peak_radius=self.peak_radius, frames=self.frames, spots=self.spots,
                summary=str(self),
            )  # fmt: skip
            for name in ("tables", "resolution", "misfit", "offsets"):
                file.create_dataset(name, data=getattr(self, name))


def read_spot_profiles(path: str | Path) -> SpotProfiles:
    """Read what `SpotProfiles.save` wrote. Raises `RunError`."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != _FORMAT:
                raise RunError(
                    "these are no spot profiles, or those of another version", path=path, place="format",
                    found=file.attrs.get("format"), expected=_FORMAT,
                )  # fmt: skip
            return SpotProfiles(
                tables=file["tables"][()],
                step=float(file.attrs["step"]),
                resolution=file["resolution"][()],
                misfit=file["misfit"][()],
                offsets=file["offsets"][()],
                peak_radius=float(file.attrs["peak_radius"]),
                frames=int(file.attrs["frames"]),
                spots=int(file.attrs["spots"]),
            )
    except (OSError, KeyError, ValueError) as error:
        raise RunError("the spot profiles cannot be read", path=path, found=error, remedy="learn them again") from error
