"""Several requests at once: their searches share forward passes."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from deal import _core, _rollouts
from deal._errors import KVBudgetError
from deal._request import Options, generations
from deal.generation import Generation
from deal.rewards.base import Reward
from deal.rewards.heads import Head
from deal.rewards.native import Native
from deal.settings import check_int

_N_ROW = 32  # rows of a pass; with more of them a row gets hardly cheaper
_KV_SIZE = 1 << 30  # bytes of KV cells of all requests together, without a budget

Found = list[Generation]

# What a thread tells of a request, if not its index: that it is answered.
_POSTPONED, _FAILED = -1, -2


@dataclass(frozen=True)
class Request:
    """A prompt, encoded, and what is asked of it."""

    prompt: tuple[Sequence[int], str]
    options: Options
    row: Mapping[str, Any]  # columns for its rewards


def checked_size(batch_size: Any) -> int | None:
    """`batch_size` as a number; None is for "auto"."""
    if batch_size == "auto":
        return None
    return check_int("batch_size", batch_size, 1)


def generate_all(
    model: Any,
    requests: Sequence[Request],
    batch_size: int | None = None,
    done: Callable[[int, Found], Any] | None = None,
) -> list[Found]:
    """The results of each request, in their order.

    Parameters
    ----------
    model : Model
    requests : sequence of Request
        Those of one batch have one rollout model, and ask for the same rewards: what
        heads read of the model are the same layers (:func:`layers_of`).
    batch_size : int, optional
        Most requests at a time; by default as :func:`batch_size_of` says.
    done : callable, optional
        Called with a request's index and results, in this thread, when it is answered.
    """
    done = done or (lambda i, found: None)
    size = batch_size_of(model, requests) if batch_size is None else batch_size
    size = min(size, len(requests))
    if size > 1:
        return _Batch(model, requests).run(size, done)
    results = []
    for i, request in enumerate(requests):
        results.append(_run_alone(model, request))
        done(i, results[-1])
    return results


def batch_size_of(model: Any, requests: Sequence[Request]) -> int:
    """How many at a time are worth it: enough to fill a pass, within the memory for KV
    cells; 1 where rewards run Python, whose author may not expect several threads."""
    if not requests or not all(is_native(r.options.reward) for r in requests):
        return 1
    n_row = max(_n_row(r.options) for r in requests)
    n_cell = max(len(r.prompt[0]) + _n_new_cell(r.options) for r in requests)
    size_max = model.kv_budget or _KV_SIZE
    return max(1, min(_N_ROW // n_row, size_max // (n_cell * cell_size(model))))


def is_native(reward: Reward | None) -> bool:
    """Whether several threads can ask it at once, which C code of our own can take."""
    parts = () if reward is None else reward.leaves()
    return all(
        isinstance(p.reward, Head)
        or (isinstance(p.reward, Native) and type(p.reward) is not Native)
        for p in parts
    )


def layers_of(reward: Reward | None) -> tuple[tuple[int, ...], ...]:
    """The layers that each head of a reward reads, which are those of a whole batch."""
    parts = () if reward is None else reward.leaves()
    return tuple(p.reward.layers for p in parts if isinstance(p.reward, Head))


def _n_live(params: Mapping[str, Any]) -> int:
    """Texts that a search goes on with at a time."""
    return max(params["n_return"], params["beam_size"], params["n_proposal"])


def _n_row(options: Options) -> int:
    """Rows that a search has in most passes."""
    params = options.params
    n = _n_live(params)
    is_searched = options.reward is not None and params["lookahead_len"] > 0
    return n * 2 if is_searched else n


def _n_new_cell(options: Options) -> int:
    """Cells beside the prompt's."""
    params = options.params
    n = _n_live(params)
    rollouts = n * params["top_k"] * (params["lookahead_len"] + 1)
    return n * params["n_new_max"] + (rollouts if options.reward is not None else 0)


def cell_size(model: Any) -> int:
    """Bytes of a token's keys, values and final state."""
    h = model.hparams
    number = 2 if model.kv_type == "f16" else 4
    return 2 * h.n_layer * h.n_head_kv * h.head_dim * number + 4 * h.n_embd


def _run(model: Any, sessions: Any, request: Request, controls: Any) -> Found:
    options = request.options
    search = model._start(
        sessions, request.prompt, options, dict(request.row), controls
    )
    try:
        search.run()
        return generations(search, options, model.tokenizer)
    finally:
        del search  # gives its nodes back before the sessions are


def _run_alone(model: Any, request: Request) -> Found:
    options = request.options
    controls = _rollouts.controls(model, options)
    with _rollouts.sessions(model, options) as sessions:
        return _run(model, sessions, request, controls)


class _Batch:
    """Threads that take requests, one after the other, until none is left."""

    def __init__(self, model: Any, requests: Sequence[Request]) -> None:
        self._model = model
        self._requests = requests
        self._todo: Iterator[int] = iter(range(len(requests)))
        self._lock = threading.Condition()
        self._found: list[Found] = [[] for _ in requests]
        self._errors: dict[int, BaseException] = {}
        self._news: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._joined: list[Any] = []  # sessions of threads that have not begun
        self._is_over = False
        self._n_working = 0  # threads

    def run(self, n_thread: int, done: Callable[[int, Found], Any]) -> list[Found]:
        options = self._requests[0].options
        controls = _rollouts.controls(self._model, options)
        with ExitStack() as stack:
            sessions = stack.enter_context(_rollouts.sessions(self._model, options))
            batch = _core.Batch(*sessions)
            threads: list[threading.Thread] = []
            try:
                # All join before one asks, so that the first pass has all prompts.
                self._joined = [batch.join() for _ in range(n_thread)]
                for _ in range(n_thread):
                    threads.append(self._start(self._work, batch, controls))
                self._wait(done)
            finally:
                try:
                    self._end(batch)
                except KeyboardInterrupt:  # again, as a reward takes its time
                    self._start(self._end_later, stack.pop_all(), batch)
                    raise
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[min(self._errors)]
        for i, request in enumerate(self._requests):
            if not self._found[i]:
                self._found[i] = _run_alone(self._model, request)
                done(i, self._found[i])
        return self._found

    def _wait(self, done: Callable[[int, Found], Any]) -> None:
        """Until all are answered, or one has failed."""
        for _ in self._requests:
            news = self._news.get()
            if news == _FAILED:
                return
            if news != _POSTPONED:
                done(news, self._found[news])

    @staticmethod
    def _start(target: Callable[..., None], *args: Any) -> threading.Thread:
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(target, *args), daemon=True)
        thread.start()
        return thread

    def _end(self, batch: Any) -> None:
        """Also after a Ctrl-C: what runs still is cancelled, and waited for.

        NB: not by joining threads, as one that is interrupted there counts as ended.
        """
        with self._lock:
            self._is_over = True
            batch.cancel()
            self._lock.wait_for(lambda: self._n_working == 0)
        self._joined.clear()
        batch.close()

    def _end_later(self, stack: ExitStack, batch: Any) -> None:
        """The sessions stay with the batch until nobody works there."""
        with stack:
            self._end(batch)

    def _work(self, batch: Any, controls: Any) -> None:
        with self._lock:
            if self._is_over:
                return
            joined = [self._joined.pop()]
            self._n_working += 1
        try:
            while (i := self._next()) is not None:
                self._news.put(self._answer(batch, joined, i, controls))
        finally:
            joined.clear()
            with self._lock:
                self._n_working -= 1
                self._lock.notify_all()

    def _answer(self, batch: Any, joined: list[Any], i: int, controls: Any) -> int:
        """Its index, or what became of it."""
        try:
            self._found[i] = self._run_in(batch, joined, i, controls)
            return i
        except KVBudgetError:
            return _POSTPONED  # the others hold cells too; again alone, afterwards
        except BaseException as error:
            self._fail(i, error)
            return _FAILED

    def _next(self) -> int | None:
        with self._lock:
            return None if self._is_over else next(self._todo, None)

    def _run_in(self, batch: Any, joined: list[Any], i: int, controls: Any) -> Found:
        sessions = joined.pop() if joined else batch.join()
        try:
            return _run(self._model, sessions, self._requests[i], controls)
        finally:
            sessions[0].leave()  # from here on nobody waits for it

    def _fail(self, i: int, error: BaseException) -> None:
        """Ends all; what fails because of that is no fault of its own."""
        with self._lock:
            if not self._is_over:
                self._errors[i] = error
            self._is_over = True
