"""What a generation returns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from deal._tree import Tree


@dataclass(frozen=True)
class Stats:
    """What one request cost; shared by the sequences that it returned.

    Attributes
    ----------
    n_prompt_tokens, n_forward_tokens, n_forward_passes : int
        Tokens of the prompt; tokens evaluated, prompt included, and in how many passes.
    n_steps : int
        Decisions taken.
    n_rollouts, n_rollout_tokens : int
        Candidates whose rollouts were evaluated, and the tokens taken there.
    n_skipped : int
        Decisions taken without rollouts, by ``Search.skip_above``.
    n_reward_calls, n_reward_texts : int
        Calls of reward functions, and completions scored.
    seconds_prefill, seconds_forward, seconds_reward, seconds_total : float
        Wall time: the prompt, all later forward passes, the rewards, everything.
    n_rollout_model_tokens, n_rollout_model_passes : int
        Of ``Search.rollout_model``, its prompt included; 0 without one. The counts of
        forward tokens and passes are the model's own.
    seconds_rollout_model : float
        Wall time of those passes.
    n_recalled_tokens : int
        Contexts that were used and that an earlier search had evaluated: in
        :func:`deal.sweep` alone, where they cost no forward pass.
    n_reused_tokens : int
        Tokens of rollouts that were known before; from here on in mode "exact" alone.
    n_pruned, n_settled : int
        Candidates whose score did not matter, and scores that were certain before the
        rollout's end.
    n_draft_tokens, n_draft_accepted : int
        Guessed tokens that were evaluated, and the right ones of them.
    n_ahead_tokens, n_in_vain : int
        Tokens evaluated before a decision asked for them, and those never asked for.
    """

    n_prompt_tokens: int
    n_forward_tokens: int
    n_forward_passes: int
    n_steps: int
    n_rollouts: int
    n_rollout_tokens: int
    n_reward_calls: int
    n_reward_texts: int
    seconds_prefill: float
    seconds_forward: float
    seconds_reward: float
    seconds_total: float
    n_skipped: int = 0
    n_reused_tokens: int = 0
    n_pruned: int = 0
    n_settled: int = 0
    n_draft_tokens: int = 0
    n_draft_accepted: int = 0
    n_ahead_tokens: int = 0
    n_in_vain: int = 0
    n_rollout_model_tokens: int = 0
    n_rollout_model_passes: int = 0
    seconds_rollout_model: float = 0.0
    n_recalled_tokens: int = 0


@dataclass(frozen=True)
class Candidate:
    """One candidate of a decision.

    Attributes
    ----------
    beam : int
        Index of the hypothesis that it extends, in the order of their tokens.
    token_id : int
    logprob : float
        Natural log, of the hypothesis and the candidate; in ``mode="segment"`` of
        the whole segment.
    rollout : tuple of int
        Greedy tokens after the candidate, of ``Search.rollout_model`` where there is
        one; in mode "exact" as many as were looked at,
        in mode "segment" the rest of the segment.
    reward : float or None
        Weighted sum of the rewards of the text up to the rollout's end. None, here and
        below, where mode "exact" did not need to know.
    rewards : dict of str to float or None
        Each reward, unweighted.
    score : float or None
        ``logprob + reward_weight * reward``.
    bounds : (float, float)
        The score lies in this range; twice the score where that is known. A candidate
        without a score that was not chosen was pruned by the upper end.
    is_finished : bool
        The candidate or its rollout reached an end token or a stop string.
    is_chosen : bool
    is_skipped : bool
        Taken without a rollout, by ``Search.skip_above``; it has a score only where it
        ends the text.
    next_beam : int or None
        Index of the hypothesis that it is at the next decision; None where it is none,
        as it was not chosen or is finished.
    position : int
        Tokens of that hypothesis before it: its index in ``token_ids`` where chosen.
    """

    beam: int
    token_id: int
    logprob: float
    rollout: tuple[int, ...]
    reward: float | None
    rewards: dict[str, float | None]
    score: float | None
    bounds: tuple[float, float]
    is_finished: bool
    is_chosen: bool
    is_skipped: bool = False
    next_beam: int | None = None
    position: int = 0


@dataclass(frozen=True)
class Decision:
    """One decision of the search: its candidates, best first.

    Those whose rank did not matter in mode "exact" come last, by falling upper bound.
    """

    step: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Generation:
    """One generated sequence.

    Attributes
    ----------
    text : str
        The completion, without special tokens and stop string.
    token_ids : tuple of int
        Generated ids, end token included.
    logprob : float
        Natural log, summed over `token_ids`, under the plain model: rewards are no
        part of it, controls in force are.
    reward : float
        Weighted sum of the rewards of `text`; 0 without rewards.
    rewards : dict of str to float
        Each reward of `text` by name, unweighted.
    score : float
        What the search ranked by: ``logprob + reward_weight * reward`` for DeAL,
        `reward` for ``mode="segment"``,
        ``logprob / len(token_ids) ** length_penalty`` for beam search, `logprob` else.
    finish_reason : {"stop", "length", "dead_end"}
        An end token or stop string, or the limit on tokens; or an end token, the only
        one left to a constraint that the text does not satisfy.
    stats : Stats
    trace : tuple of Decision
        Every decision of a DeAL search; empty for plain decoding.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    reward: float
    rewards: dict[str, float]
    score: float
    finish_reason: str
    stats: Stats = field(repr=False)
    trace: tuple[Decision, ...] = field(default=(), repr=False)

    # Of the model that wrote it, to show tokens; no field, so that comparing, asdict()
    # and pickles leave it out.
    _tokenizer: ClassVar[Any] = None

    def __str__(self) -> str:
        return self.text

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_tokenizer", None)
        return state

    def _repr_html_(self) -> str:
        from deal._html import page_part

        return page_part(self)

    def tree(self, tokenizer: Any = None) -> Tree:
        """The search as a tree to fold, zoom and hover over.

        Parameters
        ----------
        tokenizer : Tokenizer, optional
            Default: that of the model which wrote it.

        Returns
        -------
        deal.Tree
            Notebooks show it; ``.save("tree.html")`` writes one file that needs
            nothing else.

        Raises
        ------
        ValueError
            If the generation has no trace, or comes out of a pickle and no tokenizer is
            given.
        """
        from deal._tree import tree

        return tree(self, tokenizer)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def decisions(
    rows: Iterable[Mapping[str, Any]], names: tuple[str, ...]
) -> tuple[Decision, ...]:
    """Trace rows of the C search as decisions."""
    result = []
    for step, group in groupby(rows, key=lambda row: row["step"]):
        candidates = tuple(
            Candidate(
                beam=row["beam"],
                token_id=row["token_id"],
                logprob=row["logprob"],
                rollout=tuple(row["rollout"]),
                reward=_known(row["reward"]),
                rewards=dict(zip(names, map(_known, row["rewards"]), strict=True)),
                score=_known(row["score"]),
                bounds=(row["low"], row["high"]),
                is_finished=row["is_finished"],
                is_chosen=row["is_chosen"],
                is_skipped=row["is_skipped"],
                next_beam=row["next_beam"] if row["next_beam"] >= 0 else None,
                position=row["n_committed"],
            )
            for row in group
        )
        result.append(Decision(step, candidates))
    return tuple(result)
