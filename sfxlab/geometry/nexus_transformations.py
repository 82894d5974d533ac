"""Where NeXus puts things: chains of translations and rotations (NXtransformations).

https://manual.nexusformat.org/classes/base_classes/NXtransformations.html. Axes are those of the laboratory frame
of METHODS.md section 1.1, which NeXus calls McStas'. Lengths in metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError
from sfxlab.remote.hdf5 import node_at

LENGTHS = {"m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0, "cm": 1e-2, "mm": 1e-3,
           "millimetre": 1e-3, "millimeter": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6,
           "microns": 1e-6, "nm": 1e-9}  # fmt: skip
"""Size of units of length, metres."""
_ANGLES = {"rad": 1.0, "radian": 1.0, "radians": 1.0, "mrad": 1e-3, "deg": math.pi / 180, "degree": math.pi / 180,
           "degrees": math.pi / 180, "°": math.pi / 180}  # fmt: skip
_REMEDY = "give a CrystFEL geometry file with -g instead, or correct the file"

Affine = NDArray[np.float64]
"""(4, 4): acts on columns (x, y, z, 1), metres."""


Node: TypeAlias = h5py.Group | h5py.Dataset


def error(node: Node, problem: str, found: object = None, expected: object = None) -> GeometryError:
    """The error that names an object of a file."""
    return GeometryError(
        problem, path=node.file.filename, place=str(node.name), found=found, expected=expected, remedy=_REMEDY
    )


def text_of(value: Any) -> str | None:
    """A string of a NeXus file, which may be bytes, or the only element of an array; None where it is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").strip("\0 ")
    return value.strip() if isinstance(value, str) else None


def dataset_of(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """The dataset of a group, None where there is none, or only a link that leads nowhere."""
    try:
        found = node_at(group, name)
    except KeyError:
        return None
    return found if isinstance(found, h5py.Dataset) else None


def number_of(dataset: h5py.Dataset) -> float:
    """The number that a dataset holds, one or the same for all frames. Raises `GeometryError` where it changes."""
    if dataset.dtype.kind not in "iuf" or not dataset.size:
        raise error(dataset, "this is no number", dataset.dtype if dataset.size else "nothing", "a number")
    stored = np.asarray(dataset[()]).reshape(-1)
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        raise error(dataset, "this is no finite number", values[~np.isfinite(values)][0])
    if np.ptp(values) > 1e-9 * np.abs(values).max():
        raise error(dataset, "this changes from frame to frame", f"{values.min():g} to {values.max():g}", "one value")
    # Of a number in single precision the shortest decimal is meant: 7.5e-5 and not 7.50000036e-5.
    return float(str(stored[0])) if stored.dtype == np.float32 else float(values[0])


def unit_of(node: h5py.Dataset, units: Mapping[str, float], attribute: str = "units") -> float:
    """The size of the unit that an attribute of a dataset names."""
    name = text_of(node.attrs.get(attribute)) or ""
    size = units.get(name, units.get(name.lower()))
    if size is None:
        raise error(node, f"the unit is {'unknown' if name else 'missing'}", f"{attribute} = {name}", ", ".join(units))
    return size


def vector_of(axis: h5py.Dataset) -> NDArray[np.float64]:
    """The attribute `vector`, (3,), as it is."""
    return _triple(axis, "vector", None)


def offset_of(axis: h5py.Dataset) -> NDArray[np.float64]:
    """The attribute `offset`, (3,) metres, zero where there is none; in the axis' own unit if it names none."""
    offset = _triple(axis, "offset", np.zeros(3))
    if not offset.any():
        return offset
    return offset * unit_of(axis, LENGTHS, "offset_units" if "offset_units" in axis.attrs else "units")


def _triple(axis: h5py.Dataset, name: str, default: NDArray[np.float64] | None) -> NDArray[np.float64]:
    found = axis.attrs.get(name)
    if found is None and default is not None:
        return default
    try:
        values = np.asarray(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    if name == "offset" and values.size == 1 and values[0] == 0:
        return np.zeros(3)
    if values.size != 3 or not np.isfinite(values).all():
        problem = f"the attribute '{name}' is {'missing' if found is None else 'wrong'}"
        raise error(axis, problem, found, "3 numbers")
    return values


def next_axis(node: Node) -> h5py.Dataset | None:
    """What an axis, or a group with a dataset `depends_on`, depends on; None at the end of the chain.

    A path that does not begin with a slash begins at the group that holds the axis.
    """
    group = node if isinstance(node, h5py.Group) else node.parent
    if isinstance(node, h5py.Group):
        named = dataset_of(node, "depends_on")
        path = text_of(named[()]) if named is not None else None
    else:
        path = text_of(node.attrs.get("depends_on"))
    if not path or path == ".":
        return None
    axis = dataset_of(group, path)
    if axis is None:
        raise error(node, "this depends on something that is not there", f"depends_on = {path}", "an axis of the file")
    return axis


def chain_from(axis: h5py.Dataset | None) -> list[h5py.Dataset]:
    """An axis and all that it depends on, in this order. Raises `GeometryError` for a loop."""
    chain: list[h5py.Dataset] = []
    while axis is not None:
        if axis in chain:
            loop = " → ".join(str(a.name) for a in (*chain[chain.index(axis) :], axis))
            raise error(axis, "the chain of depends_on is a loop", loop, "a chain that ends with '.'")
        chain.append(axis)
        axis = next_axis(axis)
    return chain


def transformation_of(axis: h5py.Dataset) -> Affine:
    """What one axis does at its present value.

    A translation moves by value · vector + offset; a rotation turns, right-handed, by the value about the vector, and
    then moves by the offset.
    """
    kind = text_of(axis.attrs.get("transformation_type"))
    affine = np.eye(4)
    affine[:3, 3] = offset_of(axis)
    value = number_of(axis)
    if kind == "translation":
        if value:
            affine[:3, 3] += value * unit_of(axis, LENGTHS) * vector_of(axis)
    elif kind == "rotation":
        if value:
            affine[:3, :3] = _rotation(axis, value * unit_of(axis, _ANGLES))
    else:
        problem = "the attribute 'transformation_type' is missing" if kind is None else "unknown transformation type"
        raise error(axis, problem, kind, "translation or rotation")
    return affine


def placed_by(chain: list[h5py.Dataset]) -> Affine:
    """What a whole chain does, its last axis nearest to the laboratory."""
    placed = np.eye(4)
    for axis in chain:
        placed = transformation_of(axis) @ placed
    return placed


def _rotation(axis: h5py.Dataset, angle: float) -> NDArray[np.float64]:
    """Rodrigues' formula, (3, 3)."""
    vector = vector_of(axis)
    length = np.linalg.norm(vector)
    if not length:
        raise error(axis, "a rotation about no axis", "vector = 0 0 0", "a direction")
    x, y, z = vector / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)
