"""All Meta-World tasks that are offered, by Meta-World's names."""

from m3po_jax.envs.metaworld import moving, opening, picking, pressing, tools
from m3po_jax.envs.metaworld.scene import Definition

DEFINITIONS: dict[str, Definition] = {
    **moving.TASKS,
    **opening.TASKS,
    **picking.TASKS,
    **pressing.TASKS,
    **tools.TASKS,
}
