"""What the server refuses, who waits, who leaves, and junk."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lm_eval_requests import tiny

import deal

pytest.importorskip("openai", reason="openai is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import openai
from served import (
    CHAT,
    GATE,
    GREEDY,
    NAME,
    SEARCH,
    WORDS,
    Served,
    wait_until,
    with_rewards,
)

from deal.serve import make_app


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    return tiny("byte", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(lm: deal.Model) -> Iterator[Served]:
    server = with_rewards(lm)
    yield server
    server.close()


@pytest.fixture
def client(served: Served) -> Any:
    return served.client


# --- refusals ------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("best", {"best": 1}),
    ("frequency_penalty", {"frequency_penalty": 0.5}),
    ("logit_bias", {"logit_bias": {"5": 1}}),
    ("suffix", {"suffix": "x"}),
    ("tools", {"tools": [{}]}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": [[]]}),
    ("prompt", {"prompt": ["a", [1]]}),
    ("prompt", {"prompt": [True]}),
    ("prompt", {"prompt": [-1]}),
    ("prompt", {"prompt": [10**30]}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": "5"}),
    ("temperature", {"temperature": -1}),
    ("temperature", {"temperature": "hot"}),
    ("temperature", {"temperature": 0.5, "rewards": WORDS}),
    ("top_p", {"top_p": 0}),
    ("n", {"n": 0}),
    ("n", {"n": 2, "stream": True}),
    ("n", {"n": 2}),
    ("best_of", {"best_of": 2}),
    ("logprobs", {"logprobs": 1000}),
    ("logprobs", {"logprobs": 1, "stream": True}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": [1]}),
    ("stream", {"stream": "yes"}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("rewards", {"rewards": "nobody"}),
    ("rewards", {"rewards": "os:getcwd"}),
    ("rewards", {"rewards": "/etc/passwd.py:x"}),
    ("rewards", {"rewards": 'Lexicon(path="/etc/passwd")'}),
    ("rewards", {"rewards": [{"type": "NgramModel", "path": "/etc/passwd"}]}),
    ("rewards", {"rewards": "__import__('os')"}),
    ("search", {"search": SEARCH}),
    ("search", {"rewards": WORDS, "search": {"rollout_model": "x"}}),
    ("search", {"rewards": WORDS, "search": {"mode": "fast"}}),
    (None, {"rewards": WORDS, "search": {"top_k": 10**9}}),  # type: ignore[list-item]
    ("num_beams", {"num_beams": 10**6}),
    ("constraint", {"constraint": {"regex": "("}}),
    ("constraint", {"constraint": {"regex": "a", "grammar": "b"}}),
    ("constraint", {"constraint": {"file": "/etc/passwd"}}),
    ("response_format", {"response_format": {"type": "xml"}}),
    ("prompt", {"prompt": "\ud800"}),
]


@pytest.mark.parametrize("param, fields", REFUSED)
def test_refused_fields(param: str, fields: dict[str, Any], served: Served) -> None:
    body = {"prompt": "The cat", "temperature": 0} | fields
    if "num_beams" in fields or "rewards" in fields and "temperature" not in fields:
        del body["temperature"]
    status, answer = served.ask("POST", "/v1/completions", body)
    error = answer["error"]
    assert status == 400 and error["type"] == "invalid_request_error", error
    assert error["param"] == param or error["message"].startswith("text:"), error
    assert set(error) == {"message", "type", "param", "code"}


def test_fields_without_effect(served: Served, lm: deal.Model) -> None:
    body = {"prompt": "The cat", "temperature": 0, "user": "x", "metadata": {}}
    body |= {"logit_bias": {}, "presence_penalty": 0.0, "suffix": None, "best_of": 1}
    status, answer = served.ask("POST", "/v1/completions", body)
    assert status == 200
    text = lm.generate("The cat", max_new_tokens=16).text
    assert answer["choices"][0]["text"] == text


def test_other_refusals(served: Served, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(prompt="the sun " * 60, **GREEDY)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError, match="not served here") as wrong:
        client.completions.create(model="gpt", prompt="a")
    assert wrong.value.code == "model_not_found"
    image = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    with pytest.raises(openai.BadRequestError, match="part of type 'text'"):
        client.chat.completions.create(
            messages=[{"role": "user", "content": [image]}], **GREEDY
        )
    path = "/v1/completions"
    assert served.ask("GET", path)[0] == 405
    assert served.ask("GET", "/v1/nothing")[0] == 404
    assert served.ask("POST", path, "x" * 200_000)[0] == 413
    for raw in ("{", "[]", "[" * 90_000, '{"n": NaN}', b"\xff\xfe\x00", "1" * 5000):
        status, answer = served.ask("POST", path, raw)
        assert status == 400 and answer["error"]["message"].startswith("body: ")


def test_faults_of_the_server_tell_no_secrets(served: Served, client: Any) -> None:
    own = {"rewards": "broken"}
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            asked = {"model": NAME, "prompt": "a", "stream": stream}
            list(client.completions.create(**asked, extra_body=own))
        assert "secret" not in str(caught.value)
    wait_until(lambda: served.counts() == (0, 0))


def test_api_key(lm: deal.Model) -> None:
    served = Served(lm, api_key="key")
    try:
        assert served.client.models.list().data
        for given in ({}, {"Authorization": "Bearer kez"}, {"Authorization": "key"}):
            status, answer = served.ask("GET", "/v1/models", **given)
            assert status == 401 and answer["error"]["code"] == "invalid_api_key"
        assert served.ask("GET", "/health")[0] == 200
    finally:
        served.close()
    with pytest.raises(ValueError, match="api_key"):
        make_app(lm, api_key="")


# --- many requests -------------------------------------------------------------------


def test_a_full_queue_and_clients_that_leave(lm: deal.Model) -> None:
    body = {"prompt": "The cat", "rewards": "gate", "max_tokens": 8}
    served = with_rewards(lm, n_waiting=1)
    client = served.client
    GATE.is_open.clear()
    try:
        both = []
        for counts in ((1, 0), (1, 1)):
            one = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
            one.request("POST", "/v1/completions", json.dumps(body))
            wait_until(lambda counts=counts: served.counts() == counts)
            both.append(one)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(prompt="a", **GREEDY)
        assert caught.value.code == "rate_limit_exceeded"
        both[1].close()  # leaves the queue
        wait_until(lambda: served.counts() == (1, 0))
        both[0].close()
        GATE.is_open.set()
        wait_until(lambda: served.counts() == (0, 0))
        for _ in range(20):  # a thread that has answered is free
            assert client.completions.create(prompt="a", **GREEDY).choices
            assert served.counts() == (0, 0)
    finally:
        GATE.is_open.set()
        served.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_search(stream: bool, served: Served) -> None:
    body = {"prompt": "The", "rewards": "gate", "max_tokens": 50, "stream": stream}
    GATE.n_call, GATE.seconds = 0, 0.02
    try:
        one = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        one.request("POST", "/v1/completions", json.dumps(body))
        if stream:
            answer = one.getresponse()
            assert answer.readline().startswith(b"data: ")
            answer.close()
        else:
            wait_until(lambda: GATE.n_call > 2)
        one.close()
        wait_until(lambda: served.counts() == (0, 0))
        n_call = GATE.n_call
        assert 0 < n_call < 40  # each of 50 steps asks at least once
        time.sleep(0.1)
        assert GATE.n_call == n_call
    finally:
        GATE.seconds = 0.0


def test_parallel(lm: deal.Model) -> None:
    served = Served(lm, parallel=3)
    texts = [f"The {word}" for word in ("cat", "sun", "tree", "couch", "dog")] * 4
    expected = [r.text for r in lm.generate(texts, max_new_tokens=8)]
    found = [""] * len(texts)

    def ask(i: int) -> None:
        answer = served.client.completions.create(
            prompt=texts[i], max_tokens=8, **GREEDY
        )
        found[i] = answer.choices[0].text

    try:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == expected
    finally:
        served.close()


# --- junk ----------------------------------------------------------------------------

FIELDS = ("model", "prompt", "messages", "n", "stop", "stream", "stream_options")
FIELDS += ("logprobs", "top_logprobs", "max_tokens", "temperature", "top_p", "seed")
FIELDS += ("rewards", "search", "num_beams", "constraint", "response_format", "echo")
FIELDS += ("top_k", "min_p", "repetition_penalty", "best_of", "user", "tools", "é")
GOOD: dict[str, Any] = {"model": NAME, "stop": ["a"], "stream": True, "seed": 1}
GOOD |= {"temperature": 0, "top_p": 0.5, "rewards": "cats", "num_beams": 2, "top_k": 3}
GOOD |= {"constraint": {"regex": "a*"}, "user": "x", "best_of": 1, "tools": []}
WORTH: tuple[Any, ...] = (None, True, False, 0, 1, 2, -1, 0.5, 1e300, 10**25, "", "a")
WORTH += (NAME, "\ud800", "\0", "cats", WORDS, "doc['x']", "(" * 500, {}, [], [1, 2])
WORTH += (
    ["The cat"],
    [[1, 2], [3]],
    SEARCH,
    {"mode": "segment"},
    CHAT,
    {"regex": "a*"},
)
WORTH += ({"regex": "(a{99}){99}"}, {"grammar": "start: start"}, {"type": "text"})
WORTH += ("-" * 9000 + "1", "1" + "+1" * 4000, [[[]]] * 50)
WORTH += ({"json_schema": {"$ref": "http://127.0.0.1/x"}}, {"type": "json_object"})


def _worth(rng: random.Random, depth: int = 0) -> Any:
    if rng.random() < 0.8 or depth > 3:
        return rng.choice(WORTH)
    if rng.random() < 0.5:
        return [_worth(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = (*FIELDS, "role", "content", "type", "regex", "lookahead", "concepts")
    return {rng.choice(keys): _worth(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_junk(served: Served) -> None:
    rng = random.Random(7)
    statuses = []
    for i in range(400):
        good: dict[str, Any] = {"max_tokens": 3, "prompt": "The cat", "messages": CHAT}
        path = rng.choice(["/v1/completions", "/v1/chat/completions"])
        del good["messages" if path == "/v1/completions" else "prompt"]
        names = rng.sample(FIELDS, rng.randrange(1, 4))
        body = good | {
            name: GOOD[name] if name in GOOD and rng.random() < 0.6 else _worth(rng)
            for name in names
        }
        body.pop("max_tokens") if rng.random() < 0.1 else None
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        data = answer.read().decode()
        connection.close()
        assert answer.status in (200, 400, 404), (i, body, data)
        assert ('"error"' in data) == (answer.status != 200), (i, body, data)
        statuses.append(answer.status)
    assert statuses.count(200) > 50 and statuses.count(400) > 100
    wait_until(lambda: served.counts() == (0, 0))
