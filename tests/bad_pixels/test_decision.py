from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import numpy as np
import pytest

from sfxlab.bad_pixels import KINDS, LearnedMask, added, find_bad_pixels, tally_frames
from sfxlab.frames import Frame
from sfxlab.recipe import BadPixelRecipe

Make = Callable[..., Any]
EVERYTHING = BadPixelRecipe(shadowed=True)
Pixels = list[tuple[int, int]]


def learned(frames: Iterable[Frame], recipe: BadPixelRecipe = EVERYTHING) -> LearnedMask:
    frames = list(frames)
    length = max(4, -(-len(frames) // 16))
    tallies = (tally_frames(frames[first : first + length]) for first in range(0, len(frames), length))
    found = find_bad_pixels(reduce(added, tallies), recipe)
    assert found is not None
    return found


def scattered(n: int, seed: int) -> Pixels:
    """Pixels at distances of more than a spot from one another, on both panels, not all away from their edges."""
    random = np.random.default_rng(seed)
    grid = np.array([(row, column) for row in range(0, 512, 12) for column in range(0, 512, 12)])
    chosen = grid[random.choice(len(grid), n, replace=False)] + random.integers(0, 8, (n, 2))
    return [(int(row), int(column)) for row, column in chosen]


PIXELS = scattered(80, 3)
HOT = {pixel: 60.0 + 50 * i for i, pixel in enumerate(PIXELS[:40])}
BAD = {
    "hot": {pixel: (photons, 1.0) for pixel, photons in HOT.items()},
    "dead": set(PIXELS[40:60]),
    "noisy": dict.fromkeys(PIXELS[60:], 4.0),
}


def recall(mask: LearnedMask, pixels: Iterable[tuple[int, int]]) -> float:
    return float(np.mean([mask.bad[pixel] for pixel in pixels]))


def false_ones(mask: LearnedMask) -> int:
    rest = mask.bad.copy()
    rest[tuple(np.transpose(PIXELS))] = 0
    return int(rest.sum())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gain": 30.0, "dtype": np.float32, "readout_noise": 10.0},
        {"gain": 50.0, "dtype": np.int32, "readout_noise": 15.0, "photons": 40.0, "flat_field": 0.05},
        {"gain": 0.01, "dtype": np.float64},
        {"frames": 24},
        {"ice": 0.5},
        {"hits": 1.0},
    ],
)
def test_planted_pixels_are_found_and_no_others(experiment: Make, settings: dict[str, Any]) -> None:
    mask = learned(experiment(**BAD, **settings))
    assert recall(mask, BAD["hot"]) == 1
    assert recall(mask, BAD["dead"]) >= 0.95
    assert recall(mask, BAD["noisy"]) >= 0.85
    assert false_ones(mask) == 0
    assert {name for name, n in mask.counts.items() if n} == {"hot", "dead", "noisy"}


@pytest.mark.parametrize("photons", [0.05, 0.003])
def test_hot_pixels_are_found_where_photons_are_few(experiment: Make, photons: float) -> None:
    mask = learned(experiment(hot=BAD["hot"], photons=photons))
    assert recall(mask, BAD["hot"]) == 1
    assert mask.counts == {"hot": 40, "dead": 0, "noisy": 0, "shadowed": 0}


def test_pixels_that_flicker_or_turn_hot_late_are_found(experiment: Make) -> None:
    flickering = dict.fromkeys(PIXELS[:20], (200.0, 0.15))
    late = dict.fromkeys(PIXELS[20:40], (200.0, 1.0))
    mask = learned(experiment(hot=flickering | late, late=set(late)))
    assert recall(mask, flickering) >= 0.95
    assert recall(mask, late) >= 0.95
    assert mask.counts["hot"] == mask.bad.sum() <= 40


def test_pixels_beside_hot_ones_do_not_hide_them(experiment: Make) -> None:
    mask = learned(experiment(hot=BAD["hot"], crosstalk=0.02))
    assert recall(mask, BAD["hot"]) == 1
    rows, columns = np.nonzero(mask.kinds)
    near = [min(max(abs(row - r), abs(column - c)) for r, c in HOT) for row, column in zip(rows, columns, strict=True)]
    assert max(near) <= 1


@pytest.mark.parametrize("settings", [{}, {"hits": 1.0, "spots": 300}, {"hits": 1.0, "spots": 300, "photons": 50.0}])
def test_spots_of_one_crystal_exposed_again_and_again_are_not_bad_pixels(
    experiment: Make, settings: dict[str, Any]
) -> None:
    mask = learned(experiment(hot=BAD["hot"], one_crystal=True, **settings))
    assert recall(mask, BAD["hot"]) == 1
    assert false_ones(mask) <= 3  # of the pixels of up to 300 spots, some beside hot pixels
    assert "spots came back again and again" in mask.remarks[0]


def test_good_frames_give_an_empty_mask(experiment: Make) -> None:
    mask = learned(experiment(hits=0.7, ice=0.1))
    assert not mask.bad.any()
    assert mask.remarks == ()
    assert str(mask) == "none, learned from 96 frames"


def test_a_shadow_is_found_to_its_border(experiment: Make) -> None:
    shadow = np.zeros((512, 512), dtype=np.bool_)
    shadow[300:330, 100:200] = True
    mask = learned(experiment(shadow=shadow))
    found = mask.kinds == KINDS["shadowed"]
    assert np.count_nonzero(found & shadow) >= 0.98 * shadow.sum()
    assert np.count_nonzero(found & ~shadow) <= 0.02 * shadow.sum()
    assert learned(experiment(shadow=shadow), BadPixelRecipe()).bad.sum() <= 2


def test_a_dead_chip_is_dead_all_over(experiment: Make) -> None:
    chip = {(row, column) for row in range(64, 96) for column in range(300, 332)}
    mask = learned(experiment(dead=chip))
    assert recall(mask, chip) == 1
    assert mask.bad.sum() == len(chip)


def test_of_few_frames_nothing_is_claimed(experiment: Make) -> None:
    assert find_bad_pixels(tally_frames(experiment(hot=BAD["hot"], frames=4)), BadPixelRecipe()) is None
    assert find_bad_pixels(None, BadPixelRecipe()) is None


def test_equal_frames_say_nothing_of_dead_pixels(experiment: Make) -> None:
    one = next(iter(experiment()))
    assert learned([one] * 32).counts["dead"] == 0


def test_kinds_that_are_not_wanted_are_left_in(experiment: Make) -> None:
    mask = learned(experiment(**BAD), BadPixelRecipe(dead=False, noisy=False))
    assert {name for name, n in mask.counts.items() if n} == {"hot"}
