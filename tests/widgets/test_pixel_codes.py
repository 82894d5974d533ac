"""Pixels as codes of 8 or 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.widgets.models.assembling import BAD, GAP, PANEL
from sfxlab.widgets.models.pixel_codes import FIRST, MASKED, NO_PANEL, Background, Bits, encode


@pytest.mark.parametrize(("bits", "share"), [(8, 0.05), (16, 0.0002)])
def test_codes_are_fine_about_the_background_and_good_for_the_brightest_pixel(bits: Bits, share: float) -> None:
    rng = np.random.default_rng(2)
    image = np.concatenate([rng.normal(100, 10, 5000), [4.2e9, 60000, 1000]]).astype(np.float32)[None]
    kind = np.full(image.shape, PANEL, np.uint8)
    codes, scale = encode(image, kind, Background(100.0, 10.0), bits)
    assert codes.dtype == np.dtype(f"u{bits // 8}")
    error = np.abs(scale.values(codes) - image)
    assert np.all(error <= share * np.hypot(10, image - 100))


def test_order_is_kept_and_few_counts_stay_apart() -> None:
    image = np.arange(200, dtype=np.float32)[None]
    codes, scale = encode(image, np.full(image.shape, PANEL, np.uint8), Background(0.0, 1.0))
    assert np.all(np.diff(codes.astype(int)) >= 0)
    assert len(np.unique(codes[0, :15])) == 15
    assert scale.values(codes)[0, 0] == pytest.approx(0.0)


def test_places_without_pixels_have_codes_of_their_own() -> None:
    image = np.array([[-np.inf, -np.inf, 5.0, 7.0, np.nan]], dtype=np.float32)
    kind = np.array([[GAP, BAD, BAD, PANEL, PANEL]], np.uint8)
    codes, scale = encode(image, kind, Background(5.0, 1.0))
    assert codes[0, :2].tolist() == [NO_PANEL, MASKED]
    assert codes[0, 4] == MASKED
    assert codes[0, 2] == FIRST
    shown, _ = encode(image, kind, Background(5.0, 1.0), show_bad=True)
    assert shown[0, :3].tolist() == [NO_PANEL, MASKED, MASKED]
    assert np.isnan(scale.values(codes)[0, :2]).all()


def test_a_picture_of_one_value_has_codes() -> None:
    image = np.full((4, 4), 3.0, np.float32)
    codes, scale = encode(image, np.full(image.shape, PANEL, np.uint8), Background(3.0, 1.0))
    assert np.all(codes == FIRST)
    assert scale.values(codes) == pytest.approx(3.0)
