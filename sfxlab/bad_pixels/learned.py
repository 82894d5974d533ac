"""A mask of bad pixels that was learned from frames, and its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import RunError
from sfxlab.geometry import Detector
from sfxlab.whole_files import written_aside

HOT, DEAD, NOISY, SHADOWED = 1, 2, 4, 8
KINDS: Mapping[str, int] = {"hot": HOT, "dead": DEAD, "noisy": NOISY, "shadowed": SHADOWED}
"""Kinds of bad pixels, and the bit of each in a mask."""

MASK, SEEN, STOOD_OUT = "/mask", "/seen", "/stood_out"
_FORMAT = 1
_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


@dataclass(frozen=True)
class LearnedMask:
    """Bad pixels that no mask knew, in the shape of the slab."""

    kinds: NDArray[np.uint8]
    """One of the bits of `KINDS`, 0 where nothing speaks against a pixel."""
    seen: NDArray[np.uint16]
    """Frames of the sample in which no mask called the pixel bad."""
    stood_out: NDArray[np.uint16]
    """Frames of the sample in which the pixel was far above the pixels at its radius."""
    frames: int
    """Frames that the mask was learned from."""
    remarks: tuple[str, ...] = ()
    """What else is to be said, in sentences."""

    @cached_property
    def counts(self) -> dict[str, int]:
        """Pixels of each kind."""
        return _counts(self.kinds)

    def counts_by_panel(self, detector: Detector) -> list[dict[str, int]]:
        """Pixels of each kind on each panel."""
        return [_counts(self.kinds[r0:r1, c0:c1]) for r0, r1, c0, c1 in detector.arrays.bounds]

    @cached_property
    def bad(self) -> NDArray[np.uint8]:
        """1 where a pixel is bad, read-only."""
        bad: NDArray[np.uint8] = (self.kinds != 0).astype(np.uint8)
        bad.flags.writeable = False
        return bad

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {name}" for name, n in self.counts.items() if n)
        return f"{kinds or 'none'}, learned from {self.frames} frames"

    def save(self, path: str | Path) -> None:
        """Write an HDF5 file, whole or not at all. Raises `RunError`.

        `/mask` (uint8, shape of the slab) holds the bits 1 hot, 2 dead, 4 noisy, 8 shadowed; a CrystFEL geometry file
        takes it with `mask0_file`, `mask0_data = /mask` and `mask0_badbits = 0x0f`. `/seen` and `/stood_out` (uint16)
        are counts of frames; attributes of the file say the rest.
        """
        with written_aside(Path(path)) as aside, h5py.File(aside, "x") as file:
            file.attrs.update(format=_FORMAT, frames=self.frames, summary=str(self), remarks=json.dumps(self.remarks))
            for name, values in ((MASK, self.kinds), (SEEN, self.seen), (STOOD_OUT, self.stood_out)):
                file.create_dataset(name, data=values, chunks=_chunk(values.shape), **_COMPRESSION)
            file[MASK].attrs["bits"] = ", ".join(f"{bit} {name}" for name, bit in KINDS.items())


def read_learned_mask(path: str | Path) -> LearnedMask:
    """Read what `LearnedMask.save` wrote. Raises `RunError`."""
    with _opened(path) as file:
        kinds, seen, stood_out = (file[name][()] for name in (MASK, SEEN, STOOD_OUT))
        remarks = tuple(json.loads(file.attrs["remarks"]))
        return LearnedMask(kinds, seen, stood_out, int(file.attrs["frames"]), remarks)


def summary_of_mask(path: str | Path) -> str:
    """The text of a learned mask on disk, without reading its pixels. Raises `RunError`."""
    with _opened(path) as file:
        return str(file.attrs["summary"])


@contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != _FORMAT:
                raise RunError(
                    "this is no learned mask, or that of another version", path=path, place="format",
                    found=file.attrs.get("format"), expected=_FORMAT,
                )  # fmt: skip
            yield file
    except (OSError, KeyError, ValueError) as error:
        raise RunError("the learned mask cannot be read", path=path, found=error, remedy="learn it again") from error


def _counts(kinds: NDArray[np.uint8]) -> dict[str, int]:
    return {name: int(np.count_nonzero(kinds & bit)) for name, bit in KINDS.items()}


def _chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    return min(shape[0], 512), shape[1]
