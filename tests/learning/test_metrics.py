"""What the metrics of several updates come to, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.learning import metrics

FIRST = {"a/loss": 1.0, "a/kl_max": 3.0, "a/skipped": 1.0}
SECOND = {"a/loss": 2.0, "a/kl_max": 0.5, "a/skipped": 1.0}


def together(updates):
    total = dict.fromkeys(FIRST, jnp.zeros(()))
    for update in updates:
        total = metrics.add(total, update)
    found = metrics.finish(total, jnp.asarray(len(updates)))
    return {name: float(x) for name, x in found.items()}


def test_means_the_largest_and_how_many_were_left_out():
    assert together([FIRST, SECOND]) == {"a/loss": 1.5, "a/kl_max": 3.0, "a/skipped": 2.0}


def test_without_an_update_nothing_is_known_but_that_none_was_left_out():
    shapes = {name: jax.ShapeDtypeStruct((2,), jnp.float32) for name in FIRST}
    empty = metrics.none_of(shapes)
    for found in (together([]), empty):
        assert np.all(np.isnan(found["a/loss"])) and np.all(np.isnan(found["a/kl_max"]))
        assert np.all(np.asarray(found["a/skipped"]) == 0.0)
    assert empty["a/loss"].shape == (2,)
