"""Trains an agent.

m3po-train --config=NAME --workdir=DIR [--config.KEY=VALUE ...] [--overwrite] [--quiet] ...

--config=NAME       a preset, as classic (m3po-train --list shows all), or a Python file with
                    get_config(); --config=FILE:TEXT calls get_config(TEXT)
--config.KEY=VALUE  overrides one setting, e.g. --config.train.total_env_steps=50000;
                    several tasks: --config.tasks=NAME,NAME, or repeat it
--workdir=DIR       folder for everything that is written; if it holds this run, training
                    resumes; if it holds another run, it is refused
--overwrite         starts a new run; the old one is deleted once the new one is saved
--debug             asserts in every iteration that observations, actions, targets, losses and
                    gradients are finite and in range; slower, and stops at the first failure
--quiet             prints errors only; the default on a terminal is a live display
--log_every=N       writes and shows a row every N iterations (config.train.log_every)
--notensorboard     writes no TensorBoard event files to DIR/tensorboard
--wandb             logs to Weights & Biases as well; needs pip install 'm3po_jax[wandb]'. Where to:
                    --wandb_project=NAME --wandb_entity=NAME --wandb_group=NAME --wandb_tags=A,B
--distributed       one of several processes, each started with the same command; they find each
                    other on TPU, Slurm and Open MPI, and on Kubernetes with jax[k8s] and permission
                    to read pods; elsewhere pass --coordinator=HOST:PORT --num_processes=N
                    --process_id=I

SIGTERM and SIGINT (Ctrl-C) finish the iteration and save; run the same command to resume.
"""

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.workdir import preemption

FLAGS = flags.FLAGS


def main() -> None:
    """Checks the settings and the workdir before the slow imports, then trains."""
    path = paths.named_by("workdir")
    config, sinks = command_line.chosen_logs(from_config_dict(FLAGS.config), path)
    validate(config)
    config = command_line.settled(config, path, overwrite=FLAGS.overwrite)
    with preemption.stop_on_signals() as stop:
        command_line.use_compile_cache()
        with command_line.open_run(path, config, overwrite=FLAGS.overwrite) as opened:
            command_line.tell(opened)
            from m3po_jax.training import loop

            loop.train_and_evaluate(
                config, path, stop=stop, sinks=sinks, quiet=FLAGS.quiet, debug=FLAGS.debug
            )


def run() -> None:
    """Entry point of `m3po-train`."""
    command_line.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_bool("overwrite", False, "Delete the run in the workdir and start a new one.")
    flags.DEFINE_bool(
        "debug", False, "Assert inside the iteration that numbers are finite and in range."
    )
    command_line.define_log_flags()
    command_line.define_process_flags()
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
