"""The engine's search as transformers' ``custom_generate``, over any torch model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
)

from deal import _transformers
from deal._request import Options, rows_of, start
from deal.generation import Generation
from deal.hf import config as _config
from deal.hf.cells import TorchCells, check_model
from deal.hf.outputs import assemble, criteria_list, drive, requests_of
from deal.hf.prompts import prompts_of
from deal.settings import Search, check_int
from deal.tokenizer import Tokenizer

# Ours by a tokenizer's id and the size of a vocabulary, with the tokenizer itself.
_Tokenizers = dict[tuple[int, int], tuple[Any, Tokenizer]]

# What generate() hands on of its own accord, and the search has no use for.
_IGNORED = {"logits_to_keep", "use_cache", "synced_gpus"}
# Processors that keep a state of their own between calls.
_STATEFUL = ("UnbatchedClassifierFreeGuidanceLogitsProcessor",)
# Processors that are told the rows of a batch apart.
_BY_ROW = ("PrefixConstrainedLogitsProcessor",)


def custom_generate(
    *,
    rewards: Any = None,
    search: Search | None = None,
    tokenizer: Any = None,
    streamer: Any = None,
    stop: str | Sequence[str] | None = None,
    constraint: Any = None,
    reward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    kv_budget: int | None = None,
) -> Callable[..., Any]:
    """A callable for ``model.generate(..., custom_generate=...)`` of any torch model.

    The decisions are those of :meth:`deal.Model.generate`, taken by the same code; the
    model's own forward pass, on its own device, evaluates the tokens in batches, with
    keys and values of what was evaluated before. Its results depend on the batch in
    their last bits, as torch's products do: where two candidates are equal to within
    that, modes "exact" and "naive" may differ.

    Parameters
    ----------
    rewards, search, stop, constraint
        As in :meth:`deal.Model.generate`. `stop` stands in for ``stop_strings``, which
        transformers does not hand to a callable.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's: rewards read text.
    streamer : BaseStreamer, optional
        Gets each token once it is decided; transformers does not hand its own
        ``streamer`` to a callable.
    reward_kwargs : mapping, optional
        Columns: a list of as many values as prompts each.
    batch_size : int, default=32
        Most branches that one forward pass evaluates.
    kv_budget : int, optional
        Most bytes of keys and values kept for one prompt. A request that needs more
        fails with `KVBudgetError`.

    Returns
    -------
    callable
        Every argument above but the last two is also a keyword of the call, under the
        same name, where ``tokenizer`` and ``streamer`` are ``deal_tokenizer`` and
        ``deal_streamer``: ``model.generate(**inputs, custom_generate=fn,
        rewards=other)``. It returns what :meth:`deal.hf.DealForCausalLM.generate` does.

    Notes
    -----
    Logits processors, transformers' own and those of the call, are applied to every
    token that the search evaluates, one row at a time: log-probs and scores are of what
    they make of the logits. Stopping criteria are asked after every token, with one
    row.
    """
    made: dict[str, Any] = {
        "rewards": rewards,
        "search": search,
        "tokenizer": tokenizer,
        "streamer": streamer,
        "stop": stop,
        "constraint": constraint,
        "reward_kwargs": reward_kwargs,
    }
    check_int("batch_size", batch_size, 1, 2**31 - 1)
    if kv_budget is not None:
        check_int("kv_budget", kv_budget, 1)
    tokenizers: _Tokenizers = {}

    def generate(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: GenerationConfig | None = None,
        rewards: Any = None,
        search: Search | None = None,
        deal_tokenizer: Any = None,
        deal_streamer: Any = None,
        stop: Any = None,
        constraint: Any = None,
        reward_kwargs: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        call = {
            "rewards": rewards,
            "search": search,
            "tokenizer": deal_tokenizer,
            "streamer": deal_streamer,
            "stop": stop,
            "constraint": constraint,
            "reward_kwargs": reward_kwargs,
        }
        given = {k: made[k] if value is None else value for k, value in call.items()}
        limits = {"batch_size": batch_size, "kv_budget": kv_budget}
        run = _Run(model, generation_config, given, limits, tokenizers)
        return run(input_ids, logits_processor, stopping_criteria, model_kwargs)

    return generate


class _Run:
    """One call of ``generate``."""

    def __init__(
        self,
        model: Any,
        config: GenerationConfig | None,
        given: Mapping[str, Any],
        limits: Mapping[str, Any],
        tokenizers: _Tokenizers,
    ) -> None:
        check_model(model)
        self.model = model
        self.config = model.generation_config if config is None else config
        self.given = given
        self.limits = limits
        text_config = model.config.get_text_config()
        self.n_vocab = text_config.vocab_size
        self.n_ctx = getattr(text_config, "max_position_embeddings", None)
        self.tokenizer = self._made_tokenizer(tokenizers)
        if getattr(given["search"], "rollout_model", None) is not None:
            raise ValueError(
                "search.rollout_model: expected None with custom_generate, which rolls "
                "out with the torch model"
            )

    def _made_tokenizer(self, known: _Tokenizers) -> Tokenizer:
        given = self.given["tokenizer"]
        if given is None:
            raise ValueError(
                "tokenizer: expected the model's, got None; give it to "
                "custom_generate(tokenizer=...) or to generate(deal_tokenizer=...)"
            )
        key = (id(given), self.n_vocab)
        if key not in known:
            files = _transformers.tokenizer_files(self.model, given)
            made = Tokenizer.from_files("tokenizer", files, self.n_vocab)
            known[key] = (given, made)  # held, so that its id stays its own
        return known[key][1]

    def __call__(
        self,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        model_kwargs: dict[str, Any],
    ) -> Any:
        config = self.config
        n_each = max(config.num_beams or 1, config.num_return_sequences or 1)
        rows = input_ids[::n_each]  # transformers repeats them
        mask = model_kwargs.pop("attention_mask", None)
        mask = None if mask is None else mask[::n_each]
        positions = model_kwargs.pop("position_ids", None)
        _check_kwargs(model_kwargs)
        options = self._options(rows.shape[1])
        prompts = prompts_of(rows, mask, None, ())
        if positions is not None:
            _check_positions(positions[::n_each], prompts)
        criteria = _without_ours(criteria_list(stopping_criteria))
        if criteria:
            _config.check_one_by_one(options, self.given["search"], "stopping_criteria")
        lists = _processors(logits_processor, rows, prompts)
        columns = rows_of(self.given["reward_kwargs"], len(rows))
        streamer = self.given["streamer"]
        if streamer is not None:
            if len(rows) > 1 or options.params["n_return"] > 1:
                raise ValueError(
                    f"streamer: expected one prompt and one sequence, got {len(rows)} "
                    f"and {options.params['n_return']}"
                )
            streamer.put(rows.cpu())
        results = [
            self._search(
                options, prompts[i], rows[i : i + 1], columns[i], lists[i], criteria
            )
            for i in range(len(rows))
        ]
        if streamer is not None:
            streamer.end()
        return assemble(
            rows,
            results,
            config,
            options.ends,
            lambda i, ids: self._logits(prompts[i], ids),
            lambda i: lists[i],
            options.params["mode"] != 0,
        )

    def _options(self, n_prompt: int) -> Options:
        own = self.model.generation_config
        explicit = () if own.do_sample else ("do_sample",)
        n_new = _config.n_new_max(self.config, n_prompt)
        n_ctx = self.n_ctx or n_prompt + n_new
        return _config.make_request(
            self.config, explicit, self.given, n_prompt, self.n_vocab, n_ctx, True
        )

    def _search(
        self,
        options: Options,
        prompt: list[int],
        row: torch.Tensor,
        columns: dict[str, Any],
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
    ) -> list[Generation]:
        cells = TorchCells(
            self.model,
            self.n_vocab,
            self.n_ctx or len(prompt) + options.params["n_new_max"],
            self.limits["batch_size"],
            self.limits["kv_budget"],
            row,
            row.shape[1] - len(prompt),
            processors,
        )
        encoded = (prompt, self.tokenizer.decode(prompt))
        found = []
        try:
            for one in requests_of(options, criteria):
                search = start(
                    (cells.trie, None), self.tokenizer, encoded, one, columns
                )
                try:
                    found += drive(
                        search,
                        one,
                        self.tokenizer,
                        row,
                        self.given["streamer"],
                        criteria,
                    )
                finally:
                    del search
        finally:
            cells.close()
        return found

    @torch.no_grad()
    def _logits(self, prompt: list[int], ids: Sequence[int]) -> torch.Tensor:
        device = self.model.get_input_embeddings().weight.device
        tokens = torch.tensor([[*prompt, *ids[:-1]]], device=device)
        logits = self.model(input_ids=tokens, return_dict=True).logits
        return logits[0, len(prompt) - 1 :].float()


def _check_kwargs(model_kwargs: Mapping[str, Any]) -> None:
    """TypeError for what a forward pass would be given, and is not."""
    for name, value in model_kwargs.items():
        if name in _IGNORED or value is None:
            continue
        if hasattr(value, "get_seq_length") and value.get_seq_length() == 0:
            continue  # the empty cache that generate() has prepared
        raise TypeError(
            f"generate: {name}: no argument that deal's search honours, got "
            f"{type(value).__name__}"
        )


def _check_positions(positions: torch.Tensor, prompts: Sequence[list[int]]) -> None:
    """TypeError for positions of the caller's own: a node's is its depth."""
    for row, prompt in zip(positions, prompts, strict=True):
        if row.ndim != 1 or row[-len(prompt) :].tolist() != list(range(len(prompt))):
            raise TypeError(
                "position_ids: expected none, or 0, 1, ... over each prompt, got "
                f"{row.tolist()}"
            )


def _without_ours(criteria: StoppingCriteriaList) -> StoppingCriteriaList:
    """Those that the search does not know from its own limits."""
    ours = (MaxLengthCriteria, EosTokenCriteria)
    return StoppingCriteriaList([c for c in criteria if type(c) not in ours])


def _processors(
    given: Any, rows: torch.Tensor, prompts: Sequence[Sequence[int]]
) -> list[LogitsProcessorList]:
    """A list for each prompt, which is called with that prompt's tokens alone."""
    found = list(given or ())
    for processor in found:
        name = type(processor).__name__
        if name in _STATEFUL or (name in _BY_ROW and len(rows) > 1):
            raise ValueError(
                f"logits_processor: {name}: expected one that looks at a single row "
                f"and keeps no state, with {len(rows)} prompts"
            )
    return [
        LogitsProcessorList([_for_row(p, rows.shape[1] - len(prompt)) for p in found])
        for prompt in prompts
    ]


def _for_row(processor: Any, n_pad: int) -> Any:
    """The processor without the padding of other rows."""
    if type(processor) is not RepetitionPenaltyLogitsProcessor:
        return processor
    one = copy.copy(processor)
    if isinstance(getattr(one, "prompt_ignore_length", None), torch.Tensor):
        one.prompt_ignore_length = n_pad or None
    return one
