"""A table by its name: how the name is written, and the table as the server's catalogue has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine, UserDefinedType

from citykit.database import similar_tables
from citykit.encode import declared, flaw_of_identifier
from citykit.errors import MissingTableError
from citykit.load.catalogue import Column, Facts
from citykit.pgtypes import PGTYPES

_PART = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')


class ServerType(UserDefinedType[Any]):
    """A type that SQLAlchemy has no class for, by its name in SQL."""

    cache_ok = True

    def __init__(self, definition: str) -> None:
        self.definition = definition

    def get_col_spec(self, **_: object) -> str:
        """Return its name in SQL."""
        return self.definition

    def __repr__(self) -> str:
        return self.definition


def parsed(name: str) -> sa.Table:
    """Return a Table without columns for ``name`` or ``schema.name``.

    A dot outside of quotes separates the two. In a part in double quotes ``""`` is one quote. A part is taken
    as it is written: ``Readings`` and ``readings`` are two tables.

    Raises
    ------
    ValueError
        If it is not such a name.

    Examples
    --------
    >>> parsed("census :2026").name, parsed('geo."a.b"').fullname
    ('census :2026', 'geo.a.b')
    """
    parts: list[str] = []
    rest = f".{name}"
    while rest and (found := _PART.match(rest, 1)) and rest[0] == ".":
        parts.append(found[2] or found[1].replace('""', '"'))
        rest = rest[found.end() :]
    flaw = next((f"{part!r} is {flaw}" for part in parts if (flaw := flaw_of_identifier(part))), None)
    if rest or len(parts) > 2 or flaw:
        reason = flaw or ("it has more than two parts" if len(parts) > 2 else "it cannot be read")
        raise ValueError(
            f"table={name!r} is no table's name: {reason}; nothing was changed. It is 'name' or "
            "'schema.name'; a name with a dot or a quote in it stands in quotes: '\"a.b\"'."
        )
    return sa.Table(parts[-1], sa.MetaData(), schema=parts[0] if len(parts) > 1 else None)


def described(table: sa.Table, facts: Facts) -> sa.Table:
    """Return the Table with the columns and keys that the catalogue has."""
    keys = [sa.UniqueConstraint(*columns) for columns in facts.unique]
    if facts.primary:
        keys.append(sa.PrimaryKeyConstraint(*facts.primary))  # type: ignore[arg-type]
    columns = [_column(column, facts) for column in facts.columns.values()]
    return sa.Table(table.name, sa.MetaData(), *columns, *keys, schema=table.schema)


def _column(column: Column, facts: Facts) -> sa.Column[Any]:
    supplied: list[Any] = []
    if column.generated is not None:
        supplied.append(sa.Computed(sa.text(_literal(column.generated))))
    elif column.sequence and column.default is None:
        supplied.append(sa.Identity(always=column.refuses == "identity"))
    return sa.Column(
        column.name,
        _type(column),
        *supplied,
        nullable=not column.not_null,
        server_default=None if column.default is None else sa.text(_literal(column.default)),
        autoincrement="auto" if supplied else column.sequence is not None and facts.primary == (column.name,),
    )


def _literal(expression: str) -> str:
    return expression.replace(":", "\\:")  # which sa.text() would take for a parameter


def _type(column: Column) -> TypeEngine[Any]:
    row = PGTYPES.get(column.element)
    limits = column.typmod - 4  # of a text: its characters
    if column.labels:
        found: TypeEngine[Any] = sa.Enum(*column.labels, name=column.definition.removesuffix("[]"))
    elif row is None or row.check is None:
        return ServerType(column.definition)
    elif limits >= 0 and row.check == "text":
        found = declared(row, limits)
    elif row.check == "numeric" and column.digits:
        found = sa.Numeric(*column.digits)
    else:
        found = declared(row)
    return sa.ARRAY(found) if column.array else found


async def missing(connection: AsyncConnection, table: sa.Table, undone: str) -> MissingTableError:
    """Return the error for a table that does not exist, with similar names."""
    wanted = written(table.name, table.schema)
    meant = " or ".join([repr(written(*like)) for like in await similar_tables(connection, table.name)])
    hint = f"Did you mean {meant}? Or create" if meant else "Create"
    return MissingTableError(
        f"there is no table {wanted!r}; {undone}. {hint} it from the frame: {creating(table)})"
    )


def key_in_sql(connection: AsyncConnection, table: sa.Table, facts: Facts, columns: Sequence[str]) -> str:
    """Return the hint with the SQL that makes columns unique; without columns, the user puts them in."""
    if facts.kind not in ("r", "p"):
        return "Load into the table behind it"
    preparer = connection.dialect.identifier_preparer
    add = f"ALTER TABLE {preparer.format_table(table)} ADD UNIQUE"
    if columns:
        return f"Make it one with SQL: {add} ({', '.join(map(preparer.quote, columns))})"
    return f"Put the columns that tell its rows apart in place of … with SQL: {add} (…)"


def key_in_python(columns: Sequence[str]) -> str:
    """Return the hint with the Python that makes columns unique; without columns, the user puts them in."""
    add = "in Python: table.append_constraint(sqlalchemy.UniqueConstraint"
    if columns:
        return f"If it is one in the database, say so {add}({', '.join(map(repr, columns))}))"
    return f"Put the columns that tell its rows apart in place of … {add}(…))"


def creating(table: sa.Table) -> str:
    """Return the call that makes a table from a frame, without its closing parenthesis."""
    return f"await citykit.create_table(engine, {written(table.name, table.schema)!r}, frame"


def written(name: str, schema: str | None) -> str:
    """Return a name as `parsed` reads it."""
    parts = (name,) if schema is None else (schema, name)
    return ".".join(_quoted(part) if set(part) & set('."') else part for part in parts)


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'
