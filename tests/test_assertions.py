"""Every assertion about correct mail has its tests, and they are there."""

from __future__ import annotations

import ast
from functools import cache

import pytest
from assertions import EVERY, PROVED
from conftest import ROOT


@cache
def names_in(file):
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_assertion_is_proved():
    assert set(PROVED) == set(EVERY)


@pytest.mark.parametrize("name", PROVED)
def test_the_tests_that_prove_an_assertion_are_there(name):
    _, *tests = PROVED[name]
    assert tests
    for test in tests:
        file, _, function = test.partition("::")
        assert function in names_in(file), test
