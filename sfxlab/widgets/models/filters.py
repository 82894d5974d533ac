"""Filters of tables as people type them: `status = hit and n_peaks > 50`, `not "wrong cell"`, `tags = ice`.

    filter      what [or what …]
    what        part [and part …]; "and" may be left out
    part        not part | ( filter ) | column operator value | a word, which is looked for in all texts
    operator    = != < <= > >= for numbers; = != ~ !~ for texts, where ~ is "contains", capitals or not

Nothing of a filter is ever run as code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfxlab.errors import FilterError, suggestion

Column: TypeAlias = Any
"""Numbers, (n,), or texts as an Arrow dictionary."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<operator><=|>=|!=|==|!~|=|<|>|~)|(?P<bracket>[()])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'"""
    r"""|(?P<word>[^\s()<>=!~"']+))"""
)
_NUMERIC = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_TEXT = ("=", "!=", "~", "!~")
_SEVERAL = ", "
"""Between the words of a text that holds several, as tags do."""

_MOST_TOKENS = 150

Token = tuple[str, str, int]


def filtered(text: str, columns: Mapping[str, Column], n: int) -> NDArray[np.bool_]:
    """Which of `n` rows a filter lets through. An empty filter lets all. Raises `FilterError`, which says where."""
    tokens = _tokens(text)
    if len(tokens) > _MOST_TOKENS:
        raise FilterError("the filter is too long", found=f"{len(tokens)} words", expected=f"at most {_MOST_TOKENS}")
    if not tokens:
        return np.ones(n, dtype=bool)
    return _Reader(text, tokens, columns, n).whole()


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise FilterError(
                "the filter cannot be read", found=text, place=f"character {place + 1}", expected="a closing quote"
            )
        kind = str(match.lastgroup)
        tokens.append(("text" if kind in ("double", "single") else kind, match[kind], match.start(kind)))
        place = match.end()
    return tokens


class _Reader:
    """Reads tokens from left to right, and gives the rows that pass."""

    def __init__(self, text: str, tokens: list[Token], columns: Mapping[str, Column], n: int) -> None:
        self._text, self._tokens, self._columns, self._n = text, tokens, columns, n
        self._next = 0

    def whole(self) -> NDArray[np.bool_]:
        passing = self._filter()
        if self._next < len(self._tokens):
            raise self._error("a bracket is closed that was not opened", self._tokens[self._next])
        return passing

    def _peek(self) -> Token:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "", len(self._text))

    def _take(self) -> Token:
        token = self._peek()
        self._next += 1
        return token

    def _is_word(self, *words: str) -> bool:
        kind, text, _ = self._peek()
        return kind == "word" and text.lower() in words

    def _filter(self) -> NDArray[np.bool_]:
        passing = self._all_of()
        while self._is_word("or"):
            self._take()
            passing = passing | self._all_of()
        return passing

    def _all_of(self) -> NDArray[np.bool_]:
        passing = self._part()
        while True:
            if self._is_word("and"):
                self._take()
            elif self._peek()[0] == "end" or self._peek()[1] == ")" or self._is_word("or"):
                return passing
            passing = passing & self._part()

    def _part(self) -> NDArray[np.bool_]:
        if self._is_word("not"):
            self._take()
            return ~self._part()
        kind, text, _ = token = self._take()
        if kind == "bracket" and text == "(":
            passing = self._filter()
            if self._take()[1] != ")":
                raise self._error("a bracket is not closed", token)
            return passing
        if kind not in ("word", "text"):
            raise self._error("something is missing", token, expected="a column, a word, 'not' or '('")
        if kind == "word" and self._peek()[0] == "operator":
            return self._compared(token)
        return self._containing(text)

    def _compared(self, name: Token) -> NDArray[np.bool_]:
        _, operator, _ = self._take()
        operator = "=" if operator == "==" else operator
        value = self._take()
        if value[0] not in ("word", "text"):
            raise self._error("a value is missing", value, expected=f"a value after {name[1]} {operator}")
        column = self._columns.get(name[1])
        if column is None:
            raise self._error(
                f"there is no column '{name[1]}'", name, expected=", ".join(self._columns),
                remedy=suggestion(name[1], self._columns),
            )  # fmt: skip
        if isinstance(column, pa.DictionaryArray):
            if operator not in _TEXT:
                raise self._error(f"'{name[1]}' is a text", value, expected=" ".join(_TEXT))
            return self._of_text(column, operator, value[1])
        if operator not in _NUMERIC:
            raise self._error(f"'{name[1]}' is a number", value, expected=" ".join(_NUMERIC))
        try:
            limit = float(value[1])
        except ValueError:
            raise self._error(f"'{value[1]}' is no number", value) from None
        # What is not known passes no comparison.
        return np.asarray(_NUMERIC[operator](column, limit) & (column == column), dtype=bool)

    def _of_text(self, column: pa.DictionaryArray, operator: str, wanted: str) -> NDArray[np.bool_]:
        words = column.dictionary
        if operator in ("~", "!~"):
            found = pc.match_substring(words, wanted, ignore_case=True)
        else:
            pattern = rf"(?i)(^|{_SEVERAL}){re.escape(wanted)}($|{_SEVERAL})" if wanted else "^$"
            found = pc.match_substring_regex(words, pattern)
        passing = found.to_numpy(zero_copy_only=False)[column.indices.to_numpy()]
        return np.asarray(~passing if operator.startswith("!") else passing, dtype=bool)

    def _containing(self, text: str) -> NDArray[np.bool_]:
        passing = np.zeros(self._n, dtype=bool)
        for column in self._columns.values():
            if isinstance(column, pa.DictionaryArray):
                passing |= self._of_text(column, "~", text)
        return passing

    def _error(self, problem: str, token: Token, expected: object = None, remedy: str | None = None) -> FilterError:
        return FilterError(
            problem, place=f"character {token[2] + 1}", found=self._text, expected=expected, remedy=remedy
        )
