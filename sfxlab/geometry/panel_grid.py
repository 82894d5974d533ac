"""Which panels a direction may meet, looked up instead of tried one by one (METHODS.md section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 256
"""Along each side of the grid, at most."""
_STEP = 8
"""Pixels between the points at which panels are sampled."""


@dataclass(frozen=True)
class PanelGrid:
    """Square cells of directions; a direction S lies at u = S_x/(|S| + S_z), v = S_y/(|S| + S_z).

    This projection is finite for all directions but straight back, so panels at high angles need no case of their own.
    """

    origin: tuple[float, float]
    """Least u and v."""
    cell: float
    """Side of a cell."""
    columns: int
    """Cells along u."""
    first: NDArray[np.int64]
    """Entries `first[i]` to `first[i + 1]` of `panels` are those of cell i = row × columns + column."""
    panels: NDArray[np.int64]
    """Panels that directions in a cell may meet, in order."""


def grid_of(
    corner: NDArray[np.float64], fs: NDArray[np.float64], ss: NDArray[np.float64], sizes: Sequence[tuple[int, int]]
) -> PanelGrid:
    """The grid of panels with corners and pixel steps (n, 3) in metres and sizes (columns, rows).

    Panels are sampled more finely than the cells, and the cells around a sample count as well, so none is missed.
    """
    samples, step = [], 0.0
    for i, (columns, rows) in enumerate(sizes):
        f, s = (np.append(np.arange(0, size, _STEP), size) for size in (columns, rows))
        x = corner[i] + f[None, :, None] * fs[i] + s[:, None, None] * ss[i]
        uv = x[..., :2] / (np.linalg.norm(x, axis=2) + x[..., 2])[..., None]
        step = max(step, *(float(np.abs(np.diff(uv, axis=axis)).max()) for axis in (0, 1)))
        samples.append(uv.reshape(-1, 2))
    low, high = (np.array([limit(uv, axis=0) for uv in samples]) for limit in (np.min, np.max))
    cell = max(float((high.max(axis=0) - low.min(axis=0)).max()) / (_CELLS - 3), 1.01 * step)
    origin = low.min(axis=0) - 1.5 * cell
    columns, rows = (int(n) for n in np.ceil((high.max(axis=0) - origin) / cell).astype(int) + 2)
    around = np.array([y * columns + x for y in (-1, 0, 1) for x in (-1, 0, 1)])
    cells = []
    for uv in samples:
        place = ((uv - origin) / cell).astype(np.int64)
        cells.append(np.unique((place[:, 1] * columns + place[:, 0])[:, None] + around))
    where = np.concatenate(cells)
    order = np.argsort(where, kind="stable")
    return PanelGrid(
        origin=(float(origin[0]), float(origin[1])),
        cell=cell,
        columns=columns,
        first=np.searchsorted(where[order], np.arange(rows * columns + 1)),
        panels=np.repeat(np.arange(len(cells)), [len(c) for c in cells])[order],
    )
