"""Operations and bytes of compiled programs against counts by hand and XLA's own."""

import jax
import jax.numpy as jnp
import pytest

from experiments.program_costs import Cost, cost_of, program_cost

X, W = jnp.ones((32, 64)), jnp.ones((64, 64))
PRODUCT = 2 * 32 * 64 * 64


def compiled(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile()


def test_without_loops_it_agrees_with_xla():
    def program(x, w):
        y = jax.nn.softmax(jnp.tanh(x @ w) @ w.T)
        return y, jnp.sum(2.0 * y - 1.0, axis=0)

    program = compiled(program, X, W)
    cost, theirs = cost_of(program), program.cost_analysis()
    assert cost.flops == theirs["flops"] > 2 * PRODUCT
    assert cost.bytes == pytest.approx(theirs["bytes accessed"], rel=1e-3)


def test_a_loop_counts_as_often_as_it_runs():
    program = compiled(lambda x, w: jax.lax.scan(lambda x, _: (x @ w, 0), x, None, length=7), X, W)
    assert cost_of(program).flops == pytest.approx(7 * PRODUCT, rel=1e-3)
    # This is why XLA's own number does not do.
    assert program.cost_analysis()["flops"] == pytest.approx(PRODUCT, rel=1e-3)


def test_loops_in_loops_and_loops_of_unknown_length():
    def inner(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x)

    def program(x, w, rounds):
        x = jax.lax.while_loop(lambda x: x[0, 0] > 0.0, lambda x: x - 1.0, x)
        return jax.lax.fori_loop(0, rounds, lambda _, x: inner(x, w), x)

    program = compiled(program, X, W, 4)
    for trips in (1, 5):
        assert cost_of(program, trips=trips).flops == pytest.approx(trips * 3 * PRODUCT, rel=0.02)


def test_the_dearer_branch_counts():
    def program(x, w, which):
        return jax.lax.cond(which, lambda x: jnp.tanh(x @ w) @ w, lambda x: x @ w, x)

    assert cost_of(compiled(program, X, W, True)).flops == pytest.approx(2 * PRODUCT, rel=0.01)


def test_a_part_of_a_large_array_moves_only_the_part():
    buffer, new = jnp.zeros((8, 10_000, 4)), jnp.ones((8, 5, 4))

    def write(buffer, new, at):
        return jax.lax.dynamic_update_slice_in_dim(buffer, new, at, axis=1)

    assert cost_of(compiled(write, buffer, new, 3, donate_argnums=0)).bytes < 4 * new.nbytes
    rows = jnp.arange(8)
    program = compiled(lambda buffer, rows: buffer[rows, rows], buffer, rows)
    assert cost_of(program).bytes < 1000 < 0.01 * buffer.nbytes


def test_costs_add_up_and_other_text_is_refused():
    assert Cost(1.0, 2.0).plus(Cost(10.0, 20.0), 3.0) == Cost(31.0, 62.0)
    with pytest.raises(ValueError, match="ENTRY"):
        program_cost("something else")
