"""The committed list of planted errors fits the package; `python -m tests.mutation` runs it."""

import ast
import pathlib

import pytest

from tests.mutation.mutants import MUTANTS
from tests.mutation.planting import Mutant, MutantError, find, plant

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "m3po_jax"


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_every_mutant_has_its_one_place_and_its_tests(mutant):
    path, text = plant(mutant, PACKAGE)
    ast.parse(text)
    assert text != path.read_text()
    for name in mutant.tests:
        file, _, test = name.partition("::")
        assert (ROOT / "tests" / file).exists(), name
        assert not test or f"def {test}(" in (ROOT / "tests" / file).read_text(), name


def test_the_list_is_long_and_holds_nothing_twice():
    assert len(MUTANTS) >= 60
    assert len({str(mutant) for mutant in MUTANTS}) == len(MUTANTS)


SOURCE = """
def outer(x):
    def inner(y):
        return y * (2.0 + x)
    return inner(x)


def twice(x):
    return (x + 1.0) * (x + 1.0)
"""


@pytest.fixture
def package(tmp_path):
    (tmp_path / "module.py").write_text(SOURCE)
    return tmp_path


def planted(package, function, old, new):
    return plant(Mutant(function, old, new, ()), package)[1]


def test_a_mutant_is_found_by_its_tree_and_binds_as_what_it_replaces(package):
    text = planted(package, "outer.inner", "2.0  +  x", "2.0 - x")
    assert "return y * ((2.0 - x))" in text
    text = planted(package, "inner", "return y * (2.0 + x)", "return y")
    assert "        return y\n    return inner(x)" in text


@pytest.mark.parametrize(
    ("function", "old", "new", "trouble"),
    [
        ("outer", "3.0 + x", "x", "nowhere"),
        ("gone", "2.0 + x", "x", "nowhere"),
        ("twice", "x + 1.0", "x", "in 2 places"),
        ("inner", "2.0 + x", "2.0+x", "changes nothing"),
    ],
)
def test_a_mutant_without_one_place_is_an_error(package, function, old, new, trouble):
    with pytest.raises(MutantError, match=trouble):
        find(Mutant(function, old, new, ()), package)
