"""Segment search and best of n in plain Python, over the table LM of deal_twin.py.

What csrc/search/segment.c does, written once more: in each round every unfinished
hypothesis proposes segments, drawn or by beam search, and the best by reward alone are
kept. Draws are those of Philox4x32-10 (Salmon et al., SC 2011), by number.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from deal_twin import (
    Hypothesis,
    Outcome,
    Problem,
    Row,
    Search,
    Tokens,
    extend,
    words_of,
)


@dataclass(frozen=True)
class Drawing:
    """How segments are proposed; temperature 0: by beam search."""

    n_proposal: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def words(self) -> list[float]:
        numbers = [self.n_proposal, self.temperature, self.top_k, self.top_p]
        return [*numbers, self.repetition_penalty, self.seed]


def uniform(seed: int, stream: int, draw: int) -> float:
    """Number `draw` of a stream, in [0, 1)."""
    mask = 2**32 - 1
    c0, c1 = draw & mask, draw >> 32
    c2, c3 = stream & mask, stream >> 32
    k0, k1 = seed & mask, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & mask, p0 >> 32 ^ c3 ^ k1, p0 & mask
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return ((c0 << 32 | c1) >> 11) * 2.0**-53


def drawn(logits: list[float], how: Drawing, used: Tokens, u: float) -> int:
    """Penalty, temperature, top_k with ties, top_p; then the inverse of the CDF."""
    x = list(logits)
    for token in set(used):
        penalty = how.repetition_penalty
        x[token] = x[token] * penalty if x[token] < 0 else x[token] / penalty
    order = sorted(range(len(x)), key=lambda t: (-x[t], t))
    if how.top_k:
        least = x[order[min(how.top_k, len(x)) - 1]]
        order = [t for t in order if x[t] >= least]
    weights = [math.exp((x[t] - x[order[0]]) / how.temperature) for t in order]
    total, reached, n = sum(weights), 0.0, 0
    while n < len(order) and (n == 0 or how.top_p >= 1 or reached < how.top_p * total):
        reached, n = reached + weights[n], n + 1
    kept, target, reached = weights[:n], u * sum(weights[:n]), 0.0
    chosen = order[0]
    for token, weight in zip(order, kept, strict=False):
        if weight == 0.0:
            break
        chosen, reached = token, reached + weight
        if reached > target:
            break
    return chosen


class Segment(Search):
    is_steered = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.how: Drawing = problem.drawing

    def grown(self, one: Hypothesis, token: int) -> Hypothesis:
        logprob = one.logprob + self.lm.logprob(self.context(one), token)
        self.stats.n_rollout_tokens += 1
        return dataclasses.replace(extend(self.problem, one, token), logprob=logprob)

    def draw(self, group: int, members: list[Hypothesis]) -> list[Hypothesis]:
        made = []
        for m, one in enumerate(members):
            if one.finish is None:
                context = self.context(one)
                logits = list(self.problem.table[self.lm._key(context)])
                for token in set(range(len(logits))) - {*self.lm.allowed(context)}:
                    logits[token] = -math.inf
                stream = group * self.how.n_proposal + m
                u = uniform(self.how.seed, stream, len(one.tokens))
                one = self.grown(one, drawn(logits, self.how, context, u))
            made.append(one)
        return made

    def beam(self, members: list[Hypothesis]) -> list[Hypothesis]:
        options: list[tuple[float, int, int]] = []
        for m, one in enumerate(members):
            if one.finish is not None:
                options.append((-one.logprob, -1, m))
                continue
            context = self.context(one)
            for token in self.lm.best(context, self.how.n_proposal):
                total = one.logprob + self.lm.logprob(context, token)
                options.append((-total, token, m))
        best = sorted(options)[: self.how.n_proposal]
        return [members[m] if t < 0 else self.grown(members[m], t) for _, t, m in best]

    def propose(self) -> list[list[Hypothesis]]:
        n = self.how.n_proposal
        is_beams = self.how.temperature == 0
        groups = []
        for live in self.live:
            is_single = live.finish is not None or is_beams
            groups.append([live] * (1 if is_single else n))
            self.stats.n_rollouts += n if live.finish is None else 0
        for _ in range(self.problem.lookahead):
            going = [one for group in groups for one in group if one.finish is None]
            if not going:
                break
            self.lm.evaluate([self.context(one) for one in going])
            groups = [
                group
                if self.live[g].finish is not None
                else self.beam(group)
                if is_beams
                else self.draw(g, group)
                for g, group in enumerate(groups)
            ]
        return groups

    def step(self) -> bool:
        groups = self.propose()
        self.observe(
            [
                (one, len(words_of(live)))
                for live, group in zip(self.live, groups, strict=True)
                for one in group
            ]
        )
        scored = self.rewarded([one for group in groups for one in group])
        places = [g for g, group in enumerate(groups) for _ in group]
        ranked = sorted(
            (-one.h, -one.logprob, one.tokens, i) for i, one in enumerate(scored)
        )
        kept = []
        for rank, (_, _, _, i) in enumerate(ranked):
            one = dataclasses.replace(scored[i], score=scored[i].h)
            self.record(one, places[i], rank < self.problem.num_beams)
            if rank < self.problem.num_beams:
                kept.append(one)
        self.go_on(kept)
        return all(one.finish is not None for one in kept)

    def record(self, one: Hypothesis, beam: int, is_chosen: bool) -> None:
        live = self.live[beam]
        n_base = len(live.tokens) - (live.finish is not None)
        row = Row(
            step=self.stats.n_steps,
            beam=beam,
            n_committed=n_base,
            token=one.tokens[n_base],
            logprob=one.logprob,
            h=one.h,
            score=one.score,
            is_finished=one.finish in ("end", "stop"),
            is_chosen=is_chosen,
            rollout=one.tokens[n_base + 1 :],
            rewards=one.rewards,
        )
        self.trace.append(row)

    def results(self) -> list[Hypothesis]:
        return self.live[: self.problem.num_return_sequences]


def segment(problem: Problem) -> Outcome:
    return Segment(problem).run()
