"""The engines that benchmarks.engine compares, behind one small interface.

Each is what a capable user of that library would write: a prompt in one pass, and
branches of one prefix as one batch over a shared or copied cache, two threads, every
step's logits reduced to the most likely token. `open_engine` gives None for a library
that is not installed. Files in other formats are made from the same GGUF file, once.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Ids = Sequence[int]

DEAL = ("deal int8", "deal f32")
PEERS = (
    "llama.cpp Q4_1",
    "llama.cpp Q8_0",
    "llama.cpp Q4_0",
    "CTranslate2 int8",
    "transformers f32",
    "transformers bf16",
)
N_CTX = 1024


class Engine:
    """One engine with a model loaded.

    Attributes
    ----------
    version : str
    settings : str
        What makes it fast, for the record.
    """

    version = ""
    settings = ""

    def prefill(self, ids: Ids) -> float:
        """Seconds to evaluate `ids` in an empty context, up to the last logits."""
        raise NotImplementedError

    def branches(self, prefix: Ids, first: Ids, n_step: int) -> float:
        """Seconds for `n_step` greedy steps of branches ``prefix + [first[b]]``."""
        raise NotImplementedError

    def logits(self, ids: Ids) -> np.ndarray:
        """Logits or log-probs (n_ids, n_vocab) f32 of one sequence."""
        raise NotImplementedError


class DealEngine(Engine):
    def __init__(self, path: Path, compute: str, threads: int) -> None:
        import deal
        from deal import _core

        self._core = _core
        self._model = deal.load(path, compute=compute, threads=threads)
        self._session = _core.Session(self._model._core, N_CTX, threads)
        self.version = deal.__version__
        self.settings = f"compute={compute}, kernels {_core.build_info()['kernels']}"

    def prefill(self, ids: Ids) -> float:
        return self._core.branches(self._session, list(ids), [0], 1)[1]

    def branches(self, prefix: Ids, first: Ids, n_step: int) -> float:
        return self._core.branches(self._session, list(prefix), list(first), n_step)[2]

    def logits(self, ids: Ids) -> np.ndarray:
        return self._session.logits(list(ids))


class LlamaCppEngine(Engine):
    """llama.cpp through its C API: one unified cache, sequences that share cells."""

    def __init__(self, path: Path, kind: str, threads: int, scratch: Path) -> None:
        import llama_cpp

        self._c = c = llama_cpp
        self.version = llama_cpp.__version__
        self.settings = f"{kind}, n_batch=512, flash attention, shared cells"
        c.llama_backend_init()
        file = path if kind == "Q4_1" else self._requantize(path, kind, scratch)
        model_params = c.llama_model_default_params()
        self._model = c.llama_model_load_from_file(str(file).encode(), model_params)
        params = c.llama_context_default_params()
        params.n_ctx = 4096
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = 64
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = 1
        self._context = c.llama_init_from_model(self._model, params)
        self._n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._batch = c.llama_batch_init(1024, 0, 1)

    def _requantize(self, path: Path, kind: str, scratch: Path) -> Path:
        c, file = self._c, scratch / f"{path.stem}.{kind}.gguf"
        if not file.exists():
            params = c.llama_model_quantize_default_params()
            params.ftype = {"Q8_0": 7, "Q4_0": 2}[kind]
            params.allow_requantize = True
            params.nthread = 2
            part = file.with_suffix(".part")
            names = (str(path).encode(), str(part).encode())
            if c.llama_model_quantize(*names, ctypes.byref(params)) != 0:
                raise RuntimeError(f"llama.cpp did not write {kind}")
            part.rename(file)
        return file

    def _run(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Evaluates rows of (token, position, sequence, whether logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wants
        if self._c.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def _rows(self, n: int) -> np.ndarray:
        pointer = self._c.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(n, self._n_vocab))

    def _clear(self) -> Any:
        memory = self._c.llama_get_memory(self._context)
        self._c.llama_memory_clear(memory, True)
        return memory

    def prefill(self, ids: Ids) -> float:
        self._clear()
        rows = [(t, i, 0, i == len(ids) - 1) for i, t in enumerate(ids)]
        start = time.perf_counter()
        self._run(rows)
        self._rows(1).argmax()
        return time.perf_counter() - start

    def branches(self, prefix: Ids, first: Ids, n_step: int) -> float:
        memory = self._clear()
        self._run([(t, i, 0, False) for i, t in enumerate(prefix)])
        for s in range(1, len(first)):
            self._c.llama_memory_seq_cp(memory, 0, s, -1, -1)
        tokens = list(first)
        start = time.perf_counter()
        for i in range(n_step):
            position = len(prefix) + i
            self._run([(t, position, s, True) for s, t in enumerate(tokens)])
            tokens = self._rows(len(tokens)).argmax(-1).tolist()
        return time.perf_counter() - start

    def logits(self, ids: Ids) -> np.ndarray:
        self._clear()
        self._run([(t, i, 0, True) for i, t in enumerate(ids)])
        return self._rows(len(ids)).copy()


def _checkpoint(path: Path, scratch: Path) -> Path:
    """The file's weights, dequantised, as a Hugging Face folder in f32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = scratch / f"{path.stem}.hf"
    if not (folder / "config.json").exists():
        source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(**source)
        # The weights are dequantised by now, but are still marked as GGUF's.
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        model.save_pretrained(folder)
    return folder


class CTranslate2Engine(Engine):
    def __init__(self, path: Path, threads: int, scratch: Path) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        self.version = ctranslate2.__version__
        self.settings = "int8, static prompt for the shared prefix"
        checkpoint = _checkpoint(path, scratch)
        folder = scratch / f"{path.stem}.ct2"
        if not (folder / "model.bin").exists():
            converter = ctranslate2.converters.TransformersConverter(str(checkpoint))
            converter.convert(str(folder), quantization="int8", force=True)
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._ct2 = ctranslate2
        self._model = ctranslate2.Generator(
            str(folder), device="cpu", compute_type="int8", intra_threads=threads
        )

    def _generate(self, prefix: Ids, first: Ids, n_step: int) -> float:
        pieces = self._tokenizer.convert_ids_to_tokens
        start = time.perf_counter()
        self._model.generate_batch(
            [pieces([t]) for t in first],
            static_prompt=pieces(list(prefix)),
            cache_static_prompt=True,
            max_batch_size=len(first),
            max_length=n_step,
            min_length=n_step,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        return time.perf_counter() - start

    def prefill(self, ids: Ids) -> float:
        tokens = [self._tokenizer.convert_ids_to_tokens(list(ids))]
        start = time.perf_counter()
        # NB: with the prompt in the result it would count as generated, and the call
        # would end after its first token.
        result = self._model.generate_batch(
            tokens,
            max_length=1,
            min_length=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        seconds = time.perf_counter() - start
        if len(result[0].sequences_ids[0]) != 1:
            raise RuntimeError("CTranslate2: expected one token after the prompt")
        return seconds

    def branches(self, prefix: Ids, first: Ids, n_step: int) -> float:
        self._generate(prefix, first, 1)  # caches the prefix
        return self._generate(prefix, first, n_step)

    def logits(self, ids: Ids) -> np.ndarray:
        tokens = self._tokenizer.convert_ids_to_tokens(list(ids))
        out = self._model.forward_batch([tokens], return_log_probs=True)
        return np.array(out)[0].astype(np.float32)


class TransformersEngine(Engine):
    def __init__(self, path: Path, kind: str, threads: int, scratch: Path) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._torch = torch
        self.version = f"{transformers.__version__} (torch {torch.__version__})"
        self.settings = f"{kind}, sdpa attention, dynamic cache"
        self._cache = transformers.DynamicCache
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            _checkpoint(path, scratch),
            dtype=torch.bfloat16 if kind == "bf16" else torch.float32,
            attn_implementation="sdpa",
        ).eval()

    def prefill(self, ids: Ids) -> float:
        tokens = self._torch.tensor([list(ids)])
        start = time.perf_counter()
        out = self._model(tokens, use_cache=True, logits_to_keep=1)
        out.logits[0, -1].argmax()
        return time.perf_counter() - start

    def branches(self, prefix: Ids, first: Ids, n_step: int) -> float:
        out = self._model(self._torch.tensor([list(prefix)]), use_cache=True)
        cache = out.past_key_values
        cache.batch_repeat_interleave(len(first))
        tokens = self._torch.tensor([[t] for t in first])
        start = time.perf_counter()
        for _ in range(n_step):
            out = self._model(tokens, past_key_values=cache, use_cache=True)
            tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        return time.perf_counter() - start

    def logits(self, ids: Ids) -> np.ndarray:
        return self._model(self._torch.tensor([list(ids)])).logits[0].float().numpy()


def open_engine(name: str, path: Path, threads: int, scratch: Path) -> Engine | None:
    """The engine called `name`, one of DEAL and PEERS; None where it is missing."""
    library, kind = name.rsplit(" ", 1)
    try:
        if library == "deal":
            return DealEngine(path, kind, threads)
        if library == "llama.cpp":
            return LlamaCppEngine(path, kind, threads, scratch)
        if library == "CTranslate2":
            return CTranslate2Engine(path, threads, scratch)
        return TransformersEngine(path, kind, threads, scratch)
    except ImportError:
        return None
