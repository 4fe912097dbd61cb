"""The characters that a database in another encoding than UTF-8 can store. No I/O."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from citykit.encode.rules import Rule

_SINGLE_BYTE = re.compile("LATIN|ISO_8859_|KOI8|WIN")
# Encodings with several bytes for a character: Python's codecs that together have its characters; characters
# that PostgreSQL has and they lack; characters that they have and PostgreSQL lacks.
_SEVERAL_BYTES = {
    "EUC_CN": (["gb2312"], "", ""),
    "EUC_JP": (["euc_jp", "cp932"], "", "\x80\xa2\xa3\xa5\xac\u2016\u203e\u2212\u301c"),
    "EUC_KR": (["euc_kr"], "\u327e", ""),
}
_LONGEST = 3  # bytes of a character: Python's euc_kr writes Hangul that EUC-KR lacks as 8 bytes


@cache
def characters_of(encoding: str) -> str | None:
    """Return the characters beside ASCII of an encoding of PostgreSQL that has one byte for each.

    None for the others. Python has the same tables for these encodings as PostgreSQL.

    Examples
    --------
    >>> "é" in characters_of("LATIN1"), "ł" in characters_of("LATIN1"), characters_of("UTF8")
    (True, False, None)
    """
    if not _SINGLE_BYTE.match(encoding):
        return None
    codec = codecs.lookup(encoding.replace("WIN", "cp").replace("KOI8", "koi8-"))
    return codec.decode(bytes(range(0x80, 0x100)), "ignore")[0]


@cache
def _known(encoding: str) -> frozenset[str] | None:
    """Return the characters of an encoding; None if it has all, takes any bytes (SQL_ASCII) or is unknown."""
    ascii_ = map(chr, range(0x80))
    if (single := characters_of(encoding)) is not None:
        return frozenset([*ascii_, *single])
    if encoding not in _SEVERAL_BYTES:
        return None
    names, more, fewer = _SEVERAL_BYTES[encoding]
    # Without surrogates and what is for private use.
    others = [chr(number) for number in range(0x80, 0x10000) if not 0xD800 <= number < 0xF900]
    stored = (each for name in names for each in others if 0 < len(each.encode(name, "ignore")) <= _LONGEST)
    return frozenset([*ascii_, *stored, *more]) - frozenset(fewer)


def lacking(encoding: str, text: str) -> frozenset[str]:
    """Return the characters of a text that a database in this encoding cannot store."""
    known = _known(encoding)
    return frozenset() if known is None else frozenset(text) - known


def in_encoding(rules: Sequence[Rule], encoding: str) -> list[Rule]:
    """Return the rules for the columns of a database in this encoding (``server_encoding``)."""
    if _known(encoding) is None:
        return list(rules)
    return [
        replace(rule, encoding=encoding, item=rule.item and replace(rule.item, encoding=encoding))
        for rule in rules
    ]
