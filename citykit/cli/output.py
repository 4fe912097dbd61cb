"""Frames and reports, printed or written to a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import citykit
from citykit.cli.messages import this_command, visible
from citykit.cli.options import Format

if TYPE_CHECKING:
    import pandas as pd


def wanted_format(given: Format | None, out: Path | None) -> Format:
    """Return the format to print, having seen that this can be done: what is asked for may write."""
    from citykit.files import format_of

    try:
        format_ = given or (format_of(out) if out else "table")
    except ValueError as exc:
        raise typer.BadParameter(f"{exc}; else give --format") from exc
    if format_ == "parquet" and out is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is no text: write it to a file with -o FILE")
    if out:
        check_writable(out, "nothing was run")
    return format_


class _CheckedError(Exception):
    """Leaves `writing` before it puts a file in the place of another."""


def check_writable(path: Path, undone: str) -> None:
    """Raise the error of `writing` if a file cannot be written; one that is there stays as it is."""
    from citykit.files import writing

    if path.exists() and not (path.is_file() or path.is_dir()):  # closing a pipe would end it for its reader
        return
    try:
        with suppress(_CheckedError), writing(path, "csv"):
            raise _CheckedError
    except citykit.CitykitError as exc:
        raise citykit.CitykitError(f"{exc}; {undone}") from exc


def print_frame(
    frame: pd.DataFrame,
    format_: Format,
    out: Path | None,
    formatters: Mapping[str, Callable[[Any], str]] | None = None,
) -> None:
    """Print a frame, or write it to a file."""
    from citykit.files import as_table, write_bytes, writing

    buffer = io.BytesIO()
    if format_ == "table":
        text = as_table(frame, formatters, terminal=out is None and sys.stdout.isatty())
        buffer.write(f"{text}\n".encode())
    else:
        with writing(out or buffer, format_) as write:
            write(frame)
    if out is None and format_ == "table":
        typer.echo(buffer.getvalue().decode(), nl=False)  # in the encoding of the terminal
    elif out is None:
        typer.echo(buffer.getvalue(), nl=False)
    else:
        if format_ == "table":
            write_bytes(out, buffer.getvalue())
        typer.echo(f"Wrote {len(frame):,} rows to {out}")


FORMATTERS: dict[str, Callable[[Any], str]] = {
    "population": "{:,}".format, "cities": "{:,}".format, "total_population": "{:,}".format,
    "largest_population": "{:,}".format, "share": "{:.2%}".format, "distance_km": "{:,.1f}".format,
}  # fmt: skip


def echo_report(report: citykit.LoadReport, *, dry_run: bool = False) -> None:
    """Print what a load did, or would do."""
    would = "would be " if dry_run else ""
    counts = (
        f"{report.inserted:,} {would}inserted, {report.updated:,} {would}updated, {report.skipped:,} skipped"
    )
    typer.echo(f"{counts}; nothing was loaded." if dry_run else f"{counts}.")
    if report.left_out:
        typer.echo(f"Left out, because the database fills it: {visible(', '.join(report.left_out))}")
    if count := len(report.rejects):
        from citykit.files import as_table

        bad = f"{count:,} bad value{'s' * (count > 1)}"
        typer.echo(f"{bad}; the rows with them {would or 'were '}left out:\n")
        shown = report.rejects.head(20)
        values: list[Any] = [_cut(value) for value in shown["value"]]
        typer.echo(as_table(shown.assign(value=values)))
        if count > len(shown):
            typer.echo(f"{len(shown)} of {count:,}; --rejects FILE writes all of them")


def _cut(value: object) -> str | None:
    """Return a value as text of at most 60 characters, as a terminal's tables have them."""
    text = str(value)
    return None if value is None else text if len(text) <= 60 else f"{text[:57]}..."


def nothing_stored() -> str:
    """Say that no city answers a question, and how to store some."""
    seed = f"{this_command()} seed"
    return f"No such cities are stored. {seed} stores the world's; countries are codes such as US."
