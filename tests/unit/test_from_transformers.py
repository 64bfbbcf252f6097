"""Models of transformers taken over from memory are what their folders load as."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_models import deal, torch, transformers
from tiny_model import TinyConfig, make_tiny, write_gguf, write_hf_folder

WINDOW = {"is_tied": True, "n_swa": 20, "swa_period": 2}
CONFIGS = {
    "llama": TinyConfig(),
    "llama tied": TinyConfig(is_tied=True, rope_scaling="llama3", rope_factor=4.0),
    "mistral": TinyConfig(arch="mistral", n_swa=20),
    "qwen2": TinyConfig(arch="qwen2"),
    "qwen3": TinyConfig(arch="qwen3"),
    "gemma2": TinyConfig(arch="gemma2", **WINDOW),
    "gemma3": TinyConfig(arch="gemma3_text", vocab="spm", **WINDOW),
}
IDS = list(range(3, 40))


def make(config: TinyConfig, path: Path, dtype: Any = None) -> tuple[Any, Any]:
    write_hf_folder(make_tiny(config), path / "made")
    auto = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(path / "made", dtype=dtype or torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(path / "made")


def saved(model: Any, tokenizer: Any, path: Path, **settings: Any) -> deal.Model:
    model.save_pretrained(path / "saved")
    tokenizer.save_pretrained(path / "saved")
    return deal.load(path / "saved", threads=1, **settings)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_saved_folder(
    name: str, dtype: str, tmp_path: Path
) -> None:
    model, tokenizer = make(CONFIGS[name], tmp_path, getattr(torch, dtype))
    for compute in ("f32", "int8"):
        expected = saved(model, tokenizer, tmp_path, compute=compute)
        lm = deal.from_transformers(model, tokenizer, compute=compute, threads=1)
        assert np.array_equal(lm.logits(IDS), expected.logits(IDS))
        assert lm.hparams == expected.hparams
        assert lm.architecture == expected.architecture
    assert deal.from_transformers(model, tokenizer).compute == "f32"


@pytest.mark.parametrize("vocab", ["byte", "spm"])
def test_tokenizer(vocab: str, tmp_path: Path) -> None:
    model, tokenizer = make(TinyConfig(vocab=vocab), tmp_path)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    model.generation_config.eos_token_id = [2, 5]
    expected = saved(model, tokenizer, tmp_path).tokenizer
    found = deal.from_transformers(model, tokenizer).tokenizer
    for text in ("one two, 3", "<|im_end|> x", "\u00e9\n\n  y"):
        for special in (True, False):
            assert found.encode(text, special) == expected.encode(text, special)
            assert found.encode(text, special) == tokenizer.encode(
                text, add_special_tokens=special
            )
    assert found.decode(IDS) == expected.decode(IDS)
    assert found.tokens() == expected.tokens()
    assert found.eos_token_ids == expected.eos_token_ids == (2, 5)
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"):
        assert getattr(found, name) == getattr(expected, name), name
    chat = [{"role": "user", "content": "hi"}]
    assert found.apply_chat_template(chat) == "<hi>"


def test_settings_are_those_of_load(tmp_path: Path) -> None:
    model, tokenizer = make(TinyConfig(), tmp_path)
    lm = deal.from_transformers(
        model, tokenizer, threads=2, max_length=64, kv_type="f16", kv_budget=10**6
    )
    assert (lm.threads, lm.max_length, lm.kv_type) == (2, 64, "f16")
    assert lm.kv_budget == 10**6 and lm.path.name == "made"
    for bad in ({"compute": "f64"}, {"threads": 0}, {"max_length": 1000}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            deal.from_transformers(model, tokenizer, **bad)


def test_weights_outlive_the_model(tmp_path: Path) -> None:
    model, tokenizer = make(TinyConfig(), tmp_path)
    expected = saved(model, tokenizer, tmp_path).logits(IDS)
    lm = deal.from_transformers(model, tokenizer)
    del model
    gc.collect()
    junk = [torch.full((1024, 64), 7.0) for _ in range(64)]  # where they may have been
    assert np.array_equal(lm.logits(IDS), expected)
    del junk


def test_fingerprint(tmp_path: Path) -> None:
    model, tokenizer = make(TinyConfig(), tmp_path)
    first = deal.from_transformers(model, tokenizer).fingerprint
    assert deal.from_transformers(model, tokenizer).fingerprint == first
    model.model.norm.weight.data[3] += 1.0
    assert deal.from_transformers(model, tokenizer).fingerprint != first


def test_untied_in_memory_is_untied(tmp_path: Path) -> None:
    """A head that was replaced counts, whatever the settings say."""
    model, tokenizer = make(TinyConfig(is_tied=True), tmp_path)
    other = torch.nn.Parameter(2.0 * model.lm_head.weight.detach().clone())
    model.lm_head.weight = other
    lm = deal.from_transformers(model, tokenizer)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    assert not lm.hparams.is_tied
    assert np.abs(lm.logits(IDS) - expected).max() < 1e-3


def test_weights_that_transformers_read_from_gguf(tmp_path: Path) -> None:
    """They are floats by then, though the config still names the file."""
    write_gguf(make_tiny(TinyConfig()), tmp_path / "tiny.gguf", "Q8_0")
    _, tokenizer = make(TinyConfig(), tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    )
    lm = deal.from_transformers(model, tokenizer, threads=1)
    read = deal.load(tmp_path / "tiny.gguf", compute="f32", threads=1)
    assert np.allclose(lm.logits(IDS), read.logits(IDS), atol=1e-4)


def test_refusals(tmp_path: Path) -> None:
    model, tokenizer = make(TinyConfig(), tmp_path)
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=300)
    gpt2 = transformers.GPT2LMHeadModel(config)
    other_way = r"deal\.hf\.custom_generate"
    with pytest.raises(NotImplementedError, match=f"gpt2.*{other_way}"):
        deal.from_transformers(gpt2, tokenizer)
    with pytest.raises(NotImplementedError, match=f"float64.*{other_way}"):
        deal.from_transformers(copy.deepcopy(model).double(), tokenizer)

    class Other(transformers.LlamaForCausalLM):
        """Its forward pass may be another."""

    with pytest.raises(NotImplementedError, match=f"Other.*{other_way}"):
        deal.from_transformers(Other(model.config), tokenizer)
    with pytest.raises(NotImplementedError, match=f"LlamaModel.*{other_way}"):
        deal.from_transformers(model.model, tokenizer)
    with pytest.raises(ValueError, match="meta tensor"):
        deal.from_transformers(copy.deepcopy(model).to("meta"), tokenizer)
    with pytest.raises(TypeError, match="model: expected .*PreTrainedModel, got str"):
        deal.from_transformers("name", tokenizer)
    with pytest.raises(TypeError, match="tokenizer: expected .*, got NoneType"):
        deal.from_transformers(model, None)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(deal.ModelFormatError, match=r"output_norm.*not finite"):
        deal.from_transformers(model, tokenizer)
