"""The growth experiment's settings and figure; its times are measured by hand."""

import pytest

from experiments import growth


def test_sizes_reach_the_experiment():
    experiment = growth._experiment(3, num_envs=4, num_samples=32, horizon=2, capacity=10_000)
    assert experiment.env.num_envs == (4, 4, 4)
    assert len({spec.name for spec in experiment.env.specs}) == 3
    planner = experiment.config.planner
    assert (planner.num_samples, planner.horizon) == (32, 2)
    assert experiment.config.replay.capacity == 10_000


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_figure_has_each_curve(tmp_path, power):
    rows = [
        {"over": over, "number": n, "curve": curve, "value": float(n) ** power}
        for over, curve in (("samples", "plan"), ("tasks", "planning"), ("capacity", "bytes"))
        for n in (1, 10, 100)
    ]
    growth.draw(rows, tmp_path / "figures" / "growth.png")
    assert (tmp_path / "figures" / "growth.png").stat().st_size > 10_000
