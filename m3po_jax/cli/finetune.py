"""Continues from a trained agent, on the same tasks or on others.

m3po-finetune --from=DIR --config=NAME --workdir=DIR [--config.KEY=VALUE ...] [--embedding=mean]
              [--replay=fresh|old] [--overwrite]

--from=DIR         the run to start from; it is not modified
--config=NAME      preset or file: settings of the new run, its tasks new ones, old ones or both.
                   Network sizes must be the old ones; observation and action sizes may differ
--workdir=DIR      folder of the new run; the same command resumes it, and m3po-train does too
--embedding=NAME   what tasks that the agent does not know start from: mean of all known task
                   embeddings, or the embedding of a known task, as dmc/CartpoleSwingup
--replay=old       take over the old run's steps of tasks that both have; fresh starts empty
--overwrite        start anew; the run in the workdir is deleted once the new one is saved
--quiet, --log_every=N, --notensorboard, --wandb and --wandb_...: as for m3po-train

--config.train.frozen=NAME,NAME keeps these modules unchanged: embedding, encoder, dynamics,
reward, termination, q, policy, critic, exploration. The first line of eval.jsonl is the score
before anything was learned on the new tasks.
"""

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.finetuning.compatibility import Origin, startable_config
from m3po_jax.workdir import folder, preemption

FLAGS = flags.FLAGS


def main() -> None:
    """Checks both runs before the slow imports, then trains."""
    path = paths.named_by("workdir")
    config, sinks = command_line.chosen_logs(from_config_dict(FLAGS.config), path)
    validate(config)
    source = paths.named_by("from")
    origin = Origin(source, FLAGS.embedding, FLAGS.replay == "old")
    config = command_line.settled(config, path, overwrite=FLAGS.overwrite)
    config = startable_config(config, path, origin, overwrite=FLAGS.overwrite)
    with (
        folder.open_workdir(
            path, config, overwrite=FLAGS.overwrite, origin=origin.as_record()
        ) as opened,
        preemption.stop_on_signals() as stop,
    ):
        command_line.tell(opened)
        command_line.use_compile_cache()
        from m3po_jax.finetuning import begin
        from m3po_jax.training import loop
        from m3po_jax.workdir.progress import Progress

        lines = begin.begin(config, path, origin)
        if lines:
            Progress(config.train.total_env_steps, quiet=FLAGS.quiet).say("\n".join(lines))
        loop.train_and_evaluate(config, path, stop=stop, sinks=sinks, quiet=FLAGS.quiet)


def run() -> None:
    """Entry point of `m3po-finetune`."""
    command_line.define_config_flag()
    flags.DEFINE_string("from", None, "Folder of the run to start from.")
    flags.DEFINE_string("workdir", None, "Folder of the new run.")
    flags.DEFINE_string("embedding", "mean", "What new tasks start from.")
    flags.DEFINE_enum("replay", "fresh", ["fresh", "old"], "Whether to keep old steps.")
    flags.DEFINE_bool("overwrite", False, "Delete the run in the workdir and start a new one.")
    command_line.define_log_flags()
    flags.mark_flags_as_required(["config", "from", "workdir"])
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
