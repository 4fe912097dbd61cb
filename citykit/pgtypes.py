"""The server's column types: which there are, and what holds their values. No I/O, no database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa

TEXT = pa.large_string()


@dataclass(frozen=True)
class Type:
    """A column type of the server: a key of `ARROW` or `OBJECTS`, whether arrays of it, an enum's labels."""

    kind: str
    array: bool = False
    delimiter: str = ","
    labels: tuple[str, ...] = ()


# What Arrow holds exactly. Text also stands for every type that is in neither table.
ARROW: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double": pa.float64(),
    "text": TEXT,
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "interval": pa.duration("us"),
}
# What becomes Python objects, and how one of them is read from its text.
OBJECTS: Mapping[str, Callable[[str], object]] = {
    "numeric": Decimal,
    "uuid": UUID,
    "json": json.loads,
    "bytea": lambda text: bytea(text),
}
# Those that the parser of CSV reads at once.
PLAIN = ("boolean", "smallint", "integer", "bigint", "real", "double", "text")

_OIDS = {
    16: "boolean", 17: "bytea", 20: "bigint", 21: "smallint", 23: "integer", 26: "bigint", 114: "json",
    700: "real", 701: "double", 1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz",
    1186: "interval", 1700: "numeric", 2950: "uuid", 3802: "json",
    18: "text", 19: "text", 25: "text", 705: "text", 1042: "text", 1043: "text",
}  # fmt: skip
_ARRAY_OIDS = {
    1000: 16, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1007: 23, 1009: 25, 1014: 1042, 1015: 1043, 1016: 20,
    1021: 700, 1022: 701, 1028: 26, 1115: 1114, 1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186, 1231: 1700,
    199: 114, 2951: 2950, 3807: 3802,
}  # fmt: skip
KNOWN = {
    **{oid: Type(kind) for oid, kind in _OIDS.items()},
    **{oid: Type(_OIDS[element], array=True) for oid, element in _ARRAY_OIDS.items()},
}
# The types whose values asyncpg reads without losing any: no infinite dates, no months, no bit strings.
EXACT = frozenset({16, 19, 20, 21, 23, 25, 26, 700, 701, 1042, 1043})

# Asks the catalog about the others: an array's element, a domain's base, an enum's labels in their order.
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


def described(row: Mapping[str, Any]) -> Type:
    """Return the type that one row of `DESCRIBE` tells of."""
    labels = tuple(row["labels"])
    kind = "enum" if labels else _OIDS.get(row["oid"], "text")
    return Type(kind, row["is_array"], row["delimiter"], labels)


def bytea(text: str) -> bytes:
    """Read either of the two forms in which bytes are written."""
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    octal = re.sub(r"\\(\\|[0-7]{3})", lambda m: "\\" if m[1] == "\\" else chr(int(m[1], 8)), text)
    return octal.encode("latin-1")  # bytea_output = escape
