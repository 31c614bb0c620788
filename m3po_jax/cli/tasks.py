"""Lists the tasks that a config can name.

m3po-tasks [--suite=dmc|brax|playground|toy|metaworld|installed] [--json]

--suite=NAME  only this suite; installed: tasks of other packages
--json        prints one line of JSON per task instead of the table

Gymnasium environments are named by their ids, such as gym/Pendulum-v1, and a task of your own by
its dotted path, such as my_package.envs:Reach.
"""

import json

import rich.console
import rich.table
from absl import flags

from m3po_jax.cli import command_line
from m3po_jax.envs import catalog, entry_points, task_options
from m3po_jax.training import scores

FLAGS = flags.FLAGS
_ENDLESS = 10_000  # characters


def main() -> None:
    """Prints what is known of each task; loads no simulator."""
    suites = [FLAGS.suite] if FLAGS.suite else [*catalog.CATALOG, task_options.INSTALLED]
    reasons = {suite: catalog.unavailable(suite) for suite in suites}
    records = [
        {
            "task": f"{suite}/{name}",
            **facts._asdict(),
            "physics": task_options.physics_of(suite, name),
            "reference": scores.references(f"{suite}/{name}"),
            "available": reasons[suite] is None,
        }
        for suite in suites
        for name, facts in catalog.CATALOG.get(suite, {}).items()
    ]
    installed = entry_points.entry_point_tasks() if task_options.INSTALLED in suites else {}
    unknown = {**dict.fromkeys((*catalog.TaskFacts._fields, "reference")), "physics": ()}
    for task in installed.values():
        records.append({"task": task.name, **unknown, "available": task.problem is None})
        reasons[task.origin] = task.problem
    if FLAGS.json:
        print("\n".join(json.dumps(record) for record in records))
        return
    table = rich.table.Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("task", no_wrap=True)
    for name in ("observation", "action", "episode", "score 0", "score 1"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("terminates", "physics", "available"):
        table.add_column(name, no_wrap=True)
    for record in records:
        low, high = record["reference"] or (None, None)
        sizes = (record["observation_size"], record["action_size"], record["episode_length"])
        numbers = ["?" if size is None else str(size) for size in sizes]
        numbers += ["-" if bound is None else f"{bound:g}" for bound in (low, high)]
        words = {True: "yes", False: "no", None: "?"}
        yes = [words[record[key]] for key in ("can_terminate", "available")]
        table.add_row(record["task"], *numbers, yes[0], ", ".join(record["physics"]), yes[1])
    # At its full width, also in a pipe: a narrow terminal wraps lines rather than cutting names.
    rich.console.Console(width=_ENDLESS).print(table)
    for suite, reason in reasons.items():
        if reason is not None:
            print(f"\n{suite}: {reason}")


def run() -> None:
    """Entry point of `m3po-tasks`."""
    flags.DEFINE_enum("suite", None, [*catalog.CATALOG, task_options.INSTALLED], "Only this suite.")
    flags.DEFINE_bool("json", False, "Print JSON lines.")
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
