"""Rewards that raise, lie, interrupt or call back; the model stays usable."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import (
    PROMPT,
    PROMPTS,
    SEARCH,
    WORDS,
    coverage,
    key,
    python_keywords,
)
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generate") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


# --- rewards that misbehave ----------------------------------------------------------


def steer(lm: deal.Model, function: Callable[..., Any], **kwargs: Any) -> Any:
    reward = deal.reward(range=(0, 1))(function)
    return lm.generate(
        PROMPT, rewards=reward, search=SEARCH, max_new_tokens=8, **kwargs
    )


def still_works(lm: deal.Model) -> bool:
    r = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH, max_new_tokens=8)
    return r.score == pytest.approx(r.logprob + 3.0 * r.reward)


class Broken(Exception):
    pass


@pytest.mark.parametrize("i_call", [1, 2, 5])
def test_reward_that_raises(lm: deal.Model, i_call: int) -> None:
    n_calls = 0

    def raising(
        completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
        nonlocal n_calls
        n_calls += 1
        if n_calls == i_call:
            raise Broken("from inside the reward")
        return [len(text) % 7 / 7 for text in completions]

    with pytest.raises(Broken, match="from inside the reward") as caught:
        steer(lm, raising)
    names = [entry.name for entry in caught.traceback]
    assert "raising" in names, names
    assert still_works(lm)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda n: [math.nan] * n, "nan"),
        (lambda n: [math.inf] * n, "inf"),
        (lambda n: [0.5] * (n - 1) + [math.nan], "nan"),
        (lambda n: [0.5] * (n + 1), r"\d"),
        (lambda n: [], r"\d"),
        (lambda n: 0.5, "float|0.5"),
        (lambda n: None, "None"),
        (lambda n: ["good"] * n, "good|str"),
        (lambda n: [None] * n, "None"),
        (lambda n: [0.5] * (n - 1) + [1.5], "1.5"),
        (lambda n: [-0.25] * n, "-0.25"),
    ],
)
def test_reward_that_breaks_its_contract(
    lm: deal.Model, value: Callable[[int], Any], message: str
) -> None:
    def careless(completions: list[str], prompts: list[str], **kwargs: Any) -> Any:
        return value(len(completions))

    with pytest.raises((deal.RewardError, TypeError), match=message) as caught:
        steer(lm, careless)
    assert "careless" in str(caught.value)
    assert still_works(lm)


def test_reward_that_returns_numpy(lm: deal.Model) -> None:
    def as_array(completions: list[str], prompts: list[str], **kwargs: Any) -> Any:
        return np.array(coverage(completions, WORDS), np.float64)

    r = steer(lm, as_array)
    expected = lm.generate(
        PROMPT, rewards=python_keywords, search=SEARCH, max_new_tokens=8
    )
    assert r.token_ids == expected.token_ids


def test_reward_sees_the_prompt_and_its_columns(lm: deal.Model) -> None:
    seen = []

    def curious(
        completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
        assert len(prompts) == len(completions)
        assert all(type(text) is str for text in completions)
        for name, values in kwargs.items():
            seen.append(
                (prompts[0], name, values[0] if isinstance(values, list) else values)
            )
        return [0.0] * len(completions)

    reward = deal.reward(range=(0, 1))(curious)
    lm.generate(
        PROMPTS[:2],
        rewards=reward,
        search=SEARCH,
        max_new_tokens=3,
        reward_kwargs={"concepts": ["first", "second"]},
    )
    concepts = {(prompt, v) for prompt, name, v in seen if name == "concepts"}
    assert concepts == {(PROMPTS[0], "first"), (PROMPTS[1], "second")}
    with pytest.raises(ValueError, match="concepts"):
        lm.generate(
            PROMPTS[:2],
            rewards=reward,
            search=SEARCH,
            reward_kwargs={"concepts": ["one"]},
        )


def test_per_text_reward(lm: deal.Model) -> None:
    @deal.reward(per_text=True, range=(0, 1))
    def one(text: str) -> float:
        return coverage([text], WORDS)[0]

    r = lm.generate(PROMPT, rewards=one, search=SEARCH)
    expected = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH)
    assert r.token_ids == expected.token_ids


def test_plain_function_as_reward(lm: deal.Model) -> None:
    def plain(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        return coverage(completions, WORDS)

    r = lm.generate(PROMPT, rewards=plain, search=SEARCH)
    expected = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH)
    assert r.token_ids == expected.token_ids and list(r.rewards) == ["plain"]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_from_a_reward(lm: deal.Model) -> None:
    n_calls = 0

    def pressed(
        completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            signal.raise_signal(signal.SIGINT)
        return [0.0] * len(completions)

    with pytest.raises(KeyboardInterrupt):
        steer(lm, pressed)
    assert n_calls == 2
    assert still_works(lm)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("call", ["generate", "logprob"])
def test_ctrl_c_in_a_long_prompt(call: str, smollm2_path: Path) -> None:
    """Nor does it wait for all of a prompt or of many completions."""
    lm = deal.load(smollm2_path)
    expected = lm.generate("A cat", max_new_tokens=4).text
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            if call == "generate":
                lm.generate("cat " * 8000, max_new_tokens=1)
            else:
                lm.logprob("A cat", [f" {i}" + " cat" * 100 for i in range(400)])
        n_seconds = time.monotonic() - start
    finally:
        timer.cancel()
    assert n_seconds < 10  # the whole of it takes a minute or more
    assert lm.generate("A cat", max_new_tokens=4).text == expected


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_without_python_code(path: Path) -> None:
    """A signal stops a request that runs wholly in C, within a step."""
    lm = deal.load(path, compute="f32", threads=1)
    settings = {"max_new_tokens": 200, "num_return_sequences": 64}
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            while True:  # one request may be over before the signal comes
                lm.generate(PROMPT, sampling=deal.Sampling(seed=1), **settings)
    finally:
        timer.cancel()
    assert still_works(lm)


def test_reward_that_uses_the_model(lm: deal.Model) -> None:
    """Re-entry works: every running request has a session of its own."""

    def asking(
        completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
        answer = lm.generate(PROMPTS[1], max_new_tokens=3)
        assert lm.logits(PROMPTS[2]).shape[1] == lm.hparams.n_vocab
        return [float(answer.text != text) / 2 for text in completions]

    r = steer(lm, asking)
    assert r.reward == 0.5
    assert still_works(lm)


def test_threads_share_a_model(lm: deal.Model) -> None:
    expected = [
        key(lm.generate(p, rewards=python_keywords, search=SEARCH)) for p in PROMPTS
    ]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        prompt = PROMPTS[i % 3]
        try:
            found[i] = [
                key(lm.generate(prompt, rewards=python_keywords, search=SEARCH))
                for _ in range(3)
            ]
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert found[i] == [expected[i % 3]] * 3
