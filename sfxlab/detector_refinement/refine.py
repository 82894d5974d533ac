"""Joint refinement of all crystals and the panels of their detector.

METHODS.md section 9.2. Each pass refines every crystal with the detector as it is, sums up the normal equations of the
panels' moves with the crystals' parameters eliminated, solves them, and moves the panels, until nothing moves any more.

Bodies are held together by what is expected of their moves, a normal distribution about none. The detector as a whole
is all but free, so whatever groups or panels could do together is left to it, and their own moves are about none in the
mean; panels that show few peaks stay where the detector, or their group, takes them. A rotation of everything about the
beam, crystals included, changes nothing; it is taken out of the result and its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.detector_refinement.bodies import Body, Level, bodies_of, centres_of, moved, panel_moves, shifts_of
from sfxlab.detector_refinement.stills import Part
from sfxlab.detector_refinement.sums import FIRST_DISTANCE, Pass, Sums, added, sums_of
from sfxlab.errors import RunError
from sfxlab.geometry import Detector

SETTLED, _SETTLED_ERROR = 0.02, 0.2
"""Pixels, and standard errors: once no corner of a panel that is seen goes further, the refinement has ended."""
MAX_PASSES = 20
MIN_PAIRS = 10
"""Groups and panels with fewer peaks have no moves of their own."""
LEAST_DISTANCE = 1.5
"""Peaks nearer than this to their prediction are always used, pixels."""
_WIDE, _TAIL, _TAIL_REACH = 4.0, 0.95, 1.5
"""So are those nearer than so many medians of their panel, or so many times what this share of distances is below."""
_PANEL_PRIOR = 10
"""How many peaks the scatter of all weighs as much as, in that of a panel."""
_BAD_CRYSTAL = 3.0
"""Crystals whose median distance is so many times that of all are left out."""
_RAYLEIGH_MEDIAN = 1.1774
"""Median distance from the middle of a normal distribution in the plane, standard deviations."""
T = TypeVar("T")


class Gather(Protocol):
    """Calls a function for each part, here or elsewhere, and gives what it returned, in order."""

    def __call__(self, function: Callable[..., T], parts: Sequence[Part], *arguments: object) -> Iterable[T]: ...


@dataclass(frozen=True)
class PanelMove:
    """How far a panel went, the moves of its group and of the detector included."""

    name: str
    shift: NDArray[np.float64]
    """Of its middle along x, y, z, pixels, (3,)."""
    rotation: NDArray[np.float64]
    """About x, y, z, degrees, (3,)."""
    shift_error: NDArray[np.float64]
    """Standard errors of `shift`, (3,)."""
    rotation_error: NDArray[np.float64]
    n_peaks: int
    """Peaks with a prediction on it."""
    median_before: float
    """Median distance between peaks and predictions, pixels."""
    median_after: float


@dataclass(frozen=True)
class DetectorRefinement:
    """A refined detector."""

    before: Detector
    detector: Detector
    panels: tuple[PanelMove, ...]
    shift: NDArray[np.float64]
    """Of the middle of all panels along x, y, z, pixels, (3,): beam centre and distance."""
    shift_error: NDArray[np.float64]
    tilt: NDArray[np.float64]
    """Of the detector as a whole about x, y, degrees, (2,)."""
    tilt_error: NDArray[np.float64]
    sums_before: Sums
    """Residuals with the detector as it was, after refinement of each crystal."""
    sums_after: Sums
    n_passes: int
    settled: bool
    """Whether panels had ceased to move."""
    held: tuple[str, ...]
    """Groups and panels that had too few peaks to be moved by themselves."""

    @property
    def n_crystals(self) -> int:
        """Crystals that were used in the end."""
        return int(self.sums_after.n_crystals[0])

    @property
    def distance_change(self) -> float:
        """Of the distance, relative."""
        pixel = self.before.panels[0].pixel_size
        return float(self.shift[2] * pixel / centres_of(self.before)[:, 2].mean())

    @property
    def distance_error(self) -> float:
        """Standard error of `distance_change`."""
        pixel = self.before.panels[0].pixel_size
        return float(self.shift_error[2] * pixel / abs(centres_of(self.before)[:, 2].mean()))


def refine_detector(
    parts: Sequence[Part],
    detector: Detector,
    groups: Sequence[Sequence[int]] = (),
    *,
    level: Level = "panels",
    out_of_plane: bool = False,
    cell: UnitCell | None = None,
    cell_deviation: float = 0.01,
    gather: Gather | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> DetectorRefinement:
    """Refine a detector against the crystals of all parts.

    `groups` are numbers of panels that move together. Cells of crystals vary by `cell_deviation`, relative, about
    `cell` (None: about what each was found with), 0 for not at all; the distance, which grows with the cells, is only
    as right as they are where peaks reach no high angles. `gather` makes the sums of all parts, here unless it is
    given; the result does not depend on how. `progress` is called with the number of each pass and the pixels moved.

    Raises `RunError` where there are no crystals that can be used.
    """
    gather = gather or here

    def summed(placed: Detector, settings: Pass) -> Sums:
        return added(gather(sums_of, parts, placed, settings), len(placed.panels))

    n_panels, pixel_size = len(detector.panels), detector.panels[0].pixel_size
    first = Pass(cell, cell_deviation, np.full(n_panels, FIRST_DISTANCE), np.ones(n_panels))
    sums = before = summed(detector, first)
    _check(sums)
    bodies = bodies_of(detector, groups, level, out_of_plane=out_of_plane)
    bodies, held = _well_seen(bodies, sums.n_pairs)
    expected = np.concatenate([body.expected for body in bodies])
    total, placed, settled, n_passes = np.zeros(6 * len(bodies)), detector, False, 0
    while not settled and n_passes < MAX_PASSES:
        n_passes += 1
        matrix = panel_moves(bodies, centres_of(placed)) * expected
        step, covariance = _solved(matrix, sums, total / np.where(expected > 0, expected, 1.0))
        moves = (matrix @ step).reshape(-1, 6)
        total += step * expected
        seen = _seen(sums)
        unturned = _without_rotation(centres_of(placed), seen)
        shift = shifts_of(placed, (unturned @ moves.ravel()).reshape(-1, 6))[seen]
        errors = np.sqrt(_variances(unturned @ matrix, covariance)[seen, :3].max(axis=1)) / pixel_size
        settled = bool(np.all(shift < np.maximum(SETTLED, _SETTLED_ERROR * errors)))
        placed = moved(placed, moves)
        if progress is not None:
            progress(n_passes, float(shift.max()))
        limit = _BAD_CRYSTAL * max(sums.median_distance, 0.1)
        sums = summed(placed, Pass(cell, cell_deviation, *_distances(sums), limit))
        _check(sums)
    placed = _unturned(detector, placed, _seen(sums))
    matrix = panel_moves(bodies, centres_of(placed)) * expected
    _, covariance = _solved(matrix, sums, np.zeros_like(total))
    after = summed(placed, first)
    return _refinement(
        detector, placed, bodies, total, matrix, covariance, expected, before, after, n_passes, settled, held
    )


def _distances(sums: Sums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Within what distance peaks count in the next pass, and the standard deviation of their positions, by panel, px.

    A panel that is further off than others, or whose peaks are wrong, scatters more: its peaks stay in reach and weigh
    less. The tail of all distances keeps the reach from shrinking by what it leaves out.
    """
    own, n = np.nan_to_num(sums.median_distances), sums.n_pairs
    median = np.sqrt((n * own**2 + _PANEL_PRIOR * sums.median_distance**2) / (n + _PANEL_PRIOR))
    pixel = np.maximum(median / _RAYLEIGH_MEDIAN, 0.02)
    reach = np.maximum(_WIDE * median, _TAIL_REACH * sums.distance_of(_TAIL))
    return np.clip(reach, LEAST_DISTANCE, FIRST_DISTANCE), pixel


def here(function: Callable[..., T], parts: Sequence[Part], *arguments: object) -> Iterator[T]:
    """The `Gather` of this process."""
    return (function(part, *arguments) for part in parts)


def _check(sums: Sums) -> None:
    if not sums.n_crystals[0]:
        raise RunError(
            "no crystal can be used to refine the detector", found=f"{sums.n_crystals[1]} crystals that fit badly",
            expected="indexed frames with a dozen peaks or more each",
            remedy="index with a better geometry or cell first",
        )  # fmt: skip


def _well_seen(bodies: Sequence[Body], n_pairs: NDArray[np.int64]) -> tuple[list[Body], list[Body]]:
    """The bodies with enough peaks, and the others."""
    enough = [body.level == "detector" or n_pairs[body.panels].sum() >= MIN_PAIRS for body in bodies]
    seen, held = ([b for b, s in zip(bodies, enough, strict=True) if s == wanted] for wanted in (True, False))
    return seen, held


def _solved(
    matrix: NDArray[np.float64], sums: Sums, total: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The next step and the covariance of the moves of bodies, in units of what is expected of them.

    `matrix` makes moves of panels of them; `total` is how far they are from where they began.
    """
    normal = matrix.T @ sums.normal @ matrix + np.eye(matrix.shape[1])
    covariance = np.asarray(np.linalg.inv((normal + normal.T) / 2))
    return np.asarray(-covariance @ (matrix.T @ sums.right + total)), covariance


def _seen(sums: Sums) -> NDArray[np.bool_]:
    """The panels with enough peaks, or with most where none has, (n,)."""
    return np.asarray(sums.n_pairs >= min(MIN_PAIRS, sums.n_pairs.max()))


def _variances(matrix: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the moves of panels that `matrix` makes of those of bodies, (n, 6)."""
    return np.asarray(np.maximum(((matrix @ covariance) * matrix).sum(axis=1), 0.0).reshape(-1, 6))


def _refinement(
    before: Detector, after: Detector, bodies: Sequence[Body], total: NDArray[np.float64],
    matrix: NDArray[np.float64], covariance: NDArray[np.float64], expected: NDArray[np.float64], sums_before: Sums,
    sums_after: Sums, n_passes: int, settled: bool, held: Sequence[Body],
) -> DetectorRefinement:  # fmt: skip
    units = np.array([1 / before.panels[0].pixel_size] * 3 + [float(np.degrees(1.0))] * 3)
    known = _without_rotation(centres_of(after), _seen(sums_after)) @ matrix
    variances = _variances(known, covariance)
    if held:
        # Of these no more is known than was before.
        unknown = panel_moves(held, centres_of(after)) * np.concatenate([body.expected for body in held])
        variances += (unknown**2).sum(axis=1).reshape(-1, 6)
    errors = np.sqrt(variances) * units
    mean = known.reshape(len(errors), 6, -1)[:, :3].mean(axis=0)
    shift = (centres_of(after) - centres_of(before)).mean(axis=0) * units[:3]
    shift_error = np.sqrt(np.einsum("ij,jk,ik->i", mean, covariance, mean)) * units[:3]
    tilt_error = np.sqrt(np.diag(covariance)[3:5]) * expected[3:5] * units[3:5]
    panels = _panel_moves(before, after, errors, sums_before, sums_after)
    return DetectorRefinement(
        before, after, panels, shift, shift_error, total[3:5] * units[3:5], tilt_error, sums_before, sums_after,
        n_passes, settled, tuple(body.name for body in held),
    )  # fmt: skip


def joined(first: DetectorRefinement, last: DetectorRefinement) -> DetectorRefinement:
    """Two refinements, one after the other, as one."""
    errors = np.array([[*panel.shift_error, *panel.rotation_error] for panel in last.panels])
    return replace(
        last, before=first.before, sums_before=first.sums_before, shift=first.shift + last.shift,
        tilt=first.tilt + last.tilt, n_passes=first.n_passes + last.n_passes,
        panels=_panel_moves(first.before, last.detector, errors, first.sums_before, last.sums_after),
    )  # fmt: skip


def _panel_moves(
    before: Detector, after: Detector, errors: NDArray[np.float64], sums_before: Sums, sums_after: Sums
) -> tuple[PanelMove, ...]:
    """What became of each panel; errors (n, 6) in pixels and degrees."""
    moves = moves_between(before, after)
    medians = sums_before.median_distances, sums_after.median_distances
    return tuple(
        PanelMove(
            panel.name, moves[i, :3], moves[i, 3:], errors[i, :3], errors[i, 3:], int(sums_after.n_pairs[i]),
            float(medians[0][i]), float(medians[1][i]),
        )
        for i, panel in enumerate(before.panels)
    )  # fmt: skip


def _without_rotation(centres: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The matrix that takes the common rotation of panels `seen` about the beam out of moves of panels, (6 n, 6 n)."""
    n = len(centres)
    around = np.zeros((n, 6))
    around[:, 0], around[:, 1] = -centres[:, 1], centres[:, 0]
    found = around * seen[:, None]
    found /= max(float((found**2).sum()), 1e-300)
    around[:, 5] = 1.0
    return np.asarray(np.eye(6 * n) - np.outer(around.ravel(), found.ravel()))


def _unturned(before: Detector, after: Detector, seen: NDArray[np.bool_]) -> Detector:
    """The second detector without the rotation of the panels that are `seen` about the beam against the first one."""
    a, b = centres_of(before), centres_of(after)
    x, y, u, v = a[seen, 0], a[seen, 1], b[seen, 0], b[seen, 1]
    turn = float(np.arctan2((x * v - y * u).sum(), (x * u + y * v).sum()))
    back = Rotation.from_rotvec([0.0, 0.0, -turn]).as_matrix()
    moves = np.zeros((len(a), 6))
    moves[:, :3], moves[:, 5] = b @ back.T - b, -turn
    return moved(after, moves)


def moves_between(before: Detector, after: Detector) -> NDArray[np.float64]:
    """Shifts of the middles (pixels) and rotations (degrees) of all panels from one detector to another, (n, 6)."""
    a, b = before.arrays, after.arrays
    frames = []
    for arrays in (a, b):
        normal = np.cross(arrays.fs, arrays.ss)
        axes = [v / np.linalg.norm(v, axis=1)[:, None] for v in (arrays.fs, np.cross(normal, arrays.fs), normal)]
        frames.append(np.stack(axes, axis=2))
    turns = Rotation.from_matrix(frames[1] @ frames[0].transpose(0, 2, 1)).as_rotvec(degrees=True)
    shifts = (centres_of(after) - centres_of(before)) / before.panels[0].pixel_size
    return np.hstack([shifts, turns])
