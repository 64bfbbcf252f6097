"""Tiny random Llamas: every weight type, RoPE scaling and option against references.

Two oracles: logits that transformers gave (data/tiny.npz), and the float64 NumPy model
over the weights that the file stands for (numpy_llama.py, itself checked against
transformers when the goldens are made).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy_llama
import pytest
import tiny_model
from closeness import INT8_KL, LOGIT_TOLERANCE, max_error, mean_kl, tokens_of
from tiny_model import TinyConfig, make_tiny, write_gguf, write_hf_folder

import deal

DATA = Path(__file__).parent / "data"

WIDE = {"n_embd": 256, "n_ff": 512, "head_dim": 64}  # rows that K-quants can hold

OPTIONS = {
    "plain": TinyConfig(),
    "tied": TinyConfig(is_tied=True),
    "attn_bias": TinyConfig(has_attn_bias=True),
    "mlp_bias": TinyConfig(has_mlp_bias=True),
    "all_bias_tied": TinyConfig(has_attn_bias=True, has_mlp_bias=True, is_tied=True),
    "linear": TinyConfig(rope_scaling="linear", rope_factor=4.0),
    "llama3": TinyConfig(rope_scaling="llama3", rope_factor=8.0, head_dim=32),
    "llama3_base": TinyConfig(
        rope_scaling="llama3", rope_base=500000.0, rope_factor=32.0, head_dim=64
    ),
    "rope_base": TinyConfig(rope_base=1000000.0),
    "head_dim_24": TinyConfig(head_dim=24),
    "head_dim_6": TinyConfig(head_dim=6, n_head=4, n_head_kv=1),
    "six_heads": TinyConfig(n_head=6, n_head_kv=2, head_dim=10),
    "no_groups": TinyConfig(n_head=4, n_head_kv=4),
    "one_layer": TinyConfig(n_layer=1),
    "odd_sizes": TinyConfig(n_embd=52, n_ff=77, head_dim=26, n_head=3, n_head_kv=1),
    "eps": TinyConfig(norm_eps=1e-2),
    "spm": TinyConfig(vocab="spm"),
}


@pytest.mark.parametrize("weight_type", tiny_model.WEIGHT_TYPES)
def test_weight_type(weight_type: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    config = TinyConfig(**WIDE, seed=11)
    path = tmp_path / "model.gguf"
    effective = write_gguf(make_tiny(config), path, weight_type)
    tokens = tokens_of(config)
    lm = deal.load(path, compute="f32", threads=2)
    logits = lm.logits(tokens)
    assert logits.dtype == np.float32 and logits.shape == (len(tokens), config.n_vocab)
    expected = numpy_llama.forward(config, effective, tokens)
    assert max_error(logits, expected) <= LOGIT_TOLERANCE
    int8 = deal.load(path, compute="int8", threads=2).logits(tokens)
    assert 0 < mean_kl(expected, int8) <= INT8_KL


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, tmp_path: Path) -> None:
    """The same model as GGUF and as a Hugging Face folder, f32 and int8."""
    config = OPTIONS[name]
    tiny = make_tiny(config)
    tokens = tokens_of(config)
    expected = numpy_llama.forward(config, tiny.weights, tokens)
    write_gguf(tiny, tmp_path / "model.gguf")
    write_hf_folder(tiny, tmp_path / "folder")
    for path in (tmp_path / "model.gguf", tmp_path / "folder"):
        logits = deal.load(path, compute="f32", threads=1).logits(tokens)
        assert max_error(logits, expected) <= LOGIT_TOLERANCE, path.name
        int8 = deal.load(path, compute="int8", threads=1).logits(tokens)
        assert 0 < mean_kl(expected, int8) <= INT8_KL, path.name


@pytest.mark.parametrize("dtype", tiny_model.FLOAT_TYPES)
def test_safetensors_types(dtype: str, tmp_path: Path) -> None:
    config = TinyConfig(seed=3, rope_scaling="llama3")
    tiny = make_tiny(config)
    tokens = tokens_of(config)
    effective = write_hf_folder(tiny, tmp_path / "one", dtype)
    write_hf_folder(tiny, tmp_path / "sharded", dtype, n_shards=3)
    one = deal.load(tmp_path / "one", compute="f32").logits(tokens)
    assert (
        max_error(one, numpy_llama.forward(config, effective, tokens))
        <= LOGIT_TOLERANCE
    )
    sharded = deal.load(tmp_path / "sharded", compute="f32").logits(tokens)
    assert np.array_equal(one, sharded)


def test_gguf_v2_equals_v3(tmp_path: Path) -> None:
    tiny = make_tiny()
    logits = []
    for version in (2, 3):
        path = tmp_path / f"v{version}.gguf"
        write_gguf(tiny, path, "F16", version)
        logits.append(deal.load(path, compute="f32").logits(tokens_of(tiny.config)))
    assert np.array_equal(*logits)


def test_gguf_writer_is_read_alike_by_the_gguf_package(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    config = TinyConfig(**WIDE, rope_scaling="llama3")
    effective = write_gguf(make_tiny(config), tmp_path / "model.gguf", "Q5_K")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors
    }
    assert found.pop("rope_freqs.weight").shape == (config.head_dim // 2,)
    for name, w in effective.items():
        if "q_proj" in name or "k_proj" in name:
            w = tiny_model.permute_rows(w, 4 if "q_proj" in name else 2)
        assert np.array_equal(found[tiny_model.gguf_name(name)].reshape(w.shape), w), (
            name
        )


@pytest.mark.parametrize("name", json.loads((DATA / "tiny.json").read_text())["models"])
@pytest.mark.parametrize("form", ["reference", "gguf", "folder"])
def test_against_transformers(name: str, form: str, tmp_path: Path) -> None:
    golden = json.loads((DATA / "tiny.json").read_text())["models"][name]
    arrays = np.load(DATA / "tiny.npz")
    config = TinyConfig(**golden["config"])
    tiny = make_tiny(config)
    assert tiny_model.weights_sha256(tiny) == golden["weights_sha256"], (
        "this NumPy draws other random numbers than the one that made the goldens: "
        "run tools/make_goldens.py tiny"
    )
    tokens = arrays[f"{name}_tokens"]
    if form == "reference":
        logits = numpy_llama.forward(config, tiny.weights, tokens)
    else:
        write = write_gguf if form == "gguf" else write_hf_folder
        write(tiny, tmp_path / f"model.{form}")
        logits = deal.load(tmp_path / f"model.{form}", compute="f32").logits(tokens)
    logits = logits[::2, arrays[f"{name}_columns"]]
    assert max_error(logits, arrays[f"{name}_logits"]) <= LOGIT_TOLERANCE


@pytest.mark.parametrize("compute", ["f32", "int8"])
def test_a_prefix_has_the_same_logits(compute: str, tmp_path: Path) -> None:
    """Batch invariance, bit for bit: chunking and thread count change nothing."""
    config = TinyConfig(n_ctx=1024)
    write_gguf(make_tiny(config), tmp_path / "model.gguf")
    tokens = tokens_of(config, 600)
    full = deal.load(tmp_path / "model.gguf", compute=compute, threads=2).logits(tokens)
    lm = deal.load(tmp_path / "model.gguf", compute=compute, threads=1)
    for n in (1, 2, 7, 33, 255, 256, 257, 600):
        assert np.array_equal(lm.logits(tokens[:n]), full[:n]), n


@pytest.mark.parametrize("vocab", ["byte", "spm"])
def test_greedy_and_logprob(vocab: str, tmp_path: Path) -> None:
    config = TinyConfig(vocab=vocab, seed=5)
    tiny = make_tiny(config)
    write_gguf(tiny, tmp_path / "model.gguf")
    lm = deal.load(tmp_path / "model.gguf", compute="f32")
    prompt = tokens_of(config, 10)
    r = lm.generate(prompt, max_new_tokens=40, eos_token_id=[])
    assert list(r.token_ids) == numpy_llama.greedy(config, tiny.weights, prompt, 40)
    assert r.finish_reason == "length"
    tokens = [*prompt, *r.token_ids]
    logprob = numpy_llama.log_softmax(numpy_llama.forward(config, tiny.weights, tokens))
    expected = sum(logprob[i - 1, tokens[i]] for i in range(10, 50))
    assert r.logprob == pytest.approx(expected, abs=40 * LOGIT_TOLERANCE)
    assert lm.logprob(prompt, list(r.token_ids)) == pytest.approx(r.logprob, abs=1e-4)
    several = lm.logprob(prompt, [list(r.token_ids), list(r.token_ids[:3]), [7]])
    assert several[0] == pytest.approx(r.logprob, abs=1e-4)
    assert several[1] == pytest.approx(
        sum(logprob[i - 1, tokens[i]] for i in range(10, 13)), abs=3 * LOGIT_TOLERANCE
    )
    assert several[2] == pytest.approx(logprob[9, 7], abs=LOGIT_TOLERANCE)
