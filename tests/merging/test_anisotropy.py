"""Data that reach further along one axis than along another."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.crystal import UnitCell, point_group, possible_reflections, resolution_of
from sfxlab.merging import Intensities, Merged
from sfxlab.merging.anisotropy import directions
from sfxlab.merging.figures import correlation

TETRAGONAL = UnitCell(60, 60, 50, lattice_type="tetragonal", unique_axis="c")
ORTHORHOMBIC = UnitCell(50, 55, 60, lattice_type="orthorhombic")
CUBIC = UnitCell(60, 60, 60, lattice_type="cubic")


def falling(cell: UnitCell, group_name: str, b_factors: tuple[float, float, float], noise: float = 3.0) -> Merged:
    """Intensities that fall with exp(−Σ B_i s_i²) along the axes of a cell of right angles, and constant noise."""
    rng = np.random.default_rng(1)
    group = point_group(group_name)
    hkl = possible_reflections(cell, group, 0.6)
    s = hkl / np.array(cell.lengths) / 2
    truth = rng.exponential(100 * np.exp(-(s**2) @ np.array(b_factors)))
    n = len(hkl)
    halves = [
        Intensities(truth + noise * rng.standard_normal(n), np.full(n, noise), np.ones(n, np.int32)) for _ in "12"
    ]
    mean, sigma = (halves[0].intensity + halves[1].intensity) / 2, np.full(n, noise / np.sqrt(2))
    return Merged(hkl, mean, sigma, np.full(n, 2, np.int32), *halves, cell, group, group.space_group("P").xhm())


def test_the_axis_that_falls_faster_ends_earlier() -> None:
    along = {d.name: d for d in directions(falling(ORTHORHOMBIC, "mmm", (20.0, 45.0, 80.0)))}
    assert list(along) == ["a*", "b*", "c*"]
    limits = [along[name].limit.d_min for name in along]
    assert limits == sorted(limits)
    # CC1/2 = V / (V + σ²) = 0.3 with V = (100 exp(−B s²))², s = 1/2d.
    v = 0.3 / 0.7 * 9
    s2 = [np.log(100 / np.sqrt(v)) / b for b in (20.0, 45.0, 80.0)]
    # Within 30° of an axis the fall is a mixture, mostly of the axis itself.
    for limit, expected in zip(limits[1:], np.sqrt(1 / (4 * np.array(s2)))[1:], strict=True):
        assert limit == pytest.approx(expected, rel=0.12)


def test_axes_that_symmetry_makes_equal_are_one_direction() -> None:
    merged = falling(TETRAGONAL, "4/mmm", (30.0, 30.0, 60.0))
    along = directions(merged)
    assert [d.name for d in along] == ["a*, b*", "c*"]
    assert along[0].limit.d_min < along[1].limit.d_min
    assert directions(falling(CUBIC, "m-3m", (30.0, 30.0, 30.0))) == ()


def test_reflections_of_a_direction_are_those_of_the_cone() -> None:
    merged = falling(ORTHORHOMBIC, "mmm", (30.0, 30.0, 30.0))
    s = np.abs(merged.hkl / np.array(ORTHORHOMBIC.lengths))
    near = s / resolution_of(ORTHORHOMBIC, merged.hkl)[:, None] >= np.cos(np.radians(30))
    for axis, direction in enumerate(directions(merged)):
        own = near[:, axis]
        assert direction.overall.n_pairs == own.sum() == sum(shell.n_pairs for shell in direction.shells)
        assert direction.overall.snr == pytest.approx(np.mean((merged.intensity / merged.sigma)[own]))
        # The halves differ by no scale, so putting them on one changes next to nothing.
        found = correlation(merged.half1.intensity[own], merged.half2.intensity[own])
        assert direction.overall.cc_half == pytest.approx(found, abs=0.01)


def test_every_setting_of_a_reflection_counts() -> None:
    merged = falling(TETRAGONAL, "4/mmm", (30.0, 30.0, 60.0))
    operation = merged.point_group.operations[3]
    turned = Merged(
        merged.hkl @ operation.T, *(getattr(merged, name) for name in (
            "intensity", "sigma", "n_observations", "half1", "half2", "cell", "point_group", "space_group")),
    )  # fmt: skip
    for one, other in zip(directions(merged), directions(turned), strict=True):
        assert one.overall == other.overall
