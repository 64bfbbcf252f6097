"""What the search benchmark measures: a record for each row of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import deal
from benchmarks.search_runs import Job, keywords, ranged, unbounded

NAIVE, LLAMA = "naive", "llama.cpp naive"
Axis = tuple[str, float]  # a setting and its value


def no_options(lm: deal.Model) -> dict[str, Any]:
    """Nothing beside rewards and search."""
    return {}


@dataclass(frozen=True)
class Setting:
    """One row of a table: how to decode, with what reward, and the goals.

    Attributes
    ----------
    name : str
    reward : callable or None
        Concepts of an item to a reward; None decodes without one.
    search : dict or None
        Keywords of `deal.Search`; None searches nothing.
    goal : float or None
        Slowdown of the exact mode to reach.
    goal_times : float or None
        How often faster than the naive search over llama.cpp.
    options : callable
        Other keywords of `deal.Model.chat`, given the model. A ``sampling`` gets
        the item's number as its seed.
    """

    name: str
    reward: Callable[[Mapping[str, Sequence[str]]], Any] | None = field(repr=False)
    search: dict[str, Any] | None
    goal: float | None = None
    goal_times: float | None = None
    options: Callable[[deal.Model], dict[str, Any]] = field(
        default=no_options, repr=False
    )

    def job(
        self,
        lm: deal.Model,
        mode: str,
        n: int,
        rounds: int,
        more: Mapping[str, Any] | None = None,
    ) -> Job:
        """Its runs on the first `n` items; `more` keywords of `deal.Search`."""
        options = self.options(lm)
        if self.search is None:
            return Job((self.name, "plain"), self.reward, None, n, rounds, options)
        search = deal.Search(**({"mode": mode} | self.search | dict(more or {})))
        key = (self.name, search.mode)
        return Job(key, self.reward, search, n, rounds, options)


SMALL = {"top_k": 5, "lookahead": 16, "reward_weight": 4.0, "num_beams": 1}
LARGE = {"top_k": 10, "lookahead": 32, "reward_weight": 10.0, "num_beams": 1}

# The first table: in the measured mode, naively, and naively over llama.cpp.
SETTINGS = (
    Setting("keywords, k=5, l=16", keywords, SMALL, 1.7, 30),
    Setting("keywords, k=10, l=32", keywords, LARGE, 2.6, 50),
    Setting("keywords, 4 beams, k=5, l=16", keywords, SMALL | {"num_beams": 4}, 6),
    Setting("Python reward in (0, 1), k=5, l=16", ranged, SMALL, 2.5),
    Setting("Python callable, no bound, k=5, l=16", unbounded, SMALL, 8),
)


def head_setting(head: deal.rewards.Classifier) -> Setting:
    """One more row of that table: the reward reads the model's hidden states."""
    name = "head over hidden states in (0, 1), k=5, l=16"
    return Setting(name, lambda concepts: head, SMALL, 6)


# One setting at a time, from the first of those above.
GRIDS: dict[str, tuple[float, ...]] = {
    "top_k": (2, 5, 10, 20),
    "lookahead": (4, 8, 16, 32),
    "reward_weight": (1.0, 2.0, 4.0, 10.0),
    "num_beams": (1, 2, 4, 8),
}


def sweep_settings() -> Iterator[tuple[Axis, Setting]]:
    """Every point of `GRIDS`; points that are the same one have the same name."""
    for axis, grid in GRIDS.items():
        for value in grid:
            search = SMALL | {axis: value}
            name = ", ".join(f"{key}={x:g}" for key, x in search.items())
            yield (axis, value), Setting(name, keywords, search)


def _drawn(temperature: float, top_p: float) -> Callable[..., dict[str, Any]]:
    sampling = deal.Sampling(temperature=temperature, top_p=top_p)
    return lambda lm: {"sampling": sampling}


def _segment(top_k: int, lookahead: int) -> dict[str, Any]:
    return {"mode": "segment", "top_k": top_k, "lookahead": lookahead}


def _best_of(n: int) -> dict[str, Any]:
    search = deal.Search.best_of_n(n)
    return _segment(n, search.lookahead) | {"num_beams": n}


# Sampling at temperature 1 is far from this model's best; the milder one is what is
# usual, and does all rows that draw a favour.
USUAL = _drawn(0.7, 0.95)

# The named modes, beside exact: another way to spend forward tokens is a row here.
MODES = (
    Setting("exact", keywords, SMALL),
    Setting("commit=2", keywords, SMALL | {"commit": 2}),
    Setting("commit=4", keywords, SMALL | {"commit": 4}),
    Setting("skip_above=0.99", keywords, SMALL | {"skip_above": 0.99}),
    Setting("skip_above=0.9", keywords, SMALL | {"skip_above": 0.9}),
    Setting("skip_above=0.5", keywords, SMALL | {"skip_above": 0.5}),
    Setting("segment, drawn, 4 of 8", keywords, _segment(4, 8), options=USUAL),
    Setting("segment, drawn, 16 of 8", keywords, _segment(16, 8), options=USUAL),
    Setting("segment, beams, 4 of 8", keywords, _segment(4, 8)),
    Setting("segment, beams, 16 of 8", keywords, _segment(16, 8)),
    Setting("best of 4", keywords, _best_of(4), options=USUAL),
    Setting("best of 16", keywords, _best_of(16), options=USUAL),
    Setting(
        "best of 16, temperature 1", keywords, _best_of(16), options=_drawn(1.0, 1.0)
    ),
    Setting("plain, drawn", None, None, options=USUAL),
    Setting("plain, 4 beams", None, None, options=lambda lm: {"num_beams": 4}),
)
