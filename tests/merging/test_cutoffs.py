"""Resolution limits by rules on shells of which the limits are known."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.merging import Shell, ShellStatistics
from sfxlab.merging.cutoffs import middles, resolution_cutoffs
from sfxlab.merging.figures import shell_edges


def shells(cc_half: object, **fields: object) -> ShellStatistics:
    """20 shells from 50 to 1.5 Å; values are functions of 1/d."""
    edges = shell_edges(0.02, 1 / 1.5, 20)
    middle = (edges[1:] + edges[:-1]) / 2
    nothing = dict.fromkeys(Shell.__dataclass_fields__, float("nan"))
    made = []
    for low, high, s in zip(edges, edges[1:], middle, strict=False):
        values = {name: function(s) for name, function in fields.items()}  # type: ignore[operator]
        made.append(Shell(**{**nothing, "d_max": 1 / low, "d_min": 1 / high, "n_pairs": 500,
                             "cc_half": cc_half(s), **values}))  # type: ignore[operator]  # fmt: skip
    return ShellStatistics(tuple(made), made[0])


def limits(statistics: ShellStatistics) -> dict[str, tuple[float, bool]]:
    return {c.rule: (c.d_min, c.at_edge) for c in resolution_cutoffs(statistics)}


def test_cc_half_is_fitted_and_read_off_between_shells() -> None:
    rng = np.random.default_rng(1)

    def curve(s: float) -> float:
        return 0.5 * (1 - np.tanh((s**2 - 1 / 1.9**2) / 0.06)) + 0.01 * float(rng.standard_normal())

    found = limits(shells(curve))
    assert found["CC1/2 ≥ 0.5"][0] == pytest.approx(1.9, abs=0.01)
    at = (1 / 1.9**2 + 0.06 * np.arctanh(1 - 2 / 7)) ** -0.5
    assert found["CC* ≥ 0.5 (CC1/2 ≥ 0.143)"][0] == pytest.approx(at, abs=0.015)


def test_rules_that_hold_to_the_end_say_so() -> None:
    found = limits(shells(lambda s: 0.99, snr=lambda s: 5.0, completeness=lambda s: 1.0))
    for rule in ("CC1/2 ≥ 0.3", "I/σ ≥ 2", "completeness ≥ 90 %"):
        assert found[rule] == (pytest.approx(1.5), True)
    assert np.isnan(found["Rsplit ≤ 50 %"][0])


def test_other_figures_count_to_their_first_crossing() -> None:
    statistics = shells(lambda s: 0.99, snr=lambda s: 6 - 10 * s, rsplit=lambda s: 2 * s)
    found = limits(statistics)
    assert found["I/σ ≥ 1"] == (pytest.approx(2.0), False)
    assert found["I/σ ≥ 2"][0] == pytest.approx(2.5)
    assert found["Rsplit ≤ 100 %"][0] == pytest.approx(2.0)
    assert len(middles(statistics.shells)) == 20
