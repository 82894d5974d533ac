"""What stands to the right of the equals sign in a CrystFEL geometry file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sfxlab.errors import GeometryError
from sfxlab.geometry.detector import Vector
from sfxlab.geometry.geometry import UNITS, Quantity

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)")
_COMPONENT = re.compile(r"([-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)?)([xyz])")
_DEFAULT_UNIT = {"photon_energy": "eV", "wavelength": "m", "electron_voltage": "V"}


def boolean(entry: Entry) -> bool:
    """`true`, or a number that is not zero."""
    word = entry.text.lower()
    if word in ("true", "false"):
        return word == "true"
    return number(entry, "true, false or a number") != 0


def integer(entry: Entry) -> int:
    """A whole number."""
    value = number(entry, "a whole number")
    if not value.is_integer():
        raise entry.error("a whole number")
    return int(value)


def number(entry: Entry, expected: str = "a number", infinite: bool = False) -> float:
    """A number; not NaN, and not infinite unless allowed."""
    try:
        value = math.nan if "_" in entry.text else float(entry.text)
    except ValueError:
        raise entry.error(expected) from None
    if math.isnan(value) or (math.isinf(value) and not infinite):
        raise entry.error(expected)
    return value


def bits(entry: Entry) -> int:
    """Flag bits, decimal or `0x…`."""
    try:
        value = -1 if "_" in entry.text else int(entry.text, 16 if entry.text.lower().startswith("0x") else 10)
    except ValueError:
        value = -1
    if not 0 <= value < 2**64:
        raise entry.error("flag bits such as 0xffff or 65535")
    return value


def vector(entry: Entry) -> Vector:
    """A direction such as `-0.0010x +0.9999y`, as given: its length means something."""
    expected = "a vector such as '-0.0010x +0.9999y +0.0z'"
    compact = "".join(entry.text.split())
    terms = _COMPONENT.findall(compact)
    axes = [axis for _, axis in terms]
    if not terms or "".join(n + axis for n, axis in terms) != compact or len(set(axes)) != len(axes):
        raise entry.error(expected)
    found = {axis: float(n + "1" if n in ("", "+", "-") else n) for n, axis in terms}
    x, y, z = (found.get(axis, 0.0) for axis in "xyz")
    if x == y == z == 0:
        raise entry.error(f"{expected} that is not zero")
    if not math.isfinite(x + y + z):
        raise entry.error(expected)
    return x, y, z


def quantity(entry: Entry) -> Quantity:
    """A number or an HDF5 path, with a unit.

    Lengths without a unit are metres when written as a number, but a `clen` found at a path is in millimetres.
    """
    key, units = entry.key, UNITS[entry.key]
    allowed = f"a number or an HDF5 path, and {' or '.join(units)}"
    if match := _QUANTITY.fullmatch(entry.text):
        value: float | str = float(match[1])
        unit = match[2] or _DEFAULT_UNIT.get(key, "m")
    else:
        value, _, unit = entry.text.partition(" ")
        unit = unit.strip() or _DEFAULT_UNIT.get(key, "mm" if key == "clen" else "m")
        if "/" not in value:
            raise entry.error(allowed)
    if unit not in units:
        raise entry.error(allowed)
    if key in _DEFAULT_UNIT and isinstance(value, float) and value <= 0:
        raise entry.error(f"{allowed}, more than 0")
    return Quantity(key, value, unit)


def names(entry: Entry) -> tuple[str, ...]:
    """A comma-separated list of names."""
    found = tuple(part.strip() for part in entry.text.split(",") if part.strip())
    if not found:
        raise entry.error("names of panels or groups, with commas between them")
    return found


@dataclass(frozen=True)
class Entry:
    """One line `key = text` of a geometry file."""

    key: str
    """Without the panel's name."""
    text: str
    line: int
    path: str | None
    scope: str = ""
    """The panel or bad region that it belongs to, empty where none."""

    @property
    def full_key(self) -> str:
        """The key with its panel or bad region."""
        return f"{self.scope}/{self.key}" if self.scope else self.key

    def error(self, expected: str | None, problem: str | None = None, remedy: str | None = None) -> GeometryError:
        """The error that says what is wrong with this line."""
        return GeometryError(
            problem or f"wrong value for '{self.full_key}'",
            path=self.path,
            place=f"line {self.line}",
            found=self.text or "nothing",
            expected=expected,
            remedy=remedy,
        )
