"""Rates along a run and their bands."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sfxlab.store.rates import hit_rates, wilson_interval


def table(status: list[str]) -> pa.Table:
    return pa.table({"frame": np.arange(len(status)), "status": pa.array(status, pa.string())})


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1), (400, 1000)])
@pytest.mark.parametrize("confidence", [0.6826894921370859, 0.95])
def test_the_band_is_wilsons(successes: int, trials: int, confidence: float) -> None:
    low, high = wilson_interval(np.array([successes]), np.array([trials]), confidence)
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("truth", [0.01, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("frames", [30, 200])
def test_the_band_holds_the_truth_as_often_as_it_says(truth: float, frames: int) -> None:
    rng = np.random.default_rng(1)
    hits = rng.binomial(frames, truth, 20_000)
    low, high = wilson_interval(hits, np.full(20_000, frames), 0.95)
    # Of Wilson's interval the coverage swings about what it says (Brown, Cai and DasGupta, 2001, Stat. Sci. 16, 101).
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.035)


@settings(max_examples=60, deadline=None)
@given(
    status=st.lists(st.sampled_from(["blank", "hit", "indexed", "failed"]), max_size=300), windows=st.integers(1, 60)
)
def test_windows_count_every_frame_once(status: list[str], windows: int) -> None:
    rates = hit_rates(table(status), windows)
    assert rates.frames.sum() == len(status)
    assert rates.hits.sum() == sum(s in ("hit", "indexed") for s in status)
    assert rates.indexed.sum() == status.count("indexed")
    assert len(rates.frames) <= windows
    for first, last, n in zip(rates.first, rates.last, rates.frames, strict=True):
        assert last - first + 1 == n
    low, high = rates.band
    assert np.all((low >= 0) & (low <= rates.rate) & (rates.rate <= high) & (high <= 1))


def test_a_hit_rate_that_changes_is_seen() -> None:
    rng = np.random.default_rng(2)
    truth = np.where(np.arange(6000) < 3000, 0.1, 0.5)
    rates = hit_rates(table(np.where(rng.random(6000) < truth, "hit", "blank").tolist()), 20)
    low, high = rates.band
    expected = np.repeat([0.1, 0.5], 10)
    assert np.count_nonzero((low <= expected) & (expected <= high)) >= 17
    assert high[:10].max() < low[10:].min()
    assert np.isnan(rates.indexing_rate[rates.hits == 0]).all()
