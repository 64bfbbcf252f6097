"""What `Model.generate` and its kin promise, on a tiny random model that writes words."""

from __future__ import annotations

import math
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import TinyConfig, make_tiny, vocabulary, write_gguf

import deal

PROMPT = "the cat sat on a couch and"
PROMPTS = [PROMPT, "she said that he would", "little red house"]
SEARCH = deal.Search(top_k=4, lookahead=5, reward_weight=3.0)
WORDS = ["dog", "river", "happy", "sun", "window"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generate") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


def coverage(texts: list[str], words: list[str]) -> list[float]:
    """Python's copy of the native Keywords reward."""
    return [
        sum(re.search(rf"\b{word}\b", text.lower()) is not None for word in words)
        / len(words)
        for text in texts
    ]


@deal.reward(range=(0, 1))
def python_keywords(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
    return coverage(completions, WORDS)


def key(r: deal.Generation) -> tuple[Any, ...]:
    """Everything of a result but its times."""
    return r.text, r.token_ids, r.logprob, r.reward, r.score, r.finish_reason, r.trace


# --- decoding ------------------------------------------------------------------------


def test_greedy_is_the_default(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, max_new_tokens=20, eos_token_id=[])
    assert len(r.token_ids) == 20 and r.finish_reason == "length"
    assert r.text == lm.tokenizer.decode(list(r.token_ids))
    assert r.reward == 0 and r.rewards == {} and r.trace == ()
    assert r.score == pytest.approx(r.logprob) and r.logprob < 0
    assert str(r) == r.text
    ids = lm.tokenizer.encode(PROMPT)
    for token in r.token_ids:
        assert token == lm.logits(ids)[-1].argmax()
        ids.append(token)


def test_ids_as_prompt(lm: deal.Model) -> None:
    ids = lm.tokenizer.encode(PROMPT)
    expected = key(lm.generate(PROMPT))
    assert key(lm.generate(ids)) == expected
    assert key(lm.generate(tuple(ids))) == expected
    assert key(lm.generate(np.array(ids))) == expected


def test_temperature_zero_is_greedy(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, sampling=deal.Sampling(temperature=0.0))
    assert r.token_ids == lm.generate(PROMPT).token_ids
    r = lm.generate(PROMPT, sampling=deal.Sampling(top_k=1, seed=5))
    assert r.token_ids == lm.generate(PROMPT).token_ids


def test_same_seed_same_text(lm: deal.Model) -> None:
    def draw(seed: int, n: int = 1) -> Any:
        sampling = deal.Sampling(temperature=1.3, top_p=0.98, seed=seed)
        return lm.generate(
            PROMPT, sampling=sampling, num_return_sequences=n, max_new_tokens=24
        )

    assert key(draw(1)) == key(draw(1))
    assert len({draw(seed).text for seed in range(6)}) == 6
    several = draw(1, 4)
    assert len(several) == 4 and len({r.token_ids for r in several}) == 4
    assert [key(r) for r in several] == [key(r) for r in draw(1, 4)]
    assert key(several[0]) == key(draw(1)), "a stream depends on the number of streams"
    assert draw(2**64 - 1).text != draw(0).text


def test_sampled_frequencies(lm: deal.Model) -> None:
    """The first token is drawn from the softmax, within five standard errors."""
    n = 2000
    sampling = deal.Sampling(temperature=0.7, seed=3)
    rs = lm.generate(PROMPT, sampling=sampling, num_return_sequences=n, max_new_tokens=1)
    drawn = np.bincount([r.token_ids[0] for r in rs], minlength=lm.hparams.n_vocab) / n
    logits = lm.logits(PROMPT)[-1].astype(np.float64) / 0.7
    p = np.exp(logits - logits.max())
    p /= p.sum()
    assert (np.abs(drawn - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1 / n).all()


def test_sampling_filters(lm: deal.Model) -> None:
    logits = lm.logits(PROMPT)[-1].astype(np.float64)
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logits - logits.max())
    p /= p.sum()
    n_top_p = int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1
    n_min_p = int((p >= 0.2 * p.max()).sum())
    for settings, allowed in (
        ({"top_k": 3}, order[:3]),
        ({"top_p": 0.5}, order[:n_top_p]),
        ({"min_p": 0.2}, order[:n_min_p]),
        ({"top_k": 10**9}, order),
    ):
        sampling = deal.Sampling(seed=4, **settings)
        rs = lm.generate(
            PROMPT, sampling=sampling, num_return_sequences=400, max_new_tokens=1
        )
        drawn = {r.token_ids[0] for r in rs}
        assert drawn <= set(allowed.tolist()), settings
        if len(allowed) <= 4:
            assert len(drawn) == len(allowed), settings


def test_repetition_penalty(lm: deal.Model) -> None:
    plain = lm.generate(PROMPT, max_new_tokens=60, eos_token_id=[])
    sampling = deal.Sampling(temperature=0.0, repetition_penalty=1e6)
    r = lm.generate(PROMPT, sampling=sampling, max_new_tokens=60, eos_token_id=[])
    assert len(set(plain.token_ids)) < len(plain.token_ids)
    seen = [*lm.tokenizer.encode(PROMPT), *r.token_ids]
    n_prompt = len(seen) - len(r.token_ids)
    for i in range(n_prompt, len(seen)):
        logits = lm.logits(seen[:i])[-1].astype(np.float64)
        old = np.unique(seen[:i])
        logits[old] = np.where(logits[old] < 0, logits[old] * 1e6, logits[old] / 1e6)
        assert seen[i] == logits.argmax()


def test_end_tokens(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    end = free.token_ids[7]
    first = free.token_ids.index(end)
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=end)
    assert r.token_ids == free.token_ids[: first + 1] and r.finish_reason == "stop"
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[end, free.token_ids[1]])
    assert len(r.token_ids) == min(first, free.token_ids.index(free.token_ids[1])) + 1


def test_end_token_in_the_last_place(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    end = free.token_ids[4]
    n = free.token_ids.index(end) + 1
    r = lm.generate(PROMPT, max_new_tokens=n, eos_token_id=end)
    assert len(r.token_ids) == n and r.finish_reason == "stop"


def test_stop_strings(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    words = free.text.split()
    stop = words[4]
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop=stop)
    assert r.text == free.text[: free.text.index(stop)] and r.finish_reason == "stop"
    stops = ["never written", f"{words[2]} {words[3]}", stop]
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop=stops)
    at = min(free.text.index(s) for s in stops[1:])
    assert r.text == free.text[:at] and r.finish_reason == "stop"
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop="never written")
    assert r.text == free.text and r.finish_reason == "length"


def test_stop_string_inside_a_token(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    word = free.text.split()[3]
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop=word[1:3])
    assert r.text == free.text[: free.text.index(word[1:3])]


def test_lists(lm: deal.Model) -> None:
    single = [key(lm.generate(p, max_new_tokens=12)) for p in PROMPTS]
    assert [key(r) for r in lm.generate(PROMPTS, max_new_tokens=12)] == single
    ids = [lm.tokenizer.encode(p) for p in PROMPTS]
    assert [key(r) for r in lm.generate(ids, max_new_tokens=12)] == single
    assert [key(r) for r in lm.generate(PROMPTS[:1], max_new_tokens=12)] == single[:1]
    rs = lm.generate(PROMPTS, max_new_tokens=8, num_beams=3, num_return_sequences=3)
    assert [len(row) for row in rs] == [3, 3, 3]


def test_beams(lm: deal.Model) -> None:
    rs = lm.generate(PROMPT, num_beams=4, num_return_sequences=4, max_new_tokens=10)
    scores = [r.score for r in rs]
    assert scores == sorted(scores, reverse=True)
    assert len({r.token_ids for r in rs}) == 4
    for r in rs:
        assert r.score == pytest.approx(r.logprob / len(r.token_ids))
        ids = lm.tokenizer.encode(PROMPT)
        assert r.logprob == pytest.approx(lm.logprob(ids, list(r.token_ids)), abs=1e-4)
    one = lm.generate(PROMPT, num_beams=4, max_new_tokens=10)
    assert key(one) == key(rs[0])
    zero = lm.generate(PROMPT, num_beams=4, length_penalty=0.0, max_new_tokens=10)
    greedy = lm.generate(PROMPT, max_new_tokens=10)
    assert zero.score == pytest.approx(zero.logprob) and zero.logprob >= greedy.logprob


def test_wide_beam_finds_the_best_sequence(lm: deal.Model) -> None:
    """With every pair in reach the first result is the arg-max over all of them."""
    n_vocab = lm.hparams.n_vocab
    ids = lm.tokenizer.encode(PROMPT)
    r = lm.generate(
        PROMPT, num_beams=n_vocab, max_new_tokens=2, length_penalty=0.0, eos_token_id=[]
    )
    best = -math.inf, (0, 0)
    first = log_softmax(lm.logits(ids)[-1])
    for token in np.argsort(-first)[:60]:
        second = log_softmax(lm.logits([*ids, int(token)])[-1])
        total = first[token] + second.max()
        best = max(best, (total, (int(token), int(second.argmax()))))
    assert r.token_ids == best[1]
    assert r.logprob == pytest.approx(best[0], abs=1e-4)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


# --- determinism ---------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["f32", "int8"])
def test_thread_count_changes_nothing(path: Path, compute: str) -> None:
    results = []
    for threads in (1, 2, 3):
        lm = deal.load(path, compute=compute, threads=threads)
        results.append(
            [
                key(lm.generate(PROMPT)),
                key(lm.generate(PROMPT, sampling=deal.Sampling(seed=9))),
                [key(r) for r in lm.generate(PROMPTS, num_beams=3)],
                key(lm.generate(PROMPT, rewards=python_keywords, search=SEARCH)),
                lm.logits(PROMPT).tobytes(),
                lm.logprob(PROMPT, [" a river", " the dog ran"]),
            ]
        )
    assert results[0] == results[1] == results[2]


def test_earlier_requests_change_nothing(path: Path, lm: deal.Model) -> None:
    """A session is used again and again; its leftovers are no part of a result."""
    fresh = key(deal.load(path, compute="f32", threads=1).generate(PROMPT, num_beams=3))
    for prompt in PROMPTS:
        lm.generate(prompt, rewards=python_keywords, search=SEARCH, max_new_tokens=9)
        lm.generate(prompt, sampling=deal.Sampling(seed=1), num_return_sequences=5)
    assert key(lm.generate(PROMPT, num_beams=3)) == fresh


def test_logprob_is_batch_invariant(lm: deal.Model) -> None:
    texts = [" a river", " the dog ran", " a", ""]
    together = lm.logprob(PROMPT, texts)
    assert together == [lm.logprob(PROMPT, text) for text in texts]
    assert together[3] == 0
    assert lm.logprob(PROMPT, texts[::-1]) == together[::-1]


# --- streaming -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampling": deal.Sampling(temperature=2.5, seed=2)},  # many raw bytes
        {"sampling": deal.Sampling(temperature=2.5, seed=7)},
        {"num_beams": 3},
        {"rewards": python_keywords, "search": SEARCH},
        {"stop": " was"},
    ],
)
@pytest.mark.parametrize("vocab", ["byte", "spm"])
def test_stream(settings: dict[str, Any], vocab: str, tmp_path: Path) -> None:
    write_gguf(make_tiny(TinyConfig(seed=2, vocab=vocab)), tmp_path / "tiny.gguf")
    lm = deal.load(tmp_path / "tiny.gguf", compute="f32", threads=1)
    expected = lm.generate(PROMPT, max_new_tokens=40, **settings)
    stream = lm.stream(PROMPT, max_new_tokens=40, **settings)
    assert stream.generation is None
    pieces = list(stream)
    assert "".join(pieces) == expected.text
    assert key(stream.generation) == key(expected)
    assert all(pieces)
    if not settings:
        assert len(pieces) > 10


def test_stream_is_lazy_and_can_be_left(lm: deal.Model) -> None:
    expected = lm.generate(PROMPT, max_new_tokens=20).text
    stream = lm.stream(PROMPT, max_new_tokens=20)
    first = next(stream)
    assert expected.startswith(first) and first != expected
    inner = lm.generate(PROMPT, max_new_tokens=20)  # while the stream is open
    assert inner.text == expected
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert lm.generate(PROMPT, max_new_tokens=20).text == expected


def test_chat(lm: deal.Model) -> None:
    messages = [{"role": "user", "content": "the red house"}]
    prompt = lm.tokenizer.apply_chat_template(messages)
    assert prompt == "<|im_start|>user\nthe red house<|im_end|>\n<|im_start|>assistant\n"
    ids = lm.tokenizer.encode(prompt, add_special_tokens=False)
    assert ids[0] == 1 and ids.count(2) == 1
    r = lm.chat(messages, max_new_tokens=10)
    assert r.token_ids == lm.generate(ids, max_new_tokens=10).token_ids
    several = lm.chat([messages, messages], max_new_tokens=10)
    assert [key(x) for x in several] == [key(r), key(r)]
    assert "".join(lm.stream(messages, max_new_tokens=10)) == r.text


# --- DeAL ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "search",
    [
        SEARCH,
        deal.Search(top_k=3, lookahead=0, reward_weight=2.0),
        deal.Search(top_k=4, lookahead=6, reward_weight=4.0, num_beams=3),
        deal.Search(top_k=4, lookahead=6, reward_weight=4.0, commit=3),
        deal.Search(top_k=2, lookahead=30, reward_weight=-3.0, num_beams=2),
    ],
)
def test_native_keywords_decide_as_python_does(lm: deal.Model, search: deal.Search) -> None:
    for prompt in PROMPTS:
        python = lm.generate(
            prompt, rewards=python_keywords, search=search, max_new_tokens=20
        )
        native = lm.generate(
            prompt, rewards=deal.rewards.Keywords(WORDS), search=search, max_new_tokens=20
        )
        assert native.token_ids == python.token_ids and native.text == python.text
        assert native.score == pytest.approx(python.score, abs=1e-9)
        for a, b in zip(native.trace, python.trace, strict=True):
            assert len(a.candidates) == len(b.candidates)
            for x, y in zip(a.candidates, b.candidates, strict=True):
                assert (x.token_id, x.rollout, x.is_chosen) == (
                    y.token_id,
                    y.rollout,
                    y.is_chosen,
                )
                assert x.reward == pytest.approx(y.reward)


def test_reward_steers(lm: deal.Model) -> None:
    gained = 0.0
    for prompt in PROMPTS:
        plain = lm.generate(prompt, max_new_tokens=20)
        r = lm.generate(
            prompt,
            rewards=deal.rewards.Keywords(WORDS),
            search=deal.Search(top_k=10, lookahead=8, reward_weight=10.0),
            max_new_tokens=20,
        )
        assert r.reward == coverage([r.text], WORDS)[0]
        assert r.score == pytest.approx(r.logprob + 10.0 * r.reward)
        ids = lm.tokenizer.encode(prompt)
        assert r.logprob == pytest.approx(lm.logprob(ids, list(r.token_ids)), abs=1e-4)
        gained += r.reward - coverage([plain.text], WORDS)[0]
    assert gained > 1.0


@pytest.mark.parametrize("ends", [[], "river"])
def test_weight_zero_is_greedy(lm: deal.Model, ends: Any) -> None:
    if ends == "river":
        ends = [vocabulary("byte").pieces.index("\u0120river")]
    for prompt in PROMPTS:
        plain = lm.generate(prompt, max_new_tokens=25, eos_token_id=ends)
        for commit in (1, 4):
            search = deal.Search(top_k=3, lookahead=4, reward_weight=0.0, commit=commit)
            r = lm.generate(
                prompt,
                rewards=python_keywords,
                search=search,
                max_new_tokens=25,
                eos_token_id=ends,
            )
            assert r.token_ids == plain.token_ids and r.text == plain.text
            assert r.logprob == plain.logprob
            assert r.finish_reason == plain.finish_reason


def test_weight_zero_is_beam_search(lm: deal.Model) -> None:
    for prompt in PROMPTS:
        beams = lm.generate(
            prompt,
            num_beams=3,
            num_return_sequences=3,
            length_penalty=0.0,
            max_new_tokens=12,
            eos_token_id=[],
        )
        deals = lm.generate(
            prompt,
            rewards=python_keywords,
            search=deal.Search(top_k=6, lookahead=3, reward_weight=0.0, num_beams=3),
            num_return_sequences=3,
            max_new_tokens=12,
            eos_token_id=[],
        )
        assert [r.token_ids for r in deals] == [r.token_ids for r in beams]
        assert [r.score for r in deals] == pytest.approx([r.score for r in beams])


def test_constant_reward_is_greedy(lm: deal.Model) -> None:
    @deal.reward(range=(0, 7))
    def constant(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        return [7.0] * len(completions)

    r = lm.generate(PROMPT, rewards=constant, search=SEARCH)
    plain = lm.generate(PROMPT)
    assert r.token_ids == plain.token_ids
    assert r.score == pytest.approx(plain.logprob + 3.0 * 7.0)


def test_order_of_rewards_does_not_matter(lm: deal.Model) -> None:
    keywords = deal.rewards.Keywords(WORDS)
    length = deal.rewards.Length(min=5, max=8, unit="words")
    a = lm.generate(PROMPT, rewards=keywords + 0.5 * length, search=SEARCH)
    b = lm.generate(PROMPT, rewards=0.5 * length + keywords, search=SEARCH)
    assert a.token_ids == b.token_ids and a.score == pytest.approx(b.score)
    assert a.rewards == b.rewards and set(a.rewards) == set(b.rewards)
    assert a.reward == pytest.approx(sum(w * v for w, v in zip(
        [1.0, 0.5], a.rewards.values(), strict=True)))  # fmt: skip


@pytest.mark.parametrize(
    "search",
    [
        SEARCH,
        deal.Search(top_k=5, lookahead=0, reward_weight=2.0, num_beams=2),
        deal.Search(top_k=3, lookahead=7, reward_weight=5.0, num_beams=3),
        deal.Search(top_k=3, lookahead=7, reward_weight=5.0, commit=8),
    ],
)
def test_trace(lm: deal.Model, search: deal.Search) -> None:
    """Every recorded score can be computed again, and the best were chosen."""
    end = vocabulary("byte").pieces.index("\u0120red")
    reward = deal.rewards.Keywords(WORDS) + 0.5 * python_keywords
    n_new = 14
    r = lm.generate(
        PROMPT, rewards=reward, search=search, max_new_tokens=n_new, eos_token_id=end
    )
    assert [d.step for d in r.trace] == list(range(len(r.trace)))
    assert len(r.trace) == r.stats.n_steps
    for decision in r.trace:
        candidates = decision.candidates
        scores = [c.score for c in candidates]
        assert scores == sorted(scores, reverse=True)
        beams = [c.beam for c in candidates]
        for beam in set(beams):
            assert beams.count(beam) == search.top_k
        assert len(set(beams)) <= search.num_beams
        assert 1 <= sum(c.is_chosen for c in candidates)
        assert candidates[0].is_chosen
        if search.num_beams == 1:
            assert [c.is_chosen for c in candidates] == [True] + [False] * (len(scores) - 1)
        for c in candidates:
            assert c.score == pytest.approx(c.logprob + search.reward_weight * c.reward)
            first, second = c.rewards.values()
            assert first == pytest.approx(second)
            assert c.reward == pytest.approx(1.5 * first)
            assert len(c.rollout) <= search.lookahead
            if end in (c.token_id, *c.rollout):
                assert c.is_finished
                assert end == (c.token_id, *c.rollout)[-1]
            elif not c.is_finished and search.num_beams == 1 and search.commit == 1:
                left = n_new - decision.step - 1
                assert len(c.rollout) == min(search.lookahead, left)
    if search.num_beams == 1:
        check_single_beam(lm, r, search, end)


def check_single_beam(
    lm: deal.Model, r: deal.Generation, search: deal.Search, end: int
) -> None:
    """Candidates are the model's best tokens; rollouts are its greedy continuation."""
    ids = lm.tokenizer.encode(PROMPT)
    n_prompt = len(ids)
    done: list[int] = []
    for decision in r.trace:
        prefix = [*ids, *done]
        logprob = log_softmax(lm.logits(prefix)[-1])
        best = np.argsort(-logprob, kind="stable")[: search.top_k]
        assert {c.token_id for c in decision.candidates} == set(best.tolist())
        before = lm.logprob(ids, done) if done else 0.0
        for c in decision.candidates:
            assert c.logprob == pytest.approx(before + logprob[c.token_id], abs=1e-4)
            text = lm.tokenizer.decode([*ids, *done, c.token_id, *c.rollout])
            text = text[len(lm.tokenizer.decode(ids)) :]
            assert c.reward == pytest.approx(1.5 * coverage([text], WORDS)[0])
            if c.rollout and end != c.token_id:
                limit = len(c.rollout)
                greedy = lm.generate(
                    [*prefix, c.token_id], max_new_tokens=limit, eos_token_id=end
                )
                assert greedy.token_ids == c.rollout
        chosen = decision.candidates[0]
        taken = [chosen.token_id, *chosen.rollout][: search.commit]
        done += taken
    assert tuple(done) == r.token_ids
    assert len(ids) == n_prompt


def test_stats(lm: deal.Model) -> None:
    n_prompt = len(lm.tokenizer.encode(PROMPT))
    s = lm.generate(PROMPT, max_new_tokens=10, eos_token_id=[]).stats
    assert s.n_prompt_tokens == n_prompt
    assert s.n_forward_tokens in (n_prompt + 9, n_prompt + 10)
    assert s.n_steps == 10 and s.n_forward_passes <= 10 + 1
    assert s.n_rollouts == s.n_rollout_tokens == s.n_reward_calls == s.n_reward_texts == 0
    assert s.seconds_reward == 0 and s.seconds_prefill > 0 and s.seconds_forward > 0
    assert s.seconds_total >= s.seconds_prefill + s.seconds_forward

    calls, texts = 0, 0

    @deal.reward(range=(0, 1))
    def counting(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        nonlocal calls, texts
        calls, texts = calls + 1, texts + len(completions)
        return coverage(completions, WORDS)

    r = lm.generate(
        PROMPT, rewards=counting, search=SEARCH, max_new_tokens=10, eos_token_id=[]
    )
    s = r.stats
    assert s.n_steps == 10 == len(r.trace)
    rollouts = [c.rollout for d in r.trace for c in d.candidates]
    assert s.n_rollouts == sum(1 for rollout in rollouts if rollout)
    assert s.n_rollout_tokens == sum(map(len, rollouts))
    assert 10 <= s.n_reward_calls and len(rollouts) <= s.n_reward_texts
    assert 0 < calls <= s.n_reward_calls and 0 < texts <= s.n_reward_texts
    assert s.seconds_reward > 0
    parts = s.seconds_prefill + s.seconds_forward + s.seconds_reward
    assert s.seconds_total >= parts * 0.999


def test_sampling_reports_rewards(lm: deal.Model) -> None:
    rs = lm.generate(
        PROMPT,
        rewards=deal.rewards.Keywords(WORDS),
        sampling=deal.Sampling(seed=1),
        num_return_sequences=3,
    )
    for r in rs:
        assert r.reward == pytest.approx(coverage([r.text], WORDS)[0])
        assert r.trace == ()


# --- rewards that misbehave ----------------------------------------------------------


def steer(lm: deal.Model, function: Callable[..., Any], **kwargs: Any) -> Any:
    reward = deal.reward(range=(0, 1))(function)
    return lm.generate(PROMPT, rewards=reward, search=SEARCH, max_new_tokens=8, **kwargs)


def still_works(lm: deal.Model) -> bool:
    r = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH, max_new_tokens=8)
    return r.score == pytest.approx(r.logprob + 3.0 * r.reward)


class Broken(Exception):
    pass


@pytest.mark.parametrize("i_call", [1, 2, 5])
def test_reward_that_raises(lm: deal.Model, i_call: int) -> None:
    n_calls = 0

    def raising(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
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
        (lambda n: 0.5, "float"),
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
    expected = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH, max_new_tokens=8)
    assert r.token_ids == expected.token_ids


def test_reward_sees_the_prompt_and_its_columns(lm: deal.Model) -> None:
    seen = []

    def curious(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        assert len(prompts) == len(completions)
        assert all(type(text) is str for text in completions)
        for name, values in kwargs.items():
            seen.append((prompts[0], name, values[0] if isinstance(values, list) else values))
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
            PROMPTS[:2], rewards=reward, search=SEARCH, reward_kwargs={"concepts": ["one"]}
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


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_from_a_reward(lm: deal.Model) -> None:
    n_calls = 0

    def pressed(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            signal.raise_signal(signal.SIGINT)
        return [0.0] * len(completions)

    with pytest.raises(KeyboardInterrupt):
        steer(lm, pressed)
    assert n_calls == 2
    assert still_works(lm)


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

    def asking(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
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


def test_max_length_ends_a_text(path: Path) -> None:
    lm = deal.load(path, compute="f32", threads=1, max_length=24)
    n_prompt = len(lm.tokenizer.encode(PROMPT))
    for settings in ({}, {"num_beams": 2}, {"rewards": python_keywords, "search": SEARCH}):
        r = lm.generate(PROMPT, max_new_tokens=500, eos_token_id=[], **settings)
        assert r.finish_reason == "length"
        assert 24 - n_prompt <= len(r.token_ids) <= 24 - n_prompt + 1


def test_int8_and_auto(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    assert deal.load(path).compute == "f32"
    write_gguf(make_tiny(), tmp_path / "q.gguf", "Q8_0")
    lm = deal.load(tmp_path / "q.gguf")
    assert lm.compute == "int8"
    r = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH)
    ids = lm.tokenizer.encode(PROMPT)
    assert r.logprob == pytest.approx(lm.logprob(ids, list(r.token_ids)), abs=1e-4)
