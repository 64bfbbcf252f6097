"""A process of its own for an engine that is measured: requests and answers in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import common


class Worker:
    """The process of one engine; it sleeps while it is not asked.

    Parameters
    ----------
    name : str
        Of the engine, for messages.
    arguments : sequence of str
        What follows ``python -m``: a module that calls `open_answers` and answers one
        line of JSON to each that it reads, after one of its own.
    threads : int

    Attributes
    ----------
    facts : object
        The first answer: version and settings, or None where the library is missing.
    """

    def __init__(self, name: str, arguments: Sequence[str], threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=common.ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.facts = self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended; see its messages")
        return json.loads(line)

    def ask(self, what: Any) -> Any:
        """The answer to one request."""
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def open_answers() -> Callable[[Any], None]:
    """In the worker's process: what sends an answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    return answer
