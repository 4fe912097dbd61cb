"""The tokens of SQL text (literals, comments, words, placeholders), and where statements end. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from citykit.errors import CitykitError

# Literals, quoted names and comments are one token each, so that no :name in them is a parameter.
_PLAIN_TEXT = r"'(?:[^']|'')*'"
_ESCAPED_TEXT = r"'(?:[^'\\]|\\.|'')*'"
_LEXER = r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<text>{plain} | [eE]{escaped} | "(?:[^"]|"")*"
              | \$(?P<tag>[^\W\d]\w*)?\$.*?\$(?(tag)(?P=tag))\$ )
    | (?P<end>;)
    | \$(?P<number>\d+)
    | (?<![\w\])"']):(?P<name>[^\W\d]\w*)
    | (?P<word>[^\W\d][\w$]*)
    | :: | := | .
"""
# By standard_conforming_strings: where it is off, a backslash escapes in plain literals, too.
_LEXERS = {
    conforming: re.compile(
        _LEXER.replace("{plain}", plain).replace("{escaped}", _ESCAPED_TEXT), re.VERBOSE | re.DOTALL
    )
    for conforming, plain in ((True, _PLAIN_TEXT), (False, _ESCAPED_TEXT))
}
_UNCLOSED = ("'", '"', "$")  # a token by itself only where a literal does not end


def tokens_of(sql: str, conforming: bool) -> Iterator[re.Match[str] | dict[Any, Any]]:
    """Yield the tokens of a text: `token[0]` is its characters, the group that is not empty its kind.

    `conforming` is the session's standard_conforming_strings.
    """
    position = 0
    while found := _LEXERS[conforming].match(sql, position):
        position = found.end()
        if found["comment"]:
            position = _comment_end(sql, found.start())
            yield {**dict.fromkeys(found.groupdict()), 0: sql[found.start() : position], "space": " "}
        else:
            yield found


def _comment_end(sql: str, start: int) -> int:
    depth = 0
    for mark in re.finditer(r"/\*|\*/", sql[start:]):  # comments nest
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return start + mark.end()
    return len(sql)


def without_end(sql: str, conforming: bool) -> list[Any]:
    """Return the tokens of a text without the spaces, comments and semicolons at its end."""
    tokens = list(tokens_of(sql, conforming))
    while tokens and (tokens[-1]["space"] or tokens[-1]["end"]):  # a last semicolon would end a COPY early
        tokens.pop()
    return tokens


def statements(sql: str, conforming: bool = True) -> list[str]:
    r"""Return the statements of a text, each after as many newlines as lines are before it.

    They end at semicolons outside of literals, comments, parentheses and the body of a function
    (``BEGIN ATOMIC … END``).

    Raises
    ------
    CitykitError
        If a literal or a quoted name does not end.

    Examples
    --------
    >>> statements("SELECT ';'; -- ;\nSELECT 2;")
    ["SELECT ';'", ' -- ;\nSELECT 2']
    """
    parts = []
    line = 0
    for part in split(sql, conforming):
        if any(not token["space"] for token in tokens_of(part, conforming)):
            parts.append("\n" * line + part)
        line += part.count("\n")
    return parts


def parameter_names(sql: str, conforming: bool = True) -> list[str]:
    """Return the names of the ``:named`` parameters of a statement, each once, in their order."""
    return list(dict.fromkeys(token["name"] for token in tokens_of(sql, conforming) if token["name"]))


_ROUTINES = tuple(f"create {how}{what}" for how in ("", "or replace ") for what in ("function", "procedure"))


def split(sql: str, conforming: bool) -> list[str]:
    """Return the parts of a text that semicolons separate, those without a statement among them."""
    parts: list[list[str]] = [[]]
    words: list[str] = []
    parentheses = blocks = position = 0
    for token in tokens_of(sql, conforming):
        if token[0] in _UNCLOSED:
            line = sql.count("\n", 0, position) + 1
            raise CitykitError(
                f"The literal or name after {token[0]} in line {line} does not end; nothing was run."
            )
        position += len(token[0])
        if token["end"] and not parentheses and not blocks:
            parts.append([])
            words.clear()
            continue
        parts[-1].append(token[0])
        if token["word"]:
            words.append(token["word"].lower())
            if " ".join(words[:4]).startswith(_ROUTINES):
                blocks += words[-1] == "begin" or (words[-1] == "case" and blocks > 0)
                blocks -= words[-1] == "end" and blocks > 0
        parentheses = max(0, parentheses + (token[0] == "(") - (token[0] == ")"))
    return ["".join(part) for part in parts]
