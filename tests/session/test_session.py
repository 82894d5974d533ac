"""Values, tags, comments and presence, in both kinds of catalogues."""

from __future__ import annotations

import gc
import pickle
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfxlab
from sfxlab.errors import SfxlabError
from sfxlab.session import (
    CatalogueError,
    NotAllowedError,
    Opinion,
    Person,
    Session,
    SessionError,
    UnknownSessionError,
    ValueTooBigError,
)
from sfxlab.session.catalogue import network_file_system

VIEWER = Person("vera", "Vera V.", "viewer")


@pytest.fixture
def session(address: str) -> Any:
    with Session("lyso", address, "anna") as session:
        yield session


def test_the_last_writer_of_a_value_wins(session: Session, address: str) -> None:
    with Session("lyso", address, "bob") as other:
        session.set("view.frame", 17)
        other.set("view.frame", 18)
        assert session.get("view.frame") == other.get("view.frame") == 18


@pytest.mark.parametrize(
    "value", [None, True, 3, -1.5e-300, "Å 😀\0\ud800", [1, [2, {}]], {"low": 0.5, "": None}, 2**80]
)
def test_a_value_comes_back_as_it_was_set(session: Session, value: Any) -> None:
    session.set("x", value)
    assert session.get("x", "nothing") == value
    assert type(session.get("x", "nothing")) is type(value)


def test_numpy_numbers_and_arrays_become_plain_ones(session: Session) -> None:
    session.set("selection", {"items": np.arange(3), "mean": np.float32(0.5), "frame": np.int64(7)})
    assert session.get("selection") == {"items": [0, 1, 2], "mean": 0.5, "frame": 7}


def test_values_are_found_by_prefix_and_missing_ones_are_the_default(session: Session) -> None:
    for name in ("view.frame", "view.zoom", "View.frame", "viewer", "vie_"):
        session.set(name, name)
    assert session.values("view.") == {"view.frame": "view.frame", "view.zoom": "view.zoom"}
    assert len(session.values()) == 5
    assert session.get("view", "none") == "none"


def test_sessions_of_a_catalogue_know_nothing_of_each_other(session: Session, address: str) -> None:
    session.set("x", 1)
    session.tag("frame", ["1"], "ice")
    with Session("other", address) as other, Session("p1/lyso", address) as same_name:
        for one in (other, same_name):
            assert one.get("x") is None
            assert one.tags("frame") == {}
            assert [person.name for person in one.present()] == [one.person.name]


def test_what_was_written_outlives_every_kernel(address: str) -> None:
    with Session("lyso", address, "anna") as session:
        session.set("view.frame", 17)
        session.tag("frame", ["17"], "ice")
        session.comment("frame 17", "rings")
    with Session("lyso", address, "anna") as again:
        assert again.get("view.frame") == 17
        assert again.tagged("frame", "ice") == {"17"}
        [comment] = again.comments()
    assert (comment.on, comment.text, comment.person) == ("frame 17", "rings", "anna")
    assert timedelta() <= datetime.now(UTC) - comment.time < timedelta(minutes=5)


def test_an_untag_is_a_record_too_and_the_last_word_counts(session: Session, address: str) -> None:
    with Session("lyso", address, "bob") as bob:
        session.tag("frame", ["1", "2", "2"], "ice")
        bob.tag("frame", ["2"], "ice")
        bob.untag("frame", ["1"], "ice")
        assert session.tagged("frame", "ice") == {"2"}
        assert session.tags("frame") == {"ice": 1}
        assert session.tags("frame", "2") == {"ice": 2}
        assert session.tags("frame", "1") == {}
        session.tag("frame", ["1"], "ice")
        assert bob.tagged("frame", "ice") == {"1", "2"}
        assert [change.person for change in session.history("untag")] == ["bob"]
        assert [change.value for change in session.history("tag", "ice")] == [
            {"kind": "frame", "items": items} for items in (["1", "2", "2"], ["2"], ["1"])
        ]


def test_tags_of_frames_crystals_and_runs_are_apart(session: Session) -> None:
    for kind in ("frame", "crystal", "run"):
        session.tag(kind, [kind], "good")
    assert [session.tagged(kind, "good") for kind in ("frame", "crystal", "run")] == [{"frame"}, {"crystal"}, {"run"}]


def test_where_two_people_differ_is_found(session: Session, address: str) -> None:
    with Session("lyso", address, "bob") as bob:
        session.tag("frame", ["1", "2", "3"], "ice")
        bob.tag("frame", ["1"], "ice")
        bob.untag("frame", ["2"], "ice")
        [found] = session.disagreements("frame")
    assert (found.item, found.tag, found.given_by, found.taken_by) == ("2", "ice", ("anna",), ("bob",))


def test_what_several_people_judged_is_told_from_what_they_dispute(session: Session, address: str) -> None:
    with Session("lyso", address, "bob") as bob, Session("lyso", address, "carol") as carol:
        session.tag("frame", ["1", "2", "3", "4"], "ice")
        bob.untag("frame", ["1"], "ice")
        bob.tag("frame", ["2"], "ice")
        bob.tag("frame", ["3"], "salt")
        for voter, choice in ((session, 1), (bob, -1), (carol, 1)):
            voter.vote("frame 5", choice)
        for voter in (session, bob):
            voter.vote("frame 6", 1)
        for changed in (1, -1, 0):
            carol.vote("frame 4", changed)  # taken back: only one person judged it
        bob.vote("crystal 4", 1)
        session.vote("frames 1", -1)  # of no kind
        found = {one.item: one for one in session.judged("frame")}
    assert sorted(found) == ["1", "2", "3", "5", "6"]
    assert [item for item in sorted(found) if found[item].is_disputed] == ["1", "5"]
    assert [item for item in sorted(found) if found[item].differs] == ["1", "3", "5"]
    assert found["1"].opinions == {"anna": Opinion(("ice",)), "bob": Opinion((), ("ice",))}
    assert {person: one.vote for person, one in found["5"].opinions.items()} == {"anna": 1, "bob": -1, "carol": 1}
    assert session.judged("crystal") == session.judged("run") == []


def test_tags_are_found_in_the_session_that_is_open(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfxlab.session.session._OPEN", weakref.WeakSet())  # whatever other tests have open
    session = Session("lyso", address, "anna")
    session.tag("frame", ["7"], "ice")
    session.tag("crystal", ["3"], "ice")
    assert sfxlab.tagged("ice") == {"7"}
    assert sfxlab.tagged("ice", "crystal").kind == "crystal"
    with Session("lyso", address, "anna"):  # the same cell of a notebook, run again
        assert sfxlab.tagged("ice") == {"7"}
    with Session("other", address, "anna") as other:
        with pytest.raises(SessionError, match=r"lyso, other[\s\S]*session\.tagged\('frame', 'ice'\)"):
            sfxlab.tagged("ice")
        assert sfxlab.tagged("ice", session=other) == set()
    session.close()
    with pytest.raises(SessionError, match="none"):
        sfxlab.tagged("ice")


def test_more_items_than_fit_into_a_change_are_tagged_all_the_same(session: Session) -> None:
    session.tag("crystal", (str(i) for i in range(9000)), "good")
    assert session.tags("crystal") == {"good": 9000}
    assert len(session.history("tag")) == 3


def test_sets_of_tagged_items_know_their_kind(session: Session) -> None:
    session.tag("frame", ["1", "2"], "ice")
    session.tag("frame", ["2", "3"], "salt")
    session.tag("crystal", ["9"], "ice")
    ice, salt = session.tagged("frame", "ice"), session.tagged("frame", "salt")
    for combined, expected in ((ice | salt, {"1", "2", "3"}), (ice & salt, {"2"}), (ice - salt, {"1"})):
        assert combined == expected
        assert combined.kind == "frame"
    assert pickle.loads(pickle.dumps(ice)).kind == "frame"
    with pytest.raises(TypeError, match="do not mix"):
        ice | session.tagged("crystal", "ice")


def test_the_last_vote_of_everybody_counts(session: Session, address: str) -> None:
    with Session("lyso", address, "bob") as bob, Session("lyso", address, "carol") as carol:
        for voter, choice in ((session, 1), (bob, 1), (bob, -1), (carol, 1), (carol, 0)):
            voter.vote("frame 17", choice)
        assert session.votes("frame 17") == {"anna": 1, "bob": -1}
        assert session.votes("frame 18") == {}


def test_all_records_of_a_name_are_kept(session: Session) -> None:
    for a in (79.0, 79.1):
        session.record("cell", {"a": a})
    session.record("recipe", {"peaks.min_snr": 5})
    assert [record.value for record in session.records("cell")] == [{"a": 79.0}, {"a": 79.1}]
    assert [record.name for record in session.records()] == ["cell", "cell", "recipe"]


def test_who_is_there_is_seen_with_where_they_look_and_who_leaves_is_not(session: Session, address: str) -> None:
    with Session("lyso", address, VIEWER) as vera, Session("lyso", address, "anna"):
        vera.look_at({"frame": 3})
        assert [(p.name, p.display_name, p.role, p.looking_at) for p in session.present()] == [
            ("anna", "anna", "lead", None), ("vera", "Vera V.", "viewer", {"frame": 3}),
        ]  # fmt: skip
    assert [person.name for person in session.present()] == ["anna"]


def test_a_session_that_nobody_knows_any_more_is_left(
    session: Session, address: str, eventually: Callable[..., bool]
) -> None:
    Session("lyso", address, "bob").set("x", 1)
    gc.collect()
    assert eventually(lambda: [person.name for person in session.present()] == ["anna"])


def test_a_viewer_sees_everything_and_changes_nothing(session: Session, address: str) -> None:
    session.set("x", 1)
    with Session("lyso", address, VIEWER) as vera:
        assert not vera.may_change()
        assert vera.values() == {"x": 1}
        for refused in (
            lambda: vera.set("x", 2), lambda: vera.tag("frame", ["1"], "ice"), lambda: vera.vote("frame 1", 1),
            lambda: vera.untag("frame", ["1"], "x"), lambda: vera.comment("run", "no"), lambda: vera.record("cell", {}),
        ):  # fmt: skip
            with pytest.raises(NotAllowedError, match="vera, viewer"):
                refused()
    assert session.values() == {"x": 1}
    assert session.tags("frame") == {}
    assert session.comments() == session.records() == []


def test_a_viewer_makes_no_session(address: str) -> None:
    with pytest.raises(UnknownSessionError, match="no such session"):
        Session("new", address, VIEWER)


def test_a_lead_freezes_a_session_for_analysts(session: Session, address: str) -> None:
    with Session("lyso", address, Person("bob", "Bob", "analyst")) as bob:
        with pytest.raises(NotAllowedError, match=r"session\.frozen"):
            bob.set("session.frozen", True)
        session.set("session.frozen", True)
        with pytest.raises(NotAllowedError, match="frozen"):
            bob.tag("frame", ["1"], "ice")
        session.set("x", 1)
        session.set("session.frozen", False)
        bob.tag("frame", ["1"], "ice")
    assert session.tags("frame") == {"ice": 1}


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (float("nan"), SessionError, "no JSON value"),
        (object(), SessionError, "a object"),
        ("x" * 2_000_000, ValueTooBigError, r"2000002 bytes[\s\S]*at most 1048576"),
        (b"bytes", SessionError, "a bytes"),
    ],
)
def test_what_is_no_value_is_refused_with_the_reason(session: Session, value: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        session.set("view.frame", value)
    assert isinstance(raised.value, SfxlabError)
    assert "view.frame" in str(raised.value)
    assert session.get("view.frame") is None


def test_a_list_within_itself_is_refused(session: Session) -> None:
    within: list[Any] = []
    within.append(within)
    with pytest.raises(SessionError, match="no JSON value"):
        session.set("x", within)


@pytest.mark.parametrize("name", ["", "a\0b", "line\nbreak", "x" * 201])
def test_names_of_values_are_short_and_printable(session: Session, name: str) -> None:
    with pytest.raises(SessionError, match="set cannot be asked like this"):
        session.set(name, 1)


@pytest.mark.parametrize("name", ["", "/", "a/b/c", " lyso", "x" * 101, "a\nb"])
def test_names_of_sessions_are_short_and_printable(address: str, name: str) -> None:
    with pytest.raises(SessionError, match="no name of a session"):
        Session(name, address)


def test_an_empty_comment_and_an_unknown_kind_are_refused(session: Session) -> None:
    with pytest.raises(SessionError, match="text: comment"):
        session.comment("frame 1", "  ")
    with pytest.raises(SessionError, match="'frame', 'crystal' or 'run'"):
        session.tag("cat", ["1"], "ice")


def test_the_author_is_the_user_of_the_hub_or_of_the_machine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass

    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    with Session("lyso", address) as session:
        assert session.person == Person(getpass.getuser(), getpass.getuser(), "lead")
    monkeypatch.setenv("JUPYTERHUB_USER", "anna")
    with Session("lyso", address) as session:
        session.comment("run", "done")
        assert session.comments()[0].person == session.person.name == "anna"


def test_the_catalogue_is_where_the_environment_says_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SFXLAB_CATALOGUE", raising=False)
    with sfxlab.Session("lyso") as session:
        session.set("x", 1)
    assert (tmp_path / "sfxlab-sessions.sqlite").is_file()
    monkeypatch.setenv("SFXLAB_CATALOGUE", f"sqlite:///{tmp_path}/other.sqlite")
    with sfxlab.Session("lyso") as session:
        assert session.get("x") is None


def test_a_program_that_changes_its_folder_keeps_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Session("lyso", "sqlite:///sessions.sqlite") as session:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        session.set("x", 1)
        assert session.get("x") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_session_whose_catalogue_was_replaced_says_so(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/sessions.sqlite"
    with Session("lyso", address) as session:
        with closing(sqlite3.connect(tmp_path / "sessions.sqlite")) as connection, connection:
            for table in ("presence", "changes", "sessions"):
                connection.execute(f"DELETE FROM {table}")
        with pytest.raises(UnknownSessionError, match="no longer in its catalogue"):
            session.set("x", 1)
    with Session("lyso", address) as session:
        session.set("x", 1)


def test_a_file_on_a_network_disk_is_told_from_a_local_one(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\nserver:/home /home nfs4 rw,vers=4.2 0 0\n/dev/sda1 /home/local ext4 rw 0 0\n"
        "bob@host: /mnt/my\\040disk fuse.sshfs rw 0 0\n"
    )
    kinds = {
        "/data/x.sqlite": None, "/home/anna/x.sqlite": "nfs4", "/home/local/x.sqlite": None,
        "/mnt/my disk/deep/x.sqlite": "fuse.sshfs",
    }  # fmt: skip
    assert {path: network_file_system(Path(path), mounts) for path in kinds} == kinds
    assert network_file_system(Path("/home/anna/x.sqlite"), tmp_path / "none") is None


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("mysql://host/db", "SQLite or PostgreSQL"),
        ("nonsense", "no address of a catalogue"),
        ("postgresql//user:secret@host", "no address of a catalogue"),
        ("nonsense://host", "SQLite or PostgreSQL"),
        ("sqlite://", "in memory"),
        ("sqlite:////no/such/folder/x.sqlite", "unable to open database file"),
        ("postgresql://user:secret@127.0.0.1:1/db", "cannot be reached"),
    ],
)
def test_a_catalogue_that_cannot_be_had_is_a_sentence_without_the_password(address: str, words: str) -> None:
    with pytest.raises(CatalogueError, match=words) as raised:
        Session("lyso", address)
    assert "secret" not in str(raised.value)
    assert raised.value.remedy


def test_a_file_of_something_else_is_no_catalogue(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, " * 100)
    with pytest.raises(CatalogueError, match="not a database"):
        Session("lyso", f"sqlite:///{tmp_path}/notes.txt")


def test_a_catalogue_of_another_layout_is_left_alone(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/sessions.sqlite"
    Session("lyso", address).close()
    with closing(sqlite3.connect(tmp_path / "sessions.sqlite")) as connection, connection:
        connection.execute("UPDATE catalogue SET layout = 99")
    with pytest.raises(CatalogueError, match="another release"):
        Session("lyso", address)


def test_a_lock_that_stays_is_a_sentence(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/sessions.sqlite"
    with (
        Session("lyso", f"{address}?timeout=0.1") as session,
        closing(sqlite3.connect(tmp_path / "sessions.sqlite", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CatalogueError, match="locked by another writer"):
            session.set("x", 1)
        other.execute("ROLLBACK")
        session.set("x", 1)


def test_many_people_open_a_new_catalogue_at_once(address: str) -> None:
    names, errors = [f"person {i}" for i in range(12)], []

    def open_and_write(name: str) -> None:
        try:
            with Session("lyso", address, name) as session:
                session.set(name, 1)
        except SfxlabError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Session("lyso", address) as session:
        assert set(session.values()) == set(names)
