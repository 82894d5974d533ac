"""Candidate lattices from peaks."""

from sfxlab.indexing.known_cell import IndexingResult, Lattice, index
from sfxlab.indexing.target import Target, target_of
from sfxlab.indexing.unknown_cell import index_without_cell

__all__ = ["IndexingResult", "Lattice", "Target", "index", "index_without_cell", "target_of"]
