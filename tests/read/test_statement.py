"""Statements and their parameters, without a database."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import DDL, JSON, Integer, bindparam, column, insert, literal, select, table, text

import citykit
from citykit.cities.model import City
from citykit.read.statement import compiled
from citykit.read.tokens import statements


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ':x'",
        "SELECT 'it''s :x'",
        r"SELECT E'\':x'",
        "SELECT $$ :x $$, $tag$ :x $$ :y $tag$",
        'SELECT ":x"',
        "SELECT 1 -- :x\n, 2",
        "SELECT 1 /* :x /* :y */ :z */, 2",
        "SELECT x::text, (1)::int",
        "SELECT a[1:2], a[i:j], a [x[1]:2]",
        """SELECT b @> '{":x": 1}', b -> 'a', b #>> '{a,b}', b ? 'a', '12:30'::time""",
    ],
)
def test_what_is_no_parameter_stays(sql: str) -> None:
    assert compiled(sql).sql == sql


def test_parameters_are_numbered_by_name() -> None:
    query = compiled("SELECT :b, :a::int, :b WHERE x IN (:c) AND y=:a", {"a": 1, "b": "x", "c": None})
    assert query.sql == "SELECT $1, $2::int, $1 WHERE x IN ($3) AND y=$2"
    assert query.args == ("x", 1, None)


@pytest.mark.parametrize("end", [";", " ; ;\n", " -- done", ";\n-- done\n", "\n\t"])
def test_a_semicolon_or_comment_at_the_end_goes(end: str) -> None:
    for statement in (f"SELECT 1{end}", text(f"SELECT 1{end}"), text(f"SELECT 1{end}").columns(column("a"))):
        assert compiled(statement).sql == "SELECT 1"


def ddl(comment: str, **context: str) -> Any:
    statement = f"COMMENT ON TABLE t IS '{comment}'"
    return DDL(statement, context=context)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("sql", "params", "said"),
    [
        ("SELECT :name", None, "parameter 'name' has no value"),
        ("SELECT :name", {"nmae": 1}, "no parameter 'nmae' in it .did you mean 'name'"),
        ("SELECT 1", {"name": 1}, "no parameter 'name'"),
        ("SELECT :name -- :other", {"name": 1, "other": 2}, "no parameter 'other'"),
        ("SELECT $1", None, "Parameters are named"),
        ("SELECT 1; DROP TABLE cities", None, "more than one statement"),
        (select(City.name).where(City.country == bindparam("name")), None, "parameter 'name' has no value"),
        (select(City.name), {"name": 1}, "no parameter 'name'"),
        (text("SELECT :name"), {}, "parameter 'name' has no value"),
        (text("SELECT 1; SELECT 2"), {}, "more than one statement"),
        (text("SELECT $1::int"), None, "Parameters are named"),
        (text("SELECT $1::int, :name"), {"name": 1}, "Parameters are named"),
        (select(City.name).where(text("region = $1")), None, "Parameters are named"),
        (select(City.name).where(City.country == "IS", text("region = $1")), None, "Parameters are named"),
        ("SELECT '\ud800'", None, r"in line 1 the character '\\ud800'.*nothing was changed"),
        ("SELECT 1,\n'a\0b'", None, r"in line 2 the character '\\x00'.*nothing was changed"),
        *[
            (ddl(comment), None, f"{said}; nothing was changed.*write %% for")
            for comment, said in [
                ("100%", '"%\'" names no value'),
                ("a\n%\n", "names no value"),
                ("%s", "'%s' names no value"),
                ("%%%d", "'%d' names no value"),
                ("%(x)s", "its context has no 'x'"),
            ]
        ],
        (ddl("%(x)d", x="y"), None, "a real number is required"),
        (ddl("%(x)z", x="y"), None, "unsupported format character"),
        (text("SELECT '\0'"), None, r"in line 1 the character '\\x00'.*nothing was changed"),
    ],
)
def test_what_does_not_fit_is_named(sql: Any, params: Any, said: str) -> None:
    with pytest.raises(citykit.CitykitError, match=said):
        compiled(sql, params)


@pytest.mark.parametrize(
    ("written", "sent"), [("100%%", "100%"), ("%%s", "%s"), ("%%(x)s", "%(x)s"), ("%(x)s%%", "y%")]
)
def test_percent_signs_of_ddl_are_doubled_as_the_error_says(written: str, sent: str) -> None:
    assert compiled(ddl(written, x="y")).sql == f"COMMENT ON TABLE t IS '{sent}'"


@pytest.mark.parametrize(
    ("statement", "params"),
    [(5, None), (None, None), (b"SELECT 1", None), (["SELECT 1"], None), (City, None), ("SELECT :a", [1])],
)
def test_what_is_no_statement(statement: Any, params: Any) -> None:
    with pytest.raises(TypeError, match="read_frame"):
        compiled(statement, params)


def test_a_select_brings_its_values() -> None:
    statement = (
        select(City.name)
        .where(City.country.in_(["IS", "GB"]), City.population > bindparam("least", type_=Integer))
        .limit(3)
    )
    query = compiled(statement, {"least": 5})
    assert sorted(map(str, query.args)) == ["3", "5", "GB", "IS"]
    assert compiled(select(literal({"a": 1}, JSON))).args == ('{"a": 1}',)


@pytest.mark.parametrize("name", ["a b", "a%b", "a(b", "a)b", "a:b", "a.b", "a[b", "a]b"])
def test_a_parameter_of_sqlalchemy_may_have_any_name(name: str) -> None:
    condition = column("x") == bindparam(name)
    listed = column("y").in_(bindparam(f"{name}s", expanding=True))
    query = compiled(select(column("x")).where(condition, listed), {name: 5, f"{name}s": [6, 7]})
    assert query.args == (5, 6, 7)
    assert compiled(insert(table("t", column(name))).values({name: 5})).args == (5,)


def test_the_work_grows_with_the_number_of_values_and_not_with_its_square() -> None:
    def calls(count: int) -> int:
        """How many calls Python makes for so many values."""
        made = 0

        def count_one(*_: object) -> None:
            nonlocal made
            made += 1

        query = compiled(select(City.name).where(City.id.in_(range(count)))).cast()
        sys.setprofile(count_one)
        try:
            query.with_literals(["1"] * count)
        finally:
            sys.setprofile(None)
        return made

    assert calls(2000) < 15 * calls(200)


def test_values_of_numpy_and_pandas_become_pythons() -> None:
    values = {
        "a": np.int64(1), "b": np.float32(0.5), "c": pd.NA, "d": pd.NaT, "e": np.array([1, 2]),
        "f": pd.Series(["x", None]), "g": (np.int8(1), 2), "h": np.bool_(True), "i": float("nan"),
    }  # fmt: skip
    args = compiled("SELECT :a, :b, :c, :d, :e, :f, :g, :h, :i", values).args
    assert [*map(type, args)] == [int, float, type(None), type(None), list, list, list, bool, float]
    assert args[4:7] == ([1, 2], ["x", None], [1, 2])


@pytest.mark.parametrize(
    ("sql", "copied"),
    [
        ("SELECT 1", True),
        ("/* SHOW */ (((select 1)))", True),
        ("-- x\nWITH a AS (SELECT 1) TABLE a", True),
        ("VALUES (1)", True),
        ("SHOW timezone", False),
        ("EXPLAIN SELECT 1", False),
        ("", False),
    ],
)
def test_what_copy_can_run(sql: str, copied: bool) -> None:
    assert compiled(sql).can_copy is copied


def test_literals_go_only_where_the_parameters_are() -> None:
    query = compiled("SELECT '$1', :a, $$ $1 $$, \"$1\" -- $1\n, :b", {"a": 1, "b": 2})
    assert query.with_literals(["'$2'", "'x'"]) == "SELECT '$1', '$2', $$ $1 $$, \"$1\" -- $1\n, 'x'"


def test_a_place_is_shown_in_what_was_written() -> None:
    query = compiled("SELECT :first,\n\t:second FROM\n nope", {"first": 1, "second": 2})
    assert query.shown_at(query.sql.index("nope") + 1) == "line 3:  nope\n         ^"
    assert query.shown_at(query.sql.index("$2") + 1) == "line 2:  :second FROM\n         ^"
    assert query.shown_at(len(query.sql) + 1).endswith("^")


def test_of_a_long_line_an_error_shows_what_is_around_its_place() -> None:
    many = ", ".join(map(str, range(10_000)))
    query = compiled(f"SELECT {many}, nope, {many}")
    line, caret = query.shown_at(query.sql.index("nope") + 1).split("\n")
    assert line[caret.index("^") :].startswith("nope, 0, 1, 2")
    assert line.startswith("line 1: …")
    assert line.endswith("…")
    assert len(line) < 220
    line, caret = query.shown_at(1).split("\n")
    assert line[caret.index("^") :].startswith("SELECT 0, 1")


# Several in a text

ATOMIC = "LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ';', \";\", $$;$$, $a$;$$;$a$, E'\\';'",
        "SELECT 1 /* ; /* ; */ ; */",
        "SELECT 1 -- ;\n",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
        f"CREATE OR REPLACE FUNCTION f() RETURNS int {ATOMIC}",
        f"create /* a */ procedure p() {ATOMIC}",
        "CREATE OR REPLACE VIEW v AS SELECT begin FROM t",
        "SELECT CASE WHEN a THEN 1 END",
        "END",
        "DO $$ BEGIN PERFORM 1; END $$",
        "SELECT :a::text",
    ],
)
def test_a_text_is_cut_at_the_semicolons_that_end_its_statements(statement: str) -> None:
    assert compiled(statement, {"a": 1} if ":a" in statement else None)
    lines = "\n" * statement.count("\n")
    for text_ in (statement, f"{statement};", f"{statement} ;; -- the end;\n"):
        assert [part.strip() for part in statements(text_)] == [statement.strip()]
    assert statements(f"{statement};{statement};\nSELECT 1") == [
        statement,
        lines + statement,
        f"{lines * 2}\nSELECT 1",
    ]
    with pytest.raises(citykit.CitykitError, match="more than one statement"):
        compiled(f"{statement};{statement}", {"a": 1} if ":a" in statement else None)


@pytest.mark.parametrize("sql", ["", " ;; ", "-- nothing;\n/* ; /* ; */ */", ";/* nothing"])
def test_a_text_without_a_statement_has_none(sql: str) -> None:
    assert statements(sql) == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT 1;\nSELECT 'a; DELETE FROM t", "line 2"),
        ('SELECT "a; b', "line 1"),
        ("\n\nDO $a$ ; $$", "line 3"),
    ],
)
def test_a_literal_that_does_not_end_is_refused(sql: str, said: str) -> None:
    with pytest.raises(citykit.CitykitError, match=f"{said} .*does not end; nothing was run"):
        statements(sql)


def test_backslashes_are_read_as_the_session_says() -> None:
    sql = r"SELECT 'a\'; b', ';'; SELECT 2".replace("\\\\", "\\")
    assert len(statements(sql, conforming=False)) == 2
    with pytest.raises(citykit.CitykitError):
        statements(sql, conforming=True)
