import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import ConfigError, PlannerConfig
from m3po_jax.planning.known_dynamics import KnownDynamics, make_planner

GOAL = np.array([0.6, -0.3], np.float32)
CFG = PlannerConfig(
    num_samples=256, num_policy_samples=0, iterations=12, num_elites=16, horizon=2, min_std=0.01
)


def step(state, action):
    assert state.shape == action.shape == (2,)
    state = state + action
    return state, -jnp.sum((state - GOAL) ** 2)


def test_it_is_the_users_function_over_any_leading_axes(key):
    model = KnownDynamics(step, action_size=2, terminal_value=lambda s: 3.0 * s[0], policy_std=0.5)
    z, u = jax.random.normal(key, (2, 4, 3, 2))
    z_next, reward, continuation = model.next(z, u, None)
    np.testing.assert_allclose(z_next, z + jnp.tanh(u), rtol=1e-6)
    np.testing.assert_allclose(reward, -jnp.sum((z_next - GOAL) ** 2, -1), rtol=1e-5)
    assert (continuation == 1.0).all()
    np.testing.assert_allclose(model.value(z, u, None), 3.0 * z[..., 0], rtol=1e-6)
    assert not KnownDynamics(step, action_size=2).value(z, u, None).any()
    mean, std = model.policy(z, None)
    assert not mean.any()
    assert (std == 0.5).all()


def test_it_plans_to_the_goal_and_starts_from_the_last_plan(key):
    planner = make_planner(KnownDynamics(step, action_size=2), action_size=2, config=CFG)
    plan = jnp.zeros((2, 2))
    decision = planner(jnp.zeros(2), plan, key)
    np.testing.assert_allclose(decision.action, GOAL, atol=0.02)
    np.testing.assert_allclose(decision.value, 0.0, atol=0.01)
    assert not decision.plan_mean[-1].any()  # the step that was shifted in
    again = planner(jnp.zeros(2), plan, key)
    np.testing.assert_array_equal(decision.action, again.action)
    other = planner(jnp.zeros(2), jnp.ones((2, 2)), key)
    assert (other.action != decision.action).any()


def test_a_terminal_value_can_outweigh_the_rewards(key):
    model = KnownDynamics(step, action_size=2, terminal_value=lambda s: 100.0 * s[0])
    planner = make_planner(model, action_size=2, config=CFG)
    assert planner(jnp.zeros(2), jnp.zeros((2, 2)), key).action[0] > 0.95


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_it_avoids_what_its_model_cannot_predict(key, fault):
    """The best place is to the right, where rewards are no numbers; the next best is here."""

    def broken(state, action):
        state = state + action
        return state, jnp.where(state[0] > 0.2, fault, state[0])

    planner = make_planner(KnownDynamics(broken, action_size=2), action_size=2, config=CFG)
    decision = planner(jnp.zeros(2), jnp.zeros((2, 2)), key)
    assert 0.0 < decision.action[0] <= 0.2
    assert np.isfinite(decision.plan_mean).all()
    # At most 0.2 now and, discounted, 0.2 again.
    assert 0.2 < decision.value < 0.4


@pytest.mark.parametrize(
    ("state", "dynamics", "says"),
    [
        ({"x": jnp.zeros(2)}, step, r"the state is a dict; make it one array \[S\]"),
        (None, step, "the state is a NoneType"),
        (jnp.zeros((1, 2)), step, r"the state has the shape \[1, 2\] .* jax.vmap"),
        (jnp.zeros(2), lambda s, a: s, "the dynamics returned a .*Tracer; return .next state, rew"),
        (jnp.zeros(2), lambda s, a: ({"x": s}, 0.0), "the next state of the dynamics is a dict"),
        (jnp.zeros(2), lambda s, a: (s[:1], 0.0), r"next state .* shape \[1\] and must have \[2\]"),
        (jnp.zeros(2), lambda s, a: (s, s), r"the reward .* shape \[2\] and must have \[\]"),
    ],
)
def test_what_is_no_array_is_refused_by_its_name(key, state, dynamics, says):
    planner = make_planner(KnownDynamics(dynamics, action_size=2), action_size=2, config=CFG)
    with pytest.raises(ConfigError, match=says):
        planner(state, jnp.zeros((2, 2)), key)
