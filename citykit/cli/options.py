"""What several commands take: how their words are read, and the options they share."""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from citykit.cli.interrupts import interrupts

T = TypeVar("T")


def whole(low: float = -math.inf, high: float = math.inf) -> Callable[[object], int]:
    """Return a parser of whole numbers, which refuses points and commas: their meaning would be a guess."""

    def read(given: object) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", str(given)):
            raise ValueError(f"{str(given)!r} is no whole number: write digits alone, such as 5000")
        if not low <= int(str(given)) <= high:
            wanted = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise ValueError(f"{given} is not {wanted}")
        return int(str(given))

    return read


def number(given: object) -> float:
    """Parse a number."""
    try:
        return float(str(given))
    except ValueError:
        raise ValueError(f"{str(given)!r} is no number, such as 64.1") from None


Format = Literal["table", "csv", "json", "ndjson", "parquet"]
Count = Annotated[int, typer.Option("-n", "--count", metavar="N", parser=whole(1), help="How many cities.")]
Country = Annotated[str | None, typer.Option(help="Only this country, spelled as stored (US).")]
MinPopulation = Annotated[
    int, typer.Option(metavar="N", parser=whole(), help="Leave out smaller cities; 500 or more.")
]
Printed = Annotated[Format | None, typer.Option("--format", help="By default the suffix of -o, or a table.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write to this file, replacing it; - is stdout.",
        callback=lambda file: None if file == Path("-") else file,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
OnConflictOption = Annotated[
    Literal["error", "skip", "update"],
    typer.Option(help="A row whose key is already there: fail, keep what is there, or replace it."),
]
OnInvalidOption = Annotated[
    Literal["error", "skip"], typer.Option(help="A row with a bad value: fail, or leave it out.")
]


def pair(word: str) -> tuple[str, str]:
    """Return the two names of OLD=NEW."""
    old, equals, new = word.rpartition("=")
    if not (equals and old and new):
        raise typer.BadParameter(f"{word} is not OLD=NEW, such as --rename city=name")
    return old, new


def each_once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return the values by their names, of which none may be given twice."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise typer.BadParameter(f"{option} gives {name} twice")
        found[name] = value
    return found


def names_of(words: str | None) -> list[str] | None:
    """Return the names of a comma-separated list; a name with a comma in it stands in double quotes."""
    try:
        return None if words is None else next(csv.reader([words], skipinitialspace=True), [])
    except csv.Error as exc:  # a line break outside of quotes
        raise typer.BadParameter(
            f"{words!r} is no list of names: one with a line break stands in double quotes"
        ) from exc


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere `yes` has to be given."""
    if not yes and not sys.stdin.isatty():
        raise ValueError("stdin is no terminal; nothing was changed. Add --yes to go on without a question.")
    interrupts.said = "interrupted; nothing was changed"
    if not yes and not typer.confirm(question):
        raise typer.Abort
