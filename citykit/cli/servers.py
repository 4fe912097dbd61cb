"""Commands that deal with a server: citykit's own PostgreSQL, JupyterLab, HTTP."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from citykit.cli.group import app
from citykit.cli.interrupts import interrupts, wait
from citykit.cli.messages import this_command, visible
from citykit.cli.options import Yes, confirm, whole


@app.command()
def databases() -> None:
    """List the databases of citykit's own PostgreSQL."""
    from citykit.database import list_databases

    found = [(visible(each.name), each) for each in wait(list_databases)]
    width = max(len(name) for name, _ in found)
    for name, each in found:
        in_use = f"  {each.connections} connected" if each.connections else ""
        typer.echo(f"{name:<{width}}  {each.size:>8}{in_use}")


@app.command()
def drop(name: Annotated[str, typer.Argument(help="The database.")], yes: Yes = False) -> None:
    """Drop a database of citykit's own PostgreSQL, with all that is in it."""
    from citykit.database import drop_database

    confirm(f"Drop the database {name!r} with all that is in it?", yes)
    interrupts.said = f"interrupted; {this_command()} databases shows whether {name} is still there"
    wait(lambda: drop_database(name))
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
        for folder in (Path(__file__).parents[1] / "notebooks", Path(__file__).parents[2] / "notebooks")
        if folder.is_dir()
    )
    directory.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(originals.glob("*.ipynb")):
        if not (directory / notebook.name).exists():  # your own changes stay
            shutil.copy(notebook, directory)
    typer.echo(f"The notebooks are in {directory.resolve()}; Ctrl-C twice ends JupyterLab.")
    os.environ["CITYKIT_HOME"] = str(default_home())  # a kernel runs in another directory
    options = ["--allow-root"] if is_root() else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(directory), *options])  # noqa: S606


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", parser=whole(0, 65535), help="The port; 0: a free one.")
    ] = 8000,
    max_body: Annotated[
        int, typer.Option(metavar="N", parser=whole(1), help="The largest bulk body, in MiB.")
    ] = 1024,
) -> None:
    """Serve the cities over HTTP: a page, and JSON for programs (needs citykit[web])."""
    from citykit.web import serve as run

    run(host, port, max_body_bytes=max_body * 2**20, say=typer.echo)
