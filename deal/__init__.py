"""Decoding-time alignment of language models, with a C core.

    import deal

    lm = deal.load("smollm2-135m-instruct")
    r = lm.generate("Write a sentence with cat and couch:",
                    rewards=deal.rewards.Keywords(["cat", "couch"]),
                    search=deal.Search(top_k=5, lookahead=16, reward_weight=4.0))

The search is DeAL: J. Y. Huang et al., "DeAL: Decoding-time Alignment for Large
Language Models", arXiv:2402.06147.
"""

import importlib as _importlib
from importlib import metadata as _metadata
from pathlib import Path as _Path
from typing import Any as _Any

from deal import _blas as _blas  # before anything that imports the core
from deal import controls, rewards
from deal._calibrate import Calibration, calibrate
from deal._compare import Comparison, compare
from deal._errors import (
    ConstraintError,
    ContextLengthError,
    ControlError,
    KVBudgetError,
    ModelFormatError,
    RewardError,
    TokenizerError,
)
from deal._explain import Explanation, explain
from deal._load import from_transformers, load
from deal._sweep import Outcome, Sweep, sweep
from deal._tree import Tree
from deal.controls import AddResidual, EditFinal, MapHead
from deal.generation import Candidate, Decision, Generation, Stats
from deal.model import HParams, Model, Stream
from deal.rewards import Reward, reward
from deal.settings import Exact, Sampling, Search

__all__ = [
    "AddResidual",
    "Calibration",
    "Candidate",
    "Comparison",
    "ConstraintError",
    "ContextLengthError",
    "ControlError",
    "Decision",
    "EditFinal",
    "Exact",
    "Explanation",
    "Generation",
    "HParams",
    "KVBudgetError",
    "MapHead",
    "Model",
    "ModelFormatError",
    "Outcome",
    "Reward",
    "RewardError",
    "Sampling",
    "Search",
    "Stats",
    "Stream",
    "Sweep",
    "TokenizerError",
    "Tree",
    "calibrate",
    "compare",
    "controls",
    "explain",
    "from_transformers",
    "get_include",
    "load",
    "reward",
    "rewards",
    "sweep",
]


def get_include() -> str:
    """Folder of the C headers, for extensions with native rewards and controls.

    Returns
    -------
    str
        Pass it to the compiler with ``-I``; the headers are ``<deal/reward.h>`` and
        ``<deal/control.h>``.
    """
    return str(_Path(__file__).resolve().parent / "include")


# Modules of their own: loaded where they are used.
_INTEGRATIONS = ("hf", "ray", "serve")


def __getattr__(name: str) -> _Any:
    if name == "__version__":  # read on demand: importlib.metadata is not free
        return _metadata.version("deal-lm")
    if name in _INTEGRATIONS:
        return _importlib.import_module(f"deal.{name}")
    raise AttributeError(f"module 'deal' has no attribute {name!r}")
