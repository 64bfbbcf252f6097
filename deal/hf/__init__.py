"""Inside transformers: its ``generate``, its pipelines, and its torch models.

    import deal

    lm = deal.hf.DealForCausalLM.from_pretrained("smollm2-135m-instruct")
    lm.generate(**tokenizer(text, return_tensors="pt"), rewards=..., search=...)

    search = deal.hf.custom_generate(rewards=..., search=..., tokenizer=tokenizer)
    torch_model.generate(**inputs, custom_generate=search)

`DealForCausalLM` is the engine behind the interface of a model of transformers;
`custom_generate` is the engine's search over any torch model. Needs
``pip install 'deal-lm[hf]'``.
"""

from deal.rewards._extras import needed as _needed

for _module in ("torch", "transformers"):
    _needed(_module, "hf", "deal.hf")

from deal.hf.custom import custom_generate  # noqa: E402
from deal.hf.model import DealForCausalLM  # noqa: E402
from deal.hf.outputs import DealGenerateOutput  # noqa: E402
from deal.hf.pipeline import DealPipeline  # noqa: E402

__all__ = [
    "DealForCausalLM",
    "DealGenerateOutput",
    "DealPipeline",
    "custom_generate",
]
