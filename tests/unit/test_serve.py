"""The OpenAI-compatible server, asked by OpenAI's own client, over a tiny model."""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import log_softmax
from lm_eval_requests import N_CTX, instance, tiny
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import JsonSchema, Keywords, Length, Regex

pytest.importorskip("openai", reason="openai is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import openai
import uvicorn

from deal.serve import make_app, scores

NAME = "tiny"
CHAT = [{"role": "user", "content": "The cat sat"}]
SEARCH = {"top_k": 5, "lookahead": 4, "reward_weight": 40.0}
GREEDY = {"model": NAME, "temperature": 0}
WORDS = 'Keywords(["cat", "tree"]) + 0.5 * Length(max=3)'
NEAR = 1e-4  # nats a token


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
        """Status and body of one request; a str or bytes goes as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body if isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method, path, None if body is None else raw, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data) if data else None

    def counts(self) -> tuple[int, int]:
        _, found = self.ask("GET", "/health")
        return found["running"], found["waiting"]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    return tiny("byte", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(lm: deal.Model) -> Iterator[Served]:
    rewards = {"cats": Keywords(["cat"]), "gate": GATE, "broken": broken}
    server = Served(lm, rewards=rewards, n_waiting=1, max_body=100_000)
    yield server
    server.close()


@pytest.fixture
def client(served: Served) -> Any:
    return served.client


# --- texts ---------------------------------------------------------------------------


def test_models(client: Any) -> None:
    assert [m.id for m in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("other")


def test_prompts(client: Any, lm: deal.Model) -> None:
    texts = ["The cat", "the sun at", "hello"]
    ids = [lm.tokenizer.encode(text) for text in texts]
    expected = lm.generate(texts, max_new_tokens=6)
    for prompt in (texts, ids):
        found = client.completions.create(prompt=prompt, max_tokens=6, **GREEDY)
        assert [c.text for c in found.choices] == [r.text for r in expected]
        assert [c.index for c in found.choices] == [0, 1, 2]
        assert found.usage.prompt_tokens == sum(map(len, ids))
        assert found.usage.completion_tokens == sum(len(r.token_ids) for r in expected)
        assert "deal" not in found.choices[0].model_extra
    for one in (texts[0], ids[0]):
        found = client.completions.create(prompt=one, max_tokens=6, **GREEDY)
        assert [c.text for c in found.choices] == [expected[0].text]
    found = client.completions.create(prompt="The cat", **GREEDY)
    assert found.usage.completion_tokens == 16  # OpenAI's default


def test_sampling_and_stops(client: Any, lm: deal.Model) -> None:
    sampling = deal.Sampling(0.8, top_p=0.9, seed=2**64 - 5)
    expected = lm.generate(
        "The cat", sampling=sampling, num_return_sequences=3, max_new_tokens=8
    )
    asked = {"model": NAME, "prompt": "The cat", "max_tokens": 8, "top_p": 0.9}
    found = client.completions.create(temperature=0.8, seed=-5, n=3, **asked)
    assert [c.text for c in found.choices] == [r.text for r in expected]
    texts = {client.completions.create(**asked).choices[0].text for _ in range(8)}
    assert len(texts) > 1  # it draws, with another seed each time
    whole = lm.generate("The cat", max_new_tokens=8).text
    found = client.completions.create(
        prompt="The cat", max_tokens=8, stop=["never", whole[2:4]], **GREEDY
    )
    assert found.choices[0].text == whole.split(whole[2:4])[0]
    assert found.choices[0].finish_reason == "stop"


def test_chat(client: Any, lm: deal.Model) -> None:
    expected = lm.chat(CHAT, max_new_tokens=6)
    parts = [{"type": "text", "text": "The cat"}, {"type": "text", "text": " sat"}]
    for content in ("The cat sat", parts):
        found = client.chat.completions.create(
            messages=[{"role": "user", "content": content}],
            max_completion_tokens=6,
            **GREEDY,
        )
        (choice,) = found.choices
        assert choice.message.content == expected.text
        assert choice.finish_reason == expected.finish_reason
        assert found.usage.total_tokens == expected.stats.n_prompt_tokens + 6
    system = [{"role": "system", "content": "Be kind."}, *CHAT]
    developer = [{"role": "developer", "content": "Be kind."}, *CHAT]
    asked = {"max_tokens": 6, **GREEDY}
    found = client.chat.completions.create(messages=developer, **asked)
    expected = lm.chat(system, max_new_tokens=6)
    assert found.choices[0].message.content == expected.text


def test_streams(client: Any, served: Served, lm: deal.Model) -> None:
    asked: dict[str, Any] = {"stream": True, "max_tokens": 9, **GREEDY}
    expected = lm.generate(["The cat", "hello"], max_new_tokens=9)
    texts = ["The cat", "hello"]
    for chunk in client.completions.create(prompt=texts, echo=True, **asked):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
    whole = [
        2 * p + r.text for p, r in zip(["The cat", "hello"], expected, strict=True)
    ]
    assert texts == whole
    chunks = list(
        client.chat.completions.create(
            messages=CHAT, stream_options={"include_usage": True}, **asked
        )
    )
    r = lm.chat(CHAT, max_new_tokens=9)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [c.choices[0].delta.content for c in chunks[1:-2]]
    assert "".join(pieces) == r.text and len(pieces) > 3
    assert chunks[-2].choices[0].finish_reason == r.finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(r.token_ids)
    assert len({c.id for c in chunks}) == 1
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    body = {"messages": CHAT, **asked}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])


# --- deal's own fields ---------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        WORDS,
        [{"type": "keywords", "concepts": ["cat", "tree"]}, "0.5 * Length(max=3)"],
    ],
)
def test_rewards(spec: Any, client: Any, lm: deal.Model) -> None:
    reward = Keywords(["cat", "tree"]) + 0.5 * Length(max=3)
    search = deal.Search(**SEARCH)
    r = lm.chat(CHAT, rewards=reward, search=search, max_new_tokens=8)
    asked = {"messages": CHAT, "max_tokens": 8, "model": NAME}
    own = {"rewards": spec, "search": SEARCH}
    (choice,) = client.chat.completions.create(**asked, extra_body=own).choices
    assert choice.message.content == r.text
    assert r.text != lm.chat(CHAT, max_new_tokens=8).text
    about = choice.model_extra["deal"]
    assert about["reward"] == r.reward and about["rewards"] == r.rewards
    assert about["score"] == r.score and about["logprob"] == r.logprob
    assert about["stats"]["n_rollouts"] == r.stats.n_rollouts
    *chunks, last = client.chat.completions.create(**asked, stream=True, extra_body=own)
    assert "".join(c.choices[0].delta.content for c in chunks) == r.text
    assert last.choices[0].model_extra["deal"]["reward"] == r.reward


def test_named_rewards(client: Any, lm: deal.Model) -> None:
    reward = 2 * Keywords(["cat"]) - Length(max=3)
    r = lm.generate("The", rewards=reward, max_new_tokens=8)
    row = {"type": "cats", "weight": 2}
    for spec in ("2 * cats - Length(max=3)", [row, "-1 * Length(max=3)"]):
        found = client.completions.create(
            model=NAME, prompt="The", max_tokens=8, extra_body={"rewards": spec}
        )
        assert found.choices[0].text == r.text
        assert found.choices[0].model_extra["deal"]["reward"] == r.reward


def test_beams_and_segments(client: Any, lm: deal.Model) -> None:
    expected = lm.generate(
        "The cat", num_beams=3, num_return_sequences=2, max_new_tokens=6
    )
    asked = {"model": NAME, "prompt": "The cat", "max_tokens": 6}
    found = client.completions.create(**asked, n=2, extra_body={"num_beams": 3})
    assert [c.text for c in found.choices] == [r.text for r in expected]
    search = {"mode": "segment", "top_k": 4, "lookahead": 3}
    r = lm.generate(
        "The cat",
        rewards=Length(max=1),
        search=deal.Search(mode="segment", top_k=4, lookahead=3),
        sampling=deal.Sampling(0.9, seed=4),
        max_new_tokens=6,
    )
    own = {"rewards": "Length(max=1)", "search": search}
    found = client.completions.create(**asked, temperature=0.9, seed=4, extra_body=own)
    assert found.choices[0].text == r.text


def test_constraints(client: Any, lm: deal.Model) -> None:
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    asked = {"max_tokens": 20, **GREEDY}
    form = r"(cat|sun) [a-c]{3,8}"
    r = lm.generate("The", constraint=Regex(form), max_new_tokens=20)
    for constraint in ({"regex": form}, {"grammar": f"start: /{form}/"}):
        own = {"constraint": constraint}
        found = client.completions.create(prompt="The", **asked, extra_body=own)
        assert found.choices[0].text == r.text and r.text[3] == " "
    schema = {"enum": ["a", "bc"]}
    r = lm.chat(CHAT, constraint=JsonSchema(schema), max_new_tokens=20)
    found = client.chat.completions.create(
        messages=CHAT,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema, "strict": True},
        },
        **asked,
    )
    assert found.choices[0].message.content == r.text
    assert json.loads(r.text) in schema["enum"]


# --- log-probs -----------------------------------------------------------------------


def expected_rows(lm: deal.Model, ids: list[int]) -> list[np.ndarray]:
    return [log_softmax(row) for row in lm.logits(ids)]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
@pytest.mark.parametrize("size", [1, scores._SIZE_MAX])
def test_echo_with_logprobs(
    max_tokens: int,
    size: int,
    client: Any,
    lm: deal.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scores, "_SIZE_MAX", size)
    prompt = "The cat ünï sat"
    ids = lm.tokenizer.encode(prompt)
    r = lm.generate(ids, max_new_tokens=max(1, max_tokens))
    every = ids + list(r.token_ids[:max_tokens])
    found = client.completions.create(
        prompt=ids, echo=True, logprobs=3, max_tokens=max_tokens, **GREEDY
    )
    (choice,) = found.choices
    table = choice.logprobs
    assert choice.text == prompt + (r.text if max_tokens else "")
    assert len(table.tokens) == len(every) == len(table.text_offset)
    assert table.token_logprobs[0] is None and table.top_logprobs[0] is None
    rows = expected_rows(lm, every[:-1])
    for i, row in enumerate(rows, 1):
        assert table.token_logprobs[i] == pytest.approx(row[every[i]], abs=NEAR)
        best = max(table.top_logprobs[i].values())
        assert best == pytest.approx(row.max(), abs=NEAR)
        assert 1 <= len(table.top_logprobs[i]) <= 4
    plain = [t for t in table.tokens if not t.startswith("bytes:")]
    assert len(plain) < len(table.tokens)  # "ü" is two tokens here
    for token, offset in zip(table.tokens, table.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset:].startswith(token)


def test_logprobs_of_new_tokens(client: Any, lm: deal.Model) -> None:
    r = lm.chat(CHAT, max_new_tokens=5)
    found = client.chat.completions.create(
        messages=CHAT, logprobs=True, top_logprobs=2, max_tokens=5, **GREEDY
    )
    content = found.choices[0].logprobs.content
    assert len(content) == len(r.token_ids)
    assert sum(c.logprob for c in content) == pytest.approx(r.logprob, abs=5 * NEAR)
    assert all(c.top_logprobs[0].logprob == c.logprob for c in content)  # greedy
    assert b"".join(bytes(c.bytes) for c in content).decode() == r.text
    found = client.completions.create(
        prompt="The cat", logprobs=0, max_tokens=5, **GREEDY
    )
    r = lm.generate("The cat", max_new_tokens=5)
    table = found.choices[0].logprobs
    assert sum(table.token_logprobs) == pytest.approx(r.logprob, abs=5 * NEAR)
    assert table.text_offset[0] == 0 and table.top_logprobs is None


def test_lm_eval(served: Served, lm: deal.Model) -> None:
    """The harness' client of such servers against its model type of this package."""
    for module in ("lm_eval", "tenacity", "aiohttp"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from deal.lm_eval import DealLM

    pairs = [("The cat", " sat on"), ("the sun", " at a tree"), ("hello", " there")]
    requests = [instance(*pair) for pair in pairs]
    own = DealLM(lm)
    greedy = ("The cat", own.generate_until([instance("The cat", _until(4))])[0])
    requests.append(instance(*greedy))
    expected = own.loglikelihood(requests, disable_tqdm=True)
    assert expected[-1][1] and not all(is_greedy for _, is_greedy in expected)
    texts = [instance(context, _until(8)) for context, _ in pairs]
    for options in ({}, {"batch_size": 3}, {"tokenized_requests": False}):
        there = LocalCompletionsAPI(
            base_url=f"{served.url}/completions",
            model=NAME,
            max_length=N_CTX,
            max_retries=1,
            **options,
        )
        assert there.tokenizer_backend == "remote"
        found = there.loglikelihood(requests, disable_tqdm=True)
        for one, other in zip(found, expected, strict=True):
            assert one[0] == pytest.approx(other[0], abs=10 * NEAR)
            assert one[1] == other[1]
        assert there.generate_until(texts) == own.generate_until(texts)


def _until(n: int) -> dict[str, Any]:
    return {"until": ["\n\n"], "max_gen_toks": n}


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
    ("num_return_sequences", {"n": 2}),
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


def test_a_full_queue_and_clients_that_leave(served: Served, client: Any) -> None:
    body = {"prompt": "The cat", "rewards": "gate", "max_tokens": 8}
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
    finally:
        GATE.is_open.set()
    wait_until(lambda: served.counts() == (0, 0))
    assert client.completions.create(prompt="a", **GREEDY).choices


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


# --- the command ---------------------------------------------------------------------


def test_command_and_ctrl_c(tmp_path: Path) -> None:
    write_gguf(make_tiny(TinyConfig()), tmp_path / "tiny.gguf")
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def slow(completions, **kwargs):\n"
        "    time.sleep(0.05)\n"
        "    return [0.0] * len(completions)\n"
    )
    command = [sys.executable, "-m", "deal", "serve", str(tmp_path / "tiny.gguf")]
    command += ["--port", "0", "--reward", f"slow={tmp_path / 'mine.py'}:slow"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log: list[str] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            log.append(line)
            if "running on" in line:
                break
        port = int("".join(log).rpartition("http://127.0.0.1:")[2].split()[0])
        one = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"prompt": "The", "rewards": "slow", "max_tokens": 500}
        one.request("POST", "/v1/completions", json.dumps(body))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        answer = one.getresponse()
        assert answer.status == 503 and b"ending" in answer.read()
        log += process.stderr.readlines()
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in "".join(log)


@pytest.mark.parametrize("reward", ["x", "1x=Length()", "Length=Length()", "x="])
def test_bad_names_of_rewards(reward: str, capfd: pytest.CaptureFixture[str]) -> None:
    from deal.cli import main

    assert main(["serve", "--reward", reward]) == 2
    assert "expected name=module:function" in capfd.readouterr().err
