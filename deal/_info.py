"""What the ``deal`` command tells of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deal import _core, _hub
from deal._checkpoint import read_folder, type_name

if TYPE_CHECKING:
    from deal.model import Model


def model_facts(path: Path, lm: Model) -> dict[str, Any]:
    """What ``deal info`` tells of a model and the file or folder it came from."""
    types: dict[str, dict[str, int]] = {}
    n_parameters = 0
    for name, shape, size in _tensors(path):
        row = types.setdefault(name, {"tensors": 0, "size": 0})
        row["tensors"] += 1
        row["size"] += size
        n_parameters += _product(shape)
    tokenizer = lm.tokenizer
    library = type(tokenizer._backend).__name__.removesuffix("Backend").lower()
    return {
        "path": str(path),
        "architecture": lm.architecture,
        "size": sum(row["size"] for row in types.values()),
        "compute": lm.compute,
        "memory": lm._core.owned_size,
        "parameters": n_parameters,
        "types": types,
        "hparams": asdict(lm.hparams),
        "tokenizer": {
            "tokenizer": library,
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_ids": list(tokenizer.eos_token_ids),
        },
        "chat_template": tokenizer.chat_template,
    }


def _tensors(path: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """Type name, shape and bytes of each tensor; reads headers only."""
    if path.is_dir():
        tensors = read_folder(path).tensors
        return [(type_name(t.type), tuple(t.shape), t.size) for t in tensors]
    return [
        (kind, tuple(shape), _type_size(kind, _product(shape)))
        for _, kind, shape in _core.Gguf(path).tensors
    ]


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


def _type_size(kind: str, n: int) -> int:
    size, width = _BLOCKS[kind]
    return n // width * size


def _product(shape: Sequence[int]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


def alias_row(alias: str) -> dict[str, Any]:
    """What ``deal models`` tells of an alias."""
    entry, path = _hub.ALIASES[alias], _hub.cached_path(alias)
    return {
        "name": alias,
        "source": f"{entry.package}=={entry.version}",
        "size": entry.size,
        "path": str(path) if path else None,
        "summary": entry.summary,
    }


def hub_rows() -> list[dict[str, Any]]:
    """Models in huggingface_hub's cache, where that is installed."""
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
    except ImportError:
        return []
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [
        {
            "name": repo.repo_id,
            "source": "huggingface_hub",
            "size": repo.size_on_disk,
            "path": str(repo.repo_path),
            "summary": "from the Hugging Face hub",
        }
        for repo in sorted(repos, key=lambda repo: repo.repo_id)
        if repo.repo_type == "model"
    ]
