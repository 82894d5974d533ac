"""Profiles learned from strong spots: their shape, offsets and misfit, and their file."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from sfxlab.errors import RunError
from sfxlab.frames.spot_profiles import read_spot_profiles
from sfxlab.integration import Examples, learn_profiles
from sfxlab.recipe import IntegrationRecipe, ProfileRecipe

N = 3000
Y, X = np.mgrid[-6:7, -6:7]


def widths(resolution):
    return 0.6 + 0.5 * resolution


def made(seed=0, offsets=((0.3, -0.2), (-0.25, 0.1)), misfit=0.0):
    """Round spots that grow with resolution and lie off their predictions, on a background of 1 photon."""
    rng = np.random.default_rng(seed)
    panel = rng.integers(0, 2, N).astype(np.int16)
    fs, ss = rng.uniform(20, 500, (2, N))
    direction, resolution = rng.uniform(0, 2 * np.pi, N), rng.uniform(0.1, 0.5, N)
    total = rng.uniform(200, 2000, N)
    sigma = widths(resolution) * np.exp(misfit * rng.standard_normal(N))
    true = np.stack([fs % 1, ss % 1], axis=1) + np.array(offsets)[panel]
    across, down = (
        0.5
        * (erf((axis + 1 - centre) / sigma[:, None] / np.sqrt(2)) - erf((axis - centre) / sigma[:, None] / np.sqrt(2)))
        for axis, centre in ((X[0], true[:, 0, None]), (Y[:, 0], true[:, 1, None]))
    )
    boxes = rng.poisson(1 + total[:, None, None] * down[:, :, None] * across[:, None, :]) - 1.0
    disc = X**2 + Y**2 <= 9
    return Examples(
        boxes=boxes.astype(np.float32), panel=panel, fs=fs, ss=ss,
        away=np.column_stack([np.cos(direction), np.sin(direction)]), resolution=resolution,
        total=boxes[:, disc].sum(axis=1), variance=np.ones(N), gain=np.ones(N), frames=30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def profiles():
    learned = learn_profiles(made(), 3, ProfileRecipe(), IntegrationRecipe())
    assert learned is not None
    return learned


def test_the_shape_is_that_of_the_spots_in_each_zone(profiles):
    assert len(profiles.tables) == 7
    pixel = 1 / 12
    expected = np.sqrt(widths(profiles.resolution[:-1]) ** 2 + pixel)
    np.testing.assert_allclose(profiles.width[:-1], np.stack([expected, expected], axis=1), rtol=0.05)
    # The last zone is where spots were too weak to learn from.
    assert profiles.resolution[-1] > 0.5
    assert profiles.width[-1].mean() > profiles.width[-2].mean()


def test_profiles_add_up_to_one_over_the_pixels_of_a_spot(profiles):
    per_pixel = round(1 / profiles.step)
    for table in profiles.tables[:-1]:
        sums = [table[i::per_pixel, j::per_pixel].sum() for i in range(per_pixel) for j in range(per_pixel)]
        assert np.mean(sums) == pytest.approx(1.0, abs=0.03)


def test_offsets_are_those_of_the_panels_and_the_usual_one_where_nothing_was_seen(profiles):
    np.testing.assert_allclose(profiles.offsets[:2], [(0.3, -0.2), (-0.25, 0.1)], atol=0.05)
    low, high = np.sort(profiles.offsets[:2], axis=0)
    assert np.all((profiles.offsets[2] >= low) & (profiles.offsets[2] <= high))


def test_the_misfit_tells_how_much_the_spots_differ(profiles):
    """Widths that vary by 10 % change Σ P D / Σ P² by about as much."""
    varied = learn_profiles(made(misfit=0.1), 3, ProfileRecipe(), IntegrationRecipe())
    assert varied is not None
    assert profiles.misfit.max() < 0.04
    assert 0.05 < varied.misfit.mean() < 0.12


def test_odd_spots_are_left_out(profiles):
    examples = made()
    odd = np.arange(N) % 50 == 0
    examples.boxes[odd, 4, 8] += 5000
    spoilt = replace(examples, total=examples.total + 5000 * odd)
    learned = learn_profiles(spoilt, 3, ProfileRecipe(), IntegrationRecipe())
    assert learned is not None
    assert learned.spots <= N - odd.sum()
    np.testing.assert_allclose(learned.width, profiles.width, rtol=0.03)


def test_few_spots_teach_nothing():
    assert learn_profiles(made()[np.arange(199)], 3, ProfileRecipe(), IntegrationRecipe()) is None


def test_profiles_are_the_same_in_their_file(profiles, tmp_path):
    profiles.save(tmp_path / "profiles.h5")
    again = read_spot_profiles(tmp_path / "profiles.h5")
    for name in ("tables", "resolution", "misfit", "offsets"):
        np.testing.assert_array_equal(getattr(again, name), getattr(profiles, name))
    assert str(again) == str(profiles)
    assert (again.step, again.peak_radius, again.frames) == (0.25, 3.0, profiles.frames)


def test_another_file_is_no_profile(tmp_path):
    (tmp_path / "profiles.h5").write_bytes(b"nothing")
    with pytest.raises(RunError, match="cannot be read"):
        read_spot_profiles(tmp_path / "profiles.h5")
