"""What is said on stderr: one line, with commands and options in place of Python."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path

import typer


def say(text: str, command: str = "") -> None:
    """Print a message in one line on stderr, with commands and options in place of Python."""
    for password in _PASSWORD.findall(text):  # also in a file name that a hint makes of the URL
        text = text.replace(f":{password}@", ":***@")
    parts = [re.sub(r"\s*\n\s*", " ", part) for part in _SERVERS.split(text)]
    parts[::2] = map(_as_typed, parts[::2])
    typer.echo(f"{f'citykit {command}'.strip()}: {visible(''.join(parts).strip())}", err=True)


# The password of a URL, whose own @ may not be written as %40. Digits before a slash are a port, and
# `user:password` is the example that hints have.
_PASSWORD = re.compile(r"//[^:/?#\s@]*:(?!password@|\d+/)(\S+)@")
# In a message, what the server says and the SQL that it is about: nothing in them is a hint of citykit's.
_SERVERS = re.compile(r"^(.*\(SQLSTATE \w+\)|(?:line \d+|Detail|Hint): .*)", re.MULTILINE)


def visible(text: str) -> str:
    """Return a text without the characters that a terminal would obey."""
    if text.isprintable():  # the import below brings pandas, which takes 0.4 s
        return text
    from citykit.files import visible

    return visible(text)


def _as_typed(text: str) -> str:
    """Return a message with commands and options in place of Python."""
    for in_python, typed in _TYPED.items():
        ours = typed.startswith("citykit ")
        text = text.replace(in_python, this_command() + typed.removeprefix("citykit") if ours else typed)
    if "url" in typed_options:
        text = text.replace("CITYKIT_URL names another", "--url names another")
        text = text.replace("unset CITYKIT_URL", "leave out --url")
    text = _DOWNLOAD.sub(
        lambda call: "curl -L -o {1} {0}".format(*map(shlex.quote, ast.literal_eval(call[1]))), text
    )
    text = _CALL.sub("Add ", text)
    text = _CREATE.sub("Add --create, and it is made.", text)
    return _ARGUMENT.sub(_as_option, text)


# Python that messages tell the user to type, and the same as words of a command line.
_TYPED = {
    "await citykit.create_tables(engine, reset=True)": "citykit init --reset",
    "await citykit.create_tables(engine)": "citykit init",
    "; to wait longer: await citykit.connect(url, lock_timeout=120)": "",  # no command has such an option
    "; to wait longer: await citykit.connect(url, lock_timeout=120, connect_args={'server_settings': "
    "{'lock_timeout': '120s'}})": "",
    "min_population is": "--min-population is",
    "citykit.world_countries() lists the codes": "citykit countries lists those of the cities",
    "See citykit.last_rejects() for all": "--rejects FILE lists all",
    "await citykit.create_table(engine, name, frame)": "citykit load FILE --table NAME --create",
    "Create it from the frame: await citykit.create_table(": "create it: await citykit.create_table(",
    "Or create it from the frame: await citykit.create_table(": "create it: await citykit.create_table(",
    "Read it with citykit.read_file(": "citykit.read_file(",
    "For several statements in one: async with engine.begin() as connection, and give each call the "
    "connection; or write them in one cell below %%cities.": "For several in one, write them in one query.",
    "An engine runs each statement on any of its connections, and one of them alone would have it. For "
    "several statements on one: async with engine.begin() as connection, and give each call the connection; "
    "or write them in one cell below %%cities, where": "Write all that uses it in one query, where",
    "An engine runs each statement on any of its connections, and this would change one of them. For all of "
    "them: await citykit.connect(connect_args={'server_settings': {'search_path': 'public'}}); for one "
    "transaction: SET LOCAL on a connection, async with engine.begin() as connection": "Write SET LOCAL and "
    "the statements that it is for in one query",
}
# A keyword argument that is an option here, with the parenthesis or comma after it.
_ARGUMENT = re.compile(
    r"""\b(on_conflict|on_invalid|rename|columns|delimiter|encoding|decimal|thousands|compression|key)="""
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^{}]*\}|\[[^][]*\])[,)]?"""
)
_DOWNLOAD = re.compile(r"""urllib\.request\.urlretrieve(\("[^"]*", "[^"]*"\))""")
_CALL = re.compile(r"""citykit\.read_file\(("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|source)(, )?""")
_CREATE = re.compile(r"create it: await citykit\.create_table\(engine, .*?, frame\)", re.DOTALL)


def _as_option(argument: re.Match[str]) -> str:
    option = f"--{argument[1].replace('_', '-')}"
    try:
        value = ast.literal_eval(argument[2])
    except (SyntaxError, TypeError, ValueError):
        return f"{option} …" if argument[2] == "[…]" else argument[0]
    if isinstance(value, dict):
        return " ".join(f"{option} {shlex.quote(f'{old}={new}')}" for old, new in value.items())
    if argument[1] in ("columns", "key"):
        names = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(name, str) for name in names):
            return argument[0]
        value = ",".join(map(_listed, names))
    return f"{option} {shlex.quote(value)}" if isinstance(value, str) else argument[0]


def _listed(name: str) -> str:
    """Return a name as `names_of` reads it in a list."""
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",\r\n]|^\s|^$', name) else name


typed_options: dict[str, str] = {}  # of the options of the group, those that were typed


def this_command() -> str:
    """Return the beginning of a command that runs this citykit on the same database."""
    beside = Path(sys.executable).with_name("citykit")
    found = shutil.which("citykit")
    name = "citykit" if found and beside == Path(found) else f"{shlex.quote(sys.executable)} -m citykit"
    name += " --url …" if "url" in typed_options else ""  # a URL may hold a password
    return name + (
        f" --database {shlex.quote(typed_options['database'])}" if "database" in typed_options else ""
    )
