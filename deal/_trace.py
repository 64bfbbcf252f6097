"""What views of a search share: its candidates in words, and the way to its text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deal.generation import Candidate, Decision, Generation


def kind_of(candidate: Candidate) -> str:
    if candidate.is_chosen:
        return "chosen"
    return "scored" if candidate.score is not None else "pruned"


def verdict_of(candidate: Candidate) -> str:
    """The score, or the bound that made it unnecessary."""
    if candidate.score is not None:
        return f"score {candidate.score:.2f}"
    low, high = candidate.bounds
    if candidate.is_chosen:
        return f"score at least {low:.2f}" if math.isfinite(low) else "no rival"
    return f"score at most {high:.2f}" if math.isfinite(high) else "not needed"


def rewards_of(candidate: Candidate) -> str:
    """The rewards that are known, in words; empty where none is."""
    known = [
        f"{name} {score:.3g}"
        for name, score in candidate.rewards.items()
        if score is not None
    ]
    if candidate.reward is not None and len(known) != 1:
        known.insert(0, f"reward {candidate.reward:.3g}")
    return ", ".join(known)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def tokenizer_of(generation: Generation, tokenizer: Any) -> Any:
    """`tokenizer`, or that of the model which wrote it."""
    if tokenizer is None:
        tokenizer = generation._tokenizer
    if tokenizer is None:
        raise ValueError(
            "tokenizer: this generation was copied or unpickled and no longer knows "
            "the model's; give lm.tokenizer"
        )
    return tokenizer


def check_trace(generation: Generation) -> None:
    if not generation.trace:
        raise ValueError(
            "generation: expected one with a trace, as deal.Search with rewards makes "
            "it, got one without decisions"
        )


def likeliest(decision: Decision, beam: int) -> Candidate:
    """The model's first choice after hypothesis `beam`; ties to the lower token id."""
    rivals = [c for c in decision.candidates if c.beam == beam]
    return max(rivals, key=lambda c: (c.logprob, -c.token_id))


@dataclass(frozen=True)
class Step:
    """A decision on the way to a text, and the candidate that it took there."""

    decision: Decision
    chosen: Candidate
    before: Step | None

    def __iter__(self) -> Iterator[Step]:
        """The steps from this one back to the first."""
        step: Step | None = self
        while step is not None:
            yield step
            step = step.before


def _leads_to(last: Step, token_ids: Sequence[int]) -> bool:
    end = len(token_ids)
    for step in last:
        chosen = step.chosen
        taken = (chosen.token_id, *chosen.rollout)[: end - chosen.position]
        if len(taken) < end - chosen.position:
            return False
        if taken != tuple(token_ids[chosen.position : end]):
            return False
        end = chosen.position
    return end == 0


def path(generation: Generation) -> list[Step]:
    """The decisions whose choices are the generation's tokens, first to last; empty
    where its trace does not lead there."""
    live: dict[int, Step | None] = {0: None}
    ends: list[Step] = []
    for decision in generation.trace:
        following: dict[int, Step | None] = {}
        for candidate in decision.candidates:
            if not candidate.is_chosen or candidate.beam not in live:
                continue
            step = Step(decision, candidate, live[candidate.beam])
            if candidate.next_beam is None:
                ends.append(step)
            else:
                following[candidate.next_beam] = step
        live = following
    for last in ends:
        if _leads_to(last, generation.token_ids):
            return list(last)[::-1]
    return []
