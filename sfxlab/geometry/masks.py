"""Which pixels are bad whatever they measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.geometry.detector import Panel
from sfxlab.geometry.geometry import BadArea, BadPixels, Geometry, PanelSource


def window(panel: Panel) -> tuple[slice, slice]:
    """The panel's part of the slab."""
    return np.s_[panel.row : panel.row + panel.rows, panel.column : panel.column + panel.columns]


def geometry_bad_map(geometry: Geometry) -> NDArray[np.uint8]:
    """1 where the geometry file itself calls a pixel bad, or where the slab has no panel; the slab's shape.

    Bad regions, panels with `no_index`, edges. A bad region in x and y does not follow `detector_shift_x/y`.
    """
    bad = np.ones(geometry.shape, dtype=np.uint8)
    for source in geometry.panels:
        bad[window(source.panel)] = _panel_bad(source)
    panels = {source.panel.name: source for source in geometry.panels}
    for region in geometry.bad_regions:
        if isinstance(region, BadPixels):
            _mark_pixels(bad, region, panels[region.panel].panel)
        else:
            for source in geometry.panels:
                bad[window(source.panel)] |= _inside(region, source)
    return bad


def masked(mask: NDArray[Any], good_bits: int, bad_bits: int) -> NDArray[np.bool_]:
    """True where a bit of `bad_bits` is set in a mask or one of `good_bits` is not; the mask's shape."""
    if mask.dtype.kind in "ib":
        mask = mask.view(f"u{mask.dtype.itemsize}")
    elif mask.dtype.kind != "u":
        mask = mask.astype(np.int64).view(np.uint64)
    representable = int(np.iinfo(mask.dtype).max)
    if good_bits & ~representable:
        return np.ones(mask.shape, dtype=np.bool_)
    bad: NDArray[np.bool_] = (mask & mask.dtype.type(bad_bits & representable)) != 0
    if good_bits:
        good = mask.dtype.type(good_bits)
        bad |= (mask & good) != good
    return bad


def _panel_bad(source: PanelSource) -> NDArray[np.uint8]:
    bad = np.zeros((source.panel.rows, source.panel.columns), dtype=np.uint8)
    if source.no_index:
        bad[:] = 1
    if (width := source.mask_edge_pixels) > 0:
        bad[:width] = bad[-width:] = 1
        bad[:, :width] = bad[:, -width:] = 1
    return bad


def _mark_pixels(bad: NDArray[np.uint8], region: BadPixels, panel: Panel) -> None:
    rows = np.clip([region.min_ss - panel.file_ss, region.max_ss - panel.file_ss + 1], 0, panel.rows)
    columns = np.clip([region.min_fs - panel.file_fs, region.max_fs - panel.file_fs + 1], 0, panel.columns)
    bad[window(panel)][slice(*rows), slice(*columns)] = 1


def _inside(region: BadArea, source: PanelSource) -> NDArray[np.bool_]:
    """True for the panel's pixels whose centre lies in the region."""
    p = source.panel
    f = np.arange(p.columns) + 0.5
    s = (np.arange(p.rows) + 0.5)[:, None]
    x, y = ((p.corner[i] + f * p.fs[i] + s * p.ss[i]) * source.resolution for i in (0, 1))
    return np.asarray((x >= region.min_x) & (x <= region.max_x) & (y >= region.min_y) & (y <= region.max_y))
