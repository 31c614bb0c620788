"""Trains a small agent for some iterations on emulated devices and writes down what came out.

python tests/training/sharded_run.py OUT NUM_DEVICES ITERATIONS [--broken] [--by_task] [--fsdp] \
    [--real] [PROCESS_ID NUM_PROCESSES PORT]

A program of its own, because a process fixes its number of devices when it starts JAX. OUT is an
.npz with all leaves of the state, the last raw gradients among them, and the metrics of every
iteration; process 0 alone writes it. With --broken all sums over devices come out as means, with
--by_task devices step whole tasks, with --fsdp two devices share one copy of parameters and
optimizers, and with --real policy and critic learn from the rollouts.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3po_jax import config as config_lib

CONFIG = config_lib.Config(
    tasks=("toy/PointReachA", "toy/TerminatingPole"),
    env=config_lib.EnvConfig(num_envs=8, action_repeat=2, unroll_length=4),
    network=config_lib.NetworkConfig(
        encoder_width=8, mlp_width=8, latent_size=8, num_bins=11, embedding_size=4
    ),
    world_model=config_lib.WorldModelConfig(batch_size=16, horizon=2, imagined_target_steps=2),
    planner=config_lib.PlannerConfig(
        num_samples=8, num_policy_samples=2, num_elites=3, iterations=1, horizon=2
    ),
    policy=config_lib.PolicyConfig(imagined_horizon=2, minibatches=2, epochs=1),
    critic=config_lib.CriticConfig(epochs=1, minibatches=2),
    replay=config_lib.ReplayConfig(capacity=1600),
    # One update in each iteration but the first, which is random.
    train=config_lib.TrainConfig(
        total_env_steps=12_800, warmup_env_steps=128, updates_per_transition=1 / 64
    ),
)


def recording() -> optax.GradientTransformation:
    """Passes gradients on and keeps the last ones, raw, in its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params=None: (gradient, gradient),
    )


def make_experiment(config=CONFIG):
    from m3po_jax.training.experiment import make_experiment

    experiment = make_experiment(config)
    optimizers = jax.tree.map(
        lambda optimizer: optax.chain(recording(), optimizer),
        experiment.optimizers,
        is_leaf=lambda x: isinstance(x, optax.GradientTransformation),
    )
    return dataclasses.replace(experiment, optimizers=optimizers)


def words(leaf):
    """The leaf, or the words of a typed key."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def main(out: str, num_devices: int, iterations: int, process: list[str], flags: set[str]) -> None:
    from jax.experimental import multihost_utils

    from m3po_jax.training import processes, sharding

    if "--broken" in flags:
        jax.lax.psum = jax.lax.pmean
    process_id, num_processes, port = (int(x) for x in process or (0, 1, 0))
    jax.config.update("jax_num_cpu_devices", num_devices // num_processes)
    if num_processes > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes, process_id)
    train = dataclasses.replace(
        CONFIG.train,
        num_devices=num_devices,
        fsdp_devices=2 if "--fsdp" in flags else 1,
        task_placement="by_task" if "--by_task" in flags else "sharded",
    )
    policy = dataclasses.replace(CONFIG.policy, data="real" if "--real" in flags else "imagined")
    experiment = make_experiment(dataclasses.replace(CONFIG, train=train, policy=policy))
    state = sharding.shard_init(experiment.mesh, experiment)(jax.random.key(3))
    step = sharding.shard_train_step(experiment.mesh, experiment).lower(state).compile()
    processes.wait_for_all("compiled")
    history = []
    for _ in range(iterations):
        state, metrics = step(state)
        history.append(jax.device_get(metrics))
    state = multihost_utils.process_allgather(jax.tree.map(words, state), tiled=True)
    if process_id == 0:
        leaves = {
            "state" + jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        logged = {f"metrics/{name}": np.stack([m[name] for m in history]) for name in history[0]}
        np.savez(out, **leaves, **logged)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    out, num_devices, iterations, *process = arguments
    main(out, int(num_devices), int(iterations), process, set(sys.argv) - set(arguments))
