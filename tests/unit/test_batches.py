"""Several prompts at a time: each result is that of the prompt alone, to the bit."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import SEARCH, WORDS, coverage, key
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _batches, _core
from deal.controls import AddResidual
from deal.rewards import Keywords, Length, RewardModel

PROMPTS = [
    "the cat sat on a couch and",
    "the cat sat on a river",
    "she said that he would",
    "little red house",
    "the cat",
    "the cat sat on a couch and",  # again
    "window",
]
EXACT = deal.Search(top_k=4, lookahead=5, reward_weight=3.0)
REWARDS = Keywords(WORDS) + 0.5 * Length("words", max=6)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"sampling": deal.Sampling(temperature=1.0, top_p=0.9, seed=5)},
    "several": {
        "sampling": deal.Sampling(temperature=1.0, seed=6),
        "num_return_sequences": 3,
    },
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "naive": {"rewards": REWARDS, "search": SEARCH},
    "exact": {"rewards": REWARDS, "search": EXACT},
    "exact beams": {
        "rewards": REWARDS,
        "search": deal.Search(top_k=4, lookahead=5, reward_weight=3.0, num_beams=3),
    },
    "segment": {
        "rewards": REWARDS,
        "search": deal.Search(mode="segment", lookahead=4, num_beams=2),
    },
    "head": {
        "rewards": RewardModel(np.linspace(-1, 1, 64), layers=(0,), pooling="mean"),
        "search": EXACT,
    },
    "stops": {"rewards": REWARDS, "search": EXACT, "stop": ["the", "a"]},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("batches")
    paths = [folder / f"tiny-{seed}.gguf" for seed in range(2)]
    for seed, path in enumerate(paths):
        write_gguf(make_tiny(TinyConfig(seed=seed)), path)
    return paths


@pytest.fixture(scope="module", params=["f32", "int8"])
def lm(paths: list[Path], request: pytest.FixtureRequest) -> deal.Model:
    return deal.load(paths[0], compute=request.param, threads=2)


def keys(results: list[Any]) -> list[Any]:
    """But for bounds and order in a trace, which in mode "exact" go by the clock."""

    def of(r: deal.Generation) -> tuple[Any, ...]:
        chosen = [
            {(c.token_id, c.logprob) for c in decision.candidates if c.is_chosen}
            for decision in r.trace
        ]
        return *key(r)[:-1], chosen

    return [
        [of(r) for r in row] if isinstance(row, list) else of(row) for row in results
    ]


def alone(lm: deal.Model, **options: Any) -> list[Any]:
    return keys([lm.generate(prompt, **options) for prompt in PROMPTS])


@pytest.mark.parametrize("mode", MODES)
def test_same_as_alone(lm: deal.Model, mode: str) -> None:
    options = {"max_new_tokens": 9, **MODES[mode]}
    expected = alone(lm, **options)
    for size in (1, 2, 3, 64, "auto"):
        assert keys(lm.generate(PROMPTS, batch_size=size, **options)) == expected


def test_what_prompts_share_is_evaluated_once(lm: deal.Model) -> None:
    prompts = [PROMPTS[0] + " " + word for word in WORDS]
    counts = []
    for size in (1, len(prompts)):
        before = lm.n_forward_tokens
        found = lm.generate(prompts, batch_size=size, max_new_tokens=3, eos_token_id=[])
        counts.append(lm.n_forward_tokens - before)
        assert sum(r.stats.n_forward_tokens for r in found) == counts[-1]
    n_shared = len(lm.tokenizer.encode(PROMPTS[0])) - 1
    assert counts[0] - counts[1] >= (len(prompts) - 1) * n_shared


def test_with_another_rollout_model(paths: list[Path]) -> None:
    lm, other = (deal.load(path, compute="f32", threads=1) for path in paths)
    search = deal.Search(
        top_k=4, lookahead=5, reward_weight=3.0, rollout_model=other, num_beams=2
    )
    options = {"rewards": REWARDS, "search": search, "max_new_tokens": 8}
    assert keys(lm.generate(PROMPTS, batch_size=4, **options)) == alone(lm, **options)


def test_under_controls(lm: deal.Model) -> None:
    plain = alone(lm, max_new_tokens=6)
    vector = np.linspace(-2.0, 2.0, lm.hparams.n_embd).astype(np.float32)
    with lm.controls([AddResidual(1, vector, where="completion")]):
        expected = alone(lm, max_new_tokens=6)
        assert keys(lm.generate(PROMPTS, batch_size=3, max_new_tokens=6)) == expected
    assert expected != plain


def test_under_constraints(lm: deal.Model) -> None:
    pytest.importorskip("llguidance", reason="needs the extra constraints")
    form = deal.rewards.Regex("[a-z ]{3,20}")
    options = {"constraint": form, "max_new_tokens": 8, **MODES["exact"]}
    assert keys(lm.generate(PROMPTS, batch_size=3, **options)) == alone(lm, **options)


def test_chats(lm: deal.Model) -> None:
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    try:
        expected = keys([lm.chat(chat, max_new_tokens=5) for chat in chats])
        assert keys(lm.chat(chats, max_new_tokens=5, batch_size=3)) == expected
    finally:
        lm.tokenizer.chat_template = None


# --- rewards in Python ---------------------------------------------------------------


def python_reward(threads: set[int]) -> deal.rewards.Reward:
    @deal.reward(range=(0, 1))
    def cover(completions: list[str], tag: list[str]) -> list[float]:
        threads.add(threading.get_ident())
        assert set(tag) <= set("abcdefg")
        return coverage(completions, WORDS)

    return cover


def test_python_rewards_stay_on_their_thread(lm: deal.Model) -> None:
    """Unless a batch is asked for: then they are as right, on several."""
    threads: set[int] = set()
    options = {
        "rewards": python_reward(threads),
        "search": EXACT,
        "max_new_tokens": 6,
        "reward_kwargs": {"tag": list("abcdefg")},
    }
    expected = keys(lm.generate(PROMPTS, **options))
    assert threads == {threading.get_ident()}
    assert keys(lm.generate(PROMPTS, batch_size=3, **options)) == expected
    assert len(threads) > 1


def test_one_that_raises_ends_all(lm: deal.Model) -> None:
    def bad(completions: list[str], tag: list[str]) -> list[float]:
        if "c" in tag:
            raise LookupError("no such tag")
        return [0.0] * len(completions)

    options = {
        "rewards": bad,
        "max_new_tokens": 6,
        "reward_kwargs": {"tag": list("abcdefg")},
    }
    for size in (2, 7):
        with pytest.raises(LookupError, match="no such tag"):
            lm.generate(PROMPTS, batch_size=size, **options)
        assert keys(lm.generate(PROMPTS, max_new_tokens=3)) == alone(
            lm, max_new_tokens=3
        )


def test_ctrl_c_ends_all(lm: deal.Model) -> None:
    is_sent = threading.Event()

    def interrupting(completions: list[str]) -> list[float]:
        if not is_sent.is_set():
            is_sent.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return [0.0] * len(completions)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    n_threads = threading.active_count()
    try:
        with pytest.raises(KeyboardInterrupt):
            lm.generate(
                PROMPTS * 20, batch_size=3, rewards=interrupting, max_new_tokens=50
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert threading.active_count() == n_threads
    assert keys(lm.generate(PROMPTS, max_new_tokens=3)) == alone(lm, max_new_tokens=3)


def test_ctrl_c_again_does_not_wait(lm: deal.Model) -> None:
    """The session of what takes its time is nobody's until that has ended."""
    is_begun, is_over = threading.Event(), threading.Event()

    def slow(completions: list[str]) -> list[float]:
        is_begun.set()
        assert is_over.wait(30)
        return [0.0] * len(completions)

    def interrupt() -> None:
        is_begun.wait(30)
        for _ in range(2):
            time.sleep(0.3)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    expected = alone(lm, max_new_tokens=3)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    n_threads = threading.active_count()
    helper = threading.Thread(target=interrupt)
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            lm.generate(PROMPTS, batch_size=3, rewards=slow, max_new_tokens=5)
    finally:
        signal.signal(signal.SIGINT, before)
        helper.join()
    try:
        assert keys(lm.generate(PROMPTS, max_new_tokens=3)) == expected
    finally:
        is_over.set()
    for _ in range(300):
        if threading.active_count() == n_threads:
            break
        time.sleep(0.1)
    assert threading.active_count() == n_threads
    assert keys(lm.generate(PROMPTS, max_new_tokens=3)) == expected
    with lm._session() as first, lm._session() as second:  # both are free again
        for session in (first, second):
            assert session.logits([1]).shape == (1, lm.hparams.n_vocab)


# --- limits --------------------------------------------------------------------------


def test_what_does_not_fit_together_is_run_alone(paths: list[Path]) -> None:
    free = deal.load(paths[0], compute="f32", threads=1)
    long = [prompt + " and the cat sat on a couch" * 8 for prompt in PROMPTS]
    options: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": []}
    expected = keys([free.generate(prompt, **options) for prompt in long])
    need = free.kv_size
    lm = deal.load(paths[0], compute="f32", threads=1, kv_budget=2 * need)
    assert keys(lm.generate(long, batch_size=7, **options)) == expected
    assert keys(lm.generate(long, **options)) == expected
    small = lm._core.kv_page_size(0)
    lm = deal.load(paths[0], compute="f32", threads=1, kv_budget=small)
    with pytest.raises(deal.KVBudgetError):
        lm.generate([PROMPTS[0], PROMPTS[0] * 20], batch_size=2, **options)


def test_how_many_at_a_time(paths: list[Path]) -> None:
    lm = deal.load(paths[0], compute="f32")

    def size_of(n_token: int = 10, **given: Any) -> int:
        options = lm._options(deal.model.GENERATE_DEFAULTS | given)
        request = _batches.Request(([0] * n_token, ""), options, {})
        return _batches.batch_size_of(lm, [request])

    assert size_of() == 32
    assert size_of(num_beams=4) == 8
    assert size_of(**MODES["exact"]) == 16
    assert size_of(rewards=lambda completions: [0.0], search=EXACT) == 1
    cell = lm.hparams.n_layer * 2 * lm.hparams.n_head_kv * lm.hparams.head_dim * 4
    lm.kv_budget = 3 * (10 + 64) * (cell + 4 * lm.hparams.n_embd)
    assert size_of() == 3
    assert size_of(500) == 1


@pytest.mark.parametrize(
    "size, error",
    [(0, ValueError), (-2, ValueError), (1.5, TypeError), ("x", TypeError)],
)
def test_bad_sizes(lm: deal.Model, size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="batch_size"):
        lm.generate(PROMPTS, batch_size=size)


def test_progress(lm: deal.Model, capsys: pytest.CaptureFixture[str]) -> None:
    lm.generate(PROMPTS, max_new_tokens=2, progress=True)
    assert f"{len(PROMPTS)}/{len(PROMPTS)}" in capsys.readouterr().err


def test_the_core_refuses_misuse(lm: deal.Model) -> None:
    with lm._session() as session:
        batch = _core.Batch(session)
        with pytest.raises(RuntimeError, match="in use"):
            _core.Batch(session)
        with pytest.raises(RuntimeError, match="in use"):
            session.logits([1, 2])
        member = batch.join()
        with pytest.raises(RuntimeError, match="expected no more searches, got 1"):
            batch.close()
        del member
        batch.close()
        with pytest.raises(ValueError, match="closed"):
            batch.join()
        assert session.logits([1, 2]).shape == (2, lm.hparams.n_vocab)
        with pytest.raises(TypeError, match="rollout_session"):
            _core.Batch(session, 3)  # type: ignore[arg-type]
