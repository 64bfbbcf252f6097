"""Builds the example scorer the way a third party does, with the installed header."""

from setuptools import Extension, setup

import deal

setup(
    name="scorer-example",
    version="1.0",
    py_modules=[],
    ext_modules=[
        Extension("scorer_example", ["scorer.c"], include_dirs=[deal.get_include()])
    ],
)
