"""Greedy decoding, beam search and DeAL in plain Python, over a table of logits.

What csrc/search does, written once more so that it can be read next to the paper
(Huang et al., arXiv:2402.06147, action selection):

    c(y_t) = log P(y_1:t | prompt) + reward_weight * h(y_1:t+l, prompt)

Nothing here is fast, and nothing is shared with the package. Contexts are tuples of
token ids, a hypothesis is built anew from its tokens, and texts are decoded whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from formula_twin import Term, formula_value
from mask_twin import Automaton
from text_twin import decode

Tokens = tuple[int, ...]

# A reward is a pure function of the prompt's text, the completion's text, its tokens
# without an end token, and whether an end token or a stop string closed it.
Reward = Callable[[str, str, Tokens, bool], float]


@dataclass(frozen=True)
class Rollouts:
    """Another model, which rolls out."""

    table: dict[Tokens, list[float]]  # as those of Problem
    n_back: int
    n_ctx: int
    n_vocab: int
    log_z: dict[Tokens, float] = field(default_factory=dict)  # not asked


@dataclass(frozen=True)
class Problem:
    """A model, a vocabulary and a request."""

    table: dict[Tokens, list[float]]  # the last n_back tokens -> logits
    log_z: dict[Tokens, float]  # the same -> natural log of sum(exp(logits))
    n_back: int
    n_ctx: int
    pieces: list[tuple[int, bytes]]  # kind and bytes of each token
    byte_rule: int
    prompt: Tokens
    prompt_text: str
    end_tokens: tuple[int, ...]
    stops: tuple[str, ...]
    rewards: tuple[tuple[float, Reward], ...]  # with their weights
    max_new_tokens: int
    num_return_sequences: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    top_k: int = 1
    lookahead: int = 0
    reward_weight: float = 0.0
    commit: int = 1
    tricks: int = 15  # of the C search in mode exact
    skip_above: float = 0.0  # 0: off
    cost: tuple[float, float] = (0.0, 0.0)  # of a pass and a row; 0: as measured
    rollouts: Rollouts | None = None  # None: the model itself rolls out
    drawing: Any = None  # of segment_twin.py
    formula: tuple[Term, ...] = ()  # in place of the weighted sum
    numbers: tuple[float, ...] = ()  # of its schedules
    constraint: Automaton | None = None

    @property
    def n_vocab(self) -> int:
        return len(self.pieces)

    @property
    def has_states(self) -> bool:
        """Whether a reward reads hidden states: it knows the prompt's tokens."""
        return any(hasattr(reward, "context") for _, reward in self.rewards)

    @property
    def n_new_max(self) -> int:
        """Most tokens there may be: the context holds prompt and completion."""
        return min(self.max_new_tokens, self.n_ctx - len(self.prompt))


@dataclass(frozen=True)
class Hypothesis:
    tokens: Tokens = ()
    text: str = ""
    finish: str | None = None  # "end", "stop", "length", at last "dead end"
    logprob: float = 0.0
    h: float = 0.0
    rewards: tuple[float, ...] = ()
    score: float = 0.0


@dataclass
class Candidate:
    """One token that may follow a hypothesis of the beam."""

    beam: int
    token: int
    first: Hypothesis  # with the token
    last: Hypothesis  # with the token and its rollout
    score: float = 0.0
    is_chosen: bool = False


@dataclass(frozen=True)
class Row:
    """One candidate of one decision; rows lie in the order of their ranks."""

    step: int
    beam: int
    n_committed: int
    token: int
    logprob: float
    h: float
    score: float
    is_finished: bool
    is_chosen: bool
    rollout: Tokens
    rewards: tuple[float, ...]
    is_skipped: bool = False


@dataclass
class Stats:
    n_prompt_tokens: int = 0
    n_forward_tokens: int = 0
    n_forward_passes: int = 0
    n_steps: int = 0
    n_rollouts: int = 0
    n_rollout_tokens: int = 0
    n_skipped: int = 0
    n_reward_texts: int = 0
    n_batches: list[int] = field(default_factory=list)  # calls of the LM in each step
    # Texts that a reward with a memory must be asked for, and calls for them.
    n_new_texts: int = 0
    n_new_calls: int = 0
    n_alone: list[int] = field(default_factory=list)  # in each call, by the text alone
    n_rollout_model_tokens: int = 0
    n_rollout_model_passes: int = 0


@dataclass(frozen=True)
class Outcome:
    results: list[Hypothesis]  # by falling score
    trace: list[Row]
    stats: Stats


# --- the language model --------------------------------------------------------------


class TableLM:
    """A trie of contexts. What it holds costs nothing to ask again.

    With a constraint it has no other tokens than those that may come. A context with
    only one is put off where nothing but that token is asked.
    """

    def __init__(
        self, problem: Problem | Rollouts, stats: Stats, request: Problem
    ) -> None:
        self.problem, self.stats, self.request = problem, stats, request
        self.held: set[Tokens] = set()
        self.put_off: set[Tokens] = set()
        self.n_batches = 0

    def allowed(self, context: Tokens) -> Sequence[int]:
        request = self.request
        if request.constraint is None:
            return range(request.n_vocab)
        tokens = context[len(request.prompt) :]
        return request.constraint.allowed(tokens, request.end_tokens)

    def is_forced(self, context: Tokens) -> bool:
        is_prompt = len(context) == len(self.request.prompt)
        has_one = self.request.constraint and len(self.allowed(context)) == 1
        return bool(has_one) and not is_prompt

    def evaluate_for_ids(self, contexts: Sequence[Tokens]) -> None:
        """One batch of those whose next token is not known without."""
        self.put_off |= {c for c in contexts if self.is_forced(c)}
        open_ones = [c for c in contexts if not self.is_forced(c)]
        if open_ones:
            self.evaluate(open_ones)

    def evaluate(self, contexts: Sequence[Tokens]) -> None:
        """One batch; every context that is not held yet is one forward token."""
        self.n_batches += 1
        paths = {c[:n] for c in contexts for n in range(1, len(c) + 1)}
        new = paths - self.held
        self.held |= new
        self.stats.n_forward_tokens += len(new)
        self.stats.n_forward_passes += bool(new)

    def keep(self, contexts: Sequence[Tokens]) -> None:
        """Forgets all that is no beginning of one of these."""
        kept = {c[:n] for c in contexts for n in range(1, len(c) + 1)}
        self.held &= kept
        self.put_off &= kept

    def _key(self, context: Tokens) -> Tokens:
        assert context in self.held, "read before it was evaluated"
        none = self.problem.n_vocab  # stands for "no such token"
        return ((none,) * self.problem.n_back + context)[-self.problem.n_back :]

    def best(self, context: Tokens, n: int) -> list[int]:
        """The n likeliest tokens; of equal ones the lower id comes first."""
        allowed = self.allowed(context)
        if len(allowed) == 1:
            return list(allowed)
        logits = self.problem.table[self._key(context)]
        return sorted(allowed, key=lambda t: (-logits[t], t))[:n]

    def logprob(self, context: Tokens, token: int) -> float:
        key = self._key(context)
        return self.problem.table[key][token] - self.problem.log_z[key]


# --- text and its end ----------------------------------------------------------------


def extend(problem: Problem, hypothesis: Hypothesis, token: int) -> Hypothesis:
    """The hypothesis with one more token; it may end with it."""
    assert hypothesis.finish is None
    tokens = (*hypothesis.tokens, token)
    if token in problem.end_tokens:
        return dataclasses.replace(hypothesis, tokens=tokens, finish="end")
    text = decode(problem.pieces, problem.byte_rule, tokens)
    cuts = [text.index(stop) for stop in problem.stops if stop in text]
    finish = None
    if cuts:
        text, finish = text[: min(cuts)], "stop"
    elif len(tokens) == problem.n_new_max:
        finish = "length"
    return dataclasses.replace(hypothesis, tokens=tokens, text=text, finish=finish)


# --- the pool of finished hypotheses -------------------------------------------------


class Pool:
    """The best finished ones by falling score; of equals the earlier stays ahead."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.best: list[Hypothesis] = []

    @property
    def is_full(self) -> bool:
        return len(self.best) == self.size

    def add(self, hypothesis: Hypothesis) -> bool:
        if self.is_full and not hypothesis.score > self.best[-1].score:
            return False
        del self.best[self.size - 1 :]
        n_ahead = sum(other.score >= hypothesis.score for other in self.best)
        self.best.insert(n_ahead, hypothesis)
        return True

    def is_final(self, live: Sequence[Hypothesis]) -> bool:
        """Whether none of those that would go on can enter any more."""
        if not live:
            return True
        return self.is_full and all(one.score <= self.best[-1].score for one in live)


# --- the searches --------------------------------------------------------------------


class Search:
    """What greedy decoding, beam search and DeAL share."""

    is_steered = False  # rewards take part in the decisions

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.stats = Stats(n_prompt_tokens=len(problem.prompt))
        self.lm = self.roller = TableLM(problem, self.stats, problem)
        if problem.rollouts:
            self.roller = TableLM(problem.rollouts, Stats(), problem)
        self.trace: list[Row] = []
        self.live = [Hypothesis()]
        self.pool = Pool(problem.num_beams)
        self.asked: set[tuple[str, int, bool] | str] = set()

    def run(self) -> Outcome:
        is_done = False
        while not is_done:
            self.lm.n_batches = 0
            is_done = self.step()
            self.stats.n_steps += 1
            self.stats.n_batches.append(self.lm.n_batches)
        if self.roller is not self.lm:
            counts = self.roller.stats
            self.stats.n_rollout_model_tokens = counts.n_forward_tokens
            self.stats.n_rollout_model_passes = counts.n_forward_passes
        results = self.results()
        if not self.is_steered and self.problem.rewards:
            self.lm.n_batches = 0
            self.observe([(one, 0) for one in results])
            self.stats.n_batches[-1] += self.lm.n_batches
            results = self.rewarded(results)
        return Outcome([self.told(one) for one in results], self.trace, self.stats)

    def told(self, one: Hypothesis) -> Hypothesis:
        """The same, or said to have ended where nothing led on."""
        constraint, ends = self.problem.constraint, self.problem.end_tokens
        if one.finish != "end" or not constraint:
            return one
        if constraint.is_match(one.tokens[:-1], ends):
            return one
        return dataclasses.replace(one, finish="dead end")

    def step(self) -> bool:
        raise NotImplementedError

    def results(self) -> list[Hypothesis]:
        return self.pool.best[: self.problem.num_return_sequences]

    def context(self, hypothesis: Hypothesis) -> Tokens:
        return self.problem.prompt + hypothesis.tokens

    def expand(self, n: int) -> list[Candidate]:
        """The n best tokens of every live hypothesis."""
        self.lm.evaluate([self.context(live) for live in self.live])
        candidates = []
        for beam, live in enumerate(self.live):
            context = self.context(live)
            for token in self.lm.best(context, n):
                made = dataclasses.replace(
                    extend(self.problem, live, token),
                    logprob=live.logprob + self.lm.logprob(context, token),
                )
                candidates.append(Candidate(beam, token, made, made))
        return candidates

    def go_on(self, live: list[Hypothesis]) -> None:
        self.live = live
        kept = [self.context(one) for one in live]
        if self.problem.has_states and not self.is_steered:
            kept += [self.context(one)[:-1] for one in self.pool.best]
        for lm in {self.lm, self.roller}:
            lm.keep(kept)

    def observe(self, known: Sequence[tuple[Hypothesis, int]]) -> None:
        """Reads the hidden states of hypotheses; of their first n they are known."""
        lacking = [words_of(one) for one, n in known if len(words_of(one)) > n]
        if self.problem.has_states and lacking:
            self.lm.evaluate([self.problem.prompt + tokens for tokens in lacking])

    def rewarded(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The same with every reward's value and their weighted sum."""
        self.count_texts(hypotheses)
        return [self.with_rewards(one) for one in hypotheses]

    def position(self) -> float:
        """Tokens before the decision; all live hypotheses have as many."""
        return len(self.live[0].tokens) if self.is_steered else math.inf

    def with_rewards(self, one: Hypothesis) -> Hypothesis:
        told = (one.text, words_of(one), one.finish in ("end", "stop"))
        values, h = [], 0.0
        for weight, reward in self.problem.rewards:
            values.append(reward(self.problem.prompt_text, *told))
            h += weight * values[-1]
        if self.problem.formula:
            formula, numbers = self.problem.formula, self.problem.numbers
            h = formula_value(formula, numbers, values, self.position())
        return dataclasses.replace(one, rewards=tuple(values), h=h)

    def count_texts(self, hypotheses: Sequence[Hypothesis]) -> None:
        self.stats.n_reward_texts += len(hypotheses) * len(self.problem.rewards)
        told = {
            (one.text, len(words_of(one)), one.finish in ("end", "stop"))
            for one in hypotheses
        }
        self.stats.n_new_texts += len(told - self.asked)
        self.stats.n_new_calls += bool(told - self.asked)
        alone = {one.text for one in hypotheses} - self.asked
        self.stats.n_alone += [len(alone)] * bool(alone)
        self.asked |= told | alone


def words_of(hypothesis: Hypothesis) -> Tokens:
    """Its tokens without the end token, which adds no text."""
    tokens = hypothesis.tokens
    return tokens[:-1] if hypothesis.finish == "end" else tokens


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """By falling score; ties break on the lower token id, then on the lower beam."""
    return sorted(candidates, key=lambda c: (-c.score, c.token, c.beam))


class Greedy(Search):
    def step(self) -> bool:
        [best] = self.expand(1)
        one = dataclasses.replace(best.first, score=best.first.logprob)
        self.go_on([one])
        return one.finish is not None

    def results(self) -> list[Hypothesis]:
        return self.live


class Beam(Search):
    """Beam search as transformers has it, with early_stopping=False."""

    def step(self) -> bool:
        # So many that num_beams are left when every end token is among them.
        n = self.problem.num_beams * max(2, 1 + len(self.problem.end_tokens))
        candidates = self.expand(n)
        for candidate in candidates:
            candidate.score = candidate.first.logprob
        n_beams, going = self.problem.num_beams, []
        for rank, candidate in enumerate(ranked(candidates)):
            one = candidate.first
            one = dataclasses.replace(one, score=self.length_score(one))
            if one.finish is None:
                going.append((candidates.index(candidate), one))
            elif rank < n_beams:
                self.pool.add(one)
        going = sorted(going[:n_beams], key=lambda pair: pair[0])
        self.go_on([one for _, one in going])
        return self.pool.is_final(self.live)

    def length_score(self, one: Hypothesis) -> float:
        if one.logprob == 0.0:
            return 0.0
        return one.logprob / float(len(one.tokens)) ** self.problem.length_penalty


class Deal(Search):
    """DeAL as the paper writes it; a winner takes `commit` tokens of its rollout."""

    is_steered = True

    def step(self) -> bool:
        candidates = self.expand(self.problem.top_k)
        self.observe([(live, 0) for live in self.live])
        if self.is_sure(candidates[0]):
            return self.skip(candidates[0])
        self.roll_out(candidates)
        self.score(candidates)
        order = ranked(candidates)
        n_beams = self.problem.num_beams
        for candidate in order[:n_beams]:
            if candidate.first.finish is not None:
                candidate.is_chosen = self.pool.add(candidate.last)
        winners = [c for c in order if c.first.finish is None][:n_beams]
        winners.sort(key=candidates.index)  # beams lie as their tokens came
        live, going = [], []
        for winner, one in zip(winners, self.committed(winners), strict=True):
            if one.finish is not None:
                winner.is_chosen = self.pool.add(one)
            else:
                live.append(one)
                going.append(winner)
        is_done = self.pool.is_final(live)
        for winner in going:
            winner.is_chosen = not is_done
        self.record(order)
        self.go_on(live)
        return is_done

    def is_sure(self, top: Candidate) -> bool:
        least = self.problem.skip_above
        [live] = self.live if least else [None]
        return bool(live) and (
            math.exp(self.lm.logprob(self.context(live), top.token)) >= least
        )

    def skip(self, top: Candidate) -> bool:
        """Takes the top candidate; it needs a score only where it is the result."""
        self.stats.n_skipped += 1
        is_done = top.first.finish is not None
        if is_done:
            self.score([top])
            self.pool.add(top.last)
        else:
            nans = (math.nan,) * len(self.problem.rewards)
            top.score = math.nan
            top.last = dataclasses.replace(top.first, h=math.nan, rewards=nans)
        top.is_chosen = True
        self.record([top], is_skipped=True)
        self.go_on([] if is_done else [top.first])
        return is_done

    def roll_out(self, candidates: Sequence[Candidate]) -> None:
        """Greedy continuations, all in lockstep: one batch for each position."""
        n = self.problem.lookahead
        if not self.problem.rewards:
            n = self.problem.commit - 1  # nothing looks at more
        if (
            self.roller is not self.lm
            and n
            and any(not c.last.finish for c in candidates)
        ):
            self.roller.evaluate([self.problem.prompt])  # the first time
            lives = {self.context(live) for live in self.live}
            self.roller.evaluate(sorted(lives - self.roller.put_off))
        for i in range(n):
            going = [c for c in candidates if c.last.finish is None]
            if not going:
                break
            self.roller.evaluate_for_ids([self.context(c.last) for c in going])
            self.stats.n_rollouts += len(going) if i == 0 else 0
            self.stats.n_rollout_tokens += len(going)
            for candidate in going:
                [token] = self.roller.best(self.context(candidate.last), 1)
                candidate.last = extend(self.problem, candidate.last, token)

    def score(self, candidates: Sequence[Candidate]) -> None:
        weight = self.problem.reward_weight
        lasts = [c.last for c in candidates]
        if self.problem.rewards:
            self.observe([(c.last, len(c.first.tokens) - 1) for c in candidates])
            lasts = self.rewarded(lasts)
        for candidate, last in zip(candidates, lasts, strict=True):
            candidate.score = last.logprob + weight * last.h
            candidate.last = dataclasses.replace(last, score=candidate.score)

    def committed(self, winners: Sequence[Candidate]) -> list[Hypothesis]:
        """Each winner with the tokens it takes; finished where that is its end."""
        taken = []
        for winner in winners:
            n_base = len(winner.first.tokens) - 1
            taken.append(winner.last.tokens[: n_base + self.problem.commit])
        inner = [
            self.problem.prompt + tokens[:-1]
            for winner, tokens in zip(winners, taken, strict=True)
            if len(tokens) > len(winner.first.tokens)
        ]
        if inner:
            self.lm.evaluate(inner)  # for log-probs; held, where it has rolled out
        return [self.commit(*pair) for pair in zip(winners, taken, strict=True)]

    def commit(self, winner: Candidate, tokens: Tokens) -> Hypothesis:
        one, logprob = winner.first, winner.first.logprob
        for token in tokens[len(one.tokens) :]:
            logprob += self.lm.logprob(self.context(one), token)
            one = extend(self.problem, one, token)
        last = winner.last
        score = logprob + self.problem.reward_weight * last.h
        return dataclasses.replace(
            one, logprob=logprob, score=score, h=last.h, rewards=last.rewards
        )

    def record(self, order: Sequence[Candidate], is_skipped: bool = False) -> None:
        for candidate in order:
            n_base = len(candidate.first.tokens) - 1
            row = Row(
                step=self.stats.n_steps,
                beam=candidate.beam,
                n_committed=n_base,
                token=candidate.token,
                logprob=candidate.first.logprob,
                h=candidate.last.h,
                score=candidate.score,
                is_finished=candidate.last.finish in ("end", "stop"),
                is_chosen=candidate.is_chosen,
                rollout=candidate.last.tokens[n_base + 1 :],
                rewards=candidate.last.rewards,
                is_skipped=is_skipped,
            )
            self.trace.append(row)


def greedy(problem: Problem) -> Outcome:
    return Greedy(problem).run()


def beam_search(problem: Problem) -> Outcome:
    return Beam(problem).run()


def deal_search(problem: Problem) -> Outcome:
    return Deal(problem).run()
