"""Parameters as controls, tried on one frame, on some, or on all, and compared with before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal, get_args, get_origin

from distributed import Client
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sfxlab.errors import RecipeError
from sfxlab.frames import Frame, FrameId
from sfxlab.pipeline import FrameResult, Status
from sfxlab.processing import process, process_one
from sfxlab.progress import Progress
from sfxlab.recipe import CellRecipe, Recipe, validate
from sfxlab.store import Run
from sfxlab.widgets.models.frame_viewer import FrameViewerModel
from sfxlab.widgets.models.viewed_frames import Recent, RunFrames

SOME = 200
"""Frames of a quick trial."""

Value = bool | int | float | str
Changes = Mapping[str, Value]
"""Parameters that differ from the recipe before, by their dotted names."""

_TRIALS_KEPT = 100
_REACH = 4.0
"""Where the recipe sets no limits, sliders go from the default divided by this to the default times this."""


@dataclass(frozen=True)
class Control:
    """One parameter on the page."""

    name: str
    """Dotted, as in TOML."""
    section: str
    label: str
    kind: Literal["whole", "number", "switch", "choice", "text"]
    value: Value
    """In the recipe before."""
    help: str
    least: float | None = None
    """Limits of the recipe, None where it has none."""
    largest: float | None = None
    low: float = 0.0
    """Ends of the slider."""
    high: float = 1.0
    step: float = 1.0
    choices: tuple[str, ...] = ()


def controls(recipe: Recipe) -> list[Control]:
    """A control for each parameter but the cell, in the order of the recipe."""
    return list(_controls(recipe, ()))


def _controls(section: BaseModel, path: tuple[str, ...]) -> Iterator[Control]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel) and not isinstance(value, CellRecipe):
            yield from _controls(value, (*path, name))
        elif isinstance(value, bool | int | float | str):
            yield _control((*path, name), field, value)


def _control(path: tuple[str, ...], field: FieldInfo, value: Value) -> Control:
    common: dict[str, Any] = {
        "name": ".".join(path), "section": ".".join(path[:-1]), "label": path[-1].replace("_", " "), "value": value,
        "help": field.description or "",
    }  # fmt: skip
    if isinstance(value, bool):
        return Control(kind="switch", **common)
    if isinstance(value, str):
        known = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        return Control(kind="choice" if known else "text", choices=known, **common)
    least, largest = (_limit(field, names) for names in (("ge", "gt"), ("le", "lt")))
    is_whole = isinstance(value, int)
    low, high = slider_range(float(field.default), least, largest, is_whole)
    # Limits that the value itself must not have.
    edge = (high - low) / 1000
    low += edge if low == _limit(field, ("gt",)) else 0.0
    high -= edge if high == _limit(field, ("lt",)) else 0.0
    step = 1.0 if is_whole else (high - low) / 200
    kind: Literal["whole", "number"] = "whole" if is_whole else "number"
    return Control(kind=kind, least=least, largest=largest, low=low, high=high, step=step, **common)


def _limit(field: FieldInfo, names: Sequence[str]) -> float | None:
    found = [float(getattr(part, name)) for part in field.metadata for name in names if hasattr(part, name)]
    return found[0] if found else None


def slider_range(default: float, least: float | None, largest: float | None, is_whole: bool) -> tuple[float, float]:
    """The ends of a slider: the limits where there are both, else as far as values are usually tried."""
    if least is not None and largest is not None:
        return least, largest
    if default < 0:
        low, high = _REACH * default, default / _REACH
    elif default > 0:
        low, high = default / _REACH, _REACH * default
    else:
        low, high = 0.0, 100.0 if is_whole else 1.0
    if is_whole:
        low, high = float(int(low)), float(max(int(high), 10))
    return low if least is None else max(low, least), high if largest is None else min(high, largest)


@dataclass(frozen=True)
class Comparison:
    """The same frames before and after."""

    numbers: tuple[int, ...]
    """Which frames of the source."""
    hits: tuple[int | None, int]
    """Before and after; None where nothing is known from before."""
    indexed: tuple[int | None, int]
    lattices: int
    """After."""
    gained: tuple[int, ...] = ()
    """Frames that are indexed now and were not before."""
    lost: tuple[int, ...] = ()

    def __str__(self) -> str:
        hits, indexed = (
            f"{after} {name}" if before is None else f"{before} → {after} {name}"
            for name, (before, after) in (("hits", self.hits), ("indexed", self.indexed))
        )
        changed = "" if self.hits[0] is None else f"; {len(self.gained)} gained, {len(self.lost)} lost"
        return f"{len(self.numbers)} frames: {hits}, {indexed}, {self.lattices} lattices{changed}"


def compare(
    numbers: Sequence[int], before: Sequence[Status | None] | None, after: Sequence[Status], lattices: int
) -> Comparison:
    """Compare what became of frames, one status for each of `numbers`; `before` is None where that is not known."""
    hits = sum(status in ("hit", "indexed") for status in after)
    indexed = sum(status == "indexed" for status in after)
    if before is None:
        return Comparison(tuple(numbers), (None, hits), (None, indexed), lattices)
    pairs = list(zip(numbers, before, after, strict=True))
    return Comparison(
        tuple(numbers),
        (sum(status in ("hit", "indexed") for status in before), hits),
        (sum(status == "indexed" for status in before), indexed),
        lattices,
        tuple(number for number, was, now in pairs if now == "indexed" != was),
        tuple(number for number, was, now in pairs if was == "indexed" != now),
    )


class Stopped(Exception):  # noqa: N818 — it is no error
    """The person who began it does not want it any more."""


class LiveParametersModel:
    """Trials of other parameters on the frames of a viewer."""

    def __init__(self, viewer: FrameViewerModel) -> None:
        self.viewer = viewer
        self.before = viewer.source.recipe
        self._trials: Recent[tuple[int, str], FrameResult] = Recent(_TRIALS_KEPT)
        self._applied: dict[tuple[int, ...], Sequence[Status]] = {}

    def recipe(self, changes: Changes) -> Recipe:
        """The recipe with these changes. Raises `RecipeError` where there is no such parameter or value."""
        values = self.before.model_dump()
        for name, value in changes.items():
            *path, last = name.split(".")
            section = values
            for part in path:
                section = section.get(part) if isinstance(section, dict) else None  # type: ignore[assignment]
            if not isinstance(section, dict):
                raise RecipeError(f"unknown parameter '{name}'", place=name)
            section[last] = value
        return validate(values)

    def trial(self, number: int, changes: Changes) -> FrameResult | None:
        """What becomes of a frame with these changes; without any, what became of it before.

        Raises `RecipeError`; whatever else goes wrong is the frame's reason to have failed.
        """
        if not changes:
            return self.viewer.source.result(number)
        recipe = self.recipe(changes)
        key = number, repr(sorted(changes.items()))
        return self._trials.get(key, lambda: process_one(_Kept(self.viewer), number, number, recipe))  # type: ignore[arg-type]

    def numbers(self, some: bool) -> range:
        """The frames to apply changes to: all, or `SOME` evenly spread ones."""
        n = len(self.viewer)
        step = max(n // SOME, 1)
        return range(0, n, step)[:SOME] if some else range(n)

    def apply(
        self,
        changes: Changes,
        numbers: range,
        output: Path,
        client: Client | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
        stop: Event | None = None,
    ) -> tuple[Run, Comparison]:
        """Process frames with changes into the run `output`, here or on the workers of `client`, and compare.

        What it is compared with is the run that is looked at, or for frames without a run, the last time they were
        processed here. Raises `Stopped` soon after `stop` is set (the run can be resumed), and what `process` raises.
        """

        def watch(progress: Progress) -> None:
            report(progress)
            if stop is not None and stop.is_set():
                raise Stopped

        frames = self.viewer.source.frames[numbers.start : numbers.stop : numbers.step]
        run = process(frames, self.recipe(changes), client, output=output, progress=watch)
        table = run.table("frames", ["status", "n_crystals"])
        after, before = table["status"].to_pylist(), self._before(numbers)
        self._applied[tuple(numbers)] = after
        return run, compare(numbers, before, after, sum(table["n_crystals"].to_pylist()))

    def _before(self, numbers: range) -> Sequence[Status | None] | None:
        source = self.viewer.source
        if isinstance(source, RunFrames):
            return [source.status(number) for number in numbers]
        return self._applied.get(tuple(numbers))


class _Kept:
    """The frames of a viewer, which keeps the last few, as `process_one` asks for them."""

    def __init__(self, viewer: FrameViewerModel) -> None:
        self._viewer = viewer

    def __getitem__(self, number: int) -> Frame:
        return self._viewer.frame(number)

    def identity(self, number: int) -> FrameId:
        return self._viewer.source.frames.identity(number)
