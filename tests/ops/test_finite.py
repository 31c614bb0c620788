import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import checks, finite

BAD = [jnp.nan, jnp.inf, -jnp.inf]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ["loss", "part", "gradient"])
def test_any_bad_number_is_seen(value, where):
    losses = {"loss": jnp.ones(()), "part": jnp.ones(())}
    gradient = {"a": jnp.ones(3), "b": {"c": jnp.ones((2, 2))}}
    assert bool(finite.is_finite("m", losses, gradient))
    if where == "gradient":
        gradient["b"]["c"] = gradient["b"]["c"].at[1, 0].set(value)
    else:
        losses[where] = jnp.asarray(value)
    assert not bool(jax.jit(lambda x, g: finite.is_finite("m", x, g))(losses, gradient))


def test_select_gives_the_bits_of_one_side():
    new = {"x": jnp.array([jnp.nan, 1e-40, -0.0]), "n": jnp.array(3), "key": jax.random.key(1)}
    old = {"x": jnp.array([1.0, 2.0, 3.0]), "n": jnp.array(2), "key": jax.random.key(2)}
    for ok, expected in ((True, new), (False, old)):
        got = finite.select(jnp.array(ok), new, old)
        np.testing.assert_array_equal(
            np.asarray(got["x"]).view(np.uint32), np.asarray(expected["x"]).view(np.uint32)
        )
        assert got["n"] == expected["n"] and got["n"].dtype == expected["n"].dtype
        np.testing.assert_array_equal(
            jax.random.key_data(got["key"]), jax.random.key_data(expected["key"])
        )


def test_keep_finite_takes_all_or_nothing():
    old = {"mean": jnp.zeros(2), "weight": jnp.zeros(2)}
    new = {"mean": jnp.ones(2), "weight": jnp.ones(2)}
    assert finite.keep_finite(new, old)["mean"].tolist() == [1.0, 1.0]
    new["weight"] = jnp.array([1.0, jnp.inf])
    kept = finite.keep_finite(new, old)
    assert kept["mean"].tolist() == [0.0, 0.0] and kept["weight"].tolist() == [0.0, 0.0]


def test_counts_name_leaves_and_leave_out_integers():
    tree = {"a": jnp.array([1.0, jnp.nan, jnp.inf]), "b": jnp.arange(3), "key": jax.random.key(0)}
    assert {k: int(v) for k, v in checks.count_by_path(tree).items()} == {"a": 2}
