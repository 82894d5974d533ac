"""What a growing run shows, kept up to date by reading only what is new."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.errors import SfxlabError
from sfxlab.geometry import Detector
from sfxlab.peaks.ice import ICE, SALT
from sfxlab.peaks.radial_average import RadialSums
from sfxlab.store.counts import Counts, kind_of_reason
from sfxlab.store.parts import committed_chunks, part_path, read_part
from sfxlab.store.powder import PowderFrames, powder_of
from sfxlab.store.rates import HitRates, hit_rates, wilson_interval
from sfxlab.store.run import Run
from sfxlab.store.tables import RADIAL_KINDS, RadialKind, radial_sums_of

_COLUMNS = (
    "frame", "status", "reason", "photon_energy", "camera_length", "n_crystals", "ice_spots", "ice_rings", "salt",
)  # fmt: skip


@dataclass(frozen=True)
class Recent:
    """The last minutes of a run."""

    seconds: float
    """From the oldest to the newest of its chunks."""
    frames: int
    hits: int
    band: tuple[float, float]
    """Where the hit rate of these minutes is, with a probability of 95 %."""
    ago: float
    """Since the newest chunk, seconds."""

    @property
    def frames_per_second(self) -> float:
        """0 where it cannot be said yet."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Throughput:
    """What was done along time, in windows of equal length, (n,) each."""

    edges: NDArray[np.float64]
    """Limits of the windows, (n + 1,), seconds since 1970."""
    frames: NDArray[np.int64]
    hits: NDArray[np.int64]
    indexed: NDArray[np.int64]

    @property
    def frames_per_second(self) -> NDArray[np.float64]:
        """The speed in each window."""
        return self.frames / np.diff(self.edges)


@dataclass
class _Sums:
    """What chunks add up to."""

    stamps: dict[int, int] = field(default_factory=dict)
    """When each chunk was written, ns."""
    frames: dict[int, pa.Table] = field(default_factory=dict)
    """Number and status of the frames of each chunk."""
    counts: Counts = field(default_factory=Counts)
    reasons: Counter[str] = field(default_factory=Counter)
    ice: int = 0
    salt: int = 0
    radial: dict[RadialKind, RadialSums] = field(
        default_factory=lambda: dict.fromkeys(RADIAL_KINDS, RadialSums.none())
    )  # fmt: skip
    powder: NDArray[np.float64] | None = None
    photon_energy: float = float("nan")
    camera_length: float = float("nan")


class RunMonitor:
    """Counts, rates, virtual powder and radial averages of a run, growing or finished.

    `update()` reads the chunks that have come since; memory does not grow with their number but for the statuses of
    frames. `powder` says which frames add to the virtual powder.
    """

    def __init__(self, run: Run, powder: PowderFrames = "hits") -> None:
        self.run = run
        self._powder_frames = powder
        self._shape = _shape_of(run)
        self._sums = _Sums()

    def update(self) -> bool:
        """Read what is new and say whether there was anything. Raises `RunError`."""
        stamps = {}
        for chunk in committed_chunks(self.run.path):
            try:
                stamps[chunk] = os.stat(part_path(self.run.path, "frames", chunk)).st_mtime_ns
            except FileNotFoundError:
                continue  # it is being replaced
        if any(stamps.get(chunk) != stamp for chunk, stamp in self._sums.stamps.items()):
            self._sums = _Sums()  # frames that could not be reached before have been tried again
        new = sorted(stamps.keys() - self._sums.stamps.keys())
        for chunk in new:
            self._add(chunk, stamps[chunk])
        return bool(new)

    @property
    def counts(self) -> Counts:
        """How many frames became what."""
        return self._sums.counts

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why hits are not indexed and frames failed, the most frequent kind first."""
        return self._sums.reasons.most_common()

    @property
    def ice_and_salt(self) -> tuple[int, int]:
        """Frames with ice, and frames with salt."""
        return self._sums.ice, self._sums.salt

    @property
    def powder(self) -> NDArray[np.float64] | None:
        """The virtual powder, ADU, the slab's shape; None where the run does not say what its detector was."""
        return self._sums.powder

    @property
    def radial(self) -> dict[RadialKind, RadialSums]:
        """Radial averages of blanks and of hits."""
        return self._sums.radial

    @property
    def photon_energy(self) -> float:
        """Of the first frame that has one, eV."""
        return self._sums.photon_energy

    @property
    def detector(self) -> Detector | None:
        """The detector at the camera length of the first frame; None where the run does not say."""
        if self._shape is None or not np.isfinite(self._sums.camera_length):
            return None
        return self.run.detector_at(self._sums.camera_length)

    def rates(self, windows: int = 50, confidence: float = 0.95) -> HitRates:
        """Hit rate and indexing rate along the run, with bands."""
        tables = [table for _, table in sorted(self._sums.frames.items())]
        return hit_rates(pa.concat_tables(tables) if tables else _NO_FRAMES, windows, confidence)

    def recent(self, seconds: float = 300.0) -> Recent:
        """What came within so many seconds before the newest chunk."""
        stamps = self._sums.stamps
        newest = max(stamps.values(), default=0)
        chunks = [chunk for chunk, stamp in stamps.items() if newest - stamp <= seconds * 1e9]
        statuses = [status for chunk in chunks for status in self._sums.frames[chunk]["status"].to_pylist()]
        counts = Counts.of(statuses, 0)
        low, high = wilson_interval(np.array([counts.hits]), np.array([counts.frames]), 0.95)
        oldest = min((stamps[chunk] for chunk in chunks), default=0)
        return Recent(
            (newest - oldest) / 1e9, counts.frames, counts.hits, (float(low[0]), float(high[0])),
            time.time() - newest / 1e9 if chunks else float("nan"),
        )  # fmt: skip

    def throughput(self, windows: int = 60) -> Throughput:
        """What was done from the first chunk to the last, by the times at which they were written.

        The frames of the first chunk do not count, because it is not known when they were begun.
        """
        done = sorted((stamp / 1e9, chunk) for chunk, stamp in self._sums.stamps.items())
        if len(done) < 2 or done[-1][0] <= done[0][0]:
            none = np.zeros(0, dtype=np.int64)
            return Throughput(np.zeros(1), none, none, none)
        edges = np.linspace(done[0][0], done[-1][0], min(windows, len(done) - 1) + 1)
        counts = [Counts.of(self._sums.frames[chunk]["status"].to_pylist(), 0) for _, chunk in done[1:]]
        place = np.clip(np.searchsorted(edges, [stamp for stamp, _ in done[1:]]) - 1, 0, len(edges) - 2)
        frames, hits, indexed = (
            np.bincount(place, weights=[getattr(one, name) for one in counts], minlength=len(edges) - 1).astype(
                np.int64
            )
            for name in ("frames", "hits", "indexed")
        )
        return Throughput(edges, frames, hits, indexed)

    def _add(self, chunk: int, stamp: int) -> None:
        path, sums = self.run.path, self._sums
        frames, radial = read_part(path, "frames", chunk, _COLUMNS), read_part(path, "radial", chunk)
        if self._shape is not None:
            sums.powder = powder_of(path, [chunk], self._shape, self._powder_frames, sums.powder)
        statuses, lattices = frames["status"].to_pylist(), sum(frames["n_crystals"].to_pylist())
        sums.counts += Counts.of(statuses, lattices)
        sums.reasons.update(kind_of_reason(reason) for reason in frames["reason"].to_pylist() if reason)
        spots, rings, salt = (frames[name].to_numpy() for name in ("ice_spots", "ice_rings", "salt"))
        sums.ice += int(np.count_nonzero((spots >= ICE) | (rings >= ICE)))
        sums.salt += int(np.count_nonzero(salt >= SALT))
        for kind in RADIAL_KINDS:
            sums.radial[kind] += radial_sums_of(radial, kind)
        sums.photon_energy = _first_known(sums.photon_energy, frames["photon_energy"].to_numpy())
        sums.camera_length = _first_known(sums.camera_length, frames["camera_length"].to_numpy())
        sums.frames[chunk], sums.stamps[chunk] = frames.select(["frame", "status"]), stamp


_NO_FRAMES = pa.table({"frame": pa.array([], pa.int64()), "status": pa.array([], pa.string())})


def _shape_of(run: Run) -> tuple[int, int] | None:
    try:
        return run.slab_shape
    except SfxlabError:
        return None  # there are no pictures then


def _first_known(before: float, values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known[0]) if not np.isfinite(before) and len(known) else before
