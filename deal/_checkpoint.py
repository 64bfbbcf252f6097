"""Hugging Face checkpoints: config.json and safetensors, read but not loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from deal._errors import ModelFormatError
from deal._safetensors import StoredTensor, read_header, read_json

_TYPES = {"F32": 0, "F16": 1, "BF16": 30}  # deal_type
_ROPE_HALVES = 1  # deal_rope_pairing
_GELU = 1  # deal_activation
_ROPE_SCALINGS = {"default": 0, "linear": 1, "llama3": 2}  # deal_rope_scaling


@dataclass(frozen=True)
class _Family:
    """What a model_type says beyond its keys."""

    class_name: str
    defaults: dict[str, Any]  # transformers', where config.json does not say
    has_qk_norm: bool = False
    window: str = "none"  # or in "all" layers, in "late" ones if it is switched on,
    # or in "most", all but every n-th
    is_gemma: bool = False


_DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
_MISTRAL_DEFAULTS = _DEFAULTS | {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
_QWEN2_DEFAULTS = _DEFAULTS | {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_QWEN3_DEFAULTS = _QWEN2_DEFAULTS | {"head_dim": 128}
_GEMMA2_DEFAULTS = _DEFAULTS | {
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
}
_GEMMA3_DEFAULTS = _GEMMA2_DEFAULTS | {
    "max_position_embeddings": 131072,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}
_FAMILIES = {
    "llama": _Family("LlamaForCausalLM", _DEFAULTS),
    "mistral": _Family("MistralForCausalLM", _MISTRAL_DEFAULTS, window="all"),
    "qwen2": _Family("Qwen2ForCausalLM", _QWEN2_DEFAULTS, window="late"),
    "qwen3": _Family("Qwen3ForCausalLM", _QWEN3_DEFAULTS, True, window="late"),
    "gemma2": _Family("Gemma2ForCausalLM", _GEMMA2_DEFAULTS, False, "most", True),
    "gemma3_text": _Family("Gemma3ForCausalLM", _GEMMA3_DEFAULTS, True, "most", True),
}

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
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_LAYER_NAMES = _LAYER_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
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
    source : Path or buffer
        A file, or contiguous memory with the buffer protocol in its place.
    offset, size : int
        Bytes from its start.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    source: Any
    offset: int
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read but not loaded.

    Attributes
    ----------
    architecture : str
        Hugging Face's model_type.
    hparams : dict
        Keys are the fields of ``deal_hparams``.
    tensors : tuple of CheckpointTensor
    """

    architecture: str
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
    return read_tensors(
        config,
        lambda: [
            CheckpointTensor(name, _TYPES[t.dtype], t.shape, t.path, t.offset, t.size)
            for name, t in _read_shards(folder).items()
        ],
    )


def read_tensors(
    config: Mapping[str, Any], stored: Callable[[], Iterable[CheckpointTensor]]
) -> Checkpoint:
    """A checkpoint of a ``config.json`` and of tensors under Hugging Face's names.

    `stored` is asked for the tensors once the settings are found good.

    Raises
    ------
    ModelFormatError
        If a setting is missing or impossible.
    NotImplementedError
        For an architecture, setting or tensor that the engine has no place for.
    """
    architecture = _architecture(config)
    family = _FAMILIES[architecture]
    hparams = _hparams(config, family)
    tensors = []
    for tensor in stored():
        name = tensor.name
        if _BUFFER.fullmatch(name) or (hparams["is_tied"] and name == "lm_head.weight"):
            continue  # computed, and the embedding once more
        tensors.append(replace(tensor, name=_canonical(name, family)))
    return Checkpoint(architecture, hparams, tuple(tensors))


def _canonical(name: str, family: _Family) -> str:
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    match = _LAYER.fullmatch(name)
    names = _GEMMA_LAYER_NAMES if family.is_gemma else _LAYER_NAMES
    if match is None or match[2] not in names:
        raise NotImplementedError(
            f"tensor {name}: this architecture has no place for it"
        )
    return f"blk.{int(match[1])}.{names[match[2]]}.{match[3]}"


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


def _count(
    config: Mapping[str, Any],
    key: str,
    default: int | None = None,
    low: int = 1,
    high: int = 2**31 - 1,
) -> int:
    value = config.get(key)
    if value is None:
        value = default
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or not low <= value <= high:
        raise ModelFormatError(
            f"config.json: {key}: expected an integer from {low} to {high}, got "
            f"{value!r}"
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


def _architecture(config: Mapping[str, Any]) -> str:
    """The model_type, or the one that the class in `architectures` belongs to."""
    kind, classes = config.get("model_type"), config.get("architectures") or []
    names = ", ".join(_FAMILIES)
    if kind is None and not classes:
        raise NotImplementedError(
            f"config.json: expected a model_type of {names}, got neither a model_type "
            f"nor architectures"
        )
    found = [
        name
        for name, family in _FAMILIES.items()
        if kind in (None, name) and classes in ([], [family.class_name])
    ]
    if not found:
        raise NotImplementedError(
            f"config.json: expected a model_type of {names}, and its class for text "
            f"alone in architectures, got {kind!r} and {classes!r}"
        )
    return found[0]


def _hparams(config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    config = {**family.defaults, **config}
    if not family.is_gemma:
        _expect(config, "hidden_act", ("silu", "swish"))
    _expect(config, "quantization_config", (None,))
    _expect(config, "partial_rotary_factor", (None, 1.0))
    n_embd, n_head = (
        _count(config, "hidden_size"),
        _count(config, "num_attention_heads"),
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
        "n_ctx_train": _count(config, "max_position_embeddings"),
        "norm_eps": _number(config, "rms_norm_eps"),
        "is_tied": _flag(config, "tie_word_embeddings"),
        "has_qk_norm": family.has_qk_norm,
        "rope_dim": head_dim,
        "rope_pairing": _ROPE_HALVES,
        **_rope(config, family),
        **_window(config, family),
        **_gemma(config, family, n_embd),
    }


def _gemma(config: Mapping[str, Any], family: _Family, n_embd: int) -> dict[str, Any]:
    """What Gemma has beside the others, or values that leave it out."""
    names = ("norm_base", "activation", "embd_scale", "attn_scale")
    names += ("attn_softcap", "final_softcap")
    if not family.is_gemma:
        return {"has_post_norm": False, **dict.fromkeys(names, 0)}
    _expect(config, "hidden_activation", ("gelu_pytorch_tanh",))
    _expect(config, "use_bidirectional_attention", (None, False))
    if family.has_qk_norm:  # transformers' Gemma 3 leaves it out
        _expect(config, "attn_logit_softcapping", (None,))
    caps = [
        0.0 if config[key] is None else _number(config, key)
        for key in ("attn_logit_softcapping", "final_logit_softcapping")
    ]
    scale = _number(config, "query_pre_attn_scalar") ** -0.5
    values = (1.0, _GELU, math.sqrt(n_embd), scale, *caps)
    return {"has_post_norm": True, **dict(zip(names, values, strict=True))}


def _window(config: Mapping[str, Any], family: _Family) -> dict[str, int]:
    """The sliding window: its length, and which layers have it."""
    length = config.get("sliding_window")
    if family.window == "late" and not _flag(config, "use_sliding_window"):
        length = None
    is_local = _local_layers(config, family, length is not None)
    if not any(is_local):
        return {"n_swa": 0, "swa_begin": 0, "swa_period": 0}
    # From a layer on, or all but every so many.
    begin, period = is_local.index(True), 0
    if begin == 0 and not all(is_local):
        period = is_local.index(False) + 1
    for i, found in enumerate(is_local):
        if found != (i >= begin and (period == 0 or (i + 1) % period != 0)):
            raise NotImplementedError(
                f"config.json: layer_types: expected sliding attention from a layer on "
                f"or in all but every n-th layer, got layer {i} otherwise"
            )
    length = _count({"sliding_window": length}, "sliding_window")
    return {"n_swa": length, "swa_begin": begin, "swa_period": period}


def _local_layers(
    config: Mapping[str, Any], family: _Family, has_window: bool
) -> list[bool]:
    """For every layer whether it has a sliding window."""
    n_layer = _count(config, "num_hidden_layers", high=4096)
    layer_types = config.get("layer_types")
    if family.window == "none":
        return [False] * n_layer
    if family.window == "most" and layer_types is None:
        period = _count(config, "sliding_window_pattern")
        return [(i + 1) % period != 0 for i in range(n_layer)]
    if family.window == "all":
        _expect(config, "layer_types", (None, ["sliding_attention"] * n_layer))
        return [has_window] * n_layer
    if layer_types is None:
        begin = _count(config, "max_window_layers", low=0)
        return [has_window and i >= begin for i in range(n_layer)]
    if not isinstance(layer_types, list) or len(layer_types) != n_layer:
        raise ModelFormatError(
            f"config.json: layer_types: expected a list of {n_layer} (layers), got "
            f"{layer_types!r}"
        )
    known = ["full_attention"] + ["sliding_attention"] * has_window
    for kind in layer_types:
        if kind not in known:
            raise NotImplementedError(
                f"config.json: layer_types: expected {' or '.join(known)}, got {kind!r}"
            )
    return [kind == "sliding_attention" for kind in layer_types]


def _rope(config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    """RoPE's settings: ``rope_parameters`` since transformers 5, two keys before."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        raise ModelFormatError(f"config.json: rope_scaling: got {settings!r}")
    local_base = 0.0
    if "rope_local_base_freq" in family.defaults:
        settings, local_base = _gemma3_rope(config, settings)
    _expect(settings, "partial_rotary_factor", (None, 1.0))
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
        "rope_base_local": local_base,
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


def _gemma3_rope(
    config: Mapping[str, Any], settings: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    """RoPE's settings of layers without a window, and the base of those with one."""
    if config.get("rope_parameters") is None:
        return settings, _number(config, "rope_local_base_freq")
    kinds = ("full_attention", "sliding_attention")
    if set(settings) != set(kinds) or not all(
        isinstance(settings[kind], dict) for kind in kinds
    ):
        raise ModelFormatError(
            f"config.json: rope_parameters: expected an object for each of "
            f"{' and '.join(kinds)}, got {settings!r}"
        )
    local = settings["sliding_attention"]
    _expect(local, "rope_type", ("default",))
    base = _number(local, "rope_theta", config["rope_local_base_freq"])
    return settings["full_attention"], base
