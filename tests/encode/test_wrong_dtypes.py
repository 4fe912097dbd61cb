"""A column whose dtype is wrong is one reject with what converts it. No database is involved."""

from __future__ import annotations

import datetime
import enum
import itertools
import re
import sys
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

import citykit
from citykit.encode import NOTATION, Names, Rule, check_dtypes, rules_of, validate

TARGETS: dict[str, Any] = {
    "text": sa.Text(),
    "varchar": sa.String(40),
    "enum": sa.Enum("1", "2020-01-01", name="labels"),
    "smallint": sa.SmallInteger(),
    "integer": sa.Integer(),
    "bigint": sa.BigInteger(),
    "real": sa.REAL(),
    "double": sa.Double(),
    "numeric": sa.Numeric(),
    "numeric(8, 2)": sa.Numeric(8, 2),
    "boolean": sa.Boolean(),
    "date": sa.Date(),
    "time": sa.Time(),
    "timestamp": sa.DateTime(),
    "timestamptz": sa.DateTime(timezone=True),
    "interval": sa.Interval(),
    "uuid": sa.Uuid(),
    "json": sa.JSON(),
    "jsonb": pg.JSONB(),
    "bytea": sa.LargeBinary(),
    "inet": pg.INET(),
    "cidr": pg.CIDR(),
    "macaddr": pg.MACADDR(),
    "text[]": pg.ARRAY(sa.Text()),
    "integer[]": pg.ARRAY(sa.Integer()),
}
DAY = datetime.datetime(2020, 1, 1)
ZONED = DAY.replace(tzinfo=datetime.UTC)


def arrow(value: Any, type_: pa.DataType) -> pd.Series[Any]:
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array([value, None], type_)))


def objects(value: Any) -> pd.Series[Any]:
    series = pd.Series([None, None], dtype=object)
    series[0] = value
    return series


def dtype(value: Any, name: Any) -> Any:
    return pd.Series([value, None], dtype=name)


# Columns of one value and one that is missing (where the dtype has such), by the kind of their values.
SOURCES: dict[str, dict[str, pd.Series[Any]]] = {
    "integers": {
        "int8": pd.Series([1, 1], dtype="int8"),
        "int64": pd.Series([1, 1]),
        "uint64": pd.Series([1, 1], dtype="uint64"),
        "Int32": dtype(1, "Int32"),
        "int64[pyarrow]": arrow(1, pa.int64()),
        "sparse integers": pd.Series([1, 1], dtype="Sparse[int64]"),
        "integer categories": pd.Series(pd.Categorical([1, 1])),
        "object int": objects(1),
        "object np.int64": objects(np.int64(1)),
        "object int, NaN": pd.Series([1, np.nan], dtype=object),
    },
    "floats": {
        "float32": dtype(1, "float32"),
        "float64": dtype(1, "float64"),
        "Float64": dtype(1, "Float64"),
        "double[pyarrow]": arrow(1.0, pa.float64()),
        "float categories": dtype(1.0, "category"),
        "object float": objects(1.0),
        "object np.float32": objects(np.float32(1)),
    },
    "decimals": {
        "decimal[pyarrow]": arrow(Decimal(1), pa.decimal128(5, 1)),
        "object Decimal": objects(Decimal(1)),
    },
    "booleans": {
        "bool": pd.Series([True, True]),
        "boolean": dtype(True, "boolean"),
        "bool[pyarrow]": arrow(True, pa.bool_()),
        "bool categories": pd.Series(pd.Categorical([True, True])),
        "object bool": objects(True),
        "object np.bool": objects(np.True_),
    },
    "texts": {
        "str": dtype("2020-01-01", "str"),
        "string": dtype("2020-01-01", "string"),
        "string[pyarrow]": arrow("2020-01-01", pa.string()),
        "large_string[pyarrow]": arrow("2020-01-01", pa.large_string()),
        "text categories": dtype("2020-01-01", "category"),
        "object str": objects("2020-01-01"),
        "dictionary[pyarrow]": arrow("2020-01-01", pa.dictionary(pa.int8(), pa.string())),
    },
    "dates": {
        "date32[pyarrow]": arrow(DAY.date(), pa.date32()),
        "object date": objects(DAY.date()),
        "date categories": objects(DAY.date()).astype("category"),
    },
    "timestamps": {
        "datetime64[s]": dtype(DAY, "datetime64[s]"),
        "datetime64[us]": dtype(DAY, "datetime64[us]"),
        "timestamp[us][pyarrow]": arrow(DAY, pa.timestamp("us")),
        "object datetime": objects(DAY),
        "object Timestamp": objects(pd.Timestamp(DAY)),
        "timestamp categories": dtype(DAY, "datetime64[us]").astype("category"),
    },
    "zoned": {
        "datetime64[us, UTC]": dtype(ZONED, "datetime64[us, UTC]"),
        "timestamp[us, UTC][pyarrow]": arrow(ZONED, pa.timestamp("us", "UTC")),
        "object datetime, UTC": objects(ZONED),
        "object Timestamp, UTC": objects(pd.Timestamp(ZONED)),
    },
    "times": {
        "time64[us][pyarrow]": arrow(datetime.time(1), pa.time64("us")),
        "time32[s][pyarrow]": arrow(datetime.time(1), pa.time32("s")),
        "object time": objects(datetime.time(1)),
    },
    "durations": {
        "timedelta64[us]": dtype(datetime.timedelta(seconds=1), "timedelta64[us]"),
        "duration[us][pyarrow]": arrow(datetime.timedelta(seconds=1), pa.duration("us")),
        "object timedelta": objects(datetime.timedelta(seconds=1)),
    },
    "bytes": {
        "binary[pyarrow]": arrow(b"1", pa.binary()),
        "large_binary[pyarrow]": arrow(b"1", pa.large_binary()),
        "object bytes": objects(b"1"),
    },
    "uuids": {"object UUID": objects(uuid.UUID(int=1))},
    "dicts": {
        "struct[pyarrow]": arrow({"a": 1}, pa.struct([("a", pa.int64())])),
        "object dict": objects({"a": 1}),
    },
    "lists of text": {
        "list<string>[pyarrow]": arrow(["1"], pa.list_(pa.string())),
        "object list of str": objects(["1"]),
    },
    "lists of integers": {
        "list<int64>[pyarrow]": arrow([1], pa.list_(pa.int64())),
        "object list of int": objects([1]),
    },
    "others": {
        "period": pd.Series(pd.PeriodIndex(["2020-01", None], freq="M")),
        "interval": pd.Series(pd.interval_range(0, 2)),
        "complex128": dtype(1j, "complex128"),
    },
}
NUMBERS = {"integers", "floats", "decimals"}
OF_JSON = {"integers", "floats", "booleans", "texts", "dicts", "lists of text", "lists of integers"}
NUMERIC = ("smallint", "integer", "bigint", "real", "double", "numeric", "numeric(8, 2)")
# The kinds of which a column stores values.
STORES: dict[str, set[str]] = {
    **{name: {"texts"} for name in ("text", "varchar", "enum", "inet", "cidr", "macaddr")},
    **dict.fromkeys(NUMERIC, NUMBERS),
    **dict.fromkeys(("json", "jsonb"), OF_JSON),
    "boolean": {"booleans"},
    "date": {"dates", "timestamps", "texts"},
    "time": {"times"},
    "timestamp": {"dates", "timestamps", "texts"},
    "timestamptz": {"zoned"},
    "interval": {"durations"},
    "uuid": {"uuids", "texts"},
    "bytea": {"bytes"},
    "text[]": {"lists of text"},
    "integer[]": {"lists of integers"},
}
# Kinds of which each value is looked at, and these are refused.
LOOKED_AT = {
    *((name, "texts") for name in ("inet", "cidr", "macaddr", "uuid", "boolean", "time", "timestamptz")),
    *((name, "texts") for name in (*NUMERIC, "text[]", "integer[]")),
}
LISTS_LOOKED_AT = {
    ("text[]", "object list of int"),
    ("integer[]", "object list of str"),
    ("integer[]", "list<string>[pyarrow]"),
}
TARGETS_OF_MANY = ("text", "integer", "boolean", "timestamp", "jsonb", "text[]")
FEW, MANY = 2, 20_002  # rows on both sides of the number from which a load takes other ways


def rules_for(type_: Any) -> list[Rule]:
    table = sa.Table("t", sa.MetaData(), sa.Column("k", sa.Integer, primary_key=True), sa.Column("v", type_))
    return rules_of(table, ("k",))


def frame_of(series: pd.Series[Any], rows: int = FEW) -> pd.DataFrame:
    repeated = series.take(np.tile(np.arange(len(series)), max(1, rows // len(series)))).reset_index(
        drop=True
    )
    return pd.DataFrame({"k": range(len(repeated)), "v": repeated})


def checked(frame: pd.DataFrame, rules: list[Rule], parts: int = 1) -> tuple[int, pd.DataFrame]:
    """Check a frame as a load does: as a whole, then part by part."""
    check_dtypes(frame, rules, Names())
    size = -(-len(frame) // parts)
    found = [validate(frame[start : start + size], rules, start) for start in range(0, len(frame), size)]
    return sum(rows.num_rows for rows, _ in found), pd.concat([rejects for _, rejects in found])


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_dtype_is_stored_or_is_one_reject_with_what_converts_it(target: str, kind: str) -> None:
    rules = rules_for(TARGETS[target])
    for number, (source, series) in enumerate(SOURCES[kind].items()):
        if (target, kind) == ("interval", "texts"):  # a text that its conversion reads
            series = with_texts("1 day", series, "categories" in source)
        for rows in (FEW, MANY) if number == 0 and target in TARGETS_OF_MANY else (FEW,):
            frame = frame_of(series, rows)
            if (target, kind) in LOOKED_AT or (target, source) in LISTS_LOOKED_AT:
                if rows == FEW:
                    assert checked(frame, rules)[1]["row"].notna().all()  # rows are refused, not the column
            elif kind in STORES[target]:
                assert checked(frame, rules, parts=2)[0] == rows
            else:
                refused_and_converted(frame, rules, enum=target == "enum")


def with_texts(text: str, series: pd.Series[Any], categories: bool) -> pd.Series[Any]:
    values = series.astype(object).where(series.notna(), None)
    return pd.Series([value and text for value in values], dtype="category" if categories else series.dtype)


def refused_and_converted(frame: pd.DataFrame, rules: list[Rule], *, enum: bool) -> None:
    with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
        checked(frame, rules, parts=2)
    [reject] = caught.value.rejects.to_dict("records")
    assert (reject["row"], reject["column"], reject["value"]) == (None, "v", None)
    assert "dtype" in reject["reason"]
    typed = re.search(r"(?:^Convert it|leave it out): (frame.*)$", str(caught.value), re.MULTILINE)
    assert typed
    scope: dict[str, Any] = {"frame": frame.copy(), "pd": pd}
    exec(typed[1], scope)  # noqa: S102  what a user types
    stored, rejects = checked(scope["frame"], rules)
    if not enum:  # whose labels decide
        assert (stored, len(rejects)) == (len(frame), 0)


# Types of Arrow's of which pandas takes no values, and a column that does not store them.
UNKNOWN_TO_PANDAS: dict[str, tuple[pa.Array, str]] = {
    "string_view to bytea": (pa.array(["1", None], pa.string_view()), "bytea"),
    "string_view to interval": (pa.array(["1 day", None], pa.string_view()), "interval"),
    "binary_view to text": (pa.array([b"1", None], pa.binary_view()), "text"),
    "binary_view to jsonb": (pa.array([b"1", None], pa.binary_view()), "jsonb"),
    "list of string_view": (pa.array([["1"], None], pa.list_(pa.string_view())), "text"),
    "list of binary_view": (pa.array([[b"1"], None], pa.list_(pa.binary_view())), "text"),
    "fixed size list": (pa.array([["1"], None], pa.list_(pa.string_view(), 1)), "text"),
    "list_view": (pa.array([["1"], None], pa.list_view(pa.string())), "text"),
    "struct": (pa.array([{"a": "1"}, None], pa.struct([("a", pa.string_view())])), "text"),
    "map": (pa.array([[("a", "1")], None], pa.map_(pa.string_view(), pa.string_view())), "text"),
    "run-end-encoded": (pa.RunEndEncodedArray.from_arrays([2, 3], ["1", "2"]), "text"),
    "interval of months": (pa.array([(1, 2, 3), None], pa.month_day_nano_interval()), "text"),
}


@pytest.mark.parametrize("kind", UNKNOWN_TO_PANDAS)
def test_a_dtype_of_arrow_that_pandas_does_not_know_is_converted_by_what_the_error_says(kind: str) -> None:
    array, target = UNKNOWN_TO_PANDAS[kind]
    frame = pd.DataFrame({"k": range(len(array)), "v": pd.Series(pd.arrays.ArrowExtensionArray(array))})
    refused_and_converted(frame, rules_for(TARGETS[target]), enum=False)


@pytest.mark.parametrize(
    "type_",
    [pa.list_(pa.binary_view()), pa.large_list(pa.binary_view()), pa.list_(pa.binary_view(), 1)],
    ids=str,
)
def test_lists_of_other_values_are_one_reject_whatever_type_holds_them(type_: pa.DataType) -> None:
    for values, rejected in (([None, None], False), ([None, [None]], False), ([None, [b"1"]], True)):
        series = pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, type_)))
        frame, rules = pd.DataFrame({"k": [1, 2], "v": series}), rules_for(TARGETS["text[]"])
        if rejected:
            with pytest.raises(citykit.InvalidFrameError, match="lists of text are needed"):
                validate(frame, rules)
        else:
            assert validate(frame, rules)[0].num_rows == 2


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([0, 1, 2]),
        pd.Series([0.5, 1.0]),
        pd.Series([2, None], dtype="Int64"),
        pd.Series([2, None], dtype=pd.ArrowDtype(pa.int32())),
        pd.Series([1, -1, None], dtype=object),
    ],
    ids=lambda series: str(series.dtype),
)
def test_numbers_besides_0_and_1_get_no_conversion_to_booleans(values: pd.Series[Any]) -> None:
    with pytest.raises(citykit.InvalidFrameError) as caught:
        checked(frame_of(values, len(values)), rules_for(sa.Boolean()))
    assert str(caught.value).endswith('leave it out: frame = frame.drop(columns="v")')


@pytest.mark.parametrize(
    ("notes", "made"),
    [
        ({}, []),
        ({"read": 'read_file("x.csv"', "decimal": ","}, ['frame = read_file("x.csv", decimal=",")']),
        ({"frame": "table.to_pandas()"}, ["frame = table.to_pandas()"]),
    ],
    ids=["frame", "file", "Arrow"],
)
def test_the_conversion_begins_with_the_frame_of_a_source_that_is_none(
    notes: dict[str, str], made: list[str]
) -> None:
    frame = frame_of(objects("1 day").astype("str"))
    frame.attrs[NOTATION] = notes
    with pytest.raises(citykit.InvalidFrameError) as caught:
        validate(frame, rules_for(sa.Interval()))
    lines = [line.partition(": ")[2] for line in str(caught.value).splitlines()[1:]]
    assert lines == [*made, 'frame["v"] = pd.to_timedelta(frame["v"])']
    frame.attrs[NOTATION] = {"read": ""}  # of a body over HTTP, for example: there is nothing to type
    with pytest.raises(citykit.InvalidFrameError, match=r"nothing was loaded\.$"):
        validate(frame, rules_for(sa.Interval()))


@pytest.mark.parametrize(
    "missing",
    [
        dtype(np.nan, "float64"),
        dtype(None, "Int64"),
        dtype(pd.NaT, "datetime64[us]"),
        arrow(None, pa.binary()),
        arrow(float("nan"), pa.float64()),
        pd.Series([np.nan, np.nan], dtype=object),
        pd.Series([Decimal("nan"), Decimal("sNaN")], dtype=object),
        pd.Series([np.datetime64("NaT", "ns"), pd.NaT], dtype=object),
        arrow(None, pa.duration("s")),
        pd.Series(pd.PeriodIndex([None, None], freq="M")),
    ],
    ids=lambda series: str(series.dtype),
)
@pytest.mark.parametrize("target", [name for name in TARGETS if not name.endswith("[]")])
def test_a_column_without_values_is_null_whatever_its_dtype(target: str, missing: pd.Series[Any]) -> None:
    assert checked(frame_of(missing), rules_for(TARGETS[target]))[0] == 2


@pytest.mark.parametrize("parts", [1, 4])
def test_a_part_of_a_column_of_objects_does_not_speak_for_the_whole(parts: int) -> None:
    frame = frame_of(pd.Series([1, 2, 3, "four"], dtype=object))
    stored, rejects = checked(frame, rules_for(sa.Text()), parts)
    assert (stored, rejects["row"].tolist()) == (1, [0, 1, 2])
    assert set(rejects["reason"]) == {"not text"}


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Word(enum.StrEnum):
    YES = "yes"


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.Enum(Colour), Colour.RED),
        (sa.Enum(Size), Size.SMALL),
        (sa.Text(), Word.YES),
        (sa.Text(), Colour.RED),
        (sa.Integer(), Size.SMALL),
        (sa.Text(), np.str_("a")),
        (sa.Boolean(), np.True_),
    ],
)
def test_values_that_mean_another_type_are_looked_at(type_: Any, value: Any) -> None:
    assert checked(frame_of(objects(value)), rules_for(type_))[0] == 2


def test_the_conversion_names_the_column_as_the_frame_does() -> None:
    names = Names({'ZIP "code"': "v"})
    frame = pd.DataFrame({"k": [1], 'ZIP "code"': [1067]})
    with pytest.raises(citykit.InvalidFrameError) as caught:
        check_dtypes(frame, rules_for(sa.Text()), names)
    assert str(caught.value) == (
        "column 'v' is of dtype int64, and text is needed; nothing was loaded.\n"
        'Convert it: frame["ZIP \\"code\\""] = frame["ZIP \\"code\\""].astype("string")'
    )


def test_whole_numbers_with_missing_ones_become_text_without_a_point() -> None:
    with pytest.raises(citykit.InvalidFrameError) as caught:
        checked(frame_of(pd.Series([1067.0, np.nan])), rules_for(sa.Text()))
    assert str(caught.value).endswith('frame["v"].astype("Int64").astype("string")')


def test_each_wrong_column_is_a_line_of_its_own() -> None:
    frame = pd.DataFrame({"name": [1], "country": [2.5], "population": [True]})
    with pytest.raises(citykit.InvalidFrameError) as caught:
        validate(frame, rules_of(citykit.City.__table__))  # type: ignore[arg-type]
    assert caught.value.rejects["column"].tolist() == ["name", "country", "population"]
    assert str(caught.value).count("Convert it: frame[") == 3


@pytest.mark.parametrize(
    "values", [np.arange(2_000_000), np.arange(2_000_000).astype(object)], ids=["int64", "object"]
)
def test_a_wrong_dtype_is_found_without_a_look_at_each_value(values: Any) -> None:
    wrong = pd.DataFrame({"k": range(len(values)), "v": pd.Series(values)})
    rules, calls = rules_for(sa.Text()), itertools.count()
    sys.setprofile(lambda *_: next(calls))
    try:
        with pytest.raises(citykit.InvalidFrameError):
            checked(wrong, rules)
    finally:
        sys.setprofile(None)
    assert next(calls) < len(values) / 10
