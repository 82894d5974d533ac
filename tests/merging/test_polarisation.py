"""The polarisation factor against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.errors import MergeError
from sfxlab.merging.polarisation import Polarisation, parse_polarisation, polarisation_factors


def random_crystals(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    basis = rng.normal(0, 0.02, (4, 3, 3))
    return rng.integers(0, 4, 200), rng.integers(-15, 16, (200, 3)), basis, rng.uniform(0.7, 1.0, 4)


@pytest.mark.parametrize(
    ("text", "angle", "fraction"),
    [("horiz", 0, 1), ("vert", 90, 1), ("horiz60", 0, 0.6), ("10deg98", 10, 0.98), ("-5.5deg50", -5.5, 0.5)],
)
def test_polarisation_is_written_as_crystfel_does(text: str, angle: float, fraction: float) -> None:
    assert parse_polarisation(text) == Polarisation(angle, fraction)


def test_no_polarisation_is_no_correction() -> None:
    assert parse_polarisation(None) is None
    assert parse_polarisation("none") is None


@pytest.mark.parametrize("text", ["", "deg", "horizontal", "10", "10deg120"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(MergeError, match="unknown polarisation"):
        parse_polarisation(text)


@pytest.mark.parametrize("text", ["horiz", "vert", "30deg80", "12deg50"])
def test_factors_are_those_of_the_formula(text: str) -> None:
    polarisation = parse_polarisation(text)
    assert polarisation is not None
    crystal, hkl, basis, k = random_crystals()
    s = np.einsum("nij,nj->ni", basis[crystal], hkl) + k[crystal, None] * np.array([0, 0, 1])
    s /= np.linalg.norm(s, axis=1)[:, None]
    angle = np.radians(polarisation.angle)
    u = np.array([np.cos(angle), np.sin(angle), 0])
    v = np.cross([0, 0, 1], u)
    f = polarisation.fraction
    expected = f * (1 - (s @ u) ** 2) + (1 - f) * (1 - (s @ v) ** 2)
    assert polarisation_factors(crystal, hkl, basis, k, polarisation) == pytest.approx(expected)


def test_unpolarised_beam_loses_half_of_one_plus_cos_squared() -> None:
    crystal, hkl, basis, k = random_crystals()
    s = np.einsum("nij,nj->ni", basis[crystal], hkl) + k[crystal, None] * np.array([0, 0, 1])
    cosine = s[:, 2] / np.linalg.norm(s, axis=1)
    for angle in (0, 37):
        factor = polarisation_factors(crystal, hkl, basis, k, Polarisation(angle, 0.5))
        assert factor == pytest.approx((1 + cosine**2) / 2)


def test_horizontal_beam_scatters_fully_upwards_and_less_sideways() -> None:
    basis, k = np.eye(3)[None] * 0.1, np.array([0.8])
    up, side = np.array([[0, 3, 0]]), np.array([[3, 0, 0]])
    horizontal = Polarisation(0, 1)
    assert polarisation_factors(np.zeros(1, int), up, basis, k, horizontal) == pytest.approx([1.0])
    assert polarisation_factors(np.zeros(1, int), side, basis, k, horizontal) == pytest.approx([1 - 0.09 / 0.73])
