"""Requests of lm-evaluation-harness, made by hand."""

from __future__ import annotations

from typing import Any


def instance(*args: Any, doc: Any = None) -> Any:
    """One request; its type is the method that it is given to."""
    from lm_eval.api.instance import Instance

    return Instance(request_type="loglikelihood", doc=doc or {}, arguments=args, idx=0)
