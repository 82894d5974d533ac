"""CrystFEL reflection lists, version 2.0 (METHODS.md section 1.9)."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import StreamError

_FIRST_LINE = "CrystFEL reflection list version 2.0"
_COLUMNS = "   h    k    l          I    phase   sigma(I)   nmeas"
_LAST_LINE = "End of reflections"


@dataclass(frozen=True)
class ReflectionList:
    """Merged intensities as a reflection list holds them: arrays of n rows."""

    symmetry: str | None
    """Name of the point group, None where it is unknown."""
    hkl: NDArray[np.int32]
    """(n, 3)."""
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    n_observations: NDArray[np.int32]
    notes: tuple[str, ...] = ()
    """Lines after the reflections."""

    def __len__(self) -> int:
        return len(self.hkl)


def read_hkl(path: str | Path) -> ReflectionList:
    """Read a reflection list, compressed if its name ends in `.gz`.

    Raises `StreamError` naming the file and the line where it is missing, cut off or damaged.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise StreamError("the reflection list cannot be read", path=path, found=error) from error
    return parse_hkl(text, path)


def parse_hkl(text: str, path: str | Path | None = None) -> ReflectionList:
    """The reflection list that a text holds; `path` is for messages. Raises `StreamError`."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != _FIRST_LINE:
        raise StreamError(
            "this is no CrystFEL reflection list",
            path=path,
            place="line 1",
            found=repr(lines[0][:60]) if lines else "an empty file",
            expected=repr(_FIRST_LINE),
        )
    symmetry: str | None = None
    start = 0
    for number, line in enumerate(lines):
        if line.startswith("Symmetry:"):
            symmetry = line.partition(":")[2].strip()
        if line.split()[:3] == ["h", "k", "l"]:
            start = number + 1
            break
    ends = [i for i, line in enumerate(lines) if line.strip() == _LAST_LINE]
    if not start or not ends:
        raise StreamError(
            "the reflection list is cut off",
            path=path,
            found=f"{len(lines)} lines without '{_LAST_LINE if start else _COLUMNS.strip()}'",
            remedy="copy or merge it again",
        )
    rows = [_row(line, number, path) for number, line in enumerate(lines[start : ends[0]], start=start + 1)]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return ReflectionList(
        symmetry=None if symmetry in (None, "unknown") else symmetry,
        hkl=table[:, :3].astype(np.int32),
        intensity=table[:, 3],
        sigma=table[:, 4],
        n_observations=table[:, 5].astype(np.int32),
        notes=tuple(lines[ends[0] + 1 :]),
    )


def format_hkl(reflections: ReflectionList) -> str:
    """The text of a reflection list. Rows without a finite intensity or without observations are left out."""
    r = reflections
    lines = [_FIRST_LINE, f"Symmetry: {r.symmetry or 'unknown'}", _COLUMNS]
    columns = (r.hkl.tolist(), r.intensity.tolist(), r.sigma.tolist(), r.n_observations.tolist())
    lines += [
        f"{hkl[0]:4d} {hkl[1]:4d} {hkl[2]:4d} {intensity:10.2f} {'-':>8} {sigma:10.2f} {count:7d}"
        for hkl, intensity, sigma, count in zip(*columns, strict=True)
        if count > 0 and math.isfinite(intensity)
    ]
    notes = [re.sub(r"\s+", " ", note) for note in r.notes]
    return "\n".join([*lines, _LAST_LINE, *notes]) + "\n"


def _row(line: str, number: int, path: str | Path | None) -> tuple[float, ...]:
    """h, k, l, I, sigma, nmeas of a line; the phase is not used."""
    fields = line.split()
    try:
        if len(fields) != 7:
            raise ValueError
        return *(int(index) for index in fields[:3]), float(fields[3]), float(fields[5]), int(fields[6])
    except ValueError:
        raise StreamError(
            "this line is no reflection",
            path=path,
            place=f"line {number}",
            found=repr(line),
            expected="h k l, I, phase or '-', sigma(I), nmeas",
        ) from None
