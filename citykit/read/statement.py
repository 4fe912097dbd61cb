"""Statements and their parameters, as the server takes them. No I/O, no database."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from sqlalchemy import ClauseElement, Dialect, TextClause
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import CompileError, InvalidRequestError, StatementError
from sqlalchemy.sql.expression import Executable
from sqlalchemy.types import NullType, TypeEngine

from citykit.errors import CitykitError
from citykit.read.parameters import JSON_ARRAY, UNKNOWN, UNKNOWN_ARRAY, as_json, plain, typed

Statement: TypeAlias = str | Executable

_DIALECT: Dialect = asyncpg.dialect()  # type: ignore[no-untyped-call]
_COPIED = ("select", "values", "table", "with", "insert", "update", "delete", "merge")

# Literals, quoted names and comments are one token each, so that no :name in them is a parameter.
_PLAIN_TEXT = r"'(?:[^']|'')*'"
_ESCAPED_TEXT = r"'(?:[^'\\]|\\.|'')*'"
_LEXER = r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<text>{plain} | [eE]{escaped} | "(?:[^"]|"")*"
              | \$(?P<tag>[^\W\d]\w*)?\$.*?\$(?(tag)(?P=tag))\$ )
    | (?P<end>;)
    | \$(?P<number>\d+)
    | (?<![\w\])"']):(?P<name>[^\W\d]\w*)
    | (?P<word>[^\W\d][\w$]*)
    | :: | := | .
"""
# By standard_conforming_strings: where it is off, a backslash escapes in plain literals, too.
_LEXERS = {
    conforming: re.compile(
        _LEXER.replace("{plain}", plain).replace("{escaped}", _ESCAPED_TEXT), re.VERBOSE | re.DOTALL
    )
    for conforming, plain in ((True, _PLAIN_TEXT), (False, _ESCAPED_TEXT))
}


@dataclass(frozen=True)
class Query:
    """One statement with ``$1`` placeholders, their values, and the text that the caller wrote."""

    sql: str
    args: tuple[Any, ...] = ()
    types: tuple[str | None, ...] = ()  # with which each is sent (see parameters.typed)
    names: tuple[str, ...] = ()  # of the parameters, in the order of args
    written: str = ""
    # Pairs of positions, in `sql` and in `written`, from which on both run side by side.
    places: tuple[tuple[int, int], ...] = field(default=((0, 0),), repr=False)
    wanted: tuple[str, ...] = ()  # the types that the server has told for the placeholders
    conforming: bool = True  # the session's standard_conforming_strings

    @property
    def can_copy(self) -> bool:
        """Whether COPY can run it (it cannot run SHOW, EXPLAIN, CALL and the like)."""
        words = (token["word"] for token in _tokens(self.sql, self.conforming) if token["word"])
        return next(words, "").lower() in _COPIED

    @property
    def has_lists(self) -> bool:
        """Whether a list is among the values: an array or JSON."""
        return any(_is_list(type_) for type_ in self.types)

    def cast(self) -> Query:
        """Return the statement with a cast around each placeholder but those whose type the server infers."""
        return self.with_casts(self.types, self.types)

    def with_lists_read_otherwise(self) -> Query:
        """Return the statement for when `cast` fails: lists of text are ``text[]``, other lists JSON."""
        args, types = list(self.args), list(self.types)
        for n, type_ in enumerate(self.types):
            if type_ == UNKNOWN_ARRAY:
                types[n] = "text[]"
            elif _is_list(type_):
                args[n], types[n] = as_json(self.names[n], args[n]), JSON_ARRAY
        return replace(self, args=tuple(args), types=tuple(types))

    def resolved(self, inferred: Sequence[Any]) -> Query:
        """Return a `cast` statement with text cast to what the server has inferred (asyncpg's types)."""
        args = list(self.args)
        casts: list[str | None] = [None] * len(args)
        for n, (type_, wanted) in enumerate(zip(self.types, inferred, strict=True)):
            json = wanted.name in ("json", "jsonb")
            if type_ == JSON_ARRAY and not json:
                raise CitykitError(
                    f"Parameter {self.names[n]!r} is a list of values of several types, and the statement "
                    f"takes {wanted.name} there; nothing was changed. Give values of one type."
                )
            if type_ == UNKNOWN_ARRAY and not json:
                if wanted.name not in _TEXTS_ARRAYS:
                    casts[n] = "text[]" if wanted.name == "text" else f"text[]::{type_name(wanted)}"
            elif type_ in (UNKNOWN, UNKNOWN_ARRAY, JSON_ARRAY):
                if type_ != UNKNOWN:
                    args[n] = as_json(self.names[n], args[n])
                if wanted.name not in _TEXTS and args[n] is not None:
                    casts[n] = f"text::{type_name(wanted)}"
        told = tuple(type_.name for type_ in inferred)
        return replace(self, args=tuple(args), wanted=told).with_casts(casts, self.types)

    def with_literals(self, literals: Sequence[str]) -> str:
        """Return the statement with literals, which the server has quoted, for its placeholders."""
        return self._replaced(literals, [None] * len(literals)).sql

    def shown_at(self, position: int) -> str:
        """Return the line of `written` that a position (from 1) in `sql` is in, and a caret below it."""
        place = min(self._place(position - 1), len(self.written))
        number = self.written.count("\n", 0, place) + 1
        start = self.written.rfind("\n", 0, place) + 1
        label = f"line {number}: "
        line = self.written[start:].split("\n", 1)[0].replace("\t", " ")
        return f"{label}{line}\n{' ' * (len(label) + place - start)}^"

    def with_casts(self, casts: Sequence[str | None], types: Sequence[str | None]) -> Query:
        """Return the statement with these casts around its placeholders, whose values are of these types."""
        texts = [
            f"${n}" if cast in (None, UNKNOWN, UNKNOWN_ARRAY, JSON_ARRAY) else f"(${n}::pg_catalog.{cast})"
            for n, cast in enumerate(casts, 1)
        ]
        return self._replaced(texts, types)

    def _replaced(self, texts: Sequence[str], types: Sequence[str | None]) -> Query:
        """Return the statement with `texts` in place of its placeholders; ``IN :list`` becomes ``= ANY``."""
        tokens = list(_tokens(self.sql, self.conforming))
        parts = [texts[int(token["number"]) - 1] if token["number"] else token[0] for token in tokens]
        before: list[int] = []  # the tokens before this one that are no space
        for n, token in enumerate(tokens):
            if token["number"] and _is_list(types[int(token["number"]) - 1]) and _is(tokens, before, 1, "in"):
                negated = _is(tokens, before, 2, "not")
                parts[before[-1]] = "<> ALL" if negated else "= ANY"
                parts[n] = f"({parts[n]})"
                if negated:
                    parts[before[-2]] = ""
            if not token["space"]:
                before.append(n)
        places = [(0, 0)]
        here = there = 0
        for part, token in zip(parts, tokens, strict=True):
            here, there = here + len(part), there + len(token[0])
            if token["number"] or part != token[0]:
                places.append((here, self._place(there)))
        return replace(self, sql="".join(parts), places=tuple(places))

    def _place(self, position: int) -> int:
        here, there = max(place for place in self.places if place[0] <= position)
        return there + position - here


def _is_list(type_: str | None) -> bool:
    return type_ is not None and (type_ == JSON_ARRAY or type_.endswith("[]"))


def _is(tokens: Sequence[Any], places: Sequence[int], last: int, word: str) -> bool:
    return len(places) >= last and bool(tokens[places[-last]][0].lower() == word)


def type_name(type_: Any) -> str:
    """Return the name of a type (of asyncpg) as SQL has it."""
    name: str = type_.name.removesuffix("[]")
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (type_.schema, name))
    return f"{quoted}{type_.name[len(name) :]}"


# Types that need no cast from text.
_TEXTS = ("text", "varchar", "bpchar", "name")
_TEXTS_ARRAYS = tuple(f"{name}[]" for name in _TEXTS)


def compiled(statement: Statement, params: Mapping[str, Any] | None = None, conforming: bool = True) -> Query:
    """Compile a statement: SQL text with ``:named`` parameters, or SQLAlchemy's ``select``, ``text()``, ….

    `conforming` is the session's standard_conforming_strings.

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
        query = _compiled_text(statement, params, conforming)
    elif isinstance(statement, Executable) and isinstance(statement, ClauseElement):
        query = _compiled_clause(statement, params, conforming)
    else:
        raise TypeError(
            "a statement is SQL text or what sqlalchemy.select() returns, as in "
            f"read_frame(engine, 'TABLE cities'), not {type(statement).__name__}"
        )
    if ";" in query.sql and any(token["end"] for token in _tokens(query.sql, conforming)):
        raise CitykitError(
            "The text holds more than one statement; nothing was changed. Read one statement at a time."
        )
    return query


def parameter_names(sql: str) -> list[str]:
    """Return the names of the ``:named`` parameters of a statement, each once, in their order."""
    return list(dict.fromkeys(token["name"] for token in _tokens(sql, True) if token["name"]))


def _tokens(sql: str, conforming: bool) -> Iterator[re.Match[str] | dict[Any, Any]]:
    position = 0
    while found := _LEXERS[conforming].match(sql, position):
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


def _compiled_text(text: str, params: dict[str, Any], conforming: bool) -> Query:
    tokens = list(_tokens(text, conforming))
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
    pairs = [typed(name, params[name]) for name in names]
    args, types = tuple(value for value, _ in pairs), tuple(type_ for _, type_ in pairs)
    return Query("".join(parts), args, types, tuple(names), text, tuple(places), conforming=conforming)


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


def _compiled_clause(clause: Any, params: dict[str, Any], conforming: bool) -> Query:
    try:
        made = clause.compile(dialect=_DIALECT)
        binds = {name: bind for bind, name in made.bind_names.items()}
        own = [name for name, bind in binds.items() if not bind.unique]  # not those that SQLAlchemy names
        _check_names(own, params, [name for name in own if binds[name].required])
        state = made.construct_expanded_state(params)  # an IN list has become a parameter for each value
    except (CompileError, InvalidRequestError, StatementError) as exc:
        raise CitykitError(f"The statement cannot be compiled: {exc}; nothing was changed.") from exc
    types = {name: bind.type for name, bind in binds.items()}
    for name, expanded in state.parameter_expansion.items():
        types.update(dict.fromkeys(expanded, types[name]))
    names = tuple(state.positiontup or ())
    pairs = [_bound(name, state.parameters[name], types[name], state.processors.get(name)) for name in names]
    args, sent = tuple(value for value, _ in pairs), tuple(type_ for _, type_ in pairs)
    sql = state.statement
    if not conforming and not isinstance(clause, TextClause):  # whose literals the user has written
        sql = "".join(_escaped(token[0]) for token in _tokens(sql, True))
    return Query(sql, args, sent, names, sql, conforming=conforming)


def _escaped(token: str) -> str:
    """Return a plain literal as one with escapes, which means the same whatever the session's settings."""
    return "E" + token.replace("\\", "\\\\") if token.startswith("'") and "\\" in token else token


def _bound(name: str, value: Any, type_: TypeEngine[Any], process: Any) -> tuple[Any, str | None]:
    """Return a value as `typed` does where SQLAlchemy knows no type for it, else as its type sends it."""
    if isinstance(type_, NullType):
        return typed(name, value)
    process = process or type_.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    return (process or plain)(value), None
