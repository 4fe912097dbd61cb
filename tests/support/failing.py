"""Connections of asyncpg whose operations fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg


class Failing:
    """Raises an error instead of the operation of that number of asyncpg's connections."""

    def __init__(self) -> None:
        self.operations, self.at = 0, 0
        self.error: Callable[[], Exception] = OSError

    def count(self) -> None:
        self.operations += 1
        if self.operations == self.at:
            raise self.error()

    def connection_class(self) -> type[Any]:
        failing = self

        class Connection(asyncpg.Connection):  # type: ignore[misc]  # it has no types
            async def prepare(self, *args: Any, **options: Any) -> Any:
                failing.count()
                return _Prepared(await super().prepare(*args, **options), failing)

        def counted(name: str) -> Any:
            real = getattr(asyncpg.Connection, name)

            async def call(self: Any, *args: Any, **options: Any) -> Any:
                failing.count()
                return await real(self, *args, **options)

            return call

        for name in ("execute", "fetch", "fetchrow", "fetchval", "copy_from_query", "copy_to_table"):
            setattr(Connection, name, counted(name))
        return Connection

    async def connect(self, *args: Any, **options: Any) -> Any:
        self.count()
        return await asyncpg.connect(*args, **options)


class _Prepared:
    def __init__(self, statement: Any, failing: Failing) -> None:
        self._statement, self._failing = statement, failing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._statement, name)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        self._failing.count()
        return await self._statement.fetch(*args, **options)
