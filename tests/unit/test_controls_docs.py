"""The examples of docs/controls.md: Python on the demo model, C built and loaded."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_model import make_tiny, write_gguf

import deal

DOCS = Path(__file__).parents[2] / "docs" / "controls.md"

MODULE = """
static int
fail(void *self, float *states, int32_t n_state, int32_t n_embd, char *message)
{
    (void)self, (void)states, (void)n_state, (void)n_embd;
    strcpy(message, "no reason");
    return 1;
}
static deal_control failing = {
    .abi_version = DEAL_CONTROL_ABI, .struct_size = sizeof(deal_control),
    .name = "failing", .edit = fail};
static deal_control old = {.struct_size = sizeof(deal_control), .edit = fail};
static PyObject *
capsule(PyObject *module, PyObject *which)
{
    (void)module;
    deal_control *all[] = {&clipping, &failing, &old};
    return PyCapsule_New(all[PyLong_AsLong(which)], DEAL_CONTROL_CAPSULE, NULL);
}
static PyMethodDef methods[] = {{"capsule", capsule, METH_O, NULL}, {0}};
static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "control_example", .m_methods = methods};
PyMODINIT_FUNC
PyInit_control_example(void)
{
    return PyModule_Create(&module);
}
"""
SETUP = """
from setuptools import Extension, setup
import deal
ext = Extension("control_example", ["c.c"], include_dirs=[deal.get_include()])
setup(name="control-example", py_modules=[], ext_modules=[ext])
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(), re.S)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("control")
    source = "#include <Python.h>\n#include <string.h>\n" + block("c") + MODULE
    (folder / "c.c").write_text(source)
    (folder / "setup.py").write_text(SETUP)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (library,) = folder.glob("control_example*.so")
    spec = importlib.util.spec_from_file_location("control_example", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_control_in_c(example: ModuleType, tmp_path: Path) -> None:
    write_gguf(make_tiny(), tmp_path / "tiny.gguf")
    lm = deal.load(tmp_path / "tiny.gguf", compute="f32", threads=2)
    plain = lm.hidden("the cat", positions="all")
    with lm.controls([deal.EditFinal(example.capsule(0))]):
        clipped = lm.hidden("the cat", positions="all")
    assert np.abs(plain).max() > 1.5
    assert np.array_equal(clipped, np.clip(plain, -1.5, 1.5))
    with lm.controls([deal.EditFinal(example.capsule(1))]):
        with pytest.raises(deal.ControlError, match="control 'failing': no reason"):
            lm.generate("the cat")
    with pytest.raises(ValueError, match="ABI version"):
        with lm.controls([deal.EditFinal(example.capsule(2))]):
            pass


def test_the_example(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), str(DOCS), "exec"), {})
    lines = capsys.readouterr().out.strip().splitlines()
    edited, plain = (eval(line) for line in lines[-2:])
    assert edited[0] - edited[1] > plain[0] - plain[1] + 0.5  # towards "wonderful"
