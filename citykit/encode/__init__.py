"""A frame to typed rows or rejects, and those to the bytes of COPY. Pure: no I/O."""

from citykit.encode.columns import python_values
from citykit.encode.copy_format import HEADER, TRAILER, encode_binary, encode_csv, is_in_binary
from citykit.encode.dtypes import declared, flaw_of_identifier, types_of
from citykit.encode.encodings import characters_of, in_encoding, lacking
from citykit.encode.frames import POSITION, ROW_BYTES, check_dtypes, validate, validate_row
from citykit.encode.names import Names
from citykit.encode.rejects import refused, rejects_frame, shown_value
from citykit.encode.rules import Rule, columns_of_key, key_of, rules_of, table_of, unused_by
from citykit.encode.text_numbers import NOTATION, advice, notes_of

__all__ = [
    "HEADER", "NOTATION", "POSITION", "ROW_BYTES", "TRAILER", "Names", "Rule", "advice", "characters_of",
    "check_dtypes", "columns_of_key", "declared", "encode_binary", "encode_csv", "flaw_of_identifier",
    "in_encoding", "is_in_binary", "key_of", "lacking", "notes_of", "python_values", "refused",
    "rejects_frame", "rules_of", "shown_value", "table_of", "types_of", "unused_by", "validate",
    "validate_row",
]  # fmt: skip
