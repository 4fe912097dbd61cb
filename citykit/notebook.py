"""`run`: for people and places that cannot await."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import select
import signal
import threading
import weakref
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

from citykit.errors import WrongLoopError
from citykit.waking import in_kernel

T = TypeVar("T")

_thread = threading.local()


class _LastingLoop:
    """A thread's loop, closed when the thread or the process ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pid = os.getpid()  # in a forked child it is the parent's, whose threads are not there
        weakref.finalize(self, _end, self.loop, self.pid)


def _end(loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if pid != os.getpid():
        _unshare(loop)
    else:
        with contextlib.suppress(RuntimeError):  # another loop runs here
            loop.run_until_complete(loop.shutdown_asyncgens())  # as asyncio.run does; closes connections
    loop.close()


def _unshare(loop: Any) -> None:
    """Give a forked child's copy of a loop an epoll of its own: closing it would deafen the parent's."""
    with contextlib.suppress(AttributeError):  # no epoll here, or not asyncio's own loop
        fresh = select.epoll()
        os.dup2(fresh.fileno(), loop._selector.fileno(), inheritable=False)
        fresh.close()


def run(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable and return its result, where ``await`` cannot be written.

    Outside of a running event loop (a script, the Python prompt, a thread) it runs on one loop per
    thread, which lasts, so that an engine made in one call works in the next. Inside a running loop (a
    notebook cell that is not to have an ``await``) it runs on that loop, which nest-asyncio2 makes
    possible at the first such call; nothing is patched before.

    It costs about 0.1 ms over ``await``. Inside a running loop, calls that overlap (in callbacks or tasks)
    return last in, first out: a short one waits for a longer one that began after it. Each level takes
    about ten frames of Python's stack, of which there are 1,000 (``sys.getrecursionlimit()``).

    Parameters
    ----------
    awaitable : awaitable
        What a helper of citykit returns, for example.

    Raises
    ------
    WrongLoopError
        Inside a running loop that cannot be entered again: uvloop's, or one in a process that the older
        nest-asyncio has patched. Nothing is changed then.

    Examples
    --------
    >>> engine = citykit.run(citykit.connect())
    >>> frame = citykit.run(citykit.biggest_cities(engine))
    """
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"an awaitable is needed, such as a helper returns, not {type(awaitable).__name__}")
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        lasting = getattr(_thread, "lasting", None)
        if lasting is None or lasting.loop.is_closed() or lasting.pid != os.getpid():
            _thread.lasting = _LastingLoop()
        return _wait(_thread.lasting.loop, awaitable)
    try:
        _make_nestable(running)
    except WrongLoopError:
        if asyncio.iscoroutine(awaitable):
            awaitable.close()
        raise
    return _wait(running, awaitable)


def _wait(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[T]) -> T:
    task = asyncio.ensure_future(awaitable, loop=loop)
    with _cancelled_by_interrupt(loop, task):
        return loop.run_until_complete(task)


@contextlib.contextmanager
def _cancelled_by_interrupt(loop: asyncio.AbstractEventLoop, task: asyncio.Future[Any]) -> Iterator[None]:
    """Let Ctrl-C and the notebook's Interrupt cancel `task`, and raise KeyboardInterrupt once it has ended.

    As asyncio.Runner does it: a KeyboardInterrupt that is raised wherever the loop happens to be can lose one
    of the loop's callbacks, and whoever waits for that waits forever. A second interrupt is raised at once.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler or (in_kernel() and callable(before))
    if not ours or threading.current_thread() is not threading.main_thread():
        try:
            yield  # another thread, or the handler of somebody who decides otherwise
        finally:
            if not task.done():  # which that one has left by raising
                task.cancel()
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        return
    interrupts = 0

    def interrupted(*_signal: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1 or task.done():
            raise KeyboardInterrupt
        task.cancel()
        loop.call_soon_threadsafe(int)  # wakes a loop that waits

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except asyncio.CancelledError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _make_nestable(loop: asyncio.AbstractEventLoop) -> None:
    """Let `loop` be entered again, or say why not before anything is patched."""
    if hasattr(asyncio, "_nest_patched") and not hasattr(asyncio, "_nest_asyncio2"):
        raise WrongLoopError(
            "The older nest-asyncio has patched this process, and cells are lost with it on ipykernel 7. "
            "Restart the kernel, remove nest_asyncio.apply(), and use await or citykit.run."
        )
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise WrongLoopError(
            f"The running loop is {type(loop).__module__}'s, which cannot be entered again. "
            "Write await instead of citykit.run(…), or call citykit.run from another thread."
        )
    import nest_asyncio2

    nest_asyncio2.apply(loop)
