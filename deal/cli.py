"""The ``deal`` command.

Commands import what they need when they run; ``deal --help`` loads no model code.
What goes wrong is one line on stderr and exit code 1; wrong usage is exit code 2. With
``DEAL_DEBUG`` set, the traceback comes instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deal import _hub

if TYPE_CHECKING:
    from deal._reward_spec import RewardSpec
    from deal.generation import Generation
    from deal.model import Model

DEFAULT_MODEL = "smollm2-135m-instruct"
INTERRUPTED = 130  # what a shell reports after SIGINT

app = typer.Typer(
    name="deal",
    help="Decoding-time alignment of language models: reward-guided search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PASSED_ON: dict[str, Any] = {  # all arguments, to a command line of its own
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


class Compute(str, Enum):
    """Choices of --compute."""

    auto = "auto"
    int8 = "int8"
    f32 = "f32"


class KvType(str, Enum):
    """Choices of --kv-type."""

    f32 = "f32"
    f16 = "f16"


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Alias, .gguf file, folder, or hub id org/name."
    ),
]
ComputeOption = Annotated[Compute, typer.Option(help="Arithmetic of the forward pass.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Default: all processors.", show_default=False)
]
ContextOption = Annotated[
    int | None,
    typer.Option(min=1, help="Longest context in tokens.", show_default=False),
]
KvTypeOption = Annotated[
    KvType, typer.Option(help="Numbers that keys and values are kept in.")
]
KvBudgetOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Most bytes of KV cells.", show_default="no limit but the context"
    ),
]
NewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Longest completion in tokens.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
TemperatureOption = Annotated[
    float | None, typer.Option(min=0.0, help="Sample; without it, greedy.")
]
TopPOption = Annotated[float, typer.Option(help="Sampling: nucleus, in (0, 1].")]
MinPOption = Annotated[float, typer.Option(help="Sampling: in [0, 1].")]
PenaltyOption = Annotated[
    float, typer.Option(help="Sampling: above 1 makes repeated tokens less likely.")
]
KeywordsOption = Annotated[
    str | None,
    typer.Option(
        help="Search for text with these words: cat,couch|sofa,pet "
        "(| separates accepted forms)."
    ),
]
RewardOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        help="Search by a reward: a formula, as in 'Length(max=20) + "
        "0.5 * Repetition(2)', or JSON. May be repeated; rewards are added up.",
    ),
]
RewardsOption = Annotated[
    Path | None,
    typer.Option("--rewards", help="Search by the formula or JSON in a file."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Sampling: same seed, same text.")]


@app.command()
def demo(
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, help="Word sets, from the first.", show_default="all"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates a step.")] = 5,
    lookahead: Annotated[int, typer.Option(min=0, help="Tokens of rollout.")] = 16,
    reward_weight: Annotated[
        float, typer.Option(help="Nats per unit of reward.")
    ] = 4.0,
    max_new_tokens: NewTokensOption = 40,
    compute: ComputeOption = Compute.auto,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write sentences from given words: plain greedy beside DeAL."""
    from deal.demo import WORD_SETS, run_demo
    from deal.settings import Search

    n = len(WORD_SETS) if n is None else n
    if n > len(WORD_SETS):
        raise typer.BadParameter(
            f"there are {len(WORD_SETS)} word sets", param_hint="-n"
        )
    search = Search(top_k=top_k, lookahead=lookahead, reward_weight=reward_weight)
    lm = _load(model, compute, threads, None)
    with _interruptible():
        run_demo(lm, search, n=n, max_new_tokens=max_new_tokens, as_json=as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads stdin.")],
    model: ModelOption = DEFAULT_MODEL,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt into the chat template.")
    ] = False,
    max_new_tokens: NewTokensOption = 64,
    temperature: TemperatureOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Sampling: keep the k likeliest tokens. In a search: candidates.",
            show_default="off; 5 in a search",
        ),
    ] = None,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    seed: SeedOption = 0,
    num_beams: Annotated[int, typer.Option(min=1, help="Hypotheses kept.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of plain beam search.")] = 1.0,
    keywords: KeywordsOption = None,
    reward: RewardOption = None,
    rewards: RewardsOption = None,
    lookahead: Annotated[
        int, typer.Option(min=0, help="Search: tokens of rollout.")
    ] = 16,
    reward_weight: Annotated[
        float, typer.Option(help="Search: nats per unit of reward.")
    ] = 4.0,
    commit: Annotated[
        int, typer.Option(min=1, help="Search: tokens per decision.")
    ] = 1,
    rollout_model: Annotated[
        str | None,
        typer.Option(help="Search: a model of the same tokens that looks ahead."),
    ] = None,
    num_return_sequences: Annotated[
        int, typer.Option("--num-return-sequences", "-r", min=1, help="Completions.")
    ] = 1,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="String that ends the text; may be repeated."),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="The text must match this, from start to end.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="The text must be JSON of the schema in a file.")
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(help="The text must be of the grammar in a file."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print while generating.")
    ] = True,
    compute: ComputeOption = Compute.auto,
    threads: ThreadsOption = None,
    max_length: ContextOption = None,
    kv_type: KvTypeOption = KvType.f32,
    kv_budget: KvBudgetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a prompt: greedy, sampled, with beams, or searched with rewards."""
    from dataclasses import replace

    from deal.settings import Sampling, Search

    specs = _reward_specs(keywords, reward, rewards)
    if specs and temperature is not None:
        raise typer.BadParameter(
            "rewards search and --temperature samples; give one of the two"
        )
    if rollout_model is not None and not specs:
        raise typer.BadParameter(
            "--rollout-model looks ahead; it needs --keywords or --reward"
        )
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
        "stop": list(stop) if stop else None,
        "constraint": _constraint(regex, json_schema, grammar),
    }
    if specs:
        options["search"] = Search(
            top_k=5 if top_k is None else top_k,
            lookahead=lookahead,
            reward_weight=reward_weight,
            num_beams=num_beams,
            commit=commit,
        )
    elif temperature is not None:
        options["sampling"] = Sampling(
            temperature=temperature,
            top_k=top_k or 0,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        options["num_beams"] = num_beams
    else:
        options |= {"num_beams": num_beams, "length_penalty": length_penalty}
        if repetition_penalty != 1.0:
            options["sampling"] = Sampling(0.0, repetition_penalty=repetition_penalty)
    if prompt == "-":
        prompt = sys.stdin.read()
    lm = _load(model, compute, threads, max_length, kv_type, kv_budget)
    if specs:
        options["rewards"] = sum(spec.build(model=lm) for spec in specs)
    if rollout_model is not None:
        other = _load(rollout_model, compute, threads, None, kv_type, kv_budget)
        options["search"] = replace(options["search"], rollout_model=other)
    question: Any = [{"role": "user", "content": prompt}] if chat else prompt
    with _interruptible():
        if stream and not as_json and num_return_sequences == 1:
            _print_stream(lm.stream(question, **options))
            return
        result = (lm.chat if chat else lm.generate)(question, **options)
    results = result if isinstance(result, list) else [result]
    if as_json:
        _print_json([_as_dict(one) for one in results])
        return
    for i, one in enumerate(results):
        if len(results) > 1:
            print(f"--- {i + 1} of {len(results)}, log-prob {one.logprob:.2f}")
        print(one.text)


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads stdin.")],
    keywords: KeywordsOption = None,
    reward: RewardOption = None,
    rewards: RewardsOption = None,
    model: ModelOption = DEFAULT_MODEL,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt into the chat template.")
    ] = False,
    max_new_tokens: NewTokensOption = 16,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates a step.")] = 5,
    lookahead: Annotated[int, typer.Option(min=0, help="Tokens of rollout.")] = 16,
    reward_weight: Annotated[
        float, typer.Option(help="Nats per unit of reward.")
    ] = 4.0,
    num_beams: Annotated[int, typer.Option(min=1, help="Hypotheses kept.")] = 1,
    svg: Annotated[
        Path | None, typer.Option(help="Draw the tree into this file.")
    ] = None,
    compute: ComputeOption = Compute.auto,
    threads: ThreadsOption = None,
) -> None:
    """Show every decision of a search: candidates, rollouts, rewards, bounds."""
    from deal._explain import explain
    from deal.settings import Search

    if svg is not None and svg.suffix != ".svg":
        raise typer.BadParameter(
            "expected a name that ends in .svg", param_hint="--svg"
        )
    specs = _reward_specs(keywords, reward, rewards)
    if not specs:
        raise typer.BadParameter("give --keywords, --reward or --rewards")
    search = Search(top_k, lookahead, reward_weight, num_beams)
    text = sys.stdin.read() if prompt == "-" else prompt
    lm = _load(model, compute, threads, None)
    options: dict[str, Any] = {"search": search, "max_new_tokens": max_new_tokens}
    options["rewards"] = sum(spec.build(model=lm) for spec in specs)
    with _interruptible():
        if chat:
            result = lm.chat([{"role": "user", "content": text}], **options)
        else:
            result = lm.generate(text, **options)
    explanation = explain(result, lm.tokenizer)
    print(explanation)
    if svg is not None:
        explanation.save(svg)


@app.command()
def chat(
    model: ModelOption = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_new_tokens: NewTokensOption = 256,
    temperature: TemperatureOption = None,
    top_k: Annotated[int, typer.Option(min=0, help="Sampling; 0 is off.")] = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    seed: SeedOption = 0,
    compute: ComputeOption = Compute.auto,
    threads: ThreadsOption = None,
    max_length: ContextOption = None,
    kv_type: KvTypeOption = KvType.f32,
    kv_budget: KvBudgetOption = None,
) -> None:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D leaves, /reset forgets."""
    from deal._chat_loop import chat_loop
    from deal.settings import Sampling

    sampling = Sampling(
        temperature=temperature or 0.0,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    lm = _load(model, compute, threads, max_length, kv_type, kv_budget)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    chat_loop(lm, system, {"max_new_tokens": max_new_tokens, "sampling": sampling})


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Alias, .gguf file, folder, or hub id.")],
    compute: ComputeOption = Compute.auto,
    as_json: JsonOption = False,
) -> None:
    """Show a model's hyper-parameters, weight types, tokenizer and chat template."""
    from deal._info import model_facts

    path = _hub.resolve(model)
    facts = model_facts(path, _load(str(path), compute, None, None))
    if as_json:
        _print_json(facts)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key in ("path", "architecture", "size", "compute", "memory", "parameters"):
        value = facts[key]
        shown = f"{value / 1e6:.1f} MB" if key in ("size", "memory") else str(value)
        table.add_row(key, f"{value:,}" if key == "parameters" else shown)
    for name, row in facts["types"].items():
        size = f"{row['size'] / 1e6:.1f} MB"
        table.add_row(f"type {name}", f"{row['tensors']} tensors, {size}")
    for key, value in (facts["hparams"] | facts["tokenizer"]).items():
        table.add_row(key, str(value))
    console.print(table, highlight=False)
    template = facts["chat_template"]
    print(f"\nchat template:\n{template}" if template else "\nno chat template")


@app.command("eval", context_settings=_PASSED_ON)
def evaluate(ctx: typer.Context) -> None:
    """Run lm-evaluation-harness with this engine; all arguments are lm-eval's."""
    from deal.rewards._extras import needed

    needed("lm_eval", "lm-eval", "deal eval")
    from deal.lm_eval import main

    with _interruptible():
        main(ctx.args)


@app.command(context_settings=_PASSED_ON)
def serve(ctx: typer.Context) -> None:
    """Serve OpenAI's HTTP protocol, with rewards and search per request."""
    from deal.serve.command import command

    command(args=ctx.args, prog_name="deal serve")


@app.command()
def models(
    fetch: Annotated[
        str | None,
        typer.Option(help="Put this alias into the cache, or check it there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List aliases and what is cached."""
    if fetch is not None:
        with _interruptible():
            _hub.fetch(fetch.lower(), verify=True)
    from deal._info import alias_row, hub_rows

    rows = [alias_row(alias) for alias in sorted(_hub.ALIASES)] + hub_rows()
    if as_json:
        _print_json({"cache": str(_hub.cache_dir()), "models": rows})
        return
    if fetch is not None:
        print(_hub.model_path(fetch.lower()))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in ("name", "size", "cached at"):
        table.add_column(name, overflow="fold")
    for row in rows:
        size = f"{row['size'] / 1e6:.1f} MB"
        table.add_row(row["name"], size, row["path"] or f"no: {row['summary']}")
    Console().print(table, highlight=False)
    print(f"cache: {_hub.cache_dir()}")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", is_eager=True),
    ] = False,
) -> None:
    if version:
        from importlib import metadata

        print(f"deal {metadata.version('deal-lm')}")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit code: 0, 1 for an error of the library, 2 for wrong usage, 130 for Ctrl-C.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name="deal")
    except SystemExit as error:  # how the command-line library returns
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    except Exception as error:
        if os.environ.get("DEAL_DEBUG"):
            raise
        print(f"deal: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _load(
    model: str,
    compute: Compute,
    threads: int | None,
    n_ctx: int | None,
    kv_type: KvType = KvType.f32,
    kv_budget: int | None = None,
) -> Model:
    from deal._load import load

    with _interruptible():  # fetching and reading may take a while
        return load(
            model,
            compute=compute.value,
            threads=threads,
            max_length=n_ctx,
            kv_type=kv_type.value,
            kv_budget=kv_budget,
        )


def _one_line(error: Exception) -> str:
    from deal._errors import KVBudgetError

    if isinstance(error, OSError) and error.strerror:
        file = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror}{file}"
    else:
        text = str(error) or type(error).__name__
    ours = (ValueError, OSError, NotImplementedError, ImportError, KVBudgetError)
    if not isinstance(error, ours):
        text = f"{type(error).__name__}: {text} (DEAL_DEBUG=1 shows where)"
    return " ".join(text.split())


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the command quietly, with the shell's usual exit code."""
    try:
        yield
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _constraint(regex: str | None, schema: Path | None, grammar: Path | None) -> Any:
    """The hard constraint of at most one of the three."""
    from deal.rewards import Grammar, JsonSchema, Regex

    if sum(given is not None for given in (regex, schema, grammar)) > 1:
        raise typer.BadParameter("give one of --regex, --json-schema and --grammar")
    if regex is not None:
        return Regex(regex)
    if schema is not None:
        return JsonSchema(schema.read_text(encoding="utf-8"))
    return None if grammar is None else Grammar(grammar.read_text(encoding="utf-8"))


def _reward_specs(
    keywords: str | None, formulas: list[str] | None, file: Path | None
) -> list[RewardSpec]:
    """The rewards to add up, their syntax checked; none where none is asked for."""
    from deal._reward_spec import RewardSpec

    specs: list[Any] = list(formulas or ())
    if keywords is not None:
        concepts = _parse_keywords(keywords)
        specs.insert(0, {"type": "Keywords", "concepts": concepts})
    if file is not None:
        specs.append(file.read_text(encoding="utf-8"))
    return list(map(RewardSpec, specs))


def _parse_keywords(text: str) -> list[list[str]]:
    concepts = [
        [form.strip() for form in part.split("|") if form.strip()]
        for part in text.split(",")
    ]
    concepts = [forms for forms in concepts if forms]
    if not concepts:
        raise typer.BadParameter(
            "expected words, as in cat,couch", param_hint="--keywords"
        )
    return concepts


def _print_stream(pieces: Any) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _as_dict(result: Generation) -> dict[str, Any]:
    from dataclasses import asdict

    fields = ("text", "token_ids", "logprob", "reward", "rewards", "score")
    row = {name: getattr(result, name) for name in (*fields, "finish_reason")}
    return row | {"token_ids": list(result.token_ids), "stats": asdict(result.stats)}
