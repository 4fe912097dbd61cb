"""The command line as a person types it."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import date
from decimal import Decimal
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.main
from pyarrow import parquet
from sqlalchemy.ext.asyncio import AsyncConnection

import citykit
from citykit.cli import messages
from citykit.cli.commands import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("CITYKIT_URL", "CITYKIT_DATABASE"):  # which a command may change
        monkeypatch.setenv(name, os.environ.get(name, ""))
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
    out, err = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        app(list(words))
    for stream in (out, err):
        stream.seek(0)
    return int(ended.value.code or 0), out.read(), err.read()


def typed(*words: str, code: int = 0, run: Callable[..., tuple[int, str, str]] = called) -> str:
    """What a command prints, having seen that it ends as it should."""
    returned, out, err = run(*words)
    assert returned == code, err
    assert "Traceback" not in err
    if code:
        assert out == ""
        [line] = err.splitlines()
        assert line.startswith("citykit")
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
        told = typed(command, "-h")
        assert len(told.splitlines()) > 4
        for option in ("--url", "--database", "--version", "--help"):
            assert option in told
    assert typed(run=ran) == overview == typed("-h", run=ran)


def test_help_imports_nothing_that_takes_long() -> None:
    script = (
        "import sys\nfrom citykit.cli.commands import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n"
        "    print(sorted({'asyncio', 'pandas', 'pyarrow', 'sqlalchemy', 'matplotlib'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_readme_has_every_command_and_every_option(command: str) -> None:
    section = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    section = section.split("## On the command line")[1].split("\n## ")[0]
    words = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`]+)`", section))))
    assert not command or command in words
    parameters = (COMMANDS[command] if command else typer.main.get_command(app)).params
    options = {max(each.opts, key=len) for each in parameters if each.param_type_name == "option"}
    assert options - words == set()


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
    assert typed("init", "--reset", "--yes") == "The table is empty and ready.\n"
    assert "citykit seed" in typed("biggest")


def test_biggest_as_csv_and_json() -> None:
    typed("add", "Reykjavík", "118918", "--country", "IS")
    assert typed("biggest", "--format", "csv").splitlines() == [
        "name,country,region,population,latitude,longitude",
        'Reykjavík,IS,"",118918,,',
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
    typed("init", "--reset", "--yes")
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


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize("from_stdin", [False, True])
@pytest.mark.parametrize("on_invalid", ["error", "skip"])
def test_rejects_are_written_with_their_line_and_the_key_of_their_row(
    on_invalid: str, from_stdin: bool
) -> None:
    text = 'city,country,population\n"Bad\nname",IS,5\n\nAtlantis,GR,-1\nOz,US,many\nReal,IS,7\n'
    words = ["load", "-" if from_stdin else written("cities.csv", text), "--rename", "city=name"]
    done = subprocess.run(
        [sys.executable, "-m", "citykit", *words, "--on-invalid", on_invalid, "--rejects", "bad.csv"],
        input=text.encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == (on_invalid == "error"), done.stderr
    bad = pd.read_csv("bad.csv", dtype=str)
    assert list(bad.columns) == ["file", "line", "key", "column", "value", "reason"]
    assert bad[["line", "key", "column", "value"]].to_numpy().tolist() == [
        ["5", "Atlantis, GR", "population", "-1"],
        ["6", "Oz, US", "population", "many"],
    ]
    stored = int(typed("query", "SELECT count(*) FROM cities", "--format", "csv").splitlines()[1])
    assert stored == (0 if on_invalid == "error" else 2)


def test_an_error_in_standard_input_names_it_also_where_it_is_read_again() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "citykit", "load", "-", "--rejects", "bad.csv"],
        input=b"name,population\n\xff,1\n", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"citykit: standard input cannot be read" in done.stderr


def test_control_characters_of_a_file_or_the_database_do_not_reach_the_terminal() -> None:
    Path("cities.csv").write_text(f"name,population\n\x1b[31ma,1\nb,\x1b[31m{'x' * 100}\n", encoding="utf-8")
    assert r"\x1b[31m" in typed("load", "cities.csv", code=1)
    printed = [typed("load", "cities.csv", "--on-invalid", "skip")]
    assert "x" * 60 not in printed[0]  # a long value is cut
    typed("query", 'CREATE TABLE "\x1b[31mt" (a int)')
    printed += [typed("tables"), typed("query", 'SELECT 1 AS "\x1b[31m" WHERE false')]
    typed("query", 'DROP TABLE "\x1b[31mt"')
    printed.append(typed("delete", "\x1b[31ma", "--yes"))
    for shown in printed:
        assert "\x1b" not in shown
        assert r"\x1b[31m" in shown


def test_a_partitioned_table_has_the_rows_and_the_size_of_its_partitions() -> None:
    typed(
        "query",
        "DROP TABLE IF EXISTS parted; CREATE TABLE parted (a int) PARTITION BY RANGE (a); CREATE TABLE part "
        "PARTITION OF parted FOR VALUES FROM (0) TO (9); INSERT INTO parted VALUES (1), (2)",
    )
    shown = dict(line.split(maxsplit=1) for line in typed("tables").splitlines())
    assert shown["parted"] == shown["part"]
    assert shown["parted"].startswith("2 ")
    assert "0 bytes" not in shown["parted"]
    typed("query", "DROP TABLE parted")


@pytest.mark.parametrize(
    "of_session", [True, pytest.param(False, marks=pytest.mark.campaign)], ids=["0.1 s", "30 s"]
)
def test_a_lock_that_is_not_granted_has_no_hint_in_python(of_session: bool) -> None:
    engine = citykit.run(citykit.connect())
    url = engine.url.update_query_dict({"options": "-c lock_timeout=100"})
    words = ["--url", url.render_as_string(hide_password=False)] if of_session else []

    async def locked() -> AsyncConnection:
        connection = await engine.connect().start()
        await connection.exec_driver_sql("LOCK TABLE cities")
        return connection

    holder = citykit.run(locked())
    try:
        said = typed("add", "Oz", "5", *words, code=1)
    finally:
        citykit.run(holder.close())
        citykit.run(engine.dispose())
    assert "a lock was not granted within" in said
    assert said.endswith("When that session has ended its transaction, run it again")


@pytest.mark.parametrize(
    ("sql", "quoted"),
    [
        ("SELECT * FROM cities WHERE key=[1]", "key=[1]"),
        ("SELECT * FROM cities WHERE key='x'", "key='x'"),
        ("SELECT 'key=[1]'::int", '"key=[1]"'),
    ],
)
def test_sql_in_an_error_is_quoted_as_it_was_typed(sql: str, quoted: str) -> None:
    said = typed("query", sql, code=1)
    assert sql in said
    assert quoted in said
    assert "--key" not in said


def test_a_hint_for_a_name_with_a_comma_works_when_it_is_typed() -> None:
    typed("query", 'DROP TABLE IF EXISTS odd; CREATE TABLE odd ("a,b" int, "c ""d""" int)')
    words = ["load", written("odd.csv", '"a,b","c ""d""",other\n1,2,3\n'), "--table", "odd"]
    hint = re.search(r"--columns '[^']*'", typed(*words, code=1))
    assert hint is not None
    assert typed(*words, *shlex.split(hint[0])).startswith("1 inserted")
    typed("query", "DROP TABLE odd")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("load postgresql://ada:s3cr3t@h/geo", 1),
        ("load postgresql://ada:s3cr3t@h", 1),
        ("load postgresql://ada:s3@cr3t@h/geo", 1),
        ("init postgresql://ada:s3cr3t@h/geo", 2),
    ],
)
def test_no_message_has_the_password_of_a_url(words: str, code: int) -> None:
    said = typed(*words.split(), code=code)
    assert "***@h" in said
    assert "cr3t" not in said


def test_a_dry_run_checks_all_and_loads_nothing(three_cities: pd.DataFrame) -> None:
    three_cities.to_csv("cities.csv", index=False)
    assert typed("load", "cities.csv", "--dry-run").startswith("3 would be inserted, 0 would be updated, 0 ")
    assert "No such cities" in typed("biggest")
    typed("load", "cities.csv")
    assert "already there" in typed("load", "cities.csv", "--dry-run", code=1)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "ndjson"])
def test_a_file_makes_its_table_by_its_own_types(suffix: str) -> None:
    typed("query", "DROP TABLE IF EXISTS readings")
    frame = pd.DataFrame(
        {"place": ["a", "b"], "day": pd.to_datetime(["2026-01-01", "2026-01-02"]), "n": [1, 2]}
    )
    match suffix:
        case "csv":
            frame.to_csv("readings.csv", index=False)
        case "parquet":
            frame.to_parquet("readings.parquet")
        case _:
            frame.to_json("readings.ndjson", orient="records", lines=True, date_format="iso")
    words = ["load", f"readings.{suffix}", "--table", "readings", "--create", "--key", "place,day"]
    assert typed(*words) == "2 inserted, 0 updated, 0 skipped.\n"
    assert typed(*words, "--on-conflict", "skip") == "0 inserted, 0 updated, 2 skipped.\n"
    types = typed(
        "query", "SELECT pg_typeof(day) AS d, pg_typeof(n) AS n FROM readings LIMIT 1", "--format", "csv"
    )
    number = "text" if suffix == "csv" else "bigint"
    assert types == f"d,n\n{'timestamp without time zone' if suffix == 'parquet' else 'text'},{number}\n"
    assert next(line.split() for line in typed("tables").splitlines() if "readings" in line)[:2] == [
        "readings",
        "2",
    ]
    typed("query", "DROP TABLE readings")


def test_a_file_that_fails_makes_no_table() -> None:
    written("bad.csv", "a,b\n1,2\n1,3\n")
    assert "1 row" in typed("load", "bad.csv", "--table", "made", "--create", "--key", "a", code=1)
    assert "made" not in typed("tables")


@pytest.mark.parametrize(
    ("name", "mark", "text"),
    [
        ("comma.csv", (), "name,population\na,1\n"),
        ("marks.txt", ("--delimiter", ";", "--thousands", ".", "--columns", "name,population"),
         "name;population;x\na;1.000;y\n"),
        ("tab.txt", ("--delimiter", "\\t"), "name\tpopulation\na\t1\n"),
        ("comma.csv", ("--compression", "none", "--encoding", "utf-8", "--decimal", "."),
         "name,population\na,1\n"),
    ],
)  # fmt: skip
def test_load_takes_the_options_of_files(name: str, mark: tuple[str, ...], text: str) -> None:
    assert typed("load", written(name, text), *mark).startswith("1 inserted")


def test_find_nearest_and_countries(three_cities: pd.DataFrame) -> None:
    three_cities.to_csv("cities.csv", index=False)
    typed("load", "cities.csv")
    assert "Reykjavík" in typed("find", "reykjavik")
    assert [row["country"] for row in json.loads(typed("find", "london", "--format", "json"))] == ["GB", "CA"]
    assert "CA" not in typed("find", "london", "--country", "GB")
    assert (
        json.loads(typed("nearest", "64.15", "-21.94", "-n", "1", "--format", "ndjson"))["name"]
        == "Reykjavík"
    )
    assert typed("countries").splitlines()[1].split()[:3] == ["GB", "1", "8,961,989"]


def test_delete_asks_which_of_several_and_deletes_one(three_cities: pd.DataFrame) -> None:
    three_cities.to_csv("cities.csv", index=False)
    typed("load", "cities.csv")
    line = typed("delete", "London", "--yes", code=1)
    assert "London, GB, ENG" in line
    assert "London, CA, 08" in line
    assert "--yes" in typed("delete", "London", "--country", "CA", code=1, run=ran)  # nobody can be asked
    assert typed("delete", "London", "--country", "CA", "--yes") == "Deleted London, CA, 08\n"
    assert sorted(row["country"] for row in json.loads(typed("biggest", "--format", "json"))) == ["GB", "IS"]


EXACT = """SELECT 9007199254740993 AS big, 1.50::numeric AS price, NULL::text AS none, '' AS empty,
true AS yes, DATE '2026-02-03' AS day, 0.1::float8 AS part, 'a,"b"\n' AS quoted,
'{"k": [1, null]}'::jsonb AS doc, TIMESTAMP '2026-02-03 04:05:06' AS at"""


def test_query_writes_values_exactly() -> None:
    assert typed("query", EXACT, "--format", "csv") == (
        "big,price,none,empty,yes,day,part,quoted,doc,at\n"
        '9007199254740993,1.50,,"",true,2026-02-03,0.1,"a,""b""\n","{""k"": [1, null]}",2026-02-03T04:05:06\n'
    )
    expected = (
        '{"big": 9007199254740993, "price": 1.50, "none": null, "empty": "", "yes": true, '
        '"day": "2026-02-03", "part": 0.1, "quoted": "a,\\"b\\"\\n", "doc": {"k": [1, null]}, '
        '"at": "2026-02-03T04:05:06"}'
    )
    assert typed("query", EXACT, "--format", "ndjson") == f"{expected}\n"
    assert typed("query", EXACT, "--format", "json") == f"[\n{expected}\n]\n"
    assert typed("query", EXACT, "-o", "exact.parquet") == "Wrote 1 rows to exact.parquet\n"
    [row] = parquet.read_table("exact.parquet").to_pylist()
    assert (row["big"], row["price"], row["none"]) == (9007199254740993, Decimal("1.50"), None)
    assert (row["empty"], row["day"]) == ("", date(2026, 2, 3))
    assert "NULL" in typed("query", EXACT)


@pytest.mark.parametrize(
    ("given", "value"),
    [("x=42", 42), ("x='42'", "42"), ("x=2.5", 2.5), ("x=[1, 2]", [1, 2]), ("x=IS", "IS"),
     ("x=2024-02-29", "2024-02-29"), ("x=True", True), ("x=None", None), ("x=a=b", "a=b"), ("x=", "")],
)  # fmt: skip
def test_a_parameter_follows_the_rule_of_sql_cells(given: str, value: object) -> None:
    assert json.loads(typed("query", "SELECT :x AS x", "-p", given, "--format", "ndjson")) == {"x": value}


def test_statements_without_rows_print_their_command_tag() -> None:
    typed("add", "Oz", "5")
    assert typed("query", "DELETE FROM cities WHERE population < :least", "-p", "least=10") == "DELETE 1\n"
    several = "CREATE TABLE once (a int); INSERT INTO once VALUES (1), (2); DROP TABLE once"
    assert typed("query", several) == "CREATE TABLE; INSERT 0 2; DROP TABLE\n"
    assert typed("query", "DELETE FROM cities", "-o", "a.csv") == (
        "DELETE 0; it returned no rows, and a.csv was not written\n"
    )


def test_a_statement_that_cannot_run_in_a_transaction_runs_without_one() -> None:
    assert typed("query", "VACUUM cities") == "VACUUM\n"
    assert "Run one statement at a time" in typed("query", "VACUUM cities; TABLE cities", code=1)


@pytest.mark.parametrize(
    ("target", "rows"),
    [
        (["-o", "nowhere/a.csv"], 0),
        (["-o", ".", "--format", "csv"], 0),
        (["-o", ".", "--format", "table"], 0),
        (["-o", "nowhere/a", "--format", "table"], 0),
        pytest.param(
            ["-o", "/dev/full", "--format", "csv"], 1,
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full"),
        ),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_written_says_whether_the_statement_was_run(
    target: list[str], rows: int
) -> None:
    typed("query", "DROP TABLE IF EXISTS once; CREATE TABLE once (a int)")
    said = typed("query", "INSERT INTO once VALUES (1) RETURNING *", *target, code=1)
    assert said.endswith("what it changed is stored" if rows else "; nothing was run")
    assert typed("query", "SELECT count(*) AS n FROM once", "--format", "csv") == f"n\n{rows}\n"
    typed("query", "DROP TABLE once")


def test_parquet_for_a_terminal_is_refused_before_the_statement_is_run() -> None:
    typed("query", "DROP TABLE IF EXISTS once; CREATE TABLE once (a int)")
    controller, terminal = pty.openpty()
    sql = "INSERT INTO once VALUES (1) RETURNING *"
    done = subprocess.run(
        [sys.executable, "-m", "citykit", "query", sql, "--format", "parquet"],
        stdout=terminal, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 2
    assert b"write it to a file with -o FILE" in done.stderr
    assert typed("query", "SELECT count(*) AS n FROM once", "--format", "csv") == "n\n0\n"
    typed("query", "DROP TABLE once")


@pytest.mark.parametrize("suffix", ["csv", "json", "ndjson", "parquet"])
def test_what_is_exported_loads_back(suffix: str, three_cities: pd.DataFrame) -> None:
    three_cities.to_csv("cities.csv", index=False)
    typed("load", "cities.csv")
    before = typed("biggest", "--format", "csv")
    assert typed("export", f"out.{suffix}") == f"Wrote 3 rows to out.{suffix}\n"
    typed("init", "--reset", "--yes")
    typed("load", f"out.{suffix}")
    assert typed("biggest", "--format", "csv") == before


@pytest.mark.parametrize("suffix", ["csv", "json", "ndjson", "parquet"])
def test_exported_cities_load_back_with_their_other_names(suffix: str) -> None:
    names = ["Wien", 'Bécs, "x"']
    cities = [
        {"name": "Vienna", "country": "AT", "population": 2, "other_names": names},
        {"name": "Oz", "country": "", "population": 1, "other_names": []},
    ]
    typed("load", written("cities.json", json.dumps(cities)))
    assert typed("export", f"out.{suffix}") == f"Wrote 2 rows to out.{suffix}\n"
    typed("init", "--reset", "--yes")
    typed("load", f"out.{suffix}")
    assert "Vienna" in typed("find", "wien")
    stored = typed("query", "SELECT name, other_names FROM city_names", "--format", "ndjson")
    assert json.loads(stored) == {"name": "Vienna", "other_names": names}


def test_the_other_names_of_a_deleted_city_are_deleted_with_it() -> None:
    cities = [{"name": "Vienna", "population": 2, "other_names": ["Bécs"]}]
    typed("load", written("cities.json", json.dumps(cities)))
    assert typed("delete", "Vienna", "--yes") == "Deleted Vienna\n"
    typed("add", "Vienna", "3")
    assert "No such cities" in typed("find", "bécs")
    typed("query", "DROP TABLE city_names")  # as in a database of an earlier version
    assert typed("delete", "Vienna", "--yes") == "Deleted Vienna\n"
    assert typed("export", "out.csv") == "Wrote 0 rows to out.csv\n"


def test_a_role_without_rights_on_the_other_names_exports_and_deletes_cities() -> None:
    engine = citykit.run(citykit.connect())
    url = engine.url.update_query_dict({"options": "-c role=citykit_reader"}).render_as_string(False)
    typed("add", "Oz", "5")
    typed("query", "CREATE ROLE citykit_reader; GRANT SELECT, DELETE ON cities TO citykit_reader")
    try:
        code, out, err = called("export", "out.csv", "--url", url)
        assert (code, out) == (0, "Wrote 1 rows to out.csv\n")
        assert "needs SELECT on the table city_names" in err
        assert typed("delete", "Oz", "--yes", "--url", url) == "Deleted Oz\n"
    finally:
        os.environ["CITYKIT_URL"] = engine.url.render_as_string(False)
        typed("query", "DROP OWNED BY citykit_reader; DROP ROLE citykit_reader")
    citykit.run(engine.dispose())


def test_a_file_stays_as_it_was_where_its_successor_fails() -> None:
    typed("query", "SELECT 1 AS a", "-o", "a.csv")
    typed("query", "SELECT 1/(i - 200000) AS a FROM generate_series(1, 300000) i", "-o", "a.csv", code=1)
    assert Path("a.csv").read_text(encoding="utf-8") == "a\n1\n"
    assert os.listdir() == ["a.csv"]


@pytest.mark.parametrize("format_", ["table", "csv", "json", "ndjson"])
def test_a_closed_pipe_ends_it_quietly(format_: str) -> None:
    sql = "SELECT i, repeat('x', 100) AS x FROM generate_series(1, 30000) i"
    writer = subprocess.Popen(
        [sys.executable, "-m", "citykit", "query", sql, "--format", format_],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None
    assert writer.stderr is not None
    with writer:
        writer.stdout.read(10)
        writer.stdout.close()
        assert writer.stderr.read() == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("format_", ["table", "csv", "json"])
def test_any_encoding_of_the_output_will_do(
    encoding: str, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = subprocess.run(
        [sys.executable, "-m", "citykit", "query", "SELECT 'é東' AS x", "--format", format_],
        capture_output=True, check=True,
    )  # fmt: skip
    if format_ != "table":  # files are UTF-8, and so is what stands for one
        assert "é東" in done.stdout.decode()


def interrupted(process: subprocess.Popen[bytes], times: int) -> tuple[int, str]:
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=60)
    return process.returncode, err.decode()


def started(*words: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "citykit", *words], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_load_says_so_and_loads_nothing(times: int) -> None:
    """It is interrupted while a trigger of the server keeps it waiting."""
    typed("query", "DROP TABLE IF EXISTS slow")
    typed("query", "CREATE TABLE slow (a text)")
    typed(
        "query",
        "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); "
        "RETURN NEW; END$$; CREATE TRIGGER wait BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    written("slow.csv", "a\n1\n2\n")
    load = started("load", "slow.csv", "--table", "slow")
    while "0" in typed("query", _WAITING, "--format", "csv").splitlines()[1]:
        assert load.poll() is None
    code, err = interrupted(load, times)
    assert code == -signal.SIGINT
    assert "Traceback" not in err
    assert ("interrupted; nothing was loaded" in err) if times == 1 else "citykit: " in err
    while "0" not in typed("query", _WAITING, "--format", "csv").splitlines()[1]:
        typed("query", _END)  # the server sees that its client is gone only when the statement ends
    assert typed("query", "SELECT count(*) AS n FROM slow", "--format", "csv") == "n\n0\n"
    typed("query", "DROP TABLE slow; DROP FUNCTION wait")


_SLEEPING = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
_WAITING = f"SELECT count(*) AS n {_SLEEPING}"
_END = f"SELECT pg_terminate_backend(pid) {_SLEEPING}"


def test_an_interrupt_at_a_question_says_that_nothing_was_changed() -> None:
    typed("add", "Oz", "5")
    controller, terminal = pty.openpty()
    with started("delete", "Oz", stdin=terminal) as asking:
        assert asking.stdout is not None
        asked = b""
        while b"?" not in asked:
            part = os.read(asking.stdout.fileno(), 100)
            assert part
            asked += part
        code, err = interrupted(asking, 1)
    os.close(controller)
    os.close(terminal)
    assert code == -signal.SIGINT
    assert "interrupted; nothing was changed" in err
    assert "Oz" in typed("biggest")


@pytest.mark.parametrize(
    ("refused", "hint", "instead"),
    [
        ("BEGIN", "transactions itself. For several in one, write them in one query.",
         "SELECT 1 AS one; SELECT 2 AS two"),
        ("CREATE TEMP TABLE x AS SELECT 2 AS two", "one query, where a temporary table takes ON COMMIT DROP",
         "CREATE TEMP TABLE x ON COMMIT DROP AS SELECT 2 AS two; TABLE x"),
        ("SET work_mem = '8MB'", "SET LOCAL and the statements that it is for in one query",
         "SET LOCAL work_mem = '8MB'; SELECT 2 AS two"),
    ],
)  # fmt: skip
def test_what_belongs_to_one_connection_is_written_in_one_query(
    refused: str, hint: str, instead: str
) -> None:
    said = typed("query", refused, code=1)
    assert hint in said
    assert "engine" not in said
    assert "two" in typed("query", instead)


# Sentences that the command line replaces and that the package puts together, cut where it does.
CUT = {
    "; to wait longer: |await citykit.connect(url, lock_timeout=120|, connect_args={'server_settings': "
    "{'lock_timeout': '120s'}}|)",
    "Create| it from the frame: |await citykit.create_table(",
    "Or create| it from the frame: |await citykit.create_table(",
    "Read it with |citykit.read_file(",
}


def texts_of(node: ast.AST) -> Iterator[str]:
    """Each text of a module; of an f-string, its parts."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def test_each_sentence_that_the_command_line_replaces_is_one_that_the_package_says() -> None:
    """An edit of one of the two alone would show Python to those who type commands."""
    said = [
        text
        for path in (ROOT / "citykit").rglob("*.py")
        if path.parent.name != "cli"
        for text in texts_of(ast.parse(path.read_text(encoding="utf-8")))
    ]
    cut = {sentence.replace("|", ""): sentence.split("|") for sentence in CUT}
    assert cut.keys() <= messages._TYPED.keys()
    for sentence in messages._TYPED:
        for part in cut.get(sentence, [sentence]):
            assert any(part in text for text in said), part


ENTRIES = {
    "console script": "from citykit.cli import main; sys.exit(main())",
    "python -m citykit": "import runpy; runpy.run_module('citykit', run_name='__main__')",
}
# When the interrupt comes.
MOMENTS = {
    "typer is imported": "at_import('typer')",
    "commands are imported": "at_import('citykit.cli.data')",
    "commands are built": "import typer.main; before(typer.main, 'get_command')",
    "an error is said": "import citykit.cli.group as group; before(group, 'say')",
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_at_any_moment_is_one_line(entry: str, moment: str) -> None:
    script = f"""
import signal, sys
def at_import(name):
    def hook(event, arguments):
        if event == "import" and arguments[0] == name:
            signal.raise_signal(signal.SIGINT)
    sys.addaudithook(hook)
def before(owner, name):
    original = getattr(owner, name)
    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)
    setattr(owner, name, interrupted)
{MOMENTS[moment]}
sys.argv = ["citykit", "tables", "--no-such-option"]
{ENTRIES[entry]}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "citykit: interrupted; nothing was loaded or changed\n"
    assert done.returncode == -signal.SIGINT  # of which a shell makes 130


def test_an_interrupt_when_the_command_has_ended_changes_nothing() -> None:
    script = """
import atexit, signal, sys
from citykit import cli
atexit.register(lambda: (signal.raise_signal(signal.SIGINT), print("left")))
sys.argv = ["citykit", "--version"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == f"citykit {citykit.__version__}\nleft\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_whose_exception_was_lost_ends_the_command_before_its_work() -> None:
    script = """
import signal, sys
from citykit import cli
import citykit.cli.commands
class Lost:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def lose(_name, _path=None, _target=None):
    sys.meta_path.remove(finder)
    Lost()
class Finder:
    find_spec = staticmethod(lose)
finder = Finder()
sys.meta_path.insert(0, finder)  # the next import, after the command has begun
sys.argv = ["citykit", "load", "-"]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "citykit: interrupted; nothing was loaded or changed\n"


def test_an_interrupt_ends_the_wait_for_standard_input() -> None:
    load = started("load", "-", stdin=subprocess.PIPE)
    assert load.stdin is not None
    load.stdin.write(b"name,population\na,1\n")
    load.stdin.flush()
    time.sleep(1)
    os.kill(load.pid, signal.SIGINT)
    with load:
        assert load.wait(60) == -signal.SIGINT
        assert load.stderr is not None
        err = load.stderr.read().decode()
        assert "interrupted; nothing was loaded" in err
        assert "Traceback" not in err


@pytest.mark.parametrize("kind", ["biggest", "countries", "rank-size", "map"])
def test_charts_of_every_kind_with_a_title(kind: str, three_cities: pd.DataFrame) -> None:
    three_cities.to_csv("cities.csv", index=False)
    typed("load", "cities.csv")
    typed("chart", "out.svg", "--kind", kind, "--title", "Three of them", "-n", "3")
    assert (
        "Three of them" in Path("out.svg").read_text(encoding="utf-8")
        or Path("out.svg").stat().st_size > 5_000
    )


def test_a_chart_that_cannot_be_written_says_so_in_one_line() -> None:
    typed("add", "Oz", "5")
    said = typed("chart", "nowhere/out.png", code=1)
    assert said == "citykit: nowhere/out.png cannot be written: No such file or directory"


def test_options_of_all_commands_stand_before_or_after_the_name() -> None:
    version = f"citykit {citykit.__version__}\n"
    assert typed("--version") == typed("biggest", "--version") == version
    url = "postgresql://ada:s3cr3t@127.0.0.1:1/geo"
    for words in (["--url", url, "biggest"], ["biggest", "--url", url], ["init", "--url", url]):
        line = typed(*words, code=1)
        assert "ada:***@127.0.0.1:1/geo" in line
        assert "s3cr3t" not in line


def test_on_a_terminal_a_table_fits_and_many_rows_are_cut() -> None:
    def on_terminal(sql: str) -> str:
        controller, terminal = pty.openpty()
        os.environ["COLUMNS"] = "80"
        process = subprocess.Popen([sys.executable, "-m", "citykit", "query", sql], stdout=terminal)
        os.close(terminal)
        parts = []
        with suppress(OSError):
            while part := os.read(controller, 65_536):
                parts.append(part)
        os.close(controller)
        assert process.wait(60) == 0
        return b"".join(parts).decode().replace("\r\n", "\n")

    wide = on_terminal("SELECT repeat('a', 50) AS first, repeat('b', 50) AS second")
    assert wide.splitlines() == [f"first   {'a' * 50}", f"second  {'b' * 50}"]
    long = on_terminal("SELECT i FROM generate_series(1, 250) i").splitlines()
    assert long[-1] == "100 of 250 rows; -o FILE writes all of them"
    assert len(long) == 102
    assert "\x1b" not in on_terminal("SELECT E'\\x1b[31mred' AS x")


@pytest.mark.parametrize("name", ["out.png", "out.svg", "out.pdf"])
def test_chart(name: str) -> None:
    typed("add", "Reykjavík", "118918")
    assert typed("chart", name) == f"Wrote {name}\n"
    magic = {"out.png": b"\x89PNG", "out.svg": b"<?xml", "out.pdf": b"%PDF"}
    assert Path(name).read_bytes().startswith(magic[name])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("add a -5", "population -5 cannot be stored (negative)"),
        ("add '' 5", "empty"),
        ("add a 99999999999999999999", "above 2,147,483,647"),
        ("load nowhere.csv", "nowhere.csv cannot be read: there is no such file; nothing was loaded"),
        ("load .", "a directory without a .parquet file"),
        ("load bad.csv", "Add --thousands ."),
        ("load other.csv", "--rename city=name --rename pop=population"),
        ("load good.csv --rename nope=name", "'nope'"),
        ("load good.csv --delimiter ab", "delimiter is one character"),
        ("load good.csv --encoding klingon", "klingon"),
        ("load good.csv --table nowhere", "Add --create"),
        ("load good.csv --table 'a.b.c'", "no table's name"),
        ("load good.csv --table 'a\"b'", "no table's name"),
        ("load good.csv --table own --create --key nope", "nope"),
        ("load good.csv --table own --create --on-conflict update", "apart: --key …"),
        ("load good.csv --rejects rejects.xls", ".csv"),
        ("load bad.csv --rejects nowhere/a.csv", "nowhere/a.csv cannot be written"),
        ("load bad.csv --rejects nowhere/a.csv --on-invalid skip", "directory; nothing was loaded"),
        ("load bad.csv --rejects bad.csv", "bad.csv is the file to load; nothing was loaded"),
        ("load good.csv --dry-run --key population", "population"),
        ("seed --min-population 499", "500 or more"),
        ("delete nobody --yes", "no city 'nobody' is stored; nothing was deleted"),
        ("find ''", "empty"),
        ("nearest 95 0", "degrees, -90 to 90"),
        ("nearest nan 0", "degrees, -90 to 90"),
        ("query ''", "no statement"),
        ("query 'SELEC 1'", "syntax error"),
        ("query 'SELECT 1' -o nowhere/a.csv", "nowhere"),
        ("query 'SELECT 1' --format csv -o .", "directory"),
        ("query 'TABLE nowhere'", "citykit init"),
        ("query 'SELECT 1; SELEC 2'", "syntax error"),
        ("query 'COMMIT'", "COMMIT cannot be run here"),
        ("export nowhere/cities.csv", "nowhere"),
        ("export cities", "does not end in one of .csv"),
        ("export a.csv --table nowhere", "nowhere"),
        ("chart out.png", "citykit seed"),
        ("chart out.png --kind map", "Nothing was drawn"),
        ("chart out", ".png"),
        ("load https://example.org/a.csv?b", "first: curl -L -o a.csv 'https://example.org/a.csv?b'"),
        ("init --reset", "nothing was changed. Add --yes to go on without a question"),
        ("drop postgres --yes", "postgres"),
        ("drop '' --yes", "a name has 1 to 63 bytes, no NUL and no lone surrogate; nothing was dropped."),
        ("biggest --url nonsense", "URL cannot be read"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(words: str, said: str) -> None:
    Path("good.csv").write_text("name,population\na,1\n", encoding="utf-8")
    Path("bad.csv").write_text("name,population\na,1.000\n", encoding="utf-8")
    Path("other.csv").write_text("city,pop\na,1\n", encoding="utf-8")
    files = sorted(Path().iterdir())
    assert said in typed(*shlex.split(words), code=1)
    assert sorted(Path().iterdir()) == files
    if "--url" not in words:
        assert "No such cities" in typed("biggest")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bigest", "Did you mean 'biggest'?"),
        ("--nope", "--nope"),
        ("biggest -n 0", "-n"),
        ("biggest -n many", "-n"),
        ("biggest --format xml", "xml"),
        ("biggest --nope", "--nope"),
        ("biggest 5", "5"),
        ("add", "name"),
        ("add a", "population"),
        ("add a 5.5", "population"),
        ("add --nope 5", "--nope"),
        ("add -n 5", "No such option: -n. There are --country and --region"),
        ("load", "FILE"),
        ("load good.csv --on-conflict replace", "replace"),
        ("load good.csv --rename city", "--rename city=name"),
        ("load good.csv --rename a=x --rename a=y", "--rename gives a twice"),
        ("load good.csv --columns 'a\nb'", "is no list of names"),
        ("load good.csv --compression rar", "rar"),
        ("query", "SQL"),
        ("query 'SELECT :x'", ":x needs a value"),
        ("query 'SELECT 1' -p x=1", ":x is no parameter"),
        ("query 'SELECT :x' -p x", "country=IS"),
        ("query 'SELECT :x' -p =1", "country=IS"),
        ("query 'SELECT :x' -p x=1 -p x=2", "-p gives x twice"),
        ("nearest 5", "longitude"),
        ("nearest x 5", "latitude"),
        ("find", "NAME"),
        ("delete", "name"),
        ("export", "FILE"),
        ("chart out.png -n 501", "at most 500"),
        ("chart out.png --kind pie", "pie"),
        ("chart out.png --kind countries --country IS", "--country"),
        ("chart out.png -n 1.000", "'1.000' is no whole number"),
        ("add Oz 5.000", "'5.000' is no whole number"),
        ("add Oz 5,000", "'5,000' is no whole number"),
        ("add New York 8000000", "'York' is no whole number"),
        ("biggest -n 2.000", "'2.000' is no whole number"),
        ("biggest -n 1_0", "'1_0' is no whole number"),
        ("biggest -n 0", "0 is not 1 or more"),
        ("biggest --format xml", "--format': 'xml' is not one of"),
        ("biggest --country", "--country"),
        ("biggest --database ''", "--database"),
        ("biggest --url ''", "--url"),
        ("nearest 64,1 -21,9", "'64,1' is no number"),
        ("nearest 64.1N 21.9W", "'64.1N' is no number"),
        ("find new york", "in quotes"),
        ("seed --min-population many", "'many' is no whole number"),
        ("serve --port 70000", "70000 is not 0 to 65535"),
        ("serve --port http", "'http' is no whole number"),
        ("serve --max-body 0", "0 is not 1 or more"),
    ],
)
def test_wrong_words_are_exit_code_2_and_name_the_command(words: str, said: str) -> None:
    command = words.split()[0] if words.split()[0] in COMMANDS else ""
    line = typed(*shlex.split(words), code=2)
    assert said in line
    assert line.startswith(f"citykit {command}: " if command else "citykit: ")
    assert line.endswith(f"See citykit {command} --help.".replace("  ", " "))


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


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded server, and no database named by the environment after the test either."""
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.setenv("CITYKIT_DATABASE", "")


@pytest.mark.usefixtures("own")
def test_the_demo_goes_to_the_database_of_a_url() -> None:
    engine = citykit.run(citykit.connect(database="elsewhere"))
    url = engine.url.render_as_string(hide_password=False)
    citykit.run(engine.dispose())
    assert "They are in the database of the URL" in typed("demo", "--url", url, run=ran)
    assert "Shanghai" in typed("--database", "elsewhere", "biggest", "-n", "1", run=ran)
    typed("drop", "elsewhere", "--yes", run=ran)


@pytest.mark.usefixtures("own", "tutorial")
def test_the_demo_works_the_first_time_and_the_second() -> None:
    typed("init", "--reset", "--yes")
    for inserted in ("33,839 inserted", "0 inserted"):
        Path("biggest.png").unlink(missing_ok=True)
        printed = typed("demo", run=ran)
        assert inserted in printed
        assert printed.count(" s\n") == 6  # the steps and how long each took
        assert printed.index("Shanghai") < printed.index("Beijing") < printed.index("Seoul")
        assert "Try next" in printed
        assert "GeoNames" in printed
        assert Path("biggest.png").read_bytes().startswith(b"\x89PNG")
    [next_] = [line.strip() for line in printed.splitlines() if " biggest --" in line]
    words = shlex.split(
        next_.replace("citykit ", f"{sys.executable} -m citykit ", next_.startswith("citykit "))
    )
    assert "New York" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "No such cities" in typed("biggest")  # the default database is the user's own


@pytest.mark.campaign
def test_the_demo_from_a_relative_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.setenv("CITYKIT_HOME", "data")
    assert "33,839 inserted" in typed("demo", run=ran)
    assert (tmp_path / "data" / "postgres" / "PG_VERSION").exists()
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


@pytest.mark.usefixtures("own")
def test_a_database_of_ones_own_is_made_listed_and_dropped() -> None:
    name = r"Zählung \d 2026; --"
    assert f"--database {shlex.quote(name)} init" in typed("--database", name, "biggest", code=1)
    assert typed("--database", name, "init") == "The table is ready.\n"
    typed("--database", name, "add", "Brigadoon", "1000")
    assert "Brigadoon" in typed("--database", name, "biggest")
    os.environ["CITYKIT_DATABASE"] = ""
    typed("init")
    assert "Brigadoon" not in typed("biggest")
    assert [line.split("  ")[0] for line in typed("databases").splitlines() if name in line] == [name]
    refused = typed("drop", name, code=1, run=ran)  # its stdin is no terminal
    assert "nothing was changed. Add --yes" in refused
    assert typed("drop", name, "--yes", run=ran) == f"Dropped {name}\n"
    assert name not in typed("databases")
    assert "no database" in typed("drop", name, "--yes", code=1)
    assert typed("databases", "--url", "postgresql://127.0.0.1:1/geo", code=1).endswith("leave out --url")


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


def test_an_answer_goes_to_standard_output_by_any_of_its_names() -> None:
    for words in ((), ("-o", "-"), ("-o", "/dev/stdout")):
        command = [sys.executable, "-m", "citykit", "query", "SELECT 1 AS a", "--format", "csv", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        assert done.stdout.removesuffix("Wrote 1 rows to /dev/stdout\n") == "a\n1\n"
    assert not os.path.exists("-")


def test_a_table_that_cannot_be_written_whole_leaves_the_file_as_it_was() -> None:
    Path("kept.txt").write_text("before", encoding="utf-8")
    typed("query", "SELECT 1/0 AS a", "--format", "table", "-o", "kept.txt", code=1)
    assert Path("kept.txt").read_text(encoding="utf-8") == "before"
    typed("query", "SELECT 1 AS a", "--format", "table", "-o", "kept.txt")
    assert Path("kept.txt").read_text(encoding="utf-8").split() == ["a", "1"]
    assert "--format" in typed("query", "SELECT 1 AS a", "-o", "kept.xls", code=2)
