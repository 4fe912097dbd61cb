"""Which type a column of a new table gets: by its dtype, and by values only where the dtype is object."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import uuid
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sqlalchemy.dialects import postgresql

from citykit import InvalidFrameError
from citykit.encode import types_of
from citykit.pgtypes import DECIMAL, ENUM, PGTYPES, DtypeBackend

MOMENT = dt.datetime(2024, 2, 29, 1, 2)
CREATE = "await citykit.create_table(engine, 't', frame"


def shown(source: pd.DataFrame | pa.Table) -> dict[str, str]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    found = types_of(source, (), CREATE)
    return {name: type_.compile(dialect=dialect).lower() for name, type_ in found.items() if type_}


def of(values: Any, dtype: Any = None) -> str:
    return shown(pd.DataFrame({"x": pd.Series(values, dtype=dtype)}))["x"]


# What each row of the table of types that can be loaded becomes when it was read; else its own type.
READ_AS = {
    "varchar": "text", "bpchar": "text", "inet": "text", "cidr": "text", "macaddr": "text", "enum": "text",
    "oid": "int8",
}  # fmt: skip
SQL = {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}
SQL |= {"time": "time without time zone", "float8": "float"}
# Of those whose dtype is object: the values decide.
OBJECTS: dict[str, list[Any]] = {
    "bool": [True, None], "int8": [2**62, None], "oid": [2**32 - 1, None], "numeric": [Decimal("1.50"), None],
    "bytea": [b"\0", None],
    "uuid": [uuid.UUID(int=1), None], "json": [{"a": 1}], "jsonb": [{"a": 1}], "time": [dt.time(1)],
}  # fmt: skip


@pytest.mark.parametrize("backend", get_args(DtypeBackend))
@pytest.mark.parametrize("name", [name for name, row in PGTYPES.items() if row.check])
def test_it_is_the_inverse_of_reading(name: str, backend: DtypeBackend) -> None:
    row = PGTYPES[name]
    dtype: Any = row.dtypes[get_args(DtypeBackend).index(backend)]
    values: list[Any] = OBJECTS[name] if dtype == "object" else []
    expected = {"json": "jsonb"}.get(name) or READ_AS.get(name, name)
    if dtype == "float64" and row.check == "integer":
        expected = "float8"  # as NumPy holds integers that may be NULL
    if name == "numeric" and backend == "pyarrow":
        dtype = pd.ArrowDtype(DECIMAL)  # of which pandas does not read its own name
    if row is ENUM:
        dtype = pd.CategoricalDtype(["a"])
    assert of(values, dtype) == SQL.get(expected, PGTYPES[expected].sql)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("int8", "smallint"), ("int16", "smallint"), ("int32", "integer"), ("int64", "bigint"),
        ("uint8", "smallint"), ("uint16", "integer"), ("uint32", "bigint"), ("uint64", "numeric"),
        ("UInt64", "numeric"), ("float16", "real"), ("Float32", "real"), ("bool", "boolean"),
        ("str", "text"), ("datetime64[s]", "date"),
        ("datetime64[ns]", SQL["timestamp"]), ("timedelta64[s]", "interval"),
        ("datetime64[ns, Europe/Berlin]", SQL["timestamptz"]),
        (pd.CategoricalDtype(["a", "b"]), "text"), (pd.CategoricalDtype([1, 2]), "bigint"),
        (pd.CategoricalDtype(), "text"),
    ],
    ids=str,
)  # fmt: skip
def test_dtypes(dtype: Any, expected: str) -> None:
    assert of([], dtype) == expected


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (pa.decimal128(10, 2), "numeric(10, 2)"), (pa.decimal256(76, 38), "numeric"),
        (pa.decimal128(5, -2), "numeric"), (pa.list_(pa.int32()), "integer[]"), (pa.uint64(), "numeric"),
        (pa.large_list(pa.decimal128(5, 1)), "numeric(5, 1)[]"), (pa.list_(pa.float32(), 2), "real[]"),
        (pa.dictionary(pa.int8(), pa.string()), "text"), (pa.bool8(), "boolean"), (pa.uuid(), "uuid"),
        (pa.json_(), "jsonb"), (pa.struct({"a": pa.int8()}), "jsonb"), (pa.null(), "text"),
        (pa.binary(4), "bytea"), (pa.time32("s"), SQL["time"]), (pa.date64(), "date"),
        (pa.timestamp("ns", "Asia/Tokyo"), SQL["timestamptz"]), (pa.string_view(), "text"),
        (pa.fixed_shape_tensor(pa.int8(), [2]), "smallint[]"),
    ],
    ids=str,
)  # fmt: skip
def test_arrow_types(type_: pa.DataType, expected: str) -> None:
    table = pa.schema({"x": type_}).empty_table()
    assert shown(table) == {"x": expected}
    assert shown(table.to_pandas(types_mapper=pd.ArrowDtype)) == {"x": expected}


def test_a_frame_of_polars_is_taken_by_its_schema() -> None:
    frame = pa.table(pl.DataFrame({"a": [1], "b": ["x"], "c": [[1.5]], "d": [dt.date(2024, 2, 29)]}))
    assert shown(frame) == {"a": "bigint", "b": "text", "c": "float[]", "d": "date"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None, np.nan], "text"), ([], "text"), ([None, pd.NA], "text"), ([np.str_("a")], "text"),
        ([np.uint64(1), np.uint64(2**64 - 1)], "numeric"), ([np.uint64(2**64 - 1), np.uint64(1)], "numeric"),
        ([1, None, np.nan], "bigint"), ([np.int8(1)], "bigint"), ([1, 2**63], "numeric"),
        ([1.5, None, np.float32(1)], "float"), ([np.bool_(True)], "boolean"),
        ([dt.date(2024, 2, 29), pd.NaT], "date"),
        ([MOMENT, pd.Timestamp(MOMENT), pd.NaT], SQL["timestamp"]),
        ([np.datetime64("2024-02-29")], SQL["timestamp"]),
        ([MOMENT.replace(tzinfo=dt.UTC)], SQL["timestamptz"]),
        ([pd.Timedelta("1h"), np.timedelta64(1, "s")], "interval"), ([b"a", bytearray(b"b")], "bytea"),
        ([ipaddress.ip_address("::1")], "inet"), ([ipaddress.ip_network("::/0")], "cidr"),
        ([[1, None], [], None, np.array([2])], "bigint[]"), ([("a",)], "text[]"), ([[]], "text[]"),
        ([[Decimal(1)]], "numeric[]"),
    ],
    ids=str,
)  # fmt: skip
def test_values_of_dtype_object(values: list[Any], expected: str) -> None:
    assert of(values, object) == expected


def arrow_list(values: Any) -> Any:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return pd.arrays.ArrowExtensionArray(pa.chunked_array([array]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "a"], "it holds bigint and text: " + CREATE + ", types={'x': 'jsonb'})"),
        ([1, 1.5], "types={'x': 'numeric'}"), ([1, Decimal(1)], "types={'x': 'numeric'}"),
        ([MOMENT, MOMENT.date()], "types={'x': 'timestamp'}"), ([{"a": 1}, [1]], "types={'x': 'jsonb'}"),
        ([MOMENT, MOMENT.replace(tzinfo=dt.UTC)], "frame['x'] = pd.to_datetime(frame['x'], utc=True)"),
        ([dt.time(1), dt.time(1, tzinfo=dt.UTC)], "it holds time and timetz, which no type"),
        ([np.array(1), np.array([1])], "it holds lists and ndarray, which no type"),
        ([[[1]]], "lists of lists: " + CREATE + ", types={'x': 'jsonb'})"),
        ([[{"a": 1}]], "types={'x': 'jsonb'}"),
        ([[[MOMENT]]], "lists of lists of timestamp, for which PostgreSQL has no type: leave the column out"),
        (arrow_list([[["a"]]]), "lists of lists: " + CREATE + ", types={'x': 'jsonb'})"),
        (arrow_list(pa.array([[["a"]]], pa.list_(pa.list_(pa.string_view())))), "types={'x': 'jsonb'}"),
        (arrow_list([[[MOMENT]]]), "leave the column out"),
        pytest.param([object()], "it holds object, which .*astype", id="an object"),
        ([[1, "a"]], "in its lists, it holds bigint and text"),
        (pd.period_range("2024", periods=1, freq="M"), "period.*: frame['x'] = frame['x'].dt.to_timestamp()"),
        (pd.arrays.SparseArray([1]), "Sparse.*: frame['x'] = frame['x'].sparse.to_dense()"),
        (pd.interval_range(0, 1), "interval.*: frame['x'] = frame['x'].astype(\"str\")"),
        (np.array([1j]), "complex128"),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_that_decides_no_type_is_named_with_what_to_type(values: Any, said: str) -> None:
    pattern = ".*".join(map(re.escape, said.split(".*")))
    with pytest.raises(InvalidFrameError, match=rf"no table was made: column 'x': .*{pattern}") as caught:
        of(values, getattr(values, "dtype", object))
    assert caught.value.rejects["column"].tolist() == ["x"]


ZONED = MOMENT.replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([MOMENT, ZONED], SQL["timestamptz"]),
        ([[MOMENT, None, ZONED], [], None], SQL["timestamptz"] + "[]"),
        ([(MOMENT,), np.array([ZONED], object)], SQL["timestamptz"] + "[]"),
        ([[dt.datetime(1, 1, 1), ZONED]], SQL["timestamptz"] + "[]"),
        ([[MOMENT.date(), ZONED, None], None], "text[]"), ([[dt.time(1, tzinfo=dt.UTC)]], "text[]"),
        ([[object(), np.nan], ["a"]], "text[]"), ([object(), "a"], "text"), ([[1], MOMENT], "text"),
        (pd.period_range("2024", periods=1, freq="M"), SQL["timestamp"]),
        (pd.arrays.SparseArray([1]), "bigint"), (pd.interval_range(0, 1), "text"), (np.array([1j]), "text"),
        *[(pd.arrays.ArrowExtensionArray(array), "text") for array in (
            pa.array([["a"]], pa.list_view(pa.string())),
            pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
            pa.RunEndEncodedArray.from_arrays([2], ["a"]),
            pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        )],
    ],
)  # fmt: skip
def test_a_column_that_decides_no_type_gets_one_by_the_line_that_the_error_says(
    values: Any, expected: str
) -> None:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=getattr(values, "dtype", object))})
    missing = [value is None for value in values]
    with pytest.raises(InvalidFrameError) as caught:
        shown(frame)
    line = str(caught.value)[str(caught.value).index("frame['x'] = ") :]
    exec(line, {"frame": frame, "pd": pd})  # noqa: S102  what a user types
    assert shown(frame) == {"x": expected}
    assert frame["x"].isna().tolist() == missing


def test_all_such_columns_are_named_at_once() -> None:
    frame = pd.DataFrame({"a": [1j, 1j], "b": [1, 2], "c": pd.Series([1, "x"], dtype=object)})
    with pytest.raises(InvalidFrameError) as caught:
        shown(frame)
    assert caught.value.rejects["column"].tolist() == ["a", "c"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([], "made: the frame has no columns"), (["a", "a"], "'a': the frame has this column more than once"),
        ([""], "column '': its name is empty"), (["x" * 64], "64 bytes long, and a name has at most 63"),
        (["ä" * 32], "64 bytes long"), (["a\0"], "NUL"), (["\ud800"], "surrogate"),
        ([0], r"column 0: its name is no text: frame = frame.rename\(columns=str\)"),
        ([("a", "b")], "several levels"), ([f"c{n}" for n in range(1601)], "1,601 columns"),
    ],
    ids=lambda value: str(value)[:20].encode(errors="replace").decode(),
)  # fmt: skip
def test_names_that_no_column_can_have_are_refused(columns: list[Any], said: str) -> None:
    frame = pd.DataFrame(np.zeros((1, len(columns))), columns=pd.Index(columns, dtype=object))
    with pytest.raises(InvalidFrameError, match=said):
        shown(frame)
