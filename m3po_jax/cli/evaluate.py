"""Evaluates a checkpoint of a run.

m3po-evaluate --workdir=DIR [--checkpoint=newest|best] [--episodes=16] [--policy=NAME ...]
              [--seed=0] [--held_out] [--json] [--save]

--workdir=DIR   the folder of the run
--checkpoint=best   the one that scored best in training, on other episodes; else the newest
--episodes=16   episodes of each task, of a family of each variation; with --held_out 1 unless given
--policy=NAME   planner, prior (the policy network alone) or random; repeat it for several
--seed=0        seed of the initial states and of the planner's samples
--held_out      plays variations of the run's families that training never saw: as many as it has
                within the ranges, and as many up to 20 % beyond them; the same ones each time
--json          prints one line of JSON (as in eval.jsonl) instead of the table
--save          keeps the result in DIR/saved_eval.jsonl, for m3po-report
"""

import json

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.config import LARGEST_SEED, MOST_ROWS
from m3po_jax.config_validation import validate
from m3po_jax.envs import held_out
from m3po_jax.workdir import folder

FLAGS = flags.FLAGS
_EPISODES = 16


def main() -> None:
    """Checks the workdir before the slow imports, then evaluates and prints."""
    path = paths.named_by("workdir")
    config = folder.read_config(path)
    validate(config)
    if FLAGS.held_out:
        held_out.config_of(config)  # refuses a run without a family
    step = command_line.chosen_checkpoint(path, config)
    command_line.use_compile_cache()
    from m3po_jax.training import scores
    from m3po_jax.training.evaluator import evaluate_workdir
    from m3po_jax.workdir import metrics

    for policy in FLAGS.policy:
        record = evaluate_workdir(
            config,
            path,
            episodes=FLAGS.episodes or (1 if FLAGS.held_out else _EPISODES),
            policy=policy,
            seed=FLAGS.seed,
            step=step,
            held_out=FLAGS.held_out,
        )
        if FLAGS.json:
            print(json.dumps(record))
        else:
            print(f"{policy}:\n{scores.evaluation_table(record)}")
        if FLAGS.save:
            about = {"seed": FLAGS.seed, "checkpoint": FLAGS.checkpoint}
            metrics.save_evaluation(path, {**record, **about})


def run() -> None:
    """Entry point of `m3po-evaluate`."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    command_line.define_checkpoint_flag()
    flags.DEFINE_integer("episodes", None, "Episodes.", lower_bound=1, upper_bound=MOST_ROWS)
    policies = ["planner", "prior", "random"]
    flags.DEFINE_multi_enum("policy", ["planner"], policies, "What acts.")
    flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0, upper_bound=LARGEST_SEED)
    flags.DEFINE_bool("held_out", False, "Play variations that training never saw.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.DEFINE_bool("save", False, "Keep the result for the report.")
    flags.mark_flag_as_required("workdir")
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
