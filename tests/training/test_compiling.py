"""Large programs on a CPU, and how long the same program took before."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.mlir import ir

from m3po_jax.training import compiling
from m3po_jax.workdir.progress import Progress

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


@pytest.fixture(params=[True, False], ids=["cache", "no cache"])
def cache(request, tmp_path):
    """Folder of the compile cache, None where it is off."""
    before = jax.config.values["jax_compilation_cache_dir"]
    folder = tmp_path / "cache" if request.param else None
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_same_program_is_shown_with_the_seconds_of_the_last_time(cache):
    stream, x = io.StringIO(), np.eye(8, dtype=np.float32)
    other = jax.jit(lambda x: x + 3.0).lower(x)
    with Progress(1, stream=stream) as progress:
        first = compiling.compile_all({"it": compiling.Program(lowered())}, progress)
        programs = {"it": compiling.Program(lowered()), "another": compiling.Program(other)}
        again = compiling.compile_all(programs, progress)
    np.testing.assert_array_equal(first["it"](x), again["it"](x))
    np.testing.assert_array_equal(again["another"](x), x + 3.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Compiling it ..."
    assert lines[1].startswith("Compiling it took ")
    known = " (0 s the last time)" if cache else ""
    assert lines[2] == f"Compiling it{known}, another ..."
    assert len(lines) == 5


def test_a_damaged_note_is_no_note(tmp_path):
    program = compiling.Program(lowered())
    program.__dict__["_note"] = tmp_path / "note"
    (tmp_path / "note").write_text("a minute")
    assert program.last_seconds is None
    program()
    assert program.last_seconds >= 0.0
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
