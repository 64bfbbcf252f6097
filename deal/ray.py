"""Many prompts on many processors and machines: a search as a stage of Ray Data.

    import deal

    rows = deal.ray.map(prompts, model="smollm2-135m-instruct", actors=4,
                        rewards=deal.rewards.Keywords(["cat"]), search=deal.Search())
    rows.write_parquet("out")

Each actor loads the model once and takes batches of rows. Needs the extra ``ray``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deal._batches import is_native
from deal._load import load
from deal._request import known
from deal.generation import Generation
from deal.model import Model
from deal.rewards import as_reward
from deal.rewards._extras import needed
from deal.settings import check_int

Row = dict[str, Any]
_N_TOGETHER = 32  # rows that share forward passes, and are kept together
_ADDED = ("text", "token_ids", "logprob", "reward", "score", "finish_reason")


def map(
    prompts: Any,
    *,
    model: str | os.PathLike[str] = "smollm2-135m-instruct",
    rewards: Any = None,
    search: Any = None,
    actors: int = 1,
    threads: int = 1,
    batch_size: int = 8,
    column: str = "prompt",
    setup: Callable[[Model], Mapping[str, Any]] | None = None,
    retries: int = 0,
    on_error: str = "row",
    checkpoint: str | os.PathLike[str] | None = None,
    load_kwargs: Mapping[str, Any] | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    **generate_kwargs: Any,
) -> Any:
    """Generate for every row of a dataset, one engine an actor.

    Parameters
    ----------
    prompts : ray.data.Dataset or iterable
        A dataset with a column of prompts; or prompts, or rows as mappings. A prompt is
        a str, or a conversation as for :meth:`deal.Model.chat`. The other columns are
        the `reward_kwargs` of their row.
    model : str or path
        As for :func:`deal.load`; every actor loads it, so a path has to exist on every
        machine. Weights of a file are mapped: actors of one machine share its pages.
    rewards, search
        As for :meth:`deal.Model.generate`. Rewards of deal are pickled as what they
        were made from; those that need a model come from `setup`.
    actors : int, default=1
        Engines, each on `threads` processors (`num_cpus` of its actor).
    threads : int, default=1
    batch_size : int, default=8
        Rows an actor takes at a time.
    column : str, default="prompt"
    setup : callable, optional
        ``setup(lm)``, called once in each actor, returns further keywords for
        ``generate``, such as ``{"rewards": deal.rewards.RewardModel.load(path,
        model=lm)}``.
    retries : int, default=0
        How often a row that raised is tried again.
    on_error : {"row", "raise"}, default="row"
        "row": what a row raised at last is its `error`, and no other row is lost.
        "raise" ends the job. A dead actor is restarted by Ray in any case, and its
        batch done again.
    checkpoint : path, optional
        Folder, on a file system that all machines see, where the result of each row is
        kept as it comes. The same call takes from there what it has; rows with errors
        are tried anew. A folder of a call with other settings is refused;
        whether functions of the same name do the same, it cannot tell.
    load_kwargs : mapping, optional
        For :func:`deal.load`.
    ray_remote_args : mapping, optional
        For the actors, such as ``{"resources": {"big": 1}}``.
    **generate_kwargs
        For :meth:`deal.Model.generate` or ``chat``. Every row is a request of its own,
        with the seed that `sampling` has.

    Returns
    -------
    ray.data.Dataset
        Lazy, as Ray's are. The rows of `prompts`, with `text`, `token_ids`, `logprob`,
        `reward`, `rewards` (a struct, where there are rewards), `score`,
        `finish_reason`, `stats` (a struct of counts and seconds) and `error` (None, or
        the exception's type and message; the others are then None).

    Raises
    ------
    ImportError
        Without Ray; it names the extra.
    ValueError
        For a bad argument, a column that is missing or that the result would hide.
    TypeError
        For a keyword that neither ``generate`` nor ``chat`` knows.
    """
    data = needed("ray.data", "ray", "deal.ray.map")
    check_int("actors", actors, 1)
    check_int("threads", threads, 1)
    check_int("batch_size", batch_size, 1)
    check_int("retries", retries, 0)
    if on_error not in ("row", "raise"):
        raise ValueError(f"on_error: expected 'row' or 'raise', got {on_error!r}")
    if generate_kwargs.get("num_return_sequences", 1) != 1:
        raise ValueError("num_return_sequences: a row has one result; repeat the row")
    own = {"num_cpus", "compute", "batch_size", "batch_format"} & set(
        ray_remote_args or {}
    )
    if own:
        raise ValueError(
            f"ray_remote_args: {', '.join(sorted(own))} follow from the other arguments"
        )
    known({name: generate_kwargs[name] for name in generate_kwargs if name != "align"})
    if not isinstance(prompts, data.Dataset):
        prompts = data.from_items(_rows(prompts, column))
    generate = {"rewards": rewards, "search": search, **generate_kwargs}
    loading = dict(load_kwargs or {})
    about = {"model": os.fspath(model), "column": column, **loading}
    if setup is not None:
        about["setup"] = getattr(setup, "__qualname__", type(setup).__name__)
    worker = {
        "model": os.fspath(model),
        "load_kwargs": {"threads": threads, **loading},
        "generate": generate,
        "column": column,
        "setup": setup,
        "retries": retries,
        "on_error": on_error,
        "kept": None if checkpoint is None else Kept(checkpoint, about, generate),
    }
    return prompts.map_batches(
        Worker,
        fn_constructor_kwargs=worker,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(size=actors),
        num_cpus=threads,
        **(ray_remote_args or {}),
    )


def _rows(prompts: Iterable[Any], column: str) -> list[Row]:
    if isinstance(prompts, (str, bytes, Mapping)):
        raise TypeError(
            f"prompts: expected a list or a ray.data.Dataset, got {type(prompts)}"
        )
    return [dict(p) if isinstance(p, Mapping) else {column: p} for p in prompts]


class Kept:
    """Results of rows, each in a file of its own named by the row's hash.

    Parameters
    ----------
    folder : path
    about : mapping
        What else results depend on: the model, how it is loaded, the column.
    generate : mapping
        Keywords of ``generate``.
    """

    def __init__(
        self, folder: Any, about: Mapping[str, Any], generate: Mapping[str, Any]
    ) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            name: _described(value)
            for each in (about, generate)
            for name, value in sorted(each.items())
            if value is not None
        }
        path = self.folder / "settings.json"
        if not path.exists():
            _write(path, settings)
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise ValueError(
                f"checkpoint: {self.folder} holds results of other settings: {found}, "
                f"expected {settings}"
            )

    def _path(self, row: Row) -> Path:
        text = json.dumps(row, sort_keys=True, default=repr)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def get(self, row: Row) -> Row | None:
        """The result of a row, or None where there is none, or half a file."""
        try:
            found = json.loads(self._path(row).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def put(self, row: Row, result: Row) -> None:
        _write(self._path(row), result)


def _described(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return repr({name: _described(each) for name, each in sorted(value.items())})
    return repr(as_reward(value)) if callable(value) else repr(value)


def _write(path: Path, what: Any) -> None:
    """All or nothing, whoever else writes the same."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False
    ) as file:
        json.dump(what, file)
    os.replace(file.name, path)


class Worker:
    """An engine in an actor: a table of rows in, the table with results out."""

    def __init__(
        self,
        model: str,
        load_kwargs: Mapping[str, Any],
        generate: Mapping[str, Any],
        column: str,
        setup: Callable[[Model], Mapping[str, Any]] | None,
        retries: int,
        on_error: str,
        kept: Kept | None,
    ) -> None:
        self._lm = load(model, **load_kwargs)
        self._generate = {**generate, **(setup(self._lm) if setup else {})}
        self._column, self._retries, self._kept = column, retries, kept
        self._raises = on_error == "raise"
        rewards = self._generate.get("rewards")
        self._reward = None if rewards is None else as_reward(rewards)
        leaves = () if self._reward is None else self._reward.leaves()
        self._names = [leaf.name for leaf in leaves]

    def __call__(self, table: Any) -> Any:
        rows = table.to_pylist()
        schema = self._schema(table.schema)
        if rows and self._column not in rows[0]:
            raise ValueError(
                f"column: expected {self._column!r} among the columns, got "
                f"{sorted(rows[0])}"
            )
        done: list[Row] = []
        for i in range(0, len(rows), _N_TOGETHER):
            chunk = rows[i : i + _N_TOGETHER]
            together = self._together(chunk)
            done += [
                {**row, **(together.get(j) or self._result(row))}
                for j, row in enumerate(chunk)
            ]
        return type(table).from_pylist(done, schema=schema)

    def _schema(self, schema: Any) -> Any:
        import pyarrow as pa

        from deal.generation import Stats

        hidden = {*_ADDED, "rewards", "stats", "error"} & set(schema.names)
        if hidden:
            raise ValueError(f"columns: the result would hide {sorted(hidden)}")
        number = pa.float64()
        types = [pa.string(), pa.list_(pa.int64()), number, number, number, pa.string()]
        fields = list(zip(_ADDED, types, strict=True))
        if self._names:
            fields.append(("rewards", pa.struct([(n, number) for n in self._names])))
        counts = [
            (name, number if name.startswith("seconds") else pa.int64())
            for name in Stats.__dataclass_fields__
        ]
        fields += [("stats", pa.struct(counts)), ("error", pa.string())]
        return pa.schema([*schema, *(pa.field(name, kind) for name, kind in fields)])

    def _together(self, rows: list[Row]) -> dict[int, Row]:
        """Results by index, of rows that are kept and of those that share forward
        passes; none of these where one fails, which the rows on their own will tell."""
        if not is_native(self._reward):
            return {}
        kept = self._kept
        known = {} if kept is None else {i: kept.get(row) for i, row in enumerate(rows)}
        found = {i: result for i, result in known.items() if result is not None}
        todo = [i for i in range(len(rows)) if i not in found]
        kinds = {isinstance(rows[i][self._column], str) for i in todo}
        if len(todo) < 2 or len(kinds) > 1:
            return found
        try:
            results = self._generated([rows[i] for i in todo])
        except Exception:
            return found
        for i, result in zip(todo, results, strict=True):
            found[i] = result
            if kept is not None:
                kept.put(rows[i], result)
        return found

    def _result(self, row: Row) -> Row:
        found = None if self._kept is None else self._kept.get(row)
        if found is not None:
            return found
        try:
            result = self._tried(row)
        except Exception as error:
            if self._raises:
                raise
            return {"error": f"{type(error).__name__}: {error}"}
        if self._kept is not None:
            self._kept.put(row, result)
        return result

    def _tried(self, row: Row) -> Row:
        for _ in range(self._retries):
            with suppress(Exception):
                return self._generated([row])[0]
        return self._generated([row])[0]

    def _generated(self, rows: list[Row]) -> list[Row]:
        prompts = [row[self._column] for row in rows]
        call = self._lm.generate if isinstance(prompts[0], str) else self._lm.chat
        options = dict(self._generate)
        given = options.pop("reward_kwargs", None) or {}
        columns = {
            **{n: [r[n] for r in rows] for n in rows[0] if n != self._column},
            **{name: [value] * len(rows) for name, value in given.items()},
        }
        found = call(prompts, reward_kwargs=columns or None, **options)
        return [self._row_of(r) for r in found]

    def _row_of(self, r: Generation) -> Row:
        result = {name: getattr(r, name) for name in _ADDED}
        result["token_ids"] = list(r.token_ids)
        if self._names:
            result["rewards"] = r.rewards
        return {**result, "stats": dict(vars(r.stats)), "error": None}
