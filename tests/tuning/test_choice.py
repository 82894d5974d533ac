from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sfxlab.errors import RecipeError
from sfxlab.pictures import PEAK
from sfxlab.recipe import Recipe
from sfxlab.tuning import Sweep, heat_map, propose, ranking
from sfxlab.tuning.sample import Sample
from sfxlab.tuning.trial import MEASURES

VALUES = tuple(float(value) for value in range(1, 13))


def made_up(lattices: NDArray[np.floating], hit: NDArray[np.bool_] | None = None, explained: float = 20.0) -> Sweep:
    """A sweep over `min_snr` that found these lattices, (n_settings, n_frames); the first setting is the recipe's."""
    n_settings, n_frames = lattices.shape
    values = np.zeros((n_settings, n_frames, len(MEASURES)))
    values[:, :, MEASURES.index("lattices")] = lattices
    values[:, :, MEASURES.index("hit")] = lattices > 0 if hit is None else hit
    values[:, :, MEASURES.index("explained")] = explained * (lattices > 0)
    values[:, :, MEASURES.index("peaks")] = 22.0 * (lattices > 0)
    sample = Sample(np.arange(n_frames), np.zeros(n_frames, bool), np.ones(n_frames), n_frames)
    settings = tuple({"min_snr": value} for value in VALUES[:n_settings])
    recipe = Recipe().changed(peaks={"min_snr": 1.0})
    return Sweep(recipe, {"min_snr": VALUES[:n_settings]}, settings, 0, sample, values)


def test_chance_is_rarely_taken_for_a_gain() -> None:
    random = np.random.default_rng(1)
    n_proposed = sum(propose(made_up(random.random((12, 150)) < 0.4)).is_better for _ in range(120))
    # 5 % of 120 are 6; 13 or more would come about once in 200 times.
    assert n_proposed < 13


def test_limits_hold_the_true_gain_of_all_settings_at_once() -> None:
    random = np.random.default_rng(2)
    chances = np.linspace(0.4, 0.6, 6)[:, None]
    held = 0
    for _ in range(120):
        proposal = propose(made_up(random.random((6, 200)) < chances))
        shown = proposal.setting if proposal.is_better else proposal.best
        gain = chances[shown, 0] - 0.4
        held += proposal.lattices.low <= gain <= proposal.lattices.high
    assert held > 106


def test_a_real_gain_is_proposed() -> None:
    random = np.random.default_rng(3)
    lattices = np.broadcast_to(random.random(200) < 0.5, (4, 200)).copy()
    lattices[2] |= random.random(200) < 0.1
    proposal = propose(made_up(lattices.astype(float)))
    assert (proposal.setting, proposal.best) == (2, 2)
    assert proposal.lattices.value == pytest.approx((lattices[2].sum() - lattices[0].sum()) / 200)
    assert str(proposal.lattices).startswith(f"{100 * proposal.lattices.value / lattices[0].mean():+.0f} % (between +")


def test_one_frame_more_is_no_proof() -> None:
    lattices = np.zeros((2, 50))
    lattices[:, :10] = 1
    lattices[1, 10] = 1
    proposal = propose(made_up(lattices))
    assert not proposal.is_better
    assert proposal.lattices.low < 0 < proposal.lattices.value
    assert "which may be chance" in str(proposal)


def test_hits_without_lattices_are_paid_for() -> None:
    lattices = np.zeros((2, 100))
    lattices[:, :30] = 1
    hit = np.ones((2, 100), dtype=bool)
    hit[1, 40:] = False
    proposal = propose(made_up(lattices, hit))
    assert proposal.setting == 1
    assert proposal.facts()["hits without a lattice"] == "70.0% → 10.0% of all frames"
    assert ranking(proposal.sweep) == [1, 0]


def test_among_settings_as_good_the_one_with_better_peaks_is_proposed() -> None:
    lattices = np.zeros((3, 100))
    lattices[:, :40] = 1
    result = made_up(lattices)
    result.values[1, :40, MEASURES.index("explained")] = 21.9
    result.values[2, :40, MEASURES.index("explained")] = 20.1
    proposal = propose(result)
    assert proposal.setting == 1
    assert proposal.facts()["peaks of a frame"] == "20 on lattices and 2 off → 22 on lattices and 0 off"


def test_frames_with_more_weight_count_more() -> None:
    lattices = np.zeros((2, 60))
    lattices[0, :20] = 1
    lattices[1, 20:60:2] = 1
    result = made_up(lattices)
    sample = Sample(np.arange(60), np.arange(60) < 20, np.where(np.arange(60) < 20, 1.0, 50.0), 2020)
    weighted = Sweep(result.recipe, result.grid, result.settings, 0, sample, result.values)
    assert not propose(result).is_better
    assert propose(weighted).setting == 1
    assert weighted.mean(weighted.measure("lattices")).tolist() == pytest.approx([20 / 2020, 1000 / 2020])


def test_the_heat_map_is_darkest_where_most_is_found() -> None:
    lattices = np.zeros((3, 100))
    for setting, n in enumerate((20, 80, 50)):
        lattices[setting, :n] = 1
    result = made_up(lattices)
    picture = np.asarray(Image.open(io.BytesIO(heat_map(result))).convert("RGB")).astype(int)
    full = np.abs(picture - PEAK).sum(axis=2) < 30
    columns = np.flatnonzero(full.sum(axis=0) > 20)
    # The second of three cells of 132 pixels.
    assert 0 < columns.max() - columns.min() < 132
    with pytest.raises(RecipeError, match="was not varied"):
        heat_map(result, ("min_snr", "max_peaks"))
