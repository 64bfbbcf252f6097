"""A request to generate: its keywords checked and made ready for the C search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from deal import _core
from deal._chat_template import check_messages
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
    constraint: Any = None  # capsule, or what has a matcher


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
        end = given["eos_token_id"]
        ends = [end] if hasattr(end, "__index__") else end
    ends = [check_int("eos_token_id", token, 0, n_vocab - 1) for token in ends]
    other = None if search is None else search.rollout_model
    constraint = checked_constraint(given["constraint"])
    return Options(params, reward, ends, _stops(given["stop"]), other, constraint)


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
    "constraint": None,
}


class GenerateKwargs(TypedDict, total=False):
    """Keywords of ``Model.generate``, but for the one that its result depends on."""

    max_new_tokens: int
    sampling: Sampling | None
    num_beams: int
    length_penalty: float
    rewards: Any
    search: Search | None
    stop: str | Sequence[str] | None
    eos_token_id: int | Sequence[int] | None
    constraint: Any
    reward_kwargs: Mapping[str, Any] | None
    batch_size: int | Literal["auto"]
    progress: bool


def known(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name not in GENERATE_DEFAULTS:
            raise TypeError(f"unexpected keyword argument {name!r}")
    return kwargs


def is_messages(prompt: Any) -> bool:
    return (
        isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)
    )


def make_row(prompt: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that rewards get beside `prompt`: its messages, where it is a chat."""
    return ({"messages": list(prompt)} if is_messages(prompt) else {}) | dict(row)


def is_chats(messages: Any) -> bool:
    """Whether `messages` are several chats: a list of lists, not of messages."""
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        return False
    return len(messages) > 0 and not isinstance(messages[0], (str, bytes, Mapping))


def aligned(chats: Sequence[Any], align: Any, tokenizer: Any) -> Sequence[Any]:
    """The messages of chats, `align` before all that they say."""
    if align is None:
        return chats
    if not isinstance(align, str):
        raise TypeError(f"align: expected a str, got {type(align).__name__}")
    if not align.strip():
        raise ValueError(f"align: expected a non-empty string, got {align!r}")
    return [
        _aligned(check_messages(c), align, tokenizer.has_system_role) for c in chats
    ]


def _aligned(
    chat: list[dict[str, Any]], align: str, has_system_role: bool
) -> list[dict[str, Any]]:
    """`align` as a system message, or where the template has none as the user's."""
    if has_system_role:
        if chat[0]["role"] != "system":
            return [{"role": "system", "content": align}, *chat]
        i = 0
    else:
        i = next((i for i, m in enumerate(chat) if m["role"] == "user"), -1)
        if i < 0:
            raise ValueError(
                "align: the chat template writes no system message, and there is no "
                "user's to put it into"
            )
    chat[i]["content"] = f"{align}\n\n{chat[i].get('content', '')}"
    return chat


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


def checked_constraint(constraint: Any) -> Any:
    """`constraint`, or TypeError where it can be none."""
    is_capsule = type(constraint).__name__ == "PyCapsule"
    if (
        constraint is None
        or is_capsule
        or callable(getattr(constraint, "matcher", None))
    ):
        return constraint
    raise TypeError(
        "constraint: expected a Regex, JsonSchema or Grammar of deal.rewards, an "
        f"object with a method matcher, or a capsule, got {constraint!r}"
    )


def constraint_capsule(constraint: Any, tokenizer: Any) -> Any:
    """What the C search takes of a checked constraint."""
    if constraint is None or type(constraint).__name__ == "PyCapsule":
        return constraint
    name = str(getattr(constraint, "name", type(constraint).__name__))
    matcher = constraint.matcher(tokenizer)
    return _core.matcher_constraint(name, matcher, tokenizer.vocab_size)


def stops_and_ends(
    tokenizer: Tokenizer, until: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Strings that end a text, and tokens: a special token shows in no text."""
    ends = list(tokenizer.eos_token_ids)
    for text in until:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1 and not tokenizer.decode(ids):
            ends.append(ids[0])
    return list(until), ends


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
    recalls: Sequence[Any] = (None, None),
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
        recalls[0],
        recalls[1],
        constraint=constraint_capsule(options.constraint, tokenizer),
    )


def generations(search: Any, options: Options, tokenizer: Any) -> list[Generation]:
    """What the finished `search` returns; `tokenizer` is the model's."""
    names = (
        () if options.reward is None else tuple(p.name for p in options.reward.leaves())
    )
    stats = Stats(**search.stats())
    trace = decisions(search.trace(), names)
    results = [
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
    for result in results:
        object.__setattr__(result, "_tokenizer", tokenizer)
    return results
