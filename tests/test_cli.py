"""The command line as a person types it."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

import citykit
from citykit.cli import app

COMMANDS = ["init", "seed", "add", "load", "biggest", "chart", "demo", "databases", "drop", "lab", "serve"]


@pytest.fixture(autouse=True)
def empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(engine, reset=True))
    yield
    citykit.run(engine.dispose())


def ran(*words: str) -> tuple[int, str, str]:
    """The exit code and what is printed to stdout and stderr by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "citykit", *words],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


def called(*words: str) -> tuple[int, str, str]:
    """The same from this process, which saves it the imports: most of a second."""
    with (
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
        pytest.raises(SystemExit) as ended,
    ):
        app(list(words))
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def typed(*words: str, code: int = 0, run: Callable[..., tuple[int, str, str]] = called) -> str:
    """What a command prints, having seen that it ends as it should."""
    returned, out, err = run(*words)
    assert returned == code, err
    assert "Traceback" not in err
    if code:
        assert out == ""
        [line] = err.splitlines()
        assert line.startswith("citykit: ")
        return line
    assert err == ""
    return out


def test_the_installed_command_is_the_module() -> None:
    command = Path(sys.executable).with_name("citykit")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == typed("--help", run=ran).replace("python -m citykit", "citykit")


def test_help_names_every_command_and_each_says_what_it_does() -> None:
    overview = typed("--help", run=ran)
    for command in COMMANDS:
        assert f"  {command} " in overview
        assert len(typed(command, "--help").splitlines()) > 4
    assert typed(run=ran) == overview


def test_the_readme_names_every_command() -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"citykit {command}" in readme


def test_init_add_biggest() -> None:
    assert typed("init", run=ran) == "The table is ready.\n"
    assert "Stored City('Springfield', country='US', region='IL', population=114394)" in typed(
        "add", "Springfield", "114394", "--country", "US", "--region", "IL"
    )
    typed("add", "Reykjavík", "118918", "--country", "IS")
    assert [line.split()[0] for line in typed("biggest").splitlines()] == ["name", "Reykjavík", "Springfield"]
    assert "118,918" in typed("biggest", "-n", "1")
    assert "Springfield" not in typed("biggest", "-n", "1")
    assert "Reykjavík" not in typed("biggest", "--country", "US")
    assert typed("init", "--reset") == "The table is empty and ready.\n"
    assert "citykit seed" in typed("biggest")


def test_biggest_as_csv_and_json() -> None:
    typed("add", "Reykjavík", "118918", "--country", "IS")
    assert typed("biggest", "--format", "csv").splitlines() == [
        "name,country,region,population,latitude,longitude",
        "Reykjavík,IS,,118918,,",
    ]
    assert json.loads(typed("biggest", "--format", "json")) == [
        {
            "name": "Reykjavík",
            "country": "IS",
            "region": "",
            "population": 118918,
            "latitude": None,
            "longitude": None,
        }
    ]
    typed("init", "--reset")
    assert json.loads(typed("biggest", "--format", "json")) == []


def test_seed_twice() -> None:
    assert "GeoNames" in typed("seed", "--min-population", "1000000")
    assert "0 inserted" in typed("seed", "--min-population", "1000000")
    assert "Shanghai" in typed("biggest", "-n", "1")


def test_load_csv_and_parquet(three_cities: pd.DataFrame) -> None:
    three_cities.to_csv("cities.csv", index=False)
    assert typed("load", "cities.csv") == "3 inserted, 0 updated, 0 skipped.\n"
    three_cities.assign(population=5).to_parquet("cities.parquet")
    assert typed("load", "cities.parquet", "--on-conflict", "update") == "0 inserted, 3 updated, 0 skipped.\n"
    assert typed("load", "cities.parquet", "--on-conflict", "skip") == "0 inserted, 0 updated, 3 skipped.\n"
    assert "3 rows are already there" in typed("load", "cities.csv", code=1)


def test_load_lists_the_rows_that_it_leaves_out() -> None:
    Path("cities.csv").write_text("name,population\na,1\nb,many\n,3\n", encoding="utf-8")
    line = typed("load", "cities.csv", code=1)
    assert "column 'population' has 1 value not a number (first at row label 1: 'many')" in line
    printed = typed("load", "cities.csv", "--on-invalid", "skip")
    assert printed.startswith("1 inserted")
    assert "many" in printed
    assert "missing" in printed


@pytest.mark.parametrize("name", ["out.png", "out.svg", "out.pdf"])
def test_chart(name: str) -> None:
    typed("add", "Reykjavík", "118918")
    assert typed("chart", name) == f"Wrote {name}\n"
    magic = {"out.png": b"\x89PNG", "out.svg": b"<?xml", "out.pdf": b"%PDF"}
    assert Path(name).read_bytes().startswith(magic[name])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["biggest", "-n", "0"], "n is the number of cities, 1 or more"),
        (["biggest", "-n", "many"], "'-n'"),
        (["biggest", "--format", "xml"], "xml"),
        (["bigest"], "biggest"),
        (["add"], "name"),
        (["add", "a"], "population"),
        (["add", "a", "-5"], "population -5 cannot be stored (negative)"),
        (["add", "", "5"], "empty"),
        (["add", "a", "5.5"], "'population'"),
        (["add", "a", "99999999999999999999"], "above 2,147,483,647"),
        (["load", "nowhere.csv"], "nowhere.csv"),
        (["load", "."], "a directory without a .parquet file"),
        (["load", "cities.csv", "--on-conflict", "replace"], "replace"),
        (["seed", "--min-population", "499"], "500 or more"),
        (["chart", "out.xyz"], "xyz"),
        (["chart", "out"], ".png"),
        (["chart", "out.png", "-n", "501"], "-n"),
        (["chart", "nowhere/out.png"], "nowhere/out.png"),
    ],
    ids=" ".join,
)
def test_an_error_is_one_line_and_exit_code_1(words: list[str], said: str) -> None:
    assert said in typed(*words, code=1)


def test_a_city_that_is_stored() -> None:
    typed("add", "Springfield", "114394", "--country", "US")
    assert "The city is already stored: Springfield, US" in typed(
        "add", "Springfield", "5", "--country", "US", code=1, run=ran
    )


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_URL", "postgresql://ada:s3cr3t@127.0.0.1:1/geo")
    line = typed("biggest", code=1)
    assert "ada:***@127.0.0.1:1/geo" in line
    assert "s3cr3t" not in line


def test_a_table_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "new"))
    assert "citykit init" in typed("biggest", code=1)


@pytest.mark.usefixtures("tutorial")
def test_the_demo_works_the_first_time_and_the_second() -> None:
    for inserted in ("33,839 inserted", "0 inserted"):
        Path("biggest.png").unlink(missing_ok=True)
        printed = typed("demo", run=ran)
        assert inserted in printed
        assert printed.count(" s\n") == 6  # the steps and how long each took
        assert printed.index("Shanghai") < printed.index("Beijing") < printed.index("Seoul")
        assert "Try next" in printed
        assert "GeoNames" in printed
        assert Path("biggest.png").read_bytes().startswith(b"\x89PNG")
    next_ = [line.strip().removeprefix("citykit ") for line in printed.splitlines() if " biggest --" in line]
    assert "New York" in typed(*next_[0].split(), run=ran)  # what it says to type
    assert "No such cities" in typed("biggest")  # the default database is the user's own


def test_the_demo_from_a_relative_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.setenv("CITYKIT_HOME", "data")
    assert "33,839 inserted" in typed("demo", run=ran)
    assert (tmp_path / "data" / "postgres" / "PG_VERSION").exists()
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded server, and no database named by the environment after the test either."""
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.setenv("CITYKIT_DATABASE", "")


@pytest.mark.usefixtures("own")
def test_a_database_of_ones_own_is_made_listed_and_dropped() -> None:
    name = "Zählung 2026; --"
    assert typed("--database", name, "init") == "The table is ready.\n"
    typed("--database", name, "add", "Brigadoon", "1000")
    assert "Brigadoon" in typed("--database", name, "biggest")
    os.environ["CITYKIT_DATABASE"] = ""
    assert "Brigadoon" not in typed("biggest")
    assert [line.split("  ")[0] for line in typed("databases").splitlines() if name in line] == [name]
    refused = typed("drop", name, code=1, run=ran)  # its stdin is no terminal
    assert "nothing was dropped" in refused
    dropped = refused.partition("To drop it: citykit ")[2]
    assert typed(*shlex.split(dropped), run=ran) == f"Dropped {name}\n"
    assert name not in typed("databases")
    assert "no database" in typed("drop", name, "--yes", code=1)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("answer", "kept"), [("n\n", True), ("y\n", False), ("", True)])
def test_drop_asks_on_a_terminal(answer: str, kept: bool) -> None:
    typed("--database", "asked", "init", run=ran)
    controller, terminal = pty.openpty()
    os.write(controller, answer.encode() or b"\x04")
    done = subprocess.run(
        [sys.executable, "-m", "citykit", "drop", "asked"], stdin=terminal, capture_output=True, check=False
    )
    os.close(controller)
    os.close(terminal)
    assert "Drop the database 'asked'" in done.stdout.decode()
    assert (done.returncode == 1) is kept
    assert b"Traceback" not in done.stderr
    assert ("asked" in typed("databases")) is kept
    if kept:
        typed("drop", "asked", "--yes")
