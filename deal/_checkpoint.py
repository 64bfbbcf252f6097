"""Hugging Face checkpoints: config.json and safetensors, read but not loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deal._errors import ModelFormatError
from deal._safetensors import StoredTensor, read_header, read_json

_TYPES = {"F32": 0, "F16": 1, "BF16": 30}  # deal_type
_ROPE_HALVES = 1  # deal_rope_pairing
_ROPE_SCALINGS = {"default": 0, "linear": 1, "llama3": 2}  # deal_rope_scaling

_GLOBAL_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# What transformers' LlamaConfig and MistralConfig take where a file does not say.
_LLAMA_DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
_MISTRAL_DEFAULTS = {
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BUFFER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor under the name that the core knows (GGUF's).

    Attributes
    ----------
    name : str
    type : int
        Number of the weight type, as in csrc/kernels/quant.h.
    shape : tuple of int
    path : Path
    offset, size : int
        Bytes from the start of the file.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read but not loaded.

    Attributes
    ----------
    hparams : dict
        Keys are the fields of ``deal_hparams``.
    tensors : tuple of CheckpointTensor
    """

    hparams: dict[str, Any]
    tensors: tuple[CheckpointTensor, ...]


def read_folder(folder: Path) -> Checkpoint:
    """Read a folder with ``config.json`` and safetensors, in one file or sharded.

    Raises
    ------
    OSError
        If a file is missing.
    ModelFormatError
        If a file is damaged or disagrees with another.
    NotImplementedError
        For an architecture or setting that the engine does not run.
    """
    config = read_json((folder / "config.json").read_bytes(), "config.json")
    hparams = _hparams(config)
    stored = _read_shards(folder)
    tensors = []
    for name, tensor in stored.items():
        if _BUFFER.fullmatch(name) or (hparams["is_tied"] and name == "lm_head.weight"):
            continue  # computed, and the embedding once more
        row = (tensor.shape, tensor.path, tensor.offset, tensor.size)
        kind = _TYPES[tensor.dtype]
        tensors.append(CheckpointTensor(_canonical(name), kind, *row))
    return Checkpoint(hparams, tuple(tensors))


def _canonical(name: str) -> str:
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise NotImplementedError(
            f"tensor {name}: the llama architecture has no place for it"
        )
    return f"blk.{int(match[1])}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    index_path = folder / "model.safetensors.index.json"
    if not index_path.exists():
        return read_header(folder / "model.safetensors")
    what = index_path.name
    weight_map = read_json(index_path.read_bytes(), what).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFormatError(f"{what}: expected a weight_map, got {weight_map!r}")
    headers: dict[str, dict[str, StoredTensor]] = {}
    tensors = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or PurePosixPath(file).name != file:
            raise ModelFormatError(
                f"{what}: {name}: expected a file of this folder, got {file!r}"
            )
        if file not in headers:
            headers[file] = read_header(folder / file)
        if name not in headers[file]:
            raise ModelFormatError(f"{what}: tensor {name} is not in {file}")
        tensors[name] = headers[file][name]
    for file, header in headers.items():
        for name in header:
            if name not in weight_map:
                raise ModelFormatError(f"{what}: tensor {name} of {file} is missing")
    return tensors


# --- config.json ---------------------------------------------------------------------


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ModelFormatError(
            f"config.json: {key}: expected a positive integer, got {value!r}"
        )
    return value


def _number(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ModelFormatError(f"config.json: {key}: expected a number, got {value!r}")
    try:
        value = float(value)
    except OverflowError:  # an integer of more than 308 digits
        value = math.inf
    if not math.isfinite(value) or value <= 0:
        raise ModelFormatError(
            f"config.json: {key}: expected a finite number above 0, got {value!r}"
        )
    return value


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise ModelFormatError(
            f"config.json: {key}: expected true or false, got {value!r}"
        )
    return value


def _expect(config: Mapping[str, Any], key: str, wanted: tuple[Any, ...]) -> None:
    value = config.get(key, wanted[0])
    if value not in wanted:
        names = " or ".join(repr(w) for w in wanted)
        raise NotImplementedError(
            f"config.json: {key}: only {names} is supported, got {value!r}"
        )


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    _expect(config, "model_type", ("llama", "mistral"))
    architectures = config.get("architectures")
    if not architectures:
        if "model_type" not in config:
            raise NotImplementedError(
                "config.json: expected model_type 'llama' or 'mistral', got neither a "
                "model_type nor architectures"
            )
        architectures = ["LlamaForCausalLM"]
    if architectures not in (["LlamaForCausalLM"], ["MistralForCausalLM"]):
        raise NotImplementedError(
            f"config.json: architectures: only LlamaForCausalLM and MistralForCausalLM "
            f"are supported, got {architectures!r}"
        )
    is_mistral = architectures == ["MistralForCausalLM"]
    is_mistral = is_mistral or config.get("model_type") == "mistral"
    config = {**(_MISTRAL_DEFAULTS if is_mistral else _LLAMA_DEFAULTS), **config}
    _expect(config, "hidden_act", ("silu", "swish"))
    _expect(config, "quantization_config", (None,))
    _expect(config, "partial_rotary_factor", (None, 1.0))
    n_embd, n_head = (
        _count(config, "hidden_size"),
        _count(config, "num_attention_heads"),
    )
    n_ctx = _count(config, "max_position_embeddings")
    if config.get("sliding_window") is not None:
        window = _count(config, "sliding_window")
        if window < n_ctx:
            raise NotImplementedError(
                f"config.json: sliding_window: {window}, shorter than the context of "
                f"{n_ctx}, is not supported"
            )
    head_dim = _count(config, "head_dim", max(1, n_embd // n_head))
    return {
        "n_vocab": _count(config, "vocab_size"),
        "n_embd": n_embd,
        "n_layer": _count(config, "num_hidden_layers"),
        "n_head": n_head,
        "n_head_kv": _count(config, "num_key_value_heads", n_head),
        "head_dim": head_dim,
        "n_ff": _count(config, "intermediate_size"),
        "n_ctx_train": n_ctx,
        "norm_eps": _number(config, "rms_norm_eps"),
        "is_tied": _flag(config, "tie_word_embeddings"),
        "rope_dim": head_dim,
        "rope_pairing": _ROPE_HALVES,
        **_rope(config),
    }


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's settings: ``rope_parameters`` since transformers 5, two keys before."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        raise ModelFormatError(f"config.json: rope_scaling: got {settings!r}")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_SCALINGS:
        names = ", ".join(_ROPE_SCALINGS)
        raise NotImplementedError(
            f"config.json: rope_scaling: expected one of {names}, got {kind!r}"
        )
    base = settings.get("rope_theta", config.get("rope_theta"))
    rope = {
        "rope_scaling": _ROPE_SCALINGS[kind],
        "rope_base": _number({"rope_theta": base}, "rope_theta", 10000.0),
        "rope_factor": 1.0,
        "rope_low_freq_factor": 1.0,
        "rope_high_freq_factor": 4.0,
        "rope_n_ctx_orig": 0,
    }
    if kind != "default":
        rope["rope_factor"] = _number(settings, "factor")
    if kind == "llama3":
        rope["rope_low_freq_factor"] = _number(settings, "low_freq_factor")
        rope["rope_high_freq_factor"] = _number(settings, "high_freq_factor")
        key = "original_max_position_embeddings"
        rope["rope_n_ctx_orig"] = _count(settings, key)
    return rope
