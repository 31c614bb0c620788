import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import counting


def count(number):
    return jnp.array([number % 2**32, number // 2**32], jnp.uint32)


@pytest.mark.parametrize("start", [0, 2**24, 2**31 - 1, 2**32 - 3, 10**12])
@pytest.mark.parametrize("more", [0, 1, 3, 2**31])
def test_counts_pass_every_power_of_two(start, more):
    after = jax.jit(counting.add)(count(start), jnp.asarray(more, jnp.uint32))
    assert counting.whole(after) == start + more
    np.testing.assert_allclose(counting.approximately(after), start + more, rtol=1e-7)


def test_a_count_begins_with_nothing_and_takes_signed_numbers():
    after = counting.add(counting.zero(), jnp.asarray(7, jnp.int32))
    assert counting.whole(after) == 7 and counting.approximately(after) == 7.0
    assert after.dtype == counting.zero().dtype == jnp.uint32
