"""Dates, times, intervals and decimals from PostgreSQL's text: by Arrow's cast, else one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from citykit.pgtypes import DECIMAL, TEXT


class UnfitValueError(ValueError):
    """A value from the server that its column (`holder`) cannot hold, and its place in the column."""

    def __init__(self, position: int, value: object, holder: str) -> None:
        super().__init__(f"{value!r}, which {holder} cannot hold")
        self.position, self.holder = position, holder


_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years of a datetime


def check_python_holds(values: pa.Array | pa.ChunkedArray, texts: pa.Array | None = None) -> None:
    """Check that the dates or timestamps of a column are in the years of Python's date and datetime.

    pandas makes such objects to print and to write some columns.

    Raises
    ------
    UnfitValueError
        If one is outside of the years 1 to 9999. `texts` is how the server has written them.
    """
    if pa.types.is_date(values.type):
        ticks, per_second = pc.multiply(values.cast(pa.int32()).cast(pa.int64()), 86_400), 1
    elif pa.types.is_timestamp(values.type):
        ticks, per_second = values.cast(pa.int64()), 1_000_000
    else:
        return
    limits = pc.min_max(ticks)
    least, most = limits["min"].as_py(), limits["max"].as_py()
    if least is None or (least >= _FIRST_SECOND * per_second and most < (_LAST_SECOND + 1) * per_second):
        return
    outside = pc.or_(
        pc.less(ticks, _FIRST_SECOND * per_second), pc.greater_equal(ticks, (_LAST_SECOND + 1) * per_second)
    )
    position = pc.index(outside, True).as_py()
    if texts is not None:
        shown = texts[position].as_py()
    elif pa.types.is_date(values.type):  # Arrow writes no date after the year 32767
        shown = str(np.datetime64(ticks[position].as_py() // 86_400, "D"))
    else:
        shown = values[position].cast(pa.string()).as_py()
    raise UnfitValueError(position, shown, "a datetime of Python (the years 1 to 9999)")


# For all years; Arrow's parser reads 1 to 9999 only.
_MOMENT = re.compile(
    r"(\d+)-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?"
    r"(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?( BC)?"
)


def _moment(text: str) -> int:
    """Return microseconds since 1970 in the proleptic Gregorian calendar, as PostgreSQL counts them."""
    found = _MOMENT.fullmatch(text)
    if not found:
        raise ValueError(text)
    year, month, day, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:6])
    sign, *offset = found.groups()[7:11]
    year = 1 - year if found[12] else year
    eras, year_of_era = divmod(year - 1, 400)  # 400 years have 146,097 days, in every era
    days = eras * 146_097 + date(year_of_era + 1, month, day).toordinal() - date(1970, 1, 1).toordinal()
    away = sum(int(part or 0) * size for part, size in zip(offset, (3600, 60, 1), strict=True))
    seconds += days * 86_400 + hours * 3600 + minutes * 60 - (-away if sign == "-" else away)
    return seconds * 1_000_000 + int((found[7] or "").ljust(6, "0"))


def _one_by_one(texts: pa.Array, wanted: pa.DataType, read: Callable[[str], int]) -> pa.Array:
    numbers: list[int | None] = []
    limit = 2 ** (wanted.bit_width - 1)
    for position, text in enumerate(texts.to_pylist()):
        try:
            number = None if text is None else read(text)
            if number is not None and not -limit < number < limit:
                raise ValueError(text)
        except ValueError as exc:
            raise UnfitValueError(position, text, f"a column of {wanted}") from exc
        numbers.append(number)
    return pa.array(numbers, pa.int64() if wanted.bit_width == 64 else pa.int32()).cast(wanted)


def _moments(texts: pa.Array, wanted: pa.DataType, per_unit: int) -> pa.Array:
    try:
        return texts.cast(wanted)
    except pa.ArrowInvalid:
        return _one_by_one(texts, wanted, lambda text: _moment(text) // per_unit)


def _times(texts: pa.Array) -> pa.Array:
    dated = pc.binary_join_element_wise(pa.scalar("1970-01-01", TEXT), texts, pa.scalar(" ", TEXT))
    wanted = pa.timestamp("us")
    try:
        return dated.cast(wanted).cast(pa.int64()).cast(pa.time64("us"))
    except pa.ArrowInvalid:
        position = pc.index(pc.starts_with(texts, "24:"), True).as_py()
        raise UnfitValueError(position, texts[position].as_py(), "a time of day") from None


_INTERVAL = (
    r"^(?:(?P<years>[+-]?\d+) years? ?)?(?:(?P<months>[+-]?\d+) mons? ?)?(?:(?P<days>[+-]?\d+) days? ?)?"
    r"(?:(?P<sign>[+-]?)(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)(?:\.(?P<fraction>\d+))?)?$"
)
_UNITS = {"days": 86_400_000_000, "hours": 3_600_000_000, "minutes": 60_000_000, "seconds": 1_000_000}


def _intervals(texts: pa.Array) -> pa.Array:
    parts = pc.extract_regex(texts, _INTERVAL)
    unfit = pc.and_(texts.is_valid(), parts.is_null())
    for unit in ("years", "months"):  # whose lengths differ
        unfit = pc.or_kleene(
            unfit, pc.and_kleene(texts.is_valid(), pc.not_equal(pc.struct_field(parts, unit), ""))
        )
    if pc.any(unfit).as_py():
        position = pc.index(unfit.fill_null(False), True).as_py()
        raise UnfitValueError(position, texts[position].as_py(), "a number of microseconds")

    def number(unit: str, fill: str = "0") -> pa.Array:
        digits = pc.replace_substring(pc.struct_field(parts, unit), "+", "")
        return pc.if_else(pc.equal(digits, ""), fill, digits).cast(pa.int64())

    fraction = pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0").cast(pa.int64())
    try:
        clock = fraction
        for unit in ("hours", "minutes", "seconds"):
            clock = pc.add_checked(clock, pc.multiply_checked(number(unit), _UNITS[unit]))
        clock = pc.if_else(pc.equal(pc.struct_field(parts, "sign"), "-"), pc.negate(clock), clock)
        total = pc.add_checked(clock, pc.multiply_checked(number("days"), _UNITS["days"]))
    except pa.ArrowInvalid:
        if len(texts) == 1:
            raise UnfitValueError(0, texts[0].as_py(), "a column of duration[us]") from None
        return _each(texts, _intervals)
    return pc.if_else(texts.is_valid(), total, None).cast(pa.duration("us"))


def _each(texts: pa.Array, read: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Read texts one by one, so that the error names the one that does not fit."""
    values = []
    for position in range(len(texts)):
        try:
            values.append(read(texts[position : position + 1]))
        except UnfitValueError as exc:
            exc.position = position
            raise
    return pa.concat_arrays(values)


def _decimals(texts: pa.Array) -> pa.Array:
    points = pc.find_substring(texts, ".")
    # Arrow's cast of more than 38 digits before the point is wrong without an error.
    most = pc.max(pc.if_else(pc.less(points, 0), pc.binary_length(texts), points)).as_py() or 0
    if most <= DECIMAL.precision - DECIMAL.scale:
        with suppress(pa.ArrowInvalid):
            return texts.cast(DECIMAL)
    # Without the zeros at the end of a fraction, with which Arrow takes some numbers for too long.
    numbers = [
        None if text is None else Decimal(text.rstrip("0") if "." in text else text)
        for text in texts.to_pylist()
    ]
    for position, number in enumerate(numbers):
        try:
            pa.scalar(number, DECIMAL)
        except pa.ArrowInvalid as exc:
            raise UnfitValueError(position, str(number), f"a column of {DECIMAL}") from exc
    return pa.array(numbers, DECIMAL)


# Readers of the columns that the CSV parser has left as text (see PgType.is_csv), by Arrow type.
READERS: Mapping[pa.DataType, Callable[[pa.Array], pa.Array]] = {
    pa.date32(): lambda texts: _moments(texts, pa.date32(), 86_400_000_000),
    pa.time64("us"): _times,
    pa.timestamp("us"): lambda texts: _moments(texts, pa.timestamp("us"), 1),
    pa.timestamp("us", "UTC"): lambda texts: _moments(texts, pa.timestamp("us", "UTC"), 1),
    pa.duration("us"): _intervals,
    DECIMAL: _decimals,
}
