"""In which order what is learned meets the agent, and what each update is given, by spies."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import Config, PolicyConfig
from m3po_jax.learning import replay_updates, train_step
from m3po_jax.types import Window


@pytest.fixture
def calls(monkeypatch):
    """Replaces updates by spies that note their arguments and count up the agent, a number."""
    noted = []

    def spy(module, name, *rest):
        def call(agent, *args, parts):
            noted.append((name, agent, *args))
            return (agent + 1, *rest, {name: agent})

        monkeypatch.setattr(module, name, call)

    spy(train_step.policy_update, "policy_update")
    spy(train_step, "critic_update")
    spy(replay_updates, "world_model_update", np.arange(4.0))
    spy(replay_updates, "exploration_update")
    spy(replay_updates.policy_update, "policy_update")

    def data(name):
        def call(agent, *args, parts):
            noted.append((name, agent, *args))
            return name

        monkeypatch.setattr(train_step.policy_update, name, call)

    spy(replay_updates.policy_update, "pathwise_policy_update")
    data("real_policy_data")
    data("imagined_policy_data")
    return noted


def parts_of(**settings):
    env = types.SimpleNamespace(discount=np.array([0.5, 0.75]), task_id=np.array([1, 0, 1]))
    return types.SimpleNamespace(env=env, config=Config(**settings))


def all_keys(calls):
    """The words of every key that was given away."""
    arrays = [x for call in calls for x in call if isinstance(x, jax.Array)]
    keys = [x for x in arrays if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return [tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys]


def test_the_policy_learns_from_a_rollout_before_the_critic_that_values_it(calls):
    agent, metrics = train_step.learn_from_rollout(
        0, "rollout", jax.random.key(0), parts=parts_of()
    )
    assert agent == 2 and metrics == {"policy_update": 0, "critic_update": 1}
    assert [call[:3] for call in calls] == [
        ("real_policy_data", 0, "rollout"),
        ("policy_update", 0, "real_policy_data"),
        ("critic_update", 1, "rollout"),
    ]
    for call in (calls[0], calls[2]):
        np.testing.assert_array_equal(call[3], [0.75, 0.5, 0.75])  # of each environment
    assert len(set(all_keys(calls))) == 2


def test_one_update_from_replay_hands_on_the_agent_and_the_latents_of_the_model(calls):
    window = Window(*["x"] * 5, task_id="tasks", mask="x")
    keys = jax.random.split(jax.random.key(0), 3)
    parts = parts_of(policy=PolicyConfig(objective="likelihood_ratio"))
    agent, metrics = replay_updates.update_from_windows(0, window, keys, parts=parts)
    assert agent == 3
    assert metrics == {"world_model_update": 0, "exploration_update": 1, "policy_update": 2}
    names = [call[0] for call in calls]
    assert names == [
        "world_model_update",
        "exploration_update",
        "imagined_policy_data",
        "policy_update",
    ]
    assert calls[0][2] is window and calls[1][2] is window
    np.testing.assert_array_equal(calls[1][3], np.arange(4.0))
    # Imagining begins at the first of the latents.
    assert calls[2][1:4] == (2, 0.0, "tasks") and calls[3][2] == "imagined_policy_data"
    assert len(set(all_keys(calls))) == 3


def test_the_gradient_through_q_is_taken_at_all_latents(calls):
    window = Window(*["x"] * 5, task_id="tasks", mask="x")
    keys = jax.random.split(jax.random.key(0), 3)
    agent, metrics = replay_updates.update_from_windows(0, window, keys, parts=parts_of())
    assert agent == 3 and metrics["pathwise_policy_update"] == 2
    names = [call[0] for call in calls]
    assert names == ["world_model_update", "exploration_update", "pathwise_policy_update"]
    np.testing.assert_array_equal(calls[2][2], np.arange(4.0))
    assert calls[2][3] == "tasks" and len(set(all_keys(calls))) == 2
