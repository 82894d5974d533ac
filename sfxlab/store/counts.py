"""How many frames became what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from sfxlab.indexing.reasons import kind


@dataclass(frozen=True)
class Counts:
    """Frames by what became of them."""

    frames: int = 0
    hits: int = 0
    """Indexed or not."""
    indexed: int = 0
    failed: int = 0
    lattices: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def hit_rate(self) -> float:
        """Hits among all frames, 0 without frames."""
        return self.hits / self.frames if self.frames else 0.0

    @property
    def indexing_rate(self) -> float:
        """Indexed frames among the hits, 0 without hits."""
        return self.indexed / self.hits if self.hits else 0.0

    @classmethod
    def of(cls, statuses: Iterable[str], lattices: int) -> Counts:
        """Counts of frames with these statuses, and with so many lattices in all."""
        became = Counter(statuses)
        hits = became["hit"] + became["indexed"]
        return cls(became.total(), hits, became["indexed"], became["failed"], lattices)


def kind_of_reason(reason: str) -> str:
    """The kind of a reason, or the reason without its numbers, so that the same kind is counted together."""
    known = kind(reason)
    if known is not None:
        return known.value
    return re.sub(r"\d+(?:[.,]\d+)*", "…", reason.splitlines()[0] if reason else "")
