"""The C search against the plain-Python one, over a table LM."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import deal_twin as twin
import pytest
from deal_twin import Hypothesis, Outcome, Problem
from search_cases import CAT, Case, impure, random_case, random_rewards, random_table
from search_table import Marks, Program, Toy, log_z_of
from text_twin import STREAM, TEXT

TWINS = {
    "greedy": twin.greedy,
    "beam": twin.beam_search,
    "naive": twin.deal_search,
}


# --- comparison ----------------------------------------------------------------------


def run_both(
    program: Program, cases: list[Case]
) -> list[tuple[Problem, dict[str, Any], Outcome]]:
    """Each case, what C says and what the twin says, with log Z as the LM has it."""
    out = []
    for (problem, mode), answer in zip(cases, program.run(cases), strict=True):
        problem = dataclasses.replace(problem, log_z=log_z_of(problem, answer))
        out.append((problem, answer, TWINS[mode](problem)))
    return out


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True)


def check_result(found: dict[str, Any], want: Hypothesis, n_reward: int) -> None:
    assert tuple(found["tokens"]) == want.tokens
    assert bytes.fromhex(found["text"]).decode() == want.text
    assert found["finish"] == want.finish
    assert found["logprob"] == near(want.logprob)
    assert found["score"] == near(want.score)
    assert found["h"] == near(want.h)
    assert found["rewards"] == near(list(want.rewards))
    assert len(want.rewards) == n_reward


def check_row(found: dict[str, Any], want: twin.Row) -> None:
    decided = ("step", "beam", "n_committed", "token", "is_finished", "is_chosen")
    decided += ("is_skipped",)
    for name in decided:
        assert found[name] == getattr(want, name), name
    assert tuple(found["rollout"]) == want.rollout
    assert found["logprob"] == near(want.logprob)
    assert found["h"] == near(want.h)
    assert found["score"] == near(want.score)
    assert found["rewards"] == near(list(want.rewards))


def check_stats(problem: Problem, answer: dict[str, Any], want: twin.Stats) -> None:
    found = answer["stats"]
    for name in (
        "n_prompt_tokens",
        "n_forward_tokens",
        "n_forward_passes",
        "n_steps",
        "n_rollouts",
        "n_rollout_tokens",
        "n_skipped",
        "n_reward_texts",
        "n_rollout_model_tokens",
        "n_rollout_model_passes",
    ):
        assert found[name] == getattr(want, name), name
    assert [n for n, _ in answer["steps"]] == want.n_batches
    assert found["n_reward_calls"] == answer["n_calls"]
    counts = zip(problem.rewards, answer["reward_counts"], strict=True)
    for (_, reward), (n_calls, n_texts, n_bounds) in counts:
        assert n_bounds == 0  # nothing is left out that they could spare
        if getattr(reward, "is_impure", False):
            assert n_texts == want.n_reward_texts / len(problem.rewards)
        elif isinstance(reward, Marks):
            assert (n_calls, n_texts) == (len(want.n_alone), sum(want.n_alone))
        elif getattr(reward, "form", "") == "texts":
            assert (n_calls, n_texts) == (want.n_new_calls, want.n_new_texts)
    names = ("prefill", "forward", "reward", "rollout_model")
    parts = [found[f"seconds_{name}"] for name in names]
    assert min(parts) >= 0 and sum(parts) <= found["seconds_total"] * 1.001
    assert (parts[2] > 0) == bool(problem.rewards)
    assert (parts[3] > 0) == (want.n_rollout_model_passes > 0)


def check_text_so_far(problem: Problem, answer: dict[str, Any]) -> None:
    """What is called final after a step stays."""
    texts = [bytes.fromhex(text) for _, text in answer["steps"]]
    for text, later in itertools.pairwise(texts):
        assert later.startswith(text)
        text.decode()
        if problem.num_beams > 1:
            assert text == b""
    assert texts[-1].hex() == answer["results"][0]["text"]


def check_case(problem: Problem, answer: dict[str, Any], want: Outcome) -> None:
    n_reward = len(problem.rewards)
    assert len(answer["results"]) == len(want.results) >= 1
    for found, hypothesis in zip(answer["results"], want.results, strict=True):
        check_result(found, hypothesis, n_reward)
    assert len(answer["trace"]) == len(want.trace)
    for found, row in zip(answer["trace"], want.trace, strict=True):
        check_row(found, row)
    check_stats(problem, answer, want.stats)
    check_text_so_far(problem, answer)
    assert answer["n_node"] == answer["n_state"] == 0  # all is given back


# --- mode exact ----------------------------------------------------------------------


def key_of(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["step"], row["beam"], row["token"]


def check_exact(
    naive: dict[str, Any], exact: dict[str, Any], is_masked: bool = False
) -> None:
    """The same to the last bit, but for what the exact search did not look at.

    `is_masked`: naive puts tokens off that a constraint forces.
    """
    assert exact["results"] == naive["results"]
    assert [text for _, text in exact["steps"]] == [text for _, text in naive["steps"]]
    rows = {key_of(row): row for row in naive["trace"]}
    assert len(rows) == len(exact["trace"]) == len(naive["trace"])
    for found in exact["trace"]:
        want = rows[key_of(found)]
        for name in ("n_committed", "logprob", "is_chosen", "is_skipped"):
            assert found[name] == want[name], name
        if want["is_skipped"] and math.isnan(want["score"]):
            assert all(map(math.isnan, (found["score"], found["h"], *found["rewards"])))
            assert (found["rollout"], found["is_finished"]) == ([], False)
            continue
        assert found["low"] <= want["score"] <= found["high"]
        for name in ("score", "h"):
            assert math.isnan(found[name]) or found[name] == want[name], name
        for a, b in zip(found["rewards"], want["rewards"], strict=True):
            assert math.isnan(a) or a == b
        assert found["rollout"] == want["rollout"][: len(found["rollout"])]
        if found["rollout"] == want["rollout"]:
            assert found["is_finished"] == want["is_finished"]
    for name in ("n_steps", "n_prompt_tokens", "n_skipped"):
        assert exact["stats"][name] == naive["stats"][name]
    counts = exact["stats"]
    n_guessed = counts["n_ahead_tokens"] + counts["n_draft_tokens"]
    for name in ("n_forward_tokens", "n_rollout_model_tokens"):
        assert is_masked or counts[name] <= naive["stats"][name] + n_guessed
    assert counts["n_reward_calls"] == exact["n_calls"]
    assert exact["n_node"] == exact["n_state"] == 0


def check_impure(
    problem: Problem, naive: dict[str, Any], exact: dict[str, Any]
) -> None:
    """All is scored, by the calls of naive."""
    check_exact(naive, exact, problem.constraint is not None)
    counts = zip(naive["reward_counts"], exact["reward_counts"], strict=True)
    for (_, reward), (want, found) in zip(problem.rewards, counts, strict=True):
        is_texts = isinstance(reward, Marks) or getattr(reward, "form", "") == "texts"
        assert found[not is_texts :] == want[not is_texts :]  # else advances count
    rows = {key_of(row): row for row in naive["trace"]}
    for row in exact["trace"]:
        for name in ("score", "h", "rewards", "rollout"):
            assert same(row[name], rows[key_of(row)][name]), name


def same(a: Any, b: Any) -> bool:
    """Equality where NaN equals NaN."""
    return repr(a) == repr(b)


def exact_pairs(
    program: Program, problems: list[Problem]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    cases = [(problem, mode) for problem in problems for mode in ("naive", "exact")]
    answers = program.run(cases)
    return list(zip(answers[::2], answers[1::2], strict=True))


def checked_cases(
    program: Program, cases: list[Case]
) -> list[tuple[Problem, dict[str, Any], Outcome]]:
    """What run_both() gives, C and the twin being equal."""
    found = run_both(program, cases)
    for i, both in enumerate(found):
        try:
            check_case(*both)
        except AssertionError as error:
            raise AssertionError(f"{cases[i][1]} case {i}: {both[0]}") from error
    return found


def checked_pairs(
    program: Program,
    problems: list[Problem],
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What exact_pairs() gives, both having come to the same."""
    pairs = exact_pairs(program, problems)
    for i, pair in enumerate(pairs):
        try:
            check_exact(*pair, problems[i].constraint is not None)
        except AssertionError as error:
            raise AssertionError(f"case {i}: {problems[i]}") from error
    return pairs


def with_random_tricks(problems: list[Problem]) -> list[Problem]:
    return [
        dataclasses.replace(problem, tricks=random.Random(i).choice([15, 15, i % 16]))
        for i, problem in enumerate(problems)
    ]


def check_spares(pairs: list[tuple[dict[str, Any], dict[str, Any]]], name: str) -> None:
    """A fifth at least of what naive counts."""
    naive, exact = (
        sum(answer["stats"][name] for answer in answers)
        for answers in zip(*pairs, strict=True)
    )
    assert exact < 0.8 * naive


# --- the tests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, n_case", [("naive", 1200), ("beam", 400), ("greedy", 200)]
)
def test_random_cases(search_table: Program, mode: str, n_case: int) -> None:
    checked_cases(search_table, [random_case(seed, mode) for seed in range(n_case)])


@pytest.mark.parametrize("seed", range(4))
def test_exact_is_naive(search_table: Program, seed: int) -> None:
    problems = [random_case(1000 * seed + i, "naive")[0] for i in range(1000)]
    pairs = checked_pairs(search_table, with_random_tricks(problems))
    check_spares(pairs, "n_forward_tokens")


def test_exact_of_many_candidates(search_table: Program) -> None:
    """More than rollouts ask for at once."""
    problems = []
    for seed in range(80):
        problem, _ = random_case(seed, "naive", n_vocab=66)
        changed = dataclasses.replace(
            problem,
            top_k=65,
            end_tokens=(0, 1),
            num_beams=random.Random(seed).choice([1, 2]),
            num_return_sequences=1,
            lookahead=max(1, problem.lookahead),
            commit=1,
            max_new_tokens=12,
            n_ctx=50,
            tricks=3,
        )
        problems.append(changed)
    checked_pairs(search_table, problems)


def test_impure_rewards_are_asked_as_naive_asks(search_table: Program) -> None:
    problems = []
    for i in range(1500):
        rng = random.Random(f"impure {i}")
        problem = skip_case(i) if i % 5 == 0 else random_case(7000 + i, "naive")[0]
        tricks = rng.choice([15, 15, i % 16])
        problems.append(dataclasses.replace(impure(rng, problem), tricks=tricks))
    n_passes = [0, 0]
    for i, pair in enumerate(exact_pairs(search_table, problems)):
        try:
            check_impure(problems[i], *pair)
        except AssertionError as error:
            raise AssertionError(f"case {i}: {problems[i]}") from error
        for side, answer in enumerate(pair):
            n_passes[side] += answer["stats"]["n_forward_passes"]
    assert n_passes[1] < 0.95 * n_passes[0]  # rollouts are reused all the same


def test_impure_rewards_follow_the_twin(search_table: Program) -> None:
    for mode in ("naive", "greedy", "beam"):
        cases = []
        for i in range(300):
            problem, _ = random_case(9000 + i, mode)
            cases.append((impure(random.Random(i), problem), mode))
        checked_cases(search_table, cases)


def bounded_case(seed: int) -> Problem:
    """Rewards that all have bounds, and searches in which these matter."""
    rng = random.Random(f"bounds {seed}")
    problem, _ = random_case(20000 + seed, "naive", has_states=False)
    num_beams = rng.randint(1, 4)
    lookahead = rng.randint(1, 8)
    rewards = []
    while not rewards or rng.random() < 0.4:
        drawn = random_rewards(rng, problem.pieces, problem.prompt, has_states=False)
        rewards += [pair for pair in drawn if not isinstance(pair[1], Toy)]
    return dataclasses.replace(
        problem,
        rewards=tuple(rewards[:4]),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        lookahead=lookahead,
        commit=rng.randint(1, min(4, lookahead + 1)),
        max_new_tokens=rng.choice([6, 12, 20]),
        reward_weight=rng.choice([1.0, 4.0, 20.0, -3.0]),
    )


def test_bounds_enclose_and_spare(search_table: Program) -> None:
    problems = [bounded_case(i) for i in range(2000)]
    whole = [dataclasses.replace(p, tricks=15 - 2) for p in problems]
    n_scored = [0, 0, 0]
    n_bounds: Counter[str] = Counter()
    for i, (naive, exact) in enumerate(checked_pairs(search_table, problems)):
        counts = zip(problems[i].rewards, exact["reward_counts"], strict=True)
        for (_, reward), (_, _, n) in counts:
            n_bounds[type(reward).__name__] += n
        for side, answer in enumerate((naive, exact)):
            n_scored[side] += answer["stats"]["n_reward_texts"]
    for answer in search_table.run([(problem, "exact") for problem in whole]):
        n_scored[2] += answer["stats"]["n_reward_texts"]
        assert all(n == 0 for _, _, n in answer["reward_counts"])
    assert n_scored[1] < 0.7 * n_scored[0] and n_scored[2] == n_scored[0]
    assert len(n_bounds) == 3 and min(n_bounds.values()) > 1000, n_bounds


def skip_case(seed: int, has_states: bool = True) -> Problem:
    problem, _ = random_case(seed, "naive", has_states=has_states)
    return dataclasses.replace(
        problem,
        num_beams=1,
        num_return_sequences=1,
        skip_above=random.Random(seed).choice([0.1, 0.3, 0.5, 0.9, 1.0]),
    )


def test_skipped_decisions(search_table: Program) -> None:
    cases = [(skip_case(seed), "naive") for seed in range(1600)]
    n_skipped = n_decided = n_ended = n_changed = 0
    for problem, _, outcome in checked_cases(search_table, cases):
        n_skipped += outcome.stats.n_skipped
        n_decided += outcome.stats.n_steps - outcome.stats.n_skipped
        n_ended += any(r.is_skipped and not math.isnan(r.score) for r in outcome.trace)
        plain = twin.deal_search(dataclasses.replace(problem, skip_above=0.0))
        n_changed += plain.results[0].tokens != outcome.results[0].tokens
    assert min(n_skipped, n_decided) > 500 and min(n_ended, n_changed) > 50


def test_exact_skips_as_naive(search_table: Program) -> None:
    problems = [
        dataclasses.replace(skip_case(i), tricks=15 if i % 2 else i // 2 % 16)
        for i in range(1600)
    ]
    checked_pairs(search_table, problems)


def test_random_cases_are_hard(search_table: Program) -> None:
    """What the cases are for happens in many of them."""
    seen: Counter[str] = Counter()
    cases = [random_case(seed, "naive") for seed in range(1500)]
    for problem, _, outcome in run_both(search_table, cases):
        rows, results = outcome.trace, outcome.results
        found = {one.finish for one in results}
        pairs = [
            (a, b)
            for a, b in itertools.pairwise(rows)
            if a.step == b.step and a.score == b.score
        ]
        if any(a.token < b.token for a, b in pairs):
            found.add("tie of tokens")
        if any(a.token == b.token and a.beam < b.beam for a, b in pairs):
            found.add("tie of beams")
        if any(len(row.rollout) < problem.lookahead for row in rows if row.is_finished):
            found.add("rollout ends")
        if any(
            a.step == b.step and a.is_chosen and b.is_chosen and a.beam > b.beam
            for a, b in itertools.pairwise(rows)
        ):
            found.add("beams cross")
        if "\ufffd" in results[0].text:
            found.add("half a character")
        if problem.has_states:
            found.add("states")
        if problem.commit > 1 and len(results[0].tokens) > outcome.stats.n_steps:
            found.add("commit")
        if problem.n_new_max < problem.max_new_tokens:
            found.add("context limit")
        if outcome.stats.n_new_texts < outcome.stats.n_reward_texts:
            found.add("text asked again")
        if len(results) > 1 and results[0].finish != results[1].finish:
            found.add("mixed pool")
        greedy = dataclasses.replace(problem, num_beams=1, num_return_sequences=1)
        if twin.greedy(greedy).results[0].tokens != results[0].tokens:
            found.add("steered")
        seen.update(found)
    few = {name: n for name, n in seen.items() if n < 40}
    assert not few and len(seen) == 14, seen


# --- against all there is ------------------------------------------------------------


def small_problem(seed: int, **changes: Any) -> Problem:
    """Three tokens, at most four new ones: 81 completions, or fewer where some end."""
    rng = random.Random(seed)
    problem = Problem(
        table=random_table(rng, 3, 2, is_smooth=seed % 2 == 0),
        log_z={},
        n_back=2,
        n_ctx=100,
        pieces=[(TEXT, piece) for piece in rng.sample([b"a", b"b", CAT, b" "], 3)],
        byte_rule=STREAM,
        prompt=(rng.randrange(3),),
        prompt_text="p",
        end_tokens=tuple(rng.sample(range(3), seed % 3)),
        stops=rng.choice([(), ("ba",)]),
        rewards=((1.0, Toy("texts", seed)), (-0.5, Toy("owning", seed + 1))),
        max_new_tokens=4,
        num_return_sequences=81,
        num_beams=81,
        top_k=3,
        lookahead=seed % 4,
        reward_weight=rng.choice([-2.0, 0.5, 3.0]),
    )
    return dataclasses.replace(problem, **changes)


def all_completions(problem: Problem) -> list[Hypothesis]:
    """Every completion that ends, with its log-prob and rewards."""
    search = twin.Search(problem)
    unfinished, done = [Hypothesis()], []
    while unfinished:
        one = unfinished.pop()
        context = problem.prompt + one.tokens
        search.lm.evaluate([context])
        for token in range(problem.n_vocab):
            logprob = one.logprob + search.lm.logprob(context, token)
            longer = twin.extend(problem, one, token)
            longer = dataclasses.replace(longer, logprob=logprob)
            (unfinished if longer.finish is None else done).append(longer)
    return search.rewarded(done)


def check_best(
    answer: dict[str, Any], problem: Problem, score: Callable[[Hypothesis], float]
) -> None:
    """The results are all completions there are, by falling score."""
    completions = all_completions(problem)
    scores = {one.tokens: score(one) for one in completions}
    found = [(tuple(r["tokens"]), r["score"]) for r in answer["results"]]
    assert len(found) == len(completions) == len({tokens for tokens, _ in found})
    assert [s for _, s in found] == near(sorted(scores.values(), reverse=True))
    for tokens, value in found:
        assert value == near(scores[tokens])


def test_wide_beams_find_the_best_of_all(search_table: Program) -> None:
    problems = [small_problem(seed) for seed in range(60)]
    answers = search_table.run([(problem, "naive") for problem in problems])
    for problem, answer in zip(problems, answers, strict=True):
        problem = dataclasses.replace(problem, log_z=log_z_of(problem, answer))
        weight = problem.reward_weight
        check_best(answer, problem, lambda one, w=weight: one.logprob + w * one.h)


def test_wide_beam_search_finds_the_best_of_all(search_table: Program) -> None:
    problems = [
        small_problem(seed, length_penalty=[1.0, 0.0, 2.0, -1.0][seed % 4])
        for seed in range(60)
    ]
    answers = search_table.run([(problem, "beam") for problem in problems])
    for problem, answer in zip(problems, answers, strict=True):
        problem = dataclasses.replace(problem, log_z=log_z_of(problem, answer))
        power = problem.length_penalty
        check_best(
            answer, problem, lambda one, p=power: one.logprob / len(one.tokens) ** p
        )


# --- what must not matter ------------------------------------------------------------


def same_results(a: dict[str, Any], b: dict[str, Any], *names: str) -> bool:
    return [[r[name] for name in names] for r in a["results"]] == [
        [r[name] for name in names] for r in b["results"]
    ]


def test_weight_zero_is_greedy(search_table: Program) -> None:
    cases = []
    for seed in range(200):
        problem = random_case(seed, "greedy")[0]
        deal = dataclasses.replace(problem, reward_weight=0.0)
        cases += [(problem, "greedy"), (deal, "naive")]
    answers = search_table.run(cases)
    for plain, deal in zip(answers[::2], answers[1::2], strict=True):
        assert same_results(plain, deal, "tokens", "text", "logprob", "finish", "h")


def test_weight_zero_is_beam_search(search_table: Program) -> None:
    cases = []
    for seed in range(200):
        problem = random_case(seed, "beam")[0]
        n = problem.num_beams * max(2, len(problem.end_tokens) + 1)
        problem = dataclasses.replace(
            problem,
            length_penalty=0.0,
            reward_weight=0.0,
            commit=1,
            top_k=min(n, problem.n_vocab),
        )
        cases += [(problem, "beam"), (problem, "naive")]
    answers = search_table.run(cases)
    for plain, deal in zip(answers[::2], answers[1::2], strict=True):
        names = ("tokens", "text", "logprob", "finish", "score", "h")
        assert same_results(plain, deal, *names)


def test_order_of_rewards_does_not_matter(search_table: Program) -> None:
    cases = []
    for seed in range(100):
        problem = random_case(seed, "naive")[0]
        rewards = (  # all exact in binary, and so are their sums
            (1.0, Toy("texts", seed)),
            (-0.5, Toy("owning", seed)),
            (2.0, Toy("plain", seed + 1)),
        )
        for order in itertools.permutations(rewards):
            cases.append((dataclasses.replace(problem, rewards=order), "naive"))
    answers = search_table.run(cases)
    for i, answer in enumerate(answers):
        first = answers[i - i % 6]
        assert same_results(answer, first, "tokens", "text", "logprob", "h", "score")
        forms = [reward.form for _, reward in cases[i][0].rewards]
        for a, b in zip(answer["results"], first["results"], strict=True):
            assert dict(zip(forms, a["rewards"], strict=True)) == dict(
                zip(("texts", "owning", "plain"), b["rewards"], strict=True)
            )


def test_rollouts_of_a_step_are_one_batch_for_each_position(
    search_table: Program,
) -> None:
    cases = [random_case(seed, "naive") for seed in range(300)]
    n_seen = 0
    for (problem, _), answer in zip(cases, search_table.run(cases), strict=True):
        n_states = 2 * problem.has_states  # of what was committed, and of rollouts
        for step, (n_extend, _) in enumerate(answer["steps"]):
            rows = [row for row in answer["trace"] if row["step"] == step]
            longest = max(len(row["rollout"]) for row in rows)
            n_chain = n_extend - 1 - longest
            assert 0 <= n_chain <= n_states + (problem.commit > 1)
            n_seen += longest > 2 and len(rows) > 2
    assert n_seen > 100
