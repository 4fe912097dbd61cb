"""`citykit lab`: JupyterLab on copies of the notebooks, looked at in a browser."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database import scalar
from tests.support.lab import CHROMIUM, browser, lab, wait_for
from tests.support.notebooks import FOLDER, PATHS, committed


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What Jupyter writes about `citykit lab mine`, where a notebook of that name was there before."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "mine").mkdir()
    (folder / "mine" / "01_seed.ipynb").write_text("changed")
    with lab(folder) as server:
        assert os.fspath(folder / "mine") == server["root_dir"]
        yield server


@pytest.mark.kernel
def test_lab_opens_copies_of_the_notebooks(opened: dict[str, Any]) -> None:
    listing = f"{opened['url']}api/contents/?token={opened['token']}"
    with urllib.request.urlopen(listing, timeout=30) as answer:  # noqa: S310
        names = {item["name"] for item in json.load(answer)["content"]}
    assert {path.name for path in PATHS} <= names
    assert Path(opened["root_dir"], "01_seed.ipynb").read_text() == "changed"


PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(e => e.textContent.trim())"
CHARTS = """document.querySelectorAll('.jp-OutputArea-output img[src^="data:image/png"]').length"""


@pytest.mark.kernel
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
async def test_run_all_in_a_browser_draws_the_charts_and_leaves_no_cell_waiting(
    tutorial: AsyncEngine, opened: dict[str, Any], tmp_path: Path
) -> None:
    """CITYKIT_SCREENSHOTS names a directory in which the picture of the page is kept."""
    original = (FOLDER / "03_chart.ipynb").read_bytes()
    cells = [cell for cell in committed(FOLDER / "03_chart.ipynb").cells if cell.cell_type == "code"]
    url = f"{opened['url']}lab/tree/03_chart.ipynb?token={opened['token']}"
    with browser(url, tmp_path / "chromium") as page:
        idle = "/\\| Idle/.test(document.querySelector('#jp-main-statusbar')?.textContent)"
        wait_for(lambda: page.ask(idle), "a kernel that is idle")
        page.click("#jp-MainMenu .lm-MenuBar-item", "Edit")
        page.click('.lm-Menu [data-command="editmenu:clear-all"]')
        wait_for(lambda: page.ask(f"{CHARTS} === 0"), "the outputs to go")
        page.click("#jp-MainMenu .lm-MenuBar-item", "Run")
        page.click('.lm-Menu [data-command="runmenu:run-all"]')
        wait_for(lambda: page.ask(f"{CHARTS} > 0"), "the first chart")
        numbers = [f"[{number}]:" for number in range(1, len(cells) + 1)]
        wait_for(lambda: page.ask(PROMPTS) == numbers and page.ask(idle), "every cell to have run")
        kept = Path(os.environ.get("CITYKIT_SCREENSHOTS", tmp_path)) / "03_chart.png"
        page.keep_screenshot(kept)
        assert page.ask(CHARTS) == str(cells).count("'image/png'")  # as many as are committed
        assert not page.ask(
            "document.querySelectorAll('[data-mime-type*=error], [data-mime-type*=stderr]').length"
        )
    assert kept.stat().st_size > 50_000
    assert await scalar(tutorial, "SELECT count(*) FROM cities") > 30_000  # the same database
    assert (FOLDER / "03_chart.ipynb").read_bytes() == original
