"""SQL cells: what ``%load_ext citykit`` adds to IPython."""

from __future__ import annotations

import html
import keyword
import re
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic_arguments import MagicArgumentParser
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities import City
from citykit.database import Numeric, connect, in_transaction, shown_url
from citykit.errors import MissingTableError
from citykit.read import Executed, param_of, parameter_names, run_cell
from citykit.runtime import run, warn_at_caller


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%cities`` and ``%%cities``; IPython calls it for ``%load_ext citykit``."""
    register: Any = shell.register_magic_function  # its type is that of the decorated method
    register(_Cities(shell).cities, "line_cell", "cities")


class _Cities:
    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._own: AsyncEngine | None = None

    def cities(self, line: str, cell: str | None = None) -> pd.DataFrame | Executed | Overview:
        """Run the SQL of a cell and show what it returns, or (as ``%cities``) show the connection.

        ::

            %%cities [NAME] [--param NAME=VALUE ...] [--numeric {float,decimal}]
            SELECT name, population FROM cities WHERE country = :country LIMIT :n

        A statement that returns no rows shows the server's command tag: ``DELETE 3``. Several statements,
        each but the last ended by a semicolon, are one transaction: the rows of the last one that returns
        any are shown, else the command tags of all.

        NAME
            What is shown is also assigned to this variable.
        :country, :n
            Take the values of the notebook's variables ``country`` and ``n``. They are values, and
            never become SQL.
        --param NAME=VALUE
            Gives a parameter its value here: a Python literal where ``ast.literal_eval`` reads one (``5``,
            ``2.5``, ``None``, ``True``, ``[1, 2]``, ``'5'`` for the text 5), else text: ``country=IS``,
            ``day=2024-02-29``. A date is given as text, which the server reads where the SQL
            takes a date: ``WHERE founded = :day``, ``CAST(:day AS date)``.
        --numeric {float,decimal}
            How numerics are read, if not as the engine says; see ``citykit.read_frame``.

        The cell runs on the notebook's variable ``engine``, an AsyncEngine; if there is none, on an engine of
        citykit's own, from ``citykit.connect()``.
        """
        if not {"-h", "--help"}.isdisjoint(line.split()):
            raise UsageError(
                "%%cities [NAME] [--param NAME=VALUE ...] [--numeric {float,decimal}], with SQL in the lines "
                "below it; %cities alone shows the connection. %%cities? explains each."
            )
        if cell is None:
            if line.strip():
                raise UsageError("%cities takes no arguments; SQL goes into the lines below %%cities.")
            return run(self._overview())
        if not cell.strip():
            raise UsageError("There is no SQL below %%cities; %cities alone shows the connection.")
        name, given, numeric = _read_line(line)
        params = {wanted: self._value(wanted, given) for wanted in parameter_names(cell)}
        if unused := sorted(given.keys() - params):
            raise UsageError(f"The SQL has no parameter :{', :'.join(unused)}.")
        shown, warning = run(self._run(cell, params, numeric))
        if warning:
            warn_at_caller(warning)
        if name:
            self._shell.user_ns[name] = shown
        return shown

    def _value(self, name: str, given: dict[str, Any]) -> Any:
        for values in (given, self._shell.user_ns):
            if name in values:
                return values[name]
        raise UsageError(
            f"The SQL has the parameter :{name}, and there is no variable {name!r}. "
            f"Assign it ({name} = …) or write %%cities --param {name}=VALUE."
        )

    async def _engine(self) -> AsyncEngine:
        theirs = self._shell.user_ns.get("engine")
        if isinstance(theirs, AsyncEngine):
            return theirs
        if theirs is not None:  # citykit's own engine may be on another database
            raise UsageError(
                f"The variable engine is no AsyncEngine (its type is {theirs.__class__.__name__}); nothing "
                "was run. Make it one, with await: engine = await citykit.connect(url). Without it "
                "(del engine) cells run on an engine of their own."
            )
        if self._own is None:
            self._own = await connect()
        return self._own

    async def _run(
        self, sql: str, params: dict[str, Any], numeric: Numeric | None
    ) -> tuple[pd.DataFrame | Executed, str]:
        return await run_cell(await self._engine(), sql, params, numeric)

    async def _overview(self) -> Overview:
        engine = await self._engine()
        version = await in_transaction(engine, _version, effect="reads")
        rows: int | None
        size: str | None
        try:
            rows, size = await in_transaction(engine, _rows_and_size, effect="reads")
        except MissingTableError:
            rows = size = None
        return Overview(shown_url(engine.url), version, City.__tablename__, rows, size)


async def _version(connection: AsyncConnection) -> str:
    return str(await connection.scalar(text("SHOW server_version")))


async def _rows_and_size(connection: AsyncConnection) -> tuple[int, str]:
    rows, size = (await connection.execute(_ROWS_AND_SIZE)).one()
    return rows, size


_ROWS_AND_SIZE = select(
    func.count(), func.pg_size_pretty(func.pg_total_relation_size(func.to_regclass(City.__tablename__)))
).select_from(City)


# Spaces within quotes or brackets do not split. Quotes stay in the word: --param n='5' is text.
_WORD = re.compile(r"""(?:'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | \[[^\]]*\] | [^\s'"])+""", re.VERBOSE)


def _words(line: str) -> list[str]:
    """Split a line into words; quotes around a whole word are removed."""
    if "'" in (rest := _WORD.sub("", line)) or '"' in rest:
        raise ValueError("No closing quotation")
    words = _WORD.findall(line)
    return [word[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", word) else word for word in words]


def _read_line(line: str) -> tuple[str | None, dict[str, Any], Numeric | None]:
    """Return the name of the variable to assign, the parameters that are given, and ``--numeric``."""
    parser: Any = MagicArgumentParser(prog="%%cities", add_help=False)  # type: ignore[no-untyped-call]
    parser.add_argument("name", nargs="?")
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--numeric", choices=get_args(Numeric))
    try:
        words = parser.parse_args(_words(line))
    except ValueError as exc:
        raise UsageError(f"%%cities {line}: {exc}") from None
    if words.name is not None and (not words.name.isidentifier() or keyword.iskeyword(words.name)):
        raise UsageError(f"{words.name!r} is not a variable name; SQL goes into the lines below %%cities.")
    if words.name == "engine":
        raise UsageError("Cells run on the variable engine: choose another NAME. Nothing was run.")
    params = {}
    for param in words.param:
        try:
            given, value = param_of(param)
        except ValueError as exc:
            raise UsageError(f"--param {exc}") from None
        params[given] = value
    return words.name, params, words.numeric


@dataclass(frozen=True)
class Overview:
    """What ``%cities`` shows: the connection, without its password, and the table.

    Attributes
    ----------
    url, version : str
        Of the server.
    table : str
    rows : int or None
        None where the table was not created yet.
    size : str or None
        On disk, indexes included (``'6584 kB'``).
    """

    url: str
    version: str
    table: str
    rows: int | None
    size: str | None

    def _table(self) -> str:
        if self.rows is None:
            return "not there yet: await citykit.create_tables(engine)"
        return f"{self.rows:,} rows, {self.size}"

    def __repr__(self) -> str:
        return f"{self.url} (PostgreSQL {self.version})\n{self.table}: {self._table()}"

    def _repr_html_(self) -> str:
        lines = {"server": self.url, "PostgreSQL": self.version, self.table: self._table()}
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in lines.items()
        )
        return f"<table>{cells}</table>"
