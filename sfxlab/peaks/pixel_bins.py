"""Pixels that share a background, made once for a detector: bins, what to sample of them, and runs to scan.

The background of a still depends mainly on the distance from the beam axis (Barty et al. 2014, J. Appl. Cryst. 47,
1118), and panels have pedestals, gains and shadows of their own. So a bin is a band of radii in a part of a panel.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.geometry import Detector
from sfxlab.peaks.lanes import LANES

SAMPLES = 27
"""Pixels of a bin that its statistics come from; three to the power of three suits the median of medians."""
NO_BIN = 65535
_TILE = 512
"""About the length of the parts that large panels are divided into, pixels."""
_WIDTHS = (2, 3, 4, 6, 8)
"""Widths of a band, pixels."""
_PIXELS_OF_A_BIN = 250
"""Bands are widened until a bin has so many pixels on average."""
_MOST_BINS = 60_000
_KEPT = 4
"""Detectors and masks that are remembered."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class PixelBins:
    """How the pixels of a slab fall into bins. Bins of a tile are numbered in a row, from its least radius on."""

    bin: NDArray[np.uint16]
    """Bin of each pixel of the flattened slab, `NO_BIN` outside the panels and where known to be bad, (n_pixels,)."""
    tiles: NDArray[np.int64]
    """First bin of each tile and, last, the number of bins, (n_tiles + 1,)."""
    panel: NDArray[np.int64]
    """Panel of each bin, (n_bins,)."""
    samples: NDArray[np.int32]
    """Pixels to sample, evenly spread over the bin; −1 for none, (SAMPLES, n_bins)."""
    start: NDArray[np.int32]
    """First pixels of runs of `LANES` pixels, ascending, (n_runs,). A run lies in one row of a tile."""
    good: NDArray[np.uint32]
    """Bit i is set where pixel i of a run belongs to it and is not known to be bad, (n_runs,)."""
    whole: NDArray[np.uint32]
    """Bit i is set where pixel i of a run and its eight neighbours are good and on one panel, (n_runs,)."""
    first_bin: NDArray[np.uint16]
    """Least bin in a run, (n_runs,)."""
    last_bin: NDArray[np.uint16]
    """Largest bin in a run, (n_runs,)."""
    level: NDArray[np.uint8]
    """The largest k so that a run has at least 2^k bins, (n_runs,)."""

    axes: NDArray[np.float64]
    """x₀, ∂x/∂fs, ∂x/∂ss, y₀, ∂y/∂fs and ∂y/∂ss of each panel, (n_panels, 6): x and y are the distances of slab
    coordinates fs, ss from the beam axis, in pixels."""
    columns: int
    """Of the slab."""

    def without(self, bad: NDArray[np.uint8]) -> PixelBins:
        """The same bins with bad pixels left out; `bad` has the shape of the slab."""
        flat = bad.reshape(-1)
        good, whole = self.good.copy(), self.whole.copy()
        _clear_bad(flat, self.columns, self.start, good, whole)
        some = good != 0
        return replace(
            self,
            bin=np.where(flat != 0, np.uint16(NO_BIN), self.bin),
            samples=np.where(flat[self.samples] != 0, np.int32(-1), self.samples),
            start=self.start[some],
            good=good[some],
            whole=whole[some],
            first_bin=self.first_bin[some],
            last_bin=self.last_bin[some],
            level=self.level[some],
        )


class BinsOfDetectors:
    """Remembers the bins of the last few detectors, with the bad pixels that many frames share left out.

    What is left out in advance makes a search faster and its result no different. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_layout: OrderedDict[tuple[object, ...], PixelBins] = OrderedDict()
        self._last: OrderedDict[tuple[int, int], _Remembered] = OrderedDict()

    def find(self, detector: Detector, bad: NDArray[np.uint8]) -> tuple[PixelBins, bool]:
        """The bins for a frame, and whether its bad pixels are left out of them already."""
        key = (id(detector), id(bad))
        with self._lock:
            known = self._last.get(key)
            if known is None or known.detector() is not detector or known.bad() is not bad:
                # A map of bad pixels that is seen once may be this frame's own.
                known = _Remembered(weakref.ref(detector), weakref.ref(bad), self._of(detector), masked=False)
            elif not known.masked:
                known = replace(known, bins=known.bins.without(bad), masked=True)
            else:
                self._last.move_to_end(key)
                return known.bins, True
            _keep(self._last, key, known)
            return known.bins, known.masked

    def _of(self, detector: Detector) -> PixelBins:
        """Detectors that differ in the camera length only have the same bins."""
        layout = (detector.shape, detector.panels[0].pixel_size) + tuple(
            (p.row, p.column, p.rows, p.columns, *p.corner[:2], *p.fs[:2], *p.ss[:2]) for p in detector.panels
        )
        if layout not in self._of_layout:
            _keep(self._of_layout, layout, pixel_bins(detector))
        self._of_layout.move_to_end(layout)
        return self._of_layout[layout]


@dataclass(frozen=True)
class _Remembered:
    detector: weakref.ref[Detector]
    bad: weakref.ref[NDArray[np.uint8]]
    bins: PixelBins
    masked: bool


def _keep(remembered: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    while len(remembered) > _KEPT:
        remembered.popitem(last=False)


def pixel_bins(detector: Detector) -> PixelBins:
    """The bins of a detector, whatever pixels are bad."""
    radius = detector.radius
    tiles, panel_of_tile = _tiles(detector)
    least, end = _radii(radius, tiles)
    width, n_bins = _band_width(least, end, tiles)
    first = np.concatenate([[0], np.cumsum(n_bins)])
    if first[-1] > _MOST_BINS:
        # Wider bands everywhere; there are fewer tiles than bins by far.
        width = width * int(np.ceil(first[-1] / (_MOST_BINS - len(tiles))))
        first = np.concatenate([[0], np.cumsum(-(-(end - least) // width))])
    bin_ = np.full(radius.size, NO_BIN, dtype=np.uint16)
    _assign(radius, tiles, least, width, first, bin_)
    counts = np.bincount(bin_, minlength=NO_BIN + 1)[: first[-1]]
    samples = np.full((SAMPLES, first[-1]), -1, dtype=np.int32)
    _choose_samples(bin_, counts, samples)
    panel = np.repeat(panel_of_tile, np.diff(first))
    return PixelBins(bin_, first, panel, samples, *_runs(bin_, tiles, detector), _axes(detector), detector.shape[1])


def _axes(detector: Detector) -> NDArray[np.float64]:
    """`axes` of `PixelBins`."""
    a, pixel = detector.arrays, detector.panels[0].pixel_size
    origin = a.corner - a.bounds[:, 2:3] * a.fs - a.bounds[:, :1] * a.ss
    return np.stack([of[:, i] for i in (0, 1) for of in (origin, a.fs, a.ss)], axis=1) / pixel


def _tiles(detector: Detector) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds of the parts of panels, (n_tiles, 4) as in `PanelArrays`, and the panel of each."""
    tiles, panels = [], []
    for i, panel in enumerate(detector.panels):
        rows = np.linspace(0, panel.rows, max(1, round(panel.rows / _TILE)) + 1).astype(int) + panel.row
        columns = np.linspace(0, panel.columns, max(1, round(panel.columns / _TILE)) + 1).astype(int) + panel.column
        for r0, r1 in pairwise(rows):
            for c0, c1 in pairwise(columns):
                tiles.append((r0, r1, c0, c1))
                panels.append(i)
    return np.array(tiles, dtype=np.int64), np.array(panels, dtype=np.int64)


def _radii(radius: NDArray[np.uint16], tiles: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least radius of each tile and the one after its largest, pixels."""
    parts = [radius[r0:r1, c0:c1] for r0, r1, c0, c1 in tiles]
    return np.array([p.min() for p in parts], dtype=np.int64), np.array([p.max() for p in parts], dtype=np.int64) + 1


def _band_width(
    least: NDArray[np.int64], end: NDArray[np.int64], tiles: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Width of the bands of each tile, pixels, and their number."""
    area = (tiles[:, 1] - tiles[:, 0]) * (tiles[:, 3] - tiles[:, 2])
    width = np.full(len(tiles), _WIDTHS[-1])
    for candidate in _WIDTHS[::-1]:
        enough = area * candidate >= _PIXELS_OF_A_BIN * (end - least)
        width[enough] = candidate
    return width, -(-(end - least) // width)


@njit(cache=True, nogil=True)
def _assign(radius, tiles, least, width, first, bin_):  # type: ignore[no-untyped-def]
    """Fill `bin_` (n_pixels,)."""
    columns = radius.shape[1]
    for t in range(len(tiles)):
        for row in range(tiles[t, 0], tiles[t, 1]):
            for column in range(tiles[t, 2], tiles[t, 3]):
                bin_[row * columns + column] = first[t] + (np.int64(radius[row, column]) - least[t]) // width[t]


@njit(cache=True, nogil=True)
def _choose_samples(bin_, counts, samples):  # type: ignore[no-untyped-def]
    """Fill `samples` (n_samples, n_bins) with pixels evenly spaced among those of each bin."""
    wanted = samples.shape[0]
    seen = np.zeros(len(counts), dtype=np.int64)
    for pixel in range(len(bin_)):
        b = bin_[pixel]
        if b == NO_BIN:
            continue
        k = seen[b]
        seen[b] += 1
        if counts[b] <= wanted:
            samples[k, b] = pixel
        elif (k * wanted) % counts[b] < wanted:
            samples[(k * wanted) // counts[b], b] = pixel


_Runs = tuple[
    NDArray[np.int32],
    NDArray[np.uint32],
    NDArray[np.uint32],
    NDArray[np.uint16],
    NDArray[np.uint16],
    NDArray[np.uint8],
]


def _runs(bin_: NDArray[np.uint16], tiles: NDArray[np.int64], detector: Detector) -> _Runs:
    """`start`, `good`, `whole`, `first_bin`, `last_bin` and `level` of `PixelBins`."""
    columns = detector.shape[1]
    starts, ends = [], []
    for r0, r1, c0, c1 in tiles:
        first = np.arange(c0, c1, LANES)
        row = np.arange(r0, r1)[:, None] * columns
        starts.append((row + first).ravel())
        ends.append((row + np.minimum(first + LANES, c1)).ravel())
    start, end = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    first_bin, last_bin = np.empty(len(start), dtype=np.uint16), np.empty(len(start), dtype=np.uint16)
    _bin_ranges(bin_, start, end, first_bin, last_bin)
    level = np.floor(np.log2(last_bin.astype(np.float64) - first_bin + 1)).astype(np.uint8)
    # A run does not reach beyond the slab; what it has too much before it is not counted.
    begin = np.minimum(start, max(len(bin_) - LANES, 0))
    bits = (np.uint64(1) << (end - begin).astype(np.uint64)) - (np.uint64(1) << (start - begin).astype(np.uint64))
    good = bits.astype(np.uint32)
    border = np.ones(detector.shape, dtype=np.uint8)
    for r0, r1, c0, c1 in detector.arrays.bounds:
        border[r0 + 1 : r1 - 1, c0 + 1 : c1 - 1] = 0
    whole = good.copy()
    _clear_bad(border.reshape(-1), columns, begin, whole, np.zeros_like(whole))
    return begin.astype(np.int32), good, whole, first_bin, last_bin, level


@njit(cache=True, nogil=True)
def _bin_ranges(bin_, start, end, first_bin, last_bin):  # type: ignore[no-untyped-def]
    for i in range(len(start)):
        low, high = bin_[start[i]], bin_[start[i]]
        for pixel in range(start[i], end[i]):
            low, high = min(low, bin_[pixel]), max(high, bin_[pixel])
        first_bin[i], last_bin[i] = low, high


@njit(cache=True, nogil=True)
def _clear_bad(bad, columns, start, good, whole):  # type: ignore[no-untyped-def]
    """Clear the bits of bad pixels in `good` (n_runs,), and those of their neighbours in `whole` (n_runs,)."""
    for i in range(len(start)):
        for lane in range(min(LANES, len(bad) - start[i])):
            pixel, bit = start[i] + lane, np.uint32(1) << np.uint32(lane)
            if bad[pixel] != 0:
                good[i] &= ~bit
            if whole[i] & bit:
                for line in (pixel - columns, pixel, pixel + columns):
                    if bad[line - 1] != 0 or bad[line] != 0 or bad[line + 1] != 0:
                        whole[i] &= ~bit
