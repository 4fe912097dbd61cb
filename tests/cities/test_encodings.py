"""Databases in other encodings than UTF-8: what they lack is rejected, and what they have is found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.cities.folding import folded
from citykit.encode import characters_of
from citykit.load.plan import FEW_ROWS
from tests.support.encodings import database_in
from tests.support.tables import created

ENCODINGS = ["LATIN1", "LATIN2", "LATIN9", "ISO_8859_7", "KOI8R", "WIN1252"]
LACKING = "日本"


@pytest.fixture
async def latin1(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    async with database_in(engine, "LATIN1") as other:
        yield other


@pytest.mark.parametrize("conflict", ["error", "skip", "update"])
@pytest.mark.parametrize("count", [10, FEW_ROWS + 10])
async def test_a_character_that_the_database_lacks_is_a_reject_of_its_row(
    latin1: AsyncEngine, count: int, conflict: Any
) -> None:
    frame = pd.DataFrame({"name": [f"Köln {n}" for n in range(count)], "population": range(count)})
    frame.loc[7, "name"] = "Łódź"
    with pytest.raises(
        citykit.InvalidFrameError, match=r"LATIN1 lacks .first at row label 7: 'Łódź'"
    ) as caught:
        await citykit.load_cities(latin1, frame, on_conflict=conflict)
    assert caught.value.rejects["row"].tolist() == [7]
    assert not len(await citykit.biggest_cities(latin1, 1))

    def pieces() -> Any:
        yield frame[: count // 2]
        yield frame[count // 2 :]

    for source in (frame, pieces()):
        await citykit.create_tables(latin1, reset=True)
        report = await citykit.load_cities(latin1, source, on_conflict=conflict, on_invalid="skip")
        assert (report.inserted, report.skipped) == (count - 1, 0)
        assert report.rejects[["row", "column", "value"]].to_numpy().tolist() == [[7, "name", "Łódź"]]


# A value of each type whose text reaches the server, with a character that LATIN1 has or lacks.
VALUES: dict[str, tuple[Any, Any]] = {
    "text": (sa.Text(), "{}"),
    "varchar": (sa.String(9), "{}"),
    "char": (sa.CHAR(3), "{}"),
    "json": (sa.JSON(), {"é": ["{}"]}),
    "jsonb": (pg.JSONB(), {"{}": 1}),
    "texts": (pg.ARRAY(sa.Text), ["a", "{}", None]),
    "objects": (pg.ARRAY(pg.JSONB), [{"a": "{}"}]),
}


def written(value: Any, character: str) -> Any:
    if isinstance(value, str):
        return value.replace("{}", character)
    if isinstance(value, dict):
        return {written(key, character): written(item, character) for key, item in value.items()}
    return [written(item, character) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("count", [10, FEW_ROWS + 10])
async def test_every_type_of_text_rejects_what_the_database_lacks(latin1: AsyncEngine, count: int) -> None:
    columns = [sa.Column(name, type_) for name, (type_, _) in VALUES.items()]
    table = sa.Table("texts", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True), *columns)
    table.c.key.autoincrement = False
    frame = pd.DataFrame({"key": range(count)})
    for number, (name, (_, value)) in enumerate(VALUES.items()):
        frame[name] = pd.Series([written(value, "é")] * count, dtype=object)
        frame.at[number, name] = written(value, LACKING)
    async with created(latin1, table):
        report = await citykit.load_frame(latin1, frame, table, key="key", on_invalid="skip")
        assert report.rejects["row"].tolist() == list(range(len(VALUES)))
        assert report.rejects["column"].tolist() == list(VALUES)
        assert report.inserted == count - len(VALUES)
        read = await citykit.read_frame(latin1, "SELECT * FROM texts WHERE key = 9")
    shown = {name: read[name].item() for name in VALUES}
    assert shown == {name: written(value, "é") for name, (_, value) in VALUES.items()} | {"char": "é  "}


async def test_a_city_that_the_database_cannot_name_is_refused_and_nothing_is_stored(
    latin1: AsyncEngine,
) -> None:
    async with latin1.connect() as connection, citykit.sessions(latin1)() as session:
        binds: list[Any] = [latin1, connection, session]
        for bind in binds:
            with pytest.raises(
                citykit.InvalidFrameError, match=r"name 'Łódź' cannot be stored .*LATIN1"
            ) as caught:
                await citykit.add_city(bind, "Łódź", 1)
            assert caught.value.rejects["column"].tolist() == ["name"]
            await citykit.add_city(bind, f"Köln {len(str(type(bind)))}", 1)
            assert len(await citykit.find_cities(bind, "KÖLN")) == 1
            if bind is not latin1:
                await bind.rollback()
            else:
                await citykit.create_tables(latin1, reset=True)


async def test_names_are_found_without_case_and_accents_in_latin1(latin1: AsyncEngine) -> None:
    names = ["Köln", "Ålesund", "São Paulo", "Straßberg", "Ærø", "Þórshöfn", "50% Stadt", "A_B", "C\\D"]
    frame = pd.DataFrame({"name": names, "population": range(len(names), 0, -1)})
    await citykit.load_cities(latin1, frame)
    sought = {
        "KÖLN": "Köln",
        "koln": "Köln",
        "KO\u0308LN": "Köln",
        "öl": "Köln",
        "ÅLESUND": "Ålesund",
        "sao p": "São Paulo",
        "STRASSBERG": "Straßberg",
        "aero": "Ærø",
        "thorsh": "Þórshöfn",
        "50%": "50% Stadt",
        "a_b": "A_B",
        "C\\": "C\\D",
        "%": "50% Stadt",
    }
    found = {text: (await citykit.find_cities(latin1, text))["name"].tolist() for text in sought}
    assert found == {text: [name] for text, name in sought.items()}
    for lacking in ("Łódź", LACKING, "zzz"):
        assert (await citykit.find_cities(latin1, lacking)).empty


async def test_a_country_that_the_database_cannot_name_is_one_that_no_city_has(latin1: AsyncEngine) -> None:
    await citykit.add_city(latin1, "Köln", 1, country="Polska")
    for asked in (
        citykit.biggest_cities(latin1, country="Połska"),
        citykit.find_cities(latin1, "Köln", country="Połska"),
    ):
        with pytest.warns(UserWarning, match="no city has country 'Połska': did you mean 'Polska'"):
            assert (await asked).empty
    assert (await citykit.biggest_cities(latin1, country=LACKING)).empty
    assert (await citykit.biggest_cities(latin1, region=LACKING)).empty


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_encoding_has_the_characters_that_the_server_says_and_folds_them_as_utf8_does(
    engine: AsyncEngine, encoding: str
) -> None:
    characters = characters_of(encoding)
    assert characters
    async with engine.connect() as connection:
        utf8 = await connection.scalar(sa.text("SELECT current_setting('server_encoding') = 'UTF8'"))
        convert = sa.text("SELECT convert(:sent, :encoding, 'UTF8')")
        for byte in range(0x80, 0x100):
            given = {"sent": bytes([byte]), "encoding": encoding}
            try:
                async with connection.begin_nested():
                    assert (await connection.scalar(convert, given)).decode() in characters
            except sa.exc.DBAPIError:
                assert len(characters) < 0x80
    if not utf8:
        pytest.skip("the encoding knows no accents; without CITYKIT_TEST_URL it does: pytest")
    sql = "SELECT {} AS folded FROM unnest(:names) WITH ORDINALITY AS u (name, place) ORDER BY place"
    names = [c for c in characters if c.isalpha()]
    expected = await citykit.read_frame(engine, sql.format(folded("name")), {"names": names})
    async with database_in(engine, encoding) as other:
        found = await citykit.read_frame(other, sql.format(folded("name", encoding)), {"names": names})
    differing = [
        (name, wanted, was)
        for name, wanted, was in zip(names, expected["folded"], found["folded"], strict=True)
        if wanted != was and all(letter.isascii() or letter in characters for letter in wanted)
    ]
    assert differing == []
