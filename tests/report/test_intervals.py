import numpy as np

from m3po_jax.report.intervals import bootstrap_interval


def test_one_seed_has_no_interval():
    assert bootstrap_interval(np.ones((1, 5))) is None


def test_equal_seeds_have_an_interval_of_no_width():
    assert bootstrap_interval(np.tile([1.0, 5.0], (4, 1))) == (3.0, 3.0)


def test_two_seeds_of_one_task_span_both():
    """Of four equally likely draws one is twice the lower seed, one twice the higher one."""
    assert bootstrap_interval(np.array([[1.0], [3.0]])) == (1.0, 3.0)


def test_tasks_are_drawn_apart():
    """The same seed drawn for both tasks would give 0 or 1 in half of the draws; strata do not."""
    scores = np.array([[0.0, 1.0], [1.0, 0.0]] * 8)
    low, high = bootstrap_interval(scores)
    assert 0.25 < low < 0.42
    assert 0.58 < high < 0.75


def test_it_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.normal(size=(12, 3)), seed=seed)
        hits += low <= 0.0 <= high
    assert 175 <= hits <= 198, hits


def test_the_same_numbers_give_the_same_interval():
    scores = np.random.default_rng(1).normal(size=(3, 2))
    assert bootstrap_interval(scores) == bootstrap_interval(scores)
