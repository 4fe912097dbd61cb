"""One row for each PostgreSQL type. All else about a type is derived from its row. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import pyarrow as pa
from sqlalchemy import types as sa
from sqlalchemy.dialects import postgresql as pg

DtypeBackend: TypeAlias = Literal["numpy_nullable", "numpy", "pyarrow"]
# How a value that is loaded is checked; `encode` has one function for each.
Check: TypeAlias = Literal[
    "integer", "float", "numeric", "boolean", "text", "enum", "uuid", "date", "time", "timestamp",
    "timestamptz", "interval", "json", "bytea", "inet", "cidr", "macaddr",
]  # fmt: skip

TEXT = pa.large_string()
MOST_DIGITS = 38  # of decimal128; an Arrow cast that needs more overflows without an error
# Exact for 38 digits before and 38 after the point: asyncpg does not tell a column's own scale.
DECIMAL = pa.decimal256(76, 38)
# Arrow counts from 1970, PostgreSQL's binary format from 2000; the difference in each unit.
_UNIX_DAYS, _UNIX_MICROSECONDS = 10_957, 946_684_800_000_000


@dataclass(frozen=True)
class Setting:
    """A session setting that changes the text of a type's values, and the value that `decode` needs."""

    name: str
    kept: re.Pattern[str]  # matches the values that need no change
    value: str


@dataclass(frozen=True)
class PgType:
    """One type of PostgreSQL. A field at its default means that the type does not support it."""

    name: str  # in pg_type: its typname
    sql: str  # as it is written in SQL
    oid: int
    array_oid: int
    dtypes: tuple[str, str, str]  # of a column that was read, for each `DtypeBackend`
    # Reading: an Arrow type that holds the values; a function that makes a Python object of their text.
    arrow: pa.DataType | None = None
    parse: Callable[[str], object] | None = None
    setting: Setting | None = None
    is_rounded: bool = False  # its text may have more digits than `arrow` holds
    # Its binary form: a number of this NumPy format that counts from `epoch`; "bytes", the value itself; else
    # the name of a form of its own.
    binary: str = ""
    epoch: int = 0
    # Loading: SQLAlchemy's types for it, the check for values, and the Arrow type of the checked values.
    declared: tuple[type[sa.TypeEngine[Any]], ...] = ()
    check: Check | None = None
    typed: pa.DataType | None = None
    # Whether Arrow finds the checked values equal, and sorts them, as the server does.
    compared_alike: Literal["always", "in the C collation", "never"] = "never"

    @property
    def is_csv(self) -> bool:
        """Whether Arrow's CSV parser reads the text that COPY writes."""
        by_arrow = self.arrow is not None and self.parse is None and not self.is_rounded
        return by_arrow and not pa.types.is_temporal(self.arrow) and not pa.types.is_decimal(self.arrow)

    @property
    def is_mostly_csv(self) -> bool:
        """Whether that parser reads most columns of it; `decode` reads the others as text."""
        return self.is_rounded or self.arrow == pa.date32()

    @property
    def is_json(self) -> bool:
        """Whether its values are JSON, which SQLAlchemy makes asyncpg parse."""
        return self.parse is read_json

    @property
    def has_any_size(self) -> bool:
        """Whether one value can take all of a row's 1 GB."""
        return self.name in ("text", "varchar", "bpchar", "json", "jsonb", "bytea")

    @property
    def is_exact(self) -> bool:
        """Whether its binary form can be read without losing any value (infinite dates would be lost)."""
        return bool(self.arrow and self.binary) and not pa.types.is_temporal(self.arrow)


def read_json(text: str) -> object:
    """Read JSON.

    Raises
    ------
    ValueError, RecursionError
        If Python cannot hold it: a whole number of more than 4,300 digits, another beyond 1.8e308, half of
        a surrogate pair, many levels.
    """
    value = json.loads(text, parse_float=_finite)
    return whole_json(value) if "\\u" in text and "\\ud" in text.lower() else value


def whole_json(value: object) -> object:
    """Return a JSON value; raise ValueError for half of a surrogate pair and for an infinite number."""
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits} is beyond 1.8e308")
    return value


def read_bytea(text: str) -> bytes:
    """Read either of the two forms in which bytes are written (bytea_output = hex, escape)."""
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    octal = re.sub(r"\\(\\|[0-7]{3})", lambda m: "\\" if m[1] == "\\" else chr(int(m[1], 8)), text)
    return octal.encode("latin-1")


def _whole(nullable: str, numpy: str, arrow: pa.DataType) -> dict[str, Any]:
    """Return the fields that the integer types have in common."""
    return {
        "dtypes": (nullable, numpy, f"{arrow}[pyarrow]"), "arrow": arrow, "check": "integer",
        "typed": pa.int64(), "compared_alike": "always",
    }  # fmt: skip


def _floating(nullable: str, numpy: str, arrow: pa.DataType) -> dict[str, Any]:
    return {
        "dtypes": (nullable, numpy, f"{arrow}[pyarrow]"), "arrow": arrow, "check": "float",
        "typed": pa.float64(), "setting": Setting("extra_float_digits", re.compile("[123]$"), "1"),
    }  # fmt: skip


def _temporal(dtype: str, arrow: pa.DataType, check: Check) -> dict[str, Any]:
    return {"dtypes": (dtype, dtype, f"{arrow}[pyarrow]"), "arrow": arrow, "check": check, "typed": arrow}


_STRING: dict[str, Any] = {"dtypes": ("string", "str", "string[pyarrow]"), "arrow": TEXT}
_OBJECT = ("object", "object", "object")
_DATED: dict[str, Any] = {
    "setting": Setting("DateStyle", re.compile("ISO"), "ISO"), "compared_alike": "always",
}  # fmt: skip

# fmt: off
_ROWS = (
    PgType("bool", "boolean", 16, 1000, ("boolean", "object", "bool[pyarrow]"), pa.bool_(), binary="?",
           declared=(sa.Boolean,), check="boolean", typed=pa.bool_(), compared_alike="always"),
    PgType("int2", "smallint", 21, 1005, **_whole("Int16", "float64", pa.int16()), binary=">i2",
           declared=(sa.SmallInteger,)),
    PgType("int4", "integer", 23, 1007, **_whole("Int32", "float64", pa.int32()), binary=">i4",
           declared=(sa.Integer,)),
    PgType("int8", "bigint", 20, 1016, **_whole("Int64", "object", pa.int64()), binary=">i8",
           declared=(sa.BigInteger,)),
    PgType("oid", "oid", 26, 1028, **_whole("Int64", "object", pa.int64()), binary=">u4",
           declared=(pg.OID,)),
    PgType("float4", "real", 700, 1021, **_floating("Float32", "float32", pa.float32()), binary=">f4",
           declared=(sa.REAL, pg.REAL)),
    PgType("float8", "double precision", 701, 1022, **_floating("Float64", "float64", pa.float64()),
           binary=">f8", declared=(sa.Float,)),
    PgType("numeric", "numeric", 1700, 1231, ("object", "object", f"{DECIMAL}[pyarrow]"), parse=Decimal,
           binary="numeric", declared=(sa.Numeric,), check="numeric", typed=TEXT),
    PgType("text", "text", 25, 1009, **_STRING, binary="bytes", declared=(sa.Text,), check="text", typed=TEXT,
           compared_alike="in the C collation"),
    PgType("varchar", "varchar", 1043, 1015, **_STRING, binary="bytes", declared=(sa.String,), check="text",
           typed=TEXT, compared_alike="in the C collation"),
    PgType("bpchar", "char", 1042, 1014, **_STRING, binary="bytes", declared=(sa.CHAR,), check="text",
           typed=TEXT),  # compared without spaces at the end
    PgType("name", "name", 19, 1003, **_STRING, binary="bytes"),
    PgType("char", '"char"', 18, 1002, **_STRING),
    PgType("unknown", "unknown", 705, 0, **_STRING),
    PgType("date", "date", 1082, 1182, **_temporal("datetime64[s]", pa.date32(), "date"), **_DATED,
           binary=">i4", epoch=_UNIX_DAYS, declared=(sa.Date,)),
    PgType("time", "time", 1083, 1183, **_temporal("object", pa.time64("us"), "time"), binary=">i8",
           declared=(sa.Time,)),
    PgType("timestamp", "timestamp", 1114, 1115,
           **_temporal("datetime64[us]", pa.timestamp("us"), "timestamp"), **_DATED,
           binary=">i8", epoch=_UNIX_MICROSECONDS, declared=(sa.DateTime,)),
    PgType("timestamptz", "timestamptz", 1184, 1185,
           **_temporal("datetime64[us, UTC]", pa.timestamp("us", "UTC"), "timestamptz"), **_DATED,
           binary=">i8", epoch=_UNIX_MICROSECONDS),  # SQLAlchemy's DateTime with timezone=True
    PgType("interval", "interval", 1186, 1187, **_temporal("timedelta64[us]", pa.duration("us"), "interval"),
           setting=Setting("IntervalStyle", re.compile("postgres$"), "postgres"),
           binary="interval", declared=(sa.Interval, pg.INTERVAL)),
    PgType("uuid", "uuid", 2950, 2951, _OBJECT, parse=UUID, binary="uuid", declared=(sa.Uuid,),
           check="uuid", typed=TEXT, compared_alike="always"),
    PgType("json", "json", 114, 199, _OBJECT, parse=read_json, binary="bytes", declared=(sa.JSON,),
           check="json", typed=TEXT),
    PgType("jsonb", "jsonb", 3802, 3807, _OBJECT, parse=read_json, binary="jsonb", declared=(pg.JSONB,),
           check="json", typed=TEXT),
    PgType("bytea", "bytea", 17, 1001, ("object", "object", "binary[pyarrow]"), pa.large_binary(),
           parse=read_bytea, binary="bytes", declared=(sa.LargeBinary,), check="bytea",
           typed=pa.large_binary()),
    PgType("inet", "inet", 869, 1041, **_STRING, declared=(pg.INET,), check="inet", typed=TEXT),
    PgType("cidr", "cidr", 650, 651, **_STRING, declared=(pg.CIDR,), check="cidr", typed=TEXT),
    PgType("macaddr", "macaddr", 829, 1040, **_STRING, declared=(pg.MACADDR,), check="macaddr", typed=TEXT),
)
# Stands for every enum: each has its own oid.
ENUM = PgType("enum", "enum", 0, 0, ("category",) * 3, TEXT, binary="bytes", declared=(sa.Enum,),
              check="enum", typed=TEXT)
# fmt: on
_BY_NAME = {row.name: row for row in _ROWS}
# A numeric that is read as double precision, for numeric="float".
ROUNDED = replace(
    _BY_NAME["numeric"], name="numeric as float", dtypes=_BY_NAME["float8"].dtypes, arrow=pa.float64(),
    parse=None, binary="", is_rounded=True, declared=(), check=None, typed=None,
)  # fmt: skip
# A numeric that is read as Arrow's decimals instead of Python's.
DECIMALS = replace(
    _BY_NAME["numeric"], name="numeric in Arrow", arrow=DECIMAL, parse=None, binary="", declared=(),
    check=None, typed=None,
)  # fmt: skip
PGTYPES: Mapping[str, PgType] = {
    **_BY_NAME, **{row.name: row for row in (ENUM, ROUNDED, DECIMALS)}
}  # fmt: skip


@dataclass(frozen=True)
class Type:
    """The type of a column that is read: a name of `PGTYPES`, whether an array of it, an enum's labels."""

    name: str
    array: bool = False
    delimiter: str = ","
    labels: tuple[str, ...] = ()

    @property
    def row(self) -> PgType:
        """The row of the table; of an array, that of its elements."""
        return PGTYPES[self.name]

    def dtype(self, backend: DtypeBackend) -> str:
        """Return the dtype of such a column."""
        return "object" if self.array else self.row.dtypes[get_args(DtypeBackend).index(backend)]

    def rounded(self) -> Type:
        """Return this type with a numeric read as double precision."""
        return replace(self, name=ROUNDED.name) if self.name == "numeric" else self

    def in_arrow(self) -> Type:
        """Return this type with a numeric read as Arrow's decimals; in an array it stays as it is."""
        return replace(self, name=DECIMALS.name) if self.name == "numeric" and not self.array else self


_BY_OID = {row.oid: row for row in _ROWS}
KNOWN: Mapping[int, Type] = {
    **{row.oid: Type(row.name) for row in _ROWS},
    **{row.array_oid: Type(row.name, array=True) for row in _ROWS if row.array_oid},
}
SETTINGS = frozenset(row.setting for row in _ROWS if row.setting)
EXACT = frozenset(row.oid for row in _ROWS if row.is_exact)  # the oids of types that are read in binary

# Asks the catalogue about oids that `KNOWN` lacks: an array's element, a domain's base, an enum's labels.
DESCRIBE = """
WITH RECURSIVE resolved (asked, is_array, oid) AS (
    SELECT oid, is_array, CASE WHEN is_array THEN typelem ELSE oid END
    FROM (SELECT *, typinput = 'array_in'::regproc AS is_array FROM pg_catalog.pg_type) AS asked
    WHERE oid = ANY ($1::oid[])
    UNION ALL
    SELECT asked, is_array, typbasetype
    FROM resolved JOIN pg_catalog.pg_type AS domain USING (oid) WHERE domain.typtype = 'd'
)
SELECT asked, is_array, base.oid, typdelim::text AS delimiter, ARRAY(
    SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = base.oid ORDER BY enumsortorder
) AS labels
FROM resolved JOIN pg_catalog.pg_type AS base USING (oid) WHERE base.typtype <> 'd'
"""


def type_from(row: Mapping[str, Any]) -> Type:
    """Return the type for one row of `DESCRIBE`; a type that is not in `PGTYPES` is read as text."""
    labels = tuple(row["labels"])
    known = ENUM if labels else _BY_OID.get(row["oid"], PGTYPES["text"])
    return Type(known.name, row["is_array"], row["delimiter"], labels)
