"""Hard constraints in the C search: against the plain-Python twin, over a table LM."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from deal_twin import Outcome, Problem, Rollouts
from mask_twin import Automaton, random_automaton
from search_cases import Case, impure, random_case, random_table
from search_table import Program
from test_search_twin import check_impure, checked_cases, checked_pairs, exact_pairs
from test_segment import checked_segments, segment_case


def masked(rng: random.Random, problem: Problem) -> Problem:
    """The same under a random constraint, which needs an end token."""
    table = {
        context: [max(logit, -9.0) for logit in logits]
        for context, logits in problem.table.items()
    }
    ends = problem.end_tokens or (rng.randrange(problem.n_vocab),)
    return dataclasses.replace(
        problem,
        table=table,
        end_tokens=ends,
        constraint=random_automaton(rng, problem.n_vocab),
    )


def rolled(rng: random.Random, problem: Problem) -> Problem:
    """The same with another model that rolls out."""
    n_back = rng.choice([1, 2]) if problem.n_vocab <= 6 else 1
    table = random_table(rng, problem.n_vocab, n_back, is_smooth=True)
    other = Rollouts(table, n_back, problem.n_ctx + 5, problem.n_vocab)
    return dataclasses.replace(problem, rollouts=other)


def mask_case(seed: int, mode: str) -> Case:
    rng = random.Random(f"mask {mode} {seed}")
    is_rolled = mode == "naive" and seed % 4 == 0
    problem = masked(rng, random_case(seed, mode, has_states=not is_rolled)[0])
    if is_rolled:
        problem = rolled(rng, problem)
    if mode == "naive" and seed % 7 == 0:
        skip = rng.choice([0.1, 0.5])
        problem = dataclasses.replace(
            problem, num_beams=1, num_return_sequences=1, skip_above=skip
        )
    return problem, mode


def wide_case(seed: int, mode: str) -> Case:
    """More tokens than a mask keeps as a list."""
    rng = random.Random(f"wide {seed}")
    problem = masked(rng, random_case(seed, mode, n_vocab=66, has_states=False)[0])
    return dataclasses.replace(problem, top_k=rng.choice([1, 5, 66])), mode


def check_obeyed(problem: Problem, outcome: Outcome) -> None:
    """All that was taken, also by rollouts, was allowed; an end says what it is."""
    constraint, ends = problem.constraint, problem.end_tokens
    assert constraint is not None
    for one in outcome.results:
        for n, token in enumerate(one.tokens):
            assert token in constraint.allowed(one.tokens[:n], ends)
        if one.finish in ("end", "dead end"):
            is_match = constraint.is_match(one.tokens[:-1], ends)
            assert is_match == (one.finish == "end")


@pytest.mark.parametrize(
    "mode, n_case", [("naive", 1600), ("beam", 500), ("greedy", 500)]
)
def test_c_is_the_twin(search_table: Program, mode: str, n_case: int) -> None:
    cases = [mask_case(seed, mode) for seed in range(n_case)]
    seen: Counter[str | None] = Counter()
    for problem, _, outcome in checked_cases(search_table, cases):
        check_obeyed(problem, outcome)
        seen.update({one.finish for one in outcome.results})
    for finish in ("end", "dead end", "length", "stop"):
        assert seen[finish] > 20, seen


@pytest.mark.parametrize("mode", ["naive", "beam", "greedy"])
def test_many_tokens(search_table: Program, mode: str) -> None:
    cases = [wide_case(seed, mode) for seed in range(50)]
    for problem, _, outcome in checked_cases(search_table, cases):
        check_obeyed(problem, outcome)
    if mode == "naive":
        checked_pairs(search_table, [problem for problem, _ in cases])


@pytest.mark.parametrize("seed", range(4))
def test_exact_is_naive(search_table: Program, seed: int) -> None:
    problems = []
    for i in range(1000):
        problem, _ = mask_case(10_000 * (seed + 1) + i, "naive")
        tricks = random.Random(i).choice([15, 15, i % 16])
        problems.append(dataclasses.replace(problem, tricks=tricks))
    pairs = checked_pairs(search_table, problems)
    n_tokens = [sum(p[i]["stats"]["n_forward_tokens"] for p in pairs) for i in (0, 1)]
    assert n_tokens[1] < 0.9 * n_tokens[0]


def test_impure_rewards_are_asked_as_naive_asks(search_table: Program) -> None:
    problems = []
    for i in range(500):
        rng = random.Random(f"impure {i}")
        problem, _ = mask_case(70_000 + i, "naive")
        problems.append(dataclasses.replace(impure(rng, problem), tricks=15))
    for problem, pair in zip(
        problems, exact_pairs(search_table, problems), strict=True
    ):
        check_impure(problem, *pair)


def test_segments_are_the_twins(search_table: Program) -> None:
    cases = []
    for seed in range(600):
        problem, mode = segment_case(seed)
        cases.append((masked(random.Random(f"segment {seed}"), problem), mode))
    seen: Counter[str | None] = Counter()
    for problem, _, outcome in checked_segments(search_table, cases):
        check_obeyed(problem, outcome)
        seen.update({one.finish for one in outcome.results})
    assert min(seen[finish] for finish in ("end", "dead end", "length")) > 20, seen


# --- forced tokens -------------------------------------------------------------------


def chain(n_vocab: int, word: Sequence[int]) -> Automaton:
    """`word` and nothing else."""
    n_state = len(word) + 1
    table = [
        tuple(i + 1 if t == token else -1 for t in range(n_vocab))
        for i, token in enumerate(word)
    ]
    table.append((-1,) * n_vocab)
    accepts = tuple(i == len(word) for i in range(n_state))
    return Automaton(tuple(table), accepts, (*word, -1))


def chain_case(seed: int) -> Problem:
    problem, _ = random_case(seed, "naive", n_vocab=8, has_states=False)
    rng = random.Random(seed)
    problem = masked(rng, problem)
    word = [t for t in rng.choices(range(8), k=20) if t not in problem.end_tokens][:9]
    return dataclasses.replace(
        problem,
        constraint=chain(8, word),
        end_tokens=problem.end_tokens[:1],
        stops=(),
        lookahead=6,
        commit=1,
        skip_above=0.0,
        max_new_tokens=16,
        n_ctx=50,
    )


def test_forced_rollouts_cost_no_pass(search_table: Program) -> None:
    """A form with one text: a pass for the prompt, one for each token it takes."""
    problems = [p for p in map(chain_case, range(60)) if p.rewards]
    for problem, (naive, exact) in zip(
        problems, checked_pairs(search_table, problems), strict=True
    ):
        n_token = len(naive["results"][0]["tokens"])
        assert naive["results"][0]["finish"] == "end"
        counts = naive["stats"]
        assert counts["n_forward_passes"] == n_token == counts["n_steps"]
        assert counts["n_forward_tokens"] == len(problem.prompt) + n_token - 1
        assert exact["stats"]["n_forward_passes"] <= n_token
    assert len(problems) > 30


def likely_case(seed: int) -> Problem:
    """Two tokens may come at each place; the model is all but sure of the first."""
    problem = dataclasses.replace(
        chain_case(seed), tricks=7, cost=(1.0, 1e-6), skip_above=0.0
    )  # a row next to nothing
    ends = problem.end_tokens
    tokens = [t for t in range(8) if t not in ends]
    other, *word = random.Random(f"likely {seed}").sample(tokens, len(tokens))
    table = {context: list(logits) for context, logits in problem.table.items()}
    for before, token in zip([problem.prompt[-1], *word], word, strict=False):
        for context, logits in table.items():
            if context[-1] == before:
                logits[token] = 9.0
    for logits in table.values():
        logits[other] = -9.0
    one = chain(8, word)
    rows = [list(row) for row in one.next]
    for i in range(len(word)):
        rows[i][other] = i + 1
    automaton = dataclasses.replace(one, next=tuple(map(tuple, rows)))
    return dataclasses.replace(problem, table=table, constraint=automaton)


def test_guesses_spare_passes(search_table: Program) -> None:
    """Tokens that a constraint guesses, though others may come, are drafted; where the
    guesses are good, passes are spared."""
    problems = [p for p in map(likely_case, range(60)) if p.rewards]
    n_drafts, n_passes = [0, 0], [0, 0]
    for told in (False, True):
        asked = []
        for problem in problems:
            automaton = problem.constraint
            assert automaton is not None
            best = automaton.favourite if told else (-1,) * len(automaton.accepts)
            automaton = dataclasses.replace(automaton, favourite=best)
            asked.append(dataclasses.replace(problem, constraint=automaton))
        for _, exact in checked_pairs(search_table, asked):
            n_drafts[told] += exact["stats"]["n_draft_tokens"]
            n_passes[told] += exact["stats"]["n_forward_passes"]
    assert n_drafts[1] > n_drafts[0], n_drafts
    assert n_passes[1] < 0.9 * n_passes[0], n_passes


def test_each_mask_is_asked_once(search_table: Program) -> None:
    """A constraint with one text has a mask for each of its beginnings, and no more
    are asked but for the check of each result."""
    problems = [p for p in map(chain_case, range(40)) if p.rewards]
    for mode in ("naive", "exact"):
        answers = search_table.run([(problem, mode) for problem in problems])
        for answer in answers:
            n_token = len(answer["results"][0]["tokens"])
            assert answer["n_masks"] <= n_token + len(answer["results"])
