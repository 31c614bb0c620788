"""The programs of a training iteration, and what a simulator raised in one.

An iteration is one program. Where tasks have physics on the host, collecting is a program of its
own: JAX's compile cache keeps none with a callback, and learning, which takes longest to compile,
stays in it. The state from before is then whole when a simulator raises.
"""

from collections.abc import Callable
from typing import Any

import jax

from m3po_jax.envs import host, physics
from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.learning.state import TrainState
from m3po_jax.learning.train_step import make_train_step
from m3po_jax.ops import checks
from m3po_jax.training import processes, sharding
from m3po_jax.training.compiling import Program
from m3po_jax.training.experiment import Experiment

# From a state to the next with metrics; with assertions, the error before these.
Step = Callable[[TrainState], Any]


class Iteration:
    """An iteration, traced; what it compiles is for the caller to run.

    Attributes:
        programs: Its programs, to be compiled, by their names.
    """

    def __init__(self, experiment: Experiment, state: TrainState, *, debug: bool):
        """Traces the programs.

        Args:
            experiment: The run.
            state: Its state, or shapes of it.
            debug: Whether to have assertions inside.
        """
        self._env = experiment.env
        mesh, parts = experiment.mesh, experiment
        lowered: dict[str, jax.stages.Lowered]
        if debug:
            # It keeps the state before, so nothing is donated.
            checked = jax.jit(checks.checked(make_train_step(parts)))
            lowered = {"the training step": checked.lower(state)}
        elif physics.on_host(self._env.environments):
            collect = sharding.shard_collect_alone(mesh, parts).lower(state)
            collected = sharding.placed_collected(mesh, collect.out_info)
            learn = sharding.shard_learn_alone(mesh, parts).lower(state, collected)
            lowered = {"collecting": collect, "learning": learn}
        else:
            lowered = {
                "the training step": sharding.shard_train_step(mesh, parts).lower(state),
            }
        self.programs = {name: Program(program) for name, program in lowered.items()}

    def bind(self, compiled: dict[str, Any]) -> Step:
        """One iteration of the compiled programs.

        It raises `HostError` where a simulator raised; the state before is then whole.
        """
        if "learning" not in compiled:
            step: Step = compiled["the training step"]
            return step

        def collect_and_learn(state: TrainState) -> Any:
            collected = jax.block_until_ready(compiled["collecting"](state))
            raise_failure(self._env)
            return compiled["learning"](state, collected)

        return collect_and_learn


def raise_failure(env: MultiTaskEnv) -> None:
    """Raises what a simulator raised in a program that has ended; all processes must ask.

    Raises:
        HostError: With the task and the traceback, or in another process that it was not here.
    """
    if physics.on_host(env.environments) and processes.any_of(host.has_failed()):
        host.raise_failure()
        raise host.HostError("a simulator raised in another process, whose message says what")
