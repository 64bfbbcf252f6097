"""transformers' text-generation pipeline over the engine."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, TextGenerationPipeline

from deal.hf.model import DealForCausalLM


class DealPipeline(TextGenerationPipeline):
    """``pipeline("text-generation", model=..., pipeline_class=DealPipeline)``.

    As transformers' pipeline, but for two defaults: it is greedy, as a search draws
    nothing, and stays on the CPU. `rewards`, `search` and all else that
    :meth:`DealForCausalLM.generate` knows are keywords of the pipeline or of a call.

    Parameters
    ----------
    model : DealForCausalLM
    device : optional
        The CPU.
    **kwargs
        As in ``transformers.TextGenerationPipeline``.
    """

    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(
        self, model: Any, *args: Any, device: Any = None, **kwargs: Any
    ) -> None:
        if not isinstance(model, DealForCausalLM):
            raise TypeError(
                f"model: expected deal.hf.DealForCausalLM, got {type(model).__name__}"
            )
        device = torch.device("cpu" if device in (None, -1) else device)
        super().__init__(model.to(device), *args, device=device, **kwargs)

    def check_model_type(self, supported_models: Any) -> None:
        """Nothing: the constructor has checked it."""
