"""The OpenAI-compatible server, asked by OpenAI's own client, over a tiny model."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
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
from served import (
    CHAT,
    GREEDY,
    NAME,
    SEARCH,
    WORDS,
    Served,
    counts,
    wait_until,
    with_rewards,
)

from deal.serve import scores

NEAR = 1e-4  # nats a token


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


LM_EVAL: list[dict[str, Any]] = [
    {},
    {"batch_size": 3},
    {"tokenized_requests": False},
    {"num_concurrent": 2},
]


@pytest.mark.parametrize("options", LM_EVAL)
def test_lm_eval(options: dict[str, Any], served: Served, lm: deal.Model) -> None:
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
    for settings in (_until(8), _until(8) | {"rewards": '40 * Keywords(["cat"])'}):
        texts = [instance(context, settings) for context, _ in pairs]
        assert there.generate_until(texts) == own.generate_until(texts)


def _until(n: int) -> dict[str, Any]:
    return {"until": ["\n\n"], "max_gen_toks": n}


def test_the_document(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs/serve.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    block = block.replace("smollm2-135m-instruct", NAME)
    exec(block.replace("http://127.0.0.1:8000/v1", served.url), {})
    assert re.search(
        r"\{'keywords': [\d.]+, 'length': [\d.]+\}", capsys.readouterr().out
    )


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
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # NB: a shell's background jobs ignore SIGINT, and so would the server.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
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
        wait_until(lambda: counts(port) == (1, 0))
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
