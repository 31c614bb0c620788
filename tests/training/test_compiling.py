"""Large programs on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.mlir import ir

from m3po_jax.training import compiling

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU")


def lowered():
    return jax.jit(lambda x: jnp.sum(jnp.tanh(x @ x))).lower(np.ones((8, 8), np.float32))


@on_cpu
def test_xla_takes_the_option_of_a_large_program(monkeypatch):
    x = np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(8, 8)
    expected = compiling.compile_program(lowered())(x)
    monkeypatch.setattr(compiling, "LARGE_PROGRAM", 1)
    np.testing.assert_allclose(compiling.compile_program(lowered())(x), expected, rtol=1e-5)


@on_cpu
@pytest.mark.parametrize(("more", "large"), [(0, True), (1, False)])
def test_only_a_large_program_has_it(monkeypatch, more, large):
    program, operations, given = lowered(), [], {}

    def visit(operation):
        operations.append(operation.name)
        return ir.WalkResult.ADVANCE

    program.compiler_ir().operation.walk(visit)
    assert {"stablehlo.dot_general", "stablehlo.tanh", "stablehlo.reduce"} <= set(operations)
    monkeypatch.setattr(compiling, "LARGE_PROGRAM", len(operations) + more)
    compile_it = type(program).compile

    def noted(self, **options):
        given.update(options)
        return compile_it(self)

    monkeypatch.setattr(type(program), "compile", noted)
    compiling.compile_program(program)
    assert (given["compiler_options"] is not None) == large
