"""Pictures of a report: example frames, the mean of hits, and the virtual powder."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from sfxlab.errors import FrameError, RunError
from sfxlab.frames import Frame, FrameSource
from sfxlab.geometry import Detector
from sfxlab.pictures import GAP, assemble, frame_png, png_bytes, slab_png
from sfxlab.pipeline import FrameResult
from sfxlab.store import SCHEMAS, Run, results_of
from sfxlab.store.parts import read_part

RADIAL_STEP = 0.002
"""Width of the bins of the radial histogram of peaks, 1/Å."""
_RADIAL_BINS = 1000
_HIGHEST_BLUE = np.array((8, 48, 107))


def data_uri(png: bytes) -> str:
    """A picture that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def spread(indices: NDArray[np.integer], count: int) -> list[int]:
    """At most `count` of some sorted indices, evenly spaced."""
    if len(indices) <= count:
        return [int(i) for i in indices]
    picked = np.linspace(0, len(indices) - 1, count).round().astype(int)
    return [int(indices[i]) for i in picked]


def detector_of(run: Run, source: FrameSource | None) -> Detector | None:
    """The run's detector: of its frames, or where these are gone, of its geometry and camera length."""
    if source is not None:
        return source.detector
    try:
        return run.detector()
    except RunError:
        return None  # the report shows no map of peaks then, and says so


def results_at(run: Run, frames: Sequence[int]) -> Iterator[FrameResult]:
    """The results of some frames; only their chunks are read."""
    size = run.record.chunk_size
    for chunk in sorted({frame // size for frame in frames}):
        tables = {name: read_part(run.path, name, chunk) for name in SCHEMAS}
        yield from (result for result in results_of(tables) if result.index in frames)


def example_png(source: FrameSource, result: FrameResult, width: int) -> bytes:
    """A frame with its peaks and predicted reflections. Raises `FrameError`."""
    return frame_png(source[result.index], result.peaks, result.reflections, width)


def mean_png(source: FrameSource, frames: Sequence[int], width: int) -> tuple[bytes, int] | None:
    """The mean of some frames over their good pixels, and how many could be read; None where none could."""
    total: NDArray[np.float64] | None = None
    for frame in _readable(source, frames):
        if total is None:
            total, good, count, first = np.zeros(frame.data.shape), np.zeros(frame.data.shape, np.int32), 0, frame
        if frame.data.shape != total.shape:
            continue
        trusted = (frame.bad == 0) & np.isfinite(frame.data)
        np.add(total, frame.data, out=total, where=trusted)
        good += trusted
        count += 1
    if total is None:
        return None
    mean = np.divide(total, good, out=np.full(total.shape, np.nan), where=good > 0)
    png = slab_png(mean, None, first.detector, photon_energy=first.photon_energy, width=width)
    return png, count


def powder_png(powder: NDArray[np.float64], detector: Detector, width: int) -> bytes | None:
    """A virtual powder as seen in the laboratory, pixels of the picture are sums; None where it is empty."""
    ss, fs = np.nonzero((powder > 0) & (detector.panel_map >= 0))
    if not len(ss):
        return None
    grid = assemble(np.zeros(detector.shape, dtype=np.uint8), None, detector, width)
    rows, columns = grid.image.shape
    positions = detector.positions(detector.panel_map[ss, fs], fs + 0.5, ss + 0.5)
    column, row = (p.astype(np.int64) for p in grid.place(positions[:, 0], positions[:, 1]))
    here = np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)
    sums = np.bincount(here, powder[ss, fs], rows * columns).reshape(rows, columns).astype(np.float64)
    return _blue_png(sums, grid.inside)


def peaks_by_resolution(run: Run) -> NDArray[np.int64]:
    """Number of peaks by 1/d in bins of `RADIAL_STEP`, (n,), read chunk by chunk."""
    radial = np.zeros(_RADIAL_BINS, dtype=np.int64)
    for part in run.parts("peaks", ["resolution"]):
        bins = np.clip(part["resolution"].to_numpy() / RADIAL_STEP, 0, _RADIAL_BINS - 1).astype(np.int64)
        radial += np.bincount(bins, minlength=_RADIAL_BINS)
    return radial


def _blue_png(sums: NDArray[np.float64], inside: NDArray[np.bool_]) -> bytes:
    """Sums from white to dark blue, by their cube root so that weak peaks are seen beside strong ones."""
    smooth = np.cbrt(gaussian_filter(sums, 0.8))
    top = np.percentile(smooth[smooth > 0.05 * smooth.max()], 99)
    share = np.clip(smooth / top, 0, 1)[..., None]
    colours = 255 + (_HIGHEST_BLUE - 255) * share
    colours[~inside & (sums == 0)] = GAP
    return png_bytes(Image.fromarray(colours.astype(np.uint8)))


def _readable(source: FrameSource, frames: Sequence[int]) -> Iterator[Frame]:
    for index in frames:
        try:
            yield source[index]
        except FrameError:
            continue  # it is a row with a reason in the run already
