"""Columns that are renamed, picked, left out or refused. No database is involved."""

from __future__ import annotations

import ast
import re
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

import citykit
from citykit.cities import CITIES
from citykit.encode import Names, Rule, columns_of_key, key_of, rules_of, unused_by, validate
from citykit.encode.names import quoted

RULES = rules_of(CITIES)
COLUMNS = [rule.name for rule in RULES]
# The header lines of files that people have, and what they mean by them.
FILES: dict[str, tuple[list[str], dict[str, str]]] = {
    "simplemaps": (
        ["city", "city_ascii", "lat", "lng", "country", "iso2", "iso3", "admin_name", "capital", "pop"],
        {"city": "name", "lat": "latitude", "lng": "longitude", "admin_name": "region", "pop": "population"},
    ),
    "GeoNames": (
        ["geonameid", "asciiname", "latitude", "longitude", "country code", "admin1 code", "population"],
        {"asciiname": "name", "country code": "country", "admin1 code": "region"},
    ),
    "United States": (
        ["City", "State", "County", "Pop", "Lat", "Lon"],
        {"City": "name", "State": "region", "Pop": "population", "Lat": "latitude", "Lon": "longitude"},
    ),
    "Maxmind": (
        ["Country", "City", "AccentCity", "Region", "Population", "Latitude", "Longitude"],
        {
            "Country": "country", "City": "name", "Region": "region", "Population": "population",
            "Latitude": "latitude", "Longitude": "longitude",
        },
    ),
    "misspelled": (["nmae", "populatoin"], {"nmae": "name", "populatoin": "population"}),
}  # fmt: skip


def a_row(names: list[Any]) -> pd.DataFrame:
    """One valid row, whose columns are called so."""
    numbers = re.compile("pop|einwohner|lat|lon|lng|id", re.IGNORECASE)
    values = [1 if numbers.search(str(name)) else "x" for name in names]
    return pd.DataFrame([values], columns=pd.Index(names, dtype=object)).convert_dtypes()


def refused(frame: pd.DataFrame, rules: list[Rule] = RULES, **names: Any) -> citykit.InvalidFrameError:
    with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
        validate(frame, rules, 0, Names(**names))
    assert not caught.value.rejects.empty
    assert caught.value.rejects["row"].isna().all()
    return caught.value


def call_in(error: Exception) -> dict[str, Any]:
    """Return the arguments that the last line of a message has, as Python reads them."""
    typed = str(error).splitlines()[-1].partition(": ")[2]
    call = ast.parse(f"load({typed})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def stored(frame: pd.DataFrame, rules: list[Rule] = RULES, **names: Any) -> list[str]:
    rows, rejects = validate(frame, rules, 0, Names(**names))
    assert rejects.empty
    assert rows.num_rows == len(frame)
    return list(rows.column_names[1:])


@pytest.mark.parametrize("file", FILES)
def test_columns_of_common_files_are_mapped_by_the_call_that_the_error_has(file: str) -> None:
    names, meant = FILES[file]
    frame = a_row(names)
    call = call_in(refused(frame))
    assert call["rename"] == meant
    assert stored(frame, **call)


@pytest.mark.parametrize("names", [["name", "population", "capital"], ["name", "population", 7, "x y"]])
def test_columns_that_nothing_takes_are_left_out_by_the_call_that_the_error_has(names: list[Any]) -> None:
    call = call_in(refused(a_row(names)))
    assert call == {"columns": ["name", "population"]}
    assert stored(a_row(names), **call)


def test_what_was_mapped_before_stays_in_the_call() -> None:
    frame = a_row(["ort", "einwohner", "lat", "note"])
    call = call_in(refused(frame, rename={"ort": "name", "einwohner": "population"}))
    assert call == {
        "rename": {"ort": "name", "einwohner": "population", "lat": "latitude"},
        "columns": ["name", "population", "latitude"],
    }
    assert stored(frame, **call)


def test_an_unfit_new_name_is_mended_from_the_name_in_the_frame() -> None:
    frame = a_row(["town", "population"])
    call = call_in(refused(frame, rename={"town": "city"}))
    assert call == {"rename": {"town": "name"}}


def test_a_word_that_files_use_for_one_column_is_not_offered_for_another() -> None:
    call = call_in(refused(a_row(["name", "population", "region", "county"])))
    assert call == {"columns": ["name", "population", "region"]}


def test_nothing_is_mapped_unasked() -> None:
    assert "rename=" in str(refused(a_row(["city", "population"])))
    assert "rename=" in str(refused(a_row(["Name", "Population"])))


def test_a_column_that_is_needed_and_nowhere_is_said_without_a_call() -> None:
    error = refused(a_row(["city", "lat"]))
    assert "'population': needed and missing" in str(error)
    assert "rename=" not in str(error)
    assert "'city': unknown column (did you mean 'name'?)" in str(error)


def test_unknown_and_missing_columns_are_told_together() -> None:
    error = refused(a_row(["note", "lat"]))
    assert error.rejects["column"].tolist() == ["note", "lat", "name", "population"]


def test_names_of_another_table_are_compared_without_case_blanks_and_underscores() -> None:
    table = sa.Table(
        "readings", sa.MetaData(), sa.Column("station_id", sa.Text, primary_key=True),
        sa.Column("read_at", sa.Text, nullable=False), sa.Column("temperature", sa.Text),
    )  # fmt: skip
    rules = rules_of(table, ("station_id",))
    frame = pd.DataFrame({"Station ID": ["a"], "ReadAt": ["b"], "temprature": ["c"], "lat": ["d"]})
    call = call_in(refused(frame, rules))
    assert call == {
        "rename": {"Station ID": "station_id", "ReadAt": "read_at", "temprature": "temperature"},
        "columns": ["station_id", "read_at", "temperature"],
    }
    assert stored(frame, rules, **call)


@pytest.mark.slow
def test_ten_thousand_columns_are_not_all_said() -> None:
    error = refused(a_row([f"c{n}" for n in range(10_000)]))
    assert len(str(error)) < 1_000
    assert "9,990 more" in str(error)
    assert len(error.rejects) == 10_002


# rename and columns


def test_columns_are_renamed_first_and_then_picked_by_their_new_names() -> None:
    frame = a_row(["city", "population", "name"])
    rename = {"city": "name", "name": "note"}  # at the same time
    assert stored(frame, rename=rename, columns=["population", "name"])[0] == "name"
    rows, _ = validate(frame.assign(city="A", name="B"), RULES, 0, Names(rename, ["population", "name"]))
    assert rows["name"].to_pylist() == ["A"]


def test_a_column_that_is_renamed_may_be_picked_by_its_old_name() -> None:
    frame = a_row(["city", "population", "note"])
    names = Names({"city": "name"}, ["population", "city"])
    assert names.renamed(frame).columns.tolist() == ["population", "name"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"rename": {"cty": "name"}}, "'cty': rename= names it, and the frame lacks it (did you mean 'city'"),
        ({"columns": ["nam"]}, "'nam': columns= names it, and the frame lacks it (did you mean 'name'"),
        ({"columns": ["name", "name"]}, "columns= names it twice"),
        ({"rename": {"city": "name"}}, "'name': 'city', 'name' would both get this name"),
        ({"rename": {"city": "x", "population": "x"}}, "'x': 'city', 'population' would both get this name"),
    ],
)
def test_a_map_that_does_not_fit_the_frame_is_said(names: dict[str, Any], said: str) -> None:
    assert said in str(refused(a_row(["city", "name", "population"]), **names))


def test_of_two_columns_renamed_to_one_the_call_keeps_the_one_that_was_meant() -> None:
    frame = a_row(["name", "population", "country", "iso2"])
    call = call_in(refused(frame, rename={"iso2": "country"}))
    assert call == {
        "rename": {"country": "other_country", "iso2": "country"},
        "columns": ["name", "population", "country"],
    }
    rows, _ = validate(frame.assign(country="Japan", iso2="JP"), RULES, 0, Names(**call))
    assert rows["country"].to_pylist() == ["JP"]


def test_columns_are_picked_by_any_iterable_of_names_and_not_by_an_empty_one() -> None:
    frame = a_row(["name", "population", "note"])
    wanted = (name for name in ["name", "population"])
    rows, _ = validate(frame, RULES, 0, Names(columns=wanted))  # type: ignore[arg-type]
    assert {"name", "population"} < set(rows.column_names)
    with pytest.raises(ValueError, match="not an empty one; nothing was loaded"):
        Names(columns=[])


def test_rows_without_any_column_are_refused() -> None:
    rules = rules_of(sa.Table("t", sa.MetaData(), sa.Column("a", sa.Text), sa.Column("b", sa.Text)))
    assert "has rows, and no column" in str(refused(pd.DataFrame(index=range(3)), rules))
    assert "has rows, and no column" in str(refused(a_row(["id"]), rules, unused=["id"]))
    assert stored(pd.DataFrame(), rules) == []


@pytest.mark.parametrize(
    "names", [{"rename": "city"}, {"rename": {"a": 1}}, {"rename": [1]}, {"columns": "name"}, {"columns": 7}]
)
def test_a_map_of_another_type_is_a_type_error(names: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="nothing was loaded"):
        Names(**names)


@pytest.mark.parametrize(
    "name", ["a", "é", 'say "it\'s"', "it's", '\\"', "\\'\"", "\xa0", "\n", "\ud800", "\0"]
)
def test_a_name_is_quoted_as_python_reads_it(name: str) -> None:
    assert ast.literal_eval(quoted(name)) == name
    assert quoted(name)[0] == quoted(name)[-1] == '"'


# The index


@pytest.mark.parametrize(
    "index", [["name"], ["name", "country"], ["name", "country", "region"], ["population"], ["region"]]
)
def test_a_key_in_the_index_is_told_to_be_reset(index: list[str]) -> None:
    frame = a_row(["name", "country", "region", "population"])
    error = refused(frame.set_index(index))
    assert "frame.reset_index() makes" in str(error)
    assert error.rejects["column"].tolist() == index
    assert stored(frame.set_index(index).reset_index())


def test_a_key_in_the_index_under_another_name_is_told_both() -> None:
    frame = a_row(["city", "population", "city_ascii"]).set_index("city")
    error = refused(frame)
    assert "frame.reset_index()" in str(error)
    assert call_in(error) == {"rename": {"city": "name"}, "columns": ["name", "population"]}
    assert stored(frame.reset_index(), **call_in(error))


@pytest.mark.parametrize("name", [None, "row", 7, "day"])
def test_an_index_of_another_name_is_only_a_label(name: Any) -> None:
    assert stored(a_row(["name", "population"]).rename_axis(index=name))


def test_an_index_that_was_not_picked_is_only_a_label() -> None:
    frame = a_row(["name", "population", "region"]).set_index("region")
    assert stored(frame, columns=["name", "population"])


# The key


@pytest.mark.parametrize(
    "key",
    [5, [citykit.City.name], citykit.City.name, ["name", None]],
    ids=["number", "columns", "column", "None"],
)
def test_a_key_of_something_else_than_names_is_a_type_error(key: Any) -> None:
    with pytest.raises(TypeError, match=r'as in key=\["name"\], not .*; nothing was loaded'):
        key_of(CITIES, key, str)
    assert columns_of_key("name") == columns_of_key(["name"]) == ("name",)


def test_a_unique_index_on_an_expression_is_no_key() -> None:
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True), sa.Column("n", sa.Text)
    )
    sa.Index("lower", sa.func.lower(table.c.name), unique=True)
    assert key_of(table, None, str) == ("name",)
    sa.Index("plain", table.c.n, unique=True)
    with pytest.raises(ValueError, match=r"2 unique constraints: \(name\); \(n\)"):
        key_of(table, None, str)


# Columns that the database alone fills


def test_what_the_database_fills_is_left_out_and_told() -> None:
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("id", sa.Integer, sa.Identity(always=True)),
        sa.Column("k", sa.Integer, primary_key=True), sa.Column("twice", sa.Integer, sa.Computed("k * 2")),
        sa.Column("n", sa.Integer, sa.Identity()),
    )  # fmt: skip
    names = Names(unused=unused_by(table, ("k",)))
    frame = pd.DataFrame({"id": [5], "k": [1], "twice": [3], "n": [7]})
    rows, _ = validate(frame, rules_of(table, ("k",)), 0, names)
    assert rows.column_names[1:] == ["k", "n"]
    assert names.left_out == {"id", "twice"}
    assert unused_by(CITIES, ("name", "country", "region")) == {"id"}
