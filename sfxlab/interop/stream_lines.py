"""The lines, fields and tables that a CrystFEL stream is made of, with errors that name the line."""

from __future__ import annotations

import gzip
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import SfxlabWarning, StreamError

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|nan|inf)", re.IGNORECASE)
_BETWEEN = frozenset(("nm", "nm^-1", "deg", "mm", "m", "A", "eV", "x", "y", "=", "or"))
"""Units and names that may stand between the numbers of a line."""
_LARGEST_WHOLE = 2**53
_GZIP_MAGIC = b"\x1f\x8b"


class Lines:
    """The lines of a text file, gzipped or not, without their ends; `number` is that of the last one, from 1.

    Use it in a `with` statement. Raises `StreamError` where the file is missing or its compressed data are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0

    def __enter__(self) -> Lines:
        try:
            with open(self.path, "rb") as file:
                compressed = file.read(2) == _GZIP_MAGIC
            opener = gzip.open if compressed else open
            self._file: TextIO = opener(self.path, "rt", encoding="utf-8", errors="replace")
        except OSError as error:
            raise StreamError(
                "the stream cannot be opened", path=self.path, found=error.strerror, remedy="check the path"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._file)
        except (OSError, EOFError, zlib.error) as error:
            raise self.error(f"the stream cannot be read further: {error}") from error
        self.number += 1
        if "\ufffd" in line:
            warnings.warn(f"{self.path}, line {self.number}: letters that are no UTF-8", SfxlabWarning, stacklevel=3)
        return line.rstrip()

    def until(self, end: str) -> Iterator[str]:
        """The lines of a block up to the one that begins with `end`."""
        for line in self:
            if line.startswith(end):
                return
            if line.startswith("-----"):
                raise self.error("a block does not end", found=line, expected=end)
            yield line
        raise self.error("the stream ends too early", expected=end, remedy="get the whole file, or cut the last chunk")

    def error(
        self,
        problem: str,
        *,
        number: int | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> StreamError:
        """An error at a line, the last one read where no `number` is given."""
        place = f"line {self.number if number is None else number}"
        return StreamError(problem, path=self.path, place=place, found=found, expected=expected, remedy=remedy)


class Fields:
    """`key = value` lines of a block. Lines of another form are ignored, and so are keys nobody asks for."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._begin = lines.number
        self._values: dict[str, tuple[str, int]] = {}

    def add(self, line: str) -> None:
        """Take in the line that was read last."""
        if line.startswith(("Image ", "Event:")):
            key, _, value = line.partition(":")
        elif line.startswith("Cell parameters"):
            key, value = "Cell parameters", line.removeprefix("Cell parameters")
        else:
            key, _, value = line.partition("=")
        self._values[key.strip()] = value.strip(), self._lines.number

    def has(self, key: str) -> bool:
        """Whether there is such a line."""
        return key in self._values

    def text(self, key: str, default: str) -> str:
        """The value of a key."""
        return self._values[key][0] if key in self._values else default

    def required(self, key: str) -> str:
        """The value of a key that has to be there."""
        if key not in self._values:
            raise self._lines.error(f"'{key}' is missing in the block that begins here", number=self._begin)
        return self._values[key][0]

    def number(self, key: str, default: float) -> float:
        """The number that a value begins with."""
        return self.numbers(key, 1)[0] if key in self._values else default

    def numbers(self, key: str, count: int) -> list[float]:
        """The first `count` numbers in a value."""
        self.required(key)
        value, number = self._values[key]
        found = [word for word in value.replace(",", " ").split() if word not in _BETWEEN][:count]
        if len(found) < count or not all(map(_NUMBER.fullmatch, found)):
            raise self._lines.error(
                f"'{key}' is damaged", number=number, found=value, expected=f"{count} number{'s' * (count > 1)}"
            )
        return [float(x) for x in found]

    def positive(self, key: str) -> float:
        """The number above 0 that a value has to begin with."""
        (found,) = self.numbers(key, 1)
        if not (math.isfinite(found) and found > 0):
            raise self.error(f"'{key}' is not above 0", key)
        return found

    def whole(self, key: str, default: int) -> int:
        """The whole number that a value begins with."""
        found = float(self.number(key, default))
        if not (abs(found) < _LARGEST_WHOLE and found.is_integer()):
            raise self.error(f"'{key}' is no whole number", key)
        return int(found)

    def choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        """A value that is one of `known`."""
        value = self.text(key, default)
        if value not in known:
            number = self._values[key][1]
            raise self._lines.error(f"unknown {key}", number=number, found=value, expected=", ".join(known))
        return value

    def error(self, problem: str, key: str) -> StreamError:
        """An error at the line of a key."""
        value, number = self._values[key]
        return self._lines.error(problem, number=number, found=value)


class Table:
    """A list of rows under a line that names the columns. All rows are split at once: this is where time goes."""

    def __init__(self, lines: Lines, end: str) -> None:
        self._lines = lines
        self._names = next(lines, "").lower().split()
        self._begin = lines.number
        self._rows: list[str] = []
        for line in lines:
            if line.startswith(end):
                break
            if line.startswith("---"):
                raise lines.error("a list does not end", found=line, expected=end)
            self._rows.append(line)
        else:
            raise lines.error("the stream ends within a list", expected=end)
        self._words = " ".join(self._rows).split()
        if len(self._words) != len(self._rows) * len(self._names):
            raise self._damage()

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, name: str) -> bool:
        """Whether there is such a column; names in lower case."""
        return name in self._names

    def floats(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, (n,)."""
        try:
            return np.fromiter(map(float, self._column(name)), np.float64, len(self))
        except ValueError:
            raise self._damage(name, float) from None

    def refuse(self, row: int, problem: str) -> NoReturn:
        """Raise the error that says what is wrong with a row."""
        raise self._lines.error(problem, number=self._begin + 1 + row, found=self._rows[row].strip())

    def integers(self, name: str) -> NDArray[np.int32]:
        """A column of whole numbers, (n,)."""
        try:
            return np.fromiter(map(int, self._column(name)), np.int32, len(self))
        except (ValueError, OverflowError):
            raise self._damage(name, _int32) from None

    def lookup(self, name: str, number: Mapping[str, int]) -> NDArray[np.int16]:
        """What the words of a column stand for, (n,)."""
        try:
            return np.array([number[word] for word in self._column(name)], dtype=np.int16)
        except KeyError as error:
            row = self._column(name).index(error.args[0])
            raise self._lines.error(
                f"unknown {name}", number=self._begin + 1 + row, found=error.args[0],
                expected="a name from the geometry in the header",
            ) from None  # fmt: skip

    def _column(self, name: str) -> list[str]:
        if name not in self._names:
            raise self._lines.error(f"the list has no column '{name}'", number=self._begin, found=" ".join(self._names))
        return self._words[self._names.index(name) :: len(self._names)]

    def _damage(self, name: str | None = None, convert: Callable[[str], object] = str) -> StreamError:
        """The error for the first row that is not as it should be."""
        first = next((i for i, row in enumerate(self._rows) if not self._is_sound(row, name, convert)), 0)
        return self._lines.error(
            "a row of the list is damaged",
            number=self._begin + 1 + first,
            found=self._rows[first].strip(),
            expected=f"{len(self._names)} columns: {' '.join(self._names)}",
        )

    def _is_sound(self, row: str, name: str | None, convert: Callable[[str], object]) -> bool:
        words = row.split()
        if len(words) != len(self._names):
            return False
        try:
            return name is None or convert(words[self._names.index(name)]) is not None
        except (ValueError, OverflowError):
            return False


def _int32(word: str) -> np.int32:
    return np.int32(int(word))
