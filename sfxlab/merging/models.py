"""The models that observations are merged with, and what they say of each crystal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from sfxlab.errors import MergeError
from sfxlab.merging.blocks import passes
from sfxlab.merging.crystal_rejection import CrystalEffects, crystal_effects
from sfxlab.merging.observations import Observations
from sfxlab.merging.partial_fit import GEOMETRY
from sfxlab.merging.partiality import NODE_MODELS, NodeModel
from sfxlab.merging.post_refinement import PostRefinement, post_refine
from sfxlab.merging.scaling import Scaling, fit_scales

Model = Literal["none", "scaled", "partiality"]

Fit = Scaling | PostRefinement
"""How crystals and observations are to be merged."""


def check_model(model: str, node_model: str | None) -> None:
    """Raise `MergeError` for models that there are not."""
    if model not in get_args(Model):
        raise MergeError(f"unknown model '{model}'", expected=", ".join(get_args(Model)))
    if node_model is not None and node_model not in NODE_MODELS:
        raise MergeError(f"unknown model of nodes '{node_model}'", expected=", ".join(NODE_MODELS))


def columns_of(model: Model) -> tuple[str, ...]:
    """Columns of reflections that a model needs besides intensities."""
    return GEOMETRY if model == "partiality" else ()


def fit_model(
    observations: Observations, model: Model, max_cycles: int = 30, node_model: NodeModel | None = None
) -> Fit | None:
    """Fit a model; None where there is nothing to fit. See `sfxlab.merging.merge`."""
    if model == "none":
        return None
    scaling = fit_scales(observations, max_cycles)
    return scaling if model == "scaled" else post_refine(scaling, node_model, max_cycles)


def effects_of(fit: Fit) -> CrystalEffects:
    """What each crystal does to CC1/2."""
    blocks = passes(fit.blocks, kept=not fit.observations.columns.on_disk)
    return crystal_effects(blocks(), blocks(), fit.observations.half, fit.mean)


def without_harmful(fit: Fit, effects: CrystalEffects) -> Fit:
    """The same fit without crystals that do harm, as their reasons say."""
    harmful = effects.harmful(fit.observations.half)
    reasons = list(fit.reasons)
    for i in np.flatnonzero(harmful).tolist():
        reasons[i] = reasons[i] or (
            f"it makes CC1/2 of its reflections worse by {-effects.delta_cc_half[i]:.4f}, "
            f"{-effects.z[i]:.1f} standard deviations from what is usual"
        )
    return replace(fit, reasons=tuple(reasons))


def crystal_table(fit: Fit, effects: CrystalEffects) -> pa.Table:
    """One row for each crystal: what was fitted, how it agrees with the others, and why it is left out (if it is)."""
    o = fit.observations
    reasons = list(fit.reasons)
    if o.excluded:
        excluded = {str(crystal): reason for crystal, reason in o.excluded}
        reasons = [excluded.get(str(c), reason) for c, reason in zip(o.crystals, reasons, strict=True)]
    columns: dict[str, Any] = {
        "path": [o.crystals.paths[path] for path in o.crystals.path.tolist()],
        "event": o.crystals.event,
        "crystal": o.crystals.number,
        "half": o.half,
        "n_observations": np.diff(o.offsets),
        "scale": fit.scale,
        "b_factor": fit.b_factor,
        "correlation": fit.correlation,
        "delta_cc_half": effects.delta_cc_half,
        "delta_cc_half_z": effects.z,
        "reason": reasons,
    }
    if isinstance(fit, PostRefinement):
        columns |= {"profile_radius": fit.radius, "rotation": fit.rotation, "misfit": fit.misfit}
    return pa.table(columns)
