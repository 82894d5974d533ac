"""Pictures of any part of a detector at any magnification."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.geometry import Detector
from sfxlab.pictures import assemble
from sfxlab.widgets.models.assembling import BAD, GAP, PANEL, Plane, Region, assemble_region, plane_of

Slab = tuple[NDArray[np.uint16], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def slab() -> Slab:
    """Noise, and some bad pixels that are the brightest."""
    rng = np.random.default_rng(8)
    data = rng.poisson(10, (512, 512)).astype(np.uint16)
    bad = (rng.random(data.shape) < 0.01).astype(np.uint8)
    data[bad != 0] = 60000
    return data, bad


def plain(slab: Slab, plane: Plane, region: Region, *, forward: bool, inverse: bool) -> NDArray[np.float64]:
    """The same in plain numpy: pixels go where their centres fall, or places look up the pixel under their centre."""
    data, bad = slab
    image = np.full((region.rows, region.columns), -np.inf)
    if forward:
        ss, fs = (axis.ravel() for axis in np.indices(data.shape))
        panel = plane.detector.panel_map[ss, fs]
        places = plane.places(panel, fs + 0.5, ss + 0.5).astype(np.float64)
        column, row = np.floor((places - (region.x, region.y)) / region.step).astype(int).T
        seen = (column >= 0) & (row >= 0) & (column < region.columns) & (row < region.rows) & (bad[ss, fs] == 0)
        np.maximum.at(image, (row[seen], column[seen]), data[ss, fs][seen])
    if inverse:
        for row, column in np.ndindex(image.shape):
            x, y = region.x + (column + 0.5) * region.step, region.y + (row + 0.5) * region.step
            found = plane.pixel_at(x, y)
            if found is not None and bad[int(found[2]), int(found[1])] == 0:
                image[row, column] = max(image[row, column], data[int(found[2]), int(found[1])])
    return image


@pytest.mark.parametrize(
    ("region", "forward", "inverse"),
    [
        (Region(0, 0, 4.0, 133, 129), True, False),
        (Region(200.3, 100.7, 0.2, 90, 70), False, True),
        (Region(240.2, 30.3, 0.9, 60, 50), True, True),
    ],
)
def test_a_region_is_what_plain_numpy_makes_of_it(
    detector: Detector, slab: Slab, region: Region, forward: bool, inverse: bool
) -> None:
    plane = plane_of(detector)
    image, _ = assemble_region(*slab, plane, region)
    twin = plain(slab, plane, region, forward=forward, inverse=inverse)
    # Centres that fall on the edge of a place may go to either side of it.
    assert np.mean(image == twin) > 0.999


def test_the_whole_picture_is_that_of_the_report(detector: Detector, slab: Slab) -> None:
    plane = plane_of(detector)
    other = assemble(*slab, detector, limit=300)
    image, _ = assemble_region(*slab, plane, Region(0, 0, other.step / plane.step, *other.image.shape[::-1]))
    known = np.isfinite(other.image) & np.isfinite(image)
    assert known.mean() > 0.9
    assert np.mean(image[known] == other.image[known]) > 0.9  # the report looks up pixels besides, here and there
    assert np.all(image[known] <= other.image[known])


@pytest.mark.parametrize("step", [0.3, 1.0, 1.3, 2.0, 7.0])
def test_every_single_bright_pixel_survives(detector: Detector, step: float) -> None:
    plane = plane_of(detector)
    rng = np.random.default_rng(3)
    spots = rng.choice(512 * 512, 200, replace=False)
    data = np.zeros((512, 512), np.uint16)
    data.ravel()[spots] = 1000
    columns, rows = (int(np.ceil(extent / step)) for extent in (plane.columns, plane.rows))
    image, _ = assemble_region(data, np.zeros(data.shape, np.uint8), plane, Region(0, 0, step, columns, rows))
    ss, fs = np.divmod(spots, 512)
    places = plane.places(detector.panel_map[ss, fs], fs + 0.5, ss + 0.5)
    column, row = np.floor(places / step).astype(int).T
    assert np.all(image[row, column] == 1000)


@pytest.mark.parametrize("step", [0.5, 1.0, 1.2, 3.0])
def test_turned_panels_have_no_holes(detector: Detector, step: float) -> None:
    plane = plane_of(detector)
    x0, y0 = plane.outlines()[1].min(axis=0) + 20
    region = Region(x0, y0, step, int(200 / step), int(400 / step))
    _, kind = assemble_region(np.ones((512, 512), np.uint8), np.zeros((512, 512), np.uint8), plane, region)
    assert np.all(kind == PANEL)


def test_gaps_and_bad_pixels_are_told_from_pixels(detector: Detector, slab: Slab) -> None:
    data, bad = slab
    plane = plane_of(detector)
    image, kind = assemble_region(data, bad, plane, plane.whole)
    corners = plane.outlines()
    between = int((corners[0].max(axis=0)[0] + corners[1].min(axis=0)[0]) / 2), plane.rows // 2
    assert kind[between[::-1]] == GAP
    assert image.max() < 60000
    assert 0.005 < np.mean(kind == BAD) < 0.03
    assert np.all(np.isneginf(image[kind == GAP]))


def test_a_place_and_its_pixel_find_each_other(detector: Detector) -> None:
    plane = plane_of(detector)
    rng = np.random.default_rng(5)
    panel = rng.integers(0, 2, 50)
    fs, ss = rng.uniform(0, 256, 50) + 256 * panel, rng.uniform(0, 512, 50)
    for p, f, s, (x, y) in zip(panel, fs, ss, plane.places(panel, fs, ss), strict=True):
        found = plane.pixel_at(float(x), float(y))
        assert found is not None
        assert found == pytest.approx((p, f, s), abs=1e-3)


def test_rings_are_where_the_detector_has_that_resolution(detector: Detector) -> None:
    plane = plane_of(detector)
    d, radius = next(ring for ring in plane.rings(9500.0) if ring[0] == 8)
    beam = np.array(plane.beam)
    found = plane.pixel_at(*(beam + [-radius * np.cos(1.0), radius * np.sin(1.0)]))
    assert found is not None
    q = detector.q(np.array([found[0]]), np.array([found[1]]), np.array([found[2]]), 9500.0)
    assert 1 / np.linalg.norm(q) == pytest.approx(d, rel=2e-3)
