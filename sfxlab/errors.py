"""Every error a user can meet.

Each message names the file and the place in it, what was found, what was expected and what to do. A traceback
that reaches a user is a bug of ours; these errors are not.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from os import PathLike
from typing import Any


class SfxlabError(Exception):
    """Something the user can mend: in a file, a parameter or a command.

    Parameters
    ----------
    problem:
        One sentence without a full stop: what is wrong.
    path, place:
        The file, and the line or HDF5 path in it.
    found, expected:
        What was there, and what should have been.
    remedy:
        What to do next, as an instruction.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | PathLike[str] | None = None,
        place: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = None if path is None else str(path)
        self.place = place
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.path, self.place) if part)
        lines = [f"{where}: {self.problem}" if where else self.problem]
        for label, value in (("found", self.found), ("expected", self.expected), ("to do", self.remedy)):
            if value is not None:
                lines.append(f"  {label + ':':<9} {value}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel from workers to the client; keyword-only arguments need help to be unpickled.
        return _rebuild, (type(self), self.problem, dict(self.__dict__))


def _rebuild(kind: type[SfxlabError], problem: str, state: dict[str, Any]) -> SfxlabError:
    error = kind.__new__(kind)
    Exception.__init__(error, problem)
    error.__dict__.update(state)
    return error


class InputError(SfxlabError):
    """A file of frames, or a list of them, cannot be used."""


class FrameError(SfxlabError):
    """One frame cannot be read or processed; the others are not touched by it."""


class UnreachableError(InputError, FrameError):
    """A file on the network cannot be read now. At another time it may be: `--resume` tries again."""

    is_passing: bool = False
    """Whether the next moment may do better: a connection that is lost, but not a file that does not exist."""


class GeometryError(SfxlabError):
    """A detector geometry is wrong or does not fit the data."""


class CellError(SfxlabError):
    """A unit cell, its file or a symmetry is wrong."""


class RecipeError(SfxlabError):
    """A parameter is unknown or out of range."""


class RunError(SfxlabError):
    """A run on disk is missing, damaged, or in the way."""


class OutputExistsError(RunError):
    """What would be written is already there; nothing is overwritten without being asked for."""


class RunInUseError(RunError):
    """Another process is writing the run."""


class StreamError(SfxlabError):
    """A CrystFEL stream or reflection list is damaged."""


class MergeError(SfxlabError):
    """The observations cannot be merged as asked."""


class FilterError(SfxlabError):
    """A filter of a table is not understood."""


class ClusterError(SfxlabError):
    """Workers cannot be had."""


class SessionError(SfxlabError):
    """A session, or what is asked of it, cannot be had."""


class CatalogueError(SessionError):
    """The database or the service that keeps sessions is locked, unreachable or not one of ours."""


class UnknownSessionError(SessionError):
    """There is no such session, or none that this person may know of."""


class NotAllowedError(SessionError):
    """The person's role does not allow this, or nobody knows who is asking."""


class ValueTooBigError(SessionError):
    """A value is larger than what a session is for."""


class SfxlabWarning(UserWarning):
    """Something to know about that does not stop the work: what was read otherwise than written, or left aside."""


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """The instruction "did you mean …?" for the known word most like `word`, or None where nothing is alike."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None
