"""The planted errors, each with the tests that concern it."""

from tests.mutation.of_learning import LEARNING
from tests.mutation.of_maths import MATHS
from tests.mutation.of_parts import PARTS

MUTANTS = [*MATHS, *LEARNING, *PARTS]
