"""What the benchmark asks a llama.cpp server before it measures it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("requests", reason="requests is not installed")
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.lm_eval_server import server_version  # noqa: E402

LM = SimpleNamespace(tok_encode=lambda text: [1, *range(len(text.split()))])


def answer(n_prompt: int, logprobs: Any) -> dict[str, Any]:
    return {
        "usage": {"prompt_tokens": n_prompt},
        "choices": [{"text": "", "logprobs": logprobs}],
    }


GOOD = answer(7, {"token_logprobs": [None, -1.0]})


class Handler(BaseHTTPRequestHandler):
    """Says what its server's `says` holds for a path; an int is a status."""

    def _say(self) -> None:
        says = self.server.says[self.path]  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(says if isinstance(says, int) else 200)
        self.end_headers()
        self.wfile.write(b"" if isinstance(says, int) else json.dumps(says).encode())

    do_GET = do_POST = _say

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.says = {  # type: ignore[attr-defined]
            "/v1/completions": GOOD,
            "/openapi.json": {"info": {"version": "0.3.36"}},
        }
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_version(server: HTTPServer) -> None:
    assert server_version(url(server), LM) == "0.3.36"


@pytest.mark.parametrize(
    ("path", "says", "match"),
    [
        ("/v1/completions", answer(6, {"token_logprobs": [-1.0]}), "7 tokens.* got 6"),
        ("/v1/completions", answer(7, None), "logits_all"),
        ("/v1/completions", answer(7, {"token_logprobs": []}), "logits_all"),
        ("/v1/completions", [], "expected log-probs of a llama.cpp server"),
        ("/v1/completions", 500, "500 Server Error"),
        ("/openapi.json", 404, "404 Client Error"),
        ("/openapi.json", {"info": {}}, "KeyError"),
    ],
)
def test_answers_of_no_use(
    server: HTTPServer, path: str, says: Any, match: str
) -> None:
    server.says[path] = says  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=match):
        server_version(url(server), LM)


def test_no_server() -> None:
    with HTTPServer(("127.0.0.1", 0), Handler) as gone:
        address = url(gone)
    with pytest.raises(RuntimeError, match="llama_cpp.server --model FILE"):
        server_version(address, LM)
