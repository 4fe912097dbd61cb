"""A frame to typed rows or rejects, and those to the bytes of COPY. Pure: no I/O."""

from citykit.encode.copy_format import HEADER, TRAILER, encode_binary, encode_csv, types_in_binary
from citykit.encode.encodings import characters_of, in_encoding, lacks
from citykit.encode.frames import POSITION, validate
from citykit.encode.rejects import refuse, rejects_frame
from citykit.encode.rules import Rule, key_of, rules_of, table_of
from citykit.encode.text_numbers import NOTATION, advice, notes_of

__all__ = [
    "HEADER",
    "NOTATION",
    "POSITION",
    "TRAILER",
    "Rule",
    "advice",
    "characters_of",
    "encode_binary",
    "encode_csv",
    "in_encoding",
    "key_of",
    "lacks",
    "notes_of",
    "refuse",
    "rejects_frame",
    "rules_of",
    "table_of",
    "types_in_binary",
    "validate",
]  # fmt: skip
