"""The alignment prompt: where `chat(align=)` puts it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chat_cases
import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

USER = {"role": "user", "content": "a b"}
REPLY = {"role": "assistant", "content": "c"}
BRIEF = {"role": "system", "content": "Be brief."}
KIND = {"role": "system", "content": "Be kind."}
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}{% endfor %}"
)
WITHOUT = {"refuses": REFUSES, "passes over": chat_cases.MISTRAL}


@pytest.fixture
def lm(tmp_path: Path) -> deal.Model:
    write_gguf(make_tiny(TinyConfig(seed=0)), tmp_path / "tiny.gguf")
    return deal.load(tmp_path / "tiny.gguf", compute="f32")


@pytest.fixture
def seen_by(lm: deal.Model) -> Callable[..., tuple[str, list[dict[str, Any]]]]:
    """Prompt and messages that a reward sees of a chat."""

    def seen(chat: Any, **options: Any) -> tuple[str, list[dict[str, Any]]]:
        calls: list[Any] = []

        def keep(
            completions: list[str], prompts: list[str], messages: list[Any]
        ) -> list[float]:
            calls.append((prompts[0], messages[0]))
            return [0.0] * len(completions)

        lm.chat(chat, rewards=keep, max_new_tokens=1, **options)
        return calls[0]

    return seen


def test_a_system_message(seen_by: Any) -> None:
    assert seen_by([USER], align="Be kind.") == seen_by([KIND, USER])
    assert seen_by([USER], align="Be kind.") != seen_by([USER])
    both = {"role": "system", "content": "Be kind.\n\nBe brief."}
    assert seen_by([BRIEF, USER], align="Be kind.") == seen_by([both, USER])
    assert BRIEF["content"] == "Be brief."  # the caller's stays as it is
    later = [USER, REPLY, BRIEF, USER]
    assert seen_by(later, align="Be kind.") == seen_by([KIND, *later])


@pytest.mark.parametrize("template", WITHOUT.values(), ids=WITHOUT)
def test_the_users_message_where_there_is_no_system_role(
    lm: deal.Model, seen_by: Any, template: str
) -> None:
    lm.tokenizer.chat_template = template
    assert not lm.tokenizer.has_system_role
    both = {"role": "user", "content": "Be kind.\n\na b"}
    assert seen_by([USER, REPLY, USER], align="Be kind.") == seen_by(
        [both, REPLY, USER]
    )
    prompt, _ = seen_by([USER], align="Be kind.")
    assert "Be kind.\n\na b" in prompt
    with pytest.raises(ValueError, match="align: the chat template writes no system"):
        lm.chat([REPLY], align="Be kind.")


def test_which_templates_have_a_system_role(lm: deal.Model) -> None:
    assert lm.tokenizer.has_system_role
    for name, template in chat_cases.TEMPLATES.items():
        lm.tokenizer.chat_template = template
        assert lm.tokenizer.has_system_role == (name != "mistral"), name
    lm.tokenizer.chat_template = None
    assert not lm.tokenizer.has_system_role
    with pytest.raises(deal.TokenizerError, match="the model has none"):
        lm.chat([USER], align="Be kind.")


def test_each_of_several_chats(lm: deal.Model) -> None:
    chats = [[USER], [BRIEF, USER]]
    found = lm.chat(chats, align="Be kind.", max_new_tokens=3)
    alone = [lm.chat(chat, align="Be kind.", max_new_tokens=3) for chat in chats]
    assert [r.token_ids for r in found] == [r.token_ids for r in alone]
    assert [r.logprob for r in found] == [r.logprob for r in alone]


@pytest.mark.parametrize("align", ["", " \n"])
def test_an_empty_alignment_prompt(lm: deal.Model, align: str) -> None:
    with pytest.raises(ValueError, match="align: expected a non-empty string, got '"):
        lm.chat([USER], align=align)


@pytest.mark.parametrize("align", [7, b"Be kind.", [KIND], False])
def test_an_alignment_prompt_of_another_type(lm: deal.Model, align: Any) -> None:
    with pytest.raises(TypeError, match="align: expected a str, got "):
        lm.chat([USER], align=align)


@pytest.mark.parametrize("align", [None, "Be kind."])
@pytest.mark.parametrize(
    ("messages", "error", "what"),
    [
        ([], ValueError, "messages: expected at least one message"),
        ([[]], ValueError, "messages: expected at least one message"),
        ("a b", TypeError, "messages: expected a list of dicts"),
        (USER, TypeError, "messages: expected a list of dicts"),
        (["a b"], TypeError, r"messages\[0\]: expected a dict, got str"),
        ([{"role": "user"}], ValueError, r"messages\[0\]: expected the keys"),
        ([{"role": "system", "content": None}], ValueError, "expected a str, got None"),
        ([{"role": "system", "content": 5}], TypeError, "expected a str, got int"),
    ],
)
def test_bad_messages_are_told_as_without_it(
    lm: deal.Model,
    messages: Any,
    error: type[Exception],
    what: str,
    align: str | None,
) -> None:
    with pytest.raises(error, match=what):
        lm.chat(messages, align=align)
