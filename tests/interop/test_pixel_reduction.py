"""Photons counted and pixels binned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sfxlab.errors import GeometryError, InputError
from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector, Geometry, Panel, PanelSource, Quantity
from sfxlab.interop.pixel_reduction import (
    PixelReduction,
    reduced_panels,
    reduced_peaks,
    reduced_pixels,
    reduced_saturation,
)
from sfxlab.peaks import Peaks

_GAINS = (10.0, 30.0)


@pytest.fixture
def geometry() -> Geometry:
    """Two panels of 5 rows, 6 and 7 columns, one below the other, with a column and a row of none between."""
    steps = (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0)
    panels = (
        Panel("a", 0, 0, 5, 6, (0.001, 0.002, 0.0), *steps, 0, 0, adu_per_photon=_GAINS[0], max_adu=900.0),
        Panel("b", 6, 1, 5, 7, (0.001, 0.004, 0.0), *steps, 1, 6, adu_per_photon=_GAINS[1], max_adu=6000.0),
    )
    sources = tuple(PanelSource(panel, 1e4) for panel in panels)
    return Geometry(sources, Quantity("photon_energy", 9000.0, "eV"), Quantity("clen", 0.1, "m"))


def frame_of(geometry: Geometry, data: np.ndarray, bad: np.ndarray | None = None) -> Frame:
    detector = geometry.detector(0.1)
    bad = np.where(detector.panel_map < 0, 1, 0) if bad is None else bad
    return Frame(data, bad.astype(np.uint8), 9000.0, detector, FrameId("made-up", "//0"))


def test_nothing_is_touched_by_default(geometry: Geometry) -> None:
    frame = frame_of(geometry, np.arange(88).reshape(11, 8))
    assert reduced_panels(geometry, PixelReduction(), 9000.0) is geometry
    data, bad = reduced_pixels(frame, PixelReduction(), geometry)
    assert data is frame.data
    assert bad is frame.bad
    assert str(PixelReduction()) == "lossless"


@pytest.mark.parametrize("photons", ["uint8", "uint16"])
def test_photons_are_counted_panel_by_panel(geometry: Geometry, photons: str) -> None:
    reduction = PixelReduction(photons=photons)
    values = np.random.default_rng(1).normal(200, 200, (11, 8)).astype(np.float32)
    values[1, 1], values[7, 3] = np.nan, 5999.0
    bad = np.isnan(values) | (geometry.detector(0.1).panel_map < 0)
    after = reduced_panels(geometry, reduction, 9000.0)
    data, marks = reduced_pixels(frame_of(geometry, values, bad), reduction, after)
    assert data.dtype == photons
    np.testing.assert_array_equal(marks, bad)
    assert [source.panel.max_adu for source in after.panels] == [90, 200]
    assert [source.panel.gain(9000.0) for source in after.panels] == [1, 1]
    for row, column in np.argwhere(~bad):
        gain, most = (_GAINS[0], 90) if row < 5 else (_GAINS[1], 200)
        assert data[row, column] == min(max(round(float(values[row, column]) / gain), 0), most)


def test_more_photons_than_a_byte_holds_are_saturated(geometry: Geometry) -> None:
    unlimited = replace(
        geometry, panels=tuple(replace(s, panel=replace(s.panel, max_adu=math.inf)) for s in geometry.panels)
    )
    reduction = PixelReduction(photons="uint8")
    after = reduced_panels(unlimited, reduction, 9000.0)
    data, _ = reduced_pixels(frame_of(unlimited, np.full((11, 8), 8000)), reduction, after)
    assert data[0, 0] == after.panels[0].panel.max_adu == 255


def test_bins_are_sums_and_bad_where_a_pixel_is(geometry: Geometry) -> None:
    values = np.arange(88, dtype=np.uint16).reshape(11, 8)
    bad = geometry.detector(0.1).panel_map < 0
    bad[2, 3] = True
    after = reduced_panels(geometry, PixelReduction(bin=2), 9000.0)
    data, marks = reduced_pixels(frame_of(geometry, values, bad), PixelReduction(bin=2), after)
    assert data.dtype == np.uint32
    for source, old in zip(after.panels, geometry.panels, strict=True):
        new, before = source.panel, old.panel
        assert (new.rows, new.columns) == (2, 3)
        for row in range(2):
            for column in range(3):
                top, left = before.row + 2 * row, before.column + 2 * column
                box = np.s_[top : top + 2, left : left + 2]
                where = new.row + row, new.column + column
                assert marks[where] == bad[box].any()
                assert data[where] == np.where(bad[box], 0, values[box]).sum()


def test_the_middle_of_a_bin_is_the_middle_of_its_pixels(geometry: Geometry) -> None:
    after = reduced_panels(geometry, PixelReduction(bin=2), 9000.0)
    one, ones = np.ones(2), np.arange(2)
    panels = [source.panel for source in after.panels]
    new = after.detector(0.1).positions(
        ones, np.array([p.column + 1.5 for p in panels]), np.array([p.row + 0.5 for p in panels])
    )
    old = [source.panel for source in geometry.panels]
    before = geometry.detector(0.1).positions(
        ones, np.array([p.column for p in old]) + 3 * one, np.array([p.row for p in old]) + one
    )
    np.testing.assert_allclose(new, before, atol=1e-15)


def test_a_sum_with_a_saturated_pixel_is_saturated(geometry: Geometry) -> None:
    values = np.zeros((11, 8), dtype=np.int32)
    values[0, 0] = 900
    values[6:8, 1:3] = 5999
    after = reduced_panels(geometry, PixelReduction(bin=2), 9000.0)
    data, _ = reduced_pixels(frame_of(geometry, values), PixelReduction(bin=2), after)
    assert data[0, 0] == after.panels[0].panel.max_adu == 3600
    assert data[3, 0] == 4 * 5999 < after.panels[1].panel.max_adu


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("reduction", [PixelReduction(2), PixelReduction(2, "uint16"), PixelReduction(1, "uint8")])
def test_pixels_saturated_by_a_map_make_saturated_sums(
    geometry: Geometry, reduction: PixelReduction, dtype: type, limited: bool
) -> None:
    if not limited:
        panels = tuple(replace(s, panel=replace(s.panel, max_adu=math.inf)) for s in geometry.panels)
        geometry = replace(geometry, panels=panels)
    rng, n = np.random.default_rng(4), reduction.bin
    limits = rng.uniform(60, 100, (11, 8)).astype(np.float32)
    limits[rng.random(limits.shape) < 0.1] = np.inf
    values = (np.minimum(limits, 1000) * rng.uniform(0, 0.7, limits.shape)).astype(dtype)
    reached = (rng.random(values.shape) < 0.1) & np.isfinite(limits)
    values[reached] = np.ceil(limits[reached])
    after = reduced_panels(geometry, reduction, 9000.0)
    frame = replace(frame_of(geometry, values), saturation_map=limits)
    data, marks = reduced_pixels(frame, reduction, after)
    saturation = reduced_saturation(frame, reduction, after)
    assert saturation is not None
    for old, new in zip(geometry.detector(0.1).panels, after.detector(0.1).panels, strict=True):
        for i in range(new.rows):
            for j in range(new.columns):
                box = np.s_[old.row + n * i : old.row + n * i + n, old.column + n * j : old.column + n * j + n]
                place = new.row + i, new.column + j
                if reached[box].any():
                    assert marks[place] or data[place] >= min(saturation[place], new.max_adu)
                elif reduction.photons is None:
                    assert not marks[place]
                    assert data[place] == pytest.approx(values[box].sum(), rel=1e-6)
                    assert data[place] < saturation[place]
    assert reduced_saturation(frame_of(geometry, values), reduction, after) is None


def test_peaks_move_with_the_pixels(geometry: Geometry) -> None:
    after = reduced_panels(geometry, PixelReduction(bin=2), 9000.0)
    zeros = np.zeros(2, np.float32)
    fs, ss = np.array([2.5, 4.0], np.float32), np.array([3.0, 8.25], np.float32)
    peaks = Peaks(np.array([0, 1], np.int16), fs, ss, *(zeros,) * 6)
    moved = reduced_peaks(peaks, geometry, after, PixelReduction(bin=2))
    old, new = geometry.detector(0.1), after.detector(0.1)
    np.testing.assert_allclose(
        new.positions(moved.panel, moved.fs, moved.ss), old.positions(peaks.panel, fs, ss), atol=1e-12
    )


def test_what_cannot_be_reduced_is_refused(geometry: Geometry) -> None:
    unknown = replace(
        geometry, panels=tuple(replace(s, panel=replace(s.panel, adu_per_photon=None)) for s in geometry.panels)
    )
    with pytest.raises(GeometryError, match=r"panel a.*gain is unknown"):
        reduced_panels(unknown, PixelReduction(photons="uint8"), 9000.0)
    with pytest.raises(GeometryError, match="smaller than a bin"):
        reduced_panels(geometry, PixelReduction(bin=6), 9000.0)
    with pytest.raises(InputError, match="cannot be binned"):
        PixelReduction(bin=0)


def test_saturation_in_photons_follows_the_energy_where_the_gain_does(geometry: Geometry) -> None:
    panels = tuple(replace(s, panel=replace(s.panel, adu_per_photon=None, adu_per_ev=0.01)) for s in geometry.panels)
    after = reduced_panels(replace(geometry, panels=panels), PixelReduction(photons="uint16"), 9000.0)
    assert [source.panel.max_adu for source in after.panels] == [10, 67]
    assert isinstance(after.detector(0.1), Detector)
