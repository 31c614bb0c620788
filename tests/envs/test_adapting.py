"""Libraries' states as ours."""

import jax
import jax.numpy as jnp
import pytest

from m3po_jax.envs import adapting


def test_like_casts_and_drops_weak_types():
    template = {"a": jax.ShapeDtypeStruct((), jnp.float32), "b": jax.ShapeDtypeStruct((2,), "int8")}
    cast = adapting.like({"a": 1, "b": jnp.ones((2,), bool)}, template)
    assert (cast["a"].dtype, cast["a"].weak_type) == (jnp.float32, False)
    assert cast["b"].dtype == jnp.int8
    with pytest.raises(ValueError, match=r"'b'.* from \[2\] to \[3\]"):
        adapting.like({"a": 1.0, "b": jnp.ones((3,))}, template)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": 1.0}, "it lacks .'b'"),
        ({"a": 1.0, "b": 2, "c": 3}, "it adds .'c'"),
        ([1.0, 2], "it lacks .'a'., .'b'. and it adds .0., .1."),
        ({"a": 1.0, "b": 0.5}, "'b'.* from int32 to float32"),
        ({"a": 1.0, "b": jnp.zeros((), jnp.uint32)}, "'b'.* from int32 to uint32"),
        ({"a": jnp.ones((), jnp.complex64), "b": 1}, "'a'.* from float32 to complex64"),
    ],
)
def test_like_loses_nothing(tree, words):
    template = {
        "a": jax.ShapeDtypeStruct((), jnp.float32),
        "b": jax.ShapeDtypeStruct((), jnp.int32),
    }
    with pytest.raises(ValueError, match=words):
        adapting.like(tree, template)


def test_typed_keys_stay_as_they_are():
    key = {"key": jax.random.key(0)}
    assert adapting.like(key, jax.eval_shape(lambda: key))["key"] is key["key"]
