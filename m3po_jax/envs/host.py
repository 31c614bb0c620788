"""Physics that is computed on the host: pure functions of snapshots, called from compiled programs.

The whole state of such a simulator is a row of 32-bit words, and what it computes depends on its
row alone, so states are carried, saved, sharded and resumed as all others. All tasks of a step are
computed in one callback: its fixed cost, a few tenths of a millisecond, is most of that of a light
simulator. On a GPU or TPU the rows cross to the host and back in every control step.
"""

import dataclasses
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.config import UserError

# XLA's CPU client copies an argument of a callback up to 100 KiB at once and hands a larger one to
# its threads. These may all wait for callbacks, on as many devices, and then none ever returns.
_WORDS_PER_ARGUMENT = 16_384
_NAN = np.float32(np.nan).view(np.uint32)


class HostError(UserError):
    """A simulator raised while it was stepped; the text has its task and what it raised."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


@dataclasses.dataclass(frozen=True, eq=False)
class HostCall:
    """What a simulator computes for rows of words; `physics.call` takes it as a program.

    Attributes:
        task: Name of the task, for messages.
        state_words: Words of a state, with which rows begin, those in and those out.
        words_in: Words of a row in.
        words_out: Words of a row out; behind the state they are float32.
        run: From rows `[n, words_in]` uint32 to `[n, words_out]`, with n at least 1. It is called
            from several threads, where there are several devices, and must not keep what it is
            given. What it raises ends the run, see `raise_failure`.
    """

    task: str
    state_words: int
    words_in: int
    words_out: int
    run: Callable[[np.ndarray], np.ndarray]

    def __call__(self, model: None, words: jax.Array) -> jax.Array:
        """The rows `[words_out]` of one row `[words_in]`; can be mapped."""
        del model
        shape = jax.ShapeDtypeStruct((self.words_out,), jnp.uint32)
        return jax.pure_callback(self._run_alone, shape, words, vmap_method="broadcast_all")

    def _run_alone(self, words: jax.Array) -> np.ndarray:
        rows = np.asarray(words).reshape(-1, self.words_in)
        return self.answer(rows).reshape(*words.shape[:-1], self.words_out)

    def answer(self, rows: np.ndarray) -> np.ndarray:
        """`run`, or where it raises the states as they were, with NaN behind them."""
        try:
            return self.run(rows)
        except Exception as error:  # a simulator can raise anything
            _note_failure(self.task, error)
            out = np.full((len(rows), self.words_out), _NAN)
            out[:, : self.state_words] = rows[:, : self.state_words]
            return out


@dataclasses.dataclass(frozen=True)
class HostBody:
    """The body of tasks with host physics: all of them are computed together.

    Attributes:
        cost: Of one control step of one environment, in the unit of `by_task.step_costs`.
    """

    cost: float

    def same_as(self, other: Any) -> bool:
        """Whether both are computed in one callback."""
        return isinstance(other, HostBody)


def step_cost(microseconds: float) -> float:
    """What a control step of so long costs, in the unit of `by_task.step_costs`.

    MJX computes about 3,000 of its numbers per microsecond of one core. Time is estimated and not
    taken: it differs between processes, and they must agree on who steps what.
    """
    return 3_000.0 * microseconds


def mujoco_cost(num_dofs: int, num_substeps: int) -> float:
    """Estimated cost of one control step in C MuJoCo.

    Fitted to the DM Control tasks: 10 microseconds to cross, and one for each degree of freedom and
    one more in each step of the simulator.
    """
    return step_cost(10.0 + num_substeps * (1.0 + num_dofs))


def call_together(calls: Sequence[HostCall], batches: Sequence[jax.Array]) -> list[jax.Array]:
    """Computes batches of rows `[n, words_in]` of several calls in one callback.

    Returns:
        For each call `[n, words_out]`.
    """
    together = _Together(tuple(calls), tuple(batch.shape[0] for batch in batches))
    flat = jnp.concatenate([batch.reshape(-1) for batch in batches])
    ends = list(range(_WORDS_PER_ARGUMENT, flat.size, _WORDS_PER_ARGUMENT))
    shape = jax.ShapeDtypeStruct((together.words_out,), jnp.uint32)
    answer = jax.pure_callback(together, shape, *jnp.split(flat, ends))
    parts = jnp.split(answer, np.cumsum(together.sizes_out)[:-1].tolist())
    return [
        part.reshape(n, call.words_out)
        for call, n, part in zip(calls, together.numbers, parts, strict=True)
    ]


class _Together:
    """Several calls as one function of all their words in a row."""

    def __init__(self, calls: tuple[HostCall, ...], numbers: tuple[int, ...]):
        self.numbers = numbers
        self._calls = calls
        self._sizes_in = [n * call.words_in for call, n in zip(calls, numbers, strict=True)]
        self.sizes_out = [n * call.words_out for call, n in zip(calls, numbers, strict=True)]
        self.words_out = sum(self.sizes_out)

    def __call__(self, *words: jax.Array) -> np.ndarray:
        flat = np.concatenate([np.asarray(part) for part in words])
        out = np.empty(self.words_out, np.uint32)
        start_in = start_out = 0
        for call, n, size_in, size_out in zip(
            self._calls, self.numbers, self._sizes_in, self.sizes_out, strict=True
        ):
            rows = flat[start_in : start_in + size_in].reshape(n, call.words_in)
            out[start_out : start_out + size_out] = call.answer(rows).reshape(-1)
            start_in, start_out = start_in + size_in, start_out + size_out
        return out


_failures: list[str] = []
_lock = threading.Lock()


def _note_failure(task: str, error: Exception) -> None:
    text = (
        f"{task}: its simulator raised {type(error).__name__}: {error}\n"
        f"{''.join(traceback.format_exception(error)).rstrip()}"
    )
    with _lock:
        # The first says it; behind it every step fails.
        if not _failures:
            _failures.append(text)


def has_failed() -> bool:
    """Whether a simulator raised since `raise_failure` was asked."""
    return bool(_failures)


def raise_failure() -> None:
    """Raises what a simulator raised inside a program that has ended, once.

    It cannot be raised in the callback: other devices would wait for this one for ever.

    Raises:
        HostError: With the task and the simulator's traceback.
    """
    with _lock:
        if not _failures:
            return
        text = _failures.pop()
    raise HostError(text)
