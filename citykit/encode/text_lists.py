"""Text in a column of arrays: a list as JSON, citykit's own files and pandas' ``to_csv`` write it. No I/O."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

NO_LIST = 'not a list such as ["a", "b"]'

# The repr() of a list. `ast.literal_eval` gets its parts only: of the whole it would read NumPy's
# ['a' 'b'] as ['ab'], and takes a hundred bytes for each character of a long text.
_ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""
_STRING = rf"""'(?:[^'\\]|{_ESCAPE})*+'|"(?:[^"\\]|{_ESCAPE})*+\""""
_PART = rf"(?:{_STRING}|None|True|False|nan|-?inf|-?[0-9][0-9.]*+(?:e[-+]?[0-9]++)?)"
_PARTS, _PRINTED = re.compile(_PART), re.compile(rf"\[(?:{_PART}(?:, {_PART})*+)?+\]")
_SEPARATORS = ("; ", ";", "|", ", ", ",")


def list_in(text: str, *, of_json: bool) -> list[Any] | None:
    """Return the list that a text stands for; None if it stands for none.

    Its numbers with a point are Decimals, which lose no digit; floats where the elements are JSON themselves.
    """
    if not text.startswith("["):
        return None
    try:
        found: list[Any] = json.loads(text, parse_float=None if of_json else Decimal)
    except (ValueError, RecursionError):
        if not _PRINTED.fullmatch(text):
            return None
        try:
            found = [_part(part) for part in _PARTS.findall(text)]
        except (SyntaxError, ValueError):  # 1.2.3, or a character beyond U+10FFFF
            return None
    return found


def _part(text: str) -> Any:
    if text[0] in "'\"" and "\\" not in text:
        return text[1:-1]
    return float(text) if text.endswith(("nan", "inf")) else ast.literal_eval(text)


def splitting(texts: Sequence[object], column: str) -> str:
    """Return the line that splits texts without brackets into lists; "" if that would not make them right."""
    if not texts or not all(isinstance(text, str) and text and text[0] not in "[{(" for text in texts):
        return ""
    counts = Counter(mark for text in texts for mark in _SEPARATORS if mark in str(text))
    mark = max(_SEPARATORS, key=lambda each: counts[each]) if counts else ","
    return f'{column} = {column}.map(lambda text: text.split("{mark}"), na_action="ignore")'
