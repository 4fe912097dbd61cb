"""Statements and their parameters, as the server takes them. No I/O, no database."""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from sqlalchemy import DDL, ClauseElement, Date, Dialect, Integer, TextClause, TextualSelect
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import CompileError, InvalidRequestError, StatementError
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql import visitors
from sqlalchemy.sql.expression import Executable
from sqlalchemy.types import TypeEngine

from citykit.errors import CitykitError, did_you_mean
from citykit.read.parameters import (
    JSON_ARRAY,
    UNKNOWN,
    UNKNOWN_ARRAY,
    as_json,
    as_json_array,
    check_known,
    no_array,
    typed,
)
from citykit.read.tokens import split, tokens_of, without_end

Statement: TypeAlias = str | Executable

# Its types turn values into asyncpg's classes for bit strings and ranges.
_DIALECT: Dialect = asyncpg.dialect(dbapi=asyncpg.dialect.import_dbapi())  # type: ignore[no-untyped-call]
_COPIED = ("select", "values", "table", "with", "insert", "update", "delete", "merge")

_PART = r'"(?:[^"]|"")+"|[^\W\d][\w$]*'
_NAME = re.compile(rf"(?:(?:{_PART})\s*\.\s*)*({_PART})")  # of a table: name, schema.name, schema."a name"

_AROUND = 100  # characters of a line that an error shows before and after its place


@dataclass(frozen=True)
class Query:
    """One statement with ``$1`` placeholders, their values, and the text that the caller wrote."""

    sql: str
    args: tuple[Any, ...] = ()
    types: tuple[str | None, ...] = ()  # of each value, as `parameters.typed` returns it
    names: tuple[str, ...] = ()  # of the parameters, in the order of args
    written: str = ""
    # Positions in `sql` and in `written` that correspond; from each to the next both advance in step.
    places: tuple[tuple[int, int], ...] = field(default=((0, 0),), repr=False)
    wanted: tuple[str, ...] = ()  # the type that the server infers for each placeholder
    conforming: bool = True  # the session's standard_conforming_strings

    @property
    def words(self) -> Iterator[str]:
        """The words of SQL in it, in lower case: no text, quoted name or comment."""
        return (t["word"].lower() for t in tokens_of(self.sql, self.conforming) if t["word"])

    @property
    def can_copy(self) -> bool:
        """Whether COPY can run it (it cannot run SHOW, EXPLAIN, CALL and the like)."""
        return next(self.words, "") in _COPIED

    def parameter_at(self, position: int) -> tuple[str, bool] | None:
        """Return the name of the parameter at a position (from 1) in `sql`, and whether IN is before it."""
        place = self._place(position - 1)
        found = re.compile(r":(\w+)|\$(\d+)").match(self.written, place)
        if not found:
            return None
        follows_in = re.search(r"\bin\s*$", self.written[:place], re.IGNORECASE)
        return found[1] or self.names[int(found[2]) - 1], bool(follows_in)

    def table_at(self, position: int) -> str | None:
        """Return the name at a position (from 1) in `sql`, without its schema."""
        found = _NAME.match(self.written, self._place(position - 1))
        return found[1].strip('"') if found else None

    @property
    def lone_name(self) -> str | None:
        """The statement, if it is no more than a name (of a table, perhaps)."""
        written = self.written.strip(" \n;")
        return written if _NAME.fullmatch(written) else None

    @property
    def has_lists(self) -> bool:
        """Whether a list is among the values: an array or JSON."""
        return any(_is_list(type_) for type_ in self.types)

    def cast(self) -> Query:
        """Return the statement with a cast around each placeholder whose type the server does not infer."""
        return self.with_casts(self.types, self.types)

    def with_lists_read_otherwise(self) -> Query:
        """Return the statement to try when `cast` fails: lists of text as ``text[]``, other lists as JSON."""
        types = list(self.types)
        for n, type_ in enumerate(self.types):
            if type_ == UNKNOWN_ARRAY:
                types[n] = "text[]"
            elif _is_list(type_):
                types[n] = JSON_ARRAY
        return replace(self, types=tuple(types))

    def resolved(self, inferred: Sequence[Any]) -> Query:
        """Return a `cast` statement with text cast to the types that the server has inferred (asyncpg's)."""
        args = list(self.args)
        casts: list[str | None] = [None] * len(args)
        for n, (type_, wanted) in enumerate(zip(self.types, inferred, strict=True)):
            json = wanted.name in ("json", "jsonb")
            if type_ == JSON_ARRAY and wanted.name in ("json[]", "jsonb[]"):
                args[n], casts[n] = as_json_array(self.names[n], args[n]), f"text[]::{type_name(wanted)}"
                continue
            if type_ == JSON_ARRAY and not json:
                raise no_array(self.names[n], args[n], wanted.name)
            if type_ is None:
                check_known(self.names[n], args[n], wanted.schema, wanted.name)
            elif type_ == UNKNOWN_ARRAY and not json:
                if wanted.name not in _TEXTS_ARRAYS:
                    casts[n] = "text[]" if wanted.name == "text" else f"text[]::{type_name(wanted)}"
            elif type_ in (UNKNOWN, UNKNOWN_ARRAY, JSON_ARRAY):
                if type_ != UNKNOWN:
                    args[n] = as_json(self.names[n], args[n])
                if wanted.name not in _TEXTS and args[n] is not None:
                    casts[n] = f"text::{type_name(wanted)}"
        told = replace(self, args=tuple(args), wanted=tuple(type_.name for type_ in inferred))
        return told.with_casts(casts, self.types) if any(casts) else told

    def with_literals(self, literals: Sequence[str]) -> str:
        """Return the statement with literals, which the server has quoted, for its placeholders."""
        return self._replaced(literals, [None] * len(literals)).sql

    def shown_at(self, position: int) -> str:
        """Return the line of `written` that a position (from 1) in `sql` is in, and a caret below it.

        Of a long line, what is around the position.
        """
        place = min(self._place(position - 1), len(self.written))
        number = self.written.count("\n", 0, place) + 1
        start = self.written.rfind("\n", 0, place) + 1
        label = f"line {number}: "
        line = self.written[start:].split("\n", 1)[0].replace("\t", " ")
        caret = place - start
        if len(line) > 2 * _AROUND:
            first = max(0, caret - _AROUND)
            before, after = "…" * (first > 0), "…" * (caret + _AROUND < len(line))
            line, caret = before + line[first : caret + _AROUND] + after, caret - first + len(before)
        return f"{label}{line}\n{' ' * (len(label) + caret)}^"

    def with_casts(self, casts: Sequence[str | None], types: Sequence[str | None]) -> Query:
        """Return the statement with these casts around its placeholders, whose values are of these types."""
        texts = [
            f"${n}" if cast in (None, UNKNOWN, UNKNOWN_ARRAY, JSON_ARRAY) else f"(${n}::pg_catalog.{cast})"
            for n, cast in enumerate(casts, 1)
        ]
        return self._replaced(texts, types)

    def _replaced(self, texts: Sequence[str], types: Sequence[str | None]) -> Query:
        """Return the statement with `texts` in place of its placeholders; ``IN :list`` becomes ``= ANY``."""
        tokens = list(tokens_of(self.sql, self.conforming))
        parts = [texts[int(token["number"]) - 1] if token["number"] else token[0] for token in tokens]
        before: list[int] = []  # the places of the tokens before this one, without spaces
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
        here, there = self.places[bisect_right(self.places, position, key=operator.itemgetter(0)) - 1]
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


def column_name(name: str) -> str:
    """Return the name of a column as SQL has it: in quotes where it needs them."""
    return _DIALECT.identifier_preparer.quote(name)


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
    if unsent := _UNSENDABLE.search(query.sql):
        line = query.sql.count("\n", 0, unsent.start()) + 1
        raise CitykitError(
            f"The statement has in line {line} the character {unsent[0]!r}, which no text in PostgreSQL has; "
            "nothing was changed. Take it out."
        )
    if ";" in query.sql and len(split(query.sql, conforming)) > 1:
        raise CitykitError(
            "The text holds more than one statement; nothing was changed. Run one statement at a time."
        )
    return query


# PostgreSQL takes NUL for the end of the statement; asyncpg gives up the connection at a surrogate.
_UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")


def _compiled_text(text: str, params: dict[str, Any], conforming: bool) -> Query:
    names: list[str] = []
    parts: list[str] = []
    places = [(0, 0)]
    here = there = 0
    for token in _written(text, conforming):
        part = token[0]
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


def _written(text: str, conforming: bool) -> list[Any]:
    """Return the tokens of a text that the user has written, without its end; refuse placeholders in it."""
    tokens = without_end(text, conforming)
    for token in tokens:
        if token["number"]:
            raise CitykitError(f"Parameters are named: write :country, not {token[0]}; nothing was changed.")
    return tokens


def _check_names(
    names: Sequence[str], params: Mapping[str, Any], needed: Sequence[str] | None = None
) -> None:
    missing = [name for name in (names if needed is None else needed) if name not in params]
    surplus = [name for name in params if name not in names]
    problems = [f"parameter {name!r} has no value" for name in missing]
    problems += [f"there is no parameter {name!r} in it{did_you_mean(name, names)}" for name in surplus]
    if problems:
        has = ", ".join(f":{name}" for name in names) or "none"
        raise CitykitError(
            f"The statement cannot be run: {'; '.join(problems)}; nothing was changed. "
            f"Its parameters: {has}. Give their values as params={{'name': value}}."
        )


def _compiled_clause(clause: Any, params: dict[str, Any], conforming: bool) -> Query:
    for each in visitors.iterate(clause):
        if isinstance(each, TextClause):
            _written(each.text, conforming)
    text = clause.element if isinstance(clause, TextualSelect) else clause
    try:
        made = _formatted(clause) if isinstance(clause, DDL) else clause.compile(dialect=_DIALECT)
        if isinstance(clause, ExecutableDDLElement):  # it has no parameters
            _check_names([], params)
            sql = _as_the_session_reads(str(made), isinstance(clause, DDL), conforming)
            return Query(sql, written=sql, conforming=conforming)
        binds = {name: bind for bind, name in made.bind_names.items()}
        own = [name for name, bind in binds.items() if not bind.unique]  # SQLAlchemy has not named them
        _check_names(own, params, [name for name in own if binds[name].required])
        if defaults := [*getattr(made, "insert_prefetch", ()), *getattr(made, "update_prefetch", ())]:
            raise CitykitError(
                f"Column {defaults[0].name!r} has a default that only SQLAlchemy's own execute fills in; "
                "nothing was changed. Give it a value, or: await connection.execute(statement)"
            )
        # An IN list becomes a parameter for each value. A name like "my col" stays as it is.
        state = made.construct_expanded_state(params, escape_names=False)
    except (CompileError, InvalidRequestError, StatementError) as exc:
        raise CitykitError(f"The statement cannot be compiled: {exc}; nothing was changed.") from exc
    types = {name: bind.type for name, bind in binds.items()}
    for name, expanded in state.parameter_expansion.items():
        types.update(dict.fromkeys(expanded, types[name]))
    names = tuple(state.positiontup or ())
    pairs = [_bound(name, state.parameters[name], types[name], state.processors.get(name)) for name in names]
    args, sent = tuple(value for value, _ in pairs), tuple(type_ for _, type_ in pairs)
    rounding = [
        any(isinstance(types[n], of) and str(t).rpartition(".")[2] in to for of, to in _ROUNDING)
        for n, t in zip(names, sent, strict=True)
    ]
    sql = _without_casts(state.statement, rounding) if any(rounding) else state.statement
    sql = _as_the_session_reads(sql, isinstance(text, TextClause), conforming)
    return Query(sql, args, sent, names, sql, conforming=conforming)


def _formatted(ddl: DDL) -> Any:
    """Compile a DDL, whose text SQLAlchemy formats with ``%``: ``%s`` would be all of its context."""
    try:
        if unnamed := re.search(r"%(?!\().?", ddl.statement.replace("%%", ""), re.DOTALL):
            raise ValueError(f"{unnamed[0]!r} names no value")
        return ddl.compile(dialect=_DIALECT)
    except (KeyError, TypeError, ValueError) as exc:
        said = f"its context has no {exc.args[0]!r}" if isinstance(exc, KeyError) else exc
        raise CitykitError(
            f"The DDL cannot be compiled: {said}; nothing was changed. SQLAlchemy formats its text: write %% "
            "for a percent sign, and %(name)s for a value of context={'name': …}."
        ) from exc


def _as_the_session_reads(sql: str, by_user: bool, conforming: bool) -> str:
    """Return SQLAlchemy's SQL with literals that the session reads right; a user's own stay."""
    if by_user:
        return "".join(token[0] for token in without_end(sql, conforming))
    return sql if conforming else "".join(_escaped(token[0]) for token in tokens_of(sql, True))


# Types of SQLAlchemy whose cast rounds values of these types: 5.5 to an integer, a moment to its day.
_ROUNDING = ((Integer, ("float8", "numeric")), (Date, ("timestamp", "timestamptz")))


def _without_casts(sql: str, rounding: Sequence[bool]) -> str:
    """Return SQLAlchemy's SQL without its casts (``$1::INTEGER``) of those parameters."""
    parts: list[str] = []
    left_out = 0
    for token in tokens_of(sql, True):
        if left_out:
            left_out -= 1
            continue
        parts.append(token[0])
        if token["number"] and rounding[int(token["number"]) - 1]:
            left_out = 2
    return "".join(parts)


def _escaped(token: str) -> str:
    """Return a literal with backslashes as E'…', which no setting of the session changes."""
    return "E" + token.replace("\\", "\\\\") if token.startswith("'") and "\\" in token else token


def _bound(name: str, value: Any, type_: TypeEngine[Any], process: Any) -> tuple[Any, str | None]:
    """Return a value as `typed` does, after SQLAlchemy's bind processor (which makes JSON text)."""
    process = process or type_.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    try:
        return typed(name, process(value) if process else value)
    except CitykitError:
        raise
    except Exception as exc:
        raise CitykitError(
            f"Parameter {name!r} cannot be sent: {exc}; nothing was changed. It is bound with the type "
            f"{type_!r} of SQLAlchemy: give a value of that type."
        ) from exc
