"""The page, as a person sees it: without a script, and in a real browser."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pandas as pd
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.web.app import create_app
from tests.support.database import stored
from tests.support.lab import CHROMIUM, Page, browser, wait_for
from tests.support.served import direct, served


@pytest.fixture
async def app(engine: AsyncEngine, three_cities: pd.DataFrame) -> FastAPI:
    await citykit.load_cities(engine, three_cities)
    return create_app(engine)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with direct(app) as client:
        yield client


class Cells(HTMLParser):
    """The texts of a page's cells, and the tags that it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.add(tag)
        self._in_cell = tag == "td"
        if self._in_cell:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


async def test_the_table_and_the_filter(client: httpx.AsyncClient) -> None:
    page = Cells((await client.get("/")).text)
    assert page.cells[:10] == ["1", "London", "GB", "ENG", "8,961,989", "2", "London", "CA", "08", "422,324"]
    assert "script" not in page.tags
    filtered = await client.get("/", params={"country": "IS"})
    assert Cells(filtered.text).cells == ["1", "Reykjavík", "IS", "39", "118,918"]
    assert '<option value="IS" selected>' in filtered.text
    assert "None are stored" in (await client.get("/", params={"country": "XX"})).text


async def test_stored_text_is_escaped(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    nasty = "<script>alert(1)</script>\"'&"
    await citykit.add_city(engine, nasty, 10**9, country=nasty, region=nasty)
    for answer in (
        await client.get("/"),
        await client.get("/", params={"country": nasty}),
        await client.post("/", data={"name": nasty, "population": nasty, "country": nasty, "region": nasty}),
        await client.get("/biggest.svg"),
    ):
        assert "<script" not in answer.text
    assert nasty in Cells((await client.get("/")).text).cells


async def test_the_page_has_a_content_security_policy(client: httpx.AsyncClient) -> None:
    for url in ("/", "/biggest.svg"):
        headers = (await client.get(url)).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


async def test_the_form_adds_a_city(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    typed = {
        "name": " Brigadoon ",
        "population": "1,000",
        "country": "GB",
        "latitude": "57.5",
        "longitude": "",
    }
    answer = await client.post("/", data=typed)
    assert answer.status_code == 303
    assert "Stored Brigadoon, GB: 1,000 persons." in (await client.get(answer.headers["location"])).text
    assert (await stored(engine))["Brigadoon", "GB", ""] == (1_000, 57.5, None)
    again = await client.post("/", data=typed)
    assert again.status_code == 409
    assert "The city is already stored: Brigadoon, GB." in again.text
    assert 'value="Brigadoon"' in again.text  # what was typed is not lost


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (b"", "Name: Field required."),
        (b"name=a", "Population (persons): Field required."),
        (b"name=a&population=-1", "Population (persons): "),
        (b"name=a&population=many", "Population (persons): "),
        (b"name=a&population=99999999999999999999999", "Population (persons): "),
        (b"name=a&population=1&latitude=91", "Latitude (degrees): "),
        (b"name=a&population=1&latitude=nan", "Latitude (degrees): "),
        (b"name=%00&population=1", "Name: "),
        (b"name=%FF\xff&population=1", "Name: "),
        (b"&".join([b"a=b"] * 50), "Name: "),
    ],
)
async def test_a_form_that_cannot_be_stored(
    client: httpx.AsyncClient, engine: AsyncEngine, typed: bytes, said: str
) -> None:
    answer = await client.post("/", content=typed)
    assert answer.status_code == 422
    assert said in answer.text
    assert len(await stored(engine)) == 3


@pytest.mark.parametrize("given", ["99999", "-1", "x", "9" * 5000, "%00", "²"])
async def test_an_unknown_id_in_the_address_does_not_hide_the_page(
    client: httpx.AsyncClient, given: str
) -> None:
    answer = await client.get(f"/?stored={given}")
    assert answer.status_code == 200
    assert "Stored " not in answer.text


async def test_the_chart(client: httpx.AsyncClient) -> None:
    charts = [await client.get("/biggest.svg", params=params) for params in ({}, {"country": "IS"}, {})]
    assert charts[0].headers["content-type"] == "image/svg+xml"
    assert charts[0].content == charts[2].content != charts[1].content


def type_in(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.click(f"input[name={name}]")
        page.tell("Input.insertText", text=value)
    page.click("button", "Add")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
async def test_the_page_in_a_browser(app: FastAPI, tmp_path: Path) -> None:
    """CITYKIT_SCREENSHOTS names a directory in which the picture of the page is kept."""

    def visit(url: str) -> None:
        said = "document.querySelector('.said')?.textContent"
        with browser(url, tmp_path / "chromium") as page:
            wait_for(lambda: page.ask("document.images[0]?.naturalWidth > 200"), "the chart")
            assert (
                page.ask("getComputedStyle(document.querySelector('button')).color") == "rgb(255, 255, 255)"
            )
            type_in(page, name="Brigadoon", population="1000", country="GB")
            wait_for(lambda: page.ask(f"{said} === 'Stored Brigadoon, GB: 1,000 persons.'"), "the new city")
            type_in(page, name="Brigadoon", population="5", country="GB")
            wait_for(lambda: page.ask(f"{said} === 'The city is already stored: Brigadoon, GB.'"), "no")
            page.ask("document.querySelector('select').value = 'GB'")
            page.click("button", "Show")
            wait_for(lambda: page.ask("document.querySelectorAll('tbody tr').length === 2"), "the filter")
            wait_for(lambda: page.ask("document.images[0]?.naturalWidth > 200"), "the chart")
            page.keep_screenshot(Path(os.environ.get("CITYKIT_SCREENSHOTS", tmp_path)) / "webpage.png")
            hosts = page.ask("performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
            assert set(hosts) == {url}

    async with served(app) as url:
        await asyncio.to_thread(visit, url)
