"""Candidate lattices from peaks."""

from sfxlab.indexing.known_cell import IndexingResult, Lattice, index
from sfxlab.indexing.target import Target, target_of

__all__ = ["IndexingResult", "Lattice", "Target", "index", "target_of"]
