"""Numerics as Python's Decimals, and as decimals of Arrow: every digit, or an error."""

from __future__ import annotations

from decimal import Context, Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from citykit.decode.copy_text import UnfitColumnError, decode
from citykit.decode.dtypes import to_frame
from citykit.pgtypes import DECIMAL, Type

EXACT = Context(prec=1000)
DIGITS = st.integers(1, 90).flatmap(lambda digits: st.integers(-(10**digits), 10**digits))
NUMBERS = st.builds(
    lambda number, places: f"{Decimal(number).scaleb(-places, EXACT):f}", DIGITS, st.integers(0, 45)
)


def copied(texts: list[str | None]) -> bytes:
    return "".join("\\N\n" if text is None else f"{text}\n" for text in texts).encode()


@given(texts=st.lists(st.none() | NUMBERS | st.sampled_from(["1.50", "1.5", "NaN", "-Infinity", "0.00"])))
@pytest.mark.slow
def test_decimals_of_python_have_the_digits_that_the_server_has_written(texts: list[str | None]) -> None:
    if not texts:
        return
    [values] = decode(copied(texts), [Type("numeric")])
    assert [None if value is None else f"{value:f}" for value in values] == [
        None if text is None else f"{Decimal(text):f}" for text in texts
    ]


def fits(text: str) -> bool:
    whole, _, fraction = text.lstrip("-").partition(".")
    return len(whole) <= 38 and len(fraction.rstrip("0")) <= 38


@settings(max_examples=300)
@given(texts=st.lists(st.none() | NUMBERS, min_size=1, max_size=4))
@example(texts=["78125" + "0" * 33 + "." + "0" * 39])
@pytest.mark.slow
def test_decimals_of_arrow_are_equal_to_those_of_the_server_or_refused(texts: list[str | None]) -> None:
    type_ = Type("numeric").in_arrow()
    unfit = [place for place, text in enumerate(texts) if text is not None and not fits(text)]
    if not unfit:
        [values] = decode(copied(texts), [type_])
        assert values.type == DECIMAL
        assert values.to_pylist() == [None if text is None else Decimal(text) for text in texts]
        frame = to_frame(["n"], [type_], [[values]], "pyarrow")
        assert frame["n"].isna().tolist() == [text is None for text in texts]
        return
    with pytest.raises(UnfitColumnError) as caught:
        decode(copied(texts), [type_])
    assert caught.value.position == unfit[0]


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "9" * 39, "1" + "0" * 60, "0." + "0" * 38 + "1"]
)
def test_number_that_arrow_does_not_hold_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(UnfitColumnError, match="cannot hold") as caught:
        decode(copied(["1.5", None, text]), [Type("numeric").in_arrow()])
    assert (caught.value.column, caught.value.position) == (0, 2)
