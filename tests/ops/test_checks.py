"""Assertions inside compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from m3po_jax.ops import checks, finite


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
        ([-1.0, 1.0], "logarithms: 1 values are not finite: y (1)"),
    ],
)
def test_the_first_that_fails_is_named(x, message):
    error, result = jax.jit(checks.checked(program))(jnp.array(x))
    if message is None:
        assert checks.message(error) is None
        assert result == program(jnp.array(x))
    else:
        assert message in checks.message(error)


def test_leaves_that_are_sound_are_not_named():
    def losses(x):
        tree = {"sound": x, "a{0}": x / 0.0, "b": jnp.log(x - 1.0), "n": jnp.arange(2)}
        checks.check_finite("losses", tree)

    error, _ = jax.jit(checks.checked(losses))(jnp.array([0.0, 2.0, 3.0]))
    text = "losses: 4 values are not finite: a{0} (3)"
    assert checks.message(error) == f"{text}, b (1)"
    assert checks.message(error, most=1) == f"{text} and 1 more leaves"


def test_an_update_that_is_left_out_names_its_losses_and_gradient():
    def update(x):
        losses = {"total": jnp.sqrt(x), "sound": x}
        return finite.is_finite("m", losses, {"w": jnp.array([x, jnp.inf, -jnp.inf])})

    error, taken = jax.jit(checks.checked(update))(jnp.float32(-1.0))
    what = "losses and gradient of m: 3 values are not finite"
    assert checks.message(error) == f"{what}: gradient/w (2), loss/total (1)"
    assert not taken


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
