"""Statements that `execute` refuses, by their words, and what the error says to use instead. No I/O."""

from __future__ import annotations

import re

from citykit.errors import CitykitError
from citykit.read.statement import Query
from citykit.read.tokens import tokens_of

_TRANSACTION_WORDS = (
    "abort", "begin", "commit", "end", "prepare transaction", "release", "rollback", "savepoint", "start",
)  # fmt: skip
_IN_TRANSACTIONS = (
    "citykit begins and ends transactions itself. For several statements in one: async with engine.begin() "
    "as connection, and give each call the connection; or write them in one cell below %%cities."
)
_AS_TRANSACTIONS = (
    "A transaction of citykit's own has begun already. Choose its isolation for the engine: "
    "engine.execution_options(isolation_level='SERIALIZABLE')"
)
_AS_OPTIONS = (
    "An engine runs each statement on any of its connections, and this would change one of them. For all of "
    "them: await citykit.connect(connect_args={'server_settings': {'search_path': 'public'}}); for one "
    "transaction: SET LOCAL on a connection, async with engine.begin() as connection"
)
_AS_LISTENER = (
    "Notifications come to a connection of the driver: driver = (await connection.get_raw_connection())"
    ".driver_connection, then await driver.add_listener('channel', print)"
)
_AS_FRAMES = (
    "Rows go in by await citykit.load_frame(engine, frame, table), and come by "
    "await citykit.read_frame(engine, 'TABLE cities')"
)
_AS_PREPARED = (
    "The driver has prepared statements of its own on each connection, which this would end. End yours by "
    "their names: DEALLOCATE name"
)
_AS_TEMPORARY = (
    "An engine runs each statement on any of its connections, and one of them alone would have it. For "
    "several statements on one: async with engine.begin() as connection, and give each call the connection; "
    "or write them in one cell below %%cities, where a temporary table takes ON COMMIT DROP"
)
# Matches the tokens of a statement whose result its session alone would have.
_TEMPORARY = re.compile(
    r"create (?:or replace )?(?:(?:local |global )?temp(?:orary)?\b"
    r"|(?:\w+ )?(?:table|view|sequence|function|procedure|aggregate|type|domain)(?: if not exists)? "
    r'"?pg_temp"? \.)'
    r"(?!.*\bon commit drop\b)"
    r'|(?:select|with)\b.*(?<!insert )into (?:local |global )?temp(?:orary)? (?!from\b)[\w"]'
)
# By the first words of a statement.
_REFUSED = {
    **dict.fromkeys(_TRANSACTION_WORDS, _IN_TRANSACTIONS),
    "set transaction": _AS_TRANSACTIONS,
    "set session characteristics": _AS_OPTIONS,
    "listen": _AS_LISTENER,
    "unlisten": _AS_LISTENER,
    **dict.fromkeys(("deallocate all", "deallocate prepare all", "discard all"), _AS_PREPARED),
}


def check_runs(query: Query, *, on_engine: bool) -> None:
    """Refuse a statement that would end the transaction or change the connection, and an empty text."""
    words = list(query.words)
    if not words:
        raise CitykitError("There is no statement in the text; nothing was run.")
    starts = [" ".join(words[:count]) for count in (3, 2, 1)]
    start = next((start for start in starts if start in _REFUSED), words[0])
    instead = _REFUSED.get(start)
    if words[1:2] == ["prepared"]:  # COMMIT PREPARED, which the server runs by itself
        instead = None
    elif start == "copy" and not {"stdin", "stdout"}.isdisjoint(words):
        instead = _AS_FRAMES
    elif on_engine and start in ("set", "reset") and words[1:2] not in (["local"], ["constraints"]):
        instead = _AS_OPTIONS
    elif on_engine and words[0] in ("declare", "load", "prepare"):
        instead = _AS_TEMPORARY
    elif on_engine and _TEMPORARY.match(_in_lower_case(query)):
        instead = _AS_TEMPORARY
        start = "create temporary"
    if instead:
        raise CitykitError(f"{start.upper()} cannot be run here; nothing was run. {instead}")


def _in_lower_case(query: Query) -> str:
    """Return its tokens, each followed by a blank, with one text in place of each literal."""
    tokens = (token for token in tokens_of(query.sql, query.conforming) if not token["space"])
    texts = (token[0].lower() for token in tokens)
    return "".join("'' " if "'" in text or "$" in text else f"{text} " for text in texts)
