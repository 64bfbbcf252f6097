"""What ``generate`` returns, and how a search is driven for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from deal._request import Options, generations
from deal.generation import Generation
from deal.tokenizer import Tokenizer


@dataclass
class DealGenerateOutput(ModelOutput):
    """What ``generate(..., return_dict_in_generate=True)`` returns.

    Attributes
    ----------
    sequences : LongTensor, shape (n_prompt * n_return, length)
        Prompt and generated tokens, padded on the right.
    sequences_scores : FloatTensor, shape (n_prompt * n_return,)
        What the search ranked by; see ``deal.Generation.score``.
    scores : tuple of FloatTensor, each of shape (n_prompt * n_return, n_vocab), or None
        With ``output_scores``, one for each new token of the longest sequence: what it
        was taken from. Greedy and sampling: logits after the logits processors; beams
        and DeAL: log-probs. Zeros past a sequence's end. The rows are those of
        `sequences`: no beam indices are needed.
    logits : tuple of FloatTensor, or None
        With ``output_logits``, in the same form: logits before any processor.
    generations : list of deal.Generation
        One a sequence: text, log-prob, rewards, trace and statistics.
    """

    sequences: Any = None
    sequences_scores: Any = None
    scores: Any = None
    logits: Any = None
    generations: Any = None


# Logits before every new token: of a padded prompt's row and new ids, (n_new, n_vocab).
LogitsOf = Callable[[int, Sequence[int]], torch.Tensor]


def drive(
    search: Any,
    options: Options,
    tokenizer: Tokenizer,
    prompt: torch.Tensor,
    streamer: Any,
    criteria: Any,
) -> list[Generation]:
    """Runs a search; tells a streamer and asks stopping criteria token by token.

    Parameters
    ----------
    search : deal._core.Search
    options : Options
    tokenizer : Tokenizer
        The engine's.
    prompt : LongTensor, shape (1, n_prompt)
        As it was given, padding included.
    streamer : BaseStreamer or None
    criteria : StoppingCriteriaList or None
        Asked after every token with all tokens, as transformers does.
    """
    if streamer is None and not criteria:
        search.run()
        return generations(search, options, tokenizer)
    is_done, n_told = False, 0
    while not is_done:
        is_done = search.step()
        tokens = torch.tensor(search.tokens(), dtype=torch.long)
        for n in range(n_told + 1, len(tokens) + 1):
            if streamer is not None:
                streamer.put(tokens[n - 1 : n])
            ids = torch.cat([prompt, tokens[None, :n].to(prompt.device)], dim=1)
            if criteria and bool(torch.as_tensor(criteria(ids, None)).all()):
                search.stop()
                is_done = True
        n_told = len(tokens)
    return generations(search, options, tokenizer)


def requests_of(options: Options, criteria: Any) -> list[Options]:
    """The request; where sampled sequences may end by themselves, one for each."""
    n = options.params["n_return"]
    if n == 1 or not criteria:
        return [options]
    seeds = [int(torch.randint(0, 2**63 - 1, (1,))) for _ in range(n)]
    return [
        replace(options, params=options.params | {"n_return": 1, "seed": seed})
        for seed in seeds
    ]


def criteria_list(criteria: Any) -> StoppingCriteriaList:
    """Stopping criteria as a list, also where a plain list was given."""
    if criteria is None or isinstance(criteria, StoppingCriteriaList):
        return criteria or StoppingCriteriaList()
    return StoppingCriteriaList(criteria)


def assemble(
    rows: torch.Tensor,
    results: Sequence[Sequence[Generation]],
    config: GenerationConfig,
    ends: Sequence[int],
    logits_of: LogitsOf,
    processors: Callable[[int], LogitsProcessorList],
    is_searched: bool,
) -> Any:
    """The tensor of sequences, or the whole output.

    Parameters
    ----------
    rows : LongTensor, shape (n_prompt, length)
        The prompts as they were given.
    results : list of list of Generation
        Those of each prompt.
    config : GenerationConfig
        Says what is asked of ``generate`` beside the sequences, and how to pad.
    ends : sequence of int
        End tokens; the first one pads where `config` names no other.
    logits_of, processors
        Of a prompt, by its number.
    is_searched : bool
        Whether `scores` are log-probs.
    """
    pad_token_id = config.pad_token_id
    if pad_token_id is None and ends:
        pad_token_id = ends[0]
    flat = [r for some in results for r in some]
    n_new = max(len(r.token_ids) for r in flat)
    if pad_token_id is None and any(len(r.token_ids) < n_new for r in flat):
        raise ValueError(
            "pad_token_id: sequences of different lengths need one; expected a token "
            "id, got None, and no end token to take"
        )
    sequences = torch.full(
        (len(flat), rows.shape[1] + n_new),
        0 if pad_token_id is None else pad_token_id,
        dtype=torch.long,
        device=rows.device,
    )
    of_prompt = [i for i, some in enumerate(results) for _ in some]
    for i, result in enumerate(flat):
        ids = torch.tensor(result.token_ids, dtype=torch.long)
        sequences[i, : rows.shape[1]] = rows[of_prompt[i]]
        sequences[i, rows.shape[1] : rows.shape[1] + len(ids)] = ids
    if not config.return_dict_in_generate:
        return sequences
    output = DealGenerateOutput(
        sequences=sequences,
        sequences_scores=torch.tensor([r.score for r in flat], device=rows.device),
        generations=flat,
    )
    if config.output_scores or config.output_logits:
        raw = [logits_of(i, r.token_ids) for i, r in zip(of_prompt, flat, strict=True)]
        if config.output_logits:
            output.logits = _by_step(raw, n_new)
        if config.output_scores:
            lists = [processors(i) for i in of_prompt]
            pairs = zip(sequences, raw, lists, strict=True)
            scores = [_processed(s, x, p, rows.shape[1]) for s, x, p in pairs]
            if is_searched:
                scores = [torch.log_softmax(x, dim=-1) for x in scores]
            output.scores = _by_step(scores, n_new)
    return output


def _processed(
    sequence: torch.Tensor, logits: torch.Tensor, processors: Any, n_prompt: int
) -> torch.Tensor:
    """What logits processors make of the logits before every new token."""
    if not processors:
        return logits
    ids = sequence[None].to(logits.device)
    steps = [
        processors(ids[:, : n_prompt + j], logits[j : j + 1].clone())
        for j in range(len(logits))
    ]
    return torch.cat(steps)


def _by_step(rows: Sequence[torch.Tensor], n_new: int) -> tuple[torch.Tensor, ...]:
    """(n_new_i, n_vocab) of every sequence as one (n_sequence, n_vocab) a step."""
    out = rows[0].new_zeros((n_new, len(rows), rows[0].shape[1]))
    for i, row in enumerate(rows):
        out[: len(row), i] = row
    return tuple(out)
