"""What moves when a detector is refined: the whole of it, groups of panels, panels.

A move of a rigid body has six numbers: a shift t (metres) and a rotation w (radians) about its centre, each along three
axes. To first order the panel with centre p in a body with centre b moves by t + w × (p − b) and turns by w; so the
moves of all panels are a matrix times the moves of the bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxlab.errors import GeometryError
from sfxlab.geometry import Detector, Geometry
from sfxlab.geometry.detector import Vector

Level = Literal["detector", "groups", "panels"]
LEVELS: tuple[Level, ...] = ("detector", "groups", "panels")

_WHOLE_SHIFT, _WHOLE_DISTANCE, _WHOLE_TILT = 30.0, 0.03, 1.0
"""Expected size of moves of the whole detector: pixels, share of the distance, degrees. Far more than they are."""
_PART_SHIFT, _PART_ROTATION = 3.0, 0.5
"""The same of groups and panels: pixels, degrees."""


@dataclass(frozen=True)
class Body:
    """Panels that move as one."""

    name: str
    level: Level
    panels: NDArray[np.int64]
    centre: NDArray[np.float64]
    """(3,), metres."""
    axes: NDArray[np.float64]
    """(3, 3), rows: two axes in the plane of the panels and their normal; those of the laboratory for the detector."""
    expected: NDArray[np.float64]
    """(6,): standard deviation of shifts (metres) and rotations (radians) along the axes; 0 for those that are held."""


def centres_of(detector: Detector) -> NDArray[np.float64]:
    """The middle of each panel, (n, 3), metres."""
    a = detector.arrays
    size = a.bounds[:, [3, 1]] - a.bounds[:, [2, 0]]
    return np.asarray(a.corner + 0.5 * (size[:, :1] * a.fs + size[:, 1:] * a.ss))


def bodies_of(detector: Detector, groups: Sequence[Sequence[int]], level: Level, *, out_of_plane: bool) -> list[Body]:
    """The bodies that move: the detector and, as the level says, groups (of panel numbers) and panels.

    Groups and panels move in their plane; along its normal and out of it only with `out_of_plane`.
    """
    centres, pixel = centres_of(detector), detector.panels[0].pixel_size
    everything = np.arange(len(centres))
    tilt = np.radians(_WHOLE_TILT)
    distance = _WHOLE_DISTANCE * abs(float(np.mean(centres[:, 2])))
    shift = _WHOLE_SHIFT * pixel
    whole = np.array([shift, shift, distance, tilt, tilt, tilt])
    bodies = [Body("detector", "detector", everything, centres.mean(axis=0), np.eye(3), whole)]
    shift, turn = _PART_SHIFT * pixel, np.radians(_PART_ROTATION)
    part = np.array([shift, shift, shift, turn, turn, turn]) * (1.0 if out_of_plane else np.array([1, 1, 0, 0, 0, 1]))
    if level != "detector":
        bodies += [_part(detector, f"group {i}", "groups", np.array(g), centres, part) for i, g in enumerate(groups)]
    if level == "panels":
        bodies += [
            _part(detector, p.name, "panels", np.array([i]), centres, part) for i, p in enumerate(detector.panels)
        ]
    return bodies


def _part(
    detector: Detector, name: str, level: Level, panels: NDArray[np.int64], centres: NDArray[np.float64],
    expected: NDArray[np.float64],
) -> Body:  # fmt: skip
    a = detector.arrays
    normal = np.cross(a.fs[panels], a.ss[panels])
    normal = (normal * np.where(normal[:, 2:] < 0, -1.0, 1.0)).sum(axis=0)
    normal /= np.linalg.norm(normal)
    # The axis of the laboratory that is least along the normal gives the first one in the plane.
    lab = np.eye(3)[0 if abs(normal[0]) < 0.9 else 1]
    first = lab - (lab @ normal) * normal
    first /= np.linalg.norm(first)
    axes = np.array([first, np.cross(normal, first), normal])
    return Body(name, level, panels, centres[panels].mean(axis=0), axes, expected)


def groups_of(geometry: Geometry) -> list[list[int]]:
    """Numbers of the panels of each group of a geometry that is neither all of them nor a single one.

    Of groups within groups all levels are there. Raises `GeometryError` where groups contain one another.
    """
    number = {source.panel.name: i for i, source in enumerate(geometry.panels)}
    members = {group.name: group.members for group in geometry.groups}

    def panels(name: str, above: tuple[str, ...] = ()) -> set[int]:
        if name in above:
            raise GeometryError("groups contain one another", path=geometry.path, place=f"group_{name}")
        if name in number:
            return {number[name]}
        return set().union(*(panels(member, (*above, name)) for member in members[name]))

    found = {tuple(sorted(panels(name))) for name in members}
    return [list(group) for group in sorted(found) if 1 < len(group) < len(number)]


def panel_moves(bodies: Sequence[Body], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix that makes moves of panels (6 each, along the axes of the laboratory) of moves of bodies (6 each)."""
    matrix = np.zeros((6 * len(centres), 6 * len(bodies)))
    for b, body in enumerate(bodies):
        for p in body.panels:
            x, y, z = centres[p] - body.centre
            # w × r = −r × w
            lever = np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]])
            block = np.block([[body.axes.T, lever @ body.axes.T], [np.zeros((3, 3)), body.axes.T]])
            matrix[6 * p : 6 * p + 6, 6 * b : 6 * b + 6] = block
    return matrix


def moved(detector: Detector, moves: NDArray[np.float64]) -> Detector:
    """The detector with its panels shifted, and turned about their middles, (n, 6), metres and radians."""
    centres, a = centres_of(detector), detector.arrays
    panels = []
    for i, panel in enumerate(detector.panels):
        turn = Rotation.from_rotvec(moves[i, 3:]).as_matrix()
        corner = centres[i] + moves[i, :3] + turn @ (a.corner[i] - centres[i])
        panels.append(replace(panel, corner=_vector(corner), fs=_vector(turn @ a.fs[i]), ss=_vector(turn @ a.ss[i])))
    length = detector.camera_length + float(moves[:, 2].mean())
    return Detector(tuple(panels), detector.shape, length)


def _vector(v: NDArray[np.float64]) -> Vector:
    return float(v[0]), float(v[1]), float(v[2])


def shifts_of(detector: Detector, moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the corners of each panel go at most, pixels, (n,)."""
    before, after = (panel_corners(d) for d in (detector, moved(detector, moves)))
    return np.asarray(np.linalg.norm(after - before, axis=2).max(axis=1) / detector.panels[0].pixel_size)


def panel_corners(detector: Detector) -> NDArray[np.float64]:
    """The corners of panels one after the other around each, (n, 4, 3), metres."""
    a = detector.arrays
    across, down = (a.bounds[:, 3:4] - a.bounds[:, 2:3]) * a.fs, (a.bounds[:, 1:2] - a.bounds[:, 0:1]) * a.ss
    return np.stack([a.corner, a.corner + across, a.corner + across + down, a.corner + down], axis=1)
