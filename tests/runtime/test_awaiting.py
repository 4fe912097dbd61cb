"""A forgotten await is said; everything that takes a coroutine takes what the helpers return."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import operator
import pickle
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import citykit
from citykit.runtime.awaiting import says_await


@says_await
async def answer(question: str, *, plus: int = 0) -> int:
    """Answer."""
    await asyncio.sleep(0)
    if question == "wrong":
        raise ZeroDivisionError
    return 42 + plus


@pytest.mark.parametrize(
    "use",
    [
        operator.attrgetter("iloc"),
        operator.itemgetter("name"),
        len,
        list,
        lambda frame: frame + 1,
        lambda frame: "name" in frame,
        lambda frame: frame > 1,
        lambda frame: frame(),
        lambda frame: frame == 1,
        lambda frame: frame != 1,
        lambda frame: f"{frame:,.1f}",
        lambda frame: frame % 2,
        lambda frame: 2**frame,
        lambda frame: 7 // frame,
        lambda frame: frame & frame,
        lambda frame: frame @ frame,
        lambda frame: operator.setitem(frame, "name", 1),
        operator.neg,
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        int,
        float,
        round,
        iter,
        reversed,
    ],
)
def test_using_it_like_its_result_says_await_it(use: Callable[[Any], object]) -> None:
    waiting = answer("life")
    with pytest.raises((AttributeError, TypeError), match=r"await it \(await answer\(…\)\)"):
        use(waiting)
    assert "await it" in repr(waiting)
    assert waiting  # in the repr of a task, Python 3.12 asks for that
    assert f"{waiting}" == str(waiting) == repr(waiting)
    waiting.close()


def test_it_is_taken_for_an_async_function() -> None:
    assert inspect.iscoroutinefunction(answer)
    waiting = answer("life")
    assert asyncio.iscoroutine(waiting)
    assert inspect.isawaitable(waiting)
    assert inspect.iscoroutine(waiting)
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CREATED
    waiting.close()
    assert list(inspect.signature(answer).parameters) == ["question", "plus"]
    assert answer.__doc__ == "Answer."
    with pytest.raises(TypeError, match="question"):
        _ = answer()  # type: ignore[call-arg]


WAYS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "await": lambda waiting: waiting,
    "gather": lambda waiting: asyncio.gather(waiting),
    "wait_for": lambda waiting: asyncio.wait_for(waiting, 5),
    "create_task": lambda waiting: asyncio.create_task(waiting),
    "shield": lambda waiting: asyncio.shield(waiting),
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_of_waiting(way: str) -> None:
    result = await WAYS[way](answer("life", plus=1))
    assert result in (43, [43])
    with pytest.raises(ZeroDivisionError):
        await WAYS[way](answer("wrong"))


def test_the_ways_of_waiting_from_outside() -> None:
    assert asyncio.run(answer("life")) == 42
    assert citykit.run(answer("life")) == 42


async def test_it_can_be_cancelled() -> None:
    task = asyncio.create_task(answer("life"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.slow
def test_one_that_is_never_awaited_still_warns() -> None:
    def forget() -> None:
        _ = answer("life")
        del _
        gc.collect()

    with pytest.warns(RuntimeWarning, match="'answer' was never awaited"):
        forget()


async def test_one_that_has_named_the_await_can_be_awaited_and_is_not_named_again() -> None:
    def misuse() -> Any:
        waiting = answer("life")
        with pytest.raises(TypeError, match="await it"):
            len(waiting)  # type: ignore[arg-type]
        return waiting

    assert await misuse() == 42
    with warnings.catch_warnings(record=True) as said:
        misuse()
        gc.collect()
    assert [str(warning.message) for warning in said] == []


def test_an_engine_that_was_not_awaited_is_said_where_it_is_used() -> None:
    with pytest.raises(TypeError, match="put await before the call that made it"):
        asyncio.run(citykit.biggest_cities(citykit.connect()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Put await before the call that makes it"):
        asyncio.run(citykit.load_cities(None, answer("life")))  # type: ignore[arg-type]
