"""Hugging Face folders that are damaged or lie: the exception names the thing."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from tiny_model import TinyConfig, make_tiny

import deal

FILE_ERRORS = (deal.ModelFormatError, NotImplementedError)
TINY = make_tiny(TinyConfig(n_layer=1, n_embd=32, n_ff=32, n_head=2, n_head_kv=1))

# --- Hugging Face folders ------------------------------------------------------------

FIRST = "model.layers.0.self_attn.q_proj.weight"
SECOND = "model.layers.0.self_attn.k_proj.weight"
HEADER_LIES: dict[str, dict[str, Any]] = {
    "overlap": {FIRST: {"data_offsets": [0, 4096]}},
    "past the end": {FIRST: {"data_offsets": [1 << 40, (1 << 40) + 4096]}},
    "backwards": {FIRST: {"data_offsets": [4096, 0]}},
    "negative": {FIRST: {"data_offsets": [-4096, 0]}},
    "huge": {FIRST: {"data_offsets": [0, 2**63]}},
    "beyond 64 bits": {FIRST: {"data_offsets": [0, 2**70]}},
    "too small for the shape": {FIRST: {"data_offsets": [0, 4]}},
    "floats": {FIRST: {"data_offsets": [0.5, 4096.5]}},
    "one number": {FIRST: {"data_offsets": [0]}},
    "shape": {FIRST: {"shape": [31, 32]}},
    "huge shape": {FIRST: {"shape": [2**62, 2**62]}},
    "negative shape": {FIRST: {"shape": [-32, -32]}},
    "text shape": {FIRST: {"shape": "32x32"}},
    "dtype of another size": {FIRST: {"dtype": "F16"}},
    "missing": {FIRST: None},  # type: ignore[dict-item]
    "same range twice": {
        SECOND: {"data_offsets": [0, 2048]},
    },
}


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    tiny_model.write_hf_folder(TINY, tmp_path / "hf")
    return tmp_path / "hf"


def test_the_good_folder_loads(folder: Path) -> None:
    assert deal.load(folder, threads=1).generate("the cat", max_new_tokens=3).text


@pytest.mark.parametrize("name", HEADER_LIES)
def test_safetensors_header(name: str, tmp_path: Path) -> None:
    tiny_model.write_hf_folder(TINY, tmp_path / "hf", header_edit=HEADER_LIES[name])
    with pytest.raises(
        deal.ModelFormatError, match="q_proj|k_proj|attn_q|attn_k|safetensors"
    ):
        deal.load(tmp_path / "hf", threads=1)


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "F64", "BOOL", "nonsense"])
def test_safetensors_dtype(dtype: str, tmp_path: Path) -> None:
    edit = {FIRST: {"dtype": dtype}}
    tiny_model.write_hf_folder(TINY, tmp_path / "hf", header_edit=edit)
    with pytest.raises((NotImplementedError, deal.ModelFormatError), match=dtype):
        deal.load(tmp_path / "hf", threads=1)


@pytest.mark.parametrize("size", [0, 4, 7, 8, 9, 100, 1000, -4096, -1])
def test_safetensors_truncated(size: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(deal.ModelFormatError, match="safetensors"):
        deal.load(folder, threads=1)


@pytest.mark.parametrize("n", [0, 1, 2**20, 2**40, 2**63, 2**64 - 1])
def test_safetensors_header_size(n: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", n) + file.read_bytes()[8:])
    with pytest.raises(deal.ModelFormatError, match="safetensors"):
        deal.load(folder, threads=1)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": 1}', '{"a": {}}', "\xff"]
)
def test_safetensors_header_text(text: str, folder: Path) -> None:
    raw = text.encode("latin-1")
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(FILE_ERRORS, match="safetensors|tensor"):
        deal.load(folder, threads=1)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"model_type": "gpt_neox"}, NotImplementedError, "gpt_neox"),
        ({"hidden_size": 64}, deal.ModelFormatError, "64"),
        ({"hidden_size": "wide"}, deal.ModelFormatError, "hidden_size"),
        ({"num_hidden_layers": 2}, deal.ModelFormatError, r"layers\.1|blk\.1"),
        ({"num_hidden_layers": -1}, deal.ModelFormatError, "layer"),
        ({"num_hidden_layers": 2**31 - 1}, deal.ModelFormatError, "layer"),
        ({"num_attention_heads": 0}, deal.ModelFormatError, "head"),
        ({"vocab_size": 10}, deal.ModelFormatError, "10"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            NotImplementedError,
            "yarn",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": -2.0}},
            deal.ModelFormatError,
            "factor",
        ),
        ({"rope_scaling": {"rope_type": "llama3"}}, deal.ModelFormatError, "factor"),
        ({"rope_scaling": {"type": ["linear"]}}, NotImplementedError, "linear"),
        ({"rope_theta": 10**400}, deal.ModelFormatError, "rope_theta"),
        ({"tie_word_embeddings": "false"}, deal.ModelFormatError, "tie_word"),
        ({"hidden_act": "gelu"}, NotImplementedError, "gelu"),
        ({"rms_norm_eps": None}, deal.ModelFormatError, "rms_norm_eps"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            NotImplementedError,
            "gptq",
        ),
    ],
)
def test_config(
    changes: dict[str, Any], error: type[Exception], match: str, folder: Path
) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(error, match=match):
        deal.load(folder, threads=1)


LATE = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
FULL, LOCAL = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("arch", "changes", "error", "match"),
    [
        ("qwen2", {"model_type": "qwen2_moe"}, NotImplementedError, "qwen2_moe"),
        ("qwen2", {"model_type": ["qwen2"]}, NotImplementedError, "model_type"),
        ("qwen3", {"model_type": "qwen2"}, NotImplementedError, "Qwen3ForCausalLM"),
        (
            "qwen3",
            {"architectures": ["Qwen3ForSequenceClassification"]},
            NotImplementedError,
            "Qwen3ForSequenceClassification",
        ),
        (
            "qwen3",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            NotImplementedError,
            "yarn",
        ),
        (
            "qwen3",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            NotImplementedError,
            "partial_rotary_factor",
        ),
        ("qwen2", LATE | {"sliding_window": -20}, deal.ModelFormatError, "sliding_w"),
        ("qwen2", LATE | {"sliding_window": "all"}, deal.ModelFormatError, "sliding_w"),
        ("qwen2", LATE | {"max_window_layers": -1}, deal.ModelFormatError, "max_w"),
        (
            "qwen2",
            LATE | {"layer_types": [LOCAL]},
            deal.ModelFormatError,
            "layer_types",
        ),
        ("qwen2", LATE | {"layer_types": LOCAL}, deal.ModelFormatError, "layer_types"),
        ("qwen2", {"layer_types": [LOCAL] * 5}, NotImplementedError, LOCAL),
        (
            "qwen2",
            LATE | {"layer_types": ["chunked_attention"] * 5},
            NotImplementedError,
            "chunked_attention",
        ),
        (
            "qwen2",
            LATE | {"layer_types": [LOCAL, LOCAL, FULL, FULL, LOCAL]},
            NotImplementedError,
            "layer_types",
        ),
        ("gemma2", {"model_type": "gemma"}, NotImplementedError, "gemma"),
        ("gemma3_text", {"model_type": "gemma3"}, NotImplementedError, "gemma3"),
        (
            "gemma3_text",
            {"architectures": ["Gemma3ForConditionalGeneration"]},
            NotImplementedError,
            "Gemma3ForConditionalGeneration",
        ),
        ("gemma2", {"hidden_activation": "gelu"}, NotImplementedError, "hidden_act"),
        (
            "gemma2",
            {"use_bidirectional_attention": True},
            NotImplementedError,
            "use_bidirectional_attention",
        ),
        (
            "gemma2",
            {"query_pre_attn_scalar": 0},
            deal.ModelFormatError,
            "query_pre_attn_scalar",
        ),
        (
            "gemma2",
            {"final_logit_softcapping": "none"},
            deal.ModelFormatError,
            "final_logit_softcapping",
        ),
        ("gemma2", {"sliding_window": 0}, deal.ModelFormatError, "sliding_window"),
        (
            "gemma3_text",
            {"attn_logit_softcapping": 50.0},
            NotImplementedError,
            "attn_logit_softcapping",
        ),
        (
            "gemma3_text",
            {"layer_types": None, "sliding_window_pattern": 0},
            deal.ModelFormatError,
            "sliding_window_pattern",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
            deal.ModelFormatError,
            "full_attention and sliding_attention",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {FULL: {}, LOCAL: {"rope_type": "linear"}}},
            NotImplementedError,
            "linear",
        ),
        (
            "gemma3_text",
            {"rope_local_base_freq": -1.0},
            deal.ModelFormatError,
            "rope_local_base_freq",
        ),
        ("mistral", {"sliding_window": 0}, deal.ModelFormatError, "sliding_window"),
        ("mistral", {"layer_types": [FULL] * 5}, NotImplementedError, "layer_types"),
    ],
)
def test_config_of_other_architectures(
    arch: str,
    changes: dict[str, Any],
    error: type[Exception],
    match: str,
    tmp_path: Path,
) -> None:
    config = TinyConfig(arch=arch, n_layer=5, n_embd=32, n_ff=32)
    if arch.startswith("gemma"):
        config = replace(config, n_swa=20, swa_period=2, is_tied=True)
    tiny_model.write_hf_folder(make_tiny(config), tmp_path)
    deal.load(tmp_path, threads=1)
    edit_json(tmp_path / "config.json", **changes)
    (tmp_path / "model.safetensors").unlink()  # refused before any weight is read
    with pytest.raises(error, match=match):
        deal.load(tmp_path, threads=1)


def test_norms_of_heads(tmp_path: Path) -> None:
    tiny = make_tiny(TinyConfig(arch="qwen3", n_layer=1))
    name = "model.layers.0.self_attn.k_norm.weight"
    tiny.weights[name] = tiny.weights[name][:8]
    tiny_model.write_hf_folder(tiny, tmp_path)
    with pytest.raises(deal.ModelFormatError, match="attn_k_norm"):
        deal.load(tmp_path, threads=1)
    del tiny.weights[name]
    tiny_model.write_hf_folder(tiny, tmp_path)
    with pytest.raises(deal.ModelFormatError, match="attn_k_norm"):
        deal.load(tmp_path, threads=1)
    edit_json(
        tmp_path / "config.json", model_type="llama", architectures=["LlamaForCausalLM"]
    )
    with pytest.raises(NotImplementedError, match="attn_q_norm"):
        deal.load(tmp_path, threads=1)


def test_gemma_defaults(tmp_path: Path) -> None:
    """Keys as in older releases, and as transformers 5 writes them."""
    shape = {"n_layer": 7, "n_embd": 32, "n_ff": 32, "n_head": 1, "n_head_kv": 1}
    config = TinyConfig(arch="gemma3_text", head_dim=256, is_tied=True, **shape)
    tiny_model.write_hf_folder(make_tiny(config), tmp_path)
    keys = ("layer_types", "sliding_window", "rope_theta", "rope_local_base_freq")
    keys += ("query_pre_attn_scalar", "head_dim", "tie_word_embeddings")
    keys += ("final_logit_softcapping", "hidden_activation", "rope_scaling")
    drop_keys(tmp_path / "config.json", *keys)
    h = deal.load(tmp_path, threads=1).hparams
    assert (h.n_swa, h.swa_begin, h.swa_period) == (4096, 0, 6)
    assert (h.rope_base, h.rope_base_local) == (1e6, 1e4)
    assert (h.attn_scale, h.attn_softcap, h.final_softcap) == (1 / 16, 0, 0)
    assert (h.norm_base, h.head_dim, h.is_tied) == (1, 256, True)
    assert h.embd_scale == pytest.approx(math.sqrt(32))
    ropes = {
        FULL: {"rope_theta": 5e5, "rope_type": "linear", "factor": 8.0},
        LOCAL: {"rope_theta": 3e3, "rope_type": "default"},
    }
    edit_json(tmp_path / "config.json", rope_parameters=ropes)
    h = deal.load(tmp_path, threads=1).hparams
    assert (h.rope_base, h.rope_base_local, h.rope_factor) == (5e5, 3e3, 8)
    edit_json(
        tmp_path / "config.json",
        model_type="gemma2",
        architectures=["Gemma2ForCausalLM"],
        rope_parameters=None,
    )
    with pytest.raises(NotImplementedError, match="norm"):  # of the heads
        deal.load(tmp_path, threads=1)
    tiny_model.write_hf_folder(make_tiny(replace(config, arch="gemma2")), tmp_path)
    drop_keys(tmp_path / "config.json", *keys, "attn_logit_softcapping")
    h = deal.load(tmp_path, threads=1).hparams
    assert (h.n_swa, h.swa_period, h.rope_base_local) == (4096, 2, 0)
    assert (h.attn_softcap, h.final_softcap, h.rope_base) == (50, 30, 1e4)


@pytest.mark.parametrize(
    "layer_types", [[FULL, LOCAL, LOCAL], [LOCAL, FULL, LOCAL], [FULL] * 3, [LOCAL] * 3]
)
def test_layer_types(layer_types: list[str], tmp_path: Path) -> None:
    tiny = make_tiny(TinyConfig(arch="qwen2", n_layer=3, n_embd=32, n_ff=32))
    tiny_model.write_hf_folder(tiny, tmp_path)
    edit_json(tmp_path / "config.json", **LATE, layer_types=layer_types)
    h = deal.load(tmp_path, threads=1).hparams
    assert h.n_swa == (20 if LOCAL in layer_types else 0)
    for i, kind in enumerate(layer_types):
        is_local = h.n_swa > 0 and i >= h.swa_begin
        is_local = is_local and not (h.swa_period and (i + 1) % h.swa_period == 0)
        assert is_local == (kind == LOCAL)


def drop_keys(path: Path, *keys: str, **changes: Any) -> None:
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in keys}))


def test_config_without_an_architecture(folder: Path) -> None:
    drop_keys(folder / "config.json", "model_type", "architectures")
    with pytest.raises(NotImplementedError, match="model_type"):
        deal.load(folder, threads=1)


def test_config_defaults(folder: Path) -> None:
    """Keys that are missing have the defaults of transformers' configurations."""
    keys = ("max_position_embeddings", "rms_norm_eps")
    drop_keys(folder / "config.json", *keys)
    hparams = deal.load(folder, threads=1).hparams
    assert hparams.n_ctx_train == 2048
    assert hparams.norm_eps == pytest.approx(1e-6)
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    drop_keys(folder / "config.json", "sliding_window", **mistral)
    assert deal.load(folder, threads=1).hparams.n_swa == 4096
    drop_keys(folder / "config.json", "model_type", sliding_window=None)
    assert deal.load(folder, threads=1).hparams.n_swa == 0
    assert deal.load(folder, threads=1).hparams.n_ctx_train == 131072


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "safetensors"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_missing_file(file: str, match: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises((OSError, deal.ModelFormatError), match=match):
        deal.load(folder, threads=1)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"llama"', "\x00"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_broken_json(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    with pytest.raises(deal.ModelFormatError, match=file):
        deal.load(folder, threads=1)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"model.norm.weight": "../outside.safetensors"},
        {"model.norm.weight": "/etc/passwd"},
        {"model.norm.weight": "missing.safetensors"},
        {"model.norm.weight": 3},
        {},
        None,
        "all",
    ],
)
def test_shard_index(weight_map: Any, tmp_path: Path) -> None:
    tiny_model.write_hf_folder(TINY, tmp_path / "hf", n_shards=2)
    index = tmp_path / "hf" / "model.safetensors.index.json"
    known = json.loads(index.read_text())["weight_map"]
    if isinstance(weight_map, dict) and weight_map:
        weight_map = known | weight_map
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((deal.ModelFormatError, OSError)) as caught:
        deal.load(tmp_path / "hf", threads=1)
    assert str(caught.value)


def test_shard_without_its_tensor(tmp_path: Path) -> None:
    tiny_model.write_hf_folder(TINY, tmp_path / "hf", n_shards=2)
    index = tmp_path / "hf" / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    files = sorted(set(weight_map.values()))
    weight_map[FIRST] = files[1 - files.index(weight_map[FIRST])]
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(deal.ModelFormatError, match="q_proj"):
        deal.load(tmp_path / "hf", threads=1)
