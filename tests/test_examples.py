"""Every example in a docstring, and every code block of the README, runs and shows what it says it shows."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import image, pyplot
from sqlalchemy import text

import citykit
from tests.support.examples import shown_by

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


TABLES = ("cities", "city_names")
KEEP = [f"CREATE TABLE kept.{name} AS SELECT * FROM {name}" for name in TABLES]  # noqa: S608
RESTORE = [f"INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT * FROM kept.{name}" for name in TABLES]  # noqa: S608
FACTS = """
SELECT (SELECT count(*) FROM city_names), (SELECT last_value FROM cities_id_seq), count(*),
    sum(hashtext(cities::text)) FROM cities
"""


@pytest.fixture(scope="module")
def filled(world: pd.DataFrame) -> Iterator[Callable[[], None]]:
    """Fill the default database with the world's cities again, where they changed: from a copy.

    That takes a tenth of a load.
    """
    engine = citykit.run(citykit.connect())

    async def work(*statements: str) -> None:
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    def facts() -> list[tuple[int, ...]]:
        try:
            return list(citykit.run(citykit.read_frame(engine, FACTS)).itertuples(index=False, name=None))
        except citykit.CitykitError:
            return []  # an example has dropped the tables

    def fill() -> None:
        if facts() != kept:
            citykit.run(citykit.create_tables(engine, reset=True))
            citykit.run(work(*RESTORE, "SELECT setval('cities_id_seq', (SELECT max(id) FROM cities))"))

    citykit.run(citykit.create_tables(engine, reset=True))
    citykit.run(citykit.load_cities(engine, world))
    citykit.run(work("CREATE SCHEMA kept", *KEEP))
    kept = facts()
    yield fill
    citykit.run(work("DROP SCHEMA kept CASCADE"))
    citykit.run(engine.dispose())


@pytest.fixture
def engine(filled: Callable[[], None]) -> Iterator[Any]:
    """An engine of `citykit.run`'s loop, on a database with the world's cities."""
    filled()
    engine = citykit.run(citykit.connect())
    yield engine
    citykit.run(engine.dispose())
    pyplot.close("all")


def asks(test: doctest.DocTest) -> bool:
    """Whether an example asks the database."""
    return any(word in example.source for example in test.examples for word in ("engine", "cities"))


def documented() -> Iterator[Any]:
    finder = doctest.DocTestFinder(recurse=True)
    [whole] = doctest.DocTestFinder(recurse=False).find(citykit)
    yield pytest.param(whole, id="citykit", marks=pytest.mark.server)
    for module in pkgutil.walk_packages(citykit.__path__, "citykit."):
        if module.name != "citykit.__main__":
            for test in finder.find(importlib.import_module(module.name)):
                if test.examples:
                    yield pytest.param(test, id=test.name, marks=[pytest.mark.server] if asks(test) else [])


@pytest.mark.parametrize("test", list(documented()))
def test_docstring(
    test: doctest.DocTest,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # for the files that they write
    engine = request.getfixturevalue("engine") if asks(test) else None
    namespace = {**test.globs, "citykit": citykit, "engine": engine, "pandas": pd}
    for example in test.examples:
        shown = shown_by(example.source, namespace, "single")
        assert shown == example.want, example.source
    if namespace["engine"] is not engine:
        citykit.run(namespace["engine"].dispose())


def test_every_public_function_has_an_example() -> None:
    for name in citykit.__all__:
        thing = getattr(citykit, name)
        if inspect.isfunction(thing):
            assert ">>> " in (inspect.getdoc(thing) or ""), name


def test_the_kinds_of_blocks_of_the_readme() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "text", "ipython", "console"}


def test_the_python_blocks_of_the_readme(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # one writes a file
    namespace: dict[str, Any] = {"engine": engine}
    for (kind, source), (following, output) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if kind == "python":
            if "engine = " in source and namespace["engine"] is not engine:
                citykit.run(namespace["engine"].dispose())
            shown = shown_by(source, namespace)
            assert shown == (output if following == "text" else ""), source
    citykit.run(namespace["engine"].dispose())


def test_the_console_blocks_of_the_readme(engine: Any, tmp_path: Path) -> None:
    assert engine is not None
    ran = 0
    for kind, source in BLOCKS:
        if kind == "console":
            for command, output in re.findall(r"^\$ citykit (.*)\n((?:[^$].*\n)*)", source, re.MULTILINE):
                done = subprocess.run(
                    [sys.executable, "-m", "citykit", *shlex.split(command)],
                    capture_output=True,
                    check=False,
                    cwd=tmp_path,
                    encoding="utf-8",
                )
                assert done.stdout + done.stderr == output, command
                ran += 1
    assert ran == 2


def test_the_shell_blocks_of_the_readme_are_the_two_commands_that_ci_runs() -> None:
    commands = [source for kind, source in BLOCKS if kind == "sh"]
    assert len(commands) == 2
    assert commands[0].endswith("&& citykit demo\n")
    assert commands[1].endswith("&& pytest -n 3 --dist loadfile\n")
    ci = ROOT.joinpath(".ci", "run").read_text(encoding="utf-8")
    assert "```sh" in ci  # takes them from here


@pytest.mark.parametrize("name", ["biggest", "map"])
def test_the_pictures_of_the_readme_are_current(name: str, engine: Any, tmp_path: Path) -> None:
    if name == "biggest":
        ax = citykit.plot_biggest(citykit.run(citykit.biggest_cities(engine, 20)))
    else:
        ax = citykit.plot_map(citykit.world_cities())
    fresh, committed = tmp_path / f"{name}.png", ROOT / "notebooks" / f"{name}.png"
    ax.figure.savefig(fresh, dpi=100)  # type: ignore[union-attr]
    if os.environ.get("CITYKIT_RENEW_PICTURES"):
        committed.write_bytes(fresh.read_bytes())
    new, old = image.imread(fresh), image.imread(committed)
    how = "CITYKIT_RENEW_PICTURES=1 pytest tests/test_examples.py renews it"
    assert new.shape == old.shape, how
    assert np.sqrt(np.mean((new - old) ** 2)) < 0.02, how
