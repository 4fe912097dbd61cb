"""Columns of objects: what is stored of a value, and why it is refused, does not depend on the others."""

from __future__ import annotations

import datetime
import enum
from decimal import Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from citykit.encode import POSITION, Rule, rules_of, validate
from citykit.pgtypes import PGTYPES


class Word(str):
    """A text of somebody's own class."""


class Color(enum.Enum):
    """An enum that is no text itself."""

    RED = "red"
    ODD = None


class Level(enum.IntEnum):
    """Integers with names."""

    LOW = 1


class Moment(datetime.datetime):
    """A datetime of somebody's own class."""


TYPES: dict[str, Any] = {
    "smallint": sa.SmallInteger,
    "integer": sa.Integer,
    "bigint": sa.BigInteger,
    "oid": pg.OID,
    "real": sa.REAL,
    "double": sa.Double,
    "numeric": sa.Numeric,
    "numeric(5,2)": sa.Numeric(5, 2),
    "numeric(2,2)": sa.Numeric(2, 2),
    "numeric(38,0)": sa.Numeric(38, 0),
    "boolean": sa.Boolean,
    "text": sa.Text,
    "varchar(3)": sa.String(3),
    "char(2)": sa.CHAR(2),
    "enum": sa.Enum("red", "b", name="e"),
    "enum of Python": sa.Enum(Color, name="c", values_callable=lambda c: [str(m.value) for m in c]),
    "uuid": sa.Uuid,
    "date": sa.Date,
    "time": sa.Time,
    "time(3)": pg.TIME(precision=3),
    "timestamp": sa.DateTime,
    "timestamp(0)": pg.TIMESTAMP(precision=0),
    "timestamptz": sa.DateTime(timezone=True),
    "interval": sa.Interval,
    "interval(2)": pg.INTERVAL(precision=2),
    "json": sa.JSON,
    "jsonb": pg.JSONB,
    "bytea": sa.LargeBinary,
    "inet": pg.INET,
    "cidr": pg.CIDR,
    "macaddr": pg.MACADDR,
    "bigint[]": sa.ARRAY(sa.BigInteger),
    "numeric[]": sa.ARRAY(sa.Numeric),
    "text[]": sa.ARRAY(sa.Text),
    "date[]": sa.ARRAY(sa.Date),
}
TABLE = sa.Table(
    "objects", sa.MetaData(), *[sa.Column(name, type_, nullable=True) for name, type_ in TYPES.items()]
)
RULES = {rule.name: rule for rule in rules_of(TABLE)}

ZONES = st.sampled_from(
    [
        None,
        datetime.UTC,
        ZoneInfo("Europe/Madrid"),
        ZoneInfo("Asia/Kathmandu"),
        datetime.timezone(datetime.timedelta(hours=-5, seconds=7)),
        datetime.timezone(datetime.timedelta(seconds=1, microseconds=500_000)),
    ]
)
DATETIMES = st.datetimes() | st.datetimes(
    datetime.datetime(2024, 10, 27, 0), datetime.datetime(2024, 10, 27, 3)
)
MOMENTS = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    DATETIMES | st.dates().map(lambda day: datetime.datetime(day.year, day.month, day.day)),
    ZONES,
    st.integers(0, 1),
)
NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from(
    [0, 1, -1, 2**15, 2**24 + 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**38, 10**4_000]
)
FLOATS = st.floats() | st.sampled_from([0.1, -0.0, 1.0, 1e16, 1e-7, 2.0**63, 99.995, 1e300, -1.0])
DECIMALS = st.decimals() | st.sampled_from(
    [
        Decimal(text)
        for text in (
            "1.50",
            "1.5",
            "-0.00",
            "0",
            "5.",
            "1E+3",
            "1E-7",
            "0E+9",
            "0E-20",
            "NaN",
            "sNaN",
            "-NaN7",
            "Infinity",
            "-Infinity",
            "123456789012345",
            "1234567890123456",
            "0.123456789012345",
            "9" * 38 + ".5",
            "9" * 80,
            "1E+1000000",
            "1E-1000000",
            "999.994",
            "0.10",
            "9223372036854775807",
            "9223372036854775808.0",
        )
    ]
)
TEXTS = st.text(st.characters(codec=None), max_size=4) | st.sampled_from(
    [
        "red",
        "b",
        "",
        "\0",
        "\ud800",
        "12",
        "-1.50",
        "1e3",
        "1,5",
        "2024-01-31",
        "2024-02-30",
        "12:30",
        "2024-01-31 12:30:00+01:00",
        "true",
        "t",
        "00000000-0000-0000-0000-00000000000a",
        "10.0.0.0/8",
        "0000000000000000000000000000000A",
        "NaN",
        "inf",
        "08:00:2b:01:02:03",
        "{}",
        "Infinity",
    ]
)
TIMES = st.builds(lambda time, zone: time.replace(tzinfo=zone), st.times(), st.none() | ZONES)
TIMESTAMPS = st.builds(
    lambda moment, zone, nanoseconds: (
        pd.Timestamp(moment) if nanoseconds is None else pd.Timestamp(nanoseconds, tz=zone)
    ),
    MOMENTS.filter(lambda moment: 1 < moment.year < 9999),
    ZONES,
    st.none() | st.integers(-(2**62), 2**62),
) | st.integers(-300_000, 300_000).map(lambda year: pd.Timestamp(np.datetime64(f"{year:05}-01-01", "s")))
# Values of one type, by its name; each strategy gives some of what people have in columns of that type.
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int": NUMBERS,
    "small int": st.integers(-300, 300),
    "float": FLOATS,
    "decimal": DECIMALS,
    "money": st.decimals(-1000, 1000, places=2),
    "bool": st.booleans(),
    "text": TEXTS,
    "digits": NUMBERS.map(str),
    "uuid": st.uuids(),
    "uuid in text": st.uuids().map(str),
    "date": st.dates(),
    "naive": DATETIMES,
    "aware": MOMENTS.filter(lambda moment: moment.tzinfo),
    "moment": MOMENTS,
    "time": TIMES,
    "naive time": st.times(),
    "timedelta": st.timedeltas(),
    "Timestamp": TIMESTAMPS,
    "Timedelta": st.integers(-(2**62), 2**62).map(pd.Timedelta),
    "bytes": st.binary(max_size=3),
    "bytearray": st.binary(max_size=3).map(bytearray),
    "list": st.lists(NUMBERS | st.none(), max_size=3),
    "list of one type": st.lists(DECIMALS, max_size=3) | st.lists(st.dates(), max_size=3).map(tuple),
    "dict": st.dictionaries(TEXTS, NUMBERS | TEXTS, max_size=2),
    "np.int64": st.integers(-(2**63), 2**63 - 1).map(np.int64),
    "np.float32": st.floats(width=32).map(np.float32),
    "np.float64": FLOATS.map(np.float64),
    "np.str_": TEXTS.map(np.str_),
    "np.bool_": st.booleans().map(np.bool_),
    "np.datetime64": st.sampled_from(
        [np.datetime64("2024-01-31"), np.datetime64("NaT", "ns"), np.datetime64(1, "ns")]
    ),
    "ndarray": st.lists(FLOATS, max_size=3).map(np.array),
    "Word": TEXTS.map(Word),
    "enum": st.sampled_from(Color),
    "IntEnum": st.sampled_from(Level),
    "Moment": DATETIMES.map(lambda at: Moment(*at.timetuple()[:6])),
}
MISSING = st.sampled_from([None, float("nan"), pd.NaT, pd.NA, np.float64("nan"), Decimal("NaN")])
UNIFORM = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.lists(KINDS[kind], min_size=1, max_size=5))
WITH_MISSING = st.tuples(UNIFORM, st.lists(MISSING, max_size=3)).map(lambda two: two[1] + two[0] + two[1][:1])
MIXED = st.lists(st.one_of(*KINDS.values(), MISSING), max_size=4)

ODD = 1j  # of no type that any column takes: beside it, every value of a column is looked at by itself


def outcome(values: list[Any], rule: Rule) -> tuple[pa.Array, list[tuple[Any, str]]]:
    """Return what is stored, and the rows that are refused with their reasons."""
    objects = np.empty(len(values), dtype=object)
    objects[:] = [None] * len(values)
    for position, value in enumerate(values):
        objects[position] = value
    typed, rejects = validate(pd.DataFrame({rule.name: pd.Series(objects, dtype=object)}), [rule])
    stored = typed[rule.name].combine_chunks()
    assert typed[POSITION].to_pylist() == sorted(set(range(len(values))) - set(rejects["row"]))
    return stored, list(zip(rejects["row"], rejects["reason"], strict=True))


def assert_same_as_one_by_one(values: list[Any], rule: Rule) -> None:
    stored, refused = outcome(values, rule)
    expected, rejects = outcome([*values, [ODD] if rule.item else ODD], rule)
    assert rejects.pop()[0] == len(values)
    assert refused == rejects
    assert stored.type == expected.type
    assert stored.equals(expected), (stored, expected)
    if pa.types.is_floating(stored.type):  # 0.0 equals -0.0
        assert stored.cast(pa.string()).equals(expected.cast(pa.string()))


def test_every_type_that_can_be_loaded_is_here() -> None:
    assert {rule.type for rule in RULES.values()} == {row for row in PGTYPES.values() if row.check}


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=10)
@given(values=UNIFORM | WITH_MISSING | MIXED)
@pytest.mark.slow
def test_column_of_objects_is_typed_as_its_values_are_one_by_one(name: str, values: list[Any]) -> None:
    assert_same_as_one_by_one(values, RULES[name])


def test_first_flaw_of_an_array_is_named() -> None:
    assert outcome([np.array([2.0**63, 0.5])], RULES["bigint[]"])[1] == [
        (0, "element 0 above 9,223,372,036,854,775,807")
    ]


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(TYPES)))
def test_values_of_one_type_are_typed_as_they_are_one_by_one(kind: str, name: str, data: Any) -> None:
    values = data.draw(st.lists(KINDS[kind], min_size=1, max_size=4))
    missing = data.draw(st.lists(MISSING, max_size=2))
    assert_same_as_one_by_one(missing + values + missing, RULES[name])


@given(
    digits=st.integers(1, 38), places=st.integers(0, 38), into=st.integers(1, 38), scale=st.integers(0, 38),
    number=st.integers(-(10**38), 10**38),
)  # fmt: skip
@example(digits=10, places=6, into=38, scale=37, number=1_607_527_753)
@example(digits=29, places=0, into=29, scale=0, number=-1)
@pytest.mark.slow
def test_decimals_of_arrow_are_stored_as_they_are_or_refused(
    digits: int, places: int, into: int, scale: int, number: int
) -> None:
    places, scale = min(places, digits), min(scale, into)
    value = Decimal(number % 10**digits * (1 if number > 0 else -1)).scaleb(-places, Context(prec=digits))
    table = sa.Table("t", sa.MetaData(), sa.Column("v", sa.Numeric(into, scale)))
    decimals = pa.array([value], pa.decimal128(digits, places))
    for array in (decimals, pa.array([f"{value:f}"]), pa.array([value], pa.decimal256(76, places))):
        frame = pd.DataFrame({"v": pd.Series(pd.arrays.ArrowExtensionArray(array))})
        rows, rejects = validate(frame, rules_of(table))
        exact = value.quantize(Decimal(1).scaleb(-scale), context=Context(prec=99))
        most = 10 ** (into - scale)  # abs() would round to the context's digits
        fits = exact == value and -most < value < most
        assert rows["v"].to_pylist() == [value] * fits
        assert len(rejects) == (not fits)
