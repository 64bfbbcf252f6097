"""A second model that rolls out: against the plain-Python twin, and through the API."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import deal_twin as twin
import numpy as np
import pytest
from deal_twin import Problem
from generation import PROMPT, PROMPTS, WORDS, key, python_keywords
from search_cases import random_case, random_table
from search_table import Program
from test_search_twin import (
    check_spares,
    checked_cases,
    checked_pairs,
    key_of,
    skip_case,
    with_random_tricks,
)
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import cli

# --- over tables ---------------------------------------------------------------------


def rollouts_case(seed: int) -> Problem:
    """One in four with a model that knows little of the other one."""
    rng = random.Random(f"rollouts {seed}")
    problem, _ = random_case(seed, "naive", has_states=False)
    if rng.random() < 0.5:
        problem = skip_case(seed, has_states=False)
        least = rng.choice([0.3, 0.5, 0.7, 0.9, 0.95])
        problem = dataclasses.replace(problem, skip_above=least)
    if problem.n_new_max == 1:
        problem = dataclasses.replace(problem, n_ctx=50, max_new_tokens=12)
    if rng.random() < 0.25:
        n_back = rng.choice([1, 2]) if problem.n_vocab <= 6 else 1
        is_smooth = rng.random() < 0.15
        table = random_table(rng, problem.n_vocab, n_back, is_smooth)
    else:
        n_back, table = problem.n_back, {}
        for context, logits in problem.table.items():
            table[context] = [
                value + rng.choice([-1.0, 0.5, 2.0]) * (rng.random() < 0.2)
                for value in logits
            ]
    other = twin.Rollouts(table, n_back, len(problem.prompt) + 50, problem.n_vocab)
    return dataclasses.replace(problem, rollouts=other)


def test_rollouts_of_another_model(search_table: Program) -> None:
    cases = [(rollouts_case(seed), "naive") for seed in range(2000)]
    seen: Counter[str] = Counter()
    for problem, _, outcome in checked_cases(search_table, cases):
        plain = twin.deal_search(dataclasses.replace(problem, rollouts=None))
        stats = outcome.stats
        seen["changed"] += plain.results[0].tokens != outcome.results[0].tokens
        seen["not asked"] += stats.n_rollout_model_tokens == 0
        seen["cheaper"] += stats.n_forward_tokens < plain.stats.n_forward_tokens
        seen["caught up"] += 0 < stats.n_skipped < stats.n_steps
        seen["committed"] += problem.commit > 1 and problem.num_beams > 1
    assert len(seen) == 5 and min(seen.values()) > 50, seen


@pytest.mark.parametrize("seed", range(4))
def test_exact_rolls_out_as_naive(search_table: Program, seed: int) -> None:
    problems = [rollouts_case(1000 * seed + i) for i in range(1000)]
    pairs = checked_pairs(search_table, with_random_tricks(problems))
    check_spares(pairs, "n_rollout_model_tokens")


@pytest.mark.parametrize("mode", ["naive", "exact"])
def test_a_model_rolls_out_for_itself(search_table: Program, mode: str) -> None:
    cases = []
    for seed in range(400):
        problem = random_case(seed, "naive", has_states=False)[0]
        if seed % 4 == 0:
            problem = skip_case(seed, has_states=False)
        same = twin.Rollouts(
            problem.table, problem.n_back, problem.n_ctx, problem.n_vocab
        )
        cases += [(problem, mode), (dataclasses.replace(problem, rollouts=same), mode)]
    answers = search_table.run(cases)
    for one, two in zip(answers[::2], answers[1::2], strict=True):
        assert one["results"] == two["results"]
        chosen = [
            [key_of(row) for row in answer["trace"] if row["is_chosen"]]
            for answer in (one, two)
        ]
        assert sorted(chosen[0]) == sorted(chosen[1])


# --- over weights --------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one vocabulary, the second one smaller, and one of another."""
    folder = tmp_path_factory.mktemp("rollouts")
    configs = [
        TinyConfig(seed=0),
        TinyConfig(seed=1, n_layer=1, n_ctx=64),
        TinyConfig(seed=0, vocab="spm"),
    ]
    paths = [folder / f"tiny-{i}.gguf" for i in range(len(configs))]
    for config, path in zip(configs, paths, strict=True):
        write_gguf(make_tiny(config), path)
    return paths


@pytest.fixture(scope="module")
def lm(paths: list[Path]) -> deal.Model:
    return deal.load(paths[0], compute="f32", threads=2)


@pytest.fixture(scope="module")
def other(paths: list[Path]) -> deal.Model:
    return deal.load(paths[1], compute="f32", threads=2)


def settings(other: deal.Model, **changes: Any) -> dict[str, Any]:
    search = {"top_k": 4, "lookahead": 5, "reward_weight": 3.0} | changes
    return {
        "search": deal.Search(rollout_model=other, **search),
        "rewards": deal.rewards.Keywords(WORDS),
        "max_new_tokens": 16,
    }


def decisions_of(r: deal.Generation) -> list[list[Any]]:
    """Of each decision what was chosen, in whatever order of ranks."""
    return [
        sorted((c.beam, c.token_id, c.logprob) for c in d.candidates if c.is_chosen)
        for d in r.trace
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_beams": 3},
        {"commit": 3},
        {"commit": 2, "num_beams": 2, "reward_weight": -3.0},
        {"skip_above": 0.6},
        {"lookahead": 0},
    ],
)
def test_modes_agree(
    lm: deal.Model, other: deal.Model, changes: dict[str, Any]
) -> None:
    n_other = []
    for reward in (deal.rewards.Keywords(WORDS), python_keywords):
        for prompt in PROMPTS:
            naive, exact = (
                lm.generate(
                    prompt,
                    **settings(other, mode=mode, **changes) | {"rewards": reward},
                )
                for mode in ("naive", "exact")
            )
            assert key(naive)[:-1] == key(exact)[:-1]
            assert decisions_of(naive) == decisions_of(exact)
            assert naive.stats.n_forward_tokens == exact.stats.n_forward_tokens
            n_other.append(naive.stats.n_rollout_model_tokens)
            assert (naive.stats.seconds_rollout_model > 0) == (n_other[-1] > 0)
    assert (max(n_other) > 0) == (changes != {"lookahead": 0})


def test_who_says_what(lm: deal.Model, other: deal.Model) -> None:
    """Rollouts are the other model's greedy texts; log-probs are the model's own."""
    r = lm.generate(PROMPT, **settings(other, mode="naive", commit=2))
    prompt = lm.tokenizer.encode(PROMPT)
    assert r.logprob == pytest.approx(lm.logprob(prompt, r.token_ids), abs=1e-4)
    taken = 0
    for decision in r.trace:
        for candidate in decision.candidates:
            base = [*prompt, *r.token_ids[:taken], candidate.token_id]
            n = min(5, len(r.token_ids) - taken - 1)
            if candidate.rollout:
                greedy = other.generate(base, max_new_tokens=len(candidate.rollout))
                assert candidate.rollout == greedy.token_ids
            assert len(candidate.rollout) == n or candidate.is_finished
        taken += 2
    plain = lm.generate(PROMPT, **settings(lm, mode="naive", commit=2))
    assert plain.trace != r.trace
    stats = r.stats
    n_rows = (stats.n_forward_tokens, stats.n_rollout_model_tokens)
    assert len(prompt) < n_rows[0] < 2 * (len(prompt) + len(r.token_ids)) < n_rows[1]


@pytest.mark.parametrize("mode", ["naive", "exact"])
def test_a_model_for_itself(lm: deal.Model, paths: list[Path], mode: str) -> None:
    plain = lm.generate(PROMPT, **settings(None, mode=mode))
    same = lm.generate(PROMPT, **settings(lm, mode=mode))
    # How far mode "exact" looks, and so its trace, may differ from run to run.
    assert key(same)[:-1] == key(plain)[:-1]
    assert decisions_of(same) == decisions_of(plain)
    assert same.stats.n_rollout_model_tokens == plain.stats.n_rollout_model_passes == 0
    again = deal.load(paths[0], compute="f32", threads=1)
    twin_made = lm.generate(PROMPT, **settings(again, mode=mode))
    assert key(twin_made)[:-1] == key(plain)[:-1]
    assert decisions_of(twin_made) == decisions_of(plain)
    assert twin_made.stats.n_rollout_model_tokens == again.n_forward_tokens > 0
    assert twin_made.stats.n_forward_tokens < plain.stats.n_forward_tokens


def test_controls_are_each_models_own(lm: deal.Model, other: deal.Model) -> None:
    def rollouts(r: deal.Generation) -> list[tuple[int, ...]]:
        return [c.rollout for c in r.trace[0].candidates]

    def logprobs(r: deal.Generation) -> list[float]:
        return sorted(c.logprob for c in r.trace[0].candidates)

    given = settings(other, mode="naive")
    vector = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    edit = [deal.AddResidual(0, 4 * vector)]
    plain = lm.generate(PROMPT, **given)
    with other.controls(edit):
        stream = lm.stream(PROMPT, **given)
        other_edited = lm.generate(PROMPT, **given)
    with lm.controls(edit):
        edited = lm.generate(PROMPT, **given)
    assert logprobs(other_edited) == logprobs(plain) != logprobs(edited)
    assert rollouts(other_edited) != rollouts(plain)
    assert "".join(stream) == other_edited.text  # those of when it was made
    first = next(c for c in edited.trace[0].candidates if c.rollout)
    greedy = other.generate(
        [*lm.tokenizer.encode(PROMPT), first.token_id],
        max_new_tokens=len(first.rollout),
    )
    assert first.rollout == greedy.token_ids


def test_limits_of_the_other_model(lm: deal.Model, paths: list[Path]) -> None:
    n_prompt = len(lm.tokenizer.encode(PROMPT))
    short = deal.load(paths[1], compute="f32", max_length=n_prompt + 15)
    n_before = lm.n_forward_tokens
    match = (
        f"rollout_model: its context of {n_prompt + 15} does not hold .* {n_prompt} "
    )
    with pytest.raises(deal.ContextLengthError, match=match):
        lm.generate(PROMPT, **settings(short))
    assert lm.n_forward_tokens == n_before and short.n_forward_tokens == 0
    assert lm.generate(PROMPT, **settings(short) | {"max_new_tokens": 15}).text
    page = short._core.kv_page_size(0)  # room for 64 tokens
    poor = deal.load(paths[1], compute="f32", kv_budget=page)
    given = settings(poor, mode="naive", num_beams=4)
    with pytest.raises(deal.KVBudgetError, match="rollout_model: kv_budget"):
        lm.generate(PROMPT, **given)
    for model in (lm, poor):
        assert all(session.n_live == 0 for session in model._sessions)
    lm.generate(PROMPT, **settings(poor, top_k=1, lookahead=1))  # both go on


def test_other_tokens(
    lm: deal.Model, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match="rollout_model: expected the model's .* tokens"
    ):
        lm.generate(PROMPT, **settings(deal.load(paths[2], compute="f32")))
    renamed = deal.load(paths[1], compute="f32")
    tokens = renamed.tokenizer.tokens()
    assert tokens == lm.tokenizer.tokens() and None not in tokens
    tokens[70:72] = ["other", "another"]
    monkeypatch.setattr(renamed.tokenizer, "tokens", lambda: tokens)
    match = f"token 70 is {lm.tokenizer.tokens()[70]!r} there and 'other' in the"
    for _ in range(2):
        with pytest.raises(ValueError, match=match.replace("\\", "\\\\")):
            lm.generate(PROMPT, **settings(renamed))
    ends = deal.load(paths[1], compute="f32")
    ends.tokenizer.eos_token_ids = (*lm.tokenizer.eos_token_ids, 7)
    match = "rollout_model: .* end tokens; token 7, .* of the rollout model alone"
    with pytest.raises(ValueError, match=match):
        lm.generate(PROMPT, **settings(ends))
    assert lm.generate(PROMPT, eos_token_id=[], **settings(ends)).text


def test_tokens_of_either_library(paths: list[Path]) -> None:
    model = deal.load(paths[2], compute="f32")
    tokens = model.tokenizer.tokens()
    assert len(tokens) == model.hparams.n_vocab and None not in tokens
    assert len(set(tokens)) == len(tokens)


def test_two_models_crosswise(lm: deal.Model, other: deal.Model) -> None:
    """Each rolls out for the other, at once; neither waits, neither is disturbed."""
    pairs = [(lm, other), (other, lm)]
    expected = [key(a.generate(PROMPT, **settings(b))) for a, b in pairs]
    failed: list[int] = []

    def work(i: int) -> None:
        a, b = pairs[i % 2]
        for _ in range(4):
            if key(a.generate(PROMPT, **settings(b)))[:-1] != expected[i % 2][:-1]:
                failed.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not failed and not any(thread.is_alive() for thread in threads)


def test_a_reward_that_asks_both_models(lm: deal.Model, other: deal.Model) -> None:
    @deal.reward
    def likely(completions: list[str], **kwargs: Any) -> list[float]:
        return [
            sum(one.logprob(PROMPT, text) for one in (lm, other)) / 10 if text else 0.0
            for text in completions
        ]

    given = settings(other) | {"rewards": likely, "max_new_tokens": 4}
    assert lm.generate(PROMPT, **given).score == pytest.approx(
        lm.generate(PROMPT, **settings(other, mode="naive") | given).score
    )


@pytest.mark.parametrize("mode", ["naive", "exact"])
def test_a_stream_closed_midway(lm: deal.Model, other: deal.Model, mode: str) -> None:
    given = settings(other, mode=mode)
    whole = lm.generate(PROMPT, **given)
    stream = lm.stream(PROMPT, **given)
    assert whole.text.startswith("".join(itertools.islice(stream, 3)))
    assert other._sessions[-1] is not None and any(s.n_live for s in other._sessions)
    stream.close()
    for model in (lm, other):
        assert all(session.n_live == 0 for session in model._sessions)
        assert len(model._idle) == len(model._sessions)
    assert key(lm.generate(PROMPT, **given))[:-1] == key(whole)[:-1]


def test_a_failing_reward(lm: deal.Model, other: deal.Model) -> None:
    def fails(completions: list[str], **kwargs: Any) -> list[float]:
        raise KeyError("by design")

    with pytest.raises(KeyError, match="by design"):
        lm.generate(PROMPT, **settings(other) | {"rewards": fails})
    for model in (lm, other):
        assert all(session.n_live == 0 for session in model._sessions)


# --- the setting ---------------------------------------------------------------------


def test_settings_name_a_model(lm: deal.Model, other: deal.Model) -> None:
    search = deal.Search(rollout_model=other)
    assert search == deal.Search(rollout_model=other) != deal.Search(rollout_model=lm)
    assert search != deal.Search() and len({search, deal.Search()}) == 2
    assert f"rollout_model={other!r}" in repr(search)
    assert copy.deepcopy(search) == copy.copy(search) == search
    assert dataclasses.asdict(search)["rollout_model"] is other
    assert copy.copy(other) is other
    with pytest.raises(TypeError, match="deal.Model: weights in memory do not pickle"):
        pickle.dumps(search)
    assert pickle.loads(pickle.dumps(deal.Search())) == deal.Search()


def test_bad_settings(lm: deal.Model, other: deal.Model) -> None:
    with pytest.raises(
        TypeError, match="rollout_model: expected deal.Model, got 'a.gg"
    ):
        deal.Search(rollout_model="a.gguf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='rollout_model: mode="segment"'):
        deal.Search(mode="segment", rollout_model=other)
    core = lm._sessions[0]
    with pytest.raises(TypeError, match="rollout_session: expected Session"):
        deal._core.Search(  # type: ignore[attr-defined]
            core, lm.tokenizer.vocab, [1], "", [], (), (), (), {}, None, 3
        )


def test_command(paths: list[Path], capsys: pytest.CaptureFixture) -> None:
    arguments = ["generate", PROMPT, "-m", str(paths[0]), "--compute", "f32"]
    arguments += ["--max-new-tokens", "8", "--no-stream"]
    with_words = [*arguments, "--keywords", "dog,river", "--lookahead", "4"]
    assert cli.main([*with_words, "--rollout-model", str(paths[1])]) == 0
    printed = capsys.readouterr().out
    lm, other = (deal.load(path, compute="f32") for path in paths[:2])
    search = deal.Search(lookahead=4, reward_weight=4.0, rollout_model=other)
    rewards = deal.rewards.Keywords(["dog", "river"])
    r = lm.generate(PROMPT, search=search, rewards=rewards, max_new_tokens=8)
    assert printed == r.text + "\n"
    assert cli.main([*arguments, "--rollout-model", str(paths[1])]) == 2
    assert "needs --keywords" in capsys.readouterr().err
    assert cli.main([*with_words, "--rollout-model", str(paths[2])]) == 1
    assert "rollout_model: expected the model's" in capsys.readouterr().err
