"""Making a table from a frame's dtypes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, Table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine, to_instance

from citykit.database import (
    CREATING,
    Bind,
    Condition,
    ConditionClass,
    in_transaction,
    lock_bound,
    lock_without_queueing,
    server_message,
    sqlstate,
)
from citykit.encode import Names, columns_of_key, python_values, rejects_frame, types_of
from citykit.errors import CitykitError, DuplicateKeyError, InvalidFrameError, check_choice
from citykit.load.catalogue import facts_of, refuse_no_table
from citykit.load.named import ServerType, creating, described, parsed
from citykit.load.source import ArrowStream, whole_of
from citykit.load.staging import in_utf8
from citykit.runtime import says_await

IfExists: TypeAlias = Literal["error", "skip", "replace"]
Types: TypeAlias = Mapping[str, TypeEngine[Any] | type[TypeEngine[Any]] | str]

UNDONE = "no table was made"
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, :seed))")
# numeric(10, 2)[]: a name, its numbers, whether it is an array.
_LIMITS = r"(\(\s*\d+\s*(?:,\s*\d+\s*)?\))"
_TYPE = re.compile(rf"([^()\[\]]+?)\s*(?:{_LIMITS}([^()\[\]]*?))?\s*(\[\s*\])?", re.DOTALL)
_INTERVAL = re.compile(r"\s*interval\s+[a-z]", re.IGNORECASE)  # the catalogue has its fields as a bit mask
# Of to_regtype(): it is no name of a type, has another database in front, or a NUL in it.
_NO_TYPE = (Condition.SYNTAX_ERROR, Condition.FEATURE_NOT_SUPPORTED, ConditionClass.DATA_EXCEPTION)
_TYPE_NAMED = text("""
SELECT format('%I.%I', n.nspname, t.typname) FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid = to_regtype(:name) AND t.typtype <> 'p'
""")


@says_await
async def create_table(
    bind: Bind,
    table: str,
    frame: pd.DataFrame | ArrowStream,
    *,
    key: Sequence[str] | str | None = None,
    types: Types | None = None,
    if_exists: IfExists = "error",
) -> Table:
    """Make an empty table with a column for each column of a frame.

    The types follow from the dtypes, as dtypes follow from types where a frame is read: int64 and Int64 are
    bigint, float64 is double precision, text and categories are text, datetime64 is timestamp (with a time
    zone: timestamptz; datetime64[s], which pandas makes of dates: date), decimal128(p, s) is numeric(p, s), a
    list is an array, a struct is jsonb. Integers without a sign get the next larger type (uint64: numeric).
    Of a column of dtype object all values are looked at: it is text if all are text or missing, else they
    must be of one class: int (bigint, or numeric if one needs more than 64 bits), float, bool, Decimal, date,
    time, datetime, timedelta, UUID, bytes, dict (jsonb), or lists of one of these (an array). The index is
    not stored.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine commits; with a connection or a session, the caller does.
    table : str
        ``"name"`` or ``"schema.name"``, taken as it is written, as by `load_frame`.
    frame : DataFrame, shape (n, m), or Arrow data with rows at hand
        It is not changed, and none of its rows is stored: `load_frame` does that.
    key : str or sequence of str, optional
        The columns of the primary key. None: the table has none.
    types : mapping, optional
        The types of some columns, where the dtypes do not say or others are wanted: SQLAlchemy's, or their
        names on the server (``{"price": "numeric(10, 2)"}``).
    if_exists : {"error", "skip", "replace"}
        What happens if the table exists. "skip": it stays as it is, whatever its columns. "replace": it is
        dropped first, **with every row in it**, unless something else was built on it.

    Returns
    -------
    sqlalchemy.Table
        The table that is there now.

    Raises
    ------
    InvalidFrameError
        If a column's name or dtype has no equal on the server, the frame's index has a name, or the key has
        missing values.
    DuplicateKeyError
        If rows have the same key; ``error.keys`` has each.
    CitykitError
        If the table exists, or something else has its name.
    ValueError
        If the name, the key or a type is not valid.

    Examples
    --------
    >>> frame = pandas.DataFrame({"city": ["Reykjavík"], "population": [118_918]})
    >>> table = await citykit.create_table(engine, "readings", frame, key="city", if_exists="replace")
    >>> report = await citykit.load_frame(engine, frame, "readings")
    >>> [f"{column.name} {column.type}" for column in table.columns]
    ['city TEXT', 'population BIGINT']
    """
    check_choice("if_exists", if_exists, IfExists)
    named = parsed(table)
    source = whole_of(frame)
    if source is None:
        raise TypeError(
            f"a DataFrame or Arrow data with rows at hand is needed, not {type(frame).__name__}; {UNDONE}"
        )
    columns = columns_of_key(key, UNDONE) if key is not None else ()
    found = await asyncio.to_thread(_checked, source, named, columns, types or {})

    async def work(connection: AsyncConnection) -> Table:
        name = connection.dialect.identifier_preparer.format_table(named)
        async with (
            lock_bound(connection, name, UNDONE) as seconds,
            connection.begin_nested(),
            in_utf8(connection),
        ):
            made = await _table(connection, named, columns, found)
            return await _made(connection, made, name, if_exists, seconds)

    return await in_transaction(
        bind, work, repeatable=lambda: True, doing="the making of the table", undone=UNDONE
    )


async def create_for(
    connection: AsyncConnection,
    table: Table,
    piece: pd.DataFrame | pa.Table,
    key: Sequence[str] | str | None,
    names: Names,
) -> None:
    """Make the table of a load from the dtypes of a piece, in the load's transaction.

    `names` are those of its columns in the table. The load itself checks the values of the key.
    """
    columns = columns_of_key(key, UNDONE) if key is not None else ()
    if isinstance(piece, pd.DataFrame):
        piece = names.renamed(piece)
    else:
        places = names.renamed(pd.DataFrame([range(piece.num_columns)], columns=piece.column_names))
        piece = piece.select(places.iloc[0].tolist()).rename_columns(list(places.columns))
    found = await asyncio.to_thread(_checked, piece, table, columns, {}, values=False)
    name = connection.dialect.identifier_preparer.format_table(table)
    await _made(connection, await _table(connection, table, columns, found), name, "skip", 0)


def _checked(
    source: pd.DataFrame | pa.Table, table: Table, key: tuple[str, ...], types: Types, *, values: bool = True
) -> dict[str, TypeEngine[Any] | str]:
    """Return the type of each column, or its name on the server; refuse what cannot be stored."""
    if wrong := [type_ for type_ in types.values() if not isinstance(type_, (str, TypeEngine, type))]:
        raise TypeError(f"types has {wrong[0]!r}, which is neither a type of SQLAlchemy's nor a type's name")
    found = {**types_of(source, types, creating(table)), **types}
    is_frame = isinstance(source, pd.DataFrame)
    names = list(source.columns) if is_frame else source.column_names
    for what, given in (("key", key), ("types", types)):
        if unknown := [name for name in given if name not in names]:
            raise ValueError(
                f"{what} names {', '.join(map(repr, unknown))}, which the frame does not have; {UNDONE}. "
                f"Its columns are {', '.join(map(str, names))}."
            )
    if is_frame and any(name is not None for name in source.index.names):
        shown = ", ".join(map(repr, source.index.names))
        raise InvalidFrameError(
            f"the frame's index {shown} would not be stored; {UNDONE}. frame.reset_index() makes a column of "
            "it, frame.reset_index(drop=True) leaves it out.",
            rejects_frame([(None, name, None, "in the index") for name in source.index.names]),
        )
    if key and values:
        if isinstance(source, pd.DataFrame):
            keys = source[list(key)]
        else:
            keys = source.select(list(key)).to_pandas(types_mapper=pd.ArrowDtype)
        _check_key(keys, key)
    return {name: type_ if isinstance(type_, str) else to_instance(type_) for name, type_ in found.items()}


def _check_key(keys: pd.DataFrame, key: tuple[str, ...]) -> None:
    lacking = keys.isna()
    if lacking.to_numpy().any():
        rejects = rejects_frame(
            [(label, name, None, "missing") for name in key for label in keys.index[lacking[name]]]
        )
        said = "; ".join(
            f"column {name!r} of the key has {lacking[name].sum():,} missing values "
            f"(first at row label {keys.index[lacking[name]][0]})"
            for name in key
            if lacking[name].any()
        )
        raise InvalidFrameError(
            f"{said}; {UNDONE}. A primary key has none. Leave those rows out, "
            f"frame = frame.dropna(subset={list(key)!r}), or give another key.",
            rejects,
        )
    if len(key) == 1 and _all_differ(keys[key[0]]):
        return
    repeated = _repeated(keys)
    if repeated.any():
        rows = _as_objects(keys)[repeated]
        first, words = tuple(rows.iloc[0]), "1 row has" if len(rows) == 1 else f"{len(rows):,} rows have"
        raise DuplicateKeyError(
            f"key ({', '.join(key)}): {words} a key that an earlier row has "
            f"(first at row label {rows.index[0]}: {first!r}); {UNDONE}. Leave them out, "
            f"frame = frame.drop_duplicates({list(key)!r}), or give a key that tells all rows apart.",
            list(rows[~_repeated(rows)].itertuples(index=False, name=None)),
        )


def _repeated(keys: pd.DataFrame) -> pd.Series[bool]:
    try:
        return keys.duplicated()
    except (TypeError, NotImplementedError):  # lists have no hash
        return _as_objects(keys).astype("str").duplicated()


def _as_objects(keys: pd.DataFrame) -> pd.DataFrame:
    """Return the keys as Python's objects: of some types of Arrow's, pandas selects no rows."""
    return pd.DataFrame({name: pd.Series(python_values(of), keys.index, object) for name, of in keys.items()})


def _all_differ(values: pd.Series[Any]) -> bool:
    """Tell quickly that all values differ; False: some repeat, or that takes longer to tell.

    Of text it takes half of the time of `duplicated`, of whole numbers that lie close a quarter.
    """
    if isinstance(values.dtype, pd.StringDtype):
        return bool(values.is_unique)
    if not isinstance(values.dtype, np.dtype) or values.dtype.kind != "i" or values.empty:
        return False
    low, high = int(values.min()), int(values.max())
    return high - low < 2 * len(values) and bool(np.bincount(values.to_numpy(np.int64) - low).max() == 1)


async def _table(
    connection: AsyncConnection,
    table: Table,
    key: tuple[str, ...],
    types: Mapping[str, TypeEngine[Any] | str],
) -> Table:
    """Return the Table that is to be made, once the server has said that it knows the types' names."""
    known = {
        name: await _known(connection, name, type_) if isinstance(type_, str) else type_
        for name, type_ in types.items()
    }
    columns: list[Any] = [
        Column(name, type_, nullable=name not in key, autoincrement=False) for name, type_ in known.items()
    ]
    constraints = [PrimaryKeyConstraint(*key)] if key else []
    return Table(table.name, MetaData(), *columns, *constraints, schema=table.schema)


async def _known(connection: AsyncConnection, column: str, name: str) -> ServerType:
    """Return the type of that name. Its SQL is made of the catalogue's quoted names, and of digits."""
    found, limits, is_array = None, "", ""
    if (parts := _TYPE.fullmatch(name.strip())) and not _INTERVAL.match(name):
        base, limits, rest, is_array = parts.groups(default="")
        try:
            async with connection.begin_nested():
                found = await connection.scalar(_TYPE_NAMED, {"name": f"{base}{rest}"})
        except DBAPIError as exc:
            if not (sqlstate(exc) or "").startswith(_NO_TYPE):
                raise
        if not limits and base.lower() in ("char", "character", "nchar", "bit"):
            limits = "(1)"  # as in the SQL standard
    if not found:
        raise ValueError(
            f"types={{{column!r}: {name!r}}}: the server knows no such type; {UNDONE}. "
            "It is a name such as 'text', 'numeric(10, 2)', 'timestamp with time zone' or 'integer[]'."
        )
    return ServerType(f"{found}{limits}{'[]' if is_array else ''}")


_LACKS_SCHEMA = text("SELECT to_regnamespace(:name) IS NULL")
_SCHEMA = text("""
SELECT quote_ident(n.nspname) AS schema, quote_ident(current_user) AS role FROM pg_catalog.pg_namespace n
WHERE n.nspname = coalesce(CAST(:name AS text), current_schema())
  AND NOT has_schema_privilege(n.oid, 'CREATE')
""")


async def _create(connection: AsyncConnection, table: Table) -> None:
    """Make a table; say what its schema lacks."""
    try:
        async with connection.begin_nested():
            await connection.run_sync(table.create)
    except DBAPIError as exc:
        if sqlstate(exc) == Condition.INVALID_SCHEMA_NAME and table.schema is not None:
            schema = connection.dialect.identifier_preparer.quote(table.schema)
            if await connection.scalar(_LACKS_SCHEMA, {"name": schema}):  # else a type's schema is missing
                mend = f"CREATE SCHEMA {schema}"
                raise CitykitError(f"{server_message(exc)}; {UNDONE}. Make it with SQL: {mend}") from exc
        if sqlstate(exc) != Condition.INSUFFICIENT_PRIVILEGE:
            raise
        lacking = (await connection.execute(_SCHEMA, {"name": table.schema})).one_or_none()
        if lacking is None:  # another right: on the type of a column
            raise
        raise CitykitError(
            f"{server_message(exc)}; {UNDONE}. The schema's owner gives the right with SQL: "
            f"GRANT CREATE ON SCHEMA {lacking.schema} TO {lacking.role}"
        ) from exc


async def _made(
    connection: AsyncConnection, table: Table, name: str, if_exists: IfExists, seconds: float
) -> Table:
    """Make a table, or apply `if_exists` to the one that is there; return the table that is there then."""
    # Held until the commit: two processes may make the table at the same time.
    await connection.execute(_ALONE, {"name": name, "seed": CREATING})
    if facts := await facts_of(connection, name):
        refuse_no_table(name, facts, UNDONE, views=False)
        if if_exists == "error":
            raise CitykitError(
                f"table {name} exists; {UNDONE}. if_exists='skip' keeps it, if_exists='replace' "
                "drops it first, with all of its rows."
            )
        if if_exists == "skip":
            return described(table, facts)
        await lock_without_queueing(connection, [name], seconds, UNDONE)
        try:
            await connection.exec_driver_sql(f"DROP TABLE {name}")
        except DBAPIError as exc:
            if sqlstate(exc) != Condition.DEPENDENT_OBJECTS_STILL_EXIST:
                raise
            raise CitykitError(
                f"{server_message(exc)}; nothing was changed. Something else was built on the table. "
                f"With SQL, which drops that too: DROP TABLE {name} CASCADE"
            ) from exc
    await _create(connection, table)
    facts = await facts_of(connection, name)
    if facts is not None:
        stored = described(table, facts)
        for column in table.columns:
            if isinstance(column.type, ServerType):
                column.type = stored.c[column.name].type
    return table
