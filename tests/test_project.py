"""The files of the project hold to each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")


def test_environment_yml_installs_the_same_packages() -> None:
    environment = yaml.safe_load(ROOT.joinpath("environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    wanted = {requirement.replace("[asyncio]", "") for requirement in PROJECT["dependencies"]}
    wanted |= {"python" + PROJECT["requires-python"], "pip", "greenlet", "-e ."}
    assert {*conda, *pip} == wanted


def test_environment_yml_is_in_commented_groups() -> None:
    lines = ROOT.joinpath("environment.yml").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("  # ") for line in lines) >= 4


def test_the_readme_gives_a_reason_for_each_dependency() -> None:
    table = README.split("## What it depends on, and why")[1].split("\n## ")[0]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["dependencies"]}
    listed = {name for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for name in row.split(", ")}
    assert listed - {"package", "---"} == names
    for requirement in PROJECT["optional-dependencies"]["test"]:
        assert re.split(r"[<>=]", requirement)[0] in table


def test_the_changelog_has_this_version() -> None:
    assert f"## {PROJECT['version']}" in ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
