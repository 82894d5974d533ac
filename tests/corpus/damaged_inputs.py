"""The corpus: what each damaged input is, and what has to come of reading it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

Expected = Literal["noticed", "noticed or the same", "the same", "contained", "survived"]
"""An error or a warning; either that or the very same numbers; these; all parts but `struck` the same; no crash."""

SUFFIX_TO_KIND = {".geom": "frames", ".lst": "frames", ".cxi": "frames", ".cell": "cell", ".toml": "recipe",
                  ".stream": "stream"}  # fmt: skip


@dataclass(frozen=True)
class DamagedInput:
    """One sound input with one mistake in it."""

    name: str
    file: str
    """The damaged file, in a folder of sound ones."""
    damage: Callable[[Path], None]
    """Damages that file, given its path."""
    expected: Expected = "noticed"
    words: tuple[str, ...] = ()
    """What the message has to contain besides the name of the file."""
    struck: tuple[str, ...] = ()
    """Parts (frames) that may be lost; all others must be the same."""

    @property
    def kind(self) -> str:
        """What reads it: `frames`, `cell`, `recipe` or `stream`."""
        return SUFFIX_TO_KIND[Path(self.file).suffix]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files to read, the geometry last."""
        if self.kind != "frames":
            return (self.file,)
        return (self.file if self.file.endswith((".lst", ".cxi")) else "frames.cxi", "detector.geom")


def rewritten(content: bytes) -> Callable[[Path], None]:
    """A damage that replaces the whole file."""

    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


def replaced(text: str, old: str, new: str) -> tuple[Callable[[Path], None], str]:
    """A damage that replaces the only occurrence of some words, and the place `line N` where it is."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    place = f"line {text[: text.index(old)].count(chr(10)) + 1}"
    return rewritten(text.replace(old, new).encode()), place


Mistake = tuple[str, str] | tuple[str, str, tuple[str, ...]]
"""Words, what stands there instead, and what the message has to contain: the line where nothing is said."""


def mistakes(file: str, text: str, table: tuple[Mistake, ...]) -> Iterator[DamagedInput]:
    """Inputs with one mistake each."""
    for old, new, *words in table:
        damage, place = replaced(text, old, new)
        expected = words[0] if words else (place,)
        name = f"{file} with {new.strip()!r} for {old.strip()!r}"
        yield DamagedInput(name.replace("\n", " ")[:120], file, damage, words=expected)


def broken_text(file: str, text: str, random: Random, n_cut: int, n_flipped: int) -> Iterator[DamagedInput]:
    """A text that ends too early or has a bit flipped that makes a letter no letter, and files that are no text."""
    encoded = text.encode()
    for length in sorted(random.sample(range(1, len(encoded) - 1), n_cut)):
        # What is cut between two statements is a shorter file without fault.
        yield DamagedInput(f"{file} cut after {length} bytes", file, rewritten(encoded[:length]), "survived")
    for position in sorted(random.sample(range(len(encoded)), n_flipped)):
        flipped = bytearray(encoded)
        flipped[position] ^= 0x80
        yield DamagedInput(
            f"{file} with the highest bit of byte {position} flipped", file, rewritten(bytes(flipped)),
            "noticed or the same",
        )  # fmt: skip
    yield DamagedInput(f"{file} of random bytes", file, rewritten(random.randbytes(2000)))
    yield DamagedInput(f"{file} of zeros", file, rewritten(bytes(2000)))
    yield DamagedInput(f"{file} in UTF-16", file, rewritten(text.encode("utf-16")))


def emptied(file: str) -> Iterator[DamagedInput]:
    """A text without anything in it, where that means nothing."""
    yield DamagedInput(f"{file} that is empty", file, rewritten(b""))
    yield DamagedInput(f"{file} of blank lines", file, rewritten(b"\n\n\n"))


def harmless(file: str, text: str) -> Iterator[DamagedInput]:
    """What editors and other systems do to a text, and what changes nothing."""
    variants = {
        "line ends of Windows": text.replace("\n", "\r\n").encode(),
        "no last line end": text.rstrip("\n").encode(),
        "blanks after each line": text.replace("\n", " \t \n").encode(),
    }
    for name, content in variants.items():
        yield DamagedInput(f"{file} with {name}", file, rewritten(content), "the same")
