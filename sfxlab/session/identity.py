"""Who somebody is, on his or her own machine."""

from __future__ import annotations

import getpass
import os

from sfxlab.errors import SessionError
from sfxlab.session.changes import ROLES, Person


def this_person(person: Person | str | None = None) -> Person:
    """The person as given, or the user of the Jupyter server, or of this machine; a lead where no role is given."""
    if isinstance(person, Person):
        if person.role not in ROLES:
            raise SessionError("no such role", found=person.role, expected=", ".join(ROLES))
        return person
    name = person or os.environ.get("JUPYTERHUB_USER") or _user()
    return Person(name, name, "lead")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return f"user {os.getuid()}"
