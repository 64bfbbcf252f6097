"""Loading a model: from files, or from a model of transformers that is in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deal import _checkpoint, _core, _fingerprint, _hub
from deal._errors import ModelFormatError
from deal.model import KV_TYPES, HParams, Model
from deal.settings import check_int
from deal.tokenizer import Tokenizer

_COMPUTE = {"f32": 0, "int8": 1}  # deal_compute
_FLOAT_TYPES = ("F32", "F16", "BF16")


def load(
    model: str | os.PathLike[str] = "smollm2-135m-instruct",
    *,
    compute: str = "auto",
    threads: int | None = None,
    max_length: int | None = None,
    kv_type: str = "f32",
    kv_budget: int | None = None,
    progress: bool = False,
) -> Model:
    """Load a model.

    Parameters
    ----------
    model : str or path
        An alias (``deal models`` lists them), a ``.gguf`` file, a folder with
        ``config.json`` and safetensors, or a hub id such as ``"org/name"``.
    compute : {"auto", "int8", "f32"}, default="auto"
        "f32" is the reference. "int8" keeps the weights at their file's precision (or
        in 8 bits, in groups of 32) and quantises activations to 8 bits in groups of 32.
        "auto" is "int8" for quantised files and "f32" for files of F32, F16 or BF16.
    threads : int, optional
        Default: the processors this process may run on.
    max_length : int, optional
        Longest context in tokens, prompt included. Default: the model's own.
    kv_type : {"f32", "f16"}, default="f32"
        Numbers that keys and values are kept in between steps (llama.cpp's
        ``--cache-type-k`` and ``-v``). "f16" takes about half the memory and rounds
        them to 11 bits; sums stay in f32, and results depend on the batch no more than
        with "f32". It holds numbers up to 65504: a model that needs more is an error.
    kv_budget : int, optional
        Most bytes of KV cells that one request may hold; they come in pages of 64
        tokens, and less than a page is an error. A request that needs more fails with
        `KVBudgetError`, and the model stays usable. Default: no limit but the context.
    progress : bool, default=False
        Show a tqdm bar while an alias is downloaded.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        For an unknown alias or a bad argument.
    ModelFormatError
        If the file is damaged or not what its header says.
    NotImplementedError
        For an architecture, weight type or RoPE scaling that is not supported.
    OSError
        If a file cannot be read or fetched.
    """
    settings = _Settings.checked(compute, threads, max_length, kv_type, kv_budget)
    path = _hub.resolve(os.fspath(model), progress=progress)
    if path.is_dir():
        return _load_folder(path, settings)
    return _load_gguf(path, settings)


def from_transformers(
    model: Any,
    tokenizer: Any,
    *,
    compute: str = "auto",
    threads: int | None = None,
    max_length: int | None = None,
    kv_type: str = "f32",
    kv_budget: int | None = None,
) -> Model:
    """Take over a model that transformers has loaded, without a trip to disk.

    Computes bit for bit what :func:`load` does from the folder that `model` and
    `tokenizer` save. Weights that need no conversion are shared, not copied: do not
    change them in place while the result is in use; the torch model may be deleted.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of an architecture that :func:`load` runs, in float32, float16 or bfloat16, on
        any device.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the `tokenizers` library ("fast") or of sentencepiece. Its chat template and
        special tokens come along; end tokens are those of ``model.generation_config``,
        or else of ``model.config``.
    compute, threads, max_length, kv_type, kv_budget
        As in :func:`load`.

    Returns
    -------
    Model
        Its `path` is the name that the model was loaded by, if any.

    Raises
    ------
    TypeError
        For something else than a model and a tokenizer.
    NotImplementedError
        For an architecture, setting or weight type that the engine does not run;
        ``deal.hf.custom_generate`` searches with any torch model.
    ModelFormatError, ValueError
        As :func:`load`.
    """
    from deal import _transformers

    settings = _Settings.checked(compute, threads, max_length, kv_type, kv_budget)
    checkpoint = _transformers.read_model(model)
    files = _transformers.tokenizer_files(model, tokenizer)
    path = Path(str(getattr(model.config, "_name_or_path", "") or type(model).__name__))
    core = _load_tensors(checkpoint, settings)
    made = Tokenizer.from_files("tokenizer", files, n_vocab=core.hparams["n_vocab"])
    lm = _make(core, made, checkpoint.architecture, path, ["F32"], settings)
    lm.fingerprint = _fingerprint.of_memory(
        lm.hparams, [tensor.source for tensor in checkpoint.tensors]
    )
    return lm


@dataclass(frozen=True)
class _Settings:
    """What is the same for every source of weights, checked as far as it can be."""

    compute: str
    threads: int
    max_length: int | None
    kv_type: str
    kv_budget: int | None

    @classmethod
    def checked(
        cls,
        compute: str,
        threads: int | None,
        max_length: int | None,
        kv_type: str,
        kv_budget: int | None,
    ) -> _Settings:
        if compute not in ("auto", *_COMPUTE):
            raise ValueError(
                f"compute: expected 'auto', 'int8' or 'f32', got {compute!r}"
            )
        if threads is None:
            has_mask = hasattr(os, "sched_getaffinity")
            threads = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
        if not isinstance(kv_type, str) or kv_type not in KV_TYPES:
            raise ValueError(f"kv_type: expected 'f32' or 'f16', got {kv_type!r}")
        if kv_budget is not None:
            check_int("kv_budget", kv_budget, 1, sys.maxsize)
        check_int("threads", threads, 1, 1024)
        return cls(compute, threads, max_length, kv_type, kv_budget)


def _make(
    core: Any,
    tokenizer: Tokenizer,
    architecture: str,
    path: Path,
    types: Sequence[str],
    settings: _Settings,
) -> Model:
    hparams = HParams(**core.hparams)
    max_length = settings.max_length
    if max_length is None:
        max_length = hparams.n_ctx_train
    check_int("max_length", max_length, 1, hparams.n_ctx_train)
    page_size = core.kv_page_size(KV_TYPES[settings.kv_type])
    if settings.kv_budget is not None and settings.kv_budget < page_size:
        raise ValueError(
            f"kv_budget: expected at least {page_size} bytes (one page of 64 cells), "
            f"got {settings.kv_budget}"
        )
    return Model(
        core,
        tokenizer,
        hparams,
        path,
        _pick_compute(settings.compute, types),
        settings.threads,
        max_length,
        architecture,
        settings.kv_type,
        settings.kv_budget,
    )


def _pick_compute(compute: str, types: Sequence[str]) -> str:
    if compute != "auto":
        return compute
    return "f32" if all(name in _FLOAT_TYPES for name in types) else "int8"


def _load_gguf(path: Path, settings: _Settings) -> Model:
    gguf = _core.Gguf(path)
    types = [row[1] for row in gguf.tensors]
    architecture = gguf.metadata.get("general.architecture")
    # The tokenizer first: what making it needs for a while is free again for weights.
    tokenizer = Tokenizer.from_gguf(gguf.metadata)
    del gguf
    code = _COMPUTE[_pick_compute(settings.compute, types)]
    core = _core.Model.from_gguf(path, code)
    if tokenizer.vocab_size != core.hparams["n_vocab"]:
        raise ModelFormatError(
            f"{path.name}: tokenizer.ggml.tokens: expected {core.hparams['n_vocab']} "
            f"tokens (rows of the embedding), got {tokenizer.vocab_size}"
        )
    return _make(core, tokenizer, architecture, path, types, settings)


def _load_tensors(checkpoint: _checkpoint.Checkpoint, settings: _Settings) -> Any:
    """The core's model; of floating-point weights, as all that are no GGUF's are."""
    files: list[Any] = []
    places: dict[Any, int] = {}
    tensors = []
    for tensor in checkpoint.tensors:
        is_file = isinstance(tensor.source, Path)
        key = tensor.source if is_file else id(tensor.source)
        if key not in places:
            places[key] = len(files)
            files.append(os.fspath(tensor.source) if is_file else tensor.source)
        row = (tensor.name, tensor.type, tuple(tensor.shape), places[key])
        tensors.append((*row, tensor.offset, tensor.size))
    code = _COMPUTE[_pick_compute(settings.compute, ["F32"])]
    return _core.Model.from_tensors(dict(checkpoint.hparams), tensors, files, code)


def _load_folder(path: Path, settings: _Settings) -> Model:
    checkpoint = _checkpoint.read_folder(path)
    core = _load_tensors(checkpoint, settings)
    tokenizer = Tokenizer.from_pretrained(path, n_vocab=core.hparams["n_vocab"])
    return _make(core, tokenizer, checkpoint.architecture, path, ["F32"], settings)
