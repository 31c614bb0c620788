"""Settings of JAX that cannot work are refused by their names."""

import jax
import pytest

from m3po_jax.config import ConfigError, default_config, from_config_dict
from m3po_jax.training import jax_settings, stored_agent
from m3po_jax.training.experiment import make_experiment


@pytest.fixture
def changed():
    """Sets a setting of JAX until the test ends."""
    before = {}

    def change(name, value):
        before[name] = getattr(jax.config, name)
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)


def loading(tmp_path):
    stored_agent.restore_agent(tmp_path)


def training(_):
    make_experiment(from_config_dict(default_config()))


BOTH = [("jax_enable_x64", True), ("jax_default_prng_impl", "rbg")]
NANS = [("jax_debug_nans", True), ("jax_debug_infs", True)]


@pytest.mark.parametrize(
    ("use", "name", "value"),
    [(use, *setting) for use in (loading, training) for setting in BOTH]
    + [(training, *setting) for setting in NANS],
)
def test_a_setting_is_refused_by_its_name(changed, tmp_path, use, name, value):
    changed(name, value)
    with pytest.raises(ConfigError, match=rf"{name.upper()}.*\({name}\).*set {name.upper()}="):
        use(tmp_path)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("Unable to initialize backend 'cuda': no CUDA\nand more"), "'cuda': no CUDA"),
        (AssertionError(), "it knows no such platform"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, error, says):
    def absent():
        raise error

    monkeypatch.setattr(jax, "devices", absent)
    with pytest.raises(ConfigError, match=rf"{says}; .*unset"):
        jax_settings.require_usable()
