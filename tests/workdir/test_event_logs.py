"""Event files as TensorBoard reads them, and a stand-in for Weights & Biases."""

import math
import struct
import sys
import types

import pytest
from tensorboardX.proto import event_pb2

from m3po_jax.config import Config
from m3po_jax.workdir import event_logs, folder
from m3po_jax.workdir.metrics import MetricsWriter


def evaluation(step):
    tasks = {
        "toy/A": {"return_mean": 2.0 * step, "normalized": 0.5},
        "brax/ant": {"return_mean": 7.0, "normalized": None},
    }
    errors = {"reward": [0.25, 0.5], "latent": [None]}
    return {
        "env_steps": step,
        "tasks": tasks,
        "normalized_mean": 0.5,
        "normalized_iqm": 0.5,
        "model_error": {"toy/A": errors},
    }


def events(path):
    """The records of an event file: length, its checksum, bytes, their checksum."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[12 + length + 4 :]


def scalars(folder):
    """`{tag: {step: value}}` over all files in order; a restart drops what came before it."""
    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in events(path):
            if event.HasField("session_log"):
                for points in found.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                points = found.setdefault(value.tag, {})
                assert event.step not in points, f"{value.tag} comes twice at {event.step}"
                points[event.step] = value.simple_value
    return found


def write(folder, start, steps):
    with MetricsWriter(folder, [event_logs.TensorBoard(folder)]) as writer:
        writer.truncate_after(start)
        for step in steps:
            writer.write({"env_steps": step, "a/loss": step / 8, "nothing": math.nan})
            writer.write_evaluation(evaluation(step))


def test_rows_and_evaluations_are_points(tmp_path):
    write(tmp_path, 0, (8, 16))
    found = scalars(tmp_path)
    assert found["a/loss"] == {8: 1.0, 16: 2.0}
    assert found["eval/return/toy/A"] == {8: 16.0, 16: 32.0}
    assert found["eval/error_of_reward/toy/A"] == {8: 0.25, 16: 0.25}
    assert set(found) == {
        "a/loss",
        "eval/normalized_mean",
        "eval/normalized_iqm",
        "eval/return/toy/A",
        "eval/normalized/toy/A",
        "eval/return/brax/ant",
        "eval/error_of_reward/toy/A",
    }


def test_a_resumed_run_has_every_point_once(tmp_path):
    write(tmp_path, 0, (8, 16, 24, 32))  # killed here; the checkpoint was at 16
    write(tmp_path, 16, (24, 32, 40))
    write(tmp_path, 40, ())  # done already: no further file
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    found = scalars(tmp_path)
    assert list(found["a/loss"]) == [8, 16, 24, 32, 40]
    assert list(found["eval/normalized_mean"]) == [8, 16, 24, 32, 40]


def test_tensorboard_itself_reads_every_point_once(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed",
    )
    write(tmp_path, 0, (8, 16, 24))
    write(tmp_path, 16, (24, 32))
    loaded = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    loaded.Reload()
    points = [(event.step, event.value) for event in loaded.Scalars("a/loss")]
    assert points == [(8, 1.0), (16, 2.0), (24, 3.0), (32, 4.0)]


def test_every_row_is_on_disk_at_once(tmp_path):
    sink = event_logs.TensorBoard(tmp_path)
    sink.start_after(0)
    sink.write({"env_steps": 8, "x": 1.0})
    assert scalars(tmp_path) == {"x": {8: 1.0}}
    sink.close()


def test_overwriting_a_run_removes_its_events_and_nothing_else(tmp_path):
    config = Config(tasks=("toy/PointReachA",))
    with folder.open_workdir(tmp_path, config):
        write(tmp_path, 0, (8,))
        (tmp_path / ".wandb_id").write_text("abc")
        (tmp_path / "tensorboard" / "mine.txt").write_text("")
    with folder.open_workdir(tmp_path, config, overwrite=True):
        folder.forget_overwritten(tmp_path)  # as the run does when it has a checkpoint
        assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["mine.txt"]
        assert not (tmp_path / ".wandb_id").exists()


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that notes calls."""
    module = types.ModuleType("wandb")
    module.calls, module.places = [], []
    module.Error = type("Error", (Exception,), {})
    module.Settings = lambda **settings: settings

    class Run:
        def log(self, values, step):
            module.calls.append((step, values))

        def finish(self):
            raise TimeoutError("no network")

    def init(**arguments):
        names = ("project", "entity", "group", "tags")
        module.places.append({name: arguments[name] for name in names})
        module.calls.append(("init", arguments["id"], arguments["resume"], arguments["config"]))
        if module.broken:
            raise module.Error("api_key not configured (no-tty)")
        return Run()

    module.broken = False
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_weights_and_biases_get_the_same_and_resume_under_one_name(tmp_path, wandb):
    config = Config(tasks=("toy/PointReachA",))
    place = event_logs.WandbPlace(project="mine", group="seeds", tags=("a", "b"))
    with folder.open_workdir(tmp_path, config):
        for start in (0, 8):
            with MetricsWriter(tmp_path, [event_logs.WeightsAndBiases(tmp_path, place)]) as writer:
                writer.truncate_after(start)
                writer.write({"env_steps": start + 8, "a": 1.0, "b": math.nan})
    first, row, second, _ = wandb.calls
    assert first[:3] == second[:3]
    assert first[2] == "allow"
    assert first[3]["tasks"] == ["toy/PointReachA"]
    assert row == (8, {"a": 1.0})
    asked = {"project": "mine", "entity": None, "group": "seeds", "tags": ("a", "b")}
    assert wandb.places == [asked, asked]


def test_weights_and_biases_that_do_not_start_are_a_clear_error(tmp_path, wandb):
    wandb.broken = True
    with folder.open_workdir(tmp_path, Config(tasks=("toy/PointReachA",))):
        sink = event_logs.WeightsAndBiases(tmp_path, event_logs.WandbPlace())
        with pytest.raises(event_logs.EventLogError, match="wandb login.*WANDB_MODE=offline"):
            sink.start_after(0)
