"""The server in a thread, over a tiny model, for the tests that ask it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import openai
import uvicorn

import deal
from deal.rewards import Keywords
from deal.serve import make_app

NAME = "tiny"
CHAT = [{"role": "user", "content": "The cat sat"}]
SEARCH = {"top_k": 5, "lookahead": 4, "reward_weight": 40.0}
GREEDY = {"model": NAME, "temperature": 0}
WORDS = 'Keywords(["cat", "tree"]) + 0.5 * Length(max=3)'


class Gate:
    """A reward that waits while it is shut, and counts its calls."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.n_call = 0
        self.seconds = 0.0

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        self.n_call += 1
        time.sleep(self.seconds)
        assert self.is_open.wait(30)
        return [0.0] * len(completions)


GATE = Gate()


def broken(completions: list[str], **kwargs: Any) -> list[float]:
    raise ZeroDivisionError("a secret of the operator")


class Served:
    """A server in a thread."""

    def __init__(self, lm: deal.Model, **options: Any) -> None:
        app = make_app(lm, name=NAME, **options)
        config = uvicorn.Config(app, port=0, lifespan="on", log_level="critical")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.client = openai.OpenAI(
            base_url=self.url, api_key="key", max_retries=0, timeout=60
        )

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return ask(self.port, method, path, body, **headers)

    def counts(self) -> tuple[int, int]:
        return counts(self.port)


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Status and body of one request; a str or bytes goes as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    raw = body if isinstance(body, (str, bytes)) else json.dumps(body)
    connection.request(method, path, None if body is None else raw, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if data else None


def counts(port: int) -> tuple[int, int]:
    """Requests that run and that wait."""
    _, found = ask(port, "GET", "/health")
    return found["running"], found["waiting"]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def with_rewards(lm: deal.Model, n_waiting: int = 64) -> Served:
    """A server with the rewards "cats", "gate" and "broken"."""
    rewards = {"cats": Keywords(["cat"]), "gate": GATE, "broken": broken}
    return Served(lm, rewards=rewards, n_waiting=n_waiting, max_body=100_000)
