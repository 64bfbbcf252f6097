"""Requests of lm-evaluation-harness, made by hand, and a tiny model to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_model import TinyConfig, make_tiny, write_hf_folder

import deal

N_CTX = 64


def tiny(vocab: str, folder: Path) -> deal.Model:
    """A tiny model with a short context, from a folder that it is written into."""
    write_hf_folder(make_tiny(TinyConfig(vocab=vocab)), folder)
    return deal.load(folder, compute="f32", max_length=N_CTX)


def instance(*args: Any, doc: Any = None) -> Any:
    """One request; its type is the method that it is given to."""
    from lm_eval.api.instance import Instance

    return Instance(request_type="loglikelihood", doc=doc or {}, arguments=args, idx=0)


def write(lm: Any, context: str, doc: Any = None, **settings: Any) -> str:
    """The text of one request, of 10 tokens where `settings` do not say more."""
    settings = {"until": [], "max_gen_toks": 10} | settings
    request = instance(context, settings, doc=doc)
    return lm.generate_until([request], disable_tqdm=True)[0]
