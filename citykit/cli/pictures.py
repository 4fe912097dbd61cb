"""Commands that draw: a chart, and the demonstration of all the package."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import citykit
from citykit.cli.group import app
from citykit.cli.interrupts import ask
from citykit.cli.messages import this_command, typed_options
from citykit.cli.options import Country, whole
from citykit.cli.output import FORMATTERS, echo_report, nothing_stored

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.ext.asyncio import AsyncEngine

Kind = Literal["biggest", "countries", "rank-size", "map"]
# How many rows a chart has by default, and at most.
_LIMITS: dict[Kind, tuple[int, int]] = {
    "biggest": (20, 500), "countries": (20, 500), "rank-size": (1_000, 1_000_000), "map": (40_000, 1_000_000),
}  # fmt: skip


@app.command()
def chart(
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The picture: .png, .svg or .pdf.")],
    kind: Annotated[
        Kind, typer.Option(help="Bars of cities or countries, sizes by rank, or a map.")
    ] = "biggest",
    n: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="N", parser=whole(1), help="How many; of bars 500 at most."),
    ] = None,
    country: Country = None,
    title: Annotated[str | None, typer.Option(help="Above the chart.")] = None,
) -> None:
    """Draw the most populated cities or countries."""
    if not out.suffix:
        raise ValueError(f"{out} has no suffix, which gives the format of the picture, such as .png")
    count, most = _LIMITS[kind]
    if (n or count) > most:
        raise typer.BadParameter(f"-n {n}: a chart of this kind has at most {most:,}")
    if kind == "countries" and country is not None:
        raise typer.BadParameter("--country is for charts of cities")
    count = n or count

    async def asked(engine: AsyncEngine) -> pd.DataFrame:
        if kind == "countries":
            return (await citykit.summarize_countries(engine)).head(count)
        return await citykit.biggest_cities(engine, count, country=country)

    frame = ask(asked)
    if frame.empty:
        raise ValueError(f"{nothing_stored()} Nothing was drawn.")
    _draw(kind, frame, out, title)
    typer.echo(f"Wrote {out}")


def _draw(kind: Kind, frame: pd.DataFrame, out: Path, title: str | None = None) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")  # a picture needs no screen
    plots = {
        "biggest": citykit.plot_biggest, "countries": citykit.plot_countries,
        "rank-size": citykit.plot_rank_size, "map": citykit.plot_map,
    }  # fmt: skip
    plots[kind](frame, title=title)
    try:
        pyplot.savefig(out, dpi=150)
    except OSError as exc:
        raise ValueError(f"{out} cannot be written: {exc.strerror or exc}") from exc


@app.command()
def demo() -> None:
    """Show all of it: start the database, store the world's cities, print and draw the biggest."""
    from citykit.files import as_table

    tutorial = None if os.environ.get("CITYKIT_URL") or os.environ.get("CITYKIT_DATABASE") else TUTORIAL
    database = os.environ.get("CITYKIT_DATABASE") or tutorial

    async def shown(engine: AsyncEngine) -> pd.DataFrame:
        with _step("Creating the table"):
            await citykit.create_tables(engine)
        with _step("Reading the world's cities"):
            cities = citykit.world_cities()
        with _step(f"Storing {len(cities):,} of them"):
            report = await citykit.load_cities(engine, cities, on_conflict="skip")
        with _step("Asking for the 20 biggest"):
            frame = await citykit.biggest_cities(engine, 20)
        frame.attrs["source"] = cities.attrs["source"]
        typer.echo()
        echo_report(report)
        return frame

    async def started(_engine: AsyncEngine) -> None:
        """Do nothing: connecting has started the server, which ends with the last process that uses it."""

    with _step("Starting PostgreSQL"):
        ask(started, database=database)
    frame = ask(shown, database=database)
    picture = Path("biggest.png").resolve()
    typer.echo(f"\n{as_table(frame, FORMATTERS)}\n")
    with _step("Drawing them"):
        _draw("biggest", frame, picture)
    if tutorial:
        typed_options["database"] = tutorial  # not the default one of a command
    typed = this_command()
    place = f"the database {database}" if database else "the database of the URL"
    typer.echo(
        f"\nWrote {picture}\nSource: {frame.attrs['source']}\n\n"
        f"They are in {place}. Try next:\n"
        f"  {typed} biggest --country US\n"
        f"  {typed} find wien\n"
        f"  {typed} add Brigadoon 1000 --country GB --region SCT\n"
        f"  {typed} chart map.png --kind map\n"
        f"  {typed.partition(' --')[0]} lab  the same in notebooks"
    )


@contextmanager
def _step(title: str) -> Iterator[None]:
    typer.echo(f"{title} ... ", nl=False)
    started = time.perf_counter()
    yield
    typer.echo(f"{time.perf_counter() - started:.2f} s")


TUTORIAL = "tutorial"  # the database of `demo` and of the notebooks
