"""stories260K, a trained model of 260 thousand parameters, from llama2.c's own format.

The data is found in ``$DEAL_SHARED/models/stories260K``, or in ``shared`` beside the
repository. Layout of ``stories260K.bin``: seven int32 (dim, hidden_dim, n_layers,
n_heads, n_kv_heads, vocab_size, seq_len), then float32 tensors in the order of
`read_stories`, RoPE on adjacent pairs. ``tok512.bin``: int32 longest piece, then for
each token float32 score, int32 size, bytes.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tiny_model import TinyConfig, TinyModel, Vocabulary

SPACE = "\u2581"


def shared_folder() -> Path:
    """The folder of shared test data, which may not exist."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("DEAL_SHARED", beside))


def stories_folder() -> Path | None:
    """Where stories260K lies, or None."""
    folder = shared_folder() / "models" / "stories260K"
    return folder if (folder / "stories260K.bin").is_file() else None


@dataclass
class StoriesModel(TinyModel):
    """The model with the vocabulary that it came with."""

    pieces: Vocabulary = field(repr=False)

    @property
    def vocabulary(self) -> Vocabulary:  # type: ignore[override]
        return self.pieces


def read_vocabulary(path: Path, n_vocab: int) -> Vocabulary:
    """SentencePiece-style pieces; merges by falling score, as its BPE applies them."""
    raw = path.read_bytes()
    pieces, scores, at = [], [], 4
    for _ in range(n_vocab):
        score, size = struct.unpack_from("<fi", raw, at)
        pieces.append(raw[at + 8 : at + 8 + size].decode())
        scores.append(score)
        at += 8 + size
    assert at == len(raw)
    assert [p.strip() for p in pieces[:3]] == ["<unk>", "<s>", "</s>"]
    assert pieces[3:259] == [f"<0x{b:02X}>" for b in range(256)]
    text = [piece.replace(" ", SPACE) for piece in pieces[259:]]
    pieces = ["<unk>", "<s>", "</s>", *pieces[3:259], *text]
    known = set(text)
    merges = [
        (piece[:i], piece[i:])
        for _, piece in sorted(
            zip(scores[259:], text, strict=True), key=lambda row: -row[0]
        )
        for i in range(1, len(piece))
        if piece[:i] in known and piece[i:] in known
    ]
    types = [2, 3, 3] + [6] * 256 + [1] * len(text)
    return Vocabulary("spm", pieces, types, scores, merges, 0)


def halves_from_adjacent(rows: np.ndarray, n_head: int) -> np.ndarray:
    """Rows of q or k from RoPE pairs (2i, 2i + 1) to pairs (i, i + half)."""
    split = rows.reshape(n_head, rows.shape[0] // n_head // 2, 2, rows.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def read_stories(folder: Path) -> StoriesModel:
    """The model with Hugging Face's names and row order."""
    raw = (folder / "stories260K.bin").read_bytes()
    n_embd, n_ff, n_layer, n_head, n_head_kv, n_vocab, n_ctx = struct.unpack_from(
        "<7i", raw
    )
    numbers = np.frombuffer(raw, "<f4", offset=28).astype(np.float32)
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return numbers[at - size : at].reshape(shape)

    n_kv = n_embd // n_head * n_head_kv
    weights = {"model.embed_tokens.weight": take(n_vocab, n_embd)}
    for name, *shape in (
        ("input_layernorm", n_embd),
        ("self_attn.q_proj", n_embd, n_embd),
        ("self_attn.k_proj", n_kv, n_embd),
        ("self_attn.v_proj", n_kv, n_embd),
        ("self_attn.o_proj", n_embd, n_embd),
        ("post_attention_layernorm", n_embd),
        ("mlp.gate_proj", n_ff, n_embd),
        ("mlp.down_proj", n_embd, n_ff),
        ("mlp.up_proj", n_ff, n_embd),
    ):
        for i, w in enumerate(take(n_layer, *shape)):
            if name.endswith(("q_proj", "k_proj")):
                w = halves_from_adjacent(w, n_head if "q_proj" in name else n_head_kv)
            weights[f"model.layers.{i}.{name}.weight"] = w
    weights["model.norm.weight"] = take(n_embd)
    config = TinyConfig(
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=n_embd // n_head,
        n_ff=n_ff,
        n_ctx=n_ctx,
        is_tied=True,
        vocab="spm",
    )
    return StoriesModel(
        config, weights, read_vocabulary(folder / "tok512.bin", n_vocab)
    )
