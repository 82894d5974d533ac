"""How often a run's indexing would see lattices where there are none."""

from __future__ import annotations

import html
from dataclasses import fields

import numpy as np

from sfxlab.errors import SfxlabError
from sfxlab.indexing import IndexingResult, Spots
from sfxlab.indexing.decoys import DecoyCount, scrambled
from sfxlab.indexing.methods import index_frames
from sfxlab.peaks import Peaks
from sfxlab.report.sections import section
from sfxlab.store import Run

SAMPLE = 200
"""Hits whose peaks are scrambled, evenly spaced over the run."""
LEAD = (
    "Peaks of hits with their azimuths scrambled hold no lattice; as many as are indexed all the same are false. This"
    " is the rate for random peaks. Decoys underestimate false lattices of crystals with another cell than the given"
    " one: peaks of these lie on layers, some of which both cells may share, and fit more often. Where the sample may"
    " hold such crystals, or the cell is not certain, index some of the hits without a cell to see."
)
"""What decoys tell, and what they do not."""


def count_decoys(run: Run, sample: int = SAMPLE) -> DecoyCount:
    """Index hits of a run again with the azimuths of their peaks scrambled, as the run's recipe says.

    What is accepted then is false, so that the rate estimates how many hits of the run would be indexed if none held a
    lattice. Needs no pixels, and the same run gives the same count. Raises `RunError` where the run does not say what
    its detector was.
    """
    frames = run.table("frames", ["frame", "status", "photon_energy"])
    status = np.array(frames["status"].to_pylist())
    hits = np.flatnonzero(np.isin(status, ["hit", "indexed"]))
    chosen = hits[np.unique(np.linspace(0, len(hits) - 1, min(sample, len(hits))).astype(int))] if len(hits) else hits
    if len(chosen) == 0 or not run.recipe.indexing.enabled:
        return DecoyCount(0, 0)
    numbers, energies = frames["frame"].to_numpy()[chosen], frames["photon_energy"].to_numpy()[chosen]
    detector, recipe = run.detector(), run.recipe
    columns = [field.name for field in fields(Peaks)]
    table = run.table("peaks", ["frame", *columns])
    owner, every = table["frame"].to_numpy(), Peaks(*(table[name].to_numpy() for name in columns))
    tried = []
    for frame, energy in zip(numbers.tolist(), energies.tolist(), strict=True):
        first, last = np.searchsorted(owner, [frame, frame + 1])
        peaks = every[slice(int(first), int(last))]
        decoy = scrambled(detector.q(peaks.panel, peaks.fs, peaks.ss, energy), frame)
        tried.append(Spots(decoy, peaks, detector, energy))
    found = index_frames(tried, recipe.cell, recipe.indexing)
    return DecoyCount(len(tried), sum(isinstance(one, IndexingResult) and len(one.lattices) > 0 for one in found))


def decoys(run: Run) -> str:
    """The section of a report: how many decoys were indexed; nothing where there are no hits."""
    try:
        count = count_decoys(run)
    except SfxlabError as error:
        return section("False lattices", f"<p class=missing>{html.escape(str(error))}</p>")
    if count.tried == 0:
        return ""
    return section("False lattices", f"<p>Decoys indexed: {html.escape(str(count))}.</p>", LEAD)
