"""A frame to typed rows or rejects, and those to the bytes of COPY. Pure: no I/O."""

from citykit.encode.copy_format import HEADER, TRAILER, encode_binary, encode_csv, types_in_binary
from citykit.encode.encodings import characters_of, in_encoding, lacks
from citykit.encode.frames import POSITION, check_dtypes, validate
from citykit.encode.names import Names
from citykit.encode.rejects import refuse, rejects_frame
from citykit.encode.rules import Rule, key_of, rules_of, table_of, unused_by

__all__ = [
    "HEADER", "POSITION", "TRAILER", "Names", "Rule", "characters_of", "check_dtypes", "encode_binary",
    "encode_csv", "in_encoding", "key_of", "lacks", "refuse", "rejects_frame", "rules_of", "table_of",
    "types_in_binary", "unused_by", "validate",
]  # fmt: skip
