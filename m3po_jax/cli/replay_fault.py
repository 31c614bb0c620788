"""Re-runs the iteration that stopped a run for numbers that are not finite.

python -m m3po_jax.cli.replay_fault DIR

DIR   the bundle, RUN/fault, or the folder RUN of the run

Prints what is not finite in the state before the iteration, and the module, loss and gradient
leaves where such numbers appear first.
"""

import pathlib

from absl import flags

from m3po_jax.cli import command_line
from m3po_jax.config_validation import validate
from m3po_jax.training import workdir
from m3po_jax.training.run_record import WorkdirError

FLAGS = flags.FLAGS


def main() -> None:
    """Checks the folder before the slow imports, then replays and prints."""
    given = pathlib.Path(FLAGS.bundle)
    bundle = given / workdir.FAULT_FOLDER
    folder = bundle if bundle.is_dir() else given
    config = workdir.read_config(folder)
    validate(config)
    if not workdir.has_checkpoint(folder):
        raise WorkdirError(f"{folder} holds no state to replay")
    if folder is given and workdir.holds_metrics(folder):
        raise WorkdirError(
            f"{folder} is a run without a bundle ({workdir.FAULT_FOLDER}/): no fault stopped it"
        )
    command_line.use_compile_cache()
    from m3po_jax.training import fault_replay

    print(fault_replay.replay_fault(config, folder))


def run() -> None:
    """Entry point of the command."""
    flags.DEFINE_string("bundle", None, "The bundle.")
    command_line.run(main, __doc__, positional="bundle")


if __name__ == "__main__":
    run()
