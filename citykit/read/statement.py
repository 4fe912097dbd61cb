"""Statements and their parameters, as the server takes them. No I/O, no database."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import CompileError, InvalidRequestError, StatementError
from sqlalchemy.sql.expression import Executable

from citykit.errors import CitykitError

Statement: TypeAlias = str | Executable

_DIALECT: Dialect = asyncpg.dialect()  # type: ignore[no-untyped-call]
_COPIED = ("select", "values", "table", "with", "insert", "update", "delete", "merge")

# What is no code is skipped whole: a parameter is neither in a text, a name or a comment, nor after a cast.
_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<text>'(?:[^']|'')*' | [eE]'(?:[^'\\]|\\.|'')*' | "(?:[^"]|"")*"
              | \$(?P<tag>[^\W\d]\w*)?\$.*?\$(?(tag)(?P=tag))\$ )
    | (?P<end>;)
    | \$(?P<number>\d+)
    | (?<![\w\])"']):(?P<name>[^\W\d]\w*)
    | (?P<word>[^\W\d][\w$]*)
    | :: | := | .
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Query:
    """One statement with ``$1`` placeholders, what fills them, and how the caller wrote it."""

    sql: str
    args: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()  # of the parameters, in the order of args
    written: str = ""
    places: tuple[tuple[int, int], ...] = field(default=((0, 0),), repr=False)  # in sql, and there in written

    @property
    def copied(self) -> bool:
        """Whether COPY can run it (it cannot run SHOW, EXPLAIN, CALL and the like)."""
        words = (token["word"] for token in _tokens(self.sql) if token["word"])
        return next(words, "").lower() in _COPIED

    def with_literals(self, literals: Sequence[str]) -> str:
        """Return the statement with literals, which the server has quoted, for its placeholders."""
        return "".join(
            literals[int(token["number"]) - 1] if token["number"] else token[0] for token in _tokens(self.sql)
        )

    def shown_at(self, position: int) -> str:
        """Return the line of `written` that a position (from 1) in `sql` is in, and a caret below it."""
        here, there = max(place for place in self.places if place[0] < position)
        place = min(there + position - 1 - here, len(self.written))
        number = self.written.count("\n", 0, place) + 1
        start = self.written.rfind("\n", 0, place) + 1
        label = f"line {number}: "
        line = self.written[start:].split("\n", 1)[0].replace("\t", " ")
        return f"{label}{line}\n{' ' * (len(label) + place - start)}^"


def compiled(statement: Statement, params: Mapping[str, Any] | None = None) -> Query:
    """Compile a statement: SQL text with ``:named`` parameters, or SQLAlchemy's ``select``, ``text()``, ….

    Examples
    --------
    >>> query = compiled("SELECT ':x', :n::int, a[1:2] FROM t -- :y", {"n": 3})
    >>> query.sql, query.args
    ("SELECT ':x', $1::int, a[1:2] FROM t", (3,))
    """
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(
            f"params is a dict of names and values, not {type(params).__name__}: "
            "read_frame(engine, 'SELECT … WHERE country = :country', {'country': 'IS'})"
        )
    params = dict(params or {})
    if isinstance(statement, str):
        query = _compiled_text(statement, params)
    elif isinstance(statement, Executable) and isinstance(statement, ClauseElement):
        query = _compiled_clause(statement, params)
    else:
        raise TypeError(
            "a statement is SQL text or what sqlalchemy.select() returns, as in "
            f"read_frame(engine, 'TABLE cities'), not {type(statement).__name__}"
        )
    if ";" in query.sql and any(token["end"] for token in _tokens(query.sql)):
        raise CitykitError(
            "The text holds more than one statement; nothing was changed. Read one statement at a time."
        )
    return query


def parameter_names(sql: str) -> list[str]:
    """Return the names of the ``:named`` parameters of a statement, each once, in their order."""
    return list(dict.fromkeys(token["name"] for token in _tokens(sql) if token["name"]))


def _tokens(sql: str) -> Iterator[re.Match[str] | dict[Any, Any]]:
    position = 0
    while found := _TOKEN.match(sql, position):
        position = found.end()
        if found["comment"]:
            position = _comment_end(sql, found.start())
            yield {**dict.fromkeys(found.groupdict()), 0: sql[found.start() : position], "space": " "}
        else:
            yield found


def _comment_end(sql: str, start: int) -> int:
    depth = 0
    for mark in re.finditer(r"/\*|\*/", sql[start:]):  # comments nest
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return start + mark.end()
    return len(sql)


def _compiled_text(text: str, params: dict[str, Any]) -> Query:
    tokens = list(_tokens(text))
    while tokens and (tokens[-1]["space"] or tokens[-1]["end"]):  # a last semicolon would end a COPY early
        tokens.pop()
    names: list[str] = []
    parts: list[str] = []
    places = [(0, 0)]
    here = there = 0
    for token in tokens:
        part = token[0]
        if token["number"]:
            raise CitykitError(f"Parameters are named: write :country, not {part}; nothing was changed.")
        if token["name"]:
            if token["name"] not in names:
                names.append(token["name"])
            part = f"${names.index(token['name']) + 1}"
        parts.append(part)
        here, there = here + len(part), there + len(token[0])
        if part != token[0]:
            places.append((here, there))
    _check_names(names, params)
    args = tuple(_plain(params[name]) for name in names)
    return Query("".join(parts), args, tuple(names), text, tuple(places))


def _check_names(
    names: Sequence[str], params: Mapping[str, Any], needed: Sequence[str] | None = None
) -> None:
    missing = [name for name in (names if needed is None else needed) if name not in params]
    surplus = [name for name in params if name not in names]
    problems = [f"parameter {name!r} has no value" for name in missing]
    for name in surplus:
        close = difflib.get_close_matches(str(name), names, n=1)
        problems.append(
            f"there is no parameter {name!r} in it" + (f" (did you mean {close[0]!r}?)" if close else "")
        )
    if problems:
        has = ", ".join(f":{name}" for name in names) or "none"
        raise CitykitError(
            f"The statement cannot be run: {'; '.join(problems)}; nothing was changed. "
            f"Its parameters: {has}. Give their values as params={{'name': value}}."
        )


def _compiled_clause(clause: Any, params: dict[str, Any]) -> Query:
    try:
        made = clause.compile(dialect=_DIALECT)
        binds = {name: bind for bind, name in made.bind_names.items()}
        own = [name for name, bind in binds.items() if not bind.unique]  # not those that SQLAlchemy names
        _check_names(own, params, [name for name in own if binds[name].required])
        state = made.construct_expanded_state(params)  # an IN list has become a parameter for each value
    except (CompileError, InvalidRequestError, StatementError) as exc:
        raise CitykitError(f"The statement cannot be compiled: {exc}; nothing was changed.") from exc
    names = tuple(state.positiontup or ())
    process = {
        name: bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT) for name, bind in binds.items()
    }
    process.update(state.processors)
    args = tuple((process.get(name) or _plain)(state.parameters[name]) for name in names)
    return Query(state.statement, args, names, state.statement)


def _plain(value: Any) -> Any:
    """Return the Python value of a value of NumPy or pandas, which asyncpg does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        missing = [False] * len(value) if value.dtype.kind == "f" else pd.isna(value)
        return [None if gone else _plain(item) for item, gone in zip(value.tolist(), missing, strict=True)]
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return None if value is pd.NA or value is pd.NaT else value
