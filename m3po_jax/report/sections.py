"""What the report shows: each section is text, pictures and tables made from groups of runs."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from m3po_jax.config import KL_BOUND_FACTOR
from m3po_jax.report import curves
from m3po_jax.report.figures import Line, Panel
from m3po_jax.report.runs import Group, RecordedRun
from m3po_jax.report.tables import Table, episodes_table, evaluations_of, final_table
from m3po_jax.training import scores

_ZERO = (0.0,)
_AHEAD = "agent steps ahead"
_POLICIES = ("planner", "prior", "random")


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the page; its pictures are also written as PNG and CSV named `key`."""

    key: str
    title: str
    text: str
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()


def all_sections(groups: Sequence[Group]) -> list[Section]:
    """The sections in order; each says in words what it has no data for."""
    makers = (learning_curves, planner_and_prior, trust_region, exploration, world_model, health)
    return [make(groups) for make in makers]


def all_tasks(groups: Sequence[Group]) -> list[str]:
    """Tasks of all groups in their first order."""
    return list(dict.fromkeys(task for group in groups for task in group.runs[0].tasks))


def learning_curves(groups: Sequence[Group]) -> Section:
    """Evaluations over training, per task and in aggregate; then the exploring episodes."""
    tasks = all_tasks(groups)
    evaluated = [
        _panel(
            groups,
            task,
            evaluations_of(task),
            ylabel="return",
            levels=_levels(groups, task),
            include=(scores.references(task) or ())[:1],
        )
        for task in tasks
    ]
    aggregate = _panel(
        groups,
        "All tasks",
        lambda group: curves.evaluation_series(group, curves.task_scores),
        ylabel="mean normalised score",
        levels=(("score 1", 1.0),),
        include=_ZERO,
    )
    training = [
        _panel(
            groups,
            f"{task}, exploring",
            _column(f"rollout/episode_return/{task}"),
            ylabel="return of training episodes",
        )
        for task in tasks
    ]
    text = (
        "Return of whole evaluation episodes, without exploration and without the bonus, after "
        "so many simulator steps over all tasks. The normalised score is 1 where a task counts as "
        "solved; tasks without a known scale are left out of it. Bands are stratified bootstrap "
        "95 % intervals of the mean over seeds; one seed has none, and two or three seeds make "
        "them too narrow. The pictures called exploring show episodes of training itself."
    )
    return Section(
        "learning_curves",
        "Learning curves",
        text,
        _with_data([aggregate, *evaluated, *training]),
        (final_table(groups, tasks), episodes_table(groups, tasks)),
    )


def planner_and_prior(groups: Sequence[Group]) -> Section:
    """The same agents with and without planning, at their last evaluation."""
    tasks = all_tasks(groups)
    scaled = all(scores.references(task) for task in tasks)
    panels: list[Panel] = []
    header, columns = ["task"], []
    for group in groups:
        own = group.runs[0].tasks
        returns = {p: {task: _final_returns(group, p, task) for task in own} for p in _POLICIES}
        lines = []
        for style, (policy, found) in enumerate(returns.items()):
            if not any(found.values()):
                continue
            samples: dict[float, list[list[float]]] = {
                index: [[_scaled(task, r) if scaled else r] for r in found[task]]
                for index, task in enumerate(own)
                if found[task]
            }
            lines.append(Line(curves.point_series(policy, samples), style))
            header.append(policy if len(groups) == 1 else f"{group.label}, {policy}")
            columns.append([_mean_text(found.get(task, [])) for task in tasks])
        axis = "normalised score" if scaled else "return"
        if len(lines) > 1:
            panels.append(Panel(group.label, tuple(lines), xlabel=axis, names=own))
    text = (
        "What planning with the learned model adds to the policy network (prior) that seeds it, in "
        "the newest evaluation of each; the policy random draws its actions at random."
    )
    if not panels:
        text += (
            " Only one of them was evaluated here; m3po-evaluate --workdir=DIR --policy=planner "
            "--policy=prior --policy=random --save adds the others."
        )
    rows = tuple(zip(tasks, *columns, strict=True))
    table = Table("Mean return over seeds", tuple(header), rows if columns else ())
    return Section("planner_and_prior", "Planner against prior", text, tuple(panels), (table,))


def trust_region(groups: Sequence[Group]) -> Section:
    """Measured KL of the policy's updates against its bound, and the entropy."""
    bounds = {KL_BOUND_FACTOR * float(group.config["policy.kl_target"]) for group in groups}
    levels = tuple(("bound" if len(bounds) == 1 else f"bound {b:g}", b) for b in sorted(bounds))
    panels = [
        _panel(groups, title, _column(f"policy/{name}"), ylabel=unit, levels=lines, include=zero)
        for title, name, unit, lines, zero in (
            ("Mean KL", "kl", "nats", levels, _ZERO),
            ("Largest KL", "kl_max", "nats", levels, _ZERO),
            ("Updates over the bound", "kl_over_bound", "share", (), (0.0, 0.1)),
            ("Steps shortened for the bound", "shortened", "share", (), _ZERO),
            ("Entropy of the policy", "entropy", "nats", (), ()),
        )
    ]
    text = (
        "KL(old || new) is measured on every update of the policy. Where the trust region is on, "
        "no update should pass the bound, 1.5 times policy.kl_target. An entropy that falls "
        "steeply means that the policy stops exploring."
    )
    return Section("trust_region", "Policy: trust region and entropy", text, _with_data(panels))


def exploration(groups: Sequence[Group]) -> Section:
    """The bonus, what it is made of, and its weight."""
    shown = (("weight", "units of return"), ("bonus", "mean 1"), ("disagreement", "latent"))
    panels = [
        _panel(
            groups,
            f"{name.capitalize()}, {task}",
            _column(f"exploration/{name}/{task}"),
            ylabel=unit,
            include=_ZERO,
        )
        for name, unit in shown
        for task in all_tasks(groups)
        if any(f"exploration/{name}/{task}" in r.metrics for g in groups for r in g.runs)
    ]
    text = (
        "Collecting seeks steps whose outcome the explorers disagree about: the bonus is that "
        "disagreement in units of its mean over the replayed steps of the task, the weight what "
        "one standard deviation of it counts among planned returns. It is part of no return shown."
    )
    return Section("exploration", "Exploration bonus", text, _with_data(panels))


def world_model(groups: Sequence[Group]) -> Section:
    """The loss of the world model, and its open-loop errors by horizon."""
    panels = [_panel(groups, "Loss", _column("world_model/loss"), ylabel="loss")]
    for quantity, unit in (("reward", "error, units of reward"), ("latent", "error of the latent")):
        for task in all_tasks(groups):
            lines = [
                Line(_horizon_series(group, task, key, label), style, thin)
                for style, group in enumerate(groups)
                for key, label, thin in _horizon_keys(group, quantity, len(groups) > 1)
            ]
            panels.append(
                Panel(
                    f"{quantity.capitalize()}, {task}",
                    tuple(lines),
                    _AHEAD,
                    unit,
                    include=_ZERO,
                )
            )
    panels = list(_with_data(panels))
    text = (
        "The model is rolled forward without looking, on the actions that were taken in windows "
        "drawn from replay at the last evaluation. Shown is the root mean squared error so many "
        "agent steps ahead, against persistence, which holds the last value seen. The windows are "
        "data that the model was trained on."
    )
    if not any(panel.xlabel == _AHEAD for panel in panels):
        text = "No errors by horizon were measured: there was no model or no evaluation yet."
    return Section("world_model", "World model", text, tuple(panels))


def health(groups: Sequence[Group]) -> Section:
    """Speed, skipped updates and faults."""
    panels = [
        _panel(groups, "Speed", _column("env_steps_per_second"), ylabel="env steps / s", log=True)
    ]
    rows = []
    for run in (run for group in groups for run in group.runs):
        skipped = _total(run, lambda name: name.endswith("/skipped"))
        faults = _total(run, lambda name: name.startswith("rollout/faults"))
        hours, seconds = divmod(int(run.wall_seconds), 3600)
        time = f"{hours}:{seconds // 60:02d}:{seconds % 60:02d}"
        rows.append(
            (run.name, str(run.seed), f"{run.env_steps:,}", time, f"{skipped:.0f}", f"{faults:.0f}")
        )
    header = ("run", "seed", "env steps", "wall time", "skipped updates", "faults of the physics")
    text = (
        "Updates are skipped where a loss or a gradient is not finite. Both counts should be 0 or "
        "very small."
    )
    table = Table("Runs", header, tuple(rows))
    return Section("health", "Speed and faults", text, _with_data(panels), (table,))


def _panel(
    groups: Sequence[Group],
    title: str,
    series_of: Callable[[Group], curves.Series],
    *,
    ylabel: str,
    levels: tuple[tuple[str, float], ...] = (),
    include: tuple[float, ...] = (),
    log: bool = False,
) -> Panel:
    lines = tuple(Line(series_of(group), style) for style, group in enumerate(groups))
    return Panel(title, lines, ylabel=ylabel, levels=levels, include=include, log=log)


def _with_data(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """The panels that have something to show, without their empty lines."""
    filled = (
        dataclasses.replace(p, lines=tuple(line for line in p.lines if len(line.series.x)))
        for p in panels
    )
    return tuple(panel for panel in filled if panel.lines)


def _column(name: str) -> Callable[[Group], curves.Series]:
    return lambda group: curves.metric_series(group, name)


def _levels(groups: Sequence[Group], task: str) -> tuple[tuple[str, float], ...]:
    """Returns of random actions, where they were measured, and of a solved task."""
    random = [r for group in groups for r in _final_returns(group, "random", task)]
    known = scores.references(task)
    measured = (("random actions", float(np.mean(random))),) if random else ()
    return measured + ((("score 1", known[1]),) if known else ())


def _final_returns(group: Group, policy: str, task: str) -> list[float]:
    """Mean return of each seed's newest evaluation of a policy."""
    records = [curves.final_record(run.newest_evaluations, policy) for run in group.runs]
    return [r for record in records if record for r in curves.task_return(record, task)]


def _scaled(task: str, episode_return: float) -> float:
    score = scores.normalized_score(task, episode_return)
    assert score is not None
    return score


def _mean_text(returns: Sequence[float]) -> str:
    return f"{np.mean(returns):.1f}" if returns else "-"


def _horizon_keys(group: Group, quantity: str, several: bool) -> list[tuple[str, str, bool]]:
    """Keys of `model_error` with their legend and whether they are drawn thin."""
    prefix = f"{group.label}, " if several else ""
    return [
        (quantity, f"{prefix}model", False),
        (f"{quantity}_persistence", f"{prefix}persistence", True),
    ]


def _horizon_series(group: Group, task: str, key: str, label: str) -> curves.Series:
    samples: dict[float, list[list[float]]] = {}
    for run in group.runs:
        measured = [r["model_error"].get(task, {}) for r in run.evaluations if "model_error" in r]
        for step, error in enumerate((measured[-1:] or [{}])[0].get(key, ()), start=1):
            if error is not None:
                samples.setdefault(step, []).append([error])
    return curves.point_series(label, samples)


def _total(run: RecordedRun, chosen: Callable[[str], bool]) -> float:
    return float(sum(np.nansum(values) for name, values in run.metrics.items() if chosen(name)))
