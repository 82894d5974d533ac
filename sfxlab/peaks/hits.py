"""Whether a frame is a hit: by its peaks, and by a function that the user wrote."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numba.core.dispatcher import Dispatcher

from sfxlab.errors import RecipeError
from sfxlab.peaks.peaks import Peaks
from sfxlab.recipe import HitRecipe, Recipe

_KEY = "hits.function"
_FORM = '"module:name" or "file.py:name"'
_TRIAL_PEAKS = 20


def is_hit(peaks: Peaks, recipe: Recipe | HitRecipe | None = None) -> bool:
    """Whether a frame with these peaks is a hit.

    Enough of them have to lie within the resolution range, and the user's function, where the recipe names one, has to
    say yes. It is called with the arrays of all peaks, in the order of the fields of `Peaks`, (n,) each, and returns
    a truth value:

        @numba.njit
        def is_mine(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):
            return (snr > 20).sum() >= 3

    What it raises is left to the caller. Raises `RecipeError` where there is no such function.
    """
    wanted = recipe.hits if isinstance(recipe, Recipe) else recipe or HitRecipe()
    counts = peaks.resolution >= wanted.min_resolution
    if wanted.max_resolution > 0:
        counts &= peaks.resolution <= wanted.max_resolution
    if np.count_nonzero(counts) < wanted.min_peaks:
        return False
    return not wanted.function or bool(hit_function(wanted.function)(*_arrays(peaks)))


def hit_function(name: str) -> Callable[..., Any]:
    """The function that a recipe names, compiled. Raises `RecipeError`."""
    path, _, function = _place(name)
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError as error:
        raise RecipeError(
            "the file of the hit function cannot be read", path=path, place=_KEY, found=error.strerror
        ) from error
    return _load(path, function, changed)


def hit_function_source(name: str) -> bytes:
    """The text of the file that the function is in. Raises `RecipeError`."""
    path, _, _ = _place(name)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecipeError(
            "the file of the hit function cannot be read", path=path, place=_KEY, found=error.strerror
        ) from error


def hit_function_checksum(name: str) -> str | None:
    """SHA-256 of that text; None where `name` is empty. Raises `RecipeError`."""
    return None if not name else hashlib.sha256(hit_function_source(name)).hexdigest()


def check_hit_function(recipe: Recipe | HitRecipe) -> None:
    """Try the user's function on made-up peaks, so that what is wrong with it shows before any work is done.

    Raises `RecipeError`.
    """
    wanted = recipe.hits if isinstance(recipe, Recipe) else recipe
    if not wanted.function:
        return
    function, (path, _, name) = hit_function(wanted.function), _place(wanted.function)
    arrays = [np.ones(_TRIAL_PEAKS, dtype=array.dtype) for array in _arrays(Peaks.empty())]
    try:
        answer = function(*arrays)
    except Exception as error:
        # Numba's messages run over pages; their beginning says what is wrong.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RecipeError(
            f"the hit function '{name}' fails", path=path, place=_KEY,
            found=f"{type(error).__name__}: {' '.join(lines[:3])}",
            expected=f"a function of {', '.join(field.name for field in fields(Peaks))} that numba can compile",
        ) from error  # fmt: skip
    if not isinstance(answer, bool | np.bool_):
        raise RecipeError(
            f"the hit function '{name}' does not say yes or no", path=path, place=_KEY,
            found=repr(answer), expected="True or False",
        )  # fmt: skip


def _arrays(peaks: Peaks) -> list[Any]:
    return [getattr(peaks, field.name) for field in fields(Peaks)]


def _place(name: str) -> tuple[str, str, str]:
    """The file, the module and the function of "module:name" or "file.py:name"."""
    module, colon, function = name.rpartition(":")
    if not (colon and module and function.isidentifier()):
        raise RecipeError("this names no function", place=_KEY, found=name, expected=_FORM)
    if module.endswith(".py"):
        return os.path.abspath(module), module, function
    # The folder that a command is called in is not among those that Python looks into.
    beside = Path(*module.split(".")).with_suffix(".py").absolute()
    if beside.is_file():
        return str(beside), module, function
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise RecipeError("this module cannot be imported", place=_KEY, found=f"{module}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise RecipeError(
            "there is no such module", place=_KEY, found=module, expected=f"{_FORM} of a file with Python code",
            remedy="name the file: file.py:name",
        )  # fmt: skip
    return spec.origin, module, function


@lru_cache(maxsize=8)
def _load(path: str, name: str, changed: int) -> Callable[..., Any]:
    """The function of a file as it is at a time; `changed` is that of its last change."""
    module_name = f"sfxlab_hit_function_{hashlib.sha256(f'{path} {changed}'.encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise RecipeError(
            "the file of the hit function cannot be imported", path=path, place=_KEY,
            found=f"{type(error).__name__}: {error}", remedy="it has to work by itself, without relative imports",
        ) from error  # fmt: skip
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(
            f"there is no function '{name}' in this file", path=path, place=_KEY,
            expected=", ".join(key for key, value in vars(module).items() if isinstance(value, Dispatcher)) or None,
        )  # fmt: skip
    return function if isinstance(function, Dispatcher) else njit(nogil=True)(function)
