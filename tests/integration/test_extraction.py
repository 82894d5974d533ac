"""Sums and fits of boxes against plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.integration.boxes import backgrounds, find_neighbours
from sfxlab.integration.extraction import fit_profiles, profile_at, solved, sum_peaks

STEP, HALF = 0.25, 18
Y, X = np.mgrid[-6:7, -6:7]
DISC = X**2 + Y**2 <= 9


def table(sigma_along, sigma_across):
    offset = (np.arange(2 * HALF + 1) - HALF) * STEP
    lines = [np.exp(-0.5 * (offset / s) ** 2) / s / np.sqrt(2 * np.pi) for s in (sigma_along, sigma_across)]
    return lines[0][:, None] * lines[1][None, :]


TABLES = np.stack([table(0.8, 0.7), table(1.2, 0.9)])


def shares(fs, ss, spot, away, zone):
    """The profile of spot `spot` on the pixels around spot 0, by the closed form instead of the table."""
    x = np.floor(fs[0]) + X + 0.5 - fs[spot]
    y = np.floor(ss[0]) + Y + 0.5 - ss[spot]
    c, d = away[spot]
    along, across = x * c + y * d, y * c - x * d
    both = [
        np.exp(-0.5 * ((along / a) ** 2 + (across / b) ** 2)) / (2 * np.pi * a * b) for a, b in ((0.8, 0.7), (1.2, 0.9))
    ]
    return (1 - zone[spot]) * both[0] + zone[spot] * both[1]


def case(seed, n_neighbours):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n_neighbours)
    fs = 20.5 + np.concatenate([[0], rng.uniform(2, 6, n_neighbours) * np.cos(angle)])
    ss = 30.2 + np.concatenate([[0], 4 * np.sin(angle)])
    direction = rng.uniform(0, 2 * np.pi, n_neighbours + 1)
    away, zone = np.column_stack([np.cos(direction), np.sin(direction)]), rng.uniform(0, 1, n_neighbours + 1)
    photons = rng.uniform(50, 500, n_neighbours + 1)
    expected = 2.0 + sum(p * shares(fs, ss, i, away, zone) for i, p in enumerate(photons))
    boxes = (3.0 * rng.poisson(expected))[None].astype(np.float32)
    first, neighbours = find_neighbours(np.zeros(len(fs), np.int16), fs, ss, 1, 10.5)
    background = np.array([[6.2, 19.0, 55.0]])
    return boxes, fs, ss, away, zone, background, first, neighbours


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_fits_are_those_of_weighted_least_squares(seed, n_neighbours):
    boxes, fs, ss, away, zone, background, first, neighbours = case(seed, n_neighbours)
    found = fit_profiles(
        boxes, fs, ss, away, zone, np.array([400.0]), np.array([3.0]), background, first, neighbours, TABLES, STEP, 3.0
    )[0]
    design = [shares(fs, ss, i, away, zone)[DISC] for i in [0, *neighbours]]
    design = np.array([row for i, row in enumerate(design) if i == 0 or row.sum() > 0.005]).T
    values = boxes[0][DISC] - 6.2
    weight = 1 / (19.0 + 3.0 * 400.0 * design.sum(axis=1))
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    coefficients = covariance[0] @ (design.T * weight)
    if covariance[0, 0] * (weight * design[:, 0] ** 2).sum() > 1.9:
        return
    quiet = 19.0 * (coefficients**2).sum()
    counted = 3.0 * (coefficients**2 @ values)
    more = 9.0 * (coefficients**2 @ design[:, 0])
    sigma = np.sqrt(max(quiet + counted, quiet / 2) + more + 19.0 / 55.0 * coefficients.sum() ** 2)
    assert found[0] == pytest.approx(coefficients @ values, rel=0.03, abs=0.03 * sigma)
    assert found[1] == pytest.approx(sigma, rel=0.03)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_sums_are_those_of_plain_numpy(seed):
    rng = np.random.default_rng(seed)
    boxes = 2.0 * rng.poisson(7, (5, 13, 13)).astype(np.float32)
    boxes[rng.random(boxes.shape) < 0.01] = np.nan
    fs, ss = 30.0 * np.arange(5) + rng.uniform(0, 1, 5), rng.uniform(0, 1, 5)
    first, none = np.zeros(6, np.int64), np.zeros(0, np.int64)
    background = backgrounds(boxes, fs, ss, np.full(5, 2.0), first, none, 3.0, 4.0, 6.0)
    found = sum_peaks(boxes, fs, ss, np.full(5, 2.0), background, first, none, 3.0)
    for box, (level, variance, count), row in zip(boxes, background, found, strict=True):
        values = box[DISC] - level
        if np.isnan(values).any():
            assert np.isnan(row[0])
            continue
        m, total = DISC.sum(), values.sum()
        counted = max(m * variance + 2.0 * total, m * variance / 2) + 4.0
        assert row == pytest.approx([total, np.sqrt(counted + m**2 * variance / count), values.max()], abs=1e-3)


def test_a_sum_is_not_taken_where_another_spot_lies_in_the_peak():
    boxes, fs, ss = np.ones((1, 13, 13), np.float32), np.array([20.5, 22.9]), np.array([30.5, 30.5])
    background = np.array([[1.0, 1.0, 60.0]])
    first, neighbours = find_neighbours(np.zeros(2, np.int16), fs, ss, 1, 10.5)
    assert np.isnan(sum_peaks(boxes, fs, ss, np.ones(1), background, first, neighbours, 3.0)[0, 0])
    fs[1] = 24.1
    assert np.isfinite(sum_peaks(boxes, fs, ss, np.ones(1), background, first, neighbours, 3.0)[0, 0])


def test_profiles_are_read_between_the_entries_and_the_tables():
    at = profile_at(TABLES, 0, 0.5, STEP, 0.3, -0.4)
    closed = [
        np.exp(-0.5 * ((0.3 / a) ** 2 + (0.4 / b) ** 2)) / (2 * np.pi * a * b) for a, b in ((0.8, 0.7), (1.2, 0.9))
    ]
    assert at == pytest.approx(np.mean(closed), rel=0.02)
    assert profile_at(TABLES, 1, 0.0, STEP, 4.6, 0.0) == 0.0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_equations_are_solved(seed, n):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(n, n + 3))
    normal, one, other = half @ half.T, *rng.normal(size=(2, n))
    expected = np.linalg.solve(normal, np.stack([one, other], axis=1))
    lower = np.tril(normal)
    assert solved(lower, one, other, n)
    np.testing.assert_allclose(np.stack([one, other], axis=1), expected, rtol=1e-6, atol=1e-8)
    assert not solved(np.zeros((n, n)), one, other, n)
