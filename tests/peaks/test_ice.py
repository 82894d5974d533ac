"""Ice in spots and in powder rings, salt, and frames of protein that have neither."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector, Panel
from sfxlab.peaks import Peaks, find_peaks
from sfxlab.peaks.ice import ICE, ICE_SPACINGS, SALT, ice_rings, ice_spots, salt
from sfxlab.peaks.radial_average import STEP, RadialSums, radial_sums

ENERGY = 9500.0


@pytest.fixture(scope="module")
def near(detector: Detector) -> Detector:
    """A detector that reaches 1/2.4 Å."""
    return detector.moved(z=-0.042)


@pytest.fixture(scope="module")
def proteins() -> list[Protein]:
    """Crystals of several cells, right-angled and not."""
    cells = (((30, 40, 50), 0), ((79, 79, 38), 0), ((45, 52, 68), 1), ((62, 62, 62), 0), ((25, 28, 33), 1))
    return [Protein(cell, skew) for cell, skew in cells]


def frame_of(data: np.ndarray, detector: Detector, bad: np.ndarray | None = None) -> Frame:
    bad = np.zeros(data.shape, np.uint8) if bad is None else bad
    return Frame(data, bad, ENERGY, detector, FrameId("made.cxi", "//0"))


def with_spots(data: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Photons of 2 × 2 pixels at fs, ss (n, 2)."""
    data = data.copy()
    for fs, ss in places:
        data[ss : ss + 2, fs : fs + 2] += 40
    return data


def on_rings(detector: Detector, rings: tuple[float, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """fs and ss of pixels at random azimuths of rings 1/d, (n, 2)."""
    q = detector.resolution_map(ENERGY)
    rows, columns = np.nonzero(np.min([np.abs(q - ring) for ring in rings], axis=0) < 0.0008)
    inside = (rows > 4) & (rows < 506) & (columns > 4) & (columns < 506) & (np.abs(columns - 256) > 4)
    chosen = rng.choice(np.flatnonzero(inside), n, replace=False)
    return np.column_stack([columns[chosen], rows[chosen]])


class Protein:
    """Stills of a crystal in random orientations up to 1/1.9 Å, with Wilson's intensities and a B factor."""

    def __init__(self, cell: tuple[float, float, float], skew: float) -> None:
        a, b, c = cell
        basis = np.array([[1 / a, 0, 0], [-0.3 * skew / a, 1 / b, 0], [0.2 * skew / a, -0.1 * skew / b, 1 / c]])
        hkl = np.stack(np.meshgrid(*(np.arange(-int(0.53 * x), int(0.53 * x) + 1) for x in cell), indexing="ij"), -1)
        q = hkl.reshape(-1, 3) @ basis
        length = np.linalg.norm(q, axis=1)
        shown = (length > 0.02) & (length < 0.53)
        self.q, self.length = q[shown], length[shown]

    def shot(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scattering vectors, their lengths, and signal-to-noise ratios of the n strongest spots."""
        k, beam = ENERGY / 12398.42, Rotation.random(None, rng).as_matrix()[2]
        excitation = np.sqrt(self.length**2 + 2 * k * (self.q @ beam) + k**2) - k
        strength = rng.exponential(1, len(self.q)) * np.exp(-12 * self.length**2) * (np.abs(excitation) < 0.0015)
        chosen = np.argsort(-strength)[:n]
        chosen = chosen[strength[chosen] > 0]
        return self.q[chosen], self.length[chosen], 5 * strength[chosen] / strength[chosen[-1]]


def salt_peaks(q: np.ndarray, snr: float | np.ndarray) -> Peaks:
    columns = {field.name: np.ones(len(q), dtype=getattr(Peaks.empty(), field.name).dtype) for field in fields(Peaks)}
    columns["resolution"] = np.linalg.norm(q, axis=1).astype(np.float32)
    columns["snr"] = np.broadcast_to(snr, len(q)).astype(np.float32)
    return Peaks(**columns)


def test_spots_of_ice_are_recognised(near: Detector) -> None:
    rng = np.random.default_rng(1)
    blank = rng.poisson(1.5, near.shape).astype(np.uint16)
    rings = tuple(1 / d for d in ICE_SPACINGS[:3])
    for _ in range(10):
        peaks = find_peaks(frame_of(with_spots(blank, on_rings(near, rings, 25, rng)), near))
        assert len(peaks) > 18
        assert ice_spots(peaks.resolution) > ICE


def test_spots_of_ice_among_those_of_protein_are_recognised(proteins: list[Protein]) -> None:
    rng = np.random.default_rng(2)
    ice, scores = 1 / np.array(ICE_SPACINGS[:8]), []
    for _ in range(30):
        _, length, _ = proteins[1].shot(60, rng)
        scores.append(ice_spots(np.concatenate([length, rng.normal(ice[rng.integers(0, 8, 40)], 0.001)])))
    assert np.mean(np.array(scores) > ICE) > 0.9


@pytest.mark.parametrize("n", [10, 30, 100])
def test_protein_is_taken_neither_for_ice_nor_for_salt(proteins: list[Protein], n: int) -> None:
    rng = np.random.default_rng(3)
    ice, salty = np.zeros((len(proteins), 50)), np.zeros((len(proteins), 50))
    for i, protein in enumerate(proteins):
        for j in range(50):
            q, length, snr = protein.shot(n, rng)
            ice[i, j], salty[i, j] = ice_spots(length), salt(salt_peaks(q, snr), q)
    assert np.mean(ice > ICE) <= 0.01
    assert np.mean(salty > SALT) <= 0.01
    # What the score says of itself: the peaks of one crystal are not quite independent of one another.
    assert ice.std() < 1.6


def test_peaks_that_know_nothing_of_ice_score_as_a_normal_distribution() -> None:
    rng = np.random.default_rng(4)
    scores = np.array([ice_spots(rng.uniform(0.02, 0.8, 100)) for _ in range(2000)])
    assert abs(scores.mean()) < 0.1
    assert scores.std() == pytest.approx(1, abs=0.06)
    assert ice_spots(np.array([])) == 0.0


def smooth(detector: Detector) -> np.ndarray:
    """A background with a ring of water, photons."""
    q = detector.resolution_map(ENERGY)
    return np.nan_to_num(0.5 + 3 * np.exp(-q / 0.1) + 2 * np.exp(-0.5 * ((q - 0.3) / 0.045) ** 2))


def test_powder_rings_of_ice_are_recognised(near: Detector) -> None:
    rng, q = np.random.default_rng(5), near.resolution_map(ENERGY)
    heights = {3.90: 1.0, 3.67: 0.55, 3.44: 0.8}
    rings = np.nan_to_num(sum(h * np.exp(-0.5 * ((q - 1 / d) / 0.0015) ** 2) for d, h in heights.items()))
    for strength, is_ice in ((0.0, False), (2.0, True)):
        data = rng.poisson(smooth(near) + strength * rings)
        score = ice_rings(radial_sums(frame_of(data.astype(np.uint16), near)))
        assert (score > ICE) == is_ice


def test_neither_water_nor_strong_peaks_are_powder_rings(near: Detector) -> None:
    rng = np.random.default_rng(6)
    scores = []
    for _ in range(20):
        spots = np.column_stack([rng.integers(4, 500, 150), rng.integers(4, 500, 150)])
        data = rng.poisson(smooth(near)).astype(np.int32)
        scores.append(ice_rings(radial_sums(frame_of(100 * with_spots(data, spots), near))))
    assert max(scores) < ICE / 2


def test_without_the_rings_on_the_detector_nothing_is_said(detector: Detector) -> None:
    frame = frame_of(np.ones(detector.shape, np.uint16), detector.moved(z=0.1))
    assert np.isnan(ice_rings(radial_sums(frame)))


def test_salt_is_recognised() -> None:
    rng = np.random.default_rng(7)
    # Of rock salt, strong and far apart: 1/d of 111, 200, 220, 311, 222, 400.
    lengths = np.sqrt([3, 4, 8, 11, 12, 16]) / 5.64
    for n in (3, 4, 6):
        q = Rotation.random(n, rng).apply(lengths[:n, None] * [0, 0, 1])
        assert salt(salt_peaks(q, 80.0), q) > SALT
        assert salt(salt_peaks(q, 8.0), q) == 0.0  # weak ones are noise


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float16])
def test_radial_sums_are_those_of_the_sampled_pixels(near: Detector, dtype: str) -> None:
    rng = np.random.default_rng(9)
    data = rng.poisson(smooth(near)).astype(dtype)
    bad = (rng.random(near.shape) < 0.1).astype(np.uint8)
    if data.dtype.kind == "f":
        data[5:20, 5:20] = np.nan
    sums = radial_sums(frame_of(data, near, bad))
    places, _ = near.sampled
    q = near.resolution_map(ENERGY).ravel()[places]
    values = data.ravel()[places].astype(np.float64)
    good = (bad.ravel()[places] == 0) & np.isfinite(values) & (q < 600 * STEP)
    expected, edges = np.histogram(q[good], np.arange(601) * STEP)
    total, _ = np.histogram(q[good], edges, weights=values[good])
    squares, _ = np.histogram(q[good], edges, weights=values[good] ** 2)
    assert np.abs(sums.n_pixels - expected).sum() <= 10  # single precision at the edges of bins
    assert sums.n_pixels.sum() == good.sum()
    assert sums.total.sum() == pytest.approx(total.sum())
    assert sums.squares.sum() == pytest.approx(squares.sum())
    twice = sums + sums
    np.testing.assert_array_equal(twice.n_pixels, 2 * sums.n_pixels)
    np.testing.assert_allclose(twice.mean, sums.mean)
    assert np.isnan(RadialSums.none().mean).all()


def test_the_sample_of_a_detector_is_spread_over_its_panels() -> None:
    step, down = (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0)
    panels = tuple(
        Panel(name, row, 0, 600, 700, (x, 0.0, 0.1), step, down) for name, row, x in (("a", 0, -0.07), ("b", 600, 0.01))
    )
    detector = Detector(panels, (1200, 700), 0.1)
    places, two_sine = detector.sampled
    assert 20_000 < len(places) <= 1 << 16
    rows = places // 700
    assert np.count_nonzero(rows < 600) == np.count_nonzero(rows >= 600)
    assert len(np.unique(places)) == len(places)
    wavelength = 12398.4198 / ENERGY
    expected = detector.resolution_map(ENERGY).ravel()[places] * wavelength
    np.testing.assert_allclose(two_sine, expected, rtol=1e-5)
