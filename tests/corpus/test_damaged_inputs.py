"""Hundreds of damaged inputs: never a traceback, never a hang, never a wrong number without a warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Outcomes = Mapping[str, dict[str, Any]]


def errors_of(outcome: dict[str, Any]) -> list[str]:
    """Messages of all errors."""
    parts = [part["error"] for part in outcome["parts"] if "error" in part]
    return parts + ([outcome["error"]] if outcome["error"] else [])


def digests_of(outcome: dict[str, Any]) -> dict[str, str | None]:
    """Digests of the numbers by part, None where a part could not be read."""
    return {part["name"]: part.get("digest") for part in outcome["parts"]}


def test_the_corpus_has_300_inputs_and_each_is_another(corpus: list[Any]) -> None:
    assert len(corpus) >= 300
    assert Counter(damaged.name for damaged in corpus).most_common(1)[0][1] == 1
    assert {damaged.kind for damaged in corpus} == {"frames", "cell", "recipe", "stream"}


def test_sound_inputs_are_read_without_a_word(outcomes: Outcomes) -> None:
    for kind in ("frames", "cell", "recipe", "stream"):
        assert outcomes[kind]["traceback"] is None
        assert errors_of(outcomes[kind]) + outcomes[kind]["warnings"] == []
        assert all(digests_of(outcomes[kind]).values())
    assert len(outcomes["frames"]["parts"]) == 4


def test_a_damaged_input_gives_an_error_or_a_warning_or_the_same_numbers(damaged: Any, outcomes: Outcomes) -> None:
    outcome = outcomes[damaged.name]
    assert "died" not in outcome, outcome["died"]
    assert outcome["traceback"] is None, outcome["traceback"]
    messages = errors_of(outcome) + outcome["warnings"]
    for message in errors_of(outcome):
        assert any(name in message for name in {damaged.file, *damaged.inputs}), message
    read, sound = digests_of(outcome), digests_of(outcomes[damaged.kind])
    if damaged.expected == "noticed":
        assert messages, "nothing was said"
        assert any(all(word in message for word in damaged.words) for message in messages), messages
    elif damaged.expected == "noticed or the same":
        assert messages or read == sound
    elif damaged.expected == "the same":
        assert messages == []
        assert read == sound
    if damaged.struck:
        assert {name: read.get(name) for name in sound if name not in damaged.struck} == {
            name: digest for name, digest in sound.items() if name not in damaged.struck
        }


def test_each_seed_makes_the_same_files(corpus: list[Any], folder_of: Callable[[Any], Path], tmp_path: Path) -> None:
    for damaged in corpus[::20]:
        folder = folder_of(damaged)
        again = tmp_path / damaged.file
        damaged.damage(again)
        assert again.read_bytes() == (folder / damaged.file).read_bytes()
