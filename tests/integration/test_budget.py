"""A change that makes an iteration do more work, or a run compile more, shows without a clock.

CONTRIBUTING.md has the command that renews the budget.
"""

import json
import subprocess
import sys
from importlib import metadata

import pytest

from tests.integration.budget import BUDGET

# Counting is exact, but how operations are fused, and so what they read again, is the compiler's.
ALLOWED = {"flops": 0.01, "bytes": 0.05}


@pytest.fixture(scope="module")
def budget():
    budget = json.loads(BUDGET.read_text())
    if budget["jax"] != metadata.version("jax"):
        pytest.skip(f"the budget is for jax {budget['jax']}")
    return budget


@pytest.fixture(scope="module")
def counts(budget):
    # A process of its own: what other tests have compiled already would not be counted.
    command = [sys.executable, "-m", "tests.integration.budget"]
    root = BUDGET.parents[2]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=root)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_a_run_compiles_no_more_programs(budget, counts):
    assert counts["programs"] == budget["programs"]


@pytest.mark.parametrize("what", ALLOWED)
def test_an_iteration_does_no_more_work(budget, counts, what):
    assert counts[what] == pytest.approx(budget[what], rel=ALLOWED[what])
