"""Merging runs whose intensities, scales and B factors are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sfxlab.crystal import UnitCell, point_group
from sfxlab.errors import CellError, MergeError
from sfxlab.merging import Merged, merge
from sfxlab.merging.observations import CrystalId, gather
from sfxlab.merging.scaling import fit_scales

MakeRun = Callable[..., Any]


def against_truth(merged: Merged, run: Any) -> tuple[float, float]:
    """Correlation with the true intensities, and Σ|ΔI| / ΣI with the best single scale."""
    rows = {tuple(hkl): intensity for hkl, intensity in zip(run.hkl.tolist(), run.truth, strict=True)}
    truth = np.array([rows[tuple(hkl)] for hkl in merged.hkl.tolist()])
    k = (truth @ merged.intensity) / (merged.intensity @ merged.intensity)
    return np.corrcoef(truth, merged.intensity)[0, 1], np.abs(k * merged.intensity - truth).sum() / truth.sum()


def test_plain_mean_and_its_error_are_those_of_monte_carlo_merging(synthetic_run: MakeRun) -> None:
    # METHODS appendix A9: the mean of 10, 14, 9, 11 is 11, the error 0.935414 by the variance of the population; that
    # of a sample of four is √(4/3) times as large.
    run = synthetic_run(n_crystals=4, n_observed=6)
    one = {name: [value] * 4 for name, value in (("h", 1), ("k", 2), ("l", 3), ("sigma", 1.0), ("saturated", False))}
    values = {"frame": [0, 1, 2, 3], "crystal": [0] * 4, "intensity": [10.0, 14.0, 9.0, 11.0]}
    merged = merge(replace(run, reflections=pa.table({**values, **one})), "4/mmm", "none", polarisation=None)
    assert merged.hkl.tolist() == [[2, 1, 3]]
    assert merged.intensity[0] == pytest.approx(11)
    assert merged.sigma[0] == pytest.approx(0.935414 * np.sqrt(4 / 3), abs=1e-6)
    assert merged.n_observations[0] == 4


@pytest.mark.parametrize("model", ["none", "scaled"])
def test_order_of_crystals_and_observations_changes_nothing(synthetic_run: MakeRun, model: Any) -> None:
    run = synthetic_run(n_crystals=20, n_observed=120, outliers=0.003, crystals_per_frame=2)
    one, other = (merge(r, "4/mmm", model) for r in (run, run.shuffled(3)))
    assert np.array_equal(one.hkl, other.hkl)
    for a, b in zip(one.sets, other.sets, strict=True):
        assert np.array_equal(a.intensity, b.intensity, equal_nan=True)
        assert np.array_equal(a.sigma, b.sigma, equal_nan=True)


def test_order_of_runs_changes_nothing(synthetic_run: MakeRun) -> None:
    first, second = (synthetic_run(n_crystals=15, seed=i, path=f"run{i}.cxi") for i in (1, 2))
    one, other = merge([first, second], "4/mmm"), merge([second, first], "4/mmm")
    assert np.array_equal(one.intensity, other.intensity)
    assert one.n_observations.sum() > merge(first, "4/mmm").n_observations.sum()


def test_scaling_recovers_intensities_that_the_plain_mean_does_not(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=40, n_observed=150, noise=2.0, log_scale_spread=0.8)
    _, r_plain = against_truth(merge(run, "4/mmm", "none", polarisation=None), run)
    cc, r_scaled = against_truth(merge(run, "4/mmm", "scaled", polarisation=None), run)
    assert cc > 0.998
    assert r_scaled < 0.05 < 0.2 < r_plain


def test_hot_pixels_are_left_out_and_counted(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=40, n_observed=150, outliers=0.004, relative_scatter=0.3)
    merged = merge(run, "4/mmm", polarisation=None)
    cc, r = against_truth(merged, run)
    assert against_truth(merge(run, "4/mmm", "none", polarisation=None), run)[0] < 0.7
    assert cc > 0.97
    assert r < 0.15
    left_out = merged.history["observations"]["left_out"]["disagrees with the others"]
    assert run.outlier.sum() * 0.95 <= left_out <= run.outlier.sum() * 1.3


def test_crystals_that_do_not_agree_are_left_out_and_named(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=40, scrambled=(7, 23), relative_scatter=0.3)
    crystals = merge(run, "4/mmm", polarisation=None).history["crystals"]
    assert {entry["crystal"] for entry in crystals["rejected"]} == {
        "data/run1.cxi //7, crystal 0", "data/run1.cxi //23, crystal 0",
    }  # fmt: skip
    assert all("correlation" in entry["reason"] for entry in crystals["rejected"])
    assert (crystals["given"], crystals["used"]) == (40, 38)


def test_crystals_with_next_to_no_observations_are_left_out_and_named(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=10)
    frame = run.reflections.column("frame").to_numpy()
    few = np.flatnonzero((frame != 4) | (np.cumsum(frame == 4) <= 3))
    merged = merge(replace(run, reflections=run.reflections.take(few)), "4/mmm", polarisation=None)
    (entry,) = merged.history["crystals"]["rejected"]
    assert entry == {"crystal": "data/run1.cxi //4, crystal 0", "reason": "only 3 usable observations, 5 needed"}
    assert merged.history["observations"]["left_out"]["in crystals that are left out"] == 3


def test_saturated_and_broken_observations_are_left_out_and_counted(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=10)
    table = run.reflections
    n = table.num_rows
    intensity, sigma = table.column("intensity").to_numpy().copy(), table.column("sigma").to_numpy().copy()
    saturated = np.arange(n) % 50 == 0
    intensity[saturated], intensity[1::100], sigma[2::100] = 1e6, np.nan, 0
    for name, values in (("intensity", intensity), ("sigma", sigma), ("saturated", saturated)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    merged = merge(replace(run, reflections=table), "4/mmm", "none", polarisation=None)
    left_out = merged.history["observations"]["left_out"]
    assert left_out["saturated"] == saturated.sum()
    assert left_out["no finite intensity, or no positive sigma"] == 2 * n // 100
    assert merged.intensity.max() < 1e4


@pytest.mark.parametrize("model", ["none", "scaled"])
def test_halves_of_pure_noise_do_not_correlate(synthetic_run: MakeRun, model: Any) -> None:
    run = synthetic_run(n_crystals=150, n_observed=100, log_scale_spread=0.0, b_spread=0.0)
    rng = np.random.default_rng(8)
    table = run.reflections
    noise = rng.exponential(100.0, table.num_rows).astype(np.float32)
    table = table.set_column(table.schema.get_field_index("intensity"), "intensity", pa.array(noise))
    merged = merge(replace(run, reflections=table), "4/mmm", model, polarisation=None)
    overall = merged.statistics().overall
    assert abs(overall.cc_half) < 4 / np.sqrt(overall.n_pairs)


def test_noise_agrees_no_better_by_scaling(synthetic_run: MakeRun) -> None:
    # CC1/2 √n of noise is normal of width 1; scales, weights and outliers that knew of both halves would make it 2.
    agreement = []
    for seed in range(10):
        run = synthetic_run(n_crystals=150, n_observed=150, scrambled=tuple(range(150)), seed=seed)
        overall = merge(run, "4/mmm", polarisation=None).statistics().overall
        agreement.append(overall.cc_half * np.sqrt(overall.n_pairs))
    assert abs(np.mean(agreement)) < 3.5 / np.sqrt(10)


def test_rsplit_of_noise_about_a_constant_is_what_statistics_say(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=150, n_observed=200)
    table = run.reflections
    values = np.random.default_rng(9).normal(100.0, 30.0, table.num_rows).astype(np.float32)
    table = table.set_column(table.schema.get_field_index("intensity"), "intensity", pa.array(values))
    merged = merge(replace(run, reflections=table), "4/mmm", "none", polarisation=None)
    pairs = np.isfinite(merged.half1.intensity) & np.isfinite(merged.half2.intensity)
    n1, n2 = merged.half1.n_observations[pairs], merged.half2.n_observations[pairs]
    mean_difference = np.sqrt(2 / np.pi) * 30.0 * np.sqrt(1 / n1 + 1 / n2)
    expected = np.sqrt(2) * mean_difference.sum() / (200.0 * pairs.sum())
    assert merged.statistics().overall.rsplit == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("model", ["none", "scaled"])
def test_errors_are_as_large_as_the_halves_differ(synthetic_run: MakeRun, model: Any) -> None:
    run = synthetic_run(n_crystals=150, n_observed=300, relative_scatter=0.4, log_scale_spread=0.3)
    merged = merge(run, "4/mmm", model, polarisation=None)
    z = (merged.half1.intensity - merged.half2.intensity) / np.hypot(merged.half1.sigma, merged.half2.sigma)
    assert np.nanstd(z) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("model", ["none", "scaled"])
def test_r_factors_of_observations_are_those_of_pandas(synthetic_run: MakeRun, model: Any) -> None:
    run = synthetic_run(n_crystals=40, relative_scatter=0.2)
    merged = merge(run, "4/mmm", model, polarisation=None, reject_harmful=False)
    o = gather([run], point_group("4/mmm"))
    table = pd.DataFrame({"r": o.reflection, "i": o.intensity.astype(float), "w": 1.0})
    if model == "scaled":
        fit = fit_scales(o)
        table = table.assign(i=table["i"] / fit.factor, w=fit.weight)
        table = table[table["w"] > 0]
    weighted = table.assign(wi=table["w"] * table["i"]).groupby("r")[["w", "wi"]].transform("sum")
    table["mean"] = weighted["wi"] / weighted["w"]
    table["share"] = table["w"] * (table["i"] - table["mean"]).abs() / weighted["w"]
    by = table.groupby("r")
    n = by.size()
    mean, off, n = by["mean"].first()[n > 1], by["share"].sum()[n > 1], n[n > 1]
    total, overall = (n * mean).sum(), merged.statistics().overall
    assert overall.r_merge == pytest.approx((n * off).sum() / total, rel=1e-5)
    assert overall.r_meas == pytest.approx((np.sqrt(n / (n - 1)) * n * off).sum() / total, rel=1e-5)
    assert overall.r_pim == pytest.approx((np.sqrt(1 / (n - 1)) * n * off).sum() / total, rel=1e-5)
    assert overall.multiplicity_50 == n.median()
    assert (overall.multiplicity_5, overall.multiplicity_95) == tuple(n.quantile([0.05, 0.95]))


def test_r_factors_of_labels_are_of_their_own_observations(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=60, log_scale_spread=0.0, b_spread=0.0)
    labels = {("data/run1.cxi", f"//{i}"): "even" if i % 2 == 0 else "odd" for i in range(60)}
    splits = merge(run, "4/mmm", "none", labels=labels, polarisation=None)
    own = {("data/run1.cxi", f"//{i}"): "even" for i in range(0, 60, 2)}
    alone = merge(run, "4/mmm", "none", labels=own, polarisation=None)["even"]
    assert splits["even"].deviation == pytest.approx(alone.deviation)
    assert splits["even"].statistics().overall.r_meas == pytest.approx(
        splits["odd"].statistics().overall.r_meas, rel=0.1
    )


def test_half_data_sets_are_together_the_whole(synthetic_run: MakeRun) -> None:
    merged = merge(synthetic_run(), "4/mmm", "none", polarisation=None, min_observations=1)
    n1, n2 = merged.half1.n_observations, merged.half2.n_observations
    assert np.array_equal(n1 + n2, merged.n_observations)
    total = np.nan_to_num(n1 * merged.half1.intensity) + np.nan_to_num(n2 * merged.half2.intensity)
    assert total / merged.n_observations == pytest.approx(merged.intensity)


def test_crystals_of_a_frame_are_in_the_same_half_wherever_the_file_lies() -> None:
    halves = [[CrystalId("run1.cxi", f"//{i}", f"{path}/run1.cxi", number).half for i in range(400)]
              for path, number in (("a", 0), ("a", 1), ("/elsewhere", 0))]  # fmt: skip
    assert halves[0] == halves[1] == halves[2]
    assert 160 < sum(halves[0]) < 240
    # A change here would move crystals of merged data into the other half when they are merged again.
    assert halves[0][:12] == [0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0]


def test_friedel_mates_stay_apart_in_a_chiral_point_group(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=150, n_observed=400, friedel_difference=0.2, noise=1.0, log_scale_spread=0.2)
    apart, together = (merge(run, name, polarisation=None) for name in ("422", "4/mmm"))
    assert len(together) < len(apart) < 2 * len(together)
    assert apart.statistics().overall.cc_ano > 0.9
    assert np.isnan(together.statistics().overall.cc_ano)


def test_limits_of_resolution_and_observations_are_kept(synthetic_run: MakeRun) -> None:
    merged = merge(synthetic_run(), "4/mmm", d_min=3.0, d_max=10.0, min_observations=15, polarisation=None)
    d = merged.cell.gemmi.calculate_d_array(merged.hkl)
    assert 3.0 <= d.min() < d.max() <= 10.0
    assert merged.n_observations.min() >= 15


def test_given_cell_and_space_group_are_taken_over(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=10)
    cell = UnitCell(41, 41, 31, lattice_type="tetragonal", unique_axis="c")
    merged = merge(run, "4/mmm", cell=cell, space_group="P43212", polarisation=None)
    assert merged.space_group == "P 43 21 2"
    assert merged.cell == cell
    assert merge(run, "4/mmm", polarisation=None).space_group == "P 4/m m m"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"point_group": "4/mm"}, CellError, "did you mean '4/mmm'"),
        ({"point_group": "6/mmm"}, CellError, "does not have the symmetry"),
        ({"point_group": "4/mmm", "space_group": "P 21 21 21"}, CellError, "does not belong to point group 4/mmm"),
        ({"point_group": "4/mmm", "model": "magic"}, MergeError, "unknown model"),
        ({"point_group": "4/mmm", "d_min": 50.0}, MergeError, "no observations are left"),
        ({"point_group": "4/mmm", "min_observations": 1000}, MergeError, "observed often enough"),
        ({"point_group": "4/mmm", "min_observations": 0}, MergeError, "start at 1"),
        ({"point_group": "4/mmm", "polarisation": "diagonal"}, MergeError, "unknown polarisation"),
    ],
)
def test_what_cannot_be_merged_is_explained(
    synthetic_run: MakeRun, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        merge(synthetic_run(n_crystals=6), **arguments)


def test_crystals_of_other_cells_are_left_out_by_the_tolerance(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=20)
    longer = run.crystals.column("a").to_numpy().copy()
    longer[:3] *= 1.03
    run = replace(run, crystals=run.crystals.set_column(2, "a", pa.array(longer)))
    assert run.crystals.column_names[2] == "a"
    for tolerance, used in ((0.05, 20), (0.02, 17)):
        merged = merge(run, "4/mmm", "none", polarisation=None, length_tolerance=tolerance)
        assert merged.history["crystals"]["used"] == used
    with pytest.raises(MergeError, match="tolerances of cells are above zero"):
        merge(run, "4/mmm", "none", length_tolerance=0.0)
