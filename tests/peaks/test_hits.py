"""Hits by number of peaks, by resolution, and by a function of the user's own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from sfxlab.errors import RecipeError
from sfxlab.peaks import Peaks, is_hit
from sfxlab.peaks.hits import check_hit_function, hit_function_checksum
from sfxlab.recipe import HitRecipe, Recipe

STRONG = """
import numba

@numba.njit
def three_strong(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):
    return (snr > 20).sum() >= 3

def plain(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):
    return n_pixels[0] == 1

@numba.njit
def short(panel, fs):
    return True

@numba.njit
def count(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):
    return len(fs)

@numba.njit
def broken(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):
    return fs.no_such_thing

number = 5
"""


def peaks_at(resolution: list[float], snr: float = 10.0) -> Peaks:
    n = len(resolution)
    columns = {field.name: np.ones(n, dtype=getattr(Peaks.empty(), field.name).dtype) for field in fields(Peaks)}
    columns["resolution"] = np.array(resolution, dtype=np.float32)
    columns["snr"] = np.full(n, snr, dtype=np.float32)
    return Peaks(**columns)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(STRONG)
    return path


def test_a_hit_has_enough_peaks() -> None:
    assert is_hit(peaks_at([0.1] * 10))
    assert not is_hit(peaks_at([0.1] * 9))
    assert is_hit(peaks_at([0.1] * 9), HitRecipe(min_peaks=9))


def test_only_peaks_within_the_resolution_range_count() -> None:
    peaks = peaks_at([0.05] * 6 + [0.2] * 7 + [0.4] * 8)
    wanted = HitRecipe(min_peaks=15)
    assert is_hit(peaks, wanted)
    assert is_hit(peaks, HitRecipe(min_peaks=15, min_resolution=0.1))
    assert not is_hit(peaks, HitRecipe(min_peaks=16, min_resolution=0.1))
    assert is_hit(peaks, HitRecipe(min_peaks=7, min_resolution=0.1, max_resolution=0.3))
    assert not is_hit(peaks, Recipe().changed(hits={"min_peaks": 8, "min_resolution": 0.1, "max_resolution": 0.3}))


def test_a_range_has_to_ascend() -> None:
    with pytest.raises(RecipeError, match="wrong value for 'hits'"):
        Recipe().changed(hits={"min_resolution": 0.4, "max_resolution": 0.3})


@pytest.mark.parametrize("name", ["mine:three_strong", "mine.py:three_strong", "{folder}/mine.py:three_strong"])
def test_a_function_of_the_users_own_decides_too(module: Path, name: str) -> None:
    wanted = HitRecipe(min_peaks=3, function=name.format(folder=module.parent))
    check_hit_function(wanted)
    assert is_hit(peaks_at([0.1] * 3, snr=30), wanted)
    assert not is_hit(peaks_at([0.1] * 30, snr=10), wanted)
    assert not is_hit(peaks_at([0.1] * 2, snr=30), wanted)


def test_a_plain_function_is_compiled(module: Path) -> None:
    wanted = HitRecipe(min_peaks=1, function="mine:plain")
    check_hit_function(wanted)
    assert is_hit(peaks_at([0.1]), wanted)


def test_a_function_that_was_edited_is_taken_anew(module: Path) -> None:
    wanted = HitRecipe(min_peaks=1, function="mine:three_strong")
    assert not is_hit(peaks_at([0.1] * 3, snr=15), wanted)
    before = hit_function_checksum(wanted.function)
    module.write_text(STRONG.replace("snr > 20", "snr > 12"))
    assert is_hit(peaks_at([0.1] * 3, snr=15), wanted)
    assert hit_function_checksum(wanted.function) != before


@pytest.mark.parametrize(
    ("name", "problem", "found"),
    [
        ("three_strong", "names no function", "three_strong"),
        ("mine:", "names no function", "mine:"),
        ("no_such_module:f", "no such module", "no_such_module"),
        ("elsewhere.py:f", "cannot be read", "No such file"),
        ("mine:three_week", "no function 'three_week'", ""),
        ("mine:number", "no function 'number'", ""),
        ("math:sqrt", "no such module", "math"),
        ("mine:short", "'short' fails", "TypeError"),
        ("mine:broken", "'broken' fails", "no_such_thing"),
        ("mine:count", "does not say yes or no", "20"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(module: Path, name: str, problem: str, found: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        check_hit_function(HitRecipe(function=name))
    assert caught.value.place == "hits.function"
    assert found in str(caught.value.found or "")


def test_a_file_that_is_no_python_is_named(module: Path) -> None:
    module.write_text("def (:")
    with pytest.raises(RecipeError, match="cannot be imported") as caught:
        check_hit_function(HitRecipe(function="mine:f"))
    assert caught.value.path == str(module)
    assert "SyntaxError" in str(caught.value.found)
