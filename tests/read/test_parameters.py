"""Values in the place of parameters: sent with the type of the Python value, as psycopg sends them."""

from __future__ import annotations

import array
import enum
import ipaddress
from collections import UserList, UserString, deque
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import numpy as np
import pandas as pd
import psycopg
import psycopg.types.json
import psycopg.types.numeric
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam, column, literal, select, table, text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import TypeEngine

import citykit
from tests.read.test_execution import BINDS, bound
from tests.read.test_reading import failure
from tests.support.pgbouncer import needs_pgbouncer


class Code(str, enum.Enum):  # noqa: UP042  a member is a str, and its str() is not its value
    IS = "IS"


class Size(enum.IntEnum):
    SMALL = 5


class OfItself(Sequence[Any]):
    """Like a str, a sequence whose items are sequences of its own class."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        if index:
            raise IndexError
        return self


BEYOND_A_DOUBLE = np.nextafter(np.longdouble(0.1), np.longdouble(1))
LONGER = float(BEYOND_A_DOUBLE) != BEYOND_A_DOUBLE  # False on ARM's macOS, where a longdouble is a double
HOLDS_ITSELF: list[Any] = [1]
HOLDS_ITSELF.append(HOLDS_ITSELF)
HEX = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
ZONED = datetime(2024, 2, 29, 23, 59, tzinfo=timezone(timedelta(hours=5, minutes=45)))
VALUES: dict[str, list[Any]] = {
    "int": [0, 5, -5, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**30],
    "float": [0.0, 0.1, 1.5, 1.7, -1e300, 5.0, float("inf"), float("nan")],
    "decimal": [Decimal("1.5"), Decimal("0.1"), Decimal("1e30"), Decimal(5), Decimal("NaN"), Decimal("sNaN")],
    "bool": [True, False],
    "text": ["", "IS", "a'b\\", "é", "5", "1.7", "2024-02-29", "2024-02-29 23:59", "true", HEX, "many"],
    "bytes": [b"", b"\x00'\\", bytearray(b"x")],
    "date": [date(2024, 2, 29), date(1, 1, 1)],
    "time": [time(23, 59, 0, 5), time(12, tzinfo=UTC)],
    "datetime": [datetime(2024, 2, 29), datetime(2024, 2, 29, 23, 59), ZONED],
    "timedelta": [timedelta(0), timedelta(days=-1, microseconds=5), timedelta(hours=36)],
    "uuid": [UUID(HEX)],
    "inet": [ipaddress.ip_address("10.0.0.1")],
}  # fmt: skip
COLUMNS = {
    "i2": ("smallint", "5"), "i4": ("integer", "5"), "i8": ("bigint", "9007199254740993"),
    "f4": ("real", "1.7"), "f8": ("float8", "0.1"), "n": ("numeric", "0.1"), "b": ("boolean", "true"),
    "t": ("text", "IS"), "v": ("varchar(9)", "5"), "c": ("char(5)", "IS"), "e": ("code", "IS"),
    "dom": ("positive", "5"), "ci": ("label", "IS"), "u": ("uuid", HEX), "d": ("date", "2024-02-29"),
    "ts": ("timestamp", "2024-02-29 23:59"), "tz": ("timestamptz", "2024-02-29 18:14+00"),
    "ti": ("time", "23:59:00.000005"), "iv": ("interval", "36:00"), "by": ("bytea", r"\x002 75c"),
    "ip": ("inet", "10.0.0.1"), "j": ("jsonb", "5"), "ch": ('"char"', "I"),
}  # fmt: skip
COLUMNS["by"] = ("bytea", r"\x00275c")

_FIRST = ", ".join("'" + value.replace("'", "''") + "'" for _, value in COLUMNS.values())
TABLE = [
    "DROP SCHEMA IF EXISTS sent CASCADE",
    "CREATE SCHEMA sent",
    "SET LOCAL search_path = sent",
    "CREATE TYPE code AS ENUM ('IS', 'NA')",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    "CREATE DOMAIN label AS text",
    f"CREATE TABLE sent ({', '.join(f'{name} {type_}' for name, (type_, _) in COLUMNS.items())})",
    f"INSERT INTO sent VALUES ({_FIRST})",  # noqa: S608
]
# What makes a statement come by COPY: a column that is not read from DataRow messages.
WAYS = {"rows": "", "copy": ", '{1}'::int[] AS way"}


@pytest.fixture(scope="module")
def psycopgs() -> Any:
    """A connection of psycopg, the judge, to the same server."""

    async def url() -> Any:
        engine = await citykit.connect()
        async with engine.begin() as connection:
            for sql in TABLE:
                await connection.exec_driver_sql(sql)
        found = engine.url
        await engine.dispose()
        return found

    found = citykit.run(url())
    with psycopg.connect(
        host=found.host or found.query.get("host"),
        port=found.port or found.query.get("port"),
        user=found.username,
        password=found.password,
        dbname=found.database,
        autocommit=True,
    ) as connection:
        connection.execute("SET search_path = sent, public")
        yield connection
        connection.execute("DROP SCHEMA sent CASCADE")


@pytest.fixture
async def bind(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL search_path = sent, public")
        yield connection


def judged(connection: Any, sql: str, value: Any) -> Any:
    """What psycopg reads, or the SQLSTATE."""
    adapted = value
    if isinstance(value, dict):
        adapted = psycopg.types.json.Jsonb(value)
    elif type(value) is int and abs(value) < 2**15:
        adapted = psycopg.types.numeric.Int4(value)  # which is how SQL reads the digits, not as a smallint
    try:
        with connection.transaction(force_rollback=True):
            return connection.execute(sql.replace(":value", "%(v)s"), {"v": adapted}).fetchall()
    except psycopg.Error as exc:
        return exc.sqlstate


async def read(bind: Any, statement: Any, value: Any) -> Any:
    try:
        frame = await citykit.read_frame(bind, statement, {"value": value})
    except citykit.CitykitError as exc:
        return f"{getattr(exc.__cause__, 'sqlstate', '')} {exc}"
    rows = frame.drop(columns="way", errors="ignore").astype(object).itertuples(index=False)
    return [tuple(None if item is pd.NA else item for item in row) for row in rows]


def counts(found: Any) -> Any:
    return found if isinstance(found, str) else [int(row[0]) for row in found]


STATEMENTS = [
    "{c} = :value", "{c} < :value", ":value = {c}", "{c} = CAST(:value AS {t})", "{c} = :value::{t}",
    "{c} IN (:value, :value)",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", VALUES)
async def test_a_value_finds_what_psycopg_finds_with_it(
    bind: AsyncConnection, psycopgs: Any, kind: str, way: str
) -> None:
    differing = []
    for name, (type_, _) in COLUMNS.items():
        for condition in STATEMENTS if way == "rows" else STATEMENTS[:1]:
            where = condition.format(c=name, t=type_)
            sql = f"SELECT (SELECT count(*) FROM sent WHERE {where}) AS n{WAYS[way]}"  # noqa: S608
            for value in VALUES[kind] if condition == STATEMENTS[0] else VALUES[kind][1:2]:
                expected = counts(judged(psycopgs, sql, value))
                got = counts(await read(bind, sql, value))
                if (got[:5] if isinstance(got, str) else got) != expected:
                    differing.append((where, value, expected, got))
    assert not differing, "\n".join(map(str, differing))


# What psycopg reads with the same values, where it has the same words for them.
ELSEWHERE: list[tuple[str, Any]] = [
    ("SELECT n FROM generate_series(1, 9) AS n LIMIT :value", 3),
    ("SELECT n FROM generate_series(1, 9) AS n LIMIT :value", "3"),
    ("SELECT n FROM generate_series(1, 9) AS n OFFSET :value", 8),
    ("SELECT n FROM generate_series(1, 9) AS n FETCH FIRST :value ROWS ONLY", 2),
    ("SELECT make_date(:value, 2, 29)::text AS d", 2024),
    ("SELECT repeat('x', :value) AS t", 3),
    ("SELECT :value * :value AS product", 1000),
    ("SELECT :value * :value AS product", 2**31),
    ("SELECT :value / 2 AS half", 5),
    ("SELECT :value / 2 AS half", 5.0),
    ("SELECT 'x' || :value AS t", "y"),
    ("SELECT date '2024-02-28' + :value = date '2024-02-29' AS b", 1),
    ("SELECT timestamp '2024-02-28' + :value = '2024-02-29' AS b", timedelta(days=1)),
    ("SELECT pg_typeof(:value)::text AS t", 0.5),
    ("SELECT :value IS NULL AS b", 5),
    ("SELECT CASE WHEN :value IS NULL OR t = :value THEN t END AS t FROM sent", "IS"),
    ("SELECT CASE WHEN :value IS NULL OR t = :value THEN t END AS t FROM sent", None),
    ("SELECT count(*) FROM sent WHERE i4 = :value", None),
    ("INSERT INTO sent (i4, f8) VALUES (:value, :value) RETURNING i4, f8", 7),
    ("INSERT INTO sent (d) VALUES (:value) RETURNING d::text", "2024-02-29"),
    ("INSERT INTO sent (e) VALUES (:value) RETURNING e::text", "IS"),
    ("INSERT INTO sent (e) VALUES (:value) RETURNING e::text", "no label"),
    ("INSERT INTO sent (n) VALUES (:value) RETURNING n::text", 0.1),
    ("INSERT INTO sent (j) VALUES (:value) RETURNING j::text", '{"a": 1}'),
    ("INSERT INTO sent (j) VALUES (:value) RETURNING j::text", {"a": [1, None]}),
    ("SELECT jsonb '{\"a\": 1}' @> :value AS b", {"a": 1}),
    ("SELECT :value::jsonb ->> 'a' AS t", {"a": "x"}),
    ("SELECT 5 = ANY (:value) AS b", [4, 5]),
    ("SELECT 5 = ANY (:value) AS b", [2**40, 5]),
    ("SELECT 5 = ANY (:value) AS b", []),
    ("SELECT 5 = ANY (:value) AS b", [None]),
    ("SELECT f8 = ANY (:value) AS b FROM sent", [0.1, 2.0]),
    ("SELECT n = ANY (:value) AS b FROM sent", [0.1, 2.0]),
    ("SELECT n = ANY (:value) AS b FROM sent", [Decimal("0.1")]),
    ("SELECT d = ANY (:value) AS b FROM sent", [date(2024, 2, 29)]),
    ("SELECT u = ANY (:value) AS b FROM sent", [UUID(HEX), None]),
    ("SELECT t = ANY (:value) AS b FROM sent", ["IS", "a,\"b", None]),
    ("SELECT unnest(:value) AS t", [1, 2]),
    ("SELECT cardinality(:value) AS n", [[1, 2], [3, 4]]),
    ("SELECT array_length(:value::int[], 1) AS n", [1, 2]),
    *[("SELECT :value::text AS t", day) for day in (date.min, date.max, datetime.min, datetime.max)],
    ("SELECT (:value)[2]::text AS t", [None, date.max]),
    ("SELECT (:value)[1]::text AS t", [datetime.min]),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("sql", "value"), ELSEWHERE, ids=[f"{sql} {value}" for sql, value in ELSEWHERE])
async def test_a_value_means_the_same_anywhere_in_a_statement(
    bind: AsyncConnection, psycopgs: Any, sql: str, value: Any, way: str
) -> None:
    wanted = judged(psycopgs, sql, value)
    found = await read(bind, sql if way == "rows" else f"WITH a AS ({sql}) SELECT *{WAYS[way]} FROM a", value)  # noqa: S608
    assert str(found[:5] if isinstance(found, str) else found) == str(wanted)


# What psycopg has no words for, or other ones.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("condition", "value", "found"),
    [
        ("i4 IN :value", [4, 5], True),
        ("i4 IN :value", (5, 2**40), True),
        ("i4 IN :value", np.array([4, 5]), True),
        ("i4 IN :value", [], False),
        ("i4 NOT IN :value", [], True),
        ("i4 /* : */ not\n in :value", [4, 5], False),
        ("i4 + 1 IN :value AND true", {6}, True),
        ("NOT i4 IN :value", [4], True),
        ("i4 IN :value", [1.7, 5], True),
        ("i4 IN :value", ["5"], True),
        ("e IN :value", ["NA", "IS"], True),
        ("e = ANY (:value)", pd.Series(["NA", "IS"]), True),
        ("e IN :value", [Code.IS], True),
        ("d IN :value", ["2024-02-29"], True),
        ("d IN :value", np.array(["2024-02-29"], "datetime64[D]"), True),
        ("ts IN :value", pd.Series([pd.Timestamp("2024-02-29 23:59"), pd.NaT]), True),
        ("ts IN :value", np.array(["2024-02-29T23:59"], "datetime64[ns]"), True),
        ("i8 IN :value", pd.array([2**53 + 1, pd.NA], "Int64"), True),
        ("i8 IN :value", [2**53 + 1, 0.5], "several types"),
        ("i4 IN :value", ["a", 5], "several types"),
        ("5 = ANY (:value)", [[4], [5]], True),
        ("t = ANY (:value)", pd.Categorical(["IS"]), True),
        ("t = ANY (:value)", pd.Index(["IS", None]), True),
        ("f8 = ANY (:value)", np.array([0.1, np.nan]), True),
        ("f8 = ANY (:value)", pd.Series([0.1, pd.NA], dtype="double[pyarrow]"), True),
        ("'a' IN (SELECT unnest(:value))", ["a", "b"], True),
        ("j = :value", 5, "42883"),
        ("jsonb '[1, 2]' @> :value", [1], True),
        ("jsonb '[\"a\"]' @> :value", ["a"], True),
        ("jsonb '[\"a\", 1]' @> :value", ["a", 1], True),
        ("jsonb '[{\"a\": 1}]' @> :value", [{"a": 1}], True),
        ("jsonb '[]' @> :value", [], True),
        ("jsonb '{\"a\": 1}' IN :value", [{"b": 2}, {"a": 1}], True),
        ("jsonb '{\"a\": 1}' NOT IN :value", [{"b": 2}], True),
        ("jsonb '{\"a\": 1}' = ANY (:value)", [None, {"a": 1}], True),
        ("jsonb '\"x\"' = ANY (:value)", [1, {"a": 1}, '"x"'], True),
        ("jsonb '\"x\"' = ANY (:value)", ['"x"'], True),
        ("jsonb '\"x\"' = ANY (:value)", [1, "x"], "reads the text of parameter 'value' as jsonb[]"),
        ("jsonb '\"x\"' = ANY (:value)", ["x"], "reads the text of parameter 'value' as jsonb[]"),
        ("(:value::jsonb[])[2] = '{\"a\": 1}'", [1, {"a": 1}], True),
        *[
            ("(:value::jsonb[])[1] = '{\"b\": 2}'", ['{"b": 2}', *others], True)
            for others in ([], ["1"], [1], [{"a": 1}], [None, True])
        ],
        ("(:value::jsonb[])[1] = '1'", [1], True),
        ("(:value::json[])[1]::text = 'true'", [True], True),
        ("(:value::jsonb[])[1] = '[\"x\"]'", ['["x"]', {"a": 1}], True),
        ("(:value::jsonb[])[2][1] = '2'", [[1], [2]], True),
        ("(:value::jsonb[])[1] = '1'", [1, [2]], "'value' cannot be sent"),
        ("(:value::jsonb[])[1] = '1'", [date(2024, 2, 29)], "42846"),
        ("t = :value", [{"a": 1}, None], "'value' is a list of dicts, and the statement takes text there"),
        ("t = :value", pd.Series([{"a": 1}]), "Cast it to JSON: CAST(:value AS jsonb)."),
        ("CAST(:value AS jsonb) = '[{\"a\": 1}]'", pd.Series([{"a": 1}]), True),
        ("t = :value", [{"a": 1}, 1], "Give values of one type, or cast it to JSON: CAST(:value AS jsonb)."),
        ("t = :value", [date(2024, 2, 29), 1], "there; nothing was changed. Give values of one type."),
        ("(:value::json[])[1] ->> 'a' = 'é\"\\'", [{"a": 'é"\\'}], True),
        ("jsonb '[1]' = :value::jsonb", [1], True),
        ("(:value::json) ->> 'a' = '5'", {"a": Size.SMALL}, True),
        ("j = (:value::jsonb) -> 'a'", {"a": np.int64(5)}, True),
        ("t = :value", Code.IS, True),
        ("i4 = :value", Size.SMALL, True),
        ("t = :value", np.str_("IS"), True),
        ("b = :value", np.bool_(True), True),
        ("f4 = :value", np.float32(1.7), True),
        ("f4 = :value", 1.7, False),
        ("i8 = :value", np.uint64(2**53 + 1), True),
        ("ts = :value", pd.Timestamp("2024-02-29 23:59"), True),
        ("ts = :value", np.datetime64("2024-02-29T23:59"), True),
        ("tz = :value", pd.Timestamp("2024-02-29 23:59", tz="Asia/Kathmandu"), True),
        ("iv = :value", pd.Timedelta(hours=36), True),
        ("iv = :value", np.timedelta64(36, "h"), True),
        ("i4 = :value", pd.NA, False),
        ("ts = :value", pd.NaT, False),
        ("ts = :value", np.datetime64("NaT", "us"), False),
        ("iv = :value", np.timedelta64("NaT", "us"), False),
        ("ts = ANY (:value)", np.array(["2024-02-29T23:59", "NaT"], "datetime64[us]"), True),
        ("i4 = :value", pa.scalar(5), True),
        ("i4 IN :value", pa.array([5]), True),
        ("ts = :value", pd.Timestamp("2024-02-29 23:59:00.000000001"), "nanoseconds"),
        ("i4 = :value", [5], "42883"),
        ("i4 IN :value", deque([4, 5]), True),
        ("i4 IN :value", {5: "a"}.keys(), True),
        ("i4 IN :value", {"a": 5}.values(), True),
        ("i4 IN :value", array.array("i", [5]), True),
        ("i4 IN :value", UserList([5.5]), False),
        ("int4range(1, 6) = :value", asyncpg.Range(1, 6), True),
        ("B'101' = :value", asyncpg.BitString("101"), True),
        ("i4 = :value", object(), "'value' cannot be sent"),
        ("i4 < :value", Fraction(11, 2), "class Fraction"),
        ("i4 IN :value", [Fraction(5)], "class Fraction"),
        ("t = :value", UserString("IS"), "class UserString"),
        ("t = ANY (:value)", [UserString("IS")], "class UserString"),
        ("j = :value", {"a": UserString("IS")}, "UserString is not JSON"),
        ("j = :value", {UserString("a"): 1}, "not UserString"),
        ("t = :value", OfItself(), "class OfItself has too many values inside of each other"),
        ("t = ANY (:value)", [OfItself()], "too many values inside of each other"),
        ("t = ANY (:value)", HOLDS_ITSELF, "too many values inside of each other"),
        ("j = :value", {"a": HOLDS_ITSELF}, "too many values inside of each other"),
        ("i4 = ANY (:value)", UserList([UserList([5])]), True),
        ("i4 = :value", np.array(5), True),
        ("t = :value", np.array("IS"), True),
        ("ts = :value", np.array("2024-02-29T23:59", "datetime64[m]"), True),
        ("i4 = :value", np.ma.array(5, mask=False), True),
        ("i4 = :value", np.ma.masked, False),
        ("i4 IS NULL OR i4 IN :value", [np.ma.masked, np.array(5)], True),
        ("f8 = :value", np.longdouble(0.1), True),
        ("f8 = :value", np.longdouble("inf"), False),
        ("f8 = :value", BEYOND_A_DOUBLE, "not exact in double precision" if LONGER else False),
        (
            "f8 = ANY (:value)",
            np.array([BEYOND_A_DOUBLE]),
            "not exact in double precision" if LONGER else False,
        ),
        ("iv = :value", pa.scalar((1, 2, 3000), pa.month_day_nano_interval()), "class MonthDayNano"),
        ("iv = ANY (:value)", pa.array([(0, 0, 3)], pa.month_day_nano_interval()), "class MonthDayNano"),
        ("ti <> :value", pa.scalar(1000, pa.time64("ns")), True),
        ("ti <> :value", pa.scalar(1, pa.time64("ns")), "nanoseconds"),
        ("ti <> ALL (:value)", pa.array([1000, 1], pa.time64("ns")), "nanoseconds"),
        ("ti <> ALL (:value)", pd.Series([1], dtype=pd.ArrowDtype(pa.time64("ns"))), "nanoseconds"),
        ("t = ANY (:value)", pd.Series(["IS"], dtype=pd.ArrowDtype(pa.string_view())), True),
        ("(:value)::text <> ''", time(1, tzinfo=timezone(timedelta(seconds=5))), True),
        ("(:value)::text <> ''", time(1, tzinfo=timezone(timedelta(microseconds=5))), "fraction of a second"),
        ("(:value)::timetz <> '1:00'", time(1, tzinfo=timezone(timedelta(microseconds=5))), "fraction of"),
        ("(:value)::text <> ''", [time(1, tzinfo=timezone(timedelta(microseconds=5)))], "fraction of a"),
        ("(:value)::text <> ''", time(1, tzinfo=ZoneInfo("Asia/Tokyo")), "only on a day"),
        ("t = :value", Fraction(11, 2), "class Fraction"),
        ("t = ANY (:value)", pd.DataFrame({"IS": [1]}), "frame['IS']"),
        ("ip <> :value", ipaddress.ip_address("fe80::1%eth0"), "fe80::1%eth0 has a zone"),
        ("ip <> :value", ipaddress.ip_interface("fe80::1%eth0/64"), "has a zone"),
        ("ip << ANY (:value)", [ipaddress.ip_network("fe80::%1/64")], "has a zone"),
        ("i4 = :value", 1j, "int4"),
        ("t = :value", "\ud800", "'value' cannot be sent"),
        ("j = :value", {"a": float("nan")}, "JSON"),
        ("i4 = :value", "many", "22P02"),
    ],
)
async def test_values_of_other_kinds(
    bind: AsyncConnection, psycopgs: Any, condition: str, value: Any, found: bool | str, way: str
) -> None:
    assert psycopgs
    got = await read(bind, f"SELECT coalesce({condition}, false) AS b{WAYS[way]} FROM sent", value)  # noqa: S608
    assert (found in got) if isinstance(found, str) else got == [(found,)]


@pytest.mark.parametrize("way", WAYS)
async def test_text_and_selects_of_sqlalchemy_send_the_same(
    bind: AsyncConnection, psycopgs: Any, way: str
) -> None:
    assert psycopgs
    more = WAYS[way].removeprefix(", ").removesuffix(" AS way")
    columns: list[Any] = [column("i4"), *([text(f"{more} AS way")] if more else [])]
    for name, value, found in [
        ("i4", 1.7, 0),
        ("i4", 5, 1),
        ("n", 0.1, 1),
        ("d", datetime(2024, 2, 29, 1), 0),
    ]:
        ways: list[tuple[Any, Any]] = [
            (text(f"{name} = :value"), {"value": value}),
            (text(f"{name} IN :value"), {"value": [value]}),
            (text(f"{name} IN :value").bindparams(bindparam("value", expanding=True)), {"value": [value]}),
            (column(name) == bindparam("value"), {"value": value}),
            (column(name) == literal(value), None),
            (column(name).in_([value]), None),
            (column(name) == value, None),
        ]
        for condition, params in ways:
            statement = select(*columns).select_from(table("sent")).where(condition)
            assert len(await citykit.read_frame(bind, statement, params)) == found, str(statement)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (datetime.max.replace(tzinfo=UTC), "9999-12-31 23:59:59.999999+00"),
        (datetime.min.replace(tzinfo=UTC), "0001-01-01 00:00:00+00"),
        (
            datetime.max.replace(hour=21, tzinfo=timezone(-timedelta(hours=2))),
            "9999-12-31 23:59:59.999999+00",
        ),
        ([datetime.min.replace(tzinfo=UTC), None], '{"0001-01-01 00:00:00+00",NULL}'),
        (datetime.max, "9999-12-31 23:59:59.999999"),
        ([datetime.min], '{"0001-01-01 00:00:00"}'),
        (date.max, "9999-12-31"),
    ],
)
async def test_the_first_and_the_last_moment_are_not_infinite(
    bind: AsyncConnection, value: Any, found: str, way: str
) -> None:
    await bind.exec_driver_sql("SET LOCAL TimeZone = 'UTC'")
    assert await read(bind, f"SELECT (:value)::text AS v{WAYS[way]}", value) == [(found,)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [1, value]], ids=["one", "list"])
@pytest.mark.parametrize(
    "value", [Decimal("1E+131072"), -(10**131_072), Decimal("-1.5E+200000")], ids=["first", "int", "large"]
)
async def test_a_number_with_more_digits_than_a_numeric_is_refused(
    bind: AsyncConnection, value: Any, wrap: Any, way: str
) -> None:
    sql = f"SELECT length((:value)::text) AS l{WAYS[way]}"
    assert "'value' cannot be sent: a number has more than 131,072 digits" in await read(
        bind, sql, wrap(value)
    )
    assert await read(bind, sql, Decimal("1E+131071")) == [(131_072,)]
    assert await read(bind, sql, Decimal("0E+131072")) == [(1,)]


async def test_streams_send_the_same(bind: AsyncConnection, psycopgs: Any) -> None:
    assert psycopgs
    for sql, value, found in (
        ("SELECT 1 FROM sent WHERE i4 = :v", 1.7, 0),
        ("SELECT d FROM sent WHERE i4 IN :v", [5], 1),
    ):
        frames = [frame async for frame in citykit.stream_frames(bind, sql, {"v": value})]
        assert sum(map(len, frames)) == found


@pytest.mark.parametrize(
    ("sql", "value", "said"),
    [
        ("SELECT 1 FROM sent WHERE i4 = :v", "many", ["'v'", "int4", "many"]),
        ("SELECT 1 FROM sent WHERE d = :v", "yesterdax", ["'v'", "date", "yesterdax"]),
        ("SELECT 1 FROM sent\nWHERE t = :v", 5, ["text = integer", "line 2: WHERE t = :v"]),
        ("SELECT 1 FROM sent WHERE i4 = :v", 1j, ["'v'", "int4"]),
        ("SELECT jsonb_build_object('k', :v) AS x", "x", ["42P18", "'v'", "CAST(:v AS text)"]),
        ("SELECT concat(:v) AS x", None, ["42P18", "'v'", "CAST(:v AS text)"]),
    ],
)
async def test_an_error_names_the_type_that_the_statement_wants(
    bind: AsyncConnection, psycopgs: Any, sql: str, value: Any, said: list[str]
) -> None:
    assert psycopgs
    message = await failure(citykit.read_frame(bind, sql, {"v": value}))
    for part in said:
        assert part in message


async def test_an_error_that_no_value_has_caused_names_none(bind: AsyncConnection, psycopgs: Any) -> None:
    assert psycopgs
    sql = "SELECT 1 / (i4 - 5) FROM sent WHERE d = :d"
    said = await failure(citykit.read_frame(bind, sql, {"d": "2024-02-29"}))
    assert "division by zero" in said
    assert "'d'" not in said


EVERYWHERE: list[tuple[str, Any, int]] = [
    ("i4 = :v", 1.7, 0), ("i4 = :v", 5.0, 1), ("n = :v", 0.1, 1), ("f8 = :v", Decimal("0.1"), 1),
    ("d = :v", datetime(2024, 2, 29, 23, 59), 0), ("d = :v", date(2024, 2, 29), 1),
    ("d = :v", "2024-02-29", 1),
    ("d = :v::date", "2024-02-29", 1), ("tz = :v", ZONED, 1), ("iv = :v", timedelta(hours=36), 1),
    ("u = :v", UUID(HEX), 1), ("by = :v", b"\x00'\\", 1), ("e = :v", Code.IS, 1), ("i4 = :v", Size.SMALL, 1),
    ("i4 IN :v", [], 0), ("i4 NOT IN :v", [], 1), ("i4 IN :v", np.array([5, 6]), 1),
    ("t = ANY (:v)", ["IS"], 1),
    ("e IN :v", pd.Series(["IS"]), 1), ("i8 = :v", np.int64(2**53 + 1), 1), ("t = :v", pd.NA, 0),
    ("ts = :v", pd.Timestamp("2024-02-29 23:59"), 1), ("ts = :v", pd.NaT, 0), ("t = :v", None, 0),
    ("(:v::jsonb) -> 'a' = j", {"a": 5}, 1), ("jsonb '[1, 2]' @> :v", [1], 1),
]  # fmt: skip


@pytest.mark.parametrize(
    "binding", [pytest.param(b, marks=needs_pgbouncer if b == "pgbouncer" else ()) for b in BINDS]
)
async def test_every_helper_sends_the_same_whatever_the_bind_and_the_options(
    engine: AsyncEngine, psycopgs: Any, binding: str
) -> None:
    assert psycopgs
    async with bound(engine, binding) as (_, bind):
        for condition, value, found in EVERYWHERE:
            given = {"v": value}
            for columns in ("i4", "i4, now()"):
                sql = f"SELECT {columns} FROM sent.sent WHERE {condition}"  # noqa: S608
                assert len(await citykit.read_frame(bind, sql, given)) == found, (condition, value)
                frames = [frame async for frame in citykit.stream_frames(bind, sql, given)]
                assert sum(map(len, frames)) == found, (condition, value)
            sql = f"UPDATE sent.sent SET i4 = i4 WHERE {condition}"  # noqa: S608
            assert (await citykit.execute(bind, sql, given)).rows == found, (condition, value)


async def test_a_bind_of_a_declared_type_is_sent_as_its_value(bind: AsyncConnection, psycopgs: Any) -> None:
    assert psycopgs
    given: list[tuple[TypeEngine[Any], Any, str]] = [
        (sa.Enum(Code, name="code"), Code.IS, "IS"), (sa.Uuid(), UUID(HEX), HEX),
        (sa.Uuid(as_uuid=False), HEX, HEX),
        (pg.JSONB(), {"a": [1]}, '{"a": [1]}'), (sa.JSON(), [1, "a"], '[1, "a"]'),
        (pg.ARRAY(sa.Integer), [1, None], "{1,NULL}"), (pg.ARRAY(pg.JSONB), [{"a": 1}], '{"{\\"a\\": 1}"}'),
        (pg.ARRAY(sa.Text), ["a", None], "{a,NULL}"), (sa.Interval(), timedelta(1), "1 day"),
        (sa.LargeBinary(), b"x", "\\x78"), (sa.Numeric(), 0.1, "0.1"), (sa.Float(), 1, "1"),
        (sa.DateTime(timezone=True), ZONED, "2024-02-29 18:14:00+00"), (sa.Time(), time(1), "01:00:00"),
        (pg.INET(), "10.0.0.1", "10.0.0.1"), (pg.BIT(3), "101", "101"), (sa.BigInteger(), 5, "5"),
        (pg.INT4RANGE(), pg.Range(1, 3), "[1,3)"), (sa.Text(), None, "None"),
    ]  # fmt: skip
    await bind.execute(text("SET LOCAL TimeZone = 'UTC'"))
    for type_, value, written in given:
        for columns in ([], [sa.func.now()]):
            statement = select(sa.cast(literal(value, type_), sa.Text).label("x"), *columns)
            assert (
                str((await citykit.read_frame(bind, statement))["x"].astype(object)[0]).replace(
                    "<NA>", "None"
                )
                == written
            ), type_


DECLARED: dict[str, TypeEngine[Any]] = {
    "i4": sa.Integer(), "f8": sa.Double(), "n": sa.Numeric(), "t": sa.Text(), "d": sa.Date(),
    "ts": sa.DateTime(), "u": sa.Uuid(), "b": sa.Boolean(), "iv": sa.Interval(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("i4", 5.4, 0), ("i4", 5.0, 1), ("i4", Decimal("5.4"), 0), ("i4", 5, 1), ("f8", 5, 0),
        ("d", datetime(2024, 2, 29, 1), 0),
        ("d", ZONED, 0), ("d", datetime(2024, 2, 29), 1), ("d", date(2024, 2, 29), 1), ("n", 0.1, 1),
    ],
)  # fmt: skip
async def test_a_declared_bind_rounds_no_value(
    bind: AsyncConnection, psycopgs: Any, name: str, value: Any, found: int
) -> None:
    assert psycopgs
    of = column(name, DECLARED[name])
    conditions: list[tuple[Any, Any]] = [
        (of == bindparam("v"), {"v": value}),
        (of.in_(bindparam("v", expanding=True)), {"v": [value]}),
        (of == literal(value, of.type), None),
    ]
    for condition, params in conditions:
        for columns in ([of], [of, sa.func.now()]):
            statement = select(*columns).select_from(table("sent")).where(condition)
            assert len(await citykit.read_frame(bind, statement, params)) == found, str(statement)


@pytest.mark.parametrize("name", DECLARED)
async def test_a_select_over_declared_columns_finds_what_sqlalchemy_finds_by_psycopg(
    bind: AsyncConnection, psycopgs: Any, name: str
) -> None:
    judge = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopgs, poolclass=sa.StaticPool)
    of = column(name, DECLARED[name])
    differing: list[Any] = []
    for value in [value for values in VALUES.values() for value in values[:4]]:
        try:
            condition = of == value
        except sa.exc.ArgumentError:
            continue
        sides: list[Any] = []
        for way in ("psycopg", "citykit"):
            statement = select(sa.func.count()).select_from(table("sent")).where(condition)
            try:
                if way == "psycopg":
                    with judge.connect() as connection:
                        sides.append(connection.scalar(statement))
                else:
                    sides.append((await citykit.read_frame(bind, statement)).iloc[0, 0])
            except (sa.exc.SQLAlchemyError, citykit.CitykitError, AttributeError, TypeError):
                sides.append("refused")
        if sides[0] != sides[1]:
            differing.append((value, sides))
    assert not differing, "\n".join(map(str, differing))
