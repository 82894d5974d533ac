"""Candidate lattices from peaks."""

from sfxlab.indexing.indexer import Indexer, Spots
from sfxlab.indexing.judging import judged
from sfxlab.indexing.known_cell import IndexingResult, Lattice, index
from sfxlab.indexing.target import Target, target_of
from sfxlab.indexing.unknown_cell import index_without_cell

__all__ = [
    "Indexer",
    "IndexingResult",
    "Lattice",
    "Spots",
    "Target",
    "index",
    "index_without_cell",
    "judged",
    "target_of",
]
