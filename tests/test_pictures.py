"""Pictures of frames."""

from __future__ import annotations

import io
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from sfxlab.bad_pixels import KINDS, LearnedMask
from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector, Panel
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks
from sfxlab.pictures import BAD, GAP, LATTICES, PEAK, assemble, frame_png, mask_png

PIXEL = 1e-4


def panel(
    name: str, row: int, corner: tuple[float, float], angle: float = 0.0, rows: int = 40, columns: int = 40
) -> Panel:
    """A panel whose fast axis is turned by `angle` (degrees) from +x; corner in pixels."""
    c, s = PIXEL * math.cos(math.radians(angle)), PIXEL * math.sin(math.radians(angle))
    place = (corner[0] * PIXEL, corner[1] * PIXEL, 0.1)
    return Panel(name, row, 0, rows, columns, place, (c, s, 0.0), (-s, c, 0.0))


def square(rows: int = 40, columns: int = 40, angle: float = 0.0) -> Detector:
    return Detector((panel("p", 0, (-columns / 2, -rows / 2), angle, rows, columns),), (rows, columns), 0.1)


def opened(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.array(picture.convert("RGB")).astype(int)


def distance_to(colours: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(colours - np.array(colour)).max(axis=-1)


def spots(kind: type, fs: list[float], ss: list[float]) -> object:
    n = len(fs)
    blank = kind(*(np.zeros(n, dtype=np.float32) for _ in fields(kind)))
    return replace(blank, panel=np.zeros(n, np.int16), fs=np.array(fs, np.float32), ss=np.array(ss, np.float32))


def test_x_runs_to_the_right_and_y_upwards() -> None:
    data = np.zeros((40, 40))
    data[35, 3] = 9  # far along ss, which is +y, and near the beginning of fs, which is +x
    picture = assemble(data, None, square(), limit=40)
    assert picture.image.shape == (40, 40)
    assert np.argwhere(picture.image == 9).tolist() == [[4, 3]]


def test_panels_lie_where_the_geometry_puts_them_and_gaps_are_outside() -> None:
    data = np.repeat([1.0, 2.0], 40)[:, None] * np.ones(40)
    upper, lower = panel("upper", 0, (-20, 10)), panel("lower", 40, (-20, -50))
    picture = assemble(data, None, Detector((upper, lower), (80, 40), 0.1), limit=100)
    assert picture.image.shape == (100, 40)
    np.testing.assert_array_equal(picture.image[:40], 1)
    np.testing.assert_array_equal(picture.image[60:], 2)
    assert not picture.inside[40:60].any()
    assert picture.inside.sum() == 2 * 40 * 40


def test_a_reduced_picture_shows_the_largest_pixel_of_each_block() -> None:
    data = np.random.default_rng(0).poisson(3, (120, 80))
    picture = assemble(data, None, square(120, 80), limit=30)
    blocks = data.reshape(30, 4, 20, 4).max(axis=(1, 3))
    np.testing.assert_array_equal(picture.image, blocks[::-1])


@pytest.mark.parametrize("angle", [0, 0.3, 30, 45, -100])
@pytest.mark.parametrize("limit", [25, 60, 200])
def test_turned_and_magnified_panels_have_no_holes(angle: float, limit: int) -> None:
    data = np.full((40, 40), 7)
    picture = assemble(data, None, square(angle=angle), limit=limit)
    np.testing.assert_array_equal(picture.image[picture.inside], 7)
    area = picture.inside.sum() * picture.step**2
    edge = 4 * 40 * PIXEL * picture.step
    assert abs(area - (40 * PIXEL) ** 2) < edge


def test_bad_pixels_never_show_their_value() -> None:
    data, bad = np.ones((40, 40)), np.zeros((40, 40), dtype=np.uint8)
    data[10, 10], bad[10, 10] = 1e6, 1
    data[20, 20] = np.nan
    bad[30:40, 30:40] = 1
    picture = assemble(data, bad, square(), limit=20)
    assert np.nanmax(picture.image) == 1
    assert np.isnan(picture.image).sum() == 25
    assert picture.inside.all()


def test_the_same_place_is_found_in_picture_and_laboratory() -> None:
    detector = square(angle=20)
    data = np.zeros((40, 40))
    data[12, 31] = 5
    picture = assemble(data, None, detector, limit=300)
    position = detector.positions(np.array([0]), np.array([31.5]), np.array([12.5]))
    column, row = picture.place(position[:, 0], position[:, 1])
    assert picture.image[int(row[0]), int(column[0])] == 5


def frame(data: np.ndarray, bad: np.ndarray | None = None) -> Frame:
    mask = np.zeros(data.shape, dtype=np.uint8) if bad is None else bad
    return Frame(data, mask, 9500.0, square(*data.shape), FrameId("a.h5", "//0"))


def test_peaks_are_circled_and_each_lattice_has_its_colour() -> None:
    data = np.zeros((200, 200), dtype=np.uint16)
    peaks = spots(Peaks, [50.0], [150.0])
    lattices = [spots(Reflections, [150.0], [150.0]), spots(Reflections, [150.0], [60.0])]
    picture = opened(frame_png(frame(data), peaks, lattices, width=1000))
    assert picture.shape == (1000, 1000, 3)
    for colour, (column, row) in {PEAK: (250, 250), LATTICES[0]: (750, 250), LATTICES[1]: (750, 700)}.items():
        found = np.argwhere(distance_to(picture, colour) < 40)
        np.testing.assert_allclose(found.mean(axis=0), [row, column], atol=2)
        assert np.abs(found - [row, column]).max() < 12
        assert distance_to(picture[row, column], (255, 255, 255)) < 8  # the spot itself stays visible


def test_gaps_and_bad_pixels_have_their_own_colours() -> None:
    bad = np.zeros((200, 200), dtype=np.uint8)
    bad[:50] = 1
    data = np.random.default_rng(1).poisson(5, (200, 200))
    turned = replace(frame(data, bad), detector=square(200, 200, angle=45))
    picture = opened(frame_png(turned, width=400))
    assert distance_to(picture[3, 3], GAP) < 8
    share = (distance_to(picture, BAD) < 8).mean()
    assert share == pytest.approx(0.125, abs=0.02)  # a quarter of a square that fills half of the picture


def test_strong_pixels_are_dark() -> None:
    data = np.random.default_rng(1).poisson(5, (200, 200))
    data[80:84, 120:124] = 500
    picture = opened(frame_png(frame(data), width=200))
    assert picture[117, 122].max() < 20
    assert np.median(picture) > 120


def test_resolution_rings_have_the_radius_of_a_round_spacing() -> None:
    big = Panel("p", 0, 0, 200, 200, (-0.1, -0.1, 0.1), (1e-3, 0.0, 0.0), (0.0, 1e-3, 0.0))
    blank = replace(frame(np.zeros((200, 200))), detector=Detector((big,), (200, 200), 0.1))
    picture = opened(frame_png(blank, width=1000))
    found = np.flatnonzero(picture[500, 500:].max(axis=-1) < 200)
    wavelength = 12398.4198 / 9500
    # 0.1 m from the sample, 5 picture pixels for a millimetre.
    expected = [500 * math.tan(2 * math.asin(wavelength / 2 / d)) for d in (6, 3, 2.2, 1.8)]
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_frames_without_contrast_give_a_picture(value: float) -> None:
    assert opened(frame_png(frame(np.full((30, 40), value)), width=100)).shape == (75, 100, 3)


def test_a_frame_that_is_all_bad_gives_a_picture() -> None:
    picture = opened(frame_png(frame(np.zeros((30, 40)), np.ones((30, 40), dtype=np.uint8)), Peaks.empty(), width=100))
    assert (distance_to(picture, BAD) < 8).mean() > 0.9


def test_learned_bad_pixels_are_dots_of_their_kind_and_shadows_areas() -> None:
    kinds = np.zeros((40, 40), dtype=np.uint8)
    kinds[10, 30], kinds[30, 10], kinds[35, 35] = KINDS["hot"], KINDS["dead"], KINDS["noisy"]
    kinds[2:8, 2:12] = KINDS["shadowed"]
    counts = np.full(kinds.shape, 20, dtype=np.uint16)
    picture = opened(mask_png(LearnedMask(kinds, counts, counts, 20), square(), 400))
    assert picture.shape == (414, 400, 3)  # with a legend below
    assert np.ptp(picture[402:], axis=(0, 1)).min() > 100
    # Row 0 of the slab is at the bottom: y goes up.
    near = {name: picture[395 - 10 * row, 5 + 10 * column] for name, row, column in (
        ("hot", 10, 30), ("dead", 30, 10), ("noisy", 35, 35), ("shadowed", 5, 7), ("good", 20, 20),
    )}  # fmt: skip
    assert near["good"].min() > 250
    assert near["dead"].max() < 30
    assert near["hot"][0] > near["hot"][1] + 60 > near["hot"][2] + 100
    assert near["shadowed"][2] > near["shadowed"][0] + 100
    assert near["noisy"][0] > near["noisy"][1] + 60
