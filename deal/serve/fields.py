"""The body of a request: its fields checked, as keywords of ``Model.generate``."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deal._request import stops_and_ends
from deal._reward_spec import RewardSpec
from deal.rewards import Grammar, JsonSchema, Regex, Reward
from deal.serve.errors import Refused
from deal.settings import Exact, Sampling, Search, check_int

_SAMPLING = tuple(f.name for f in dataclasses.fields(Sampling))
_SEARCH = tuple(f.name for f in dataclasses.fields(Search) if f.name != "rollout_model")
_OWN = ("rewards", "search", "num_beams", "constraint")
_SHARED = (
    *("model", "n", "stop", "stream", "stream_options", "logprobs", "max_tokens"),
    *("best_of", "response_format", *_SAMPLING, *_OWN),
)
_COMPLETION = ("prompt", "echo")
_CHAT = ("messages", "top_logprobs", "max_completion_tokens")
# Tell nothing about the text, or nothing that is not the case here.
_WITHOUT_EFFECT = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key")
# Fields that only their default can be had of.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
}
# What one request may ask for at most; memory is bounded by kv_budget.
_MOST = {"top_k": 256, "lookahead": 1024, "num_beams": 64, "commit": 1025}
_MOST_N, _MOST_PROMPTS, _MOST_STOPS, _MOST_LOGPROBS = 128, 1024, 64, 20


@dataclass(frozen=True)
class Asked:
    """A request, checked.

    Attributes
    ----------
    prompts : list
        Texts, token ids or, of a chat, the one list of messages.
    options : dict
        Keywords of ``Model.generate``.
    n_new_max : int
        Most tokens of each text; 0 where only the prompt is asked about.
    logprobs : int or None
        Likeliest tokens to list at each place; None where no log-probs are asked for.
    shows_deal : bool
        Whether the answer has the field "deal".
    """

    is_chat: bool
    prompts: list[Any]
    options: dict[str, Any]
    n_new_max: int
    stream: bool
    include_usage: bool
    echo: bool
    logprobs: int | None
    shows_deal: bool


def read(
    body: Mapping[str, Any], is_chat: bool, lm: Any, names: Mapping[str, Reward]
) -> Asked:
    """A body as :class:`Asked`.

    Raises
    ------
    Refused, ValueError, TypeError
        For a field that is unknown, bad, or that cannot be honoured.
    """
    body = {name: value for name, value in body.items() if value is not None}
    _check_names(body, _CHAT if is_chat else _COMPLETION)
    stream = _flag(body, "stream")
    logprobs = _logprobs(body, is_chat)
    n = check_int("n", body.get("n", 1), 1, _MOST_N)
    if body.get("best_of", n) != n:
        raise Refused("best_of: expected n, or none; see search", "best_of")
    for name, is_bad in (("n", n > 1), ("logprobs", logprobs is not None)):
        if stream and is_bad:
            raise Refused(f"{name}: cannot be had with stream", name)
    options = _decoding(body, lm, names) | _stops(body, lm)
    options |= {"num_return_sequences": n, "constraint": _constraint(body)}
    echo = not is_chat and _flag(body, "echo")
    return Asked(
        is_chat=is_chat,
        prompts=[_messages(body)] if is_chat else _prompts(body),
        options=options,
        n_new_max=_n_new_max(body, is_chat, echo, lm.max_length),
        stream=stream,
        include_usage=_include_usage(body, stream),
        echo=echo,
        logprobs=logprobs,
        shows_deal=any(name in body for name in _OWN),
    )


def _check_names(body: Mapping[str, Any], own: tuple[str, ...]) -> None:
    for name, value in body.items():
        if name in _DEFAULTS:
            if value not in _DEFAULTS[name]:
                some = " or ".join(map(repr, _DEFAULTS[name]))
                raise Refused(
                    f"{name}: not supported; expected none, or {some}", f"{name}"
                )
        elif name not in (*_SHARED, *own, *_WITHOUT_EFFECT):
            raise Refused(f"{name:.80}: not supported here", f"{name:.80}")


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name}: expected true or false, got {value!r:.80}", name)
    return value


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Refused(f"{name}: expected an object, got {value!r:.80}", name)
    return {key: each for key, each in value.items() if each is not None}


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    given = _object("stream_options", body.get("stream_options", {}))
    unknown = set(given) - {"include_usage", "include_obfuscation"}
    if unknown or (given and not stream):
        raise Refused(
            "stream_options: expected include_usage, with stream", "stream_options"
        )
    return _flag(given, "include_usage")


def _logprobs(body: Mapping[str, Any], is_chat: bool) -> int | None:
    """How many alternatives; a chat says it with two fields."""
    if not is_chat:
        value = body.get("logprobs")
        most = _MOST_LOGPROBS
        return None if value is None else check_int("logprobs", value, 0, most)
    top = check_int("top_logprobs", body.get("top_logprobs", 0), 0, _MOST_LOGPROBS)
    if _flag(body, "logprobs"):
        return top
    if top:
        raise Refused("top_logprobs: needs logprobs: true", "top_logprobs")
    return None


def _n_new_max(body: Mapping[str, Any], is_chat: bool, echo: bool, n_ctx: int) -> int:
    """Chats go on to the end of the context, completions for 16 tokens."""
    names = ("max_completion_tokens", "max_tokens") if is_chat else ("max_tokens",)
    given = [name for name in names if name in body]
    if len(given) > 1:
        raise Refused("max_tokens: expected it under one name, got two", "max_tokens")
    if not given:
        return n_ctx if is_chat else 16
    return check_int(given[0], body[given[0]], 0 if echo else 1)


def _stops(body: Mapping[str, Any], lm: Any) -> dict[str, Any]:
    stop = body.get("stop", [])
    texts = [stop] if isinstance(stop, str) else stop
    is_list = isinstance(texts, list) and len(texts) <= _MOST_STOPS
    if not is_list or not all(isinstance(text, str) and text for text in texts):
        raise Refused(
            f"stop: expected up to {_MOST_STOPS} non-empty strings, got {stop!r:.80}",
            "stop",
        )
    stops, ends = stops_and_ends(lm.tokenizer, texts)
    return {"stop": stops, "eos_token_id": ends}


# --- prompts -------------------------------------------------------------------------


def _prompts(body: Mapping[str, Any]) -> list[Any]:
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if prompts and all(map(_is_id, prompts)):
        prompts = [prompts]
    if not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise Refused(f"prompt: expected 1 to {_MOST_PROMPTS} of them", "prompt")
    kinds = {str if isinstance(each, str) else list for each in prompts}
    for each in prompts:
        is_ids = isinstance(each, list) and all(map(_is_id, each))
        if len(kinds) > 1 or not (isinstance(each, str) or is_ids):
            raise Refused(
                "prompt: expected a text, token ids, or a list of texts or of lists "
                f"of token ids, got {prompt!r:.80}",
                "prompt",
            )
    return prompts


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _messages(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages: expected a list of at least one message", "messages")
    return [_message(f"messages[{i}]", each) for i, each in enumerate(messages)]


def _message(where: str, given: Any) -> dict[str, Any]:
    """A message with its content as one text; empty fields are left out."""
    message = dict(_object(where, given))
    for name, value in list(message.items()):
        if name not in ("role", "content", "name"):
            if value:
                raise Refused(f"{where}.{name:.80}: not supported", "messages")
            del message[name]
    if message.get("role") == "developer":
        message["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = "".join(
            _part(f"{where}.content[{i}]", part) for i, part in enumerate(content)
        )
    return message


def _part(where: str, given: Any) -> str:
    part = _object(where, given)
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise Refused(
            f"{where}: expected a part of type 'text', got {given!r:.80}", "messages"
        )
    return part["text"]


# --- how to decode -------------------------------------------------------------------


def _decoding(
    body: Mapping[str, Any], lm: Any, names: Mapping[str, Reward]
) -> dict[str, Any]:
    """Sampling where nothing searches, as OpenAI's default has it."""
    rewards = body.get("rewards")
    if rewards is not None:
        spec = RewardSpec(rewards, allow_files=False, names=names)
        rewards = spec.build(model=lm)
    search = _search(body["search"]) if "search" in body else None
    if search is not None and rewards is None:
        raise Refused("search: needs rewards to search by", "search")
    num_beams = check_int("num_beams", body.get("num_beams", 1), 1, _MOST["num_beams"])
    searches = rewards is not None or num_beams > 1
    is_segment = search is not None and search.mode == "segment"
    return {
        "rewards": rewards,
        "search": search,
        "num_beams": num_beams,
        "sampling": _sampling(body, searches, is_segment),
    }


def _search(given: Any) -> Search:
    settings = dict(_object("search", given))
    for name, value in settings.items():
        if name not in _SEARCH:
            raise Refused(
                f"search: expected {', '.join(_SEARCH)}, got {name:.80}", "search"
            )
        if name in _MOST:
            check_int(f"search.{name}", value, 0, _MOST[name])
    if "exact" in settings:
        exact = dict(_object("search.exact", settings["exact"]))
        unknown = set(exact) - {f.name for f in dataclasses.fields(Exact)}
        if unknown:
            raise Refused(f"search.exact: got {min(unknown):.80}", "search")
        settings["exact"] = Exact(**exact)
    try:
        return Search(**settings)
    except (TypeError, ValueError) as error:
        raise Refused(f"search: {error}", "search") from None


_IDLE = {"temperature": 0, "top_k": 0, "min_p": 0, "repetition_penalty": 1}


def _sampling(
    body: Mapping[str, Any], searches: bool, is_segment: bool
) -> Sampling | None:
    settings = {name: body[name] for name in _SAMPLING if name in body}
    if "seed" in settings:
        settings["seed"] = check_int("seed", settings["seed"], -(2**63)) % 2**64
    else:
        settings["seed"] = random.getrandbits(64)
    settings.setdefault("temperature", 0.0 if searches else 1.0)
    sampling = Sampling(**settings)  # checks them, whether they are used or not
    if not searches or (is_segment and sampling.temperature > 0):
        return sampling
    for name, idle in _IDLE.items():
        if getattr(sampling, name) != idle:
            raise Refused(
                f"{name}: a search draws nothing; expected {idle}, or none, beside "
                "rewards and num_beams. Settings of a search go into the field search",
                name,
            )
    return None


# --- form ----------------------------------------------------------------------------

_CONSTRAINTS = {"regex": Regex, "json_schema": JsonSchema, "grammar": Grammar}


def _constraint(body: Mapping[str, Any]) -> Any:
    wanted = _response_format(body.get("response_format", {"type": "text"}))
    given = body.get("constraint")
    if given is None:
        return None if wanted is None else JsonSchema(wanted)
    given = _object("constraint", given)
    if wanted is not None or len(given) != 1 or next(iter(given)) not in _CONSTRAINTS:
        raise Refused(
            "constraint: expected one of regex, json_schema and grammar, and no "
            "response_format",
            "constraint",
        )
    ((name, value),) = given.items()
    if not isinstance(value, Mapping if name == "json_schema" else str):
        raise Refused(f"constraint.{name}: got {value!r:.80}", "constraint")
    try:
        return _CONSTRAINTS[name](value)
    except ValueError as error:
        raise Refused(f"constraint.{name}: {error}", "constraint") from None


def _response_format(given: Any) -> Mapping[str, Any] | None:
    """A JSON schema, or None for text."""
    given = _object("response_format", given)
    if given.get("type") == "text":
        return None
    if given.get("type") == "json_object":
        return {"type": "object"}
    holder = given.get("json_schema")
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    if given.get("type") != "json_schema" or not isinstance(schema, Mapping):
        raise Refused(
            "response_format: expected type text, json_object or json_schema, the last "
            f"with json_schema.schema, got {given!r:.80}",
            "response_format",
        )
    return schema
