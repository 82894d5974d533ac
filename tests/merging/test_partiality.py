"""Partialities: derivatives, limits, and a sum over wavelengths that knows nothing of the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.merging.partiality import NODE_MODELS, NodeModel, partiality, profile


@pytest.mark.parametrize("model", NODE_MODELS)
@settings(deadline=None)
@given(where=st.floats(-1.4, 1.4), ln_radius=st.floats(-9, -6), ratio=st.floats(0.05, 2.0))
def test_derivatives_are_those_of_finite_differences(
    model: NodeModel, where: float, ln_radius: float, ratio: float
) -> None:
    number, radius = NODE_MODELS.index(model), np.exp(ln_radius)
    spread = ratio * radius
    error, step = where * (radius + spread), 1e-5
    _, by_error, by_radius, by_variance = profile(number, error, radius, spread**2)
    pairs = {
        "error": [profile(number, error + s * radius, radius, spread**2)[0] for s in (step, -step)],
        "radius": [profile(number, error, radius * np.exp(s), spread**2)[0] for s in (step, -step)],
        "variance": [profile(number, error, radius, spread**2 * (1 + s))[0] for s in (step, -step)],
    }
    slope = {name: (above - below) / (2 * step) for name, (above, below) in pairs.items()}
    # The sphere's profile has corners, which a spread of 5 % of the radius still rounds off.
    assert by_error * radius == pytest.approx(slope["error"], abs=1e-6)
    assert by_radius == pytest.approx(slope["radius"], abs=1e-6)
    assert by_variance * spread**2 == pytest.approx(slope["variance"], abs=1e-6)


@pytest.mark.parametrize("model", NODE_MODELS)
@settings(deadline=None)
@given(radius=st.floats(1e-4, 1e-2), ratio=st.floats(0.0, 3.0))
def test_a_node_on_the_sphere_shows_all_and_others_less(model: NodeModel, radius: float, ratio: float) -> None:
    error = radius * np.linspace(0, 12, 200)
    p = partiality(model, error, np.full(200, radius), np.full(200, ratio * radius))
    assert p[0] == pytest.approx(1.0)
    assert np.all(np.diff(p) <= 1e-9)
    assert np.all(p >= -1e-12)
    assert p == pytest.approx(partiality(model, -error, np.full(200, radius), np.full(200, ratio * radius)))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.5])
def test_a_spread_of_wavelengths_is_a_sum_over_wavelengths(ratio: float) -> None:
    error = np.linspace(-3, 3, 41)
    steps = np.linspace(-8, 8, 4001)
    weight = np.exp(-(steps**2) / 2)
    kernels = {"sphere": lambda e: np.maximum(1 - e**2, 0), "gaussian": lambda e: np.exp(-(e**2) / 2)}
    for model in NODE_MODELS:
        shown = kernels[model](error[:, None] + ratio * steps) @ weight
        expected = shown / (kernels[model](ratio * steps) @ weight)
        assert partiality(model, error, np.ones(41), np.full(41, ratio)) == pytest.approx(expected, abs=2e-5)
