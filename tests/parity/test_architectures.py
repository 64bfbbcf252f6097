"""Tiny random models of every architecture, from safetensors and from GGUF.

The oracles are those of test_tiny_models.py; the goldens are logits and greedy tokens
that transformers gave for the Hugging Face folder. Where transformers reads the GGUF
file too, tools/make_goldens.py has checked that it finds the same model in it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy_llama
import pytest
import tiny_model
from closeness import INT8_KL, LOGIT_TOLERANCE, max_error, mean_kl, tokens_of
from tiny_model import TinyConfig, make_tiny, write_gguf, write_hf_folder
from typer.testing import CliRunner

import deal
from deal import cli

DATA = Path(__file__).parent / "data"
GOLDENS = json.loads((DATA / "architectures.json").read_text())["models"]

# Qwen's GGUF files do not say which layers have a window.
FORMS = [
    (name, form)
    for name, golden in GOLDENS.items()
    for form in ("folder", "gguf")
    if form == "folder"
    or not (golden["config"]["arch"].startswith("qwen") and golden["config"]["n_swa"])
]

WINDOWS = {
    "mistral": TinyConfig(arch="mistral", n_ctx=1024, n_swa=100),
    "qwen3": TinyConfig(arch="qwen3", n_ctx=1024, n_swa=70, swa_begin=1),
    "gemma2": TinyConfig(
        arch="gemma2",
        n_ctx=1024,
        n_swa=70,
        swa_period=2,
        is_tied=True,
        attn_softcap=2.0,
    ),
    "gemma3": TinyConfig(
        arch="gemma3_text", n_ctx=1024, n_swa=100, swa_period=2, is_tied=True
    ),
}


def load(config: TinyConfig, path: Path, form: str, compute: str = "f32") -> deal.Model:
    write = write_gguf if form == "gguf" else write_hf_folder
    write(make_tiny(config), path / f"model.{form}")
    return deal.load(path / f"model.{form}", compute=compute, threads=1)


def config_of(name: str) -> TinyConfig:
    config = TinyConfig(**GOLDENS[name]["config"])
    assert (
        tiny_model.weights_sha256(make_tiny(config))
        == (GOLDENS[name]["weights_sha256"])
    ), "run tools/make_goldens.py architectures"
    return config


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_against_transformers(name: str, form: str, tmp_path: Path) -> None:
    arrays = np.load(DATA / "architectures.npz")
    tokens = arrays[f"{name}_tokens"]
    lm = load(config_of(name), tmp_path, form)
    logits = lm.logits(tokens)[::2, arrays[f"{name}_columns"]]
    assert max_error(logits, arrays[f"{name}_logits"]) <= LOGIT_TOLERANCE
    golden = GOLDENS[name]["greedy"]
    assert GOLDENS[name]["greedy_margin"] > 2 * LOGIT_TOLERANCE
    r = lm.generate(tokens[:10], max_new_tokens=len(golden), eos_token_id=[])
    assert list(r.token_ids) == golden


@pytest.mark.parametrize("name", GOLDENS)
def test_the_reference_against_transformers(name: str) -> None:
    arrays = np.load(DATA / "architectures.npz")
    config = config_of(name)
    tokens = arrays[f"{name}_tokens"]
    logits = numpy_llama.forward(config, make_tiny(config).weights, tokens)
    logits = logits[::2, arrays[f"{name}_columns"]]
    assert max_error(logits, arrays[f"{name}_logits"]) <= LOGIT_TOLERANCE


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_int8(name: str, form: str, tmp_path: Path) -> None:
    config = config_of(name)
    tokens = tokens_of(config)
    expected = numpy_llama.forward(config, make_tiny(config).weights, tokens)
    int8 = load(config, tmp_path, form, "int8").logits(tokens)
    assert 0 < mean_kl(expected, int8) <= INT8_KL


@pytest.mark.parametrize("n_swa", [1, 2, 63, 64, 65, 128, 130, 299, 300])
def test_window(n_swa: int, tmp_path: Path) -> None:
    """Windows that end at, before and after the edges of attention's blocks."""
    config = TinyConfig(arch="mistral", n_ctx=512, n_swa=n_swa)
    tokens = tokens_of(config, 300)
    logits = load(config, tmp_path, "folder").logits(tokens)
    expected = numpy_llama.forward(config, make_tiny(config).weights, tokens)
    assert max_error(logits, expected) <= LOGIT_TOLERANCE
    without = load(replace(config, n_swa=0), tmp_path, "folder").logits(tokens)
    assert np.array_equal(logits[:n_swa], without[:n_swa])
    assert np.array_equal(logits, without) == (n_swa >= 300)


def test_what_lies_before_the_windows_has_no_effect(tmp_path: Path) -> None:
    config = TinyConfig(arch="mistral", n_ctx=512, n_swa=70)
    lm = load(config, tmp_path, "gguf")
    n_reach = config.n_layer * (config.n_swa - 1)  # tokens that the first one reaches
    tokens = tokens_of(config, 300)
    logits = lm.logits(tokens)
    other = lm.logits([(tokens[0] + 1) % config.n_vocab, *tokens[1:]])
    assert np.array_equal(logits[n_reach + 1 :], other[n_reach + 1 :])
    assert (logits[: n_reach + 1] != other[: n_reach + 1]).any(-1).all()


@pytest.mark.parametrize("compute", ["f32", "int8"])
@pytest.mark.parametrize("name", WINDOWS)
def test_a_prefix_has_the_same_logits(name: str, compute: str, tmp_path: Path) -> None:
    """Batch invariance, bit for bit, where windows cut and skip blocks."""
    config = WINDOWS[name]
    lm = load(config, tmp_path, "folder", compute)
    tokens = tokens_of(config, 400)
    full = deal.load(lm.path, compute=compute, threads=2).logits(tokens)
    for n in (1, 63, 70, 71, 99, 101, 134, 165, 257, 400):
        assert np.array_equal(lm.logits(tokens[:n]), full[:n]), n


@pytest.mark.parametrize(
    ("arch", "form", "shown"),
    [
        ("mistral", "folder", "mistral"),
        ("mistral", "gguf", "llama"),
        ("qwen2", "folder", "qwen2"),
        ("qwen3", "gguf", "qwen3"),
        ("gemma2", "gguf", "gemma2"),
        ("gemma3_text", "folder", "gemma3_text"),
        ("gemma3_text", "gguf", "gemma3"),
    ],
)
def test_info(arch: str, form: str, shown: str, tmp_path: Path) -> None:
    n_swa = 0 if arch.startswith("qwen") else 20
    is_gemma = arch.startswith("gemma")
    config = TinyConfig(arch=arch, n_swa=n_swa, swa_period=2 * is_gemma)
    lm = load(replace(config, is_tied=is_gemma), tmp_path, form)
    assert lm.architecture == shown
    result = CliRunner().invoke(cli.app, ["info", str(lm.path), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["architecture"] == shown
    assert facts["hparams"]["n_swa"] == n_swa
    assert facts["hparams"]["has_qk_norm"] == (arch in ("qwen3", "gemma3_text"))
    result = CliRunner().invoke(cli.app, ["info", str(lm.path)])
    assert f"architecture {shown}" in " ".join(result.output.split())
