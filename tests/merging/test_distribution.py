"""Wilson plots and tests for twins on intensities of which B factor and twin fraction are known."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxlab.crystal import UnitCell, point_group, possible_reflections, read_cell, resolution_of
from sfxlab.merging import Intensities, Merged, read_merged
from sfxlab.merging.distribution import mean_abs_l, multiplicities, rotations_of, twin_test, wilson_plot

CELL = UnitCell(60, 60, 80, lattice_type="tetragonal", unique_axis="c")


def wilson_data(b_factor: float = 20.0, twin_fraction: float = 0.0, snr: float = 20.0) -> Merged:
    """Intensities of point group 4 with ⟨I/ε⟩ = 5 Σf² exp(−2Bs²), twinned by k, h, -l."""
    rng = np.random.default_rng(1)
    group = point_group("4/m")
    hkl = possible_reflections(CELL, group, 0.5)
    epsilon, centric = multiplicities(point_group("4").operations, hkl)
    s2 = resolution_of(CELL, hkl) ** 2 / 4
    factors = sum(n * np.array([gemmi.Element(e).it92.calculate_sf(s) for s in s2]) ** 2
                  for e, n in (("C", 5), ("H", 8), ("N", 1.35), ("O", 1.5)))  # fmt: skip
    unit = np.where(centric, rng.standard_normal(len(hkl)) ** 2, rng.exponential(1, len(hkl)))
    truth = 5 * factors * np.exp(-2 * b_factor * s2) * epsilon * unit
    rows = {tuple(index): row for row, index in enumerate(hkl.tolist())}
    mate = [rows[tuple(index)] for index in group.asu(hkl[:, [1, 0, 2]] * [1, 1, -1]).tolist()]
    intensity = (1 - twin_fraction) * truth + twin_fraction * truth[mate]
    sigma = intensity.mean() / snr * np.ones(len(hkl)) * np.exp(-2 * b_factor * s2) * 2
    intensity = intensity + sigma * rng.standard_normal(len(hkl))
    none = Intensities.missing(len(hkl))
    return Merged(hkl, intensity, sigma, np.full(len(hkl), 9, np.int32), none, none, CELL, group, "P 4")


@pytest.mark.parametrize("b_factor", [10.0, 35.0])
def test_the_b_factor_and_the_scale_are_found_again(b_factor: float) -> None:
    plot = wilson_plot(wilson_data(b_factor))
    assert plot.b_factor == pytest.approx(b_factor, abs=1.0)
    assert plot.log_scale == pytest.approx(np.log(5), abs=0.15)
    assert plot.n_reflections.sum() == len(wilson_data())


@pytest.mark.parametrize(("fraction", "words"), [(0.0, "no sign"), (0.25, "partly"), (0.5, "perfectly")])
def test_twins_of_exact_data_are_told_by_neighbours(fraction: float, words: str) -> None:
    test = twin_test(wilson_data(twin_fraction=fraction, snr=300.0))
    expected = 0.375 if fraction == 0.5 else float(mean_abs_l(np.array([fraction]))[0])
    assert test.mean_abs_l == pytest.approx(expected, abs=0.012)
    assert test.mean_square_l == pytest.approx({0.0: 1 / 3, 0.25: test.mean_square_l, 0.5: 1 / 5}[fraction], abs=0.015)
    assert words in test.verdict
    moment = {0.0: 2.0, 0.5: 1.5}.get(fraction)
    assert moment is None or test.second_moment == pytest.approx(moment, abs=0.1)


def test_mean_l_of_a_twin_fraction_is_that_of_random_numbers() -> None:
    rng = np.random.default_rng(1)
    for fraction in (0.05, 0.2, 0.4):
        one, two = ((1 - fraction) * rng.exponential(1, 200_000) + fraction * rng.exponential(1, 200_000) for _ in "12")
        found = np.mean(np.abs(one - two) / (one + two))
        assert mean_abs_l(np.array([fraction]))[0] == pytest.approx(found, abs=0.002)


def test_weak_data_have_no_test_for_twins() -> None:
    test = twin_test(wilson_data(snr=0.5))
    assert "too few" in test.verdict
    assert np.isnan(test.mean_abs_l)


def test_multiplicities_and_centric_reflections_are_those_of_gemmi() -> None:
    for name in ("P 4", "P 43 21 2", "P 63", "I 21 3", "C 1 2 1"):
        group = gemmi.SpaceGroup(name)
        operations = group.operations()
        rotations = np.array([np.array(op.rot).T // gemmi.Op.DEN for op in operations.sym_ops])
        hkl = np.array([(h, k, m) for h in range(-3, 4) for k in range(-3, 4) for m in range(4)], dtype=np.int32)
        epsilon, centric = multiplicities(rotations, hkl)
        assert epsilon.tolist() == [operations.epsilon_factor_without_centering(h) for h in hkl.tolist()]
        assert centric.tolist() == [operations.is_reflection_centric(h) for h in hkl.tolist()]


def test_only_rotations_count_where_only_the_laue_group_is_known() -> None:
    assert len(rotations_of(wilson_data())) == 4


def test_a_simulated_crystal_is_no_twin(shared_data: Path) -> None:
    folder = shared_data / "partial_lyso"
    truth = read_merged(folder / "truth" / "lyso_true.hkl.gz", cell=read_cell(folder / "lyso.cell"))
    test = twin_test(truth)
    assert (test.mean_abs_l, test.mean_square_l) == pytest.approx((0.5, 1 / 3), abs=0.01)
    assert test.verdict == "no sign of twins"
