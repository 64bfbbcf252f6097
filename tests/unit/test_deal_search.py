"""The DeAL search through the Python API: decisions, trace and statistics."""

from __future__ import annotations

import dataclasses
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
    log_softmax,
    python_keywords,
)
from tiny_model import TinyConfig, make_tiny, vocabulary, write_gguf

import deal


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generate") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


def naive(**settings: Any) -> deal.Search:
    return deal.Search(mode="naive", **settings)


# --- DeAL ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "search",
    [
        SEARCH,
        naive(top_k=3, lookahead=0, reward_weight=2.0),
        naive(top_k=4, lookahead=6, reward_weight=4.0, num_beams=3),
        naive(top_k=4, lookahead=6, reward_weight=4.0, commit=3),
        naive(top_k=2, lookahead=30, reward_weight=-3.0, num_beams=2),
    ],
)
def test_native_keywords_decide_as_python_does(
    lm: deal.Model, search: deal.Search
) -> None:
    for prompt in PROMPTS:
        python = lm.generate(
            prompt, rewards=python_keywords, search=search, max_new_tokens=20
        )
        native = lm.generate(
            prompt,
            rewards=deal.rewards.Keywords(WORDS),
            search=search,
            max_new_tokens=20,
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
    def constant(
        completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
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
        naive(top_k=5, lookahead=0, reward_weight=2.0, num_beams=2),
        naive(top_k=3, lookahead=7, reward_weight=5.0, num_beams=3),
        naive(top_k=3, lookahead=7, reward_weight=5.0, commit=8),
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
            assert [c.is_chosen for c in candidates] == [True] + [False] * (
                len(scores) - 1
            )
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
    assert (
        s.n_rollouts == s.n_rollout_tokens == s.n_reward_calls == s.n_reward_texts == 0
    )
    assert s.seconds_reward == 0 and s.seconds_prefill > 0 and s.seconds_forward > 0
    assert s.seconds_total >= s.seconds_prefill + s.seconds_forward

    calls, texts = 0, 0

    @deal.reward(range=(0, 1))
    def counting(
        completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
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


# --- mode exact ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 4, "lookahead": 5, "reward_weight": 3.0},
        {"top_k": 3, "lookahead": 0, "reward_weight": 2.0},
        {"top_k": 4, "lookahead": 6, "reward_weight": 4.0, "num_beams": 3},
        {"top_k": 4, "lookahead": 6, "reward_weight": 4.0, "commit": 3},
        {"top_k": 70, "lookahead": 4, "reward_weight": 6.0, "num_beams": 2},
    ],
)
@pytest.mark.parametrize("stop", [None, ["ed"]])
def test_exact_is_naive(lm: deal.Model, settings: dict[str, Any], stop: Any) -> None:
    def vowels(completions: list[str], **kwargs: Any) -> list[float]:
        return [sum(c in "aeiou" for c in text) / 10 for text in completions]

    keywords = deal.rewards.Keywords(WORDS)
    ranged = deal.reward(python_keywords, range=(0, 1))
    length = deal.rewards.Length(target=8)
    end = vocabulary("byte").pieces.index("\u0120red")
    for rewards in (keywords, ranged, vowels, keywords - 0.5 * length + 0.1 * ranged):
        search = deal.Search(**settings)
        options: dict[str, Any] = {
            "rewards": rewards,
            "max_new_tokens": 16,
            "num_return_sequences": search.num_beams,
            "eos_token_id": end,
            "stop": stop,
        }
        for prompt in PROMPTS[:3]:
            a = lm.generate(prompt, search=naive(**settings), **options)
            b = lm.generate(prompt, search=search, **options)
            if search.num_beams == 1:
                a, b = [a], [b]
            for x, y in zip(a, b, strict=True):
                check_same(x, y)


def check_same(naive: deal.Generation, exact: deal.Generation) -> None:
    """To the last bit; what the exact search did not look at is None."""
    for name in ("text", "token_ids", "logprob", "reward", "rewards", "score"):
        assert getattr(exact, name) == getattr(naive, name), name
    assert exact.finish_reason == naive.finish_reason
    assert exact.stats.n_steps == naive.stats.n_steps
    for a, b in zip(naive.trace, exact.trace, strict=True):
        found = {(c.beam, c.token_id): c for c in b.candidates}
        assert len(found) == len(a.candidates)
        for want in a.candidates:
            got = found[want.beam, want.token_id]
            assert got.is_chosen == want.is_chosen and got.logprob == want.logprob
            assert got.score is None or got.score == want.score
            assert got.bounds[0] <= want.score <= got.bounds[1]
            assert got.rollout == want.rollout[: len(got.rollout)]


def test_exact_does_less(lm: deal.Model) -> None:
    """Each trick can be switched off, which changes the work and nothing else."""
    reward = deal.rewards.Keywords(WORDS)
    settings = {"top_k": 5, "lookahead": 8, "reward_weight": 4.0}
    full = lm.generate(PROMPT, rewards=reward, search=naive(**settings))
    bare = deal.Exact(reuse=False, bounds=False, drafts=False, speculation=False)
    n_forward = []
    for exact in (
        bare,
        dataclasses.replace(bare, reuse=True),
        dataclasses.replace(bare, reuse=True, bounds=True),
    ):
        search = deal.Search(exact=exact, **settings)
        r = lm.generate(PROMPT, rewards=reward, search=search)
        check_same(full, r)
        n_forward.append(r.stats.n_forward_tokens)
    assert n_forward[0] == full.stats.n_forward_tokens
    assert n_forward[1] < 0.95 * n_forward[0] and n_forward[2] < 0.7 * n_forward[1]


# --- skip_above ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["naive", "exact"])
def test_sure_decisions_are_skipped(lm: deal.Model, mode: str) -> None:
    settings: dict[str, Any] = {"top_k": 4, "lookahead": 6, "reward_weight": 4.0}
    rewards = {"rewards": python_keywords, "max_new_tokens": 12}
    plain = lm.generate(PROMPT, search=deal.Search(mode="naive", **settings), **rewards)
    tops = [max(c.logprob for c in d.candidates) for d in plain.trace]
    before = [0.0] + [
        next(c.logprob for c in d.candidates if c.is_chosen) for d in plain.trace[:-1]
    ]
    sure = sorted(np.exp(np.subtract(tops, before)))
    least = float(sure[len(sure) // 2])
    r = lm.generate(
        PROMPT, search=deal.Search(mode=mode, skip_above=least, **settings), **rewards
    )
    skipped = [d for d in r.trace if d.candidates[0].is_skipped]
    assert 0 < len(skipped) == r.stats.n_skipped < r.stats.n_steps
    assert all(len(d.candidates) == 1 for d in skipped)
    assert plain.stats.n_skipped == 0
    if mode == "naive":
        assert r.stats.n_forward_tokens < plain.stats.n_forward_tokens


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"skip_above": 0.0}, "skip_above: expected None or a value in"),
        ({"skip_above": 1.5}, "skip_above: expected None or a value in"),
        ({"skip_above": 0.9, "num_beams": 2}, "skip_above: beams compare"),
        ({"skip_above": 0.9, "mode": "segment"}, "skip_above: mode="),
    ],
)
def test_bad_skip_above(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deal.Search(**settings)
