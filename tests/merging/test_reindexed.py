"""Crystals as they should be indexed."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from sfxlab.crystal import Crystal, UnitCell, point_group
from sfxlab.frames import FrameId
from sfxlab.integration import Reflections
from sfxlab.merging.ambiguity import Ambiguity
from sfxlab.merging.crystals import CrystalId
from sfxlab.merging.reindexed import reindexed
from sfxlab.merging.reindexing import ambiguity_operators
from sfxlab.pipeline import FrameResult

CELL = UnitCell(50.0, 50.4, 70.0, lattice_type="orthorhombic")


def frame(index: int) -> FrameResult:
    rng = np.random.default_rng(index)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    hkl = rng.integers(-9, 9, (3, 20)).astype(np.int32)
    reflections = Reflections(*hkl, *(np.ones(20, dtype=np.float32) for _ in fields(Reflections)[3:]))
    crystal = Crystal(CELL, rotation @ CELL.reciprocal_basis, 0.002)
    return FrameResult(
        FrameId("run.cxi", f"//{index}"), index, "indexed", crystals=(crystal,), reflections=(reflections,)
    )


@pytest.mark.parametrize("operator", [0, 1])
def test_spots_stay_where_they_are_under_their_new_names(operator: int) -> None:
    operators = ambiguity_operators(CELL, point_group("222"))
    assert len(operators) == 2
    frames = [frame(0), frame(1)]
    crystals = [CrystalId("run.cxi", f"//{i}", "run.cxi", 0) for i in range(2)]
    zero = np.zeros(2)
    found = Ambiguity(
        operators, crystals, np.full(2, operator), zero, zero, zero, np.zeros((2, 2)), ("", "too weak"),  # type: ignore[arg-type]
        np.array([True, False]), 1.0, 1.0,
    )  # fmt: skip
    first, second = reindexed(frames, found)
    old, new = frames[0].crystals[0], first.crystals[0]
    before, after = (np.stack([r.h, r.k, r.l], axis=1) for r in (frames[0].reflections[0], first.reflections[0]))
    assert new.q(after) == pytest.approx(old.q(before))
    assert np.array_equal(after, operators.reindexed(before, operator))
    expected = CELL.lengths if operator == 0 else (50.4, 50.0, 70.0)
    assert new.cell.lengths == pytest.approx(expected)
    assert (second.status, second.crystals, second.reflections) == ("hit", (), ())
    assert "not resolved" in second.reason
