"""The files of the project hold to each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTRIBUTING = ROOT.joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")


def test_environment_yml_installs_the_same_packages() -> None:
    environment = yaml.safe_load(ROOT.joinpath("environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    wanted = {requirement.replace("[asyncio]", "") for requirement in PROJECT["dependencies"]}
    wanted |= {"python" + PROJECT["requires-python"], "pip", "greenlet", "-e ."}
    assert {*conda, *pip} == wanted


def test_the_readme_gives_a_reason_for_each_dependency() -> None:
    table = README.split("## What it depends on, and why")[1].split("\n## ")[0]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["dependencies"]}
    listed = {name for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for name in row.split(", ")}
    assert listed - {"package", "---"} == names
    web = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["optional-dependencies"]["web"]}
    assert all(name in table for name in web)


def test_contributing_gives_a_reason_for_each_dependency_of_the_tests_and_benchmarks() -> None:
    text = CONTRIBUTING.split("## Dependencies of the tests")[1]
    for extra in ("test", "bench"):
        for requirement in PROJECT["optional-dependencies"][extra]:
            assert re.split(r"[<>=]", requirement)[0].split("[")[0].split("-driver")[0] in text.lower(), (
                requirement
            )


def test_the_files_that_contributing_names_are_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|ipynb|md|yml|toml))`", CONTRIBUTING))
    assert len(named) > 30
    missing = {
        name for name in named if not (ROOT / name).exists() and not (ROOT / "citykit" / name).exists()
    }
    assert missing == set()


def test_the_changelog_has_this_version() -> None:
    assert f"## {PROJECT['version']}" in ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")


def test_contributing_names_each_module() -> None:
    package = ROOT / "citykit"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    doors = {module for module in modules if Path(module).name in ("__init__.py", "__main__.py")}
    assert {module for module in modules - doors if f"`{module}`" not in CONTRIBUTING} == set()
