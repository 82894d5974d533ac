"""Bad pixels that no mask knows, learned from frames: hot, dead, noisy, shadowed."""

from sfxlab.bad_pixels.decision import find_bad_pixels
from sfxlab.bad_pixels.learned import KINDS, LearnedMask, read_learned_mask, summary_of_mask
from sfxlab.bad_pixels.masked import with_learned_mask
from sfxlab.bad_pixels.sample import LEARNED, Part, learned_before, parts_of_sample
from sfxlab.bad_pixels.tally import PixelTally, added, tally_frames

__all__ = [
    "KINDS",
    "LEARNED",
    "LearnedMask",
    "Part",
    "PixelTally",
    "added",
    "find_bad_pixels",
    "learned_before",
    "parts_of_sample",
    "read_learned_mask",
    "summary_of_mask",
    "tally_frames",
    "with_learned_mask",
]
