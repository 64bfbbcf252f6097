"""A request to generate: its keywords checked and made ready for the C search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deal import _core
from deal.generation import Generation, Stats, decisions
from deal.rewards import Reward, as_reward
from deal.rewards.combine import formula_of
from deal.settings import (
    Sampling,
    Search,
    beam_params,
    check_int,
    sample_params,
    search_params,
    segment_params,
)
from deal.tokenizer import Tokenizer

Prompt = str | Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Options:
    """A request, checked and ready for the C search."""

    params: dict[str, Any]
    reward: Reward | None
    ends: list[int]
    stops: tuple[bytes, ...]
    rollout_model: Any = None  # Model, another than the one that searches


def make_options(
    given: Mapping[str, Any], n_vocab: int, max_length: int, ends: Sequence[int]
) -> Options:
    """Keywords of ``Model.generate`` as options; `ends` are the model's end tokens."""
    search, sampling, rewards = given["search"], given["sampling"], given["rewards"]
    reward = None if rewards is None else as_reward(rewards)
    if reward is not None and search is None and sampling is None:
        search = Search(num_beams=check_int("num_beams", given["num_beams"], 1))
    _check_modes(search, sampling, given["num_beams"])
    if search is not None and search.mode == "segment":
        params = segment_params(search, sampling)
    elif search is not None:
        check_int("top_k", search.top_k, 1, n_vocab)
        params = search_params(search)
    elif given["num_beams"] > 1:
        params = beam_params(given["num_beams"], given["length_penalty"])
    else:
        params = sample_params(sampling)
    limit = check_int("max_new_tokens", given["max_new_tokens"], 1)
    params["n_new_max"] = min(limit, max_length)
    params["n_return"] = _n_return(given["num_return_sequences"], params)
    if given["eos_token_id"] is not None:
        ends = given["eos_token_id"]
        ends = [ends] if hasattr(ends, "__index__") else ends
    ends = [check_int("eos_token_id", token, 0, n_vocab - 1) for token in ends]
    other = None if search is None else search.rollout_model
    return Options(params, reward, ends, _stops(given["stop"]), other)


def _check_modes(search: Any, sampling: Any, num_beams: Any) -> None:
    """One way of decoding at a time."""
    check_int("num_beams", num_beams, 1)
    if search is not None and not isinstance(search, Search):
        raise TypeError(f"search: expected deal.Search, got {search!r}")
    if sampling is not None and not isinstance(sampling, Sampling):
        raise TypeError(f"sampling: expected deal.Sampling, got {sampling!r}")
    draws = search.mode == "segment" if search is not None else num_beams == 1
    if sampling is not None and not draws:
        raise ValueError("sampling: a search draws nothing; give one of the two")
    if search is not None and num_beams not in (1, search.num_beams):
        raise ValueError(
            f"num_beams: {num_beams}, but search.num_beams is {search.num_beams}"
        )


GENERATE_DEFAULTS: dict[str, Any] = {
    "max_new_tokens": 64,
    "sampling": None,
    "num_beams": 1,
    "length_penalty": 1.0,
    "rewards": None,
    "search": None,
    "num_return_sequences": 1,
    "stop": None,
    "eos_token_id": None,
}


def known(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name not in GENERATE_DEFAULTS:
            raise TypeError(f"unexpected keyword argument {name!r}")
    return kwargs


def is_messages(prompt: Any) -> bool:
    return (
        isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)
    )


def aligned(messages: Any, align: str | None) -> Any:
    """The messages of one chat, `align` before all others."""
    if align is None:
        return messages
    chat = list(messages)
    if not isinstance(align, str) or not align:
        raise ValueError(f"align: expected a non-empty string, got {align!r}")
    if chat and isinstance(chat[0], Mapping) and chat[0].get("role") == "system":
        content = f"{align}\n\n{chat[0].get('content', '')}"
        return [dict(chat[0]) | {"content": content}, *chat[1:]]
    return [{"role": "system", "content": align}, *chat]


def is_batch(prompt: Any) -> bool:
    """Whether `prompt` is a list of prompts: of strings or of sequences of ids."""
    if isinstance(prompt, (str, bytes)) or not isinstance(
        prompt, (Sequence, np.ndarray)
    ):
        return False
    if isinstance(prompt, np.ndarray):
        is_text = prompt.dtype.kind in "OUT" and prompt.size > 0
        return prompt.ndim > 1 or (is_text and isinstance(prompt[0], str))
    return len(prompt) > 0 and isinstance(prompt[0], (str, Sequence, np.ndarray))


def rows_of(columns: Mapping[str, Any] | None, n: int) -> list[dict[str, Any]]:
    """Columns of a data set as one dict a row."""
    for name, values in (columns or {}).items():
        if (
            isinstance(values, str)
            or not hasattr(values, "__len__")
            or len(values) != n
        ):
            raise ValueError(
                f"reward_kwargs[{name!r}]: expected a list of {n} values, one a prompt"
            )
    return [{name: v[i] for name, v in (columns or {}).items()} for i in range(n)]


def _n_return(value: Any, params: Mapping[str, Any]) -> int:
    value = check_int("num_return_sequences", value, 1)
    if params["mode"] != 0:
        return check_int("num_return_sequences", value, 1, params["beam_size"])
    if value > 1 and params["temperature"] == 0:
        raise ValueError(
            f"num_return_sequences: greedy decoding has 1 result, got {value}; use "
            "sampling or num_beams"
        )
    return value


def _stops(stop: Any) -> tuple[bytes, ...]:
    texts = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    for text in texts:
        if not isinstance(text, str) or not text or "\0" in text:
            raise ValueError(f"stop: expected non-empty strings, got {text!r}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"stop: expected valid Unicode, got {text!r}")
    return tuple(text.encode() for text in texts)


def start(
    sessions: Any,
    tokenizer: Tokenizer,
    prompt: tuple[Sequence[int], str],
    options: Options,
    row: dict[str, Any],
    controls: Any = (None, None),
) -> Any:
    """The C search of a request, in the session of each of two models, or of one."""
    parts = () if options.reward is None else options.reward.leaves()
    return _core.Search(
        sessions[0],
        tokenizer.vocab,
        prompt[0],
        prompt[1],
        options.ends,
        options.stops,
        tuple(part.reward._capsule(row) for part in parts),
        tuple(float(part.weight) for part in parts),
        options.params,
        controls[0],
        sessions[1],
        controls[1],
        None if options.reward is None else formula_of(options.reward),
    )


def generations(search: Any, options: Options) -> list[Generation]:
    names = (
        () if options.reward is None else tuple(p.name for p in options.reward.leaves())
    )
    stats = Stats(**search.stats())
    trace = decisions(search.trace(), names)
    return [
        Generation(
            text=row["text"],
            token_ids=tuple(row["token_ids"]),
            logprob=row["logprob"],
            reward=row["reward"],
            rewards=dict(zip(names, row["rewards"], strict=True)),
            score=row["score"],
            finish_reason=row["finish_reason"],
            stats=stats,
            trace=trace,
        )
        for row in search.results()
    ]
