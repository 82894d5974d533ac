"""Where data may be cut off, by several rules, each with its name (METHODS.md section 8)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from sfxlab.merging.figures import Values
from sfxlab.merging.statistics import Shell, ShellStatistics


@dataclass(frozen=True)
class Cutoff:
    """The resolution up to which a rule holds."""

    rule: str
    """As `CC1/2 ≥ 0.3`."""
    d_min: float
    """Å; NaN where the rule holds nowhere, or where its figure is not known."""
    at_edge: bool
    """Whether the rule holds to the very end of the data, so that the true limit may lie beyond."""


class ShellOfPairs(Protocol):
    """A range of resolution and how the halves correlate there."""

    @property
    def d_max(self) -> float: ...
    @property
    def d_min(self) -> float: ...
    @property
    def n_pairs(self) -> int: ...
    @property
    def cc_half(self) -> float: ...


# Name, field of a shell, threshold, and whether the figure is good above it.
_RULES: tuple[tuple[str, str, float, bool], ...] = (
    ("CC1/2 ≥ 0.5", "cc_half", 0.5, True),
    ("CC1/2 ≥ 0.3", "cc_half", 0.3, True),
    ("CC* ≥ 0.5 (CC1/2 ≥ 0.143)", "cc_half", 1 / 7, True),
    ("I/σ ≥ 2", "snr", 2.0, True),
    ("I/σ ≥ 1.5", "snr", 1.5, True),
    ("I/σ ≥ 1", "snr", 1.0, True),
    ("Rsplit ≤ 50 %", "rsplit", 0.5, False),
    ("Rsplit ≤ 100 %", "rsplit", 1.0, False),
    ("completeness ≥ 90 %", "completeness", 0.9, True),
    ("multiplicity ≥ 10", "multiplicity", 10.0, True),
)


def resolution_cutoffs(statistics: ShellStatistics) -> tuple[Cutoff, ...]:
    """The limit that each of the usual rules sets; refinement against pairs of limits decides between them.

    CC1/2 is fitted by ½(1 − tanh((s² − s₀²) / w)) over all shells (Evans & Murshudov 2013), s being 1/d; of the other
    figures the first crossing between the middles of shells counts.
    """
    shells = statistics.shells
    curve = _fitted_cc_half(shells)
    return tuple(
        _of_curve(name, curve, limit, shells)
        if field == "cc_half" and curve is not None
        else _first_crossing(name, shells, field, limit, above)
        for name, field, limit, above in _RULES
    )


def fitted_limit(shells: Sequence[ShellOfPairs], limit: float) -> Cutoff:
    """Where the curve through CC1/2 falls to a limit; NaN where nothing can be fitted."""
    rule, curve = f"CC1/2 ≥ {limit:g}", _fitted_cc_half(shells)
    return Cutoff(rule, float("nan"), False) if curve is None else _of_curve(rule, curve, limit, shells)


def to_rows(cutoffs: Sequence[Cutoff]) -> list[dict[str, Any]]:
    """One dictionary for each rule."""
    return [{"rule": c.rule, "d_min": c.d_min, "at_edge": c.at_edge} for c in cutoffs]


def middles(shells: Sequence[ShellOfPairs]) -> Values:
    """1/d of the middle of each shell, (n,), 1/Å."""
    return np.array([((1 / s.d_max if np.isfinite(s.d_max) else 0) + 1 / s.d_min) / 2 for s in shells])


def _tanh(s2: Values, centre: float, width: float) -> Values:
    return np.asarray(0.5 * (1 - np.tanh((s2 - centre) / width)))


def _fitted_cc_half(shells: Sequence[ShellOfPairs]) -> tuple[float, float] | None:
    """Centre and width of the curve, 1/Å²; None where too few shells have a CC1/2 or nothing fits."""
    known = [s for s in shells if np.isfinite(s.cc_half) and s.n_pairs > 3]
    if len(known) < 4:
        return None
    s2, cc = middles(known) ** 2, np.array([s.cc_half for s in known])
    # Of a correlation, but never so small that shells where it is close to 1 alone say how wide the fall is.
    error = (1 - cc**2 + 0.2) / np.sqrt([s.n_pairs - 3 for s in known])
    start = (float(s2[-1]), float(s2[-1]) / 4)
    bounds = ((float(-10 * s2[-1]), float(1e-3 * s2[-1])), (float(1e3 * s2[-1]), float(1e3 * s2[-1])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            found, _ = curve_fit(_tanh, s2, cc, p0=start, sigma=error, bounds=bounds)
    except RuntimeError:
        return None
    return float(found[0]), float(found[1])


def _of_curve(rule: str, curve: tuple[float, float], limit: float, shells: Sequence[ShellOfPairs]) -> Cutoff:
    centre, width = curve
    crossing = centre + width * np.arctanh(1 - 2 * limit)
    end = shells[-1].d_min
    if crossing >= 1 / end**2:
        return Cutoff(rule, end, True)
    first = middles(shells[:1])[0]
    return Cutoff(rule, float(crossing**-0.5) if crossing > first**2 else float("nan"), False)


def _first_crossing(rule: str, shells: Sequence[Shell], field: str, limit: float, above: bool) -> Cutoff:
    sign = 1 if above else -1
    s = middles(shells)
    margin = sign * (np.array([getattr(shell, field) for shell in shells]) - limit)
    known = np.isfinite(margin)
    s, margin = s[known], margin[known]
    if not len(margin) or margin[0] < 0:
        return Cutoff(rule, float("nan"), False)
    bad = np.flatnonzero(margin < 0)
    if not len(bad):
        return Cutoff(rule, shells[-1].d_min, True)
    i = int(bad[0])
    share = margin[i - 1] / (margin[i - 1] - margin[i])
    return Cutoff(rule, float(1 / (s[i - 1] + share * (s[i] - s[i - 1]))), False)
