"""Frames as text for a terminal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from citykit.files.writers import as_texts

SHOWN_ROWS = 100  # of a table on a terminal
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them


def as_table(
    frame: pd.DataFrame,
    formatters: Mapping[str, Callable[[Any], str]] | None = None,
    *,
    terminal: bool = False,
) -> str:
    """Return a frame as text; on a terminal, with one value per line if a row is wider than that."""
    if frame.empty:
        return visible(f"{'  '.join(map(str, frame.columns))}\n(no rows)")
    shown = frame.head(SHOWN_ROWS) if terminal else frame
    shown = shown if formatters else as_texts(shown, "NULL")
    with pd.option_context("display.unicode.east_asian_width", True):
        text = shown.to_string(
            index=False, formatters=formatters or {}, na_rep="", max_colwidth=60 if terminal else None
        )
    if terminal and max(map(len, text.splitlines())) > shutil.get_terminal_size().columns:
        width = max(len(str(name)) for name in shown.columns)
        rows = as_texts(shown, "NULL").itertuples(index=False, name=None)
        names = [f"{name:<{width}}" for name in map(str, shown.columns)]
        text = "\n\n".join("\n".join(map("{}  {}".format, names, row)) for row in rows)
    if len(shown) < len(frame):
        text += f"\n{len(shown):,} of {len(frame):,} rows; -o FILE writes all of them"
    return visible(text)


def visible(text: str) -> str:
    """Return a text with the code of each control character in place of it."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
