"""The command line: each command is a few of the package's helpers in a row."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from sqlalchemy.exc import SQLAlchemyError
from typer.core import TyperGroup
from typer.exceptions import TyperException

import citykit

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.ext.asyncio import AsyncEngine


class _OneLineErrors(TyperGroup):
    """Ends on an error with one line on stderr and exit code 1, whatever the error."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        options["standalone_mode"] = False
        warnings.showwarning = lambda message, *_, **__: typer.echo(f"citykit: {message}", err=True)
        try:
            sys.exit(super().main(words or ["--help"], *rest, **options) or 0)
        except (citykit.CitykitError, OSError, SQLAlchemyError, ValueError) as exc:
            said = str(getattr(exc, "orig", None) or exc)
            for in_python, typed in _TYPED.items():
                said = said.replace(in_python, typed)
        except TyperException as exc:  # wrong words on the command line
            said = f"{exc.format_message().rstrip('.')}. See citykit --help."
        typer.echo(f"citykit: {' '.join(said.split())}", err=True)
        sys.exit(1)


# What the messages say to type in Python, as it is typed here.
_TYPED = {
    "await citykit.create_tables(engine)": "citykit init",
    "await citykit.create_tables(engine, reset=True)": "citykit init --reset",
    "on_conflict='skip'": "--on-conflict skip",
    "on_conflict='update'": "--on-conflict update",
    "See citykit.last_rejects() for all; on_invalid='skip'": "--on-invalid skip",
    " See citykit.last_rejects() for all.": "",
}

app = typer.Typer(
    cls=_OneLineErrors,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Real cities in a real PostgreSQL: load them, ask which are the biggest, chart them. "
    "The database is citykit's own one unless CITYKIT_URL names another.",
)


TUTORIAL = "tutorial"  # the database of `demo` and of the notebooks
Count = Annotated[int, typer.Option("-n", "--count", help="How many cities.")]
Country = Annotated[str | None, typer.Option(help="Only this country, spelled as stored (US).")]
MinPopulation = Annotated[int, typer.Option(help="Leave out smaller cities; 500 or more.")]


@app.callback()
def everywhere(
    database: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The database, made if it is new; else that of CITYKIT_DATABASE."),
    ] = None,
) -> None:
    """Do what every command does first."""
    if database is not None:
        os.environ["CITYKIT_DATABASE"] = database  # `lab` and `serve` hand it on


@asynccontextmanager
async def _database() -> AsyncIterator[AsyncEngine]:
    engine = await citykit.connect()
    try:
        yield engine
    finally:
        await engine.dispose()


@app.command()
def init(
    reset: Annotated[
        bool, typer.Option("--reset", help="Drop the table first, with all its cities.")
    ] = False,
) -> None:
    """Create the table of cities, unless it exists."""

    async def work() -> None:
        async with _database() as engine:
            await citykit.create_tables(engine, reset=reset)

    citykit.run(work())
    typer.echo("The table is empty and ready." if reset else "The table is ready.")


@app.command()
def seed(min_population: MinPopulation = 15_000) -> None:
    """Store real cities of the world (GeoNames); those already stored stay as they are."""
    frame = citykit.world_cities(min_population)

    async def work() -> citykit.LoadReport:
        async with _database() as engine:
            await citykit.create_tables(engine)
            return await citykit.load_cities(engine, frame, on_conflict="skip")

    _echo_report(citykit.run(work()))
    typer.echo(f"Source: {frame.attrs['source']}")


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is a population, if a bad one
def add(
    name: Annotated[str, typer.Argument(help="Its name.")],
    population: Annotated[int, typer.Argument(help="Persons.")],
    country: Annotated[str, typer.Option(help="Its country, as an ISO code (US).")] = "",
    region: Annotated[str, typer.Option(help="Its first-level division (IL).")] = "",
) -> None:
    """Store one city."""
    if name.startswith("--"):
        raise typer.BadParameter(f"No such option: {name}")

    async def work() -> citykit.City:
        async with _database() as engine:
            return await citykit.add_city(engine, name, population, country=country, region=region)

    typer.echo(f"Stored {citykit.run(work())!r}")


@app.command()
def load(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv|FILE.parquet", help="Columns as in the table.")],
    on_conflict: Annotated[
        Literal["error", "skip", "update"],
        typer.Option(help="A city already stored: fail, keep it, or replace it."),
    ] = "error",
    on_invalid: Annotated[
        Literal["error", "skip"],
        typer.Option(help="A row with a bad value: fail, or leave it out and list it."),
    ] = "error",
) -> None:
    """Store the cities of a CSV or Parquet file: all of them or none."""

    async def work() -> citykit.LoadReport:
        async with _database() as engine:
            return await citykit.load_cities(engine, file, on_conflict=on_conflict, on_invalid=on_invalid)

    _echo_report(citykit.run(work()))


@app.command()
def biggest(
    n: Count = 20,
    country: Country = None,
    format_: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print them.")
    ] = "table",
) -> None:
    """Print the most populated cities, largest first."""
    frame = _biggest(n, country)
    match format_:
        case "table":
            typer.echo(_table(frame))
        case "csv":
            typer.echo(frame.to_csv(index=False), nl=False)
        case "json":
            records = frame.astype(object).where(frame.notna(), None).to_dict("records")
            typer.echo(json.dumps(records, ensure_ascii=False, indent=2))


@app.command()
def chart(
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The picture: .png, .svg or .pdf.")],
    n: Annotated[int, typer.Option("-n", "--count", max=500, help="How many cities, 500 at most.")] = 20,
    country: Country = None,
) -> None:
    """Draw the most populated cities as bars."""
    if not out.suffix:
        raise ValueError(f"{out} has no ending that says which kind of picture it is to be, such as .png")
    _draw(_biggest(n, country), out)
    typer.echo(f"Wrote {out}")


@app.command()
def demo() -> None:
    """Show all of it: start the database, store the world's cities, print and draw the biggest."""
    database = os.environ.get("CITYKIT_DATABASE") or TUTORIAL

    async def work() -> pd.DataFrame:
        with _step("Starting PostgreSQL"):
            engine = await citykit.connect(database=database)
        try:
            with _step("Creating the table"):
                await citykit.create_tables(engine)
            with _step("Reading the world's cities"):
                cities = citykit.world_cities()
            with _step(f"Storing {len(cities):,} of them"):
                report = await citykit.load_cities(engine, cities, on_conflict="skip")
            with _step("Asking for the 20 biggest"):
                frame = await citykit.biggest_cities(engine, 20)
        finally:
            await engine.dispose()
        frame.attrs["source"] = cities.attrs["source"]
        typer.echo()
        _echo_report(report)
        return frame

    frame = citykit.run(work())
    typer.echo(f"\n{_table(frame)}\n")
    with _step("Drawing them"):
        _draw(frame, Path("biggest.png"))
    typed = f"citykit --database {shlex.quote(database)}"
    typer.echo(
        f"\nWrote {Path('biggest.png').resolve()}\nSource: {frame.attrs['source']}\n\n"
        f"They are in the database {database}. Try next:\n"
        f"  {typed} biggest --country US\n"
        f"  {typed} add Brigadoon 1000 --country GB --region SCT\n"
        f"  {typed} seed --min-population 500\n"
        "  citykit lab  the same in notebooks"
    )


@app.command()
def databases() -> None:
    """List the databases of citykit's own PostgreSQL."""
    from citykit.database import list_databases

    found = citykit.run(list_databases())
    width = max(len(each.name) for each in found)
    for each in found:
        in_use = f"  {each.connections} connected" if each.connections else ""
        typer.echo(f"{each.name:<{width}}  {each.size:>8}{in_use}")


@app.command()
def drop(
    name: Annotated[str, typer.Argument(help="The database.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop a database of citykit's own PostgreSQL, with all that is in it."""
    from citykit.database import drop_database

    if not yes and not sys.stdin.isatty():
        raise ValueError(
            "nobody can be asked here; nothing was dropped. To drop it: "
            f"citykit drop {shlex.quote(name)} --yes"
        )
    with suppress(typer.Abort):  # Ctrl-C or Ctrl-D
        yes = yes or typer.confirm(f"Drop the database {name!r} with all that is in it?")
    if not yes:
        raise ValueError("nothing was dropped")
    citykit.run(drop_database(name))
    typer.echo(f"Dropped {name}")


@app.command()
def lab(
    directory: Annotated[
        Path, typer.Argument(help="Where your copies of the notebooks are, or are to be.")
    ] = Path("citykit-notebooks"),
) -> None:
    """Open JupyterLab on copies of the notebooks, with the same database."""
    from citykit.database import default_home, is_root

    originals = next(
        folder
        for folder in (Path(__file__).parent / "notebooks", Path(__file__).parents[1] / "notebooks")
        if folder.is_dir()
    )
    directory.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(originals.glob("*.ipynb")):
        if not (directory / notebook.name).exists():  # your own changes stay
            shutil.copy(notebook, directory)
    typer.echo(f"The notebooks are in {directory.resolve()}; Ctrl-C twice ends JupyterLab.")
    os.environ["CITYKIT_HOME"] = str(default_home())  # a relative one would mean another place in a kernel
    options = ["--allow-root"] if is_root() else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(directory), *options])  # noqa: S606


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any that is free.")] = 8000,
    max_body: Annotated[int, typer.Option(min=1, help="The largest bulk body, in MiB.")] = 1024,
) -> None:
    """Serve the cities over HTTP: a page, and JSON for programs (needs citykit[web])."""
    from citykit.web import serve as run

    run(host, port, max_body_bytes=max_body * 2**20, say=typer.echo)


def _biggest(n: int, country: str | None) -> pd.DataFrame:
    async def work() -> pd.DataFrame:
        async with _database() as engine:
            return await citykit.biggest_cities(engine, n, country=country)

    return citykit.run(work())


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "No such cities are stored. citykit seed stores the world's; countries are codes such as US."
    formats: dict[str, Callable[[Any], str]] = {"population": "{:,}".format}
    return frame.to_string(index=False, formatters=formats, na_rep="")


def _draw(frame: pd.DataFrame, out: Path) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")  # a picture needs no screen
    citykit.plot_biggest(frame)
    pyplot.savefig(out, dpi=150)


def _echo_report(report: citykit.LoadReport) -> None:
    typer.echo(f"{report.inserted:,} inserted, {report.updated:,} updated, {report.skipped:,} skipped.")
    if len(report.rejects):
        typer.echo(f"{len(report.rejects):,} bad values; their rows were left out:\n")
        typer.echo(report.rejects.to_string(index=False, max_rows=20))


@contextmanager
def _step(title: str) -> Iterator[None]:
    typer.echo(f"{title} ... ", nl=False)
    started = time.perf_counter()
    yield
    typer.echo(f"{time.perf_counter() - started:.2f} s")


def main() -> None:
    """Run the command line (the entry point ``citykit``)."""
    app()


if __name__ == "__main__":
    main()
