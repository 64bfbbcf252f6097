"""Settings of a generation: how to sample, and how to search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deal.model import Model

_MODES = {"naive": 2, "exact": 3, "segment": 4}  # deal_search_mode
_INT_MAX = 2**31 - 1


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int in [low, high], or an error that names it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r:.80}")
    try:
        value = value.__index__()
    except TypeError:  # an array
        raise TypeError(f"{name}: expected an integer, got {value!r:.80}") from None
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name}: expected {wanted}, got {value}")
    return value


def check_float(name: str, value: Any, wanted: str, holds: Any) -> float:
    """`value` as a finite float for which `holds`, or an error that names it."""
    if isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        value = float(value)
    except (TypeError, OverflowError):
        raise TypeError(f"{name}: expected a number, got {value!r:.80}") from None
    if not math.isfinite(value) or not holds(value):
        raise ValueError(f"{name}: expected {wanted}, got {value}")
    return value


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the names and the order are transformers'.

    Parameters
    ----------
    temperature : float, default=1.0
        At least 0; 0 takes the most likely token.
    top_k : int, default=0
        Keep the `top_k` most likely tokens; 0 keeps all.
    top_p : float, default=1.0
        In (0, 1]: keep the smallest set of tokens whose probability reaches it.
    min_p : float, default=0.0
        In [0, 1]: drop tokens below `min_p` times the largest probability.
    repetition_penalty : float, default=1.0
        Above 0; values above 1 make tokens of the prompt and the text less likely.
    seed : int, default=0
        In [0, 2**64): the same seed gives the same text, at any thread count.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_float("temperature", self.temperature, "at least 0", lambda x: x >= 0)
        check_int("top_k", self.top_k, 0)
        check_float("top_p", self.top_p, "a value in (0, 1]", lambda x: 0 < x <= 1)
        check_float("min_p", self.min_p, "a value in [0, 1]", lambda x: 0 <= x <= 1)
        check_float(
            "repetition_penalty", self.repetition_penalty, "above 0", lambda x: x > 0
        )
        check_int("seed", self.seed, 0, 2**64 - 1)


@dataclass(frozen=True)
class Exact:
    """What makes mode "exact" fast; for measuring what each part is worth.

    No setting changes a decision, a score or a text.

    Parameters
    ----------
    reuse : bool, default=True
        Keep what was evaluated while it can still be reached: the winner's rollout is
        the next decision's, one token short.
    bounds : bool, default=True
        Drop a candidate as soon as its reward cannot make up for its log-prob any more,
        and end a rollout once its reward is settled.
    drafts : bool, default=True
        Guess how a rollout goes on from what was seen before, and check the guess in
        one pass.
    speculation : bool, default=True
        Fill room in a batch with what the next decisions will ask for.
    """

    reuse: bool = True
    bounds: bool = True
    drafts: bool = True
    speculation: bool = True

    def __post_init__(self) -> None:
        for name in _TRICKS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected a bool, got {getattr(self, name)!r}")


_TRICKS = {"reuse": 1, "bounds": 2, "drafts": 4, "speculation": 8}  # DEAL_TRICK_*


@dataclass(frozen=True)
class Search:
    """How DeAL searches.

    A candidate token y_t scores ``log P(y_1:t | prompt) + reward_weight * h``, where h
    is the weighted sum of the rewards of the text so far, the candidate and its greedy
    rollout of `lookahead` tokens [1]_. A rollout ends at an end token or a stop string
    and never passes ``max_new_tokens``.

    Parameters
    ----------
    top_k : int, default=5
        Candidates for each hypothesis: its most likely next tokens. At least 1.
    lookahead : int, default=16
        Tokens of greedy rollout; 0 scores candidates without one.
    reward_weight : float, default=1.0
        Nats of log-prob that one unit of reward is worth; 0 is plain greedy or beam
        search.
    num_beams : int, default=1
        Hypotheses kept. At least 1.
    commit : int, default=1
        Tokens taken by one decision: the candidate and the first ``commit - 1`` of its
        rollout. In [1, lookahead + 1]; more is faster and no longer the paper's search.
    mode : {"exact", "naive", "segment"}, default="exact"
        "naive" is the paper's loop as written: every decision rolls out every
        candidate. "exact" takes the same decisions, token for token and score for
        score, and leaves out the work that cannot change them. "segment" is another
        search, not exact and not the paper's.
    exact : Exact, optional
        Switches of mode "exact", for measurements.
    skip_above : float, optional
        In (0, 1]: a decision whose top candidate has at least this probability takes
        that one token without rollouts, whatever `commit` is. Faster, and no longer the
        paper's search; modes "naive" and "exact" still agree. With num_beams=1 alone.
    rollout_model : Model, optional
        Rolls out instead of the model that searches: the paper's pair of a model that
        selects and a cheaper one that looks ahead. It has the same tokens. Modes
        "naive" and "exact" alone, which still agree.
    check_rewards : bool, default=False
        Hold what rewards state as their bounds against the scores that come; the first
        score outside raises :class:`deal.RewardError` with the reward, both texts,
        bound and score. For testing rewards: every candidate is rolled out and scored
        in every mode, so that it takes the time of mode "naive" and more. No decision
        changes. See :func:`deal.rewards.check` too.

    Notes
    -----
    With a `rollout_model`, candidates and all log-probs are those of the model that
    generates; only what follows a candidate in its rollout is the other's. With
    ``commit > 1`` a winner takes tokens that the other model has written along; the
    first model evaluates them, and theirs too are its own log-probs. The other model
    needs a context that holds the prompt and ``max_new_tokens``; controls, threads and
    `kv_budget` are each model's own. Settings with a model can be compared and
    copied, and share it; they do not pickle.

    ``mode="segment"`` proposes for each hypothesis `top_k` continuations of
    `lookahead` tokens, and keeps the `num_beams` best of all by reward alone, until all
    that are kept are finished; this is what AISteer360 calls DeAL [2]_. Equal rewards
    go to the larger log-prob, then to the lower token ids. With ``sampling`` beside it
    the proposals are drawn, independently, so that two may be the same; without, or
    with a temperature of 0, they are those of a beam search within the segment.
    `reward_weight` and `commit` stay at their defaults. A segment as long as the
    completion is best of n: see `best_of_n`.

    References
    ----------
    .. [1] J. Y. Huang et al., "DeAL: Decoding-time Alignment for Large Language
       Models", arXiv:2402.06147, 2024, section on action selection.
    .. [2] IBM AISteer360, output control "DeAL":
       https://github.com/IBM/AISteer360
    """

    top_k: int = 5
    lookahead: int = 16
    reward_weight: float = 1.0
    num_beams: int = 1
    commit: int = 1
    mode: str = "exact"
    exact: Exact = Exact()
    skip_above: float | None = None
    rollout_model: Model | None = None
    check_rewards: bool = False

    def __post_init__(self) -> None:
        check_int("top_k", self.top_k, 1)
        check_int("lookahead", self.lookahead, 0)
        check_float(
            "reward_weight", self.reward_weight, "a finite number", lambda x: True
        )
        check_int("num_beams", self.num_beams, 1)
        check_int("commit", self.commit, 1, self.lookahead + 1)
        if self.mode not in _MODES:
            raise ValueError(
                f"mode: expected one of {sorted(_MODES)}, got {self.mode!r}"
            )
        if not isinstance(self.exact, Exact):
            raise TypeError(f"exact: expected deal.Exact, got {self.exact!r}")
        if not isinstance(self.check_rewards, bool):
            raise TypeError(
                f"check_rewards: expected a bool, got {self.check_rewards!r}"
            )
        if self.skip_above is not None:
            self._check_skip()
        if self.rollout_model is not None:
            self._check_rollout_model()
        if self.mode == "segment":
            self._check_segment()

    def _check_rollout_model(self) -> None:
        from deal.model import Model

        if not isinstance(self.rollout_model, Model):
            raise TypeError(
                f"rollout_model: expected deal.Model, got {self.rollout_model!r}"
            )
        if self.mode == "segment":
            raise ValueError(
                'rollout_model: mode="segment" has no rollouts; expected None, got '
                f"{self.rollout_model!r}"
            )

    def _check_skip(self) -> None:
        check_float(
            "skip_above",
            self.skip_above,
            "None or a value in (0, 1]",
            lambda x: 0 < x <= 1,
        )
        if self.mode == "segment":
            raise ValueError(
                'skip_above: mode="segment" takes no decisions by token; expected '
                f"None, got {self.skip_above}"
            )
        if self.num_beams != 1:
            raise ValueError(
                "skip_above: beams compare the scores that it leaves out; expected "
                f"num_beams=1 beside it, got num_beams={self.num_beams}"
            )

    def _check_segment(self) -> None:
        check_int("lookahead", self.lookahead, 1)
        if self.reward_weight != 1.0:
            raise ValueError(
                'reward_weight: mode="segment" keeps by reward alone; expected 1, got '
                f"{self.reward_weight}"
            )
        if self.commit != 1:
            raise ValueError(
                'commit: mode="segment" takes whole segments, of `lookahead` tokens; '
                f"expected 1, got {self.commit}"
            )

    @classmethod
    def best_of_n(cls, n: int) -> Search:
        """Whole completions, `n` of them, ranked by reward alone.

        With ``sampling`` these are the `n` sequences that sampling alone returns for
        ``num_return_sequences=n`` and the same seed, as TRL's ``BestOfNSampler`` ranks
        them [1]_; without, those of a beam search. ``num_return_sequences`` gives so
        many of the best. It is ``mode="segment"`` with a segment without end.

        Parameters
        ----------
        n : int
            At least 1.

        References
        ----------
        .. [1] L. von Werra et al., "TRL: Transformer Reinforcement Learning",
           https://github.com/huggingface/trl, ``BestOfNSampler``.
        """
        n = check_int("n", n, 1)
        return cls(top_k=n, num_beams=n, lookahead=_INT_MAX, mode="segment")


_DEFAULTS: dict[str, Any] = {  # fields of deal_search_params
    "mode": 0,
    "n_new_max": 1,
    "n_return": 1,
    "repetition_penalty": 1.0,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "seed": 0,
    "beam_size": 1,
    "length_penalty": 1.0,
    "lookahead_len": 0,
    "reward_weight": 0.0,
    "commit": 1,
    "tricks": 0,
    "n_proposal": 1,
    "skip_above": 0.0,
    "is_checked": False,
}


def sample_params(sampling: Sampling | None) -> dict[str, Any]:
    """C parameters of sampling; of greedy decoding where there are no settings."""
    if sampling is None:
        return dict(_DEFAULTS)
    return _DEFAULTS | {
        "temperature": float(sampling.temperature),
        "top_k": min(int(sampling.top_k), _INT_MAX),
        "top_p": float(sampling.top_p),
        "min_p": float(sampling.min_p),
        "repetition_penalty": float(sampling.repetition_penalty),
        "seed": int(sampling.seed),
    }


def beam_params(num_beams: int, length_penalty: float) -> dict[str, Any]:
    """C parameters of plain beam search."""
    return _DEFAULTS | {
        "mode": 1,
        "beam_size": check_int("num_beams", num_beams, 1, _INT_MAX),
        "length_penalty": check_float(
            "length_penalty", length_penalty, "a finite number", lambda x: True
        ),
    }


def segment_params(search: Search, sampling: Sampling | None) -> dict[str, Any]:
    """C parameters of a segment search; of beams in the segment without `sampling`."""
    return sample_params(sampling) | {
        "mode": _MODES["segment"],
        "n_proposal": check_int("top_k", search.top_k, 1, _INT_MAX),
        "lookahead_len": min(int(search.lookahead), _INT_MAX),
        "beam_size": check_int("num_beams", search.num_beams, 1, _INT_MAX),
        "is_checked": search.check_rewards,
    }


def search_params(search: Search) -> dict[str, Any]:
    """C parameters of DeAL."""
    return _DEFAULTS | {
        "mode": _MODES[search.mode],
        "top_k": int(search.top_k),
        "lookahead_len": min(int(search.lookahead), _INT_MAX - 1),
        "reward_weight": float(search.reward_weight),
        "beam_size": check_int("num_beams", search.num_beams, 1, _INT_MAX),
        "commit": min(int(search.commit), _INT_MAX),
        "tricks": sum(
            bit for name, bit in _TRICKS.items() if getattr(search.exact, name)
        ),
        "skip_above": float(search.skip_above or 0.0),
        "is_checked": search.check_rewards,
    }
