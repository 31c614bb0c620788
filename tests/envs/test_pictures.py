"""Brax's viewer holds the poses that it was given; pictures of MuJoCo are in tests/cli."""

import base64
import json
import re
import zlib

import jax
import numpy as np

from m3po_jax.envs import registry


def test_the_viewer_of_brax_holds_the_poses_at_true_speed():
    environment = registry.make_env(registry.parse_task("brax/inverted_pendulum"))
    keys = jax.random.split(jax.random.key(0), 3)
    poses = jax.jit(jax.vmap(lambda key: environment.pose(environment.reset(key))))(keys)
    page = environment.viewer(jax.device_get(poses), seconds_per_pose=0.08)
    packed = max(re.findall(r"[A-Za-z0-9+/=]{200,}", page), key=len)
    system = json.loads(zlib.decompress(base64.b64decode(packed)))
    np.testing.assert_allclose(system["states"]["x"][2]["pos"], poses.x.pos[2], atol=1e-5)
    assert len(system["states"]["x"]) == 3
    assert system["opt"]["timestep"] == 0.08
