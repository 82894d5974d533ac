"""Programs that may not be redistributed: the site's own installations, for those who accepted their terms."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, DateTime, MetaData, String, Table, create_engine, select
from sqlalchemy.dialects.sqlite import insert as insert_or_keep

from sfxlab.hub.policy import PolicyError


class Program(BaseModel):
    """A program with terms, as installed at the site."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(description="What people read")
    version: str = Field(description="Terms are accepted for this version; another one has to be accepted anew")
    terms: Path = Field(description="File with the terms, plain text")
    path: Path = Field(description="Directory of the installation; its bin is put on PATH if there is one")
    group: str = Field("", description="Group of this machine that may read the directory; empty for everybody")


@dataclass(frozen=True)
class Acceptance:
    """Somebody's word; `terms` is the SHA-256 of the text that was shown."""

    user: str
    program: str
    version: str
    terms: str
    time: datetime


_METADATA = MetaData()
_ACCEPTED = Table(
    "accepted",
    _METADATA,
    Column("user", String, primary_key=True),
    Column("program", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("terms", String, primary_key=True),
    Column("time", DateTime, nullable=False),
)


class Acceptances:
    """Who accepted what and when; only added to."""

    def __init__(self, path: str | Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")
        _METADATA.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def add(self, user: str, name: str, program: Program) -> None:
        """Somebody accepts the terms of a program as they read now; that he had before is kept."""
        row = {
            "user": user, "program": name, "version": program.version, "terms": _fingerprint(program),
            "time": datetime.now(UTC).replace(tzinfo=None),
        }  # fmt: skip
        with self._engine.begin() as connection:
            connection.execute(insert_or_keep(_ACCEPTED).values(row).on_conflict_do_nothing())

    def of(self, user: str, programs: Mapping[str, Program]) -> set[str]:
        """The programs whose present version and terms somebody has accepted."""
        wanted = {(name, each.version, _fingerprint(each)): name for name, each in programs.items()}
        with self._engine.connect() as connection:
            rows = connection.execute(select(_ACCEPTED).where(_ACCEPTED.c.user == user)).all()
        return {wanted[key] for row in rows if (key := (row.program, row.version, row.terms)) in wanted}

    def all(self) -> list[Acceptance]:
        """Everything that was ever accepted, oldest first, for the licence office."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_ACCEPTED).order_by(_ACCEPTED.c.time)).all()
        return [Acceptance(row.user, row.program, row.version, row.terms, row.time.replace(tzinfo=UTC)) for row in rows]


def accepted_by_all(acceptances: Acceptances, users: Iterable[str], programs: Mapping[str, Program]) -> set[str]:
    """What a server that these people share may have: programs that every one of them has accepted."""
    sets = [acceptances.of(user, programs) for user in users]
    return set.intersection(*sets) if sets else set()


def terms_form(programs: Mapping[str, Program]) -> str:
    """The part of JupyterHub's form at the start of a server that shows terms not yet accepted."""
    parts = [
        f"<h3>{html.escape(each.title)} {html.escape(each.version)}</h3>"
        f"<pre style='max-height: 16em; overflow: auto'>{html.escape(_text(each))}</pre>"
        f"<label><input type='checkbox' name='accept' value='{html.escape(f'{name} {each.version}')}'> "
        "I accept these terms. Without this, the program is not on my server.</label>"
        for name, each in programs.items()
    ]
    return "<p>These programs are the site's own installations, under terms of their own.</p>" + "".join(parts)


def _text(program: Program) -> str:
    try:
        return program.terms.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"the terms of {program.title} cannot be read", path=program.terms, found=str(error)
        ) from error


def _fingerprint(program: Program) -> str:
    return sha256(_text(program).encode()).hexdigest()
