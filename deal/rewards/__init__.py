"""What good text is: rewards in Python and in C, and weighted sums of them.

A reward gives every completion of a prompt a number; higher is better.

    @deal.reward(range=(0, 1))
    def polite(completions, prompts, **kwargs):      # TRL's signature
        return [float("please" in text.lower()) for text in completions]

    rewards = deal.rewards.Keywords(["cat", "couch"]) + 0.5 * polite

Native rewards, :class:`Keywords`, :class:`Length`, :class:`Repetition`,
:class:`Format`, :class:`Lexicon`, :class:`NgramModel`, the heads :class:`RewardModel`
and :class:`Classifier`, and third parties' scorers in :class:`Native`, run in C without
the interpreter, token by token.
"""

from deal.rewards._pooled import pooled_states
from deal.rewards.base import Part, Reward, WeightedSum, as_reward
from deal.rewards.checking import Violation, check
from deal.rewards.combine import (
    Combination,
    at_least,
    clip,
    lexicographic,
    maximum,
    minimum,
    penalty,
    product,
    scheduled,
)
from deal.rewards.constraints import Constraint, Grammar, JsonSchema, Regex
from deal.rewards.heads import HeadFit
from deal.rewards.huggingface import from_pipeline, from_transformers
from deal.rewards.lexicon import NEGATORS, Lexicon
from deal.rewards.models import Contrast, Fluency, from_model
from deal.rewards.native import Keywords, Length, Native
from deal.rewards.ngram import NgramFeatures, NgramFit, NgramModel
from deal.rewards.python import PythonReward, reward
from deal.rewards.reward_model import Classifier, RewardModel
from deal.rewards.text_checks import Format, Repetition
from deal.rewards.trl import from_trl

__all__ = [
    "Classifier",
    "Combination",
    "Format",
    "Constraint",
    "Contrast",
    "Fluency",
    "Grammar",
    "HeadFit",
    "JsonSchema",
    "Keywords",
    "Length",
    "Lexicon",
    "NEGATORS",
    "Native",
    "NgramFeatures",
    "NgramFit",
    "NgramModel",
    "Part",
    "PythonReward",
    "Regex",
    "Reward",
    "Repetition",
    "RewardModel",
    "Violation",
    "WeightedSum",
    "as_reward",
    "at_least",
    "check",
    "clip",
    "lexicographic",
    "maximum",
    "minimum",
    "penalty",
    "pooled_states",
    "product",
    "from_model",
    "from_pipeline",
    "from_transformers",
    "from_trl",
    "reward",
    "scheduled",
]
