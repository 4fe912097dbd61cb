"""What a value means does not depend on what holds it: numbers, subclasses, extension types of Arrow."""

from __future__ import annotations

import datetime
import enum
import json
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.encode import rules_of, validate
from tests.support.tables import created

NUMBERS: dict[str, Any] = {
    "smallint": sa.SmallInteger(), "integer": sa.Integer(), "bigint": sa.BigInteger(), "numeric": sa.Numeric(),  # noqa: E501
    "real": sa.REAL(), "double precision": sa.Double(),
}  # fmt: skip
BITS = {"smallint": 15, "integer": 31, "bigint": 63}
WHOLE = [n for power in (0, 15, 24, 31, 53, 63) for e in (-1, 0, 1) for n in (2**power + e, -(2**power) + e)]
WHOLE += [123_456_790_000, 10**18, 10**23, 2**100, 2**60]


def holds(type_: str, number: int) -> Any:
    """Tell whether a column of a type holds a whole number, by arithmetic on integers alone."""
    if type_ in BITS:
        return -(2 ** BITS[type_]) <= number < 2 ** BITS[type_]
    bits = {"real": 24, "double precision": 53}.get(type_)
    size = abs(number)
    return (
        bits is None or size >> max(size.bit_length() - bits, 0) << max(size.bit_length() - bits, 0) == size
    )


def in_arrow(type_: pa.DataType) -> Callable[[int], Any]:
    return lambda number: pd.array(pa.array([number, None], type_), dtype=pd.ArrowDtype(type_))


def objects(make: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda number: pd.Series([make(number), None], dtype=object)


class Number(int):
    def __str__(self) -> str:
        return "a number"

    __repr__ = __str__


CONTAINERS: dict[str, Callable[[int], Any]] = {
    "int64": lambda number: pd.Series([number, 0], dtype="int64"),
    "Int64": lambda number: pd.array([number, None], dtype="Int64"),
    "object of int": objects(int),
    "object of np.int64": objects(np.int64),
    "object of Decimal": objects(Decimal),
    "object of Fraction": objects(Fraction),
    "object of a subclass": objects(Number),
    "arrow int64": in_arrow(pa.int64()),
    "arrow decimal": in_arrow(pa.decimal128(38, 0)),
    "arrow dictionary": lambda number: pd.Series(
        pd.arrays.ArrowExtensionArray(pa.array([number, None], pa.int64()).dictionary_encode())
    ),
    "category": lambda number: pd.Series(pd.Categorical([number, None])),
}


OF_64_BITS = ("int64", "Int64", "object of np.int64", "arrow int64", "arrow dictionary", "category")


def checked(type_: sa.types.TypeEngine[Any], values: Any) -> tuple[list[Any], list[str]]:
    """Return the values as they are stored, and the reasons of rejects."""
    rules = rules_of(sa.Table("numbers", sa.MetaData(), sa.Column("x", type_)))
    rows, rejects = validate(pd.DataFrame({"x": values}), rules)
    return rows.column("x").to_pylist(), rejects["reason"].tolist()


@pytest.mark.parametrize("array", [False, True], ids=["", "array"])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("type_", NUMBERS)
def test_a_whole_number_is_stored_or_rejected_whatever_holds_it(
    type_: str, container: str, array: bool
) -> None:
    numbers = [number for number in WHOLE if container not in OF_64_BITS or -(2**63) <= number < 2**63]
    if container == "object of Fraction" and type_ == "numeric":
        return  # which is not a decimal number
    held = [number for number in numbers if holds(type_, number)]
    others = [number for number in numbers if not holds(type_, number)]
    for group, good in ((held, True), (others, False)):
        # Each number is alone in a column of its own: what is known of one says nothing of another.
        frame = {str(number): CONTAINERS[container](number) for number in group}
        column = NUMBERS[type_]
        if array:
            frame = {
                name: pd.Series([list(values[:1]), None], dtype=object) for name, values in frame.items()
            }
            column = sa.ARRAY(column)
        table = sa.Table("numbers", sa.MetaData(), *[sa.Column(name, column) for name in frame])
        rows, rejects = validate(pd.DataFrame(frame), rules_of(table))
        assert rejects["column"].tolist() == ([] if good else [str(number) for number in group])
        for number in group if good else ():
            [first, _] = rows.column(str(number)).to_pylist()
            found = first[0] if array else first
            assert (Decimal(found) if type_ == "numeric" else int(found)) == number


@pytest.mark.parametrize("type_", NUMBERS)
def test_truth_is_no_number_whatever_holds_it(type_: str) -> None:
    for values in ([True], [np.True_], pd.array([True], dtype="boolean"), pd.Series([True])):
        held = pd.Series(values, dtype=object) if isinstance(values, list) else values
        if isinstance(values, list):
            assert checked(NUMBERS[type_], held)[1] == ["not a number"]
        else:
            with pytest.raises(citykit.InvalidFrameError, match="of dtype bool"):
                checked(NUMBERS[type_], held)
        assert checked(sa.ARRAY(NUMBERS[type_]), pd.Series([list(held)], dtype=object))[1]


@pytest.mark.parametrize(
    ("type_", "value", "exact"),
    [
        ("double precision", Decimal("0.1"), True), ("double precision", Decimal("0.5"), True), ("double precision", Decimal("0.10000000000000000001"), False),  # noqa: E501
        ("real", Decimal("0.1"), True), ("real", Decimal("0.123456789"), False), ("real", Decimal("0.5"), True),  # noqa: E501
    ],
)  # fmt: skip
def test_a_decimal_with_a_fraction_is_stored_exactly_or_as_written(
    type_: str, value: Decimal, exact: bool
) -> None:
    held = [pd.Series([value], dtype=object)]
    if len(value.as_tuple().digits) < 30:
        scale = -int(value.as_tuple().exponent)
        held.append(in_pandas(pa.array([value], pa.decimal128(38, scale))))
    for values in held:
        assert (checked(NUMBERS[type_], values)[1] == []) is exact
        assert (checked(sa.ARRAY(NUMBERS[type_]), pd.Series([list(values)], dtype=object))[1] == []) is exact


BEYOND_A_DOUBLE = np.nextafter(np.longdouble(0.1), np.longdouble(1))
AS_DOUBLE = float(BEYOND_A_DOUBLE)
HELD = (
    AS_DOUBLE if AS_DOUBLE == BEYOND_A_DOUBLE else None
)  # as on ARM's macOS, where a longdouble is a double


@pytest.mark.parametrize("container", ["object", "longdouble"])
@pytest.mark.parametrize("type_", ["numeric", "double precision"])
@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.longdouble(0.1), 0.1),
        (np.longdouble(5), 5.0),
        (np.longdouble("-inf"), -np.inf),
        (BEYOND_A_DOUBLE, HELD),
    ],
    ids=str,
)
def test_a_longdouble_is_the_double_that_it_equals_or_a_reject(
    value: Any, stored: float | None, type_: str, container: Any
) -> None:
    values, reasons = checked(NUMBERS[type_], pd.Series([value, np.longdouble("nan")], dtype=container))
    in_array = checked(sa.ARRAY(NUMBERS[type_]), pd.Series([[value]], dtype=object))
    if stored is None:
        assert (values, reasons) == ([None], ["not exact in double precision"])
        assert in_array[1] == ["element 0 not exact in double precision"]
    else:
        assert [each and float(each) for each in values] == [stored, None]
        assert [float(each) for each in in_array[0][0]] == [stored]
    assert checked(NUMBERS["integer"], pd.Series([value], dtype=container))[1] == (
        [] if stored == 5 else ["infinite" if stored == -np.inf else "fractional"]
    )


@pytest.mark.parametrize(
    ("scale", "value", "reason"),
    [
        (-2, "12300", None), (-2, "0", None), (-2, "12345", "not a multiple of 100"),
        (-2, "-10000000", "with more than 7 digits before the point"),
        (7, "0.0012345", None), (7, "0", None), (7, "-0.01", "too large for numeric(5, 7)"),
    ],
)  # fmt: skip
def test_the_scale_of_a_numeric_may_be_negative_or_greater_than_its_precision(
    scale: int, value: str, reason: str | None
) -> None:
    number = Decimal(value)
    columns: list[Any] = [pd.Series([each], dtype=object) for each in (value, number, float(value))]
    columns += [pd.Series([value], dtype="str"), pd.Series([float(value)])]
    columns += [in_pandas(pa.array([number], pa.decimal128(38, 7)))]
    for held in columns:
        stored, reasons = checked(sa.Numeric(5, scale), held)
        assert [Decimal(each) for each in stored] == ([] if reason else [number])
        assert reasons == ([reason] if reason else [])


@pytest.mark.parametrize(("precision", "scale"), [(400, 0), (1_000, 500), (5, -900), (5, 900)])
def test_numbers_are_compared_with_limits_that_no_double_holds(precision: int, scale: int) -> None:
    for dtype in ("float64", "int64"):
        stored, reasons = checked(sa.Numeric(precision, scale), pd.Series([0, 0], dtype=dtype))
        assert [Decimal(each) for each in stored] == [0, 0]
        assert reasons == []


async def test_zeros_beyond_the_digits_of_a_numeric_are_left_out(engine: AsyncEngine) -> None:
    table = sa.Table(
        "zeros", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("free", sa.Numeric), sa.Column("limited", sa.Numeric(50, 2)), sa.Column("at", pg.INET),
    )  # fmt: skip
    values = ["1." + "0" * 40_000, Decimal("0E-40000"), "-1." + "0" * 16_384, "2.5"]
    frame = pd.DataFrame({"key": range(len(values)), "free": pd.Series(values, dtype=object)})
    frame = frame.assign(limited=frame["free"])
    for source in (frame, frame.assign(at="10.0.0.1")):  # with an inet the rows are sent as text
        async with created(engine, table):
            await citykit.load_frame(engine, source, table)
            sql = "SELECT free::float8, scale(free), limited::float8, scale(limited) FROM zeros ORDER BY key"
            async with engine.connect() as connection:
                found = [tuple(row) for row in await connection.execute(text(sql))]
        scales = [16_383, 16_383, 16_383, 1]
        assert found == [(n, each, n, 2) for n, each in zip([1, 0, -1, 2.5], scales, strict=True)]


# Subclasses


class Country(enum.StrEnum):
    IS = "IS"


class Size(enum.IntEnum):
    BIG = 5


class Height(float, enum.Enum):
    HIGH = 1.5


class Colour(enum.Enum):
    RED = "red"


class Named(enum.Enum):
    FIRST = 1
    ALIAS = 1
    SECOND = 2


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


@pytest.mark.parametrize(
    ("type_", "value", "stored"),
    [
        (sa.Text(), Country.IS, "IS"), (sa.Text(), Colour.RED, "red"), (sa.Text(), np.str_("a"), "a"),
        (sa.Text(), Loud("a"), "a"), (sa.Integer(), Size.BIG, 5), (sa.Integer(), np.float64(5), 5),
        (sa.Double(), Height.HIGH, 1.5), (sa.Double(), Size.BIG, 5.0), (sa.Double(), np.float32(0.5), 0.5),
        (sa.Numeric(), Size.BIG, "5"), (sa.Numeric(), Height.HIGH, "1.5"), (sa.Boolean(), np.True_, True),
        (sa.JSON(), {"a": [Country.IS, Size.BIG, Colour.RED, np.int64(1)]}, '{"a": ["IS", 5, "red", 1]}'),
        (sa.Enum("IS", "GB", name="c"), Country.IS, "IS"), (sa.Enum(Colour), Colour.RED, "RED"),
        (sa.Enum(Named, omit_aliases=False), Named.SECOND, "SECOND"),
        (sa.Enum(Named, omit_aliases=False), Named.ALIAS, "FIRST"), (sa.Enum(Named), Named.ALIAS, "FIRST"),
        (sa.Uuid(), Loud("12345678-1234-5678-1234-567812345678"), "12345678-1234-5678-1234-567812345678"),
    ],
    ids=str,
)  # fmt: skip
def test_an_instance_of_a_subclass_is_the_value_that_it_holds(
    type_: sa.types.TypeEngine[Any], value: Any, stored: Any
) -> None:
    assert checked(type_, pd.Series([value, None], dtype=object)) == ([stored, None], [])
    assert checked(sa.ARRAY(type_), pd.Series([[value, None]], dtype=object)) == ([[stored, None]], [])
    if not isinstance(value, dict):
        assert checked(type_, pd.Series(pd.Categorical([value, None]))) == ([stored, None], [])


async def test_a_city_takes_the_value_of_an_enum(engine: AsyncEngine) -> None:
    city = await citykit.add_city(engine, Loud("a"), Size.BIG, country=Country.IS, latitude=Height.HIGH)
    assert (type(city.country), city.country, city.population) == (str, "IS", 5)
    frame = pd.DataFrame({"name": ["b"], "population": [Size.BIG], "country": [Country.IS]})
    await citykit.load_cities(engine, frame)
    found = await citykit.read_frame(engine, "SELECT name, country, population FROM cities ORDER BY name")
    assert found.to_numpy().tolist() == [["a", "IS", 5], ["b", "IS", 5]]


# Extension types of Arrow


def in_pandas(array: pa.Array | pa.ChunkedArray) -> Any:
    return pd.Series(pd.arrays.ArrowExtensionArray(array))


A_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
EXTENSIONS: dict[str, tuple[pa.DataType, list[Any], sa.types.TypeEngine[Any], Any]] = {
    "json": (pa.json_(), ['{"a": 1.00}', None], sa.JSON(), {"a": 1}),
    "jsonb": (pa.json_(), ['{"a": 1.00}', None], pg.JSONB(), {"a": 1}),
    "uuid": (pa.uuid(), [A_UUID.bytes, None], sa.Uuid(), A_UUID),
    "bool8": (pa.bool8(), [1, None], sa.Boolean(), True),
}


@pytest.mark.parametrize("name", EXTENSIONS)
async def test_extension_types_are_read_for_what_they_are(engine: AsyncEngine, name: str) -> None:
    type_, stored, column, value = EXTENSIONS[name]
    values = pa.ExtensionArray.from_storage(type_, pa.array(stored, type_.storage_type))
    many = pa.ListArray.from_arrays(pa.array([0, 2, 2], pa.int32()), values)
    table = sa.Table(
        "extended", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", column), sa.Column("many", sa.ARRAY(column)),
    )  # fmt: skip
    rows = pa.table({"key": [0, 1], "one": values, "many": many})
    chunks = pa.concat_tables([rows[:1], rows[1:]])
    for source in (rows, chunks, rows.to_pandas(types_mapper=pd.ArrowDtype)):
        async with created(engine, table):
            await citykit.load_frame(engine, source, table)
            found = await citykit.read_frame(engine, "SELECT one, many FROM extended ORDER BY key")
            assert found["one"].iloc[0] == value
            assert found["one"].isna().tolist() == [False, True]
            assert found["many"].tolist() == [[value, None], []]
            if name == "json":  # as it was written
                async with engine.connect() as connection:
                    assert await connection.scalar(text("SELECT one::text FROM extended")) == stored[0]


TENSOR = pa.fixed_shape_tensor(pa.int32(), [2])
MATRIX = pa.fixed_shape_tensor(pa.int32(), [2, 2])
OPAQUE = pa.opaque(pa.string(), "point", "somebody")


def test_a_tensor_of_one_dimension_is_an_array() -> None:
    values = pa.ExtensionArray.from_storage(TENSOR, pa.array([[1, 2], None], TENSOR.storage_type))
    assert checked(sa.ARRAY(sa.Integer), in_pandas(values)) == ([[1, 2], None], [])


@pytest.mark.parametrize(
    ("type_", "stored", "column", "name"),
    [
        (OPAQUE, "x", sa.Text(), "arrow.opaque"), (OPAQUE, "x", sa.JSON(), "arrow.opaque"),
        (pa.json_(), "1", sa.Text(), "arrow.json"), (pa.json_(), "1", sa.Integer(), "arrow.json"),
        (pa.uuid(), A_UUID.bytes, sa.Text(), "arrow.uuid"), (pa.bool8(), 1, sa.Integer(), "arrow.bool8"),
        (TENSOR, [1, 2], sa.JSON(), "arrow.fixed_shape_tensor"),
        (MATRIX, [1, 2, 3, 4], sa.ARRAY(sa.Integer), "arrow.fixed_shape_tensor"),
    ],
    ids=str,
)  # fmt: skip
def test_other_extension_types_are_refused_by_name(
    type_: pa.DataType, stored: Any, column: sa.types.TypeEngine[Any], name: str
) -> None:
    values = pa.ExtensionArray.from_storage(type_, pa.array([stored, None], type_.storage_type))
    with pytest.raises(citykit.InvalidFrameError, match=f"of dtype .*{name}"):
        checked(column, in_pandas(values))
    if not isinstance(column, sa.ARRAY):
        many = in_pandas(pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), values))
        with pytest.raises(citykit.InvalidFrameError, match=f"of dtype .*{name}"):
            checked(sa.ARRAY(column), many)


@pytest.mark.parametrize(
    "value", [{1: "a"}, {1: "a", "1": "b"}, [{"a": {None: 1}}], {"a": ({"b": 1, True: 2},)}], ids=str
)
def test_a_key_of_json_that_is_no_text_is_a_reject(value: Any) -> None:
    for held in (value, np.array([value, None], dtype=object)):
        stored, [reason] = checked(pg.JSONB(), pd.Series([held, {"a": [1]}], dtype=object))
        assert stored == ['{"a": [1]}']
        assert re.fullmatch(r"not JSON \(its key (1|None|True) is no text\)", reason)


@pytest.mark.parametrize("written", ["{", "NaN", "[Infinity]", ""])
def test_text_that_is_not_json_is_a_reject(written: str) -> None:
    values = pa.ExtensionArray.from_storage(pa.json_(), pa.array([written, "1"]))
    stored, [reason] = checked(pg.JSONB(), in_pandas(values))
    assert [json.loads(one) for one in stored] == [1]
    assert reason.startswith("not JSON")


NUMBERS_OF_JSON = {
    "1" * 5_000: True,
    "[1e131071]": True,
    "1e-16383": True,
    "[1e131072]": False,
    "1e-20000": False,
}


@pytest.mark.parametrize("written", [*NUMBERS_OF_JSON, "1" + "0" * 131_072, "1e9999999999999999999"])
def test_a_number_of_json_is_stored_as_written_where_the_type_holds_it(written: str) -> None:
    values = pa.ExtensionArray.from_storage(pa.json_(), pa.array([written]))
    assert checked(pg.JSON(), in_pandas(values)) == ([written], [])
    stored, reasons = checked(pg.JSONB(), in_pandas(values))
    assert (stored, len(reasons)) == (([written], 0) if NUMBERS_OF_JSON.get(written) else ([], 1))
    assert all("digits" in reason for reason in reasons)


NESTED: list[Any] = []
for _ in range(20_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"n": 10**5_000}, "with an integer of more than 4,300 digits"),
        (["\ud800"], "with a lone surrogate, which is no character"),
        (
            NESTED,
            "with too many values inside of each other",
        ),
    ],
    ids=["integer", "surrogate", "nested"],
)
def test_what_python_cannot_write_as_json_is_a_reject_with_a_reason_of_its_own(
    value: Any, reason: str
) -> None:
    assert checked(pg.JSONB(), pd.Series([value, {"a": 1}], dtype=object)) == (['{"a": 1}'], [reason])


SECONDS = datetime.timezone(datetime.timedelta(seconds=1, microseconds=500_000))


@pytest.mark.parametrize(
    "beside", [None, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "2026-01-01 00:00Z"]
)
@pytest.mark.parametrize("of", [datetime.datetime, pd.Timestamp])
def test_an_offset_from_utc_may_have_a_fraction_of_a_second(of: Any, beside: Any) -> None:
    moment, first = of(2026, 1, 1, tzinfo=SECONDS), of(1, 1, 1, tzinfo=SECONDS)
    given = [moment, moment] if beside is None else [moment, beside]
    expected = datetime.datetime(2025, 12, 31, 23, 59, 58, 500_000, datetime.UTC)
    stored, reasons = checked(sa.DateTime(timezone=True), pd.Series(given, dtype=object))
    assert (stored[0], reasons) == (expected, [])
    [elements], reasons = checked(sa.ARRAY(sa.DateTime(timezone=True)), pd.Series([[moment]], dtype=object))
    assert (elements, reasons) == ([expected], [])
    rules = rules_of(sa.Table("moments", sa.MetaData(), sa.Column("x", sa.DateTime(timezone=True))))
    assert validate(pd.DataFrame({"x": pd.Series([first, moment], dtype=object)}), rules)[1].empty


def test_durations_of_numpy_are_durations_whatever_is_beside_them() -> None:
    day, two = np.timedelta64(1, "D"), datetime.timedelta(2)
    for values in ([day], [day, two], [day, None]):
        stored, reasons = checked(sa.Interval(), pd.Series(values, dtype=object))
        assert reasons == []
        assert stored[0] == datetime.timedelta(1)
