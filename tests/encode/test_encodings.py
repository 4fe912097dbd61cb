"""Databases in encodings with several bytes for a character: what they lack is a reject with its row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.encode import lacking
from citykit.load.plan import FEW_ROWS
from tests.support.database import scalar
from tests.support.encodings import database_in

# A name that a database in the encoding can store, and one that it cannot.
NAMES = {"EUC_JP": ("東京", "Лондон€"), "EUC_KR": ("서울", "Łódź뛟"), "EUC_CN": ("北京", "東京")}
CONVERTED = """
CREATE FUNCTION pg_temp.converted(codes int[], encoding text) RETURNS SETOF int LANGUAGE plpgsql AS $$
DECLARE code int;
BEGIN
    FOREACH code IN ARRAY codes LOOP
        BEGIN
            PERFORM convert(convert_to(chr(code), 'UTF8'), 'UTF8', encoding);
            RETURN NEXT code;
        EXCEPTION WHEN untranslatable_character THEN
        END;
    END LOOP;
END $$
"""


@pytest.mark.parametrize("encoding", NAMES)
async def test_an_encoding_has_the_characters_that_the_server_converts(
    engine: AsyncEngine, encoding: str
) -> None:
    codes = [code for code in range(0x80, 0x30000) if not 0xD800 <= code < 0xE000]
    async with engine.connect() as connection:
        await connection.execute(text(CONVERTED))
        asked = text("SELECT array_agg(code) FROM pg_temp.converted(:codes, :encoding) AS code")
        found = await connection.scalar(asked, {"codes": codes, "encoding": encoding})
    everything = "".join(map(chr, codes))
    assert set(map(chr, found)) == set(everything) - lacking(encoding, everything)


@pytest.mark.parametrize("conflict", ["error", "update"])
@pytest.mark.parametrize("count", [10, FEW_ROWS + 10])
@pytest.mark.parametrize("encoding", NAMES)
async def test_a_character_that_the_database_lacks_is_a_reject_of_its_row(
    engine: AsyncEngine, encoding: str, count: int, conflict: Any
) -> None:
    good, bad = NAMES[encoding]
    frame = pd.DataFrame({"name": [f"{good} {n}" for n in range(count)], "population": range(count)})
    frame.loc[7, "name"] = bad

    def pieces() -> Iterator[pd.DataFrame]:
        yield frame[:5]
        yield frame[5:]

    async with database_in(engine, encoding) as other:
        for source in (frame, pieces()):
            with pytest.raises(citykit.InvalidFrameError, match=f"encoding {encoding} lacks") as caught:
                await citykit.load_cities(other, source, on_conflict=conflict)
            assert caught.value.rejects[["row", "column", "value"]].to_numpy().tolist() == [[7, "name", bad]]
        report = await citykit.load_cities(other, pieces(), on_conflict=conflict, on_invalid="skip")
        assert (report.inserted, report.rejects["row"].tolist()) == (count - 1, [7])
        assert await scalar(other, "SELECT count(*) FROM cities") == count - 1
        assert (await citykit.find_cities(other, good))["name"].str.startswith(good).all()
        assert (await citykit.find_cities(other, bad)).empty
        with pytest.raises(citykit.InvalidFrameError, match=f"encoding {encoding} lacks"):
            await citykit.add_city(other, bad, 1)
