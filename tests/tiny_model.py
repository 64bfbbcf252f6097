"""Seeded tiny random models, written as GGUF files or Hugging Face folders.

A model is made from a `TinyConfig`. Every writer returns the *effective* weights: the
numbers a reader gets from the file after rounding to its weight type, under Hugging
Face's tensor names and with its row order (RoPE pairs ``(i, i + head_dim / 2)``), so
that a reference forward pass needs no knowledge of the file format.

Writers are written out by hand, byte for byte, so that tests can also write files that
lie. Quantised types and K-quants take their numbers from the `gguf` package.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiny_keys
from tiny_vocab import Vocabulary, tokenizer_json, vocabulary

FLOAT_TYPES = ("F32", "F16", "BF16")
GROUPED_TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
K_TYPES = ("Q4_K", "Q5_K", "Q6_K")
WEIGHT_TYPES = FLOAT_TYPES + GROUPED_TYPES + K_TYPES

# ggml's type number, weights in a block, bytes in a block.
_GGML = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TinyConfig:
    """Shape, options and seed of a tiny model; names as in csrc/model/hparams.h."""

    arch: str = "llama"  # Hugging Face's model_type
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 16
    n_ff: int = 96
    n_ctx: int = 256
    norm_eps: float = 1e-5
    is_tied: bool = False
    has_attn_bias: bool = False
    has_mlp_bias: bool = False
    rope_base: float = 10000.0
    rope_scaling: str = "none"  # none, linear, llama3
    rope_factor: float = 8.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_n_ctx_orig: int = 64
    n_swa: int = 0  # sliding window; 0: none
    swa_begin: int = 0
    swa_period: int = 0
    rope_base_local: float = 10000.0  # gemma3_text, and those that follow Gemma
    query_scalar: int = 0  # query_pre_attn_scalar; 0: head_dim
    attn_softcap: float = 0.0
    final_softcap: float = 0.0
    vocab: str = "byte"  # byte: byte-level BPE; spm: SentencePiece-style BPE
    seed: int = 0

    @property
    def n_vocab(self) -> int:
        return len(vocabulary(self.vocab).pieces)

    @property
    def has_qk_norm(self) -> bool:
        return self.arch in ("qwen3", "gemma3_text")

    @property
    def is_gemma(self) -> bool:
        return self.arch.startswith("gemma")

    @property
    def gguf_arch(self) -> str:
        names = {"mistral": "llama", "gemma3_text": "gemma3"}
        return names.get(self.arch, self.arch)

    def has_bias(self, name: str) -> bool:
        """Whether the matrix of this Hugging Face name has a bias."""
        if name.startswith("mlp"):
            return self.has_mlp_bias
        return self.has_attn_bias or (self.arch == "qwen2" and "o_proj" not in name)

    def is_local(self, i_layer: int) -> bool:
        """Whether a layer has a sliding window."""
        is_period = self.swa_period and (i_layer + 1) % self.swa_period == 0
        return self.n_swa > 0 and i_layer >= self.swa_begin and not is_period


@dataclass
class TinyModel:
    """A config and its f32 weights under Hugging Face names."""

    config: TinyConfig
    weights: dict[str, np.ndarray] = field(repr=False)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return vocabulary(self.config.vocab)


def make_tiny(config: TinyConfig = TinyConfig()) -> TinyModel:
    """Random weights whose logits spread enough for clear arg-maxes."""
    rng = np.random.default_rng(config.seed)
    c = config

    def matrix(n_out: int, n_in: int, gain: float = 1.0) -> np.ndarray:
        w = rng.standard_normal((n_out, n_in)) * (gain / math.sqrt(n_in))
        return w.astype(np.float32)

    def vector(n: int, centre: float, spread: float) -> np.ndarray:
        return (centre + spread * rng.standard_normal(n)).astype(np.float32)

    def norm(n: int, centre: float = 1.0, spread: float = 0.1) -> np.ndarray:
        return vector(n, centre - c.is_gemma, spread)  # Gemma's are one less

    head = matrix(c.n_vocab, c.n_embd, 3.0)
    head[-vocabulary(c.vocab).n_words :] *= 2.0  # the model writes words, mostly
    weights = {"model.embed_tokens.weight": head}
    if not c.is_tied:
        weights["lm_head.weight"] = head
        weights["model.embed_tokens.weight"] = matrix(c.n_vocab, c.n_embd, 3.0)
    n_q, n_kv = c.n_head * c.head_dim, c.n_head_kv * c.head_dim
    for i in range(c.n_layer):
        p = f"model.layers.{i}."
        weights[p + "input_layernorm.weight"] = norm(c.n_embd)
        weights[p + "post_attention_layernorm.weight"] = norm(c.n_embd)
        if c.is_gemma:
            weights[p + "pre_feedforward_layernorm.weight"] = norm(c.n_embd)
            weights[p + "post_feedforward_layernorm.weight"] = norm(c.n_embd)
        if c.has_qk_norm:
            weights[p + "self_attn.q_norm.weight"] = norm(c.head_dim, 1.5, 0.2)
            weights[p + "self_attn.k_norm.weight"] = norm(c.head_dim, 1.5, 0.2)
        for name, n_out, n_in, gain in (
            ("self_attn.q_proj", n_q, c.n_embd, 1.5),
            ("self_attn.k_proj", n_kv, c.n_embd, 1.5),
            ("self_attn.v_proj", n_kv, c.n_embd, 1.0),
            ("self_attn.o_proj", c.n_embd, n_q, 1.0),
            ("mlp.gate_proj", c.n_ff, c.n_embd, 1.0),
            ("mlp.up_proj", c.n_ff, c.n_embd, 1.0),
            ("mlp.down_proj", c.n_embd, c.n_ff, 1.0),
        ):
            weights[f"{p}{name}.weight"] = matrix(n_out, n_in, gain)
            if c.has_bias(name):
                weights[f"{p}{name}.bias"] = vector(n_out, 0.0, 0.2)
    weights["model.norm.weight"] = norm(c.n_embd)
    return TinyModel(config, weights)


# --- weight types --------------------------------------------------------------------


def _random_k_blocks(kind: str, n_block: int, rng: np.random.Generator) -> np.ndarray:
    """Valid K-quant blocks (n_block, block size) whose weights spread about 0.1."""

    def f16(low: float, high: float) -> np.ndarray:
        x = rng.uniform(low, high, (n_block, 1)).astype(np.float16)
        return x.view(np.uint8)

    def raw(n: int) -> np.ndarray:
        return rng.integers(0, 256, (n_block, n), dtype=np.uint8)

    if kind == "Q6_K":
        scale = rng.integers(-64, 64, (n_block, 16)).astype(np.int8).view(np.uint8)
        return np.concatenate([raw(192), scale, f16(5e-5, 1.5e-4)], axis=1)
    d = (3e-4, 6e-4) if kind == "Q4_K" else (1.5e-4, 3e-4)
    n_q = 128 if kind == "Q4_K" else 160
    return np.concatenate([f16(*d), f16(2e-3, 4e-3), raw(12), raw(n_q)], axis=1)


def encode(
    w: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[str, np.ndarray, np.ndarray]:
    """A matrix in a file's weight type.

    Returns
    -------
    kind : str
        `kind`, or F32 where rows are no whole blocks (as llama.cpp's tools fall back).
    rows : ndarray of uint8, shape (n_out, row bytes)
    effective : ndarray of float32, shape of `w`
        What the bytes stand for. K-quants are random blocks: they ignore `w`.
    """
    n_out, n_in = w.shape
    _, block_len, block_size = _GGML[kind]
    if n_in % block_len:
        kind, block_len, block_size = "F32", 1, 4
    if kind == "F32":
        rows = np.ascontiguousarray(w, dtype="<f4")
        return kind, rows.view(np.uint8), rows.copy()
    if kind == "F16":
        half = w.astype("<f2")
        return kind, half.view(np.uint8), half.astype(np.float32)
    if kind == "BF16":
        bits = w.astype("<f4").view("<u4").astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # round to nearest even
        back = (bits << 16).astype("<u4").view("<f4")
        return kind, bits.astype("<u2").view(np.uint8), back.astype(np.float32)
    import gguf

    qtype = gguf.GGMLQuantizationType[kind]
    if kind in K_TYPES:
        n_block = n_out * (n_in // block_len)
        rows = _random_k_blocks(kind, n_block, rng).reshape(n_out, -1)
    else:
        rows = gguf.quants.quantize(np.ascontiguousarray(w), qtype)
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(n_out, -1)
    assert rows.shape[1] == n_in // block_len * block_size
    effective = gguf.quants.dequantize(rows, qtype).astype(np.float32)
    return kind, rows, effective.reshape(w.shape)


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and "norm" not in name


def effective_weights(
    tiny: TinyModel, weight_type: str
) -> tuple[dict[str, tuple[str, np.ndarray]], dict[str, np.ndarray]]:
    """Bytes and numbers of every tensor in a weight type; vectors stay F32."""
    rng = np.random.default_rng([tiny.config.seed, 7])
    stored, effective = {}, {}
    for name, w in tiny.weights.items():
        if _is_matrix(name):
            kind, rows, effective[name] = encode(w, weight_type, rng)
            stored[name] = (kind, rows)
        else:
            stored[name] = ("F32", w.astype("<f4").view(np.uint8))
            effective[name] = w
    return stored, effective


# --- GGUF ----------------------------------------------------------------------------

_GGUF_NAMES = {
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
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name: str, is_gemma: bool = False) -> str:
    """GGUF's name of a tensor that has this Hugging Face name."""
    stem, suffix = name.rsplit(".", 1)
    whole = {"model.embed_tokens": "token_embd", "lm_head": "output"}
    whole["model.norm"] = "output_norm"
    if stem in whole:
        return f"{whole[stem]}.{suffix}"
    _, _, layer, rest = stem.split(".", 3)
    names = _GGUF_NAMES | (_GEMMA_NAMES if is_gemma else {})
    return f"blk.{layer}.{names[rest]}.{suffix}"


def permute_rows(rows: np.ndarray, n_head: int) -> np.ndarray:
    """Rows of q or k from RoPE pairs (i, i + half) to GGUF's adjacent pairs."""
    shape = rows.shape
    split = rows.reshape(n_head, 2, shape[0] // n_head // 2, *shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(shape))


def llama3_factors(config: TinyConfig) -> np.ndarray:
    """What GGUF stores as rope_freqs.weight (head_dim / 2,): divisors of the rates."""
    c = config
    i = np.arange(0, c.head_dim, 2, dtype=np.float64)
    wavelen = 2 * np.pi * c.rope_base ** (i / c.head_dim)
    low = c.rope_n_ctx_orig / c.rope_low_freq_factor
    high = c.rope_n_ctx_orig / c.rope_high_freq_factor
    smooth = (c.rope_n_ctx_orig / wavelen - c.rope_low_freq_factor) / (
        c.rope_high_freq_factor - c.rope_low_freq_factor
    )
    between = 1 / ((1 - smooth) / c.rope_factor + smooth)
    factors = np.where(wavelen > low, c.rope_factor, between)
    return np.where(wavelen < high, 1.0, factors).astype(np.float32)


def gguf_metadata(tiny: TinyModel) -> dict[str, tuple[str, Any]]:
    """Metadata as key -> (type, value); arrays have types such as "[str]"."""
    c, v = tiny.config, tiny.vocabulary
    arch = c.gguf_arch
    meta: dict[str, tuple[str, Any]] = {
        "general.architecture": ("str", arch),
        "general.name": ("str", "tiny"),
        f"{arch}.block_count": ("u32", c.n_layer),
        f"{arch}.context_length": ("u32", c.n_ctx),
        f"{arch}.embedding_length": ("u32", c.n_embd),
        f"{arch}.feed_forward_length": ("u32", c.n_ff),
        f"{arch}.attention.head_count": ("u32", c.n_head),
        f"{arch}.attention.head_count_kv": ("u32", c.n_head_kv),
        f"{arch}.attention.layer_norm_rms_epsilon": ("f32", c.norm_eps),
        f"{arch}.rope.freq_base": ("f32", c.rope_base),
        f"{arch}.rope.dimension_count": ("u32", c.head_dim),
        f"{arch}.vocab_size": ("u32", len(v.pieces)),
        "general.file_type": ("u32", 0),
    }
    if c.head_dim * c.n_head != c.n_embd:
        meta[f"{arch}.attention.key_length"] = ("u32", c.head_dim)
        meta[f"{arch}.attention.value_length"] = ("u32", c.head_dim)
    meta |= tiny_keys.gguf_keys(c)
    if c.rope_scaling == "linear":
        meta[f"{arch}.rope.scaling.type"] = ("str", "linear")
        meta[f"{arch}.rope.scaling.factor"] = ("f32", c.rope_factor)
    meta["tokenizer.ggml.model"] = ("str", "gpt2" if v.kind == "byte" else "llama")
    meta["tokenizer.ggml.tokens"] = ("[str]", v.pieces)
    meta["tokenizer.ggml.token_type"] = ("[i32]", v.types)
    if v.kind == "byte":
        meta["tokenizer.ggml.pre"] = ("str", "gpt-2")
        meta["tokenizer.ggml.merges"] = ("[str]", [" ".join(m) for m in v.merges])
        meta["tokenizer.ggml.add_bos_token"] = ("bool", False)
    else:
        meta["tokenizer.ggml.pre"] = ("str", "default")
        meta["tokenizer.ggml.scores"] = ("[f32]", v.scores)
        meta["tokenizer.ggml.unknown_token_id"] = ("u32", 0)
        meta["tokenizer.ggml.add_bos_token"] = ("bool", True)
        meta["tokenizer.ggml.add_space_prefix"] = ("bool", True)
    meta["tokenizer.ggml.bos_token_id"] = ("u32", 1)
    meta["tokenizer.ggml.eos_token_id"] = ("u32", 2)
    meta["tokenizer.chat_template"] = ("str", CHAT_TEMPLATE)
    return meta


@dataclass
class GgufTensor:
    """One tensor of a GGUF file; `offset` (in the data section) may be made to lie."""

    kind: int  # ggml's type number
    shape: tuple[int, ...]  # slowest first; the file has them the other way round
    data: bytes
    offset: int | None = None


def gguf_tensors(
    tiny: TinyModel, weight_type: str
) -> tuple[dict[str, GgufTensor], dict[str, np.ndarray]]:
    """Tensors under GGUF names, q and k permuted, and the effective weights."""
    c = tiny.config
    stored, effective = effective_weights(tiny, weight_type)
    tensors = {}
    for name, (kind, rows) in stored.items():
        is_qk = ".q_proj." in name or ".k_proj." in name
        if is_qk and c.gguf_arch == "llama":
            per_row = rows.reshape(tiny.weights[name].shape[0], -1)
            rows = permute_rows(
                per_row, c.n_head if ".q_proj." in name else c.n_head_kv
            )
        if c.is_gemma and "norm" in name:
            rows = tiny.weights[name] + np.float32(1)
        tensors[gguf_name(name, c.is_gemma)] = GgufTensor(
            _GGML[kind][0], tiny.weights[name].shape, rows.tobytes()
        )
    if c.rope_scaling == "llama3":
        factors = llama3_factors(c)
        tensors["rope_freqs.weight"] = GgufTensor(0, factors.shape, factors.tobytes())
    return tensors, effective


_SCALAR = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?")}
_SCALAR |= {"u64": (10, "<Q"), "u8": (0, "<B")}


def _gguf_string(text: str | bytes) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _gguf_value(kind: str, value: Any) -> bytes:
    is_array = kind.startswith("[")
    element = kind.strip("[]")
    values = value if is_array else [value]
    if element == "str":
        code, body = 8, b"".join(_gguf_string(v) for v in values)
    else:
        code, form = _SCALAR[element]
        body = b"".join(struct.pack(form, v) for v in values)
    if is_array:
        return struct.pack("<IIQ", 9, code, len(values)) + body
    return struct.pack("<I", code) + body


def gguf_bytes(
    metadata: Mapping[str, tuple[str, Any]],
    tensors: Mapping[str, GgufTensor],
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole GGUF file (little-endian)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, (kind, value) in metadata.items():
        head += _gguf_string(key) + _gguf_value(kind, value)
    data = b""
    for name, tensor in tensors.items():
        offset = len(data) if tensor.offset is None else tensor.offset
        head += _gguf_string(name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.kind, offset)
        data += tensor.data + b"\0" * (-len(tensor.data) % alignment)
    return head + b"\0" * (-len(head) % alignment) + data


def write_gguf(
    tiny: TinyModel, path: Path, weight_type: str = "F32", version: int = 3
) -> dict[str, np.ndarray]:
    """Write a GGUF file; returns the effective weights under Hugging Face names."""
    tensors, effective = gguf_tensors(tiny, weight_type)
    path.write_bytes(gguf_bytes(gguf_metadata(tiny), tensors, version))
    return effective


# --- Hugging Face folder -------------------------------------------------------------


def hf_config(tiny: TinyModel) -> dict[str, Any]:
    """The config.json of a model, as transformers writes it."""
    c = tiny.config
    config: dict[str, Any] = {
        "architectures": [tiny_keys.CLASS_NAMES[c.arch]],
        "model_type": c.arch,
        "vocab_size": len(tiny.vocabulary.pieces),
        "hidden_size": c.n_embd,
        "intermediate_size": c.n_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_head_kv,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.n_ctx,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.is_tied,
        "attention_bias": c.has_attn_bias,
        "mlp_bias": c.has_mlp_bias,
        "hidden_act": "silu",
        "rope_theta": c.rope_base,
        "rope_scaling": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        **tiny_keys.config_keys(c),
    }
    if c.rope_scaling == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": c.rope_factor}
    elif c.rope_scaling == "llama3":
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": c.rope_factor,
            "low_freq_factor": c.rope_low_freq_factor,
            "high_freq_factor": c.rope_high_freq_factor,
            "original_max_position_embeddings": c.rope_n_ctx_orig,
        }
    return config


def safetensors_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    header_edit: Mapping[str, Any] | None = None,
) -> bytes:
    """A safetensors file; `header_edit` replaces header entries (None removes one)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin, body = 0, []
    for name, (dtype, shape, data) in tensors.items():
        span = [begin, begin + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
        begin += len(data)
        body.append(data)
    for name, entry in (header_edit or {}).items():
        if entry is None:
            del header[name]
        else:
            header[name] = {**header.get(name, {}), **entry}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(body)


def write_hf_folder(
    tiny: TinyModel,
    folder: Path,
    dtype: str = "F32",
    n_shards: int = 1,
    header_edit: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Write config.json, safetensors and tokenizer.json; returns effective weights."""
    assert dtype in FLOAT_TYPES
    folder.mkdir(parents=True, exist_ok=True)
    stored, effective = effective_weights(tiny, dtype)
    tensors = {
        name: (kind, tiny.weights[name].shape, data.tobytes())
        for name, (kind, data) in stored.items()
    }
    names = list(tensors)
    if n_shards == 1:
        raw = safetensors_bytes(tensors, header_edit)
        (folder / "model.safetensors").write_bytes(raw)
    else:
        weight_map = {}
        for i in range(n_shards):
            file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[i::n_shards]}
            weight_map |= dict.fromkeys(part, file)
            (folder / file).write_bytes(safetensors_bytes(part, header_edit))
        size = sum(len(data) for _, _, data in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    v = tiny.vocabulary
    (folder / "config.json").write_text(json.dumps(hf_config(tiny), indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(v)))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": v.pieces[1],
        "eos_token": v.pieces[2],
        "add_bos_token": v.kind == "spm",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return effective


def weights_sha256(tiny: TinyModel) -> str:
    """Fingerprint of the f32 weights: goldens hold only for the same random numbers."""
    digest = hashlib.sha256()
    for name, w in tiny.weights.items():
        digest.update(name.encode() + w.astype("<f4").tobytes())
    return digest.hexdigest()
