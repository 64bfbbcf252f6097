"""A GenerationConfig as a request of the engine, or an error that names a setting."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from deal._request import GENERATE_DEFAULTS, Options, make_options
from deal.settings import Sampling, Search

_OFF = (None, False)

# What the search has no place for, whoever runs the model, and the values that ask for
# nothing.
_NEVER: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": _OFF,
    "constraints": _OFF,
    "diversity_penalty": (None, 0),
    "dola_layers": _OFF,
    "early_stopping": _OFF,
    "force_words_ids": _OFF,
    "low_memory": _OFF,
    "num_beam_groups": (None, 1),
    "output_attentions": _OFF,
    "output_hidden_states": _OFF,
    "penalty_alpha": (None, 0),
    "prefill_chunk_size": _OFF,
    "prompt_lookup_num_tokens": _OFF,
    "token_healing": _OFF,
    "use_cache": (None, True),
    "use_mtp": _OFF,
}
# What transformers makes logits processors of, which the engine's own models have not.
_PROCESSORS: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": _OFF,
    "begin_suppress_tokens": _OFF,
    "cache_implementation": _OFF,
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
    "exponential_decay_length_penalty": _OFF,
    "forced_bos_token_id": _OFF,
    "forced_eos_token_id": _OFF,
    "guidance_scale": (None, 1),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "remove_invalid_values": _OFF,
    "renormalize_logits": _OFF,
    "sequence_bias": _OFF,
    "suppress_tokens": _OFF,
    "top_h": _OFF,
    "typical_p": (None, 1),
    "watermarking_config": _OFF,
}


def settings_of(config: GenerationConfig) -> dict[str, Any]:
    """What was set in a config, without what it is by default."""
    found = config.to_diff_dict()
    return {k: v for k, v in found.items() if k != "transformers_version"}


def merge(
    own: GenerationConfig, given: GenerationConfig | None, kwargs: Mapping[str, Any]
) -> tuple[GenerationConfig, dict[str, Any], set[str]]:
    """Keywords over a given config over the model's own, as transformers has it.

    Returns
    -------
    config : GenerationConfig
    unused : dict
        Keywords that are no generation settings.
    explicit : set of str
        Settings of the call, not of the model.
    """
    config = GenerationConfig() if given is None else copy.deepcopy(given)
    explicit = set(settings_of(config))
    # Beams may be a search's, of which the config's own check knows nothing.
    later = {k: v for k, v in kwargs.items() if k == "num_return_sequences"}
    unused = config.update(**{k: v for k, v in kwargs.items() if k not in later})
    for name, value in later.items():
        setattr(config, name, value)
    explicit |= set(kwargs) - set(unused)
    for name, value in settings_of(own).items():
        if name not in explicit:
            setattr(config, name, copy.deepcopy(value))
    return config, unused, explicit


def check_supported(config: GenerationConfig, has_processors: bool) -> None:
    """ValueError for a setting that would have no effect.

    `has_processors`: transformers has made logits processors of its settings.
    """
    names = _NEVER if has_processors else _NEVER | _PROCESSORS
    for name, allowed in names.items():
        value = getattr(config, name, None)
        if not any(value is a or (a is not None and value == a) for a in allowed):
            raise ValueError(
                f"{name}: expected {' or '.join(map(repr, allowed))}, which deal's "
                f"search honours, got {value!r}"
            )


def end_tokens(config: GenerationConfig) -> list[int]:
    ends = config.eos_token_id
    if ends is None:
        return []
    if isinstance(ends, torch.Tensor):
        ends = ends.flatten().tolist()
    return [int(i) for i in (ends if isinstance(ends, Collection) else [ends])]


def n_new_max(config: GenerationConfig, n_prompt: int) -> int:
    """Tokens to generate after `n_prompt`, padding included; 20 where nothing says."""
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if config.max_length is None:
        return 20
    if config.max_length <= n_prompt:
        raise ValueError(
            f"max_length: expected more than the prompt's {n_prompt} tokens, padding "
            f"included, got {config.max_length}; max_new_tokens counts new ones"
        )
    return config.max_length - n_prompt


def make_request(
    config: GenerationConfig,
    explicit: Collection[str],
    given: Mapping[str, Any],
    n_prompt: int,
    n_vocab: int,
    max_length: int,
    has_processors: bool = False,
) -> Options:
    """The engine's request.

    Parameters
    ----------
    config : GenerationConfig
    explicit : collection of str
        Settings of the call: a `do_sample` that is only the model's default gives way
        to a search.
    given : mapping
        `rewards`, `search`, `constraint` and `stop` (strings besides
        ``config.stop_strings``).
    n_prompt : int
        Tokens of the prompt, padding included.
    n_vocab, max_length : int
        Of the model.
    has_processors : bool
        Logits processors have temperature and the like in them.
    """
    check_supported(config, has_processors)
    search = given["search"]
    steers = search is not None or given["rewards"] is not None
    is_drawn = bool(config.do_sample)
    if is_drawn and steers and "do_sample" not in explicit:
        is_drawn = search is not None and getattr(search, "mode", "") == "segment"
    num_beams = config.num_beams or 1
    if num_beams > 1 and is_drawn:
        raise ValueError(
            "num_beams: beam search does not draw; expected do_sample=False or 1 beam, "
            f"got do_sample=True and {num_beams}"
        )
    penalty = config.repetition_penalty or 1.0
    sampling = None
    if is_drawn:
        sampling = _sampling(config, has_processors)
    elif penalty != 1.0 and not has_processors:
        if steers or num_beams > 1:
            raise ValueError(
                "repetition_penalty: a search takes the model's own log-probs; "
                f"expected 1.0, got {penalty}"
            )
        sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    request = GENERATE_DEFAULTS | {
        "max_new_tokens": n_new_max(config, n_prompt),
        "sampling": sampling,
        "num_beams": num_beams,
        "length_penalty": 1.0
        if config.length_penalty is None
        else config.length_penalty,
        "rewards": given["rewards"],
        "search": search,
        "num_return_sequences": config.num_return_sequences or 1,
        "stop": [*_texts(config.stop_strings), *_texts(given["stop"])],
        "eos_token_id": end_tokens(config),
        "constraint": given["constraint"],
    }
    return make_options(request, n_vocab, max_length, [])


def _texts(stop: Any) -> list[str]:
    """No string, one or several, as a list."""
    return [] if stop is None else [stop] if isinstance(stop, str) else list(stop)


def _sampling(config: GenerationConfig, has_processors: bool) -> Sampling:
    """How to draw; the seed is the next of torch's generator, so manual_seed counts."""
    seed = int(torch.randint(0, 2**63 - 1, (1,)))
    if has_processors:
        return Sampling(seed=seed)
    return Sampling(
        temperature=1.0 if config.temperature is None else config.temperature,
        top_k=50 if config.top_k is None else config.top_k,  # transformers' default
        top_p=1.0 if config.top_p is None else config.top_p,
        min_p=0.0 if config.min_p is None else config.min_p,
        repetition_penalty=config.repetition_penalty or 1.0,
        seed=seed,
    )


def check_one_by_one(options: Options, search: Search | None, what: str) -> None:
    """ValueError where `what` cannot be told token by token."""
    params = options.params
    if params["beam_size"] > 1 or (search is not None and search.mode == "segment"):
        raise ValueError(
            f"{what}: several hypotheses compete, so that no token is decided before "
            f'the end; expected one beam, and no mode="segment"'
        )
    if params["commit"] > 1:
        raise ValueError(
            f"{what}: expected a search that decides one token at a time, got "
            f"commit={params['commit']}"
        )
