"""The table of types: each row is whole and agrees with the server."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.decode import moments
from citykit.encode import rules_of, validate, values
from citykit.load.plan import FEW_ROWS
from citykit.pgtypes import DECIMALS, ENUM, EXACT, KNOWN, PGTYPES, ROUNDED, Check, DtypeBackend, PgType
from tests.support.tables import created

ROWS = {name: row for name, row in PGTYPES.items() if row not in (ENUM, ROUNDED, DECIMALS)}


def gaps(row: PgType) -> list[str]:
    """Return what a row of the table lacks for what it says that the type can do."""
    found = []
    if len(row.dtypes) != len(get_args(DtypeBackend)) or not all(row.dtypes):
        found.append("a dtype for each backend")
    if row.arrow is None and row.parse is None:
        found.append("a way to read it: an Arrow type or a parser")
    read = row.is_csv or row.parse or row.is_rounded
    if row.arrow is not None and not read and row.arrow not in moments.READERS:
        found.append("a reader for its Arrow type")
    if len({bool(row.check), row.typed is not None}) > 1 or (row.declared and not row.check):
        found.append("all that loading needs: a check, the type of checked values, SQLAlchemy's type")
    if row.check and row.check not in values._CHECKS:
        found.append("a function for its check")
    if row.compared_alike != "never" and not row.check:
        found.append("a check, without which nothing is compared")
    return found


@pytest.mark.parametrize("name", PGTYPES)
def test_every_row_is_whole(name: str) -> None:
    assert gaps(PGTYPES[name]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"dtypes": ("Int16", "")}, {"arrow": None}, {"check": None}, {"typed": None}, {"check": "no such"},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_is_not_whole_is_found(change: dict[str, Any]) -> None:
    assert gaps(dataclasses.replace(PGTYPES["int2"], **change))


def test_every_check_and_every_reader_is_that_of_a_row() -> None:
    assert {row.check for row in PGTYPES.values()} - {None} == set(get_args(Check)) == set(values._CHECKS)
    assert {row.arrow for row in PGTYPES.values()} >= set(moments.READERS)


async def test_names_and_oids_are_the_servers(engine: AsyncEngine) -> None:
    sql = "SELECT oid::int, typname::text, typarray::int FROM pg_type WHERE oid < 16384"
    async with engine.connect() as connection:
        found = {row[0]: (row[1], row[2]) for row in await connection.execute(text(sql))}
        for row in ROWS.values():
            assert found[row.oid] == (row.name, row.array_oid)
            named = await connection.scalar(text(f"SELECT '{row.sql}'::regtype::oid::int"))
            assert named == row.oid
    assert KNOWN.keys() == {row.oid for row in ROWS.values()} | {r.array_oid for r in ROWS.values()} - {0}


# A value of each type that can be loaded, as a frame holds it and as the server writes it.
SAMPLES: dict[str, tuple[Any, str]] = {
    "bool": (True, "true"), "int2": (-7, "-7"), "int4": (7, "7"), "int8": (2**40, str(2**40)),
    "oid": (2**32 - 1, str(2**32 - 1)),
    "float4": (0.5, "0.5"), "float8": (0.1, "0.1"), "numeric": (1.5, "1.5"),
    "text": ("é", "é"), "varchar": ("é", "é"), "bpchar": ("é", "é"),
    "date": (pd.Timestamp("2024-02-29"), "2024-02-29"),
    "time": (pd.Timestamp("2024-01-01 01:02").time(), "01:02:00"),
    "timestamp": (pd.Timestamp("2024-02-29 01:02"), "2024-02-29 01:02:00"),
    "timestamptz": (pd.Timestamp("2024-02-29 01:02", tz="UTC"), "2024-02-29 01:02:00+00"),
    "interval": (pd.Timedelta("36h"), "1 day 12:00:00"),
    "uuid": ("12345678-1234-5678-1234-567812345678", "12345678-1234-5678-1234-567812345678"),
    "json": ([1], "[1]"), "jsonb": ([1], "[1]"), "bytea": (b"\0", "\\x00"), "enum": ("sad", "sad"),
    "inet": ("10.0.0.1/8", "10.0.0.1/8"), "cidr": ("10.0.0.0/8", "10.0.0.0/8"),
    "macaddr": ("08:00:2b:01:02:03", "08:00:2b:01:02:03"),
}  # fmt: skip
assert set(SAMPLES) == {name for name, row in PGTYPES.items() if row.check}


def declared(row: PgType) -> sa.types.TypeEngine[Any]:
    if row is ENUM:
        return sa.Enum("happy", "sad", name="mood")
    return row.declared[0]() if row.declared else sa.DateTime(timezone=True)


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_value_of_every_type_is_stored_and_read_alone_and_in_arrays(
    engine: AsyncEngine, name: str
) -> None:
    await is_stored_and_read(engine, name, 3)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("int4", "timestamptz", "text", "json") else pytest.mark.campaign
        )
        for name in SAMPLES
    ],
)
async def test_so_are_many_values(engine: AsyncEngine, name: str) -> None:
    await is_stored_and_read(engine, name, FEW_ROWS + 1)


async def is_stored_and_read(engine: AsyncEngine, name: str, count: int) -> None:
    row, (value, written) = PGTYPES[name], SAMPLES[name]
    table = sa.Table(
        "samples", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", declared(row)), sa.Column("many", sa.ARRAY(declared(row))),
    )  # fmt: skip
    assert {rule.type for rule in rules_of(table)} == {row, PGTYPES["int4"]}
    frame = pd.DataFrame({"key": range(count)})
    frame["one"] = pd.Series([value] * (count - 1) + [None], dtype=object)
    frame["many"] = pd.Series([[value, None]] * (count - 1) + [None], dtype=object)
    async with created(engine, table), engine.connect() as connection:
        await connection.execute(text("SET TimeZone = 'UTC'"))
        await citykit.load_frame(connection, frame, table)
        sql = "SELECT one::text, many[1]::text, count(*) FROM samples GROUP BY 1, 2 ORDER BY 3 DESC"
        shown = [tuple(found) for found in await connection.execute(text(sql))]
        assert shown == [(written, written, count - 1), (None, None, 1)]
        backends: tuple[DtypeBackend, ...] = get_args(DtypeBackend)
        for backend in backends:
            read = await citykit.read_frame(
                connection,
                "SELECT one, many FROM samples ORDER BY key",
                dtype_backend=backend,
                numeric="decimal",
            )
            assert read.dtypes.astype(str).tolist() == [row.dtypes[backends.index(backend)], "object"]
            assert read["one"].isna().sum() == read["many"].isna().sum() == 1
            again = read.assign(key=range(count))
            assert (await citykit.load_frame(connection, again, table, on_conflict="update")).skipped == count
        await connection.invalidate()


@pytest.mark.parametrize("oid", sorted(EXACT))
def test_what_is_read_in_binary_has_a_format(oid: int) -> None:
    assert KNOWN[oid].row.binary


DIGITS = "0123456789abcdef0123456789ABCDEF"


@pytest.mark.parametrize(
    "written",
    [
        DIGITS, f"{{{DIGITS}}}", "0123-4567-89ab-cdef-01234567-89AB-CDEF",
        "{12345678-1234-5678-1234-567812345678}", f"{{{DIGITS}", f"{DIGITS}}}", f"-{DIGITS}", f"{DIGITS}-",
        f"{DIGITS[:2]}-{DIGITS[2:]}", f"0x{DIGITS[2:]}", f"+{DIGITS[1:]}", f" {DIGITS[1:]}", f"{DIGITS}\n",
        f"0_1{DIGITS[3:]}",
        f"urn:uuid:{DIGITS}", "\u0661" * 32, DIGITS[1:], "",
    ],
)  # fmt: skip
async def test_a_text_is_a_uuid_where_the_server_takes_it(engine: AsyncEngine, written: str) -> None:
    async with engine.connect() as connection:
        try:
            cast = text("SELECT CAST(CAST(:written AS text) AS uuid)::text")
            stored = [await connection.scalar(cast, {"written": written})]
        except DBAPIError:
            stored = []
    rules = rules_of(sa.Table("t", sa.MetaData(), sa.Column("x", sa.Uuid)))
    rows, rejects = validate(pd.DataFrame({"x": [written]}), rules)
    assert rows["x"].to_pylist() == stored
    assert rejects["reason"].tolist() == ([] if stored else ["not a UUID"])


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("inet", "::1", "::1"), ("inet", "10.0.0.1", "10.0.0.1"), ("inet", "10.0.0.1/32", "10.0.0.1"),
        ("inet", "10.0.0.256", None), ("inet", 5, None), ("inet", b"\0\0\0\1", None),
        ("inet", "fe80::1%eth0", None), ("inet", "", None), ("inet", "10.1", None),
        ("cidr", "10.0.0.0/8", "10.0.0.0/8"), ("cidr", "10.0.0.1/8", None), ("cidr", "::/0", "::/0"),
        ("macaddr", "08-00-2b-01-02-0F", "08:00:2b:01:02:0f"), ("macaddr", "08:00-2b:01:02:03", None),
        ("macaddr", "08:00:2b:01:02", None), ("macaddr", 5, None),
    ],
)  # fmt: skip
async def test_addresses_are_stored_or_rejected(
    engine: AsyncEngine, name: str, value: Any, stored: str | None
) -> None:
    table = sa.Table(
        "samples", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", PGTYPES[name].declared[0]()),
    )  # fmt: skip
    frame = pd.DataFrame({"key": [1]}).assign(one=pd.Series([value], dtype=object))
    async with created(engine, table):
        if value is not None and not isinstance(value, str):  # no value of such a column is an address
            with pytest.raises(citykit.InvalidFrameError, match="text is needed"):
                await citykit.load_frame(engine, frame, table, on_invalid="skip")
            return
        report = await citykit.load_frame(engine, frame, table, on_invalid="skip")
        read = await citykit.read_frame(engine, "SELECT one FROM samples")
        assert read["one"].tolist() == ([] if stored is None else [f"{stored}"])
        assert report.inserted + len(report.rejects) == 1
