"""The characters that a database in another encoding than UTF-8 can store. No I/O."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from citykit.encode.rules import Rule

_SINGLE_BYTE = re.compile("LATIN|ISO_8859_|KOI8|WIN")


@cache
def characters_of(encoding: str) -> str | None:
    """Return the characters that an encoding of PostgreSQL has beside ASCII.

    None for UTF8, for SQL_ASCII (which takes any bytes) and for encodings with several bytes for a character:
    of EUC_JP and its like, Python's tables are not PostgreSQL's. Those with one byte are the same in both.

    Examples
    --------
    >>> "é" in characters_of("LATIN1"), "ł" in characters_of("LATIN1"), characters_of("UTF8")
    (True, False, None)
    """
    if not _SINGLE_BYTE.match(encoding):
        return None
    codec = codecs.lookup(encoding.replace("WIN", "cp").replace("KOI8", "koi8-"))
    return codec.decode(bytes(range(0x80, 0x100)), "ignore")[0]


def beyond(encoding: str) -> str:
    """Return a regular expression that finds the characters which such an encoding lacks."""
    return rf"[^\x00-\x7f{re.escape(characters_of(encoding) or '')}]"


def lacks(encoding: str, text: str) -> bool:
    """Tell whether a text has a character that the database cannot have."""
    return characters_of(encoding) is not None and re.search(beyond(encoding), text) is not None


def in_encoding(rules: Sequence[Rule], encoding: str) -> list[Rule]:
    """Return the rules for the columns of a database in this encoding (``server_encoding``)."""
    if characters_of(encoding) is None:
        return list(rules)
    return [
        replace(rule, encoding=encoding, item=rule.item and replace(rule.item, encoding=encoding))
        for rule in rules
    ]
