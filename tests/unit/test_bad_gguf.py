"""GGUF files that are damaged or lie: the right exception, naming the thing.

Nothing here may crash, hang or allocate what a file claims.
"""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from tiny_model import GgufTensor, TinyConfig, make_tiny

import deal

# What a damaged model file may raise; anything else, or a crash, is a bug.
FILE_ERRORS = (deal.ModelFormatError, NotImplementedError, OSError)
TINY = make_tiny(TinyConfig(n_layer=1, n_embd=32, n_ff=32, n_head=2, n_head_kv=1))


def parts() -> tuple[dict[str, tuple[str, Any]], dict[str, GgufTensor]]:
    return tiny_model.gguf_metadata(TINY), tiny_model.gguf_tensors(TINY, "F32")[0]


@pytest.fixture(scope="module")
def raw() -> bytes:
    return tiny_model.gguf_bytes(*parts())


@pytest.fixture(scope="module")
def header_size(raw: bytes) -> int:
    """Bytes before the tensors' data."""
    _, tensors = parts()
    return len(raw) - sum(len(t.data) + -len(t.data) % 32 for t in tensors.values())


def load_bytes(raw: bytes, folder: Path, compute: str = "f32") -> deal.Model:
    path = folder / "bad.gguf"
    path.write_bytes(raw)
    return deal.load(path, compute=compute, threads=1)


# --- GGUF files ----------------------------------------------------------------------


def test_the_good_file_loads(raw: bytes, tmp_path: Path) -> None:
    assert load_bytes(raw, tmp_path).generate("the cat", max_new_tokens=3).text


def test_truncated(raw: bytes, header_size: int, tmp_path: Path) -> None:
    sizes = {0, 1, 3, 4, 7, 8, 15, 16, 23, 24, 25, header_size - 1, header_size}
    rng = random.Random(1)
    sizes |= {rng.randrange(header_size) for _ in range(120)}
    sizes |= {rng.randrange(header_size, len(raw) - 32) for _ in range(60)}
    for size in sorted(sizes):
        with pytest.raises(deal.ModelFormatError) as caught:
            load_bytes(raw[:size], tmp_path)
        assert str(caught.value), size


def test_flipped_header_bytes(raw: bytes, header_size: int, tmp_path: Path) -> None:
    """Any byte of the header may be anything; many flips are harmless."""
    rng = random.Random(2)
    places = [*range(0, 400), *(rng.randrange(header_size) for _ in range(250))]
    places += range(header_size - 600, header_size)
    n_refused = 0
    for place in places:
        flipped = bytearray(raw)
        flipped[place] ^= rng.choice((0x01, 0x80, 0xFF, rng.randrange(1, 256)))
        try:
            load_bytes(bytes(flipped), tmp_path).logits([5, 6])
        except FILE_ERRORS as error:
            assert str(error), place
            n_refused += 1
        except ValueError as error:  # a tokenizer that can not be built
            assert str(error), place
            n_refused += 1
    assert n_refused > len(places) // 5


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(seed: int, raw: bytes, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for size in (1, 24, 100, 5000):
        noise = rng.randbytes(size)
        for bad in (noise, raw[:24] + noise, raw[:8] + noise):
            with pytest.raises(FILE_ERRORS):
                load_bytes(bad, tmp_path)


@pytest.mark.parametrize("value", [0, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["n_tensor", "n_entry", "key_size"])
def test_huge_counts(field: str, value: int, raw: bytes, tmp_path: Path) -> None:
    at = {"n_tensor": 8, "n_entry": 16, "key_size": 24}[field]
    bad = raw[:at] + struct.pack("<Q", value) + raw[at + 8 :]
    with pytest.raises(FILE_ERRORS):
        load_bytes(bad, tmp_path)


@pytest.mark.parametrize("magic", [b"GGML", b"FUGG", b"\x7fELF", b"PK\x03\x04"])
def test_not_a_gguf_file(magic: bytes, raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(deal.ModelFormatError, match="(?i)gguf"):
        load_bytes(magic + raw[4:], tmp_path)


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_gguf_version(version: int, raw: bytes, tmp_path: Path) -> None:
    bad = raw[:4] + struct.pack("<I", version) + raw[8:]
    with pytest.raises(
        (deal.ModelFormatError, NotImplementedError), match="(?i)version"
    ):
        load_bytes(bad, tmp_path)


Tensors = dict[str, GgufTensor]
NAME = "blk.0.attn_q.weight"


def set_tensor(name: str, **changes: Any) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for field, value in changes.items():
            setattr(tensors[name], field, value)

    return edit


LYING_TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "offset past the end": (set_tensor(NAME, offset=1 << 40), "attn_q"),
    "offset that wraps": (set_tensor(NAME, offset=2**64 - 32), "attn_q"),
    "offset not aligned": (set_tensor(NAME, offset=3), "attn_q"),
    "offset at the end": (set_tensor("output.weight", offset=1 << 16), "output"),
    "too many rows": (set_tensor(NAME, shape=(1 << 20, 32)), "attn_q"),
    "shape that overflows": (set_tensor(NAME, shape=(1 << 40, 1 << 40)), "attn_q"),
    "shape that wraps to 0": (set_tensor(NAME, shape=(1 << 32, 1 << 32)), "attn_q"),
    "no rows": (set_tensor(NAME, shape=(0, 32)), "attn_q"),
    "negative rows": (set_tensor(NAME, shape=(2**64 - 1, 32)), "attn_q"),
    "no dims": (set_tensor(NAME, shape=()), "attn_q"),
    "five dims": (set_tensor(NAME, shape=(32, 32, 1, 1, 1)), "attn_q"),
    "one row less": (set_tensor(NAME, shape=(31, 32)), "attn_q"),
    "rows and columns": (set_tensor("blk.0.attn_k.weight", shape=(32, 16)), "attn_k"),
    "flat": (set_tensor(NAME, shape=(1024,)), "attn_q"),
    "another type": (set_tensor(NAME, kind=1, shape=(64, 32)), "attn_q"),
    "type without room": (set_tensor("output.weight", kind=28), "output|28|type"),
    "unknown type": (set_tensor(NAME, kind=999), "attn_q|999"),
    "unsupported type": (set_tensor(NAME, kind=16), "attn_q"),
    "type of blocks": (set_tensor("blk.0.attn_norm.weight", kind=12), "attn_norm"),
    "norm in F16": (set_tensor("output_norm.weight", shape=(16,)), "output_norm"),
    "missing tensor": (lambda t: t.pop("blk.0.ffn_up.weight"), "ffn_up"),
    "missing embedding": (lambda t: t.pop("token_embd.weight"), "token_embd"),
    "missing norm": (lambda t: t.pop("output_norm.weight"), "output_norm"),
}


@pytest.mark.parametrize("name", LYING_TENSORS)
def test_lying_tensor(name: str, tmp_path: Path) -> None:
    edit, match = LYING_TENSORS[name]
    metadata, tensors = parts()
    edit(tensors)
    for compute in ("f32", "int8"):
        with pytest.raises((deal.ModelFormatError, NotImplementedError), match=match):
            load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path, compute)


def test_duplicate_tensor(tmp_path: Path) -> None:
    metadata, tensors = parts()
    raw = tiny_model.gguf_bytes(metadata, tensors)
    assert raw.count(b"blk.0.attn_k.weight") == 1
    bad = raw.replace(b"blk.0.attn_v.weight", b"blk.0.attn_k.weight")
    with pytest.raises(deal.ModelFormatError, match="attn_[kv]"):
        load_bytes(bad, tmp_path)


def test_tensor_that_would_be_ignored(tmp_path: Path) -> None:
    metadata, tensors = parts()
    tensors["blk.0.attn_q_norm.weight"] = GgufTensor(0, (16,), b"\0" * 64)
    with pytest.raises(NotImplementedError, match="attn_q_norm"):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


def test_tensor_name_that_is_no_utf8(tmp_path: Path) -> None:
    metadata, tensors = parts()
    raw = tiny_model.gguf_bytes(metadata, tensors)
    bad = raw.replace(b"blk.0.attn_v.weight", b"blk.0.attn_\xff.weight")
    with pytest.raises((deal.ModelFormatError, NotImplementedError), match="attn_"):
        load_bytes(bad, tmp_path)


def test_nan_weights(tmp_path: Path) -> None:
    """NaN in a norm is refused at load, elsewhere where it reaches the logits."""
    metadata, tensors = parts()
    tensors["output_norm.weight"].data = struct.pack("<f", math.nan) * 32
    with pytest.raises(deal.ModelFormatError, match="output_norm"):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)
    metadata, tensors = parts()
    tensors[NAME].data = struct.pack("<f", math.nan) * 1024
    with pytest.raises(deal.ModelFormatError, match="(?i)nan|not a number|not finite"):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path).generate(
            "the cat"
        )


@pytest.mark.parametrize("tiny", ["GEMMA2", "GEMMA3"])
def test_truncated_between_keys_of_gemma(tiny: str, tmp_path: Path) -> None:
    """Cut anywhere in its keys: windows, soft caps and a second RoPE base."""
    metadata = tiny_model.gguf_metadata(globals()[tiny])
    tensors, _ = tiny_model.gguf_tensors(globals()[tiny], "F32")
    raw = tiny_model.gguf_bytes(metadata, tensors)
    n_data = sum(len(t.data) + -len(t.data) % 32 for t in tensors.values())
    first = raw.index(b"general.architecture")
    rng = random.Random(2)
    sizes = {rng.randrange(first, len(raw) - n_data) for _ in range(60)}
    for name in (b"sliding_window", b"softcapping", b"freq_base"):
        at = raw.find(name)
        sizes |= {at + k for k in range(len(name) + 12) if at >= 0}
    for size in sorted(sizes):
        with pytest.raises(deal.ModelFormatError) as caught:
            load_bytes(raw[:size], tmp_path)
        assert str(caught.value), size


Metadata = dict[str, tuple[str, Any]]
LYING_METADATA: dict[str, tuple[Metadata, type[Exception], str]] = {
    "architecture": (
        {"general.architecture": ("str", "mamba")},
        NotImplementedError,
        "mamba",
    ),
    "no architecture": (
        {"general.architecture": ("u32", 3)},
        deal.ModelFormatError,
        "general.architecture",
    ),
    "scaling": (
        {"llama.rope.scaling.type": ("str", "yarn")},
        NotImplementedError,
        "yarn",
    ),
    "experts": ({"llama.expert_count": ("u32", 8)}, NotImplementedError, "expert"),
    "no layers": (
        {"llama.block_count": ("u32", 0)},
        deal.ModelFormatError,
        "layer|block",
    ),
    "many layers": (
        {"llama.block_count": ("u32", 2**32 - 1)},
        deal.ModelFormatError,
        "layer|block",
    ),
    "one layer more": (
        {"llama.block_count": ("u32", 2)},
        deal.ModelFormatError,
        r"blk\.1",
    ),
    "width": ({"llama.embedding_length": ("u32", 64)}, deal.ModelFormatError, "64"),
    "zero width": (
        {"llama.embedding_length": ("u32", 0)},
        deal.ModelFormatError,
        "embd|embedding",
    ),
    "heads": (
        {"llama.attention.head_count": ("u32", 0)},
        deal.ModelFormatError,
        "head",
    ),
    "groups": (
        {"llama.attention.head_count_kv": ("u32", 3)},
        deal.ModelFormatError,
        "head",
    ),
    "odd head": (
        {
            "llama.attention.key_length": ("u32", 15),
            "llama.attention.value_length": ("u32", 15),
            "llama.rope.dimension_count": ("u32", 15),
        },
        deal.ModelFormatError,
        "head_dim|key_length|rope_dim|dimension_count",
    ),
    "eps": (
        {"llama.attention.layer_norm_rms_epsilon": ("f32", math.nan)},
        deal.ModelFormatError,
        "eps",
    ),
    "rope base": (
        {"llama.rope.freq_base": ("f32", -1.0)},
        deal.ModelFormatError,
        "rope|freq_base",
    ),
    "rope factor": (
        {
            "llama.rope.scaling.type": ("str", "linear"),
            "llama.rope.scaling.factor": ("f32", 0.0),
        },
        deal.ModelFormatError,
        "factor",
    ),
    "context": (
        {"llama.context_length": ("u32", 0)},
        deal.ModelFormatError,
        "ctx|context",
    ),
    "type of a number": (
        {"llama.block_count": ("str", "one")},
        deal.ModelFormatError,
        "block_count",
    ),
    "tokenizer": (
        {"tokenizer.ggml.model": ("str", "bert")},
        NotImplementedError,
        "bert",
    ),
    "pre-tokenizer": (
        {"tokenizer.ggml.pre": ("str", "klingon")},
        NotImplementedError,
        "klingon",
    ),
}


@pytest.mark.parametrize("name", LYING_METADATA)
def test_lying_metadata(name: str, tmp_path: Path) -> None:
    changes, error, match = LYING_METADATA[name]
    metadata, tensors = parts()
    raw = tiny_model.gguf_bytes(metadata | changes, tensors)
    with pytest.raises(error, match=match):
        load_bytes(raw, tmp_path)


QWEN3 = make_tiny(TinyConfig(arch="qwen3", n_layer=1))
OTHER_ARCHITECTURES: dict[str, tuple[Metadata, type[Exception], str]] = {
    "mixture": (
        {"general.architecture": ("str", "qwen3moe")},
        NotImplementedError,
        "qwen3moe",
    ),
    "experts": ({"qwen3.expert_count": ("u32", 4)}, NotImplementedError, "expert"),
    "scaling": (
        {"qwen3.rope.scaling.type": ("str", "yarn")},
        NotImplementedError,
        "yarn",
    ),
    "window": (
        {"qwen3.attention.sliding_window": ("u32", 20)},
        NotImplementedError,
        "sliding_window",
    ),
    "keys of another": (
        {"general.architecture": ("str", "llama")},
        deal.ModelFormatError,
        "llama.block_count",
    ),
    "value length": (
        {"qwen3.attention.value_length": ("u32", 8)},
        NotImplementedError,
        "value_length",
    ),
}


@pytest.mark.parametrize("name", OTHER_ARCHITECTURES)
def test_other_architectures(name: str, tmp_path: Path) -> None:
    changes, error, match = OTHER_ARCHITECTURES[name]
    metadata = tiny_model.gguf_metadata(QWEN3) | changes
    tensors, _ = tiny_model.gguf_tensors(QWEN3, "F32")
    with pytest.raises(error, match=match):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


@pytest.mark.parametrize("name", ["attn_q_norm", "attn_k_norm"])
def test_norms_of_heads(name: str, tmp_path: Path) -> None:
    metadata = tiny_model.gguf_metadata(QWEN3)
    tensors, _ = tiny_model.gguf_tensors(QWEN3, "F32")
    load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)
    key = f"blk.0.{name}.weight"
    norm = tensors.pop(key)
    for bad in (
        None,
        GgufTensor(0, (8,), norm.data[:32]),
        GgufTensor(0, norm.shape, struct.pack("<f", math.inf) * 16),
    ):
        edited = tensors | ({key: bad} if bad else {})
        with pytest.raises(deal.ModelFormatError, match=name):
            load_bytes(tiny_model.gguf_bytes(metadata, edited), tmp_path)


LOCAL: dict[str, Any] = {"n_layer": 1, "n_swa": 20, "is_tied": True}
GEMMA2 = make_tiny(TinyConfig(arch="gemma2", swa_period=2, **LOCAL))
GEMMA3 = make_tiny(TinyConfig(arch="gemma3_text", swa_period=6, **LOCAL))
GEMMA_KEYS: dict[str, tuple[tuple[str, Any], type[Exception], str]] = {
    "gemma2.attn_logit_softcapping": (("f32", -1.0), deal.ModelFormatError, "softcap"),
    "gemma2.final_logit_softcapping": (
        ("f32", math.inf),
        deal.ModelFormatError,
        "softcap",
    ),
    "gemma2.attention.scale": (("f32", math.nan), deal.ModelFormatError, "attn_scale"),
    "gemma2.attention.sliding_window": (
        ("str", "20"),
        deal.ModelFormatError,
        "sliding_window",
    ),
    "gemma2.attention.sliding_window_pattern": (
        ("u32", 0),
        deal.ModelFormatError,
        "sliding_window_pattern",
    ),
    "gemma3.attention.sliding_window_pattern": (
        ("[u32]", [1, 0]),
        NotImplementedError,
        "sliding_window_pattern",
    ),
    "gemma3.rope.freq_base_swa": (
        ("f32", -3.0),
        deal.ModelFormatError,
        "rope_base_local",
    ),
    "gemma3.attn_logit_softcapping": (
        ("f32", 50.0),
        NotImplementedError,
        "attn_logit_softcapping",
    ),
    "gemma3.rope.scaling.type": (("str", "yarn"), NotImplementedError, "yarn"),
    "gemma3.expert_count": (("u32", 2), NotImplementedError, "expert"),
}


@pytest.mark.parametrize("key", GEMMA_KEYS)
def test_gemma_metadata(key: str, tmp_path: Path) -> None:
    value, error, match = GEMMA_KEYS[key]
    tiny = GEMMA2 if key.startswith("gemma2") else GEMMA3
    metadata = tiny_model.gguf_metadata(tiny)
    tensors, _ = tiny_model.gguf_tensors(tiny, "F32")
    load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)
    with pytest.raises(error, match=match):
        load_bytes(tiny_model.gguf_bytes(metadata | {key: value}, tensors), tmp_path)


@pytest.mark.parametrize("name", ["post_attention_norm", "post_ffw_norm", "ffn_norm"])
def test_gemma_norms(name: str, tmp_path: Path) -> None:
    metadata = tiny_model.gguf_metadata(GEMMA3)
    tensors, _ = tiny_model.gguf_tensors(GEMMA3, "F32")
    del tensors[f"blk.0.{name}.weight"]
    with pytest.raises(deal.ModelFormatError, match=name):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


def test_gemma_defaults(tmp_path: Path) -> None:
    """Old files lack keys; the largest models scale scores in another way."""
    metadata = tiny_model.gguf_metadata(GEMMA2)
    tensors, _ = tiny_model.gguf_tensors(GEMMA2, "F32")
    gone = ("window", "capping", "pattern")
    metadata = {k: v for k, v in metadata.items() if not k.endswith(gone)}
    h = load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path).hparams
    assert (h.n_swa, h.swa_period) == (4096, 2)
    assert (h.attn_softcap, h.final_softcap, h.attn_scale) == (50, 30, 0)
    assert h.embd_scale == 8
    metadata |= {"gemma2.block_count": ("u32", 46), "gemma2.context_length": ("u32", 9)}
    tensors |= {
        name.replace("blk.0", f"blk.{i}"): tensor
        for name, tensor in tensors.items()
        for i in range(46)
    }
    h = load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path).hparams
    assert h.attn_scale == pytest.approx((64 / 4) ** -0.5)
    metadata = tiny_model.gguf_metadata(GEMMA3)
    tensors, _ = tiny_model.gguf_tensors(GEMMA3, "F32")
    metadata = {k: v for k, v in metadata.items() if not k.endswith("pattern")}
    del metadata["gemma3.rope.freq_base"]
    h = load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path).hparams
    assert (h.n_swa, h.swa_period) == (20, 6)
    assert (h.rope_base, h.rope_base_local) == (1e6, 1e4)


@pytest.mark.parametrize(
    "value", [("i32", -1), ("str", "20"), ("f32", 20.0), ("u64", 2**40)]
)
def test_sliding_window(value: tuple[str, Any], tmp_path: Path) -> None:
    metadata, tensors = parts()
    metadata["llama.attention.sliding_window"] = value
    with pytest.raises(deal.ModelFormatError, match="sliding_window"):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.attention.head_count",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.model",
        "tokenizer.ggml.merges",
    ],
)
def test_missing_metadata(key: str, tmp_path: Path) -> None:
    metadata, tensors = parts()
    del metadata[key]
    with pytest.raises(
        (deal.ModelFormatError, NotImplementedError), match=re.escape(key)
    ):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


@pytest.mark.parametrize("change", [-1, 1, -200])
def test_vocabulary_size(change: int, tmp_path: Path) -> None:
    metadata, tensors = parts()
    _, pieces = metadata["tokenizer.ggml.tokens"]
    n = len(pieces)
    wrong = pieces[:change] if change < 0 else [*pieces, "extra"]
    metadata["tokenizer.ggml.tokens"] = ("[str]", wrong)
    metadata["tokenizer.ggml.token_type"] = ("[i32]", [1] * len(wrong))
    metadata["tokenizer.ggml.merges"] = ("[str]", [])
    with pytest.raises(
        deal.ModelFormatError, match=f"{n}.*{n + change}|{n + change}.*{n}"
    ):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


def test_token_types_of_another_length(tmp_path: Path) -> None:
    metadata, tensors = parts()
    metadata["tokenizer.ggml.token_type"] = ("[i32]", [1, 1])
    with pytest.raises(deal.ModelFormatError, match="token_type"):
        load_bytes(tiny_model.gguf_bytes(metadata, tensors), tmp_path)


@pytest.mark.parametrize("token", [2**32 - 1, 10**6])
def test_end_token_out_of_range(token: int, tmp_path: Path) -> None:
    metadata, tensors = parts()
    metadata["tokenizer.ggml.eos_token_id"] = ("u32", token)
    raw = tiny_model.gguf_bytes(metadata, tensors)
    with pytest.raises(ValueError, match="eos"):
        load_bytes(raw, tmp_path).generate("the cat", max_new_tokens=2)
