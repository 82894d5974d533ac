"""Recipes from the command lines of CrystFEL's indexamajig, as its manual explains the options."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from typing import Any

from sfxlab.errors import RecipeError, SfxlabWarning
from sfxlab.recipe import Recipe, validate

_PEAKFINDER8 = {
    "threshold", "min-snr", "min-pix-count", "max-pix-count", "local-bg-radius", "min-res", "max-res",
}  # fmt: skip
_CHANGE_NO_NUMBER = {
    "i", "input", "g", "geometry", "o", "output", "j", "p", "pdb", "e", "image", "x", "prefix", "basename",
    "no-check-prefix", "profile", "temp-dir", "serial-start", "serial-offset", "wait-for-file", "no-image-data",
    "copy-header", "copy-hdf5-field", "no-peaks-in-stream", "no-refls-in-stream", "no-non-hits-in-stream", "cpu-pin",
    "max-indexer-threads", "mille", "mille-dir", "harvest-file", "watchdog", "no-data-timeout", "data-format",
}  # fmt: skip
"""Files, what is written, and how the work is shared out."""
_WITHOUT_VALUE = {
    "peakfinder8-fast", "use-saturated", "no-use-saturated", "multi", "no-multi", "profile", "basename",
    "no-check-prefix", "no-image-data", "no-peaks-in-stream", "no-refls-in-stream", "no-non-hits-in-stream",
    "cpu-pin", "watchdog", "retry", "no-retry", "refine", "no-refine", "check-peaks", "no-check-peaks", "check-cell",
    "no-check-cell", "half-pixel-shift", "no-half-pixel-shift", "no-revalidate", "overpredict", "no-sat-corr",
    "integrate-saturated", "cell-parameters-only", "mille",
}  # fmt: skip


def recipe_from_indexamajig(command: str) -> Recipe:
    """The recipe that comes nearest to a command line of indexamajig, for example `read_stream(path).command`.

    What sfxlab does otherwise stays as it is there, and one `SfxlabWarning` for each such option says so. The unit cell
    is in a file or a stream's header: see `Recipe.with_cell`. Raises `RecipeError` where a value is no such value, or
    the text no such command.
    """
    options = dict(_options(command))
    method = options.pop("peaks", "zaef")
    peaks: dict[str, Any] = {}
    section = {name.replace("-", "_"): options.pop(name) for name in sorted(_PEAKFINDER8 & options.keys())}
    fast = options.pop("peakfinder8-fast", None) is not None
    if method == "peakfinder8":
        peaks = {"method": "peakfinder8", "peakfinder8": section | {"fast": fast}}
    else:
        _leave_out(f"--peaks={method} and its parameters", "peaks are found by sfxlab's own method")
    peaks["use_saturated"] = options.pop("no-use-saturated", None) is None
    options.pop("use-saturated", None)
    values: dict[str, Any] = {"peaks": peaks, "hits": {}, "integration": {}}
    values["indexing"] = {} if options.pop("multi", None) is not None else {"max_lattices": 1}
    options.pop("no-multi", None)
    if "min-peaks" in options:
        values["hits"]["min_peaks"] = max(1, int(_numbers("min-peaks", options.pop("min-peaks"), 1)[0]))
    if "int-radius" in options:
        radii = _numbers("int-radius", options.pop("int-radius"), 3)
        values["integration"] = dict(zip(("peak_radius", "background_inner", "background_outer"), radii, strict=True))
    if "highres" in options:
        limit = 1 / _numbers("highres", options.pop("highres"), 1)[0]
        values["peaks"]["max_resolution"] = values["integration"]["max_resolution"] = limit
    if "tolerance" in options:
        # The older form has one tolerance for all angles.
        value = options.pop("tolerance")
        percent = _numbers("tolerance", value, 4 if value.count(",") == 3 else 6)
        values["indexing"] |= {"length_tolerance": max(percent[:3]) / 100, "angle_tolerance": max(percent[3:])}
    for name, value in options.items():
        if name not in _CHANGE_NO_NUMBER:
            _leave_out(f"--{name}" + (f"={value}" if value else ""), "sfxlab has no such parameter")
    return validate(values)


def _options(command: str) -> Iterator[tuple[str, str]]:
    """Names and values of the options, the value empty where there is none."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RecipeError("the command line cannot be taken apart", found=str(error)) from None
    if not words or not (words[0].startswith("-") or words[0].endswith("indexamajig")):
        raise RecipeError(
            "this is no command line of indexamajig", found=repr(command[:60]), expected="'indexamajig --peaks=… …'"
        )
    waiting = iter(words)
    for word in waiting:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield name, value if equals or name in _WITHOUT_VALUE else next(waiting, "")
        elif word.startswith("-") and len(word) > 1:
            yield word[1], word[2:] or next(waiting, "")


def _numbers(name: str, value: str, n: int) -> list[float]:
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != n or min(numbers) < 0 or (name == "highres" and numbers[0] == 0):
        raise RecipeError(
            f"wrong value for --{name}",
            place=f"--{name}",
            found=value,
            expected="a number" if n == 1 else f"{n} numbers",
        )
    return numbers


def _leave_out(what: str, why: str) -> None:
    warnings.warn(f"{what}: {why}", SfxlabWarning, stacklevel=3)
