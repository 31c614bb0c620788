"""Which checkpoint counts as the best, and that it outlives the newer ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import load
from m3po_jax.training.evaluator import Evaluator, evaluate_workdir
from m3po_jax.training.experiment import restore_run
from m3po_jax.workdir import best
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError
from m3po_jax.workdir.folder import read_config
from m3po_jax.workdir.record import WorkdirError
from tests.integration import tiny_config
from tests.integration.saved_run import save_run
from tests.workdir.saved_states import damage


def evaluation(env_steps, returns, *, normalized=None, success=None):
    tasks = {f"toy/{index}": {"return_mean": value} for index, value in enumerate(returns)}
    scores = {"normalized_mean": normalized, "success_mean": success}
    return {"env_steps": env_steps, "tasks": tasks, **scores}


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"returns": (9.0,), "normalized": 0.4}, {"returns": (1.0,), "normalized": 0.5}),
        ({"returns": (9.0,), "success": 0.25}, {"returns": (1.0,), "success": 0.5}),
        ({"returns": (-9.0, 2.0)}, {"returns": (-3.0, 1.0)}),
        # saturated scores leave it to the returns
        (
            {"returns": (8.0,), "normalized": 1.0, "success": 1.0},
            {"returns": (9.0,), "normalized": 1.0, "success": 1.0},
        ),
        # a mean over the tasks that were not cut by faults says nothing
        ({"returns": (9.0, None), "normalized": None}, {"returns": (-5.0, 0.0)}),
    ],
)
def test_scores_decide_then_success_then_returns(worse, better):
    for records in ([evaluation(8, **worse), evaluation(16, **better)],) * 2:
        assert best.best_step(records, {1, 2}, 8) == 2
        assert best.best_step(records[::-1], {1, 2}, 8) == 2


def test_the_first_of_equal_ones_is_the_best_and_only_kept_ones_count():
    records = [evaluation(8 * k, (value,)) for k, value in enumerate((3.0, 5.0, 5.0, 9.0))]
    assert best.best_step(records, {0, 1, 2}, 8) == 1
    assert best.best_step(records, {0, 2}, 8) == 2
    assert best.best_step(records, {7}, 8) is None
    assert best.best_step([evaluation(8, (None,))], {1}, 8) is None


def test_what_is_kept_outlives_the_newest_two(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (10, 20, 30, 40):
            state = {"x": jnp.full(300, step)}
            checkpointer.save(step, state, {"n": step}, keep=(10,) if step < 40 else (20,))
            held = {child.name for child in (tmp_path / "checkpoints").iterdir()}
            assert held == {10: {"10"}, 20: {"10", "20"}, 30: {"10", "20", "30"}}.get(
                step, {"20", "30", "40"}
            )
        target = {"x": jnp.zeros(300, jnp.int32)}
        state, meta = checkpointer.restore(20, target)
        part = checkpointer.restore_part("x", {}, step=20)
        assert (int(state["x"][0]), meta, part) == (20, {"n": 20}, {})
        assert checkpointer.latest_step() == 40
    damage(tmp_path / "checkpoints" / "20")
    with Checkpointer(tmp_path) as checkpointer:
        # Moving it away would change nothing about where the run resumes.
        with pytest.raises(CheckpointError, match=r"checkpoints/20 .*--checkpoint=newest") as e:
            checkpointer.restore(20, target)
        assert "mv " not in str(e.value)
        assert checkpointer.restore_latest(target)[1] == {"n": 40}
        with pytest.raises(CheckpointError, match="checkpoints/10"):
            checkpointer.restore(10, target)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A run whose first checkpoint scored better than its newest; the state of the first."""
    folder = tmp_path_factory.mktemp("run")
    _, state = save_run(folder, tiny_config.get_config(), ("toy/PointReachA",))
    newer = state.replace(
        agent=state.agent.replace(params=jax.tree.map(jnp.zeros_like, state.agent.params))
    )
    with Checkpointer(folder) as checkpointer:
        meta = checkpointer.meta(0)
        kept = {name: value for name, value in meta.items() if name != "checksums"}
        checkpointer.save(5, newer, {**kept, "env_steps": 40}, keep=(0,))
    return folder, state


def write_evaluations(folder, *records):
    (folder / "eval.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))


def test_the_agent_of_the_best_is_loaded(two_checkpoints):
    folder, state = two_checkpoints
    write_evaluations(folder, evaluation(0, (5.0,)), evaluation(40, (4.0,)))
    agent = load(folder, checkpoint="best")
    jax.tree.map(np.testing.assert_array_equal, agent.state.params, state.agent.params)
    assert load(folder).env_steps == 40
    with pytest.raises(ValueError, match="newest, best, not 'first'"):
        load(folder, checkpoint="first")


def test_the_choice_is_explained(two_checkpoints):
    folder, _ = two_checkpoints
    write_evaluations(folder, evaluation(0, (5.0,)), evaluation(40, (6.0,)))
    assert best.chosen_step(folder, "newest", 8) == (None, "")
    step, note = best.chosen_step(folder, "best", 8)
    assert (step, note) == (5, "The best checkpoint is the one at 40 env steps.")
    write_evaluations(folder, evaluation(16, (9.0,)), evaluation(40, (6.0,)))
    step, note = best.chosen_step(folder, "best", 8)
    assert step == 5 and "evaluation at 16 scored higher, and its checkpoint was not kept" in note
    write_evaluations(folder, evaluation(16, (9.0,)))
    with pytest.raises(WorkdirError, match="no checkpoint that was evaluated"):
        best.chosen_step(folder, "best", 8)


def test_what_is_reported_comes_from_other_episodes_than_the_choice(two_checkpoints):
    folder, _ = two_checkpoints
    config = read_config(folder)
    asked = {"policy": "random", "seed": config.seed}
    reported = evaluate_workdir(config, folder, episodes=4, step=0, **asked)
    experiment, state, _ = restore_run(config, folder, step=0)
    chosen_on = Evaluator(experiment, episodes=4)(state.agent, **asked)
    (one,), (other,) = reported["tasks"].values(), chosen_on["tasks"].values()
    assert reported["env_steps"] == 7  # as the fixture saved it
    assert one["episodes"] == other["episodes"] == 4
    assert one["return_mean"] != other["return_mean"]
