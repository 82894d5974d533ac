"""The virtual powder of a run: the sum of its peaks, each at its place on the detector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from sfxlab.errors import RunError
from sfxlab.store.parts import read_part

PowderFrames = Literal["all", "hits", "indexed", "not indexed"]

POWDER_FRAMES: Mapping[PowderFrames, tuple[str, ...]] = {
    "all": ("blank", "hit", "indexed"), "hits": ("hit", "indexed"), "indexed": ("indexed",), "not indexed": ("hit",),
}  # fmt: skip
"""Which frames can be asked for, and the statuses that they have."""


def powder_of(
    folder: Path,
    chunks: Iterable[int],
    shape: tuple[int, int],
    frames: PowderFrames = "all",
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Intensities of the peaks of some chunks, summed up in the pixels that they are centred in, ADU, `shape`.

    One chunk is read at a time. They are added to `out` where it is given. Raises `RunError`.
    """
    if frames not in POWDER_FRAMES:
        raise RunError("which frames shall add to the powder?", found=frames, expected=", ".join(POWDER_FRAMES))
    powder = np.zeros(shape) if out is None else out
    for chunk in chunks:
        peaks = read_part(folder, "peaks", chunk, ["frame", "fs", "ss", "intensity"])
        if frames != "all":
            table = read_part(folder, "frames", chunk, ["frame", "status"])
            wanted = table["frame"].filter(pc.is_in(table["status"], pa.array(POWDER_FRAMES[frames])))
            peaks = peaks.filter(pc.is_in(peaks["frame"], wanted.combine_chunks()))
        _deposit(powder, *(peaks[name].to_numpy() for name in ("fs", "ss", "intensity")))
    return powder


@njit(cache=True, nogil=True)
def _deposit(
    powder: NDArray[np.float64], fs: NDArray[np.float32], ss: NDArray[np.float32], intensity: NDArray[np.float32]
) -> None:
    """Add to `powder` (slow, fast) the `intensity` of peaks (n,) in the pixels under fs, ss; others are left out."""
    rows, columns = powder.shape
    for i in range(len(fs)):
        row, column = int(np.floor(ss[i])), int(np.floor(fs[i]))
        if 0 <= row < rows and 0 <= column < columns:
            powder[row, column] += intensity[i]
