"""Whose view is shown, and who sits at which page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sfxlab.errors import NotAllowedError, SessionError
from sfxlab.session import Person, Session
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.tables import PRESENCE, now

ANONYMOUS = {"username": "0123456789abcdef" * 2, "name": "Anonymous Io", "color": None}


@pytest.fixture
def join(address: str) -> Iterator[Callable[..., Session]]:
    """Somebody in the session: `join("anna")`."""
    sessions: list[Session] = []

    def joined(name: str, role: Any = "lead") -> Session:
        sessions.append(Session("lyso", address, Person(name, name.title(), role)))
        return sessions[-1]

    yield joined
    for session in sessions:
        session.close()


def here(session: Session) -> list[str]:
    return [person.name for person in session.present()]


def test_who_follows_sees_what_the_other_sees_until_he_moves(
    join: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    anna, ben, carl = join("anna"), join("ben"), join("carl")
    anna.set("view.frame", 3)
    anna.follow(None)
    anna.viewing.set("view.frame", 17)
    assert carl.get("view.frame") == 3
    assert eventually(lambda: any(p.looking_at for p in ben.present()))
    ben.follow("anna")
    carl.follow("ben")
    assert (ben.viewing.get("view.frame"), carl.viewing.get("view.frame")) == (17, 17)
    seen: list[Any] = []
    ben.viewing.subscribe(lambda change: seen.append((change.name, change.value, change.is_another_view)))
    anna.viewing.set("view.contrast", {"low": 2})
    assert eventually(lambda: seen == [("view.contrast", {"low": 2}, True)])
    assert eventually(lambda: carl.viewing.get("view.contrast") == {"low": 2})
    ben.viewing.set("view.frame", 18)
    assert ben.viewing.following is None
    anna.viewing.set("view.frame", 4)
    assert eventually(lambda: carl.viewing.get("view.frame") == 18)  # who still follows ben
    assert ben.viewing.get("view.frame") == 18
    ben.follow("")
    assert ben.viewing.get("view.frame") == anna.get("view.frame") == 3
    assert eventually(lambda: carl.viewing.get("view.frame") == 3)
    ben.viewing.set("view.frame", 5)
    assert eventually(lambda: carl.viewing.get("view.frame") == 5)


def test_what_one_alone_has_set_is_gone_for_who_looks_elsewhere(join: Callable[..., Session]) -> None:
    anna, shown = join("anna"), []
    anna.viewing.subscribe(lambda change: shown.append((change.name, change.value)))
    anna.follow(None)
    anna.viewing.set("view.zoom", 4.0)
    anna.follow("")
    assert shown == [("view.zoom", 4.0), ("view.zoom", None)]
    assert anna.values("view.") == {}


def test_nobody_follows_in_a_circle_or_somebody_who_is_not_there(
    join: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    anna, ben = join("anna"), join("ben")
    ben.follow("anna")
    with pytest.raises(SessionError, match="sees what you see"):
        anna.follow("ben")
    with pytest.raises(SessionError, match="anna, ben"):
        anna.follow("dora")
    assert anna.viewing.following == ""
    anna.follow(None)
    anna.viewing.set("view.frame", 9)
    assert eventually(lambda: ben.viewing.get("view.frame") == 9)
    anna.close()
    assert eventually(lambda: ben.viewing.following is None)
    assert ben.viewing.get("view.frame") == 9


def test_a_viewer_looks_around_without_changing_anything(join: Callable[..., Session]) -> None:
    anna, vera = join("anna"), join("vera", "viewer")
    anna.set("view.frame", 3)
    assert not vera.viewing.may_change()
    with pytest.raises(NotAllowedError):
        vera.viewing.set("view.frame", 4)
    vera.follow(None)
    assert vera.viewing.may_change()
    vera.viewing.set("view.frame", 4)
    assert (vera.viewing.get("view.frame"), anna.get("view.frame")) == (4, 3)
    with pytest.raises(NotAllowedError):
        vera.tag("frame", ["4"], "ice")


def test_people_at_one_kernel_are_known_apart_as_far_as_pages_say(join: Callable[..., Session]) -> None:
    anna, dora = join("anna"), join("dora")
    for page, name in (("p1", "anna"), ("p2", "ben")):
        anna.pages.here(page, "viewer", {"username": name, "name": name.title(), "display_name": name})
    assert here(dora) == ["anna", "ben via anna", "dora"]
    with anna.pages.speaking("p2"):
        anna.set("view.frame", 17)
        anna.tag("frame", ["17"], "ice")
    with anna.pages.speaking("p1"):
        anna.untag("frame", ["17"], "ice")
    assert [c.person for c in dora.history("tag") + dora.history("untag")] == ["ben via anna", "anna"]
    assert dora.disagreements("frame")[0].given_by == ("ben via anna",)
    assert anna.person.wrote(dora.history("tag")[0])
    assert not dora.person.wrote(dora.history("tag")[0])
    anna.follow(None)
    anna.viewing.set("view.frame", 18)
    assert {p.name: p.looking_at for p in dora.present()} == {
        "anna": anna_looks(18), "ben via anna": anna_looks(18), "dora": None,
    }  # fmt: skip


def anna_looks(frame: int) -> Any:
    return {"follows": None, "view": {"view.frame": frame}}


def test_a_claimed_name_gives_no_rights(join: Callable[..., Session]) -> None:
    join("anna")
    vera = join("vera", "viewer")
    vera.pages.here("page", "viewer", {"username": "anna"})
    with vera.pages.speaking("page"), pytest.raises(NotAllowedError, match="vera, viewer"):
        vera.set("view.frame", 1)
    with pytest.raises(SessionError):
        vera._access.call("attend", page="page", claimed="line\nbreak")


def test_made_up_names_count_only_where_there_are_several(join: Callable[..., Session]) -> None:
    anna = join("anna")
    anna.pages.here("p1", "viewer", ANONYMOUS)
    assert here(anna) == ["anna"]
    assert anna.pages.name("p1") == "anna"
    anna.pages.here("p2", "viewer", ANONYMOUS | {"username": "f" * 32, "name": "Anonymous Carme"})
    anna.pages.still_here()
    assert here(anna) == ["Anonymous Carme via anna", "Anonymous Io via anna"]
    for told in (None, "nonsense", {"username": 3}):
        anna.pages.here("p3", "viewer", told)
        assert anna.pages.name("p3") == "anna"


def test_who_closes_the_last_page_is_gone_though_the_kernel_goes_on(
    join: Callable[..., Session], address: str, eventually: Callable[..., bool]
) -> None:
    anna, dora = join("anna"), join("dora")
    told: list[Any] = []
    dora.subscribe(lambda change: told.append((change.name, change.value)), "anna")
    anna.pages.here("p1", "viewer", None)
    anna.pages.here("p1", "table", None)
    anna.pages.gone("p1", "viewer")
    assert here(dora) == ["anna", "dora"]
    anna.pages.gone("p1", "table")
    assert here(dora) == ["dora"]
    assert eventually(lambda: told == [("anna", {"here": False, "looking_at": None})])
    anna.pages.here("p2", "viewer", None)
    assert here(dora) == ["anna", "dora"]
    # A service that was away has forgotten pages; a kernel that died takes its pages with it.
    with Catalogue(address).connected("write") as connection:
        connection.execute(PRESENCE.delete().where(PRESENCE.c.client.endswith("p2")))
    anna.pages.still_here()
    assert here(dora) == ["anna", "dora"]
    with Catalogue(address).connected("write") as connection:
        connection.execute(PRESENCE.update().where(PRESENCE.c.person == "anna").values(seen=now() - 60_000_000))
    assert here(dora) == ["dora"]
