"""What ``--gen_kwargs`` of the harness mean for :meth:`deal.Model.generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deal._reward_spec import RewardSpec
from deal.settings import Sampling, Search

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
_SEARCH = {
    "search_mode": "mode",
    "top_k": "top_k",
    "lookahead": "lookahead",
    "reward_weight": "reward_weight",
    "num_beams": "num_beams",
    "commit": "commit",
    "skip_above": "skip_above",
}
_BEAMS = ("num_beams", "length_penalty")
_OWN = ("do_sample", "until", "max_gen_toks", "rewards", "best_of_n")
KNOWN = tuple(sorted({*_SAMPLING, *_SEARCH, *_BEAMS, *_OWN}))


@dataclass(frozen=True)
class GenerateOptions:
    """A request's settings, checked.

    Attributes
    ----------
    max_gen_toks : int
    until : tuple of str
        Strings that end the text; none of them is empty.
    sampling : Sampling or None
        None where nothing is drawn.
    search : Search or None
    spec : RewardSpec or None
    beams : mapping
        Keywords of plain beam search.
    """

    max_gen_toks: int
    until: tuple[str, ...]
    sampling: Sampling | None
    search: Search | None
    spec: RewardSpec | None
    beams: Mapping[str, Any]


def read_options(given: Mapping[str, Any]) -> GenerateOptions:
    """Settings of one request, as the harness' ``normalize_gen_kwargs`` gives them.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, a bad value, or settings that exclude each other.
    """
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise ValueError(
            f"gen_kwargs: expected only {', '.join(KNOWN)}, got {', '.join(unknown)}"
        )
    has_rewards = given.get("rewards") is not None
    spec = RewardSpec(given["rewards"]) if has_rewards else None
    search = _search(given) if has_rewards else None
    if not has_rewards:
        for name in (set(_SEARCH) - set(_SAMPLING) - set(_BEAMS)) | {"best_of_n"}:
            if given.get(name) is not None:
                raise ValueError(
                    f"gen_kwargs: {name} is a setting of a search, which needs rewards="
                )
    names = [n for n in _BEAMS if given.get(n) is not None]
    return GenerateOptions(
        max_gen_toks=given["max_gen_toks"],
        until=_until(given.get("until")),
        sampling=_sampling(given, has_rewards),
        search=search,
        spec=spec,
        beams={} if has_rewards else {n: given[n] for n in names},
    )


def _search(given: Mapping[str, Any]) -> Search:
    settings = {
        field: given[name]
        for name, field in _SEARCH.items()
        if given.get(name) is not None
    }
    n = given.get("best_of_n")
    if n is None:
        return Search(**settings)
    if settings:
        raise ValueError(
            "gen_kwargs: best_of_n ranks whole texts and takes no other setting of a "
            f"search, got {', '.join(settings)}"
        )
    return Search.best_of_n(n)


def _sampling(given: Mapping[str, Any], has_rewards: bool) -> Sampling | None:
    """`top_k` is the search's where there are rewards."""
    settings = {
        name: given[name]
        for name in _SAMPLING
        if given.get(name) is not None and not (has_rewards and name == "top_k")
    }
    if given.get("do_sample"):
        return Sampling(**settings)
    if settings.get("repetition_penalty", 1.0) != 1.0:
        return Sampling(0.0, repetition_penalty=settings["repetition_penalty"])
    return None


def _until(until: Any) -> tuple[str, ...]:
    texts: Sequence[Any] = [until] if isinstance(until, str) else list(until or ())
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"until: expected strings, got {text!r}")
    return tuple(text for text in texts if text)
