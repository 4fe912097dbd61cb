"""Numerics as floats: the same as Python's float() of their text, without a database."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citykit.decode.copy_text import UnfitColumnError, decode
from citykit.decode.dtypes import to_frame
from citykit.pgtypes import PGTYPES, ROUNDED, DtypeBackend, Type
from tests.decode.test_copy_text import copied

NUMERIC = Type("numeric").rounded()
ARRAY = Type("numeric", array=True).rounded()
DIGITS = st.text("0123456789", min_size=1, max_size=60)
TEXTS = st.builds(
    lambda sign, whole, part: f"{sign}{whole.lstrip('0') or '0'}" + (f".{part}" if part else ""),
    st.sampled_from(["", "-"]), DIGITS, st.just("") | DIGITS,
)  # fmt: skip


@given(st.lists(st.none() | TEXTS | st.sampled_from(["NaN", "Infinity", "-Infinity"]), min_size=1))
@example(["0." + "0" * 323 + "3", "0." + "0" * 400 + "1", str(2**1024 - 2**971), "9007199254740993"])
@example(["0.1", "1.10", "9007199254740992.5", "9007199254740993.5", "0.30000000000000004440892098500626"])
def test_a_numeric_is_rounded_as_float_rounds_it(texts: list[str | None]) -> None:
    lost: dict[int, str] = {}
    [column] = decode(copied([(text,) for text in texts]), [NUMERIC], lost)
    values = column.to_pylist()
    expected = [None if text is None else float(text) for text in texts]
    assert repr(values) == repr(expected)
    large = [text for text in texts if text and 2**53 <= abs(float(text)) < np.inf]
    unfit = [text for text in large if int(Decimal(text)) != int(float(text))]
    assert list(lost.values()) == unfit[:1]


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("text", ["1" + "0" * 309, str(2**1024), "9" * 131_072 + ".5", "1E+400"])
def test_what_is_beyond_a_float_is_refused_with_its_place(text: str, sign: str) -> None:
    for type_, written in ((NUMERIC, sign + text), (ARRAY, f"{{1,{sign}{text}}}")):
        rows = [("x", None), ("x", "{}" if type_.array else "Infinity"), ("x", written)]
        with pytest.raises(UnfitColumnError, match="a float") as caught:
            decode(copied(rows), [Type("text"), type_])
        assert (caught.value.column, caught.value.position) == (1, 2)
        assert len(str(caught.value)) < 200


def test_arrays_hold_floats_and_tell_of_the_first_value_that_does_not_fit() -> None:
    rows = [("{{1.10,NULL},{NaN,-Infinity}}",), ("{9007199254740993,18014398509481985}",), (None,), ("{}",)]
    lost: dict[int, str] = {}
    [column] = decode(copied(rows), [ARRAY], lost)
    assert (
        str(list(column))
        == "[[[1.1, None], [nan, -inf]], [9007199254740992.0, 1.8014398509481984e+16], None, []]"
    )
    assert lost == {0: "9007199254740993"}


@pytest.mark.parametrize("backend", get_args(DtypeBackend))
def test_the_frame_has_the_dtype_and_the_values_of_double_precision(backend: DtypeBackend) -> None:
    rows = [("1.10", "1.1"), (None, None), ("NaN", "NaN"), ("Infinity", "Infinity")]
    for count in range(len(rows) + 1):
        types = [NUMERIC, Type("float8")]
        frame = to_frame(["n", "f"], types, [[part] for part in decode(copied(rows[:count]), types)], backend)
        pd.testing.assert_series_equal(frame["n"], frame["f"], check_names=False)
        assert frame["n"].isna().tolist() == frame["f"].isna().tolist()


def test_the_row_is_derived_from_those_of_numeric_and_double_precision() -> None:
    assert ROUNDED.dtypes == PGTYPES["float8"].dtypes
    assert (ROUNDED.oid, ROUNDED.array_oid, ROUNDED.sql) == (1700, 1231, "numeric")
    others: Any = [
        Type(name, array=array) for name in PGTYPES if name != "numeric" for array in (False, True)
    ]
    assert [type_.rounded() for type_ in others] == others
