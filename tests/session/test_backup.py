"""A catalogue in PostgreSQL, backed up and restored with the hub that it belongs to."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest

from sfxlab.hub.backup import back_up, restore
from sfxlab.session import Session

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def address(postgresql: Any) -> str:
    """The address of a database of its own: what is backed up is all of it."""
    name = f"sfxlab_{uuid.uuid4().hex}"
    with psycopg.connect(f"host={postgresql.folder} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql://postgres@/{name}?host={postgresql.folder}"


def test_sessions_in_postgresql_come_back_as_they_were(address: str, tmp_path: Path) -> None:
    state, folder, catalogue = tmp_path / "state", tmp_path / "etc", tmp_path / "catalogue"
    state.mkdir()
    folder.mkdir()
    with open(os.open(catalogue, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(address)
    (folder / "site.toml").write_text(f'[hub]\nstate = "{state}"\n[sessions]\ncatalogue = "{catalogue}"\n')
    with Session("p1/lyso", address, "anna") as session:
        session.set("view.frame", 7)
        kept = back_up(folder, tmp_path / "backup")
        session.set("view.frame", 8)
    assert "sessions.dump" in [each.name for each in kept]
    assert stat.S_IMODE((tmp_path / "backup" / "sessions.dump").stat().st_mode) == 0o600
    restore(tmp_path / "backup", folder)
    with Session("p1/lyso", address, "bob") as session:
        assert session.get("view.frame") == 7
