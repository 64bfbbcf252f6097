"""Decoding with rewards: the search of ``deal`` over any causal language model.

model.generate(
    **inputs,
    custom_generate="your-name/deal",
    trust_remote_code=True,
    tokenizer=tokenizer,
    rewards=rewards,
    search=search,
)
"""


def generate(
    model,
    tokenizer=None,
    streamer=None,
    rewards=None,
    search=None,
    stop=None,
    constraint=None,
    reward_kwargs=None,
    stop_strings=None,
    batch_size=32,
    kv_budget=None,
    **kwargs,
):
    """Generate text that the model finds likely and the rewards find good.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's.
    streamer : BaseStreamer, optional
    rewards : deal.Reward or callable, optional
        Higher is better; see deal.rewards.
    search : deal.Search, optional
        How to search. Default with rewards: ``deal.Search()``.
    stop, stop_strings : str or list of str, optional
    constraint, reward_kwargs, batch_size, kv_budget
        As in deal.hf.custom_generate.
    **kwargs
        All else that ``model.generate`` takes.

    Returns
    -------
    LongTensor or deal.hf.DealGenerateOutput
    """
    from deal.hf import custom_generate

    stops = [stop, stop_strings]
    texts = [[s] if isinstance(s, str) else list(s or ()) for s in stops]
    search_with = custom_generate(
        rewards=rewards,
        search=search,
        tokenizer=tokenizer,
        streamer=streamer,
        stop=texts[0] + texts[1],
        constraint=constraint,
        reward_kwargs=reward_kwargs,
        batch_size=batch_size,
        kv_budget=kv_budget,
    )
    given = {name: value for name, value in kwargs.items() if value is not None}
    return type(model).generate(model, custom_generate=search_with, **given)
