"""Assertions inside compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from m3po_jax.ops import checks


def program(x):
    checks.check_range("x", x, -1.0, 2.0)

    def body(index, total):
        y = jnp.log(x + 1.0) * index
        checks.check_finite("logarithms", {"y": y, "count": jnp.arange(3)})
        return total + jnp.sum(y)

    return jax.lax.fori_loop(0, jnp.int32(2), body, jnp.zeros(()))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.5, 1.0], None),
        ([0.5, 2.5], "x: 0.5 to 2.5 leaves [-1, 2]"),
        ([0.5, jnp.nan], "leaves [-1, 2]"),
        # The logarithm of zero; 0 times it is NaN in the first turn of the loop already.
        ([-1.0, 1.0], "logarithms: 1 values are not finite"),
    ],
)
def test_the_first_that_fails_is_named(x, message):
    error, result = jax.jit(checks.checked(program))(jnp.array(x))
    if message is None:
        assert error.get() is None
        assert result == program(jnp.array(x))
    else:
        assert message in error.get()


def test_without_asking_nothing_is_left_of_them():
    def bare(x):
        return jax.lax.fori_loop(
            0,
            jnp.int32(2),
            lambda index, total: total + jnp.sum(jnp.log(x + 1.0) * index),
            jnp.zeros(()),
        )

    texts = [
        jax.jit(function).lower(jnp.ones(2)).compile().as_text().partition("\n")[2]
        for function in (program, bare)
    ]
    counts = [text.count(" = ") for text in texts]
    assert counts[0] == counts[1]
