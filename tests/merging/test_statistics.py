"""Figures of merit against the numbers of METHODS and of CrystFEL's programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfxlab.crystal import UnitCell, point_group, possible_reflections, read_cell, resolution_of
from sfxlab.errors import MergeError
from sfxlab.merging import Intensities, Merged, compare, read_merged
from sfxlab.merging.comparison import read_comparable
from sfxlab.merging.distribution import multiplicities, rotations_of
from sfxlab.merging.figures import (
    cc_star,
    correlation,
    correlation_interval,
    crd_ano,
    factors_onto,
    merging_factors,
    r1f,
    r1i,
    r2,
    r_ano,
    rsplit,
    shell_edges,
)

CELL = UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c")
# METHODS appendix A7.
I1, I2 = np.array([100.0, 50, 10, -2, 200]), np.array([90.0, 55, 14, 1, 210])


def merged_of(group_name: str = "4/mmm", d_min: float = 2.5, seed: int = 1) -> Merged:
    """Random intensities for every other possible reflection, halves with 10 % error."""
    rng = np.random.default_rng(seed)
    group = point_group(group_name)
    hkl = possible_reflections(CELL, group, 1 / d_min)[::2]
    n = len(hkl)
    truth = rng.exponential(100, n)
    halves = [Intensities(truth + 10 * rng.standard_normal(n), np.full(n, 10.0), np.full(n, 4, np.int32)) for _ in "12"]
    mean = (halves[0].intensity + halves[1].intensity) / 2
    return Merged(
        hkl,
        mean,
        np.full(n, 7.0),
        np.full(n, 8, np.int32),
        halves[0],
        halves[1],
        CELL,
        group,
        group.space_group("P").xhm(),
    )


def test_figures_of_merit_of_five_pairs() -> None:
    assert rsplit(I1, I2) == pytest.approx(0.0621632, abs=1e-7)
    assert correlation(I1, I2) == pytest.approx(0.9961679, abs=1e-7)
    assert cc_star(correlation(I1, I2)) == pytest.approx(0.9990397, abs=1e-7)
    assert r2(I1, I2) == pytest.approx(0.0689383, abs=1e-7)
    assert r1i(I1, I2) == pytest.approx(0.0893855, abs=1e-7)
    assert r1f(np.array([4.0, 9, -1]), np.array([9.0, 4, 1])) == pytest.approx(2 / 5)


def test_r_factors_of_observations_by_hand() -> None:
    # 10, 14, 9, 11 (mean 11, deviations 1, 3, 2, 0) and 4, 6 (mean 5, deviations 1, 1), and one that was seen once.
    intensity, count = np.array([11.0, 5, 7]), np.array([4, 2, 1])
    r_merge, r_meas, r_pim = merging_factors(intensity, count, np.array([6 / 4, 2 / 2, 0]))
    assert r_merge == pytest.approx(8 / 54)
    assert r_meas == pytest.approx((np.sqrt(4 / 3) * 6 + np.sqrt(2) * 2) / 54)
    assert r_pim == pytest.approx((np.sqrt(1 / 3) * 6 + 2) / 54)
    assert np.isnan(merging_factors(intensity, np.ones(3, int), np.zeros(3))).all()


@pytest.mark.parametrize("group_name", ["422", "4/mmm"])
def test_second_moment_of_intensities_that_fall_with_resolution_is_two(group_name: str) -> None:
    merged = merged_of(group_name, d_min=1.2)
    s2 = resolution_of(CELL, merged.hkl) ** 2 / 4
    rng = np.random.default_rng(2)
    epsilon, _ = multiplicities(rotations_of(merged), merged.hkl)
    perfect = replace(merged, intensity=epsilon * np.exp(-30 * s2) * rng.exponential(100, len(merged)))
    assert perfect.statistics().overall.second_moment == pytest.approx(2, abs=0.08)
    assert np.mean([shell.second_moment for shell in perfect.statistics().shells]) == pytest.approx(2, abs=0.1)
    twins = [rng.exponential(100, len(merged)) for _ in "12"]
    twinned = replace(merged, intensity=epsilon * np.exp(-30 * s2) * sum(twins))
    assert twinned.statistics().overall.second_moment == pytest.approx(1.5, abs=0.05)


def test_shells_have_equal_volume() -> None:
    # METHODS appendix A8.
    assert shell_edges(0.5, 6, 5) == pytest.approx([0.5, 3.511527, 4.422116, 5.061247, 5.570175, 6.0], abs=1e-6)


def test_negative_correlation_has_no_cc_star() -> None:
    assert np.isnan(cc_star(-0.1))
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))


@given(scale=st.floats(0.01, 100), b=st.floats(-30, 30))
def test_scale_and_b_factor_between_lists_are_taken_out(scale: float, b: float) -> None:
    rng = np.random.default_rng(1)
    resolution = rng.uniform(0.05, 0.5, 50)
    i1 = rng.exponential(100, 50)
    i2 = i1 / (scale * np.exp(b * resolution**2 / 4))
    i2[0], i1[1] = -1, -1
    factors = factors_onto(i1, i2, resolution)
    assert factors == pytest.approx(scale * np.exp(b * resolution**2 / 4), rel=1e-6)


def test_shells_add_up_to_the_whole() -> None:
    statistics = merged_of().statistics(n_shells=7)
    for name in ("n_unique", "n_possible", "n_measurements", "n_pairs"):
        assert sum(getattr(s, name) for s in statistics.shells) == getattr(statistics.overall, name)
    overall = statistics.overall
    assert overall.n_unique == len(merged_of())
    assert overall.multiplicity == 8
    assert overall.completeness == pytest.approx(0.5, abs=0.01)
    assert overall.snr == pytest.approx(np.mean(merged_of().intensity / 7.0))
    rows = statistics.to_rows()
    assert [row["shell"] for row in rows] == ["1", "2", "3", "4", "5", "6", "7", "overall"]
    assert rows[-1]["rsplit"] == overall.rsplit
    json.dumps(rows)


def test_intervals_of_correlations_hold_the_truth_19_times_of_20() -> None:
    rng = np.random.default_rng(1)
    truth, inside = 0.8, 0
    for _ in range(400):
        common, noise = rng.standard_normal(100), rng.standard_normal((2, 100))
        i1, i2 = np.sqrt(truth) * common + np.sqrt(1 - truth) * noise
        low, high = correlation_interval(correlation(i1, i2), 100)
        inside += low < truth < high
    assert inside / 400 == pytest.approx(0.95, abs=0.03)
    assert np.isnan(correlation_interval(0.5, 3)).all()
    assert correlation_interval(1.0, 10) == pytest.approx((1, 1), abs=1e-4)


def test_errors_that_are_right_are_called_right() -> None:
    overall = merged_of(d_min=1.5).statistics().overall
    assert overall.d1sig == pytest.approx(0.683, abs=0.03)
    assert overall.d2sig == pytest.approx(0.954, abs=0.02)
    assert overall.error_ratio == pytest.approx(1, abs=0.04)
    assert overall.cc_half_sigma_tau == pytest.approx(overall.cc_half, abs=0.003)


def test_anomalous_figures_of_three_pairs() -> None:
    d1, d2 = np.array([3.0, -1, 2]), np.array([1.0, -2, 2])
    # √(Σ(d1 + d2)² / Σ(d1 − d2)²) = √((16 + 9 + 16) / (4 + 1 + 0)).
    assert crd_ano(d1, d2) == pytest.approx(np.sqrt(41 / 5))
    assert r_ano(np.array([10.0, 20, 30]), np.array([12.0, 18, 30])) == pytest.approx(4 / 60)


def test_anomalous_figures_need_friedel_mates_apart() -> None:
    apart, merged = merged_of("422").statistics().overall, merged_of("4/mmm").statistics().overall
    assert np.isnan([merged.cc_ano, merged.crd_ano, merged.r_ano, merged.r_ano_over_rsplit]).all()
    assert apart.r_ano > apart.rsplit
    assert apart.r_ano_over_rsplit == pytest.approx(apart.r_ano / apart.rsplit)


def test_limits_of_resolution_are_those_asked_for() -> None:
    merged = merged_of()
    overall = merged.statistics(d_min=3.0, d_max=12.0).overall
    d = 1 / resolution_of(CELL, merged.hkl)
    assert overall.n_unique == np.count_nonzero((d > 3.0) & (d <= 12.0))
    assert (overall.d_min, overall.d_max) == pytest.approx((3.0, 12.0))
    with pytest.raises(MergeError, match="no reflection is in the range"):
        merged.statistics(d_min=100.0)


def test_data_agree_with_themselves_in_another_setting_scale_and_b_factor() -> None:
    merged = merged_of()
    s2 = resolution_of(CELL, merged.hkl) ** 2 / 4
    operation = point_group("4/mmm").operations[5]
    other = Merged(
        merged.hkl @ operation.T, 3.0 * np.exp(-8 * s2) * merged.intensity, *(getattr(merged, name) for name in (
            "sigma", "n_observations", "half1", "half2", "cell", "point_group", "space_group")),
    )  # fmt: skip
    overall = compare(merged, other).overall
    assert overall.n_common == len(merged)
    assert overall.cc == pytest.approx(1)
    assert overall.r1i == pytest.approx(0, abs=1e-9)


def test_data_of_a_lower_symmetry_are_averaged_before_they_are_compared() -> None:
    chiral, laue = merged_of("422"), merged_of("4/mmm")
    rows = {tuple(hkl): i for hkl, i in zip(laue.hkl.tolist(), laue.intensity, strict=True)}
    keep = np.array([tuple(hkl) in rows for hkl in laue.point_group.asu(chiral.hkl).tolist()])
    common = len(np.unique(laue.point_group.asu(chiral.hkl)[keep], axis=0))
    assert compare(chiral, laue).overall.n_common == compare(laue, chiral).overall.n_common == common


def test_a_model_is_a_reference_of_calculated_intensities(tmp_path: Path) -> None:
    structure = gemmi.Structure()
    structure.cell, structure.spacegroup_hm = CELL.gemmi, "P 4"
    chain = gemmi.Chain("A")
    rng = np.random.default_rng(1)
    for number in range(40):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(number + 1, " ")
        atom = gemmi.Atom()
        atom.name, atom.element, atom.b_iso = "CA", gemmi.Element("C"), 15.0
        atom.pos = gemmi.Position(*rng.uniform(0, 30, 3))
        residue.add_atom(atom)
        chain.add_residue(residue)
    model = gemmi.Model("1")
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.write_pdb(str(tmp_path / "model.pdb"))
    data = merged_of("4/m", 3.0)
    reference = read_comparable(tmp_path / "model.pdb", data)
    # Atoms alone, without the solvent, which changes little at high resolution.
    structure = gemmi.read_structure(str(tmp_path / "model.pdb"))
    structure.setup_cell_images()
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)
    rows = np.flatnonzero(resolution_of(CELL, reference.hkl) > 0.25)[::20]
    atoms = [abs(calculator.calculate_sf_from_model(structure[0], list(reference.hkl[row]))) ** 2 for row in rows]
    assert correlation(np.array(atoms), reference.intensity[rows]) > 0.95
    assert compare(data, reference).overall.n_common > 0.9 * len(data)


def test_data_without_common_reflections_cannot_be_compared() -> None:
    near, far = merged_of(d_min=8.0), merged_of(d_min=2.5)
    outer = resolution_of(CELL, far.hkl) > 0.2
    rest = Merged(
        far.hkl[outer], far.intensity[outer], far.sigma[outer], far.n_observations[outer], far.half1[outer],
        far.half2[outer], CELL, far.point_group, far.space_group,
    )  # fmt: skip
    with pytest.raises(MergeError, match="no reflection in common"):
        compare(rest, near)


def test_statistics_are_those_of_check_hkl_and_compare_hkl(shared_data: Path) -> None:
    folder = shared_data / "partial_lyso"
    cell = read_cell(folder / "lyso.cell")
    merged = read_merged(folder / "reference" / "partial_lyso_process_hkl.hkl.gz", cell=cell)
    truth = read_merged(folder / "truth" / "lyso_true.hkl.gz", cell=cell)
    crystfel = json.loads((folder / "reference" / "partial_lyso_merge.json").read_text())["process_hkl"]
    overall = merged.statistics(d_min=1.8, d_max=30).overall
    assert 100 * overall.completeness == pytest.approx(float(crystfel["completeness"]), abs=1e-6)
    assert overall.multiplicity == pytest.approx(float(crystfel["redundancy"]), abs=1e-6)
    assert overall.snr == pytest.approx(float(crystfel["snr"]), abs=1e-6)
    # compare_hkl puts its second list, the truth, on the scale of the first.
    comparison = compare(truth, merged, d_min=1.8, d_max=30)
    assert comparison.overall.cc == pytest.approx(crystfel["CCtrue"], abs=1e-7)
    assert 100 * comparison.overall.r1i == pytest.approx(crystfel["R1Itrue"], abs=0.005)
    for shell, (_, cc, n, *_) in zip(comparison.shells, crystfel["CCtrue_shells"], strict=True):
        assert shell.n_common == int(n)
        assert shell.cc == pytest.approx(float(cc), abs=1e-7)
