import pickle
import time

import numpy as np
import pytest

from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel


def tilted(rows: int, columns: int) -> Detector:
    """Three panels turned and tilted, with a gap below the first row and right of the last panel, 75 µm pixels."""
    random = np.random.default_rng(4)
    panels = []
    for i, (row, column) in enumerate(((0, 0), (0, columns), (rows + 3, 0))):
        turn, tilt = random.normal(0, 0.02, 2)
        fs = 75e-6 * np.array([np.cos(turn), np.sin(turn), tilt])
        ss = 75e-6 * np.array([-np.sin(turn), np.cos(turn), -tilt])
        corner = (75e-6 * (column - columns), 75e-6 * (row - rows), 0.08 + 1e-3 * i)
        panels.append(Panel(f"p{i}", row, column, rows, columns, corner, tuple(fs), tuple(ss)))
    return Detector(tuple(panels), (2 * rows + 3, 2 * columns + 2), 0.08)


def centres(detector: Detector) -> np.ndarray:
    """Positions of pixel centres, (3, rows, columns), NaN outside the panels: what the kernels are to find."""
    found = np.full((3, *detector.shape), np.nan)
    for p in detector.panels:
        f, s = np.meshgrid(np.arange(p.columns) + 0.5, np.arange(p.rows) + 0.5)
        for i in range(3):
            window = found[i, p.row : p.row + p.rows, p.column : p.column + p.columns]
            window[...] = p.corner[i] + f * p.fs[i] + s * p.ss[i]
    return found


def test_maps_are_what_the_definitions_say():
    detector = tilted(60, 90)
    x, y, z = centres(detector)
    np.testing.assert_allclose(detector.xy[0], x, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(detector.xy[1], y, rtol=1e-6, atol=1e-9)
    pixels = np.hypot(x, y) / detector.panels[0].pixel_size
    inside = np.isfinite(x)
    assert (detector.radius[~inside] == 65535).all()
    assert np.abs(detector.radius[inside] - pixels[inside]).max() <= 0.5 + 1e-6
    two_theta = np.arctan2(np.hypot(x, y), z)
    q = 2 * np.sin(two_theta / 2) * 9000 / HC_EV_ANGSTROM
    np.testing.assert_allclose(detector.resolution_map(9000.0), q, rtol=3e-7)


def test_resolution_keeps_its_digits_close_to_the_beam_and_behind_the_sample():
    for distance in (20.0, -0.1):
        panel = Panel("p", 0, 0, 2, 2, (1e-6, 1e-6, distance), (75e-6, 0.0, 0.0), (0.0, 75e-6, 0.0))
        found = Detector((panel,), (2, 2), distance).resolution_map(HC_EV_ANGSTROM)[0, 0]
        radius = np.hypot(38.5e-6, 38.5e-6)
        assert found == pytest.approx(2 * np.sin(np.arctan2(radius, distance) / 2), rel=1e-6)


def test_radii_of_far_pixels_stay_below_the_value_for_none():
    panel = Panel("p", 0, 0, 1, 1, (9.0, 9.0, 0.1), (75e-6, 0.0, 0.0), (0.0, 75e-6, 0.0))
    assert Detector((panel,), (1, 1), 0.1).radius.tolist() == [[65534]]


def test_maps_are_made_once_and_travel_with_no_pickle():
    detector = tilted(60, 90)
    assert detector.radius is detector.radius
    assert detector.xy[0] is detector.xy[0]
    assert detector.panel_map is detector.panel_map
    first, second = detector.resolution_map(9000.0), detector.resolution_map(4500.0)
    np.testing.assert_allclose(first, 2 * second, rtol=1e-6)
    packed = pickle.dumps(detector)
    assert len(packed) < 2000
    assert (pickle.loads(packed).radius == detector.radius).all()


def test_maps_of_many_pixels_take_a_fraction_of_a_second():
    tilted(6, 9).resolution_map(9000.0), tilted(6, 9).radius, tilted(6, 9).xy
    detector = tilted(1000, 1000)
    started = time.thread_time()
    detector.resolution_map(9000.0), detector.radius, detector.xy, detector.panel_map
    assert time.thread_time() - started < 0.4
