"""Every kind of value that a frame can hold, and what becomes of it. No database is involved."""

from __future__ import annotations

import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import REAL, Column, Date, LargeBinary, MetaData, SmallInteger, String, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

import citykit
from citykit.cities import CITIES
from citykit.encode.frames import POSITION, validate, validate_row
from citykit.encode.rejects import refused
from citykit.encode.rules import Rule, rules_of

RULES = rules_of(CITIES)
MEANINGS = {rule.name: rule.meaning for rule in RULES}
COLUMNS = ["name", "country", "region", "population", "latitude", "longitude"]


def frame_of(column: str, values: Any, index: Any = None) -> pd.DataFrame:
    """A valid frame but for one column."""
    length = len(values)
    frame = pd.DataFrame({"name": [f"city {i}" for i in range(length)], "population": range(length)})
    frame[column] = values if not isinstance(values, list) else pd.Series(values, dtype=object)
    if index is not None:
        frame.index = index
    return frame


def typed(column: str, values: Any) -> list[Any]:
    rows, rejects = validate(frame_of(column, values), RULES)
    assert rejects.empty, rejects
    result: list[Any] = rows.column(column).to_pylist()
    return result


def reason(column: str, value: Any) -> str:
    rows, rejects = validate(frame_of(column, [value]), RULES)
    assert rows.num_rows == 0
    assert rejects["row"].tolist() == [0]
    assert rejects["column"].tolist() == [column]
    return str(rejects["reason"].iloc[0])


def test_rules_follow_the_table() -> None:
    assert [rule.name for rule in RULES] == COLUMNS


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, 2, 3], dtype="int8"),
        pd.Series([1, 2, 3], dtype="int64"),
        pd.Series([1, 2, 3], dtype="uint64"),
        pd.Series([1, 2, 3], dtype="Int32"),
        pd.Series([1.0, 2.0, 3.0]),
        pd.Series([1.0, 2.0, 3.0], dtype="float32"),
        pd.Series([1.0, 2.0, 3.0], dtype="Float64"),
        pd.Series([1, 2, 3], dtype="int64[pyarrow]"),
        pd.Series([1, 2, 3], dtype="double[pyarrow]"),
        pd.Series([Decimal(1), Decimal("2.0"), Decimal("3")], dtype=pd.ArrowDtype(pa.decimal128(5, 1))),
        pd.Series([1, 2, 3], dtype="category"),
        pd.Categorical([1, 2, 3], categories=[3, 2, 1, 0]),
        pd.Series([1, 2, 3], dtype="Sparse[int64]"),
        [1, 2, 3],
        [1, 2.0, Decimal("3")],
        [np.int16(1), np.float32(2), Fraction(3)],
    ],
    ids=lambda values: str(getattr(values, "dtype", values)),
)
def test_whole_numbers_of_any_dtype_are_populations(values: Any) -> None:
    assert typed("population", values) == [1, 2, 3]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["a", "b", "c"], dtype="str"),
        pd.Series(["a", "b", "c"], dtype="string"),
        pd.Series(["a", "b", "c"], dtype="string[python]"),
        pd.Series(["a", "b", "c"], dtype=pd.ArrowDtype(pa.string())),
        pd.Series(["a", "b", "c"], dtype="category"),
        pd.Series(["a", "b", "c"], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
        pl.Series(["a", "b", "c"], dtype=pl.Categorical).to_pandas(use_pyarrow_extension_array=True),
        pl.Series(["a", "b", "c"], dtype=pl.Enum(["c", "b", "a"])).to_pandas(
            use_pyarrow_extension_array=True
        ),
        ["a", "b", "c"],
        [np.str_("a"), "b", "c"],
    ],
    ids=lambda values: str(getattr(values, "dtype", values)),
)
def test_text_of_any_dtype_is_a_name(values: Any) -> None:
    assert typed("name", values) == ["a", "b", "c"]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, Decimal("nan")], ids=repr)
def test_missing_values(missing: Any) -> None:
    assert typed("country", [missing, "IS"]) == ["", "IS"]
    assert typed("latitude", [missing, 1.5]) == [None, 1.5]
    assert reason("name", missing) == "missing"
    assert reason("population", missing) == "missing"


@pytest.mark.parametrize("dtype", ["float64", "Float64", "object", "str", "category", "int64[pyarrow]"])
def test_a_column_with_nothing_in_it(dtype: str) -> None:
    assert typed("longitude", pd.Series([None, None], dtype=dtype)) == [None, None]
    assert typed("region", pd.Series([None, None], dtype=dtype)) == ["", ""]


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("name", "", "empty"),
        ("name", "x" * 401, "longer than 400 characters"),
        ("name", "a\0b", "with a NUL character"),
        ("name", "a\ud800", "with a lone surrogate, which is no character"),
        ("name", 5, "not text"),
        ("name", b"London", "not text"),
        ("name", True, "not text"),
        ("name", ["London"], "not text"),
        ("country", "x" * 101, "longer than 100 characters"),
        ("region", "\0", "with a NUL character"),
        ("population", -1, "negative"),
        ("population", -(2**70), "negative"),
        ("population", 2**31, "above 2,147,483,647"),
        ("population", 2**31 + 0.0, "above 2,147,483,647"),
        ("population", 2**70, "above 2,147,483,647"),
        ("population", 10**400, "above 2,147,483,647"),
        ("population", 1e300, "above 2,147,483,647"),
        ("population", 1.5, "fractional"),
        ("population", Decimal("0.1"), "fractional"),
        ("population", np.inf, "infinite"),
        ("population", -np.inf, "infinite"),
        ("population", Decimal("Infinity"), "infinite"),
        ("population", "8,900,000", "like a number with thousands commas"),
        ("population", True, "not a number"),
        ("population", np.True_, "not a number"),
        ("population", 5j, "not a number"),
        ("population", pd.Timestamp("2020-01-01"), "not a number"),
        ("population", pd.Timedelta("1s"), "not a number"),
        ("population", [5], "not a number"),
        ("latitude", 91, "above 90"),
        ("latitude", np.nextafter(90, 91), "above 90"),
        ("latitude", -90.5, "below -90"),
        ("latitude", np.inf, "infinite"),
        ("latitude", 10**400, "above 90"),
        ("latitude", Decimal("1E+1000"), "above 90"),
        ("latitude", Decimal("-1E+1000"), "below -90"),
        ("population", Decimal("1E+1000000"), "above 2,147,483,647"),
        ("population", Decimal("-1E+1000000"), "negative"),
        ("population", np.timedelta64(5, "s"), "not a number"),
        ("latitude", np.timedelta64(5, "s"), "not a number"),
        ("population", Decimal("sNaN"), "missing"),
        ("latitude", "51,5", "like a number with a decimal comma"),
        ("latitude", False, "not a number"),
        ("latitude", Decimal("51.123456789012345678901"), "not exact in double precision"),
        ("longitude", 180.1, "above 180"),
        ("longitude", -181, "below -180"),
    ],
)
def test_bad_values(column: str, value: Any, why: str) -> None:
    assert reason(column, value) == why


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("population", pd.Series([-1], dtype="int8"), "negative"),
        ("population", pd.Series([2**31], dtype="int64"), "above 2,147,483,647"),
        ("population", pd.Series([2**64 - 1], dtype="uint64"), "above 2,147,483,647"),
        ("population", pd.Series([0.5]), "fractional"),
        ("population", pd.Series([np.inf]), "infinite"),
        ("population", pd.Series([1e300]), "above 2,147,483,647"),
        ("population", pd.Series([np.nan]), "missing"),
        ("population", pd.Series([None], dtype="Int64"), "missing"),
        ("population", pd.Series(["five"], dtype="str"), "not a number"),
        ("population", pd.Series(["five"], dtype="category"), "not a number"),
        ("name", pd.Series(["a\0"], dtype="str"), "with a NUL character"),
        ("latitude", pd.Series([91], dtype="int64"), "above 90"),
    ],
)
def test_bad_values_in_typed_columns(column: str, values: Any, why: str) -> None:
    rows, rejects = validate(frame_of(column, values), RULES)
    assert rows.num_rows == 0
    assert rejects["reason"].tolist() == [why]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "x" * 400),
        ("name", "🏙" * 400),  # characters, not bytes
        ("name", " "),
        ("name", "東京\n'; DROP TABLE cities; --"),
        ("population", 0),
        ("population", 2**31 - 1),
        ("latitude", 90),
        ("latitude", -90.0),
        ("latitude", Decimal("51.50853")),
        ("latitude", Decimal.from_float(0.1)),
        ("longitude", -180),
        ("longitude", 1 / 3),
    ],
)
def test_values_at_the_limits_are_kept_as_they_are(column: str, value: Any) -> None:
    assert typed(column, [value]) == [float(value) if isinstance(value, Decimal) else value]


def test_all_bad_values_are_reported_in_the_order_of_the_frame() -> None:
    frame = pd.DataFrame(
        {"population": [-5, 1, 1.5], "name": ["a", "", None], "latitude": [91, 0, 0]},
        index=["first", "second", "third"],
    )
    rows, rejects = validate(frame, RULES)
    assert rows.num_rows == 0
    assert rejects.columns.tolist() == ["row", "column", "value", "reason"]
    assert rejects[["row", "column", "reason"]].to_numpy().tolist() == [
        ["first", "population", "negative"],
        ["first", "latitude", "above 90"],
        ["second", "name", "empty"],
        ["third", "name", "missing"],
        ["third", "population", "fractional"],
    ]
    assert rejects["value"].tolist()[:3] == [-5, 91, ""]


def test_valid_rows_keep_their_positions() -> None:
    rows, rejects = validate(frame_of("population", [0, -1, 2, -3, 4]), RULES)
    assert rows.column(POSITION).to_pylist() == [0, 2, 4]
    assert rejects["row"].tolist() == [1, 3]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([7, 7, 7]),
        pd.Index(["a", None, "c"]),
        pd.MultiIndex.from_tuples([(1, "x"), (2, "y"), (2, "y")]),
        pd.date_range("2020-01-01", periods=3, tz="UTC"),
    ],
    ids=["repeated", "with none", "multi", "dates"],
)
def test_any_index_labels_the_rejects(index: pd.Index[Any]) -> None:
    _, rejects = validate(frame_of("population", [1, -2, 3], index), RULES)
    [label] = rejects["row"]
    assert label is index[1] or label == index[1]


ODD = rules_of(
    Table(
        "odd", MetaData(), Column("code", String(3)), Column("small", SmallInteger, nullable=False),
        Column("single", REAL), Column("list", ARRAY(String(3))),
    )
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-200, 200), st.floats(), st.floats(-200, 200),
    st.text(), st.text(max_size=4), st.text("ab\0é", max_size=4), st.just(()),
    st.sampled_from([2**31 - 1, 2**31, 90.0, "a" * 401]),
    st.lists(st.none() | st.text(max_size=4), max_size=2).map(tuple), st.decimals(),
)  # fmt: skip


@pytest.mark.parametrize("rules", [RULES, ODD], ids=["cities", "odd"])
@given(st.data())
@pytest.mark.slow
def test_one_row_is_checked_as_a_frame_of_one_row_is(rules: list[Rule], data: st.DataObject) -> None:
    row = {rule.name: data.draw(VALUES) for rule in rules}
    rows, rejects = validate(
        pd.DataFrame({name: pd.Series([row[name]], dtype=object) for name in row}), rules
    )
    stored, bad = validate_row(row, rules)
    assert [reject[1:2] + reject[3:] for reject in bad] == list(
        rejects[["column", "reason"]].itertuples(index=False, name=None)
    )
    if not bad:
        [kept] = rows.drop_columns(POSITION).to_pylist()
        assert {n: list(v) if isinstance(v, tuple) else v for n, v in stored.items()} == kept


def test_one_row_takes_an_array_of_numpy_as_a_list() -> None:
    for names in (np.array(["a"]), np.array(["a", None], dtype=object), np.array([], dtype=object)):
        assert validate_row({"list": names}, ODD) == ({"list": names.tolist()}, [])
    for other in (pd.Series(["a"]), pd.Series([], dtype=object), np.array(5)):
        _, [reject] = validate_row({"list": other}, ODD)
        assert reject[3] == "not a list"


def test_the_frame_is_not_changed() -> None:
    frame = frame_of("population", [1, -2, 3])
    before = frame.copy(deep=True)
    validate(frame, RULES)
    pd.testing.assert_frame_equal(frame, before)


def test_no_rows() -> None:
    rows, rejects = validate(pd.DataFrame({"name": [], "population": []}), RULES)
    assert rows.num_rows == 0
    assert rejects.empty
    assert rejects.columns.tolist() == ["row", "column", "value", "reason"]


def test_columns_that_the_frame_lacks() -> None:
    rows, _ = validate(pd.DataFrame({"name": ["a"], "population": [1]}), RULES)
    assert rows.drop_columns([POSITION]).to_pylist() == [
        {"name": "a", "country": "", "region": "", "population": 1}
    ]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["name", "pop"], r'column \'pop\': unknown column;[^$]*rename=\{"pop": "population"\}$'),
        (["name", "Population"], r'[^$]*rename=\{"Population": "population"\}$'),
        (["pop"], r"column 'pop': unknown column \(did you mean 'population'\?\)"),
        (["name", "population", "capital"], "column 'capital': unknown column"),
        (["name", "population", 7], "column 7: unknown column"),
        (["name", "population", pd.NA], "column <NA>: unknown column"),
        (["name", "population", "\ud800"], r"column '\\ud800': unknown column"),
        (["name", "population", ("a", "b")], r"column \('a', 'b'\): unknown column"),
        (["name"], "column 'population': needed and missing"),
        ([], "columns 'name', 'population': needed and missing"),
        (["name", "population", "name"], "column 'name': the frame has this column more than once"),
    ],
)
def test_wrong_columns(columns: list[Any], said: str) -> None:
    frame = pd.DataFrame([[1] * len(columns)], columns=pd.Index(columns, dtype=object))
    with pytest.raises(citykit.InvalidFrameError, match=said) as caught:
        validate(frame, RULES)
    assert ", ".join(COLUMNS) in str(caught.value)
    assert "nothing was loaded" in str(caught.value)
    assert not caught.value.rejects.empty


def test_the_message_names_column_count_first_row_value_and_what_to_do() -> None:
    frame = frame_of("population", [1, -5, 2, -6, -7], index=[10, 17, 20, 30, 40])
    _, rejects = validate(frame, RULES)
    error = refused(rejects, MEANINGS)
    assert str(error) == (
        "column 'population' has 3 negative values (first at row label 17: -5); nothing was loaded.\n"
        "Populations are persons, 0 or more. See citykit.last_rejects() for all; "
        "on_invalid='skip' loads the valid rows."
    )


def test_nan_in_an_arrow_column_is_missing() -> None:
    values = pd.arrays.ArrowExtensionArray(pa.array([1.5, float("nan"), None]))
    assert typed("latitude", pd.Series(values)) == [1.5, None, None]
    assert validate(frame_of("population", pd.Series(values)), RULES)[1]["reason"].tolist() == [
        "fractional",
        "missing",
        "missing",
    ]


def test_a_missing_value_among_categories_that_are_numbers() -> None:
    rows, rejects = validate(frame_of("population", pd.Series(pd.Categorical([1, None, 2]))), RULES)
    assert rows.column("population").to_pylist() == [1, 2]
    assert rejects["reason"].tolist() == ["missing"]


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["huge", "negative"])
def test_a_number_with_more_digits_than_python_prints(number: int) -> None:
    _, rejects = validate(frame_of("population", [number], index=pd.Index([number], dtype=object)), RULES)
    assert "a very long int" in str(refused(rejects, MEANINGS))
    assert "a very long int" in rejects.to_string()


def test_a_value_that_cannot_be_shown_is_a_reject_all_the_same() -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError

    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    for value in (deep, ["x", [Unshown()]], {10**5000}, Fraction(10**5000, 3)):
        _, rejects = validate(frame_of("population", pd.Series([value, 1], dtype=object)), RULES)
        assert len(rejects) == 1
        assert "population" in str(refused(rejects, MEANINGS))
        assert "population" in rejects.to_string()


def test_a_very_long_value_is_shortened_in_the_message() -> None:
    _, rejects = validate(frame_of("name", ["x" * 1_000_000]), RULES)
    assert len(str(refused(rejects, MEANINGS))) < 400


VIEW = pa.string_view()
HOLDING_VIEWS: dict[str, tuple[pa.DataType, Any, list[Any], str]] = {
    "NUL": (VIEW, Text(), ["a", "b\0"], "with a NUL character"),
    "too long": (VIEW, String(2), ["ab", "abc"], "longer than 2 characters"),
    "number": (VIEW, SmallInteger(), ["1", "x"], "not a number"),
    "date": (VIEW, Date(), ["2024-01-31", "x"], "not a date such as 2024-01-31"),
    "uuid": (VIEW, Uuid(), [str(uuid.UUID(int=1)), "x"], "not a UUID"),
    "missing": (VIEW, Text(), ["a", pd.NA], "missing"),
    "bytes": (pa.binary_view(), LargeBinary(), [b"a", pd.NA], "missing"),
    "list": (pa.list_(VIEW), ARRAY(Text()), [["a"], ["b\0"]], "element 0 with a NUL character"),
    "large list": (pa.large_list(VIEW), ARRAY(Text()), [["a"], ["b\0"]], "element 0 with a NUL character"),
    "fixed size list": (pa.list_(VIEW, 1), ARRAY(Text()), [["a"], ["b\0"]], "element 0 with a NUL character"),
    "list view": (pa.list_view(VIEW), ARRAY(Text()), [["a"], ["b\0"]], "element 0 with a NUL character"),
    "dictionary": (pa.dictionary(pa.int8(), VIEW), Text(), ["a", "b\0"], "with a NUL character"),
    "struct": (pa.struct([("a", VIEW)]), JSONB(), [{"a": "b"}, {"a": "b\0"}], "with a NUL character"),
    "map": (pa.map_(VIEW, VIEW), JSONB(), [[("a", "b")], [("a", "b\0")]], "with a NUL character"),
    "JSON": (pa.json_(VIEW), JSONB(), ["1", '"\\u0000"'], "with a NUL character"),
}


@pytest.mark.parametrize("kind", HOLDING_VIEWS)
def test_rejects_show_the_values_of_arrows_views(kind: str) -> None:
    type_, declared, values, why = HOLDING_VIEWS[kind]
    rules = rules_of(Table("t", MetaData(), Column("x", declared, nullable=False)))
    present = [None if value is pd.NA else value for value in values]
    if pa.types.is_dictionary(type_):
        array: Any = pa.DictionaryArray.from_arrays([0, 1], pa.array(values, VIEW))
    elif isinstance(type_, pa.JsonType):
        array = pa.ExtensionArray.from_storage(type_, pa.array(values, VIEW))
    else:
        array = pa.array(present, type_)
    chunks = pa.chunked_array([array, array.slice(1), array])
    rows, rejects = validate(pd.DataFrame({"x": pd.Series(pd.arrays.ArrowExtensionArray(chunks))}), rules)
    assert rows.num_rows == 2
    assert rejects["row"].tolist() == [1, 2, 4]
    assert list(map(repr, rejects["value"])) == [repr(values[1])] * 3
    assert set(rejects["reason"]) == {why}


@pytest.mark.parametrize(
    ("type_", "values"), [(VIEW, ["a", "b"]), (pa.binary_view(), [b"a", b"b"])], ids=["text", "bytes"]
)
def test_a_dictionary_of_lists_of_views_is_a_column_of_lists(type_: pa.DataType, values: list[Any]) -> None:
    lists = pa.array([values, []], pa.list_(type_))
    series = pd.Series(pd.arrays.ArrowExtensionArray(pa.DictionaryArray.from_arrays([1, 0, None], lists)))
    item = Text() if type_ == VIEW else LargeBinary()
    rows, rejects = validate(
        pd.DataFrame({"x": series}), rules_of(Table("t", MetaData(), Column("x", ARRAY(item))))
    )
    assert rejects.empty
    assert rows.column("x").to_pylist() == [[], values, None]
