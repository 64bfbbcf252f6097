from setuptools import Extension, setup

import deal

few_digits = Extension(
    "few_digits", ["few_digits.c"], include_dirs=[deal.get_include()]
)
setup(ext_modules=[few_digits])
