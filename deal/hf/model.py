"""The engine behind the interface of a causal language model of transformers."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    GenerationConfig,
    LogitsProcessorList,
    MaxTimeCriteria,
    MinPLogitsWarper,
    PretrainedConfig,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import deal
from deal import _rollouts
from deal._batches import Request, generate_all
from deal._request import Options, rows_of
from deal.generation import Generation
from deal.hf import config as _config
from deal.hf.outputs import assemble, criteria_list, drive, requests_of
from deal.hf.prompts import prompt_rows, prompts_of
from deal.model import Model
from deal.settings import Search


class DealForCausalLM:
    """A `deal.Model` that pipelines and code written for ``generate`` take.

    It computes on the CPU, with the engine's kernels; it is no ``torch.nn.Module``.

    Parameters
    ----------
    model : Model
    config : PretrainedConfig, optional
        Default: what the model's hyper-parameters say.
    generation_config : GenerationConfig, optional
        Default: the tokenizer's special tokens.
    rewards : Reward or callable, optional
        Of every ``generate`` that names none.
    search : Search, optional
        Of every ``generate`` that names none.

    Attributes
    ----------
    deal : Model
    config : PretrainedConfig
    generation_config : GenerationConfig
    """

    main_input_name = "input_ids"
    input_modalities = ("text",)
    output_modalities = ("text",)

    def __init__(
        self,
        model: Model,
        config: PretrainedConfig | None = None,
        generation_config: GenerationConfig | None = None,
        rewards: Any = None,
        search: Search | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model: expected deal.Model, got {type(model).__name__}")
        self.deal = model
        self.config = _describe(model) if config is None else config
        self.generation_config = copy.deepcopy(generation_config or GenerationConfig())
        _fill_specials(self.generation_config, model)
        self.rewards = rewards
        self.search = search

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "smollm2-135m-instruct",
        *,
        rewards: Any = None,
        search: Search | None = None,
        **kwargs: Any,
    ) -> DealForCausalLM:
        """Load what :func:`deal.load` loads; keywords are those of it.

        A folder's own ``config.json`` and ``generation_config.json`` count.
        """
        model = deal.load(name, **kwargs)
        config, generation_config = None, None
        if model.path.is_dir():
            config = AutoConfig.from_pretrained(model.path)
            if (model.path / "generation_config.json").is_file():
                generation_config = GenerationConfig.from_pretrained(model.path)
        return cls(model, config, generation_config, rewards, search)

    @classmethod
    def from_transformers(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        rewards: Any = None,
        search: Search | None = None,
        **kwargs: Any,
    ) -> DealForCausalLM:
        """Take over a model in memory; see :func:`deal.from_transformers`."""
        made = deal.from_transformers(model, tokenizer, **kwargs)
        return cls(made, model.config, model.generation_config, rewards, search)

    def __repr__(self) -> str:
        return f"DealForCausalLM({self.deal!r})"

    # --- what transformers asks of a model -------------------------------------------

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def name_or_path(self) -> str:
        return str(self.deal.path)

    def can_generate(self) -> bool:
        return True

    def eval(self) -> DealForCausalLM:
        return self

    def to(self, device: Any) -> DealForCausalLM:
        """Itself, on the CPU; ValueError for another device."""
        if torch.device(device).type != "cpu":
            raise ValueError(f"device: expected cpu, got {device}")
        return self

    # --- generate --------------------------------------------------------------------

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        streamer: Any = None,
        tokenizer: Any = None,
        rewards: Any = None,
        search: Search | None = None,
        stop: str | Sequence[str] | None = None,
        constraint: Any = None,
        reward_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as ``GenerationMixin.generate`` does, with rewards and a search.

        Parameters
        ----------
        inputs, input_ids : LongTensor, shape (n_prompt, length), optional
            One of them; the begin token where there is neither.
        attention_mask : tensor, shape (n_prompt, length), optional
            0 for padding, on the left. Default: all but ``pad_token_id``, where that
            is no end token.
        generation_config : GenerationConfig, optional
            Over the model's own; keywords go before it. Honoured are max_new_tokens,
            max_length, do_sample, temperature, top_k, top_p, min_p,
            repetition_penalty, num_beams, length_penalty, num_return_sequences,
            stop_strings, max_time, eos_token_id, pad_token_id,
            return_dict_in_generate, output_scores, output_logits.
        stopping_criteria : StoppingCriteriaList or list, optional
            Called after every token with (1, length) tokens and None for scores. The
            search of one beam alone.
        streamer : BaseStreamer, optional
            Gets the prompt, then each token once it is decided: with several beams, all
            of them at the end. One prompt and one sequence alone.
        rewards, search, stop, constraint
            As in :meth:`deal.Model.generate`. A model's own default of do_sample=True
            gives way to a search.
        reward_kwargs : mapping, optional
            Columns: a list of n_prompt values each.
        tokenizer : optional
            Not needed: the engine has its own.
        **kwargs
            Settings of the config.

        Returns
        -------
        LongTensor or DealGenerateOutput
            Prompts, padding included, and what was generated, of shape
            (n_prompt * num_return_sequences, length).

        Raises
        ------
        ValueError
            For a setting that the engine cannot honour; names it.
        TypeError
            For an argument that is none.
        """
        if logits_processor:
            raise ValueError(
                "logits_processor: the engine's models have none; "
                "deal.hf.custom_generate honours them, over a torch model"
            )
        given = {
            "rewards": self.rewards if rewards is None else rewards,
            "search": self.search if search is None else search,
            "stop": stop,
            "constraint": constraint,
        }
        config, unused, explicit = _config.merge(
            self.generation_config, generation_config, kwargs
        )
        _refuse(unused)
        rows = prompt_rows(inputs, input_ids, config.bos_token_id)
        ends = _config.end_tokens(config)
        prompts = prompts_of(rows, attention_mask, config.pad_token_id, ends)
        options = self._options(config, explicit, given, rows.shape[1])
        criteria = _timed(criteria_list(stopping_criteria), config)
        if criteria:
            _config.check_one_by_one(options, given["search"], "stopping_criteria")
        columns = rows_of(reward_kwargs, len(rows))
        if streamer is not None:
            _check_streamer(len(rows), config)
            streamer.put(rows.cpu())
        if streamer is None and not criteria:
            requests = [
                Request(self.deal._encode(prompt), options, column)
                for prompt, column in zip(prompts, columns, strict=True)
            ]
            results = generate_all(self.deal, requests)
        else:
            results = [
                self._run(options, prompt, row[None], columns[i], streamer, criteria)
                for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
            ]
        if streamer is not None:
            streamer.end()
        return assemble(
            rows,
            results,
            config,
            ends,
            lambda i, ids: self._logits(prompts[i], ids),
            lambda i: _processors(options, rows.shape[1] - len(prompts[i])),
            options.params["mode"] != 0,
        )

    def _options(
        self, config: Any, explicit: Any, given: Mapping[str, Any], n_prompt: int
    ) -> Options:
        model = self.deal
        limits = (n_prompt, model.hparams.n_vocab, model.max_length)
        options = _config.make_request(config, explicit, given, *limits)
        return _rollouts.checked(model, options, True)

    def _run(
        self,
        options: Options,
        prompt: list[int],
        row: torch.Tensor,
        columns: dict[str, Any],
        streamer: Any,
        criteria: Any,
    ) -> list[Generation]:
        model = self.deal
        encoded = model._encode(prompt)
        controls = _rollouts.controls(model, options)
        found: list[Generation] = []
        for one in requests_of(options, criteria):
            with _rollouts.sessions(model, one) as sessions:
                search = model._start(sessions, encoded, one, columns, controls)
                try:
                    found += drive(
                        search, one, model.tokenizer, row, streamer, criteria
                    )
                finally:
                    del search  # gives its nodes back before the sessions are
        return found

    def _logits(self, prompt: list[int], ids: Sequence[int]) -> torch.Tensor:
        logits = self.deal.logits([*prompt, *ids[:-1]])
        return torch.from_numpy(logits[len(prompt) - 1 :])


def _describe(model: Model) -> PretrainedConfig:
    """A config of a model that has no config.json."""
    h = model.hparams
    config = PretrainedConfig(architectures=["DealForCausalLM"])
    config.update(
        {
            "vocab_size": h.n_vocab,
            "hidden_size": h.n_embd,
            "num_hidden_layers": h.n_layer,
            "num_attention_heads": h.n_head,
            "num_key_value_heads": h.n_head_kv,
            "max_position_embeddings": model.max_length,
        }
    )
    return config


def _fill_specials(config: GenerationConfig, model: Model) -> None:
    tokenizer = model.tokenizer
    if config.eos_token_id is None:
        config.eos_token_id = list(tokenizer.eos_token_ids) or None
    for name in ("bos_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            setattr(config, name, getattr(tokenizer, name))


def _refuse(unused: Mapping[str, Any]) -> None:
    """Arguments of transformers' that would have no effect here, and mistyped ones."""
    for name, value in unused.items():
        if value is not None and value is not False:
            raise TypeError(
                f"generate: {name}: no argument that deal's engine honours, got "
                f"{type(value).__name__}"
            )


def _timed(criteria: Any, config: GenerationConfig) -> Any:
    if config.max_time is not None:
        criteria = type(criteria)([*criteria, MaxTimeCriteria(config.max_time)])
    return criteria


def _check_streamer(n_prompt: int, config: GenerationConfig) -> None:
    n_return = config.num_return_sequences or 1
    if n_prompt > 1 or n_return > 1:
        raise ValueError(
            f"streamer: expected one prompt and one sequence, got {n_prompt} and "
            f"{n_return}"
        )


def _processors(options: Options, n_pad: int) -> LogitsProcessorList:
    """What the engine's sampling does to logits, as transformers' processors."""
    p = options.params
    found = LogitsProcessorList()
    if p["mode"] != 0:
        return found
    if p["repetition_penalty"] != 1.0:
        ignored = {"prompt_ignore_length": n_pad} if n_pad else {}
        found.append(
            RepetitionPenaltyLogitsProcessor(p["repetition_penalty"], **ignored)
        )
    if p["temperature"] not in (0.0, 1.0):
        found.append(TemperatureLogitsWarper(p["temperature"]))
    if p["temperature"] == 0.0:
        return found
    if p["top_k"] > 0:
        found.append(TopKLogitsWarper(p["top_k"]))
    if p["top_p"] < 1.0:
        found.append(TopPLogitsWarper(p["top_p"]))
    if p["min_p"] > 0.0:
        found.append(MinPLogitsWarper(p["min_p"]))
    return found
