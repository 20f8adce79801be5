"""SECURITY.md says what the tests hold, and no more."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT
from threats import THREATS

SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def functions_in(name):
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_stands_in_the_policy_and_the_other_way_round():
    assert set(re.findall(r"^- \*\*(T\d+)\*\*", SECURITY, re.MULTILINE)) == set(THREATS)


@pytest.mark.parametrize("threat", THREATS)
def test_every_test_of_a_promise_is_there(threat):
    sentence, named = THREATS[threat]
    assert sentence.endswith(".")
    assert named
    for node in named:
        file, _, function = node.partition("::")
        assert function in functions_in(file), node


def test_reports_go_where_nobody_else_reads_them():
    assert "security/advisories/new" in SECURITY
    assert "@" not in SECURITY.replace("smtp://user@host", "")
