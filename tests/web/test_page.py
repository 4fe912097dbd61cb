"""The pages, as a person sees them: without a script, and in a real browser."""

from __future__ import annotations

import asyncio
import os
import re
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
    """The texts of a page's cells, the tags that it is made of, and the addresses that it links to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]
        if tag == "td":
            self._in_cell = True
            self.cells.append("")
        if tag == "abbr":  # in place of a country's name where there is no room for it
            self._in_cell = False

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


async def test_the_table_and_the_filter(client: httpx.AsyncClient) -> None:
    page = Cells((await client.get("/")).text)
    assert page.cells[:5] == ["1", "London", "United Kingdom", "ENG", "8,961,989"]
    assert page.cells[5:10] == ["2", "London", "Canada", "08", "422,324"]
    assert "script" not in page.tags
    filtered = await client.get("/", params={"country": "IS"})
    assert Cells(filtered.text).cells == ["1", "Reykjavík", "Iceland", "39", "118,918"]
    assert '<option value="IS" selected>' in filtered.text
    assert "None are stored.<" in (await client.get("/", params={"country": "XX"})).text
    meant = (await client.get("/", params={"country": "UK"})).text
    assert """None are stored: did you mean <a href="/?country=GB">GB</a>?""" in meant
    meant = (await client.get("/", params={"country": "UK", "q": "Lon & Co"})).text
    assert 'did you mean <a href="/?country=GB&q=Lon%20%26%20Co">GB</a>?' in meant


async def test_stored_text_is_escaped(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    nasty = "<script>alert(1)</script>\"'&"
    await citykit.add_city(engine, nasty, 10**9, country=nasty, region=nasty)
    for answer in (
        await client.get("/"),
        await client.get("/", params={"country": nasty}),
        await client.post("/", data={"name": nasty, "population": nasty, "country": nasty, "region": nasty}),
        await client.get("/", params={"q": nasty}),
        await client.get((await city_links(client))[0]),
        await client.get("/biggest.svg"),
        await client.get("/map.svg"),
    ):
        assert "<script" not in answer.text
    assert nasty in Cells((await client.get("/")).text).cells


@pytest.mark.parametrize(("name", "shown"), [("\u200b \u2060", "\\u200b \\u2060"), ("a\u200b", "a\u200b")])
async def test_the_link_to_a_city_can_be_seen(
    client: httpx.AsyncClient, engine: AsyncEngine, name: str, shown: str
) -> None:
    await citykit.add_city(engine, name, 10**9)
    assert Cells((await client.get("/")).text).cells[1] == shown
    assert f"<h1>{shown}</h1>" in (await client.get((await city_links(client))[0])).text


async def city_links(client: httpx.AsyncClient, url: str = "/") -> list[str]:
    return [link for link in Cells((await client.get(url)).text).links if link.startswith("/city/")]


async def test_every_page_has_a_content_security_policy(client: httpx.AsyncClient) -> None:
    city = (await city_links(client))[0]
    for url in (
        "/",
        "/biggest.svg",
        "/map.svg",
        city,
        f"{city}/map.svg",
        "/city/0",
        "/docs",
        "/docs/start.js",
    ):
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
        (b"", "Name is missing. Names have 1 to 400 characters."),
        (b"name=a", "Population is missing. Populations are persons, 0 or more."),
        (b"name=a&population=-1", "Population: “-1” is no whole number. Populations are persons, 0 or more."),
        (b"name=a&population=many", "Population: “many” is no whole number."),
        (b"name=a&population=1.5", "Population: “1.5” is no whole number."),
        (b"name=a&population=1,5", "Population: “1,5” is no whole number."),
        (b"name=a&population=12,34,567", "Population: “12,34,567” is no whole number."),
        (b"name=a&population=12 345", "Population: “12 345” is no whole number."),
        (
            b"name=a&population=" + b"9" * 23,
            "Population: “99999999999999999999999” is more than 2,147,483,647.",
        ),
        (b"name=a&population=" + b"9" * 5000, "Population: “" + "9" * 40 + "…” is no whole number."),
        (
            b"name=a&population=1&latitude=91",
            "Latitude: “91” is more than 90. Latitudes are degrees, ",
        ),
        (b"name=a&population=1&latitude=-91", "Latitude: “-91” is less than -90."),
        (b"name=a&population=1&latitude=nan", "Latitude: “nan” is no number."),
        (b"name=a&population=1&latitude=N", "Latitude: “N” is no number."),
        (b"name=%00&population=1", "Name: “\ufffd” has a character that cannot be stored."),
        (b"name=a&population=1&country=" + b"x" * 101, "Country: “" + "x" * 40 + "…” is too long."),
        (b"name=Z%FCrich&population=1", "What was typed is not in UTF-8; nothing was stored."),
        (b"name=Z\xfcrich&population=1", "What was typed is not in UTF-8; nothing was stored."),
        (b"&".join([b"a=b"] * 50), "Name is missing."),
    ],
)
async def test_a_form_that_cannot_be_stored(
    client: httpx.AsyncClient, engine: AsyncEngine, typed: bytes, said: str
) -> None:
    answer = await client.post("/", content=typed)
    assert answer.status_code == 422
    assert said in answer.text
    for word in ("Input", "Field", "should", "valid integer", "String", "type="):
        assert word not in re.sub(r"<input.*?>", "", answer.text, flags=re.DOTALL)
    assert len(await stored(engine)) == 3


async def test_mounted_below_a_path_every_address_is_below_it(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    await citykit.load_cities(engine, three_cities)
    site = FastAPI()
    site.mount("/geo", create_app(engine))
    async with direct(site) as client:
        large = "name,population\n" + "".join(f"City {number},1\n" for number in range(10_000))
        loaded = await client.post("/geo/cities/bulk", content=large, headers={"content-type": "text/csv"})
        assert loaded.json()["inserted"] == 10_000
        added = await client.post("/geo/cities/", json={"name": "Sent", "population": 1})
        assert (await client.get(added.headers["location"])).json()["name"] == "Sent"
        typed = await client.post("/geo/", data={"name": "Typed", "population": "1"})
        assert "Stored Typed: 1 persons." in (await client.get(typed.headers["location"])).text
        london = re.findall(r'"(/geo/city/\d+)"', (await client.get("/geo/")).text)[0]
        for url in ("/geo/", "/geo/?q=london", london):
            page = (await client.get(url)).text
            addresses = set(re.findall(r'(?:src|srcset|href|action)="(/[^"]*)"', page))
            assert len(addresses) > 2
            for address in addresses:
                assert (await client.get(address)).status_code == 200, address


async def test_a_refused_field_is_marked(client: httpx.AsyncClient) -> None:
    page = (await client.post("/", data={"name": "a", "population": "many"})).text
    [marked] = re.findall(r"<input[^>]*aria-invalid[^>]*>", page)
    assert 'name="population"' in marked
    assert 'role="alert"' in page


async def test_the_search(client: httpx.AsyncClient) -> None:
    found = await client.get("/", params={"q": " REYKJAVIK "})
    assert Cells(found.text).cells == ["1", "Reykjavík", "Iceland", "39", "118,918"]
    assert 'value="REYKJAVIK"' in found.text  # what was typed is not lost
    assert len(await city_links(client, "/?q=london")) == 2
    assert len(await city_links(client, "/?q=london&country=CA")) == 1
    assert len(Cells((await client.get("/", params={"q": " "})).text).cells) == 15  # nothing was asked


async def test_a_city_that_is_found_by_another_name_is_shown_with_both(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await citykit.add_city(engine, "Vienna", 1_691_468, country="AT", other_names=["Wien", "Bécs"])
    found = await client.get("/", params={"q": "wien"})
    assert Cells(found.text).cells[1:3] == ["Vienna (Wien)", "Austria"]


@pytest.mark.parametrize(
    "q", ["%", "_", "\\", "'", '"', "'; DROP TABLE cities; --", "<b>", "🙂", "{{7*7}}", "\u200b", "x" * 400]
)
async def test_a_search_that_finds_nothing(client: httpx.AsyncClient, q: str) -> None:
    answer = await client.get("/", params={"q": q})
    assert answer.status_code == 200
    assert "None are stored" in answer.text
    assert "49" not in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("q=%00", "Name: “\ufffd” has a character that cannot be stored."),
        ("q=" + "x" * 401, "is too long. Names have 1 to 400 characters."),
        ("country=%00", "Country: “\ufffd” has a character that cannot be stored."),
        ("country=" + "x" * 101, "is too long. Countries have at most 100 characters."),
    ],
)
async def test_a_question_that_no_city_can_answer_is_refused_in_the_pages_words(
    client: httpx.AsyncClient, query: str, said: str
) -> None:
    answer = await client.get(f"/?{query}")
    assert answer.status_code == 422
    assert said in answer.text
    assert len(Cells(answer.text).cells) == 15  # the page is there all the same


@pytest.mark.parametrize(
    "query", ["q=%ED%A0%80", "q=%FF", "q=a&q=%F0%9F%99%82", "q=" + "%20" * 400, "country=%FF"]
)
async def test_a_question_in_broken_utf8(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/?{query}")).status_code == 200


async def test_the_page_of_a_city(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await citykit.add_city(
        engine, "Kópavogur", 40_040, country="IS", region="39", latitude=64.11234, longitude=-21.91298
    )
    [link] = await city_links(client, "/?q=reykjavik")
    page = (await client.get(link)).text
    assert "<h1>Reykjavík</h1>" in page
    for said in ("118,918", "64.135° N, 21.895° W", "39"):
        assert said in page
    assert Cells(page).cells[:6] == ["1", "Kópavogur", "Iceland", "39", "40,040", "2.7 km"]
    assert Cells(page).cells[6:8] == ["2", "London"]  # of the two, the one whose place is known
    assert len(Cells(page).cells) == 12
    [nearest, _] = await city_links(client, link)
    assert "<h1>Kópavogur</h1>" in (await client.get(nearest)).text
    picture = await client.get(f"{link}/map.svg")
    assert picture.headers["content-type"] == "image/svg+xml"


async def test_the_page_of_a_city_of_unknown_place(client: httpx.AsyncClient) -> None:
    link = (await city_links(client, "/?q=london"))[1]
    page = (await client.get(link)).text
    assert "<h1>London</h1>" in page
    assert "unknown" in page
    assert "<img" not in page
    assert (await client.get(f"{link}/map.svg")).status_code == 404


IDS = [
    "0",
    "-1",
    "x",
    "1.5",
    "99999",
    str(2**63 - 1),
    str(2**63),
    "9" * 5000,
    "%00",
    "²",
    "٣",
    "1;--",
    "None",
    "%20",
]


@pytest.mark.parametrize("given", IDS)
async def test_a_city_that_is_not_there(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get(f"/city/{given}")
    assert answer.status_code == 404
    assert "There is no such city." in answer.text
    assert "<html" in answer.text
    assert (await client.get(f"/city/{given}/map.svg")).status_code == 404


async def test_cities_of_one_place_and_at_the_ends_of_the_world(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    for place, (latitude, longitude) in enumerate([(90, 0), (-90, 180), (0, 180), (0, -180), (0, -180)]):
        name = f"At {place}"
        await citykit.add_city(engine, name, 5, country="XX", latitude=latitude, longitude=longitude)
    for link in await city_links(client, "/?country=XX"):
        for url in (link, f"{link}/map.svg"):
            assert (await client.get(url)).status_code == 200
    assert (await client.get("/map.svg?country=XX&narrow=true")).status_code == 200


@pytest.mark.parametrize("given", ["99999", "-1", "x", "9" * 5000, "%00", "²"])
async def test_an_unknown_id_in_the_address_does_not_hide_the_page(
    client: httpx.AsyncClient, given: str
) -> None:
    answer = await client.get(f"/?stored={given}")
    assert answer.status_code == 200
    assert "Stored " not in answer.text


@pytest.mark.parametrize("url", ["/biggest.svg", "/map.svg"])
async def test_the_pictures(client: httpx.AsyncClient, url: str) -> None:
    asked: list[dict[str, str]] = [{}, {"country": "IS"}, {}, {"narrow": "true"}, {"country": "XX"}]
    pictures = [await client.get(url, params=params) for params in asked]
    for picture in pictures:
        assert picture.status_code == 200
        assert picture.headers["content-type"] == "image/svg+xml"
    whole, of_one, again, narrow, _ = (picture.content for picture in pictures)
    assert whole == again != of_one
    assert narrow != whole


async def test_the_documentation_needs_no_other_host(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) == 5
    for address in addresses:
        assert ":" not in address
        answer = await client.get(f"/{address}")
        assert answer.status_code == 200
        assert len(answer.content) > 100
    for other in (
        "/redoc",
        "/docs/files/../start.js",
        "/docs/files/..%2f..%2fcore.py",
        "/docs/files/",
        "/docs/x",
    ):
        assert (await client.get(other)).status_code in (200, 404)
        assert "import" not in (await client.get(other)).text


# What is below a picture moves when it comes: a click before that may miss.
PICTURES = "[...document.images].every(each => each.naturalWidth > 200)"
BOTH = f"document.images.length === 2 && {PICTURES}"


def type_in(page: Page, **fields: str) -> None:
    wait_for(lambda: page.ask(BOTH), "the pictures")
    for name, value in fields.items():
        page.click(f"input[name={name}]")
        page.tell("Input.insertText", text=value)
    page.click("button", "Add")


WHATEVER_IS_WIDER = """[...document.querySelectorAll('main *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth && !e.closest('.wide')).map(e => e.outerHTML)"""
SCROLLED = """[...document.querySelectorAll(".wide")].filter(e => e.scrollWidth > e.clientWidth)
    .map(e => e.innerText)"""
BROKEN_WORDS = """(() => {
    const broken = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        for (const word of walk.currentNode.data.matchAll(/[\\p{L}\\p{N},.]+/gu)) {
            const range = document.createRange();
            range.setStart(walk.currentNode, word.index);
            range.setEnd(walk.currentNode, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) broken.push(word[0]);
        }
    }
    return broken;
})()"""
LETTERS = """[...document.images].map(image => image.clientWidth / image.naturalWidth * 10 * 96 / 72
    / parseFloat(getComputedStyle(document.querySelector('td, dd')).fontSize))"""


@pytest.fixture
async def many(engine: AsyncEngine) -> FastAPI:
    """The application on the largest cities of the world, and on names that are hard to lay out."""
    await citykit.load_cities(engine, citykit.world_cities(500_000))
    for name in ("Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch", "x" * 400):
        await citykit.add_city(engine, name, 40_000_000, country="GB", latitude=53.2, longitude=-4.2)
    return create_app(engine)


def sized(page: Page, width: int) -> None:
    page.tell(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )


def shown(page: Page, url: str, ready: str) -> None:
    page.tell("Page.navigate", url=url)
    wait_for(
        lambda: page.ask(f"location.href === '{url}' && document.readyState === 'complete' && {ready}"), url
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
async def test_pages_are_legible_at_every_width(many: FastAPI, tmp_path: Path) -> None:
    """CITYKIT_SCREENSHOTS names a directory in which the pictures of the pages are kept."""
    pictures = Path(os.environ.get("CITYKIT_SCREENSHOTS", tmp_path))

    def visit(url: str) -> None:
        with browser(url, tmp_path / "chromium") as page:
            wait_for(lambda: page.ask(BOTH), "the pictures")
            city = page.ask("document.querySelectorAll('a[href^=\"/city/\"]')[2].href")
            for width in (320, 390, 768, 1280):
                sized(page, width)
                for name, address in (("page", f"{url}/"), ("city", city), ("search", f"{url}/?q=an")):
                    shown(page, address, PICTURES)
                    page.keep_screenshot(pictures / f"{name}-{width}.png")
                    assert page.ask(WHATEVER_IS_WIDER) == []
                    assert width < 390 or page.ask(SCROLLED) == []
                    assert [word for word in page.ask(BROKEN_WORDS) if len(word) < 50] == []
                    sizes = page.ask(LETTERS)
                    assert all((0.7 if width < 390 else 0.9) <= size <= 1.1 for size in sizes), sizes

    async with served(many) as url:
        await asyncio.to_thread(visit, url)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
async def test_the_documentation_works_without_the_internet(app: FastAPI, tmp_path: Path) -> None:
    watch = "addEventListener('securitypolicyviolation', e => (window.refused ??= []).push(e.blockedURI))"

    def visit(url: str) -> None:
        with browser(url, tmp_path / "chromium") as page:
            page.tell("Page.addScriptToEvaluateOnNewDocument", source=watch)
            shown(page, f"{url}/docs", "document.querySelectorAll('.opblock-summary-path').length >= 8")
            assert page.ask("window.refused ?? []") == []
            hosts = page.ask("performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
            assert set(hosts) == {url}
            page.click(".opblock-summary-path", "/countries")
            page.click("button", "Try it out")
            page.click("button", "Execute")
            wait_for(lambda: page.ask("!!document.querySelector('.live-responses-table')"), "an answer")
            page.keep_screenshot(Path(os.environ.get("CITYKIT_SCREENSHOTS", tmp_path)) / "docs.png")
            assert page.ask("window.refused ?? []") == []

    async with served(app) as url:
        await asyncio.to_thread(visit, url)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
async def test_the_page_in_a_browser(app: FastAPI, tmp_path: Path) -> None:
    """CITYKIT_SCREENSHOTS names a directory in which the picture of the page is kept."""

    def visit(url: str) -> None:
        said = "document.querySelector('.said')?.textContent.trim()"
        with browser(url, tmp_path / "chromium") as page:
            wait_for(lambda: page.ask(BOTH), "the pictures")
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
            wait_for(lambda: page.ask(BOTH), "the pictures")
            page.keep_screenshot(Path(os.environ.get("CITYKIT_SCREENSHOTS", tmp_path)) / "webpage.png")
            hosts = page.ask("performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
            assert set(hosts) == {url}

    async with served(app) as url:
        await asyncio.to_thread(visit, url)
