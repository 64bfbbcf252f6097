"""Tiny models and tokenizers of transformers, for the tests of deal.hf."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tiny_model import TinyConfig, make_tiny, write_hf_folder

torch = pytest.importorskip("torch", reason="needs torch: make hf")
transformers = pytest.importorskip("transformers", reason="needs transformers: make hf")

import deal  # noqa: E402

torch.set_num_threads(1)  # tiny products: threads would only wait for each other
TINY = TinyConfig()
N_VOCAB = TINY.n_vocab


@deal.reward(range=(0, 1))
def vowels(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
    """Share of vowels."""
    return [sum(c in "aeiou" for c in t) / max(1, len(t)) for t in completions]


SEARCH = {"top_k": 4, "lookahead": 5, "reward_weight": 6.0}


@lru_cache
def llama(config: TinyConfig = TINY) -> tuple[Any, Any]:
    """A model of transformers, and its tokenizer, which pads on the left."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiny"
        write_hf_folder(make_tiny(config), path)
        auto = transformers.AutoModelForCausalLM
        model = auto.from_pretrained(path, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    return model, tokenizer


def made(kind: str, **settings: Any) -> Any:
    """A random model of another architecture over the tiny vocabulary."""
    torch.manual_seed(3)
    config_class = getattr(transformers, f"{kind}Config")
    config = config_class(
        vocab_size=N_VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings
    )
    head = {"GPT2": "LMHeadModel"}.get(kind, "ForCausalLM")
    model = getattr(transformers, kind + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # so that the logits spread
                parameter.mul_(4.0)
    return model


@lru_cache
def gpt2() -> Any:
    return made("GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=128)


@lru_cache
def bloom() -> Any:
    return made("Bloom", hidden_size=32, n_layer=2, n_head=4)
