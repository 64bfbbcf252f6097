"""Threads that answer requests, a bounded queue before them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from deal.serve.errors import Refused

Check = Callable[[], None]
Answers = Callable[[Check], Iterator[Any]]

_log = logging.getLogger("uvicorn.error")

END = object()  # after a job's last item
_SECONDS_TO_JOIN = 30.0


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Job:
    """A request on its way through a thread.

    Parameters
    ----------
    answers : callable
        Called in the thread with `check`; gives the items of the answer.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._is_over = threading.Event()

    def check(self) -> None:
        """Raise `Gone` once the job is cancelled."""
        if self._is_over.is_set():
            raise Gone

    def cancel(self) -> None:
        self._is_over.set()

    def run(self) -> Any:
        """All of it, in the calling thread; returns what is still to tell."""
        try:
            self.check()
            for item in self._answers(self.check):
                self.tell(item)
                self.check()
            return END
        except Refused as error:
            return error
        except Gone:
            return Refused("the server is ending", status=503)
        except BaseException as error:
            _log.exception("a request failed")
            what = f"internal error: {type(error).__name__}"
            return Refused(what, status=500)

    def tell(self, item: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def next(self) -> Any:
        """The next item, or `END`; raises `Refused` where there is none."""
        item = await self._items.get()
        if isinstance(item, Refused):
            raise item
        return item


class Workers:
    """`n_thread` threads, and at most `n_waiting` jobs that wait for one."""

    def __init__(self, n_thread: int, n_waiting: int) -> None:
        self._n_thread = n_thread
        self._n_waiting = n_waiting
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._changed = threading.Condition()
        self._is_closed = True
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"deal-serve-{i}", daemon=True)
            for i in range(self._n_thread)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, answers: Answers) -> Job:
        """Queue a job, or raise `Refused`: 429 where the queue is full."""
        job = Job(answers)
        with self._changed:
            if self._is_closed:
                raise Refused("the server is ending", status=503)
            n_free = self._n_thread - len(self._running)
            if len(self._waiting) >= self._n_waiting + n_free:
                raise Refused(
                    f"{len(self._waiting)} requests are waiting; try again later",
                    status=429,
                    code="rate_limit_exceeded",
                )
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Leave a job out, or end it after the step that it is at."""
        job.cancel()
        with self._changed, suppress(ValueError):
            self._waiting.remove(job)

    def close(self) -> None:
        """End all jobs and threads."""
        with self._changed:
            self._is_closed = True
            for job in (*self._running, *self._waiting):
                job.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_SECONDS_TO_JOIN)

    def counts(self) -> tuple[int, int]:
        """Jobs that run and that wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                self._running.add(job)
            last = job.run()
            with self._changed:
                self._running.remove(job)
            job.tell(last)  # after it, the thread is free
