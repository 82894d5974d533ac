"""Data sets of labelled frames (light and dark, time bins, dose), scaled together and merged one by one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import MergeError, suggestion
from sfxlab.merging.crystals import Crystals, ProcessedRun
from sfxlab.merging.differences import Differences, differences
from sfxlab.merging.merged import Merged

FrameName = tuple[str, str]
"""Path (or file name) and event of a frame."""

Labels = Mapping[FrameName, str | Sequence[str]] | str | Callable[[Any], Sequence[str | None]]
"""The label, or labels, of each frame; or a column of the table of frames whose values are labels; or a function that
makes a label (or None) for each row of that table."""

_MOST_LABELS = 1000


@dataclass(frozen=True)
class MergedSplits(Mapping[str, Merged]):
    """Merged intensities by label, all on one scale, in the order of labels."""

    whole: Merged
    """Of all frames, whether they have a label or not."""
    by_label: Mapping[str, Merged] = field(repr=False)

    def __getitem__(self, label: str) -> Merged:
        if label not in self.by_label:
            raise MergeError(
                "no frames have this label", found=label, expected=", ".join(self.by_label),
                remedy=suggestion(label, list(self.by_label)) or "choose one of these",
            )  # fmt: skip
        return self.by_label[label]

    def __contains__(self, label: object) -> bool:
        return label in self.by_label

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_label)

    def __len__(self) -> int:
        return len(self.by_label)

    def differences(
        self, one: str, other: str, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None
    ) -> Differences:
        """What two labels differ in, by shells of resolution. Raises `MergeError` for a label that there is not."""
        return differences(self[one], self[other], n_shells, d_min, d_max)

    def __repr__(self) -> str:
        return f"<MergedSplits: {', '.join(f'{label} ({len(part)} reflections)' for label, part in self.items())}>"


def read_labels(path: str | Path) -> dict[FrameName, list[str]]:
    """Labels from a CSV file with the columns path, event and label; a frame may have several lines.

    Raises `MergeError` where the file is not like that.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = tuple(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MergeError("the labels cannot be read", path=path, found=error) from error
    wanted = ("path", "event", "label")
    if not set(wanted) <= set(names):
        raise MergeError(
            "this is no table of labels", path=path, found=", ".join(names) or "nothing",
            expected="a first line 'path,event,label'",
        )  # fmt: skip
    labels: dict[FrameName, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if not all(row[name] for name in wanted):
            raise MergeError("a line has no path, event or label", path=path, place=f"line {number}")
        labels.setdefault((row["path"], row["event"]), []).append(row["label"])
    return labels


def bins(
    values: Mapping[FrameName, float], edges: Sequence[float], *, overlap: float = 0.0, unit: str = ""
) -> dict[FrameName, list[str]]:
    """Labels by ranges of a number, such as a delay or a dose: the ranges between `edges`, lower edge inside.

    With `overlap` each range begins and ends that much further out, so that frames may be in several. The labels are
    those of the ranges between the edges: `0 to 100 fs`.
    """
    if len(edges) < 2 or np.any(np.diff(edges) <= 0) or overlap < 0:
        raise MergeError("edges of ranges have to rise, and overlap is not negative", found=(list(edges), overlap))
    names = [f"{low:g} to {high:g} {unit}".rstrip() for low, high in pairwise(edges)]
    labels: dict[FrameName, list[str]] = {}
    for frame, value in values.items():
        inside = [
            name
            for name, (low, high) in zip(names, pairwise(edges), strict=True)
            if low - overlap <= value < high + overlap
        ]
        if inside:
            labels[frame] = inside
    return labels


def crystals_by_label(labels: Labels, runs: Sequence[ProcessedRun], crystals: Crystals) -> dict[str, NDArray[np.bool_]]:
    """Which crystals have each label, (n_crystals,), in the order of labels.

    Paths count as they are written or, where no run knows them, by the name of the file; `5` is the event `//5` too.
    Raises `MergeError` where no crystal has a label, or where there are more labels than make sense.
    """
    if isinstance(labels, Mapping):
        found = _by_name(labels, crystals)
    else:
        found = [[] for _ in range(len(crystals))]
        for number, run in enumerate(runs):
            mine = np.flatnonzero(crystals.run == number)
            of_frame = _by_table(labels, run)
            for i, frame in zip(mine.tolist(), crystals.frame[mine].tolist(), strict=True):
                label = of_frame.get(frame)
                found[i] = [] if label is None else [label]
    names = sorted({label for own in found for label in own}, key=_natural)
    if not names:
        example = next(iter(labels), "none") if isinstance(labels, Mapping) else labels
        raise MergeError(
            "no crystal is of a frame with a label",
            found=f"labels of {example!r}" if isinstance(example, str | tuple) else "a function that gives none",
            expected=f"frames such as {(crystals.ids[0].path, crystals.ids[0].event)}",
            remedy="write paths and events as the run has them",
        )
    if len(names) > _MOST_LABELS:
        raise MergeError(
            "there are too many labels", found=f"{len(names)}, such as {names[0]!r}", expected=f"up to {_MOST_LABELS}",
            remedy="put frames into ranges first, with sfxlab.merging.bins",
        )  # fmt: skip
    place = {name: i for i, name in enumerate(names)}
    masks = np.zeros((len(names), len(crystals)), dtype=bool)
    for i, own in enumerate(found):
        masks[[place[label] for label in own], i] = True
    return dict(zip(names, masks, strict=True))


def _by_name(labels: Mapping[FrameName, str | Sequence[str]], crystals: Crystals) -> list[Sequence[str]]:
    given = {(path, event): [own] if isinstance(own, str) else own for (path, event), own in labels.items()}
    known = {path for path, _ in given}
    names = {PurePath(path).name for path in crystals.ids.paths}
    # A file name stands for a path only where it cannot mean two files.
    unique = len(names) == len(crystals.ids.paths)
    stems: dict[FrameName, list[str]] = {}
    if unique:
        for (path, event), own in given.items():
            stems.setdefault((PurePath(path).name, event), []).extend(own)
    out: list[Sequence[str]] = []
    for path_index, event in zip(crystals.ids.path.tolist(), crystals.ids.event.to_pylist(), strict=True):
        path = crystals.ids.paths[path_index]
        events = (event, event.rpartition("//")[2])
        sources = ((given, path),) if path in known else ((stems, PurePath(path).name),)
        out.append(next((source[name, e] for source, name in sources for e in events if (name, e) in source), ()))
    return out


def _by_table(labels: str | Callable[[Any], Sequence[str | None]], run: ProcessedRun) -> dict[int, str | None]:
    """The label of each frame of a run."""
    table = run.frames
    if isinstance(labels, str):
        if labels not in table.column_names:
            raise MergeError(
                "the table of frames has no such column", found=labels, expected=", ".join(table.column_names)
            )
        values = table.column(labels).to_pylist()
    else:
        values = list(labels(table))
        if len(values) != len(table):
            raise MergeError("a label is needed for each frame", found=len(values), expected=len(table))
    texts = (None if value is None else str(value) for value in values)
    return dict(zip(table.column("frame").to_pylist(), texts, strict=True))


def _natural(label: str) -> tuple[float, str]:
    """Ranges and numbers in the order of their numbers, before all others."""
    try:
        return float(label.split(" ")[0]), label
    except ValueError:
        return float("inf"), label
