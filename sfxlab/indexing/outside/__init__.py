"""Indexing by programs that the user has installed: each runs as a process of its own, in a sandbox."""

from sfxlab.indexing.outside.crystfel import CRYSTFEL
from sfxlab.indexing.outside.dials import DIALS
from sfxlab.indexing.outside.program import OutsideProgram

__all__ = ["CRYSTFEL", "DIALS", "OutsideProgram"]
