"""Chat templates: jinja2 programs that come with a model and write its prompt.

They are untrusted code, so they run in jinja2's immutable sandbox, see plain data only
and end after so many steps. Variables, filters and functions are those that
transformers offers, so that a template writes the same text here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from deal._errors import TokenizerError

# What one rendering may do at most; no chat needs a hundredth of it.
_N_STEP_MAX = 1_000_000  # passes of all loops and macros together
_SIZE_MAX = 10_000_000  # characters, items or bits of what * and ** make
_STEPS = "steps left"  # no identifier, so a template cannot name it


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages of one chat as plain data.

    Parameters
    ----------
    messages : sequence of mappings
        Each with a ``role`` and a ``content``, both str; ``content`` may be missing or
        None where there are ``tool_calls``. Other keys go to the template as they are.

    Returns
    -------
    list of dict
        Copies without the keys that are None.

    Raises
    ------
    TypeError, ValueError
        Naming the message and the key.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(
        messages, Sequence
    ):
        raise TypeError(
            "messages: expected a list of dicts with 'role' and 'content', got "
            f"{type(messages).__name__}"
        )
    if not messages:
        raise ValueError("messages: expected at least one message, got none")
    checked = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise TypeError(f"{where}: expected a dict, got {type(message).__name__}")
        for key in ("role", "content"):
            value = message.get(key)
            if value is None and key == "content" and message.get("tool_calls"):
                continue
            if value is None:
                raise ValueError(
                    f"{where}: expected the keys 'role' and 'content', "
                    f"got {list(message)}"
                    if key not in message
                    else f"{where}[{key!r}]: expected a str, got None"
                )
            if not isinstance(value, str):
                raise TypeError(
                    f"{where}[{key!r}]: expected a str, got {type(value).__name__}"
                )
        checked.append(_plain({k: v for k, v in message.items() if v is not None}))
    return checked


def _plain(value: Any) -> Any:
    """`value` of JSON's types only; objects with methods stay outside the sandbox."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a NumPy scalar
        return _plain(value.item())
    raise TypeError(
        "chat template: expected str, numbers, lists and dicts as variables, got "
        f"{type(value).__name__}"
    )


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML, which no model has seen.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _count_step(context: Any, value: Any) -> Any:
    """A filter that every pass of a loop or macro goes through."""
    from jinja2.sandbox import SecurityError

    left = context[_STEPS]
    left[0] -= 1
    if left[0] < 0:
        raise SecurityError(
            f"loops: expected at most {_N_STEP_MAX} passes in all, got more"
        )
    return value


def _check_product(operator: str, left: Any, right: Any) -> None:
    """Refuse ``*`` and ``**`` that would fill the memory, or never end."""
    from jinja2.sandbox import SecurityError

    size = 0
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        size = left.bit_length() * abs(right)
    elif operator == "*":
        for items, n in ((left, right), (right, left)):
            if isinstance(items, (str, list, tuple)) and isinstance(n, int):
                size = len(items) * n
    if size > _SIZE_MAX:
        raise SecurityError(
            f"{operator}: expected a result of at most {_SIZE_MAX} items or bits, "
            f"got {size}"
        )


def _count_passes(tree: Any) -> None:
    """Put a call of ``_count_step`` into every loop and macro of a parsed template."""
    from jinja2 import nodes

    def counter() -> Any:
        true = nodes.Const(True)
        return nodes.Filter(true, "count_step", [], [], None, None, lineno=1)

    for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(counter(), node.test, lineno=node.lineno)
        else:
            node.body.insert(0, nodes.ExprStmt(counter(), lineno=node.lineno))


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import nodes, pass_context
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """``{% generation %}`` marks the assistant's text; it only writes it."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A scope of its own, as in transformers: what is set inside stays inside.
            return nodes.Scope(body, lineno=line)

    class Sandbox(ImmutableSandboxedEnvironment):
        """jinja2's sandbox with an end to loops and to products."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_product(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def _parse(self, *args: Any) -> Any:
            tree = super()._parse(*args)
            _count_passes(tree)
            return tree

    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _tojson
    environment.filters["count_step"] = pass_context(_count_step)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class ChatTemplate:
    """One compiled template.

    Parameters
    ----------
    source : str
        jinja2.
    tokens : mapping of str to str
        Texts of special tokens by variable name: ``bos_token``, ``eos_token``, ...

    Raises
    ------
    TokenizerError
        Where the template does not compile.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        import jinja2

        self._tokens = dict(tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(
                f"chat template: line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # nested too deep, or what Python cannot compile
            raise TokenizerError(
                f"chat template: {type(error).__name__}: {error}"
            ) from error

    def render(
        self, messages: Any, *, add_generation_prompt: bool, **kwargs: Any
    ) -> str:
        """The prompt for `messages`.

        Parameters
        ----------
        messages : sequence of mappings
            As for :func:`check_messages`.
        add_generation_prompt : bool
            End with what opens the assistant's next message.
        **kwargs
            Further variables: ``tools``, ``documents``, and what the template knows.

        Returns
        -------
        str

        Raises
        ------
        TokenizerError
            With the template's own message where it refuses or fails.
        """
        import jinja2

        variables = {
            **self._tokens,
            "tools": None,
            "documents": None,
            **_plain(kwargs),
            "messages": check_messages(messages),
            "add_generation_prompt": bool(add_generation_prompt),
            _STEPS: [_N_STEP_MAX],
        }
        try:
            return self._template.render(variables)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"chat template: {error.message}") from error
        # A template is somebody else's program: it can divide by zero, add str and int,
        # or call range(10**9), and each has an exception of its own.
        except Exception as error:
            raise TokenizerError(
                f"chat template: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def has_system_role(self) -> bool:
        """Whether what a system message says reaches the prompt."""

        def text(content: str) -> str:
            system = {"role": "system", "content": content}
            chat = [system, {"role": "user", "content": "Hi."}]
            return self.render(chat, add_generation_prompt=True)

        try:
            return text("Be brief.") != text("Be kind.")
        except TokenizerError:  # refused, or taken for a turn that is out of order
            return False
