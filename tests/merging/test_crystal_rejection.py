"""ΔCC1/2 from sums against merging again, and what rejection does to noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.crystal import point_group
from sfxlab.merging import merge
from sfxlab.merging.crystal_rejection import CrystalEffects, crystal_effects
from sfxlab.merging.observations import gather
from sfxlab.merging.scaling import fit_scales

MakeRun = Callable[..., Any]


def cc_half(y: np.ndarray, w: np.ndarray, reflection: np.ndarray, rows: np.ndarray) -> float:
    """The σ-τ method by its definition, over some reflections."""
    means, errors = [], []
    for row in rows:
        own = reflection == row
        mean = np.average(y[own], weights=w[own])
        spread = (w[own] * (y[own] - mean) ** 2).sum() / (w[own].sum() - (w[own] ** 2).sum() / w[own].sum())
        means.append(mean)
        errors.append(spread * (w[own] ** 2).sum() / w[own].sum() ** 2)
    return (np.var(means) - np.mean(errors)) / (np.var(means) + np.mean(errors))


def test_effects_from_sums_are_those_of_merging_again_without_the_crystal(synthetic_run: MakeRun) -> None:
    scaling = fit_scales(gather([synthetic_run(n_crystals=24, n_observed=80)], point_group("4/mmm")))
    o = scaling.observations
    effects = crystal_effects(scaling.blocks(), scaling.blocks(), o.half, scaling.mean)
    mean = scaling.mean[o.reflection]
    y, w = o.intensity / scaling.factor / mean, scaling.weight * mean**2
    same_half, crystal = o.half[o.crystal] == o.half[5], o.crystal
    others = same_half & (crystal != 5) & (w > 0)
    total = np.bincount(o.reflection[others], w[others], len(o.hkl))
    squared = np.bincount(o.reflection[others], w[others] ** 2, len(o.hkl))
    rows = [r for r in o.reflection[(crystal == 5) & (w > 0)] if total[r] >= 1 and squared[r] <= 0.8 * total[r] ** 2]
    every = same_half & (w > 0)
    having = cc_half(y[every], w[every], o.reflection[every], np.array(rows))
    without = cc_half(y[others], w[others], o.reflection[others], np.array(rows))
    assert effects.n_reflections[5] == len(rows)
    assert effects.delta_cc_half[5] == pytest.approx(having - without, abs=1e-9)


def test_a_crystal_that_does_harm_is_rejected_by_name_and_shown(
    synthetic_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Correlations would leave it out before this, and small weights make it nearly harmless.
    monkeypatch.setattr("sfxlab.merging.usual_crystals.CORRELATION_LIMIT", 1e3)
    monkeypatch.setattr("sfxlab.merging.crystal_rejection.Z_LIMIT", 4.5)
    run = synthetic_run(n_crystals=60, n_observed=300, relative_scatter=0.1, noise=2.0)
    table = run.reflections
    values = table.column("intensity").to_numpy().copy()
    rng, own = np.random.default_rng(3), table.column("frame").to_numpy() == 11
    values[own] = rng.permutation(values[own])
    bad = run.__class__(**{**run.__dict__, "reflections": table.set_column(5, "intensity", pa.array(values))})
    rejecting = merge(bad, "4/mmm", polarisation=None)
    keeping = merge(bad, "4/mmm", polarisation=None, reject_harmful=False)
    (entry,) = rejecting.history["crystals"]["rejected"]
    assert entry["crystal"] == "data/run1.cxi //11, crystal 0"
    assert "makes CC1/2 of its reflections worse by 0.0004" in entry["reason"]
    assert keeping.history["crystals"]["rejected"] == []
    for merged, reason in ((rejecting, entry["reason"]), (keeping, "")):
        rows = merged.crystals.to_pylist()
        worst = min(rows, key=lambda row: row["delta_cc_half_z"])
        assert (worst["event"], worst["reason"], len(rows)) == ("//11", reason, 60)
        assert worst["delta_cc_half"] < 0


def test_rejecting_the_worst_crystals_of_noise_does_not_make_halves_agree(
    synthetic_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit that rejects a tenth of all crystals; chosen by both halves together they would agree by now.
    monkeypatch.setattr("sfxlab.merging.crystal_rejection.Z_LIMIT", 0.5)
    figures, rejected = [], 0
    for seed in range(6):
        run = synthetic_run(n_crystals=120, n_observed=100, log_scale_spread=0.0, b_spread=0.0)
        noise = np.random.default_rng(seed).normal(100.0, 30.0, run.reflections.num_rows).astype(np.float32)
        table = run.reflections.set_column(5, "intensity", pa.array(noise))
        merged = merge(run.__class__(**{**run.__dict__, "reflections": table}), "4/mmm", polarisation=None)
        overall = merged.statistics().overall
        figures.append(overall.cc_half * np.sqrt(overall.n_pairs))
        rejected += len(merged.history["crystals"]["rejected"])
    assert rejected > 40
    assert abs(np.mean(figures)) < 2.0


def test_no_more_than_a_share_of_each_half_is_rejected() -> None:
    n = 200
    effects = CrystalEffects(np.full(n, -0.1), np.linspace(-50, -6, n), np.full(n, 100, dtype=np.int32))
    half = (np.arange(n) % 2).astype(np.uint8)
    harmful = effects.harmful(half)
    assert [harmful[half == number].sum() for number in (0, 1)] == [10, 10]
    assert harmful[:20].all()
