"""What a model file holds, from its header alone."""

from __future__ import annotations

import math
from pathlib import Path

# GGUF's types: bytes of a block, and how many weights it holds.
_BLOCKS = {
    "F32": (4, 1),
    "F16": (2, 1),
    "BF16": (2, 1),
    "Q8_0": (34, 32),
    "Q4_0": (18, 32),
    "Q4_1": (20, 32),
    "Q5_0": (22, 32),
    "Q5_1": (24, 32),
    "Q4_K": (144, 256),
    "Q5_K": (176, 256),
    "Q6_K": (210, 256),
}


def tensors(path: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """Type name, shape and bytes of each tensor."""
    if path.is_dir():
        from deal._checkpoint import read_folder

        return [(t.type, tuple(t.shape), t.size) for t in read_folder(path).tensors]
    from deal import _core

    return [
        (kind, tuple(shape), _size(kind, math.prod(shape)))
        for _, kind, shape in _core.Gguf(path).tensors
    ]


def _size(kind: str, n: int) -> int:
    size, width = _BLOCKS[kind]
    return n // width * size
