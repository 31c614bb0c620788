"""Planning in dynamics that a user knows: no network, no task, a few lines."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.config import ConfigError, PlannerConfig
from m3po_jax.planning import warm_start
from m3po_jax.planning.mppi import mppi_plan
from m3po_jax.types import LatentModel

# (state [S], action [A] in [-1, 1]) -> (next state [S], reward []).
Dynamics = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
# state [S] -> what it is worth to end there [].
TerminalValue = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class KnownDynamics:
    """`LatentModel` of a known function; its latent is the state itself and its context unused.

    Attributes:
        step: `step(state [S], action [A]) -> (next state [S], reward [])`, traceable, actions in
            [-1, 1]. It is vectorised over leading axes.
        action_size: Size A of an action.
        terminal_value: `terminal_value(state [S]) -> []`, the return from there on; `None` is 0.
        policy_std: Standard deviation of the pre-tanh actions of the policy samples, whose mean
            is 0.
    """

    step: Dynamics
    action_size: int
    terminal_value: TerminalValue | None = None
    policy_std: float = 1.0

    def next(
        self, z: jax.Array, u: jax.Array, context: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `LatentModel.next`; nothing terminates.

        Raises:
            ConfigError: `step` does not return a state like the one it got, and a scalar.
        """
        step = jnp.vectorize(self._checked_step, signature="(s),(a)->(s),()")
        z, reward = step(z, jnp.tanh(u))
        return z, reward, jnp.ones_like(reward)

    def _checked_step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        result: Any = self.step(state, action)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ConfigError(
                f"the dynamics returned a {type(result).__name__}; return (next state, reward)"
            )
        for name, value, shape in zip(
            ("next state", "reward"), result, (state.shape, ()), strict=True
        ):
            _require_array(f"the {name} of the dynamics", value, shape)
        return result

    def value(self, z: jax.Array, u: jax.Array, context: Any) -> jax.Array:
        """The terminal value of `z`, whatever `u`; see `LatentModel.value`."""
        if self.terminal_value is None:
            return jnp.zeros(z.shape[:-1], z.dtype)
        return jnp.vectorize(self.terminal_value, signature="(s)->()")(z)

    def policy(self, z: jax.Array, context: Any) -> tuple[jax.Array, jax.Array]:
        """A fixed Gaussian; see `LatentModel.policy`."""
        mean = jnp.zeros((*z.shape[:-1], self.action_size), z.dtype)
        return mean, jnp.full_like(mean, self.policy_std)


def _require_array(what: str, value: Any, shape: tuple[int, ...] | None = None) -> None:
    """Refuses what is not one array, of that shape or with one axis."""
    found = () if isinstance(value, int | float) else getattr(value, "shape", None)
    if found is None:
        raise ConfigError(
            f"{what} is a {type(value).__name__}; make it one array [S] with jnp.concatenate, or "
            "jax.flatten_util.ravel_pytree, whose second result takes it apart in `step`"
        )
    if shape is None and len(found) != 1:
        raise ConfigError(
            f"{what} has the shape {list(found)} and must have one axis [S]; jax.vmap makes a "
            "planner for batches"
        )
    if shape is not None and found != shape:
        raise ConfigError(f"{what} has the shape {list(found)} and must have {list(shape)}")


class Decision(NamedTuple):
    """What a planner does in one state."""

    action: jax.Array  # [A] in [-1, 1]
    plan_mean: jax.Array  # [H, A] where the next plan starts
    value: jax.Array  # [] predicted return of the chosen action sequence


# (state [S], plan_mean [H, A], key) -> Decision.
Planner = Callable[[jax.Array, jax.Array, jax.Array], Decision]


def make_planner(
    model: LatentModel,
    *,
    action_size: int,
    config: PlannerConfig,
    discount: float = 0.99,
    return_scale: float = 1.0,
    context: Any = None,
) -> Planner:
    """Compiles MPPI over a model into `planner(state, plan_mean, key)`.

    Start with `plan_mean = zeros [H, A]` and pass on what each call returns: that is the warm
    start. Batch it with `jax.vmap`. The same arguments give the same action, bit for bit.

    Args:
        model: Any `LatentModel`, as `KnownDynamics`.
        action_size: Size A of an action.
        config: Sizes of the search.
        discount: Discount per step.
        return_scale: How far the returns of random plans typically lie apart;
            `config.temperature` is measured in it.
        context: What the model needs besides, unbatched.

    Returns:
        The compiled planner; it executes the best elite. Its first call raises what `mppi_plan`
        does: `ConfigError` for sizes in `config` that do not fit together, `ValueError` for a
        `plan_mean` of another shape. It raises `ConfigError` too for a state that is not one array
        `[S]`, or dynamics that give another one.
    """

    def plan(state: jax.Array, plan_mean: jax.Array, key: jax.Array) -> Decision:
        _require_array("the state", state)
        plan = mppi_plan(
            model,
            state,
            context,
            plan_mean,
            key,
            action_mask=jnp.ones(action_size),
            discount=discount,
            return_scale=return_scale,
            config=config,
            explore=False,
        )
        return Decision(jnp.tanh(plan.u), warm_start.shift(plan.plan_mean), plan.value)

    return jax.jit(plan)
