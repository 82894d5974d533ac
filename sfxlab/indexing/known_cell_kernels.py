"""The search for one lattice of a known cell, compiled as a whole: pairs of peaks, directions, a loose cell."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.fit_kernels import fit_basis, fit_growing, fit_rotation, inverse, misfits, strained
from sfxlab.indexing.search_kernels import (
    align_axis,
    best_directions,
    keep,
    refine_vector,
    score_basis,
    score_directions,
    score_rotations,
    search_pairs,
)
from sfxlab.indexing.significance import log10_chance

ENOUGH = -10.0
"""log10 of chance from which on a search looks no further."""
KEPT = 16
"""Orientations kept by each way of searching."""
REFINED = 4
"""Of these, so many have their cell refined."""
FIT_PEAKS = 120
"""Innermost peaks that orientations are compared on."""
FIRST_SHELL = 12
"""Innermost peaks that a fit of the cell begins with."""
FIRST_PAIRED, PAIRED = 10, 28
"""Innermost peaks of which pairs are taken, at first and in the end."""
PAIR_BUDGET = 250_000
"""Comparisons of nodes, at most."""
ROTATION_BUDGET = 400_000
"""Peaks times angles times directions, at most."""
LOOSE_VECTORS, LOOSE_BUDGET = 16, 400_000
STRETCHES = np.array([-0.02, 0.0, 0.02])
"""Relative deviations at which the axes of a loose cell are tried."""
SAME = 0.15
"""Two bases are of one lattice where the change between them is this close to whole numbers."""


@njit(cache=True, nogil=True, error_model="numpy")
def search_axis(
    q: NDArray[np.float32],
    n_scan: int,
    basis: NDArray[np.float64],
    axis: int,
    directions: NDArray[np.float32],
    n_angles: int,
    span: float,
    both: bool,
    bases: NDArray[np.float64],
    scores: NDArray[np.float64],
    n_kept: int,
) -> int:
    """Directions for one axis, then rotations about it, that suit the innermost peaks of (3, n).

    Rotations by `span` radians leave the lattice as it is; `both` ends of the axis differ. Adds to `bases`, `scores`.
    """
    vectors = best_vectors(q, n_scan, basis, axis, directions, n_angles * (2 if both else 1), ROTATION_BUDGET, 300)
    rotation_scores, work = np.empty(n_angles, dtype=np.float32), np.empty((4, n_scan), dtype=np.float32)
    direction = np.empty(3)
    for i in range(len(vectors)):
        for sign in range(2 if both else 1):
            size = math.sqrt((vectors[i] ** 2).sum())
            for a in range(3):
                direction[a] = (1.0 - 2.0 * sign) * vectors[i, a] / size
            start = align_axis(basis, axis, direction)
            score_rotations(q, n_scan, start, axis, direction, span, rotation_scores, work)
            for _ in range(2):
                best = int(np.argmax(rotation_scores))
                angle = span * best / n_angles
                turned = align_turned(start, direction, angle)
                n_kept = keep(turned, float(rotation_scores[best]), bases, scores, n_kept)
                for step in range(-2, 3):
                    rotation_scores[(best + step) % n_angles] = 0.0
    return n_kept


@njit(cache=True, nogil=True, error_model="numpy")
def best_vectors(
    q: NDArray[np.float32],
    n_scan: int,
    basis: NDArray[np.float64],
    axis: int,
    directions: NDArray[np.float32],
    n_angles: int,
    budget: int,
    most: int,
) -> NDArray[np.float64]:
    """Refined lattice vectors, (n, 3), Å, that may be an axis; as many as the budget leaves for rotations."""
    length = math.sqrt((basis[axis] ** 2).sum())
    direction_scores = np.empty(len(directions), dtype=np.float32)
    score_directions(q, n_scan, length, directions, direction_scores)
    wanted = min(max(budget // (n_angles * n_scan), 8), most)
    pitch = math.sqrt(2.0 * math.pi / len(directions))
    chosen = best_directions(direction_scores, directions, wanted, 1.5 * pitch)
    vectors = np.empty((len(chosen), 3))
    n = 0
    for i in chosen:
        for a in range(3):
            vectors[n, a] = directions[i, a] * length
        refine_vector(q, n_scan, vectors[n])
        size = math.sqrt((vectors[n] ** 2).sum())
        distinct = abs(size / length - 1.0) < 0.08
        for c in range(n):
            if not distinct:
                break
            near, far = 0.0, 0.0
            for a in range(3):
                near += (vectors[n, a] - vectors[c, a]) ** 2
                far += (vectors[n, a] + vectors[c, a]) ** 2
            distinct = min(near, far) > (0.2 * pitch * length) ** 2
        if distinct:
            n += 1
    return vectors[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def align_turned(start: NDArray[np.float64], direction: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """A basis turned about a unit vector by an angle, radians."""
    out = np.empty((3, 3))
    cosine, sine = math.cos(angle), math.sin(angle)
    for i in range(3):
        along = 0.0
        for a in range(3):
            along += start[i, a] * direction[a]
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            cross = direction[b] * start[i, c] - direction[c] * start[i, b]
            out[i, a] = start[i, a] * cosine + cross * sine + direction[a] * along * (1.0 - cosine)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def search_loose(
    q: NDArray[np.float32],
    n_scan: int,
    basis: NDArray[np.float64],
    axis: int,
    directions: NDArray[np.float32],
    both: bool,
    bases: NDArray[np.float64],
    scores: NDArray[np.float64],
    n_kept: int,
) -> int:
    """The same for a cell that may be off by some per cent: each axis is looked for and refined by itself.

    A direction for the first axis, then the second on a cone about it, then the third, all at several lengths.
    """
    second, third = (axis + 1) % 3, (axis + 2) % 3
    reach = 0.0
    for a in range(3):
        reach += float(q[a, n_scan - 1]) ** 2
    reach = math.sqrt(reach)
    n_angles = max(60, int(2.0 * math.pi * reach * math.sqrt((basis[second] ** 2).sum()) / 0.3))
    rounds = 3 * n_angles * (2 if both else 1)
    vectors = best_vectors(q, n_scan, basis, axis, directions, rounds, LOOSE_BUDGET, LOOSE_VECTORS)
    cone, vector = np.empty((n_angles, 3), dtype=np.float32), np.empty(3)
    cone_scores = np.empty(n_angles, dtype=np.float32)
    direction, found = np.empty(3), np.empty((3, 3))
    for i in range(len(vectors)):
        for sign in range(2 if both else 1):
            size = math.sqrt((vectors[i] ** 2).sum())
            for a in range(3):
                direction[a] = (1.0 - 2.0 * sign) * vectors[i, a] / size
            start = align_axis(basis, axis, direction)
            length = math.sqrt((start[second] ** 2).sum())
            for n in range(n_angles):
                turned = align_turned(start, direction, 2.0 * math.pi * n / n_angles)
                for a in range(3):
                    cone[n, a] = turned[second, a] / length
            for stretch in STRETCHES:
                score_directions(q, n_scan, length * (1.0 + stretch), cone, cone_scores)
                for _ in range(2):
                    best = int(np.argmax(cone_scores))
                    turned = align_turned(start, direction, 2.0 * math.pi * best / n_angles)
                    for step in range(-2, 3):
                        cone_scores[(best + step) % n_angles] = 0.0
                    for a in range(3):
                        found[axis, a] = direction[a] * size
                        found[second, a] = turned[second, a] * (1.0 + stretch)
                    refine_vector(q, n_scan, found[second])
                    for last in STRETCHES:
                        for a in range(3):
                            vector[a] = turned[third, a] * (1.0 + last)
                        refine_vector(q, n_scan, vector)
                        for a in range(3):
                            found[third, a] = vector[a]
                        if is_like(found, basis):
                            n_kept = keep(found, score_basis(q, n_scan, found), bases, scores, n_kept)
    return n_kept


@njit(cache=True, nogil=True, error_model="numpy")
def is_like(basis: NDArray[np.float64], target: NDArray[np.float64]) -> bool:
    """Whether all lengths and angles are roughly those of the target."""
    for i in range(3):
        for m in range(i + 1):
            found, wanted, one, other = 0.0, 0.0, 0.0, 0.0
            for a in range(3):
                found += basis[i, a] * basis[m, a]
                wanted += target[i, a] * target[m, a]
                one += target[i, a] ** 2
                other += target[m, a] ** 2
            if abs(found - wanted) > 0.12 * math.sqrt(one * other):
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def is_known(basis: NDArray[np.float64], known: NDArray[np.float64]) -> bool:
    """Whether a basis is of one of the lattices (n, 3, 3) that are known already."""
    reciprocal = inverse(basis)
    for i in range(len(known)):
        worst = 0.0
        for a in range(3):
            for b in range(3):
                value = 0.0
                for c in range(3):
                    value += known[i, a, c] * reciprocal[c, b]
                worst = max(worst, abs(value - np.rint(value)))
        if worst < SAME:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def best_of(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    n_scan: int,
    target: NDArray[np.float64],
    n_rotations: int,
    known: NDArray[np.float64],
    bases: NDArray[np.float64],
    n_kept: int,
    factorials: NDArray[np.float64],
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    """Refine what a search kept, on peaks (3, n); put the least likely one by chance into `best` if below `best_p`."""
    n = min(q.shape[1], FIT_PEAKS)
    volume = abs(1.0 / np.linalg.det(inverse(target)))
    inner, work, all_work = q[:, :n], np.empty((3, n)), np.empty((3, q.shape[1]))
    chances = np.zeros(n_kept)
    for c in range(n_kept):
        bases[c] = fit_rotation(inner, k, n_scan, bases[c])
        misfits(inner, k, bases[c], work)
        chances[c] = log10_chance(work, volume, mean_reach(inner), n_rotations, False, factorials)[0]
    order = np.argsort(chances, kind="mergesort")
    n_refined = 0
    for c in order:
        if is_known(bases[c], known):
            continue
        n_refined += 1
        if n_refined > REFINED:
            break
        misfits(q, k, bases[c], all_work)
        value = log10_chance(all_work, volume, mean_reach(q), n_rotations, False, factorials)[0]
        if value < best_p:
            best_p = value
            best[:] = bases[c]
        for way in range(2):
            if way == 0:
                basis = fit_basis(q, k, n_scan, bases[c], target, all_work)
            else:
                basis = fit_growing(q, k, bases[c], target, FIRST_SHELL, all_work)
            misfits(q, k, basis, all_work)
            value = log10_chance(all_work, volume, mean_reach(q), n_rotations, True, factorials)[0]
            if value < best_p and not is_known(basis, known):
                best_p = value
                best[:] = basis
        misfits(q, k, best, all_work)
        if best_p < 2.0 * ENOUGH and np.count_nonzero(all_work[2] < 0.25) > 0.5 * q.shape[1]:
            break
    return best_p


@njit(cache=True, nogil=True, error_model="numpy")
def mean_reach(q: NDArray[np.float64]) -> float:
    """Root mean square of |q| over peaks (3, n), 1/Å."""
    return math.sqrt((q * q).sum() / max(q.shape[1], 1))


@njit(cache=True, nogil=True, error_model="numpy")
def find_lattice(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    known: NDArray[np.float64],
    target: NDArray[np.float64],
    n_rotations: int,
    nodes: NDArray[np.float64],
    lengths: NDArray[np.float64],
    representatives: NDArray[np.int64],
    axes: NDArray[np.int64],
    directions: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    n_scans: NDArray[np.int64],
    n_angles: NDArray[np.int64],
    spans: NDArray[np.float64],
    both: NDArray[np.bool_],
    loose_directions: NDArray[np.float32],
    n_loose: int,
    only_loose: bool,
    factorials: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """The lattice that peaks (3, n), ordered by resolution, are least likely to suit by chance, and log10 of that.

    Rows in Å; none of the `known` ones. Ways of searching follow each other until one finds a lattice beyond doubt;
    with `only_loose`, the last of them alone, which bears a cell that is off by some per cent.
    """
    q32 = q.astype(np.float32)
    best, best_p = target.copy(), 0.0
    bases, scores = np.empty((KEPT, 3, 3)), np.empty(KEPT)
    beam = math.sqrt((k**2).sum())
    n_scored = n_scans.max()
    if not only_loose:
        first = 1
        for paired in (FIRST_PAIRED, PAIRED):
            kept = search_pairs(
                q32, beam, first, paired, n_scored, target, nodes, lengths, representatives, PAIR_BUDGET,
                bases, scores, 0,
            )  # fmt: skip
            best_p = best_of(q, k, n_scored, target, n_rotations, known, bases, kept, factorials, best, best_p)
            if best_p < ENOUGH:
                return best, best_p
            first = paired
        for axis in axes[:2]:
            kept = search_axis(
                q32, n_scans[axis], target, axis, directions[axis], n_angles[axis], spans[axis], both[axis],
                bases, scores, 0,
            )  # fmt: skip
            best_p = best_of(q, k, n_scans[axis], target, n_rotations, known, bases, kept, factorials, best, best_p)
            if best_p < ENOUGH:
                return best, best_p
    axis = axes[0]
    kept = search_loose(q32, n_loose, target, axis, loose_directions, both[axis], bases, scores, 0)
    for c in range(kept):
        # The rotation alone would not do: begin with the axes as they were found.
        bases[c] = strained(q, k, n_loose, bases[c], target, 0.3, 1e-3)
    best_p = best_of_loose(q, k, n_loose, target, n_rotations, known, bases, kept, factorials, best, best_p)
    return best, best_p


@njit(cache=True, nogil=True, error_model="numpy")
def best_of_loose(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    n_scan: int,
    target: NDArray[np.float64],
    n_rotations: int,
    known: NDArray[np.float64],
    bases: NDArray[np.float64],
    n_kept: int,
    factorials: NDArray[np.float64],
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    """`best_of` where the cell itself is refined from the start."""
    volume = abs(1.0 / np.linalg.det(inverse(target)))
    work = np.empty((3, q.shape[1]))
    for c in range(min(n_kept, 2 * REFINED)):
        basis = fit_basis(q, k, n_scan, bases[c], target, work)
        if is_known(basis, known):
            continue
        misfits(q, k, basis, work)
        value = log10_chance(work, volume, mean_reach(q), n_rotations, True, factorials)[0]
        if value < best_p:
            best_p = value
            best[:] = basis
    return best_p
