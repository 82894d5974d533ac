"""Why a hit is not indexed: a closed list of kinds, each with its figures."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Kinds of reasons; a reason on record is one of these, and, where there are figures, a colon and these."""

    TOO_FEW_PEAKS = "too few peaks"
    """Not enough of them for a lattice to be told from chance."""
    NO_LATTICE = "no lattice"
    """As good a fit as the best one is had by chance."""
    WRONG_CELL = "wrong cell"
    """Peaks fit better than by chance, but along some axes only, on some layers, or with other lengths or angles."""
    LOOSE_FIT = "loose fit"
    """Without a cell: peaks fit better than by chance, but not closely, or along some axes only.

    So do several crystals, axes longer than are looked for, or a wrong geometry.
    """
    AMBIGUOUS = "ambiguous"
    """Different lattices, or one turned by a degree or more, suit the peaks about equally well."""
    TIME_LIMIT = "time limit"
    """The search, or an outside program, took longer than the recipe allows."""
    PROGRAM_FAILED = "program failed"
    """An outside program crashed on the frame, or gave no answer; its last words follow."""
    SWITCHED_OFF = "indexing is switched off"
    """The recipe asks for hits only."""
    REFINEMENT_FAILED = "refinement failed"
    """A lattice was found, but too few peaks lie where it predicts them."""

    def because(self, figures: str) -> str:
        """The reason as it goes on record."""
        return f"{self.value}: {figures}" if figures else self.value


def kind(reason: str) -> Reason | None:
    """The kind of a reason on record, None where it is none of the list."""
    found = reason.split(":", 1)[0]
    return Reason(found) if found in set(Reason) else None
