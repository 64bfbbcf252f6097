"""A cheaper model out of a GGUF file, by leaving out layers; and how good it is.

    python -m benchmarks.thinned -n 12 --compute int8

A search with two models needs a second one of the same vocabulary. Where there is none,
a copy without some of its layers is one, with no training. Which are left out is told
by how little they turn the residual stream (block influence, Men et al., "ShortGPT",
arXiv:2403.03853), or given. The command prints, for several choices, how often the
copy's most likely token is the model's, how far its greedy texts follow the model's,
and what a token costs; layers are chosen on other word sets than those measured on.
"""

from __future__ import annotations

import argparse
import os
import struct
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import deal
from deal import _hub
from deal.demo import WORD_SETS, prompt_for

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _U32 = 8, 9, 4
_LOOKAHEAD = 16


# --- the copy ------------------------------------------------------------------------


def thin(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str],
    layers: Sequence[int],
) -> None:
    """Copy a GGUF file with the given layers alone.

    Parameters
    ----------
    path_in, path_out : path
        Of GGUF version 2 or 3.
    layers : sequence of int
        Those to keep, rising, from 0; everything else of the file stays as it is.

    Raises
    ------
    ValueError
        For a file that is no GGUF or keeps something by layer in its keys, or layers
        that are not there.
    """
    with open(path_in, "rb") as source:
        magic, version = source.read(4), _unpack(source, "<I")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path_in}: expected GGUF version 2 or 3, got {magic!r}")
        n_tensor, n_key = _unpack(source, "<Q"), _unpack(source, "<Q")
        keys = [_read_key(source) for _ in range(n_key)]
        tensors = [_read_tensor(source) for _ in range(n_tensor)]
        numbers = {name: value for name, value, _ in keys}
        alignment = int(numbers.get("general.alignment", 32))
        begin = -(-source.tell() // alignment) * alignment
        n_layer = next(
            value for name, value in numbers.items() if name.endswith(".block_count")
        )
        if list(layers) != sorted(set(layers) & set(range(n_layer))) or not layers:
            raise ValueError(
                f"layers: expected some of 0 to {n_layer - 1}, rising, got {layers}"
            )
        _write(
            source, path_out, version, keys, _kept(tensors, layers), begin, alignment
        )


def _write(
    source: BinaryIO,
    path: str | os.PathLike[str],
    version: int,
    keys: list[tuple[str, Any, bytes]],
    tensors: list[tuple[str, bytes, int, int]],
    begin: int,
    alignment: int,
) -> None:
    n_layer = len({name.split(".")[1] for name, *_ in tensors if name[:4] == "blk."})
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, _, raw in keys:
        if name.endswith(".block_count"):
            raw = _string(name) + struct.pack("<II", _U32, n_layer)
        head += raw
    size = 0
    for name, shape, _, n_byte in tensors:
        head += _string(name) + shape + struct.pack("<Q", size)
        size += -(-n_byte // alignment) * alignment
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % alignment))
        for _, _, offset, n_byte in tensors:
            source.seek(begin + offset)
            out.write(source.read(n_byte))
            out.write(bytes(-n_byte % alignment))


def _kept(
    tensors: list[tuple[str, bytes, int]], layers: Sequence[int]
) -> list[tuple[str, bytes, int, int]]:
    """Names, shapes, offsets and sizes of what stays; layers are numbered anew."""
    starts = sorted(offset for _, _, offset in tensors)
    ends = dict(zip(starts, [*starts[1:], -1], strict=True))
    places = {f"blk.{layer}.": f"blk.{i}." for i, layer in enumerate(layers)}
    kept = []
    for name, shape, offset in tensors:
        prefix = ".".join(name.split(".")[:2]) + "."
        if not name.startswith("blk."):
            new = name
        elif prefix in places:
            new = places[prefix] + name[len(prefix) :]
        else:
            continue
        n_byte = ends[offset] - offset if ends[offset] >= 0 else -1
        kept.append((new, shape, offset, n_byte))
    return kept


def _unpack(source: BinaryIO, form: str) -> int:
    return struct.unpack(form, source.read(struct.calcsize(form)))[0]


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _read_string(source: BinaryIO) -> str:
    return source.read(_unpack(source, "<Q")).decode()


def _read_key(source: BinaryIO) -> tuple[str, Any, bytes]:
    """Name, value where it is an integer of 32 bits, and all bytes of the entry."""
    begin = source.tell()
    name, kind, value = _read_string(source), _unpack(source, "<I"), None
    if kind == _U32:
        value = _unpack(source, "<I")
    elif kind == _ARRAY:
        element, n = _unpack(source, "<I"), _unpack(source, "<Q")
        if not name.startswith(("tokenizer.", "general.")):
            raise ValueError(f"{name}: expected no array in a file to thin out")
        if element == _STRING:
            for _ in range(n):
                source.seek(_unpack(source, "<Q"), os.SEEK_CUR)
        else:
            source.seek(n * _SIZES[element], os.SEEK_CUR)
    elif kind == _STRING:
        source.seek(_unpack(source, "<Q"), os.SEEK_CUR)
    else:
        source.seek(_SIZES[kind], os.SEEK_CUR)
    n_byte = source.tell() - begin
    source.seek(begin)
    return name, value, source.read(n_byte)


def _read_tensor(source: BinaryIO) -> tuple[str, bytes, int]:
    """Name, the bytes of its shape and type, and its offset."""
    name = _read_string(source)
    n_dim = source.read(4)
    shape = n_dim + source.read(8 * struct.unpack("<I", n_dim)[0] + 4)
    return name, shape, _unpack(source, "<Q")


# --- how good it is ------------------------------------------------------------------


def influence(lm: deal.Model, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """How far each layer turns the residual stream, (n_layer,): 1 - mean cosine.

    The first one, whose input is the embedding, counts as infinite.
    """
    n_layer = lm.hparams.n_layer
    turned = np.zeros(n_layer)
    n_token = 0
    for states in lm.hidden(list(texts), layers=list(range(n_layer)), positions="all"):
        norms = np.linalg.norm(states, axis=-1)
        dots = (states[1:] * states[:-1]).sum(axis=-1)
        turned[1:] += (1 - dots / (norms[1:] * norms[:-1])).sum(axis=-1)
        n_token += states.shape[1]
    turned[0] = np.inf
    return turned / n_token


def most_turning(lm: deal.Model, texts: Sequence[Sequence[int]], n: int) -> list[int]:
    """The `n` layers of most influence."""
    return sorted(int(i) for i in np.argsort(-influence(lm, texts))[:n])


def completions(
    lm: deal.Model, word_sets: Iterable[Any], n_new: int
) -> list[tuple[list[int], list[int]]]:
    """Prompts and greedy completions of word sets, as ids."""
    pairs = []
    for words in word_sets:
        messages = [{"role": "user", "content": prompt_for(words)}]
        text = lm.tokenizer.apply_chat_template(messages)
        prompt = lm.tokenizer.encode(text, add_special_tokens=False)
        pairs.append(
            (prompt, list(lm.generate(prompt, max_new_tokens=n_new).token_ids))
        )
    return pairs


def agreement(
    lm: deal.Model, other: deal.Model, pairs: Sequence[tuple[list[int], list[int]]]
) -> dict[str, float]:
    """What `other` makes of the model's greedy texts.

    Returns
    -------
    dict
        ``same``: share of completion tokens where its most likely token is the
        model's. ``followed``: tokens of a greedy rollout of 16 that are the model's,
        from the first on. ``ms``, ``ms_model``: milliseconds of a decoded token.
    """
    n_same = n_token = 0
    followed = []
    for prompt, tokens in pairs:
        logits = other.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
        n_same += int((logits.argmax(axis=1) == np.array(tokens)).sum())
        n_token += len(tokens)
        for begin in range(0, len(tokens), 4):
            want = tokens[begin : begin + _LOOKAHEAD]
            r = other.generate(
                [*prompt, *tokens[:begin]], max_new_tokens=len(want), eos_token_id=[]
            )
            n = 0
            while n < len(want) and r.token_ids[n] == want[n]:
                n += 1
            followed.append(n / len(want) * _LOOKAHEAD)
    return {
        "same": n_same / n_token,
        "followed": float(np.mean(followed)),
        "ms": _token_ms(other, pairs[0][0]),
        "ms_model": _token_ms(lm, pairs[0][0]),
    }


def _token_ms(lm: deal.Model, prompt: list[int]) -> float:
    times = []
    for _ in range(5):
        r = lm.generate(prompt, max_new_tokens=64, eos_token_id=[])
        times.append(r.stats.seconds_forward / (r.stats.n_forward_passes - 1))
    return 1e3 * float(np.median(times))


def choices(lm: deal.Model, texts: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Layers to keep, by name."""
    n = lm.hparams.n_layer
    third = n // 3
    return {
        "two of three": [i for i in range(n) if i % 3 != 1],
        "first and last third": [*range(third), *range(n - third, n)],
        "every other one": list(range(0, n, 2)),
        "without the last third": list(range(n - third)),
        **{
            f"{k} of most influence": most_turning(lm, texts, k)
            for k in (n - 2, n - 4, n - third // 2, n - third, n // 2)
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("-n", type=int, default=12, help="word sets to measure on")
    arguments = parser.parse_args(argv)
    path = _hub.resolve(arguments.model)
    lm = deal.load(path, compute=arguments.compute)
    half = len(WORD_SETS) // 2
    chosen_on = completions(lm, WORD_SETS[half:], 32)
    pairs = completions(lm, WORD_SETS[: min(arguments.n, half)], 48)
    texts = [[*prompt, *tokens] for prompt, tokens in chosen_on]
    print("| layers kept | n | same token | of 16 followed | ms | of the model's |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name, layers in choices(lm, texts).items():
            thinned = Path(folder) / "thinned.gguf"
            thin(path, thinned, layers)
            other = deal.load(thinned, compute=arguments.compute)
            row = agreement(lm, other, pairs)
            start = f"| {name} | {len(layers)} | {row['same']:.2f} "
            share = row["ms"] / row["ms_model"]
            print(f"{start}| {row['followed']:.1f} | {row['ms']:.1f} | {share:.2f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
