"""One rule for text in a column of numbers, whatever holds it. No database is involved."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from citykit.encode import NOTATION, Rule, advice, rules_of, validate

TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "smallint": sa.SmallInteger(), "integer": sa.Integer(), "bigint": sa.BigInteger(), "real": sa.REAL(),
    "double": sa.Double(), "numeric": sa.Numeric(), "numeric(9, 0)": sa.Numeric(9, 0),
    "numeric(9, 2)": sa.Numeric(9, 2),
}  # fmt: skip
WHOLE = ("smallint", "integer", "bigint", "numeric(9, 0)")


def dictionary(texts: list[Any]) -> Any:
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(texts, pa.string()).dictionary_encode()))


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "object": lambda texts: pd.Series(texts, dtype=object),
    "object with a number": lambda texts: pd.Series([*texts, 1], dtype=object),
    "object of np.str_": lambda texts: pd.Series([text and np.str_(text) for text in texts], dtype=object),
    "str": lambda texts: pd.Series(texts, dtype="str"),
    "string": lambda texts: pd.Series(texts, dtype="string"),
    "string[python]": lambda texts: pd.Series(texts, dtype="string[python]"),
    "arrow string": lambda texts: pd.Series(texts, dtype=pd.ArrowDtype(pa.string())),
    "arrow large_string": lambda texts: pd.Series(texts, dtype=pd.ArrowDtype(pa.large_string())),
    "arrow string_view": lambda texts: pd.Series(texts, dtype=pd.ArrowDtype(pa.string_view())),
    "arrow dictionary": dictionary,
    "category": lambda texts: pd.Series(pd.Categorical(texts)),
    "object of lists": lambda texts: pd.Series([[text] for text in texts], dtype=object),
    "arrow list": lambda texts: pd.Series(
        pd.arrays.ArrowExtensionArray(pa.array([[text] for text in texts], pa.list_(pa.string())))
    ),
}


@cache
def rules(type_: str, lists: bool = False) -> list[Rule]:
    column = sa.ARRAY(TYPES[type_]) if lists else TYPES[type_]
    return rules_of(sa.Table("numbers", sa.MetaData(), sa.Column("x", column)))


def read(type_: str, values: Any, **marks: str) -> tuple[list[Any], list[str]]:
    """Return the numbers that are stored, and the reasons of rejects."""
    lists = isinstance(values.iloc[0], list | np.ndarray)
    frame = pd.DataFrame({"x": values})
    if marks:
        frame.attrs[NOTATION] = marks
    rows, rejects = validate(frame, rules(type_, lists))
    stored = rows.column("x").to_pylist()
    reasons = [str(reason).removeprefix("element 0 ") for reason in rejects["reason"]]
    return [each[0] if lists else each for each in stored], reasons


def numbers(type_: str, texts: list[Any], **marks: str) -> list[Any]:
    stored, reasons = read(type_, pd.Series(texts, dtype="str"), **marks)
    assert reasons == []
    return [None if each is None else Decimal(each) for each in stored]


def reason(type_: str, text: str, **marks: str) -> str:
    stored, reasons = read(type_, pd.Series([text], dtype="str"), **marks)
    assert stored == []
    return reasons[0]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("type_", TYPES)
def test_a_whole_number_is_read_from_any_container(type_: str, container: str) -> None:
    texts = ["12", "-5", "0", "007", "-0", "5.0", "5.00", "1234.0", "1234.000", None]
    stored, reasons = read(type_, CONTAINERS[container](texts))
    assert reasons == []
    wanted = [12, -5, 0, 7, 0, 5, 5, 1234, 1234, None] + [1] * (container == "object with a number")
    assert [each if each is None else Decimal(each) for each in stored] == wanted


# What version one took for something else, and what else people write.
LOOKS = {
    "12.000": "like a number with thousands dots",
    "1.234.567": "like a number with thousands dots",
    "-1.234.567": "like a number with thousands dots",
    "12,000": "like a number with thousands commas",
    "1,234.5": "fractional",
    "1,234.0": "like a number with thousands commas and a decimal point",
    "1.234,5": "fractional",
    "1.234,0": "like a number with thousands dots and a decimal comma",
    "12 000": "like a number with thousands spaces",
    "12\xa0000": "like a number with thousands no-break spaces",
    "12\u2009000": "like a number with thousands thin spaces",
    "12\u202f000": "like a number with thousands narrow no-break spaces",
    "12'000": "like a number with thousands apostrophes",
    "12\u2019000": "like a number with thousands curly apostrophes",
    "1_000": "like a number with thousands underscores",
    "1e3": "like a number with an exponent",
    "1E+03": "like a number with an exponent",
    "+5": "like a number with a plus sign",
    " 5": "with a space before or after it",
    "5\n": "with a space before or after it",
    "\xa05": "with a space before or after it",
    "١٢": "in other digits than 0 to 9",
    "\uff15": "in other digits than 0 to 9",
    "\u22125": "like a number with another minus sign than -",
    "12,5": "fractional",
    "12,0": "like a number with a decimal comma",
    "5.5": "fractional",
    "": "empty",
    **dict.fromkeys(
        ("-", "--5", "5-", "5.", ".", "0x1F", "1/2", "abc", "5 km", "12.00.000", "NaN"), "not a number"
    ),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("type_", WHOLE)
def test_other_text_is_a_reject_whose_reason_says_what_it_looks_like(type_: str, container: str) -> None:
    stored, reasons = read(type_, CONTAINERS[container](list(LOOKS)))
    assert [int(each) for each in stored] == ([1] if container == "object with a number" else [])
    assert reasons == list(LOOKS.values())


@pytest.mark.parametrize("type_", ["double", "numeric"])
def test_a_column_that_takes_fractions_reads_points_and_exponents(type_: str) -> None:
    texts = ["52.5", "-.5", "5.", "12.000", "1e3", "1e+20", "-1.5E-3", "0.1", "007.50", None]
    wanted = ["52.5", "-0.5", "5", "12", "1000", "1E20", "-0.0015", "0.1", "7.5", None]
    found = numbers(type_, texts)
    assert [each and float(each) for each in found] == [each and float(each) for each in wanted]
    for text in (
        "52,5",
        "1,234",
        "1.234,5",
        "1,234.5",
        "12 000",
        "+5",
        " 5",
        "1e",
        "abc",
        "",
        "NaN",
        "1e3.5",
    ):
        assert reason(type_, text)


def test_infinities_are_what_pandas_and_the_server_write() -> None:
    stored, reasons = read("double", pd.Series(["inf", "-inf", "Infinity", "-Infinity"], dtype="str"))
    assert (stored, reasons) == ([np.inf, -np.inf, np.inf, -np.inf], [])


@settings(max_examples=50)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 20))
def test_every_text_that_a_double_prints_is_that_double(number: float, digits: int) -> None:
    texts = [repr(number), f"{number:.{digits}e}", str(Decimal(number))[:1_000]]
    texts = [text for text in texts if float(text) == number]
    stored, reasons = read("double", pd.Series(texts, dtype="str"))
    assert reasons == []
    assert stored == [number] * len(texts)


@pytest.mark.parametrize(
    "text", ["0.99999999999999999999", "51.123456789012345678901", "9007199254740993", "1e-400"]
)
def test_a_number_that_a_double_would_round_is_a_reject(text: str) -> None:
    assert reason("double", text) == "not exact in double precision"
    assert numbers("numeric", [text]) == [Decimal(text)]


@settings(max_examples=50)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=3) | st.integers().map(Decimal))
def test_a_numeric_is_stored_as_written_or_rejected_for_its_digits(number: Decimal) -> None:
    text = f"{number:f}"
    assert numbers("numeric", [text]) == [number]
    stored, reasons = read("numeric(9, 2)", pd.Series([text], dtype="str"))
    fits = abs(number) < 10**7 and number == round(number, 2)
    assert [Decimal(each) for each in stored] == ([number] if fits else [])
    assert len(reasons) == (not fits)


@settings(max_examples=50)
@given(st.integers(-(2**70), 2**70))
def test_a_whole_number_is_stored_or_beyond_the_type(number: int) -> None:
    for type_, bits in (("smallint", 15), ("integer", 31), ("bigint", 63)):
        stored, reasons = read(type_, pd.Series([str(number), "1"], dtype="str"))
        held = -(2**bits) <= number < 2**bits
        assert stored == ([number, 1] if held else [1])
        assert all(each.startswith(("above", "below")) for each in reasons)


def test_a_number_of_very_many_digits_is_beyond_the_type() -> None:
    assert reason("integer", "9" * 5_000) == "above 2,147,483,647"
    assert reason("double", "9" * 5_000) == "too large for double precision"
    assert reason("numeric", "1e99999999999999999999")


MARKS = [".", ",", " ", "'", "\xa0", "\u202f", "_"]


@pytest.mark.parametrize("thousands", MARKS)
@settings(max_examples=10)
@given(number=st.integers(-(10**8), 10**8), cents=st.integers(0, 99))
def test_marks_that_are_named_are_read_strictly(thousands: str, number: int, cents: int) -> None:
    decimal = "." if thousands == "," else ","
    grouped = f"{number:,}".replace(",", thousands)
    marks = {"thousands": thousands, "decimal": decimal}
    assert numbers("integer", [grouped, str(number), f"{grouped}{decimal}0"], **marks) == [number] * 3
    wanted = Decimal(f"{'-' if grouped.startswith('-') else ''}{abs(number)}.{cents:02}")
    assert numbers("numeric", [f"{grouped}{decimal}{cents:02}"], **marks) == [wanted]
    wrong = [
        each.replace(",", thousands)
        for each in (",123", "1,23", "1,2345", "0,123", "1234,567", "1,,234", "1,")
    ]
    stored, reasons = read("integer", pd.Series(wrong, dtype="str"), **marks)
    assert (stored, len(reasons)) == ([], len(wrong))


def test_a_mark_for_thousands_alone_leaves_no_other_meaning_of_it() -> None:
    assert numbers("integer", ["12.000", "1234", "5"], thousands=".") == [12_000, 1_234, 5]
    assert reason("integer", "12.00", thousands=".") == "not a number with thousands='.'"
    certain = {"52.5": 52.5, "31.22222": 31.22222, "1234.567": 1234.567, "0.123": 0.123, "7.": 7.0}
    certain |= {"-1.234.567": -1_234_567.0, "12": 12.0, "5.25e3": 5250.0}
    assert numbers("double", list(certain), thousands=".") == list(certain.values())
    assert reason("double", "1.234", thousands=".") == "with a dot, for thousands or for decimals"
    assert (
        reason("double", "1.234,5", thousands=".") == "like a number with thousands dots and a decimal comma"
    )
    stored, reasons = read("double", pd.Series(["1.234", "52.5"]), thousands=".", decimal=".")
    assert (stored, reasons) == ([1.234, 52.5], [])
    assert numbers("integer", ["1.234"], thousands=".", decimal=".") == [1_234]
    assert numbers("double", ["52,5"], decimal=",") == [Decimal("52.5")]
    assert reason("double", "52.5", decimal=",")
    # What looks like thousands is read as a fraction of zeros only where the point was named.
    assert reason("integer", "12.000") == "like a number with thousands dots"
    assert numbers("integer", ["12.000"], decimal=".") == [12]


def test_marks_leave_text_and_numbers_alone() -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("name", sa.Text), sa.Column("size", sa.Double))
    frame = pd.DataFrame({"name": ["1.234"], "size": [1.5]})
    frame.attrs[NOTATION] = {"thousands": ".", "decimal": ","}
    rows, rejects = validate(frame, rules_of(table))
    assert rejects.empty
    assert rows.select(["name", "size"]).to_pylist() == [{"name": "1.234", "size": 1.5}]


@pytest.mark.parametrize("notes", [None, 5, [], {"thousands": 5}, {"decimal": None}, "."])
def test_attrs_of_somebody_else_change_nothing(notes: Any) -> None:
    frame = pd.DataFrame({"x": ["5"]})
    frame.attrs[NOTATION] = notes
    rows, _ = validate(frame, rules_of(sa.Table("t", sa.MetaData(), sa.Column("x", sa.Integer))))
    assert rows.column("x").to_pylist() == [5]


def rejected(texts: list[str], type_: str = "integer", **marks: str) -> pd.DataFrame:
    frame = pd.DataFrame({"x": pd.Series(texts, dtype="str")})
    frame.attrs[NOTATION] = marks
    return validate(frame, rules(type_))[1]


@pytest.mark.parametrize(
    ("type_", "texts", "marks"),
    [
        ("integer", ["12.000", "5", "1.234"], {"thousands": "."}),
        ("integer", ["12 000"], {"thousands": " "}),
        ("integer", ["12\xa0000"], {"thousands": "\xa0"}),
        ("double", ["1.234,5", "5"], {"thousands": ".", "decimal": ","}),
        ("double", ["52,51", "5"], {"decimal": ","}),
        ("double", ["1,234,567"], {"thousands": ","}),
        ("double", ["1,234.5"], {"thousands": ","}),
        ("integer", ["12,0"], {"decimal": ","}),
    ],
)
def test_the_advice_is_the_call_that_reads_what_looks_alike(
    type_: str, texts: list[str], marks: dict[str, str]
) -> None:
    rejects = rejected(texts, type_)
    said = advice(rejects, len(texts), {"read": 'dict(path="de.csv"'})
    assert said is not None
    assert eval(said) == {"path": "de.csv", **marks}  # noqa: S307  what a user types
    assert rejected(texts, type_, **marks).empty
    frame = pd.DataFrame({"x": texts})
    exec(str(advice(rejects, len(texts), {})), {"frame": frame})  # noqa: S102  likewise, of a frame
    assert frame.attrs[NOTATION] == marks


@pytest.mark.parametrize("type_", WHOLE)
@pytest.mark.parametrize("text", ["12,5", "12.5", "1.234,5", "1,234.5", "1 234,05"])
def test_no_notation_is_advised_for_a_fraction_in_a_column_of_whole_numbers(text: str, type_: str) -> None:
    notations: list[dict[str, str]] = [{}, {"decimal": ","}]
    for marks in notations:
        rejects = rejected([text], type_, **marks)
        assert rejects["reason"].tolist() == ["fractional"]
        assert advice(rejects, 1, {"read": 'dict(path="de.csv"', **marks}) is None


def test_leaving_rows_out_is_not_advised_where_most_would_be_lost() -> None:
    texts = ["abc", "def", "5"]
    assert advice(rejected(texts), 3, {}) is None
    assert advice(rejected(texts), 300, {}) == "on_invalid='skip' loads the valid rows."
    assert advice(rejected(["12.000"]), 300, {}) == "on_invalid='skip' loads the valid rows."


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("1.5", Decimal("1.50")), ("0001.50", Decimal("1.50")), ("1e2", Decimal("100.00")),
        ("-0", Decimal("0.00")), (f"1.5{'0' * 60}", Decimal("1.50")), (f"{'0' * 60}1", Decimal("1.00")),
        ("1.5E-1", Decimal("0.15")), ("999.99", Decimal("999.99")),
        ("1000", None), ("0.005", None), ("Infinity", None), ("1e400000", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("beside", ["0.25", "1e1"])
def test_texts_are_decimals_of_a_column_of_limited_digits(
    text: str, stored: Decimal | None, beside: str
) -> None:
    columns = (sa.Column("n", sa.Integer), sa.Column("v", sa.Numeric(5, 2), nullable=False))
    rules = rules_of(sa.Table("t", sa.MetaData(), *columns))
    frame = pd.DataFrame({"n": [1, 2], "v": [beside, text]})
    for each in (frame, frame.astype({"v": object}), frame.assign(v=frame["v"].map(Decimal))):
        rows, rejects = validate(each, rules)
        assert rows["v"].to_pylist() == [Decimal(beside), *([stored] if stored is not None else [])]
        assert len(rejects) == (stored is None)
