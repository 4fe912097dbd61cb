"""Commands for the table of cities: make it, fill it, ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import citykit
from citykit.cli.group import app
from citykit.cli.interrupts import ask
from citykit.cli.messages import visible
from citykit.cli.options import (
    Count,
    Country,
    Format,
    MinPopulation,
    Out,
    Printed,
    Yes,
    confirm,
    number,
    whole,
)
from citykit.cli.output import FORMATTERS, echo_report, nothing_stored, print_frame, wanted_format

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.ext.asyncio import AsyncEngine


@app.command()
def init(
    reset: Annotated[
        bool, typer.Option("--reset", help="Drop the table first, with all its cities.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Create the table of cities, unless it exists."""
    if reset:
        confirm("Drop the table with all its cities?", yes)
    ask(lambda engine: citykit.create_tables(engine, reset=reset))
    typer.echo("The table is empty and ready." if reset else "The table is ready.")


@app.command()
def seed(min_population: MinPopulation = 15_000) -> None:
    """Store real cities of the world (GeoNames); those already stored stay as they are."""
    frame = citykit.world_cities(min_population)

    async def stored(engine: AsyncEngine) -> citykit.LoadReport:
        await citykit.create_tables(engine)
        return await citykit.load_cities(engine, frame, on_conflict="skip")

    echo_report(ask(stored))
    typer.echo(f"Source: {frame.attrs['source']}")


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is a bad population, not an option
def add(
    name: Annotated[str, typer.Argument(help="Its name.")],
    population: Annotated[int, typer.Argument(parser=whole(), help="Persons.")],
    country: Annotated[str, typer.Option(help="Its country, as an ISO code (US).")] = "",
    region: Annotated[str, typer.Option(help="Its first-level division (IL).")] = "",
) -> None:
    """Store one city."""
    if name.startswith("-"):
        raise typer.BadParameter(f"No such option: {name}. There are --country and --region")
    city = ask(lambda engine: citykit.add_city(engine, name, population, country=country, region=region))
    typer.echo(f"Stored {city!r}")


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="Its name, as it is stored.")],
    country: Annotated[str | None, typer.Option(help="Its country.")] = None,
    region: Annotated[str | None, typer.Option(help="Its first-level division.")] = None,
    yes: Yes = False,
) -> None:
    """Delete one city; of several with this name, --country and --region say which."""
    from citykit.cities import KEY

    given = {key: value for key, value in (("country", country), ("region", region)) if value is not None}
    where = " AND ".join(f"{key} = :{key}" for key in ("name", *given))
    columns = ", ".join((*KEY, "population", _HAS_NAMES))
    found = ask(
        lambda engine: citykit.read_frame(
            engine,
            f"SELECT {columns} FROM cities WHERE {where} ORDER BY population DESC, country, region LIMIT 11",  # noqa: S608
            {"name": name, **given},
        )
    )
    cities = [visible(", ".join(filter(None, row[:3]))) for row in found.itertuples(index=False)]
    if len(cities) != 1:
        several = f"several cities have this name ({'; '.join(cities[:10])}{'; …' * (len(cities) > 10)})"
        how = "Say which with --country and --region (an empty one is '')."
        missing = f"no city {name!r}{' of that country or region' if given else ''} is stored"
        raise ValueError(
            f"{several if cities else missing}; nothing was deleted. {how if cities else ''}".strip()
        )
    confirm(f"Delete {cities[0]} ({found['population'].iloc[0]:,} persons)?", yes)
    key = dict(zip(KEY, found.iloc[0], strict=False))
    this = "WHERE name = :name AND country = :country AND region = :region"
    sql = f"DELETE FROM cities {this}"  # noqa: S608
    if found["has_names"].item():  # if they stayed, a new city of this key would have them
        sql = f"WITH names AS (DELETE FROM city_names {this}) {sql}"  # noqa: S608
    deleted = ask(lambda engine: citykit.execute(engine, sql, key))
    typer.echo(f"Deleted {cities[0]}" if deleted.rows else f"{cities[0]} was deleted by others.")


_HAS_NAMES = """coalesce(has_table_privilege(to_regclass('city_names'), 'SELECT')
    AND has_table_privilege(to_regclass('city_names'), 'DELETE'), false) AS has_names"""


@app.command()
def biggest(n: Count = 20, country: Country = None, format_: Printed = None, out: Out = None) -> None:
    """Print the most populated cities, largest first."""
    _print_cities(lambda engine: citykit.biggest_cities(engine, n, country=country), format_, out)


@app.command()
def find(
    text: Annotated[str, typer.Argument(metavar="NAME", help="A name, in any language, or a part of one.")],
    n: Count = 20,
    country: Country = None,
    format_: Printed = None,
    out: Out = None,
) -> None:
    """Find cities by name: wien finds Vienna."""
    _print_cities(lambda engine: citykit.find_cities(engine, text, n, country=country), format_, out)


@app.command(context_settings={"ignore_unknown_options": True})  # -21.9 is a longitude
def nearest(
    latitude: Annotated[float, typer.Argument(parser=number, help="Degrees, -90 to 90.")],
    longitude: Annotated[float, typer.Argument(parser=number, help="Degrees, -180 to 180.")],
    n: Count = 20,
    format_: Printed = None,
    out: Out = None,
) -> None:
    """Print the cities nearest to a point, and how far they are."""
    _print_cities(lambda engine: citykit.nearest_cities(engine, latitude, longitude, n), format_, out)


@app.command()
def countries(format_: Printed = None, out: Out = None) -> None:
    """Print the countries of the cities, the most populous first."""
    _print_cities(citykit.summarize_countries, format_, out)


def _print_cities(
    question: Callable[[AsyncEngine], Awaitable[pd.DataFrame]], format_: Format | None, out: Path | None
) -> None:
    format_ = wanted_format(format_, out)
    frame = ask(question)
    if frame.empty and format_ == "table":
        typer.echo(nothing_stored())
    else:
        print_frame(frame, format_, out, FORMATTERS)
