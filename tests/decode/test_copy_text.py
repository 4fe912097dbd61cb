"""COPY's text to typed columns, and those to pandas', without a database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citykit.decode.copy_text import UnfitColumnError, decode
from citykit.decode.dtypes import to_frame
from citykit.pgtypes import PGTYPES, DtypeBackend, Type


def copied(rows: Sequence[tuple[str | None, ...]]) -> bytes:
    """Write rows as the manual of COPY says."""
    escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    lines = [
        "\t".join(
            "\\N" if value is None else "".join(escapes.get(character, character) for character in value)
            for value in row
        )
        for row in rows
    ]
    return "".join(line + "\n" for line in lines).encode()


TEXTS = (
    st.none()
    | st.sampled_from(["", "NULL", "\\N", "\\", "\ufeff", "\r\n", "\\\\n"])
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)


@given(st.lists(st.tuples(TEXTS), max_size=5), st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_every_text_comes_back(single: list[tuple[str | None]], pairs: list[tuple[str | None, ...]]) -> None:
    [column] = decode(copied(single), [Type("text")])
    assert column.to_pylist() == [value for (value,) in single]
    columns = decode(copied(pairs), [Type("text")] * 2)
    assert [*zip(*(column.to_pylist() for column in columns), strict=True)] == pairs


def one(text: str, type_: Type) -> Any:
    [column] = decode(copied([(text,), (None,)]), [type_])
    values = list(column) if isinstance(column, np.ndarray) else column.to_pylist()
    assert values[1] is None
    return values[0]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bool", "t", True),
        ("int2", "-32768", -32768),
        ("int8", "9223372036854775807", 2**63 - 1),
        ("float8", "5e-324", 5e-324),
        ("float8", "-Infinity", float("-inf")),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("time", "23:59:59.999999", time(23, 59, 59, 999_999)),
        ("timestamp", "0001-01-01 00:00:00", datetime(1, 1, 1)),
        ("interval", "-1 days +02:03:04.5", timedelta(days=-1, hours=2, minutes=3, seconds=4.5)),
        ("interval", "-00:00:00.000001", timedelta(microseconds=-1)),
        ("interval", "3 days", timedelta(3)),
        ("bytea", "\\x00ff", b"\x00\xff"),
        ("bytea", "a\\\\\\000\\377", b"a\\\x00\xff"),
        ("json", '{"a": [1, null, "\\n"]}', {"a": [1, None, "\n"]}),
    ],
)
def test_values(kind: str, text: str, value: object) -> None:
    assert one(text, Type(kind)) == value


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2024-02-29 12:00:00+00", 1_709_208_000_000_000),
        ("2024-02-29 12:53:28+00:53:28", 1_709_208_000_000_000),
        ("2024-02-29 04:30:00.5-07:30", 1_709_208_000_500_000),
        ("10000-01-01 00:00:00+00", 253_402_300_800_000_000),
        ("0001-12-31 00:00:00+00 BC", -62_135_683_200_000_000),
    ],
)
def test_moments_of_any_year_and_offset(text: str, microseconds: int) -> None:
    [column] = decode(copied([(text,)]), [Type("timestamptz")])
    assert column.cast("int64").to_pylist() == [microseconds]


@pytest.mark.parametrize(
    ("text", "type_", "value"),
    [
        ("{}", Type("int4", array=True), []),
        ("{1,NULL,3}", Type("int4", array=True), [1, None, 3]),
        ("[0:1]={1,2}", Type("int8", array=True), [1, 2]),
        ("{{1.5,NaN},{NULL,-Infinity}}", Type("text", array=True), [["1.5", "NaN"], [None, "-Infinity"]]),
        (
            '{a,"NULL",NULL,"","a,b","{}","\\"\\\\","\n"}',
            Type("text", array=True),
            ["a", "NULL", None, "", "a,b", "{}", '"\\', "\n"],
        ),
        ("{t,f,NULL}", Type("bool", array=True), [True, False, None]),
        ("{(1,2),(3,4);(5,6),(7,8)}", Type("text", True, ";"), ["(1,2),(3,4)", "(5,6),(7,8)"]),
        ('{"\\\\x00","\\\\xff"}', Type("bytea", array=True), [b"\0", b"\xff"]),
        ("{2024-02-29}", Type("date", array=True), [date(2024, 2, 29)]),
    ],
)
def test_arrays(text: str, type_: Type, value: object) -> None:
    assert one(text, type_) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("timestamp", "infinity"),
        ("timestamptz", "-infinity"),
        ("timestamp", "294276-12-31 23:59:59.999999"),
        ("date", "infinity"),
        ("time", "24:00:00"),
        ("interval", "1 mon"),
        ("interval", "2 years 1 day"),
        ("interval", "infinity"),
        ("interval", "2147483647 days"),
    ],
)
def test_what_exists_in_postgresql_alone_is_refused_with_its_place(kind: str, text: str) -> None:
    rows = [("x", None), ("x", text), ("x", None)]
    with pytest.raises(UnfitColumnError, match="cannot hold") as caught:
        decode(copied(rows), [Type("text"), Type(kind)])
    assert caught.value.column == 1
    assert text in str(caught.value)
    assert caught.value.position == 1


FILLED = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "1"),
    **dict.fromkeys(("float4", "float8", "numeric", "numeric as float", "numeric in Arrow"), "1.5"),
    **dict.fromkeys(("text", "varchar", "bpchar", "name", "char", "unknown"), "x"),
    **dict.fromkeys(("json", "jsonb"), '"x"'),
    **dict.fromkeys(("inet", "cidr"), "10.0.0.0/8"),
    "bool": "t", "date": "2024-02-29", "time": "12:00:00", "timestamp": "2024-02-29 12:00:00",
    "timestamptz": "2024-02-29 12:00:00+00", "interval": "00:00:01", "bytea": "\\x00", "enum": "b",
    "uuid": "12345678-1234-5678-1234-567812345678", "macaddr": "08:00:2b:01:02:03",
}  # fmt: skip


@pytest.mark.parametrize("backend", get_args(DtypeBackend))
def test_dtypes_are_those_of_the_table_for_no_rows_null_and_values(backend: DtypeBackend) -> None:
    assert set(FILLED) == set(PGTYPES)
    types = [Type(name, labels=("b", "a") if name == "enum" else ()) for name in FILLED]
    types += [Type(name, array=True) for name in FILLED]
    if backend == "pyarrow":
        types = [type_.in_arrow() for type_ in types]
    full = (*FILLED.values(), *(["{}"] * len(FILLED)))
    none = (None,) * len(types)
    names = [str(number) for number in range(len(types))]
    for rows in ([], [none], [full], [full, none], [none, full]):
        frame = to_frame(names, types, [[part] for part in decode(copied(rows), types)], backend)
        assert frame.dtypes.astype(str).tolist() == [type_.dtype(backend) for type_ in types]


def test_not_a_number_null_and_infinity_stay_three_things() -> None:
    data = copied([("NaN",), (None,), ("Infinity",)])
    backends: tuple[DtypeBackend, ...] = ("numpy_nullable", "pyarrow")
    for backend in backends:
        frame = to_frame(["x"], [Type("float8")], [decode(data, [Type("float8")])], backend)
        assert frame["x"].isna().tolist() == [False, True, False]
        assert str(frame["x"].iloc[0]) == "nan"
        assert frame["x"].iloc[2] == float("inf")
