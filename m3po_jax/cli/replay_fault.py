"""Re-runs the iteration that stopped a run because numbers were not finite.

m3po-replay-fault DIR

DIR   the bundle, RUN/fault, or the folder RUN of the run

Prints what is not finite in the state before the iteration, the first assertion of --debug that
fails on the way (of actions, replayed steps, targets, losses or gradients) with the arrays that are
not finite, and the modules whose updates were skipped.
"""

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.config_validation import validate
from m3po_jax.workdir import folder
from m3po_jax.workdir.record import WorkdirError

FLAGS = flags.FLAGS


def main() -> None:
    """Checks the folder before the slow imports, then replays and prints."""
    given = paths.named_by("bundle")
    bundle = given / folder.FAULT_FOLDER
    place = bundle if bundle.is_dir() else given
    config = folder.read_config(place)
    validate(config)
    if not folder.has_checkpoint(place):
        raise WorkdirError(f"{place} holds no state to replay")
    if place is given and folder.holds_metrics(place):
        raise WorkdirError(
            f"{place} is a run without a bundle ({folder.FAULT_FOLDER}/): no fault stopped it"
        )
    command_line.use_compile_cache()
    from m3po_jax.training import fault_replay

    print(fault_replay.replay_fault(config, place))


def run() -> None:
    """Entry point of the command."""
    flags.DEFINE_string("bundle", None, "The bundle.")
    command_line.run(main, __doc__, positional="bundle")


if __name__ == "__main__":
    run()
