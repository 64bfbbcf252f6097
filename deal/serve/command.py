"""The command line of ``deal serve``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deal import cli
from deal._batches import cell_size
from deal._reward_spec import CALLS, RewardSpec
from deal.serve import make_app, run

command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@command.command()
def serve(
    model: Annotated[
        str, typer.Argument(help="Alias, .gguf file, folder, or hub id.")
    ] = cli.DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="DEAL_API_KEY", help="What clients have to show.", show_default=False
        ),
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, help="Requests that run at a time.")
    ] = 1,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="A reward that requests can use by name: name=module:function, or "
            "name=formula. May be repeated."
        ),
    ] = None,
    compute: cli.ComputeOption = cli.Compute.auto,
    threads: cli.ThreadsOption = None,
    max_length: cli.ContextOption = None,
    kv_type: cli.KvTypeOption = cli.KvType.f32,
    kv_budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most bytes of KV cells of one request.",
            show_default="two contexts, at least 1 GiB",
        ),
    ] = None,
) -> None:
    """Serve OpenAI's HTTP protocol, with rewards and search per request."""
    specs = _named_specs(reward or ())
    lm = cli._load(model, compute, threads, max_length, kv_type, kv_budget)
    if kv_budget is None:  # what one request may ask for has an end
        lm.kv_budget = max(1 << 30, 2 * lm.max_length * cell_size(lm))
    name = Path(model).name if os.path.exists(model) else model
    rewards = {key: spec.build(model=lm) for key, spec in specs.items()}
    made = make_app(lm, name=name, api_key=api_key, parallel=parallel, rewards=rewards)
    with cli._interruptible():
        run(made, host, port)


def _named_specs(given: Sequence[str]) -> dict[str, RewardSpec]:
    """Rewards of name=formula, their syntax checked."""
    specs: dict[str, RewardSpec] = {}
    for text in given:
        name, _, formula = text.partition("=")
        if not name.isidentifier() or name in (*CALLS, *specs, "doc") or not formula:
            raise typer.BadParameter(
                f"expected name=module:function with a new name, got {text!r}",
                param_hint="--reward",
            )
        specs[name] = RewardSpec(formula)
    return specs
