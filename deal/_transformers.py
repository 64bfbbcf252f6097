"""What a model and a tokenizer of transformers have in memory, as if read from files.

Nothing here imports torch or transformers: who has such objects has them loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from deal._checkpoint import Checkpoint, CheckpointTensor, read_tensors

_TYPES = {"torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 30}  # deal_type
_OTHER_WAY = "; deal.hf.custom_generate searches with any torch model"


def read_model(model: Any) -> Checkpoint:
    """The checkpoint that `model` would save, its tensors in place.

    Raises
    ------
    TypeError
        If it is no model of transformers.
    NotImplementedError
        For what the engine does not run.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_json_string") or not hasattr(model, "named_parameters"):
        raise TypeError(
            "model: expected a transformers.PreTrainedModel, got "
            f"{type(model).__name__}"
        )
    settings = json.loads(config.to_json_string(use_diff=True))
    settings["architectures"] = [type(model).__name__]
    settings["model_type"] = config.model_type
    quantization = settings.get("quantization_config") or {}
    if quantization.get("quant_method") == "gguf":  # the weights are read as floats
        del settings["quantization_config"]
    elif getattr(model, "hf_quantizer", None) is not None:
        settings.setdefault("quantization_config", type(model.hf_quantizer).__name__)
    parameters = dict(model.named_parameters())  # a tied one once
    settings["tie_word_embeddings"] = "lm_head.weight" not in parameters
    try:
        return read_tensors(
            settings, lambda: [_stored(name, x) for name, x in parameters.items()]
        )
    except NotImplementedError as error:
        raise NotImplementedError(f"{error}{_OTHER_WAY}") from None


def _stored(name: str, parameter: Any) -> CheckpointTensor:
    kind = _TYPES.get(str(parameter.dtype))
    if kind is None:
        names = ", ".join(t.removeprefix("torch.") for t in _TYPES)
        raise NotImplementedError(
            f"tensor {name}: expected {names}, got {parameter.dtype}"
        )
    if parameter.device.type == "meta":
        raise ValueError(f"tensor {name}: expected its numbers, got a meta tensor")
    data = parameter.detach().cpu().contiguous()
    if kind == 30:  # NumPy knows no bfloat16
        data = data.view(_int16(data))
    memory = data.numpy()
    return CheckpointTensor(name, kind, tuple(data.shape), memory, 0, memory.nbytes)


def _int16(tensor: Any) -> Any:
    """The dtype, found without an import."""
    return tensor.new_zeros(0).short().dtype


def tokenizer_files(model: Any, tokenizer: Any) -> dict[str, bytes]:
    """Files of a Hugging Face folder that describe `tokenizer`, and the end tokens.

    Raises
    ------
    TypeError
        If it is no tokenizer of transformers.
    NotImplementedError
        For one that neither `tokenizers` nor `sentencepiece` stands behind.
    """
    if not hasattr(tokenizer, "special_tokens_map"):
        raise TypeError(
            "tokenizer: expected a transformers.PreTrainedTokenizerBase, got "
            f"{type(tokenizer).__name__}"
        )
    config: dict[str, Any] = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if name.endswith("_token")
    }
    files: dict[str, bytes] = {}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    processor: Any = getattr(tokenizer, "sp_model", None)
    if hasattr(backend, "to_str"):
        files["tokenizer.json"] = backend.to_str().encode()
    elif hasattr(processor, "serialized_model_proto"):
        files["tokenizer.model"] = processor.serialized_model_proto()
        for name in ("add_bos_token", "add_eos_token"):
            config[name] = bool(getattr(tokenizer, name, False))
        config["added_tokens_decoder"] = _added_tokens(tokenizer)
    else:
        raise NotImplementedError(
            "tokenizer: expected one of the tokenizers library or of sentencepiece, "
            f"got {type(tokenizer).__name__}{_OTHER_WAY}"
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several, by name
        template = template.get("default")
    if template is not None:
        config["chat_template"] = template
    files["tokenizer_config.json"] = json.dumps(config).encode()
    for name, owner in (("generation_config", model), ("config", model)):
        ends = getattr(getattr(owner, name, None), "eos_token_id", None)
        files[f"{name}.json"] = json.dumps({"eos_token_id": _plain(ends)}).encode()
    return files


def _added_tokens(tokenizer: Any) -> dict[str, dict[str, Any]]:
    return {
        str(i): {"content": str(token), "special": bool(token.special)}
        for i, token in tokenizer.added_tokens_decoder.items()
    }


def _plain(ends: Any) -> Any:
    """End tokens as JSON has them."""
    if isinstance(ends, Iterable):
        return [int(i) for i in ends]
    return None if ends is None else int(ends)
