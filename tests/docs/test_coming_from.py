"""docs/coming-from.md: what it names here exists here."""

import pathlib
import re

from m3po_jax import presets
from m3po_jax.config import field_types

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "coming-from.md"


def test_every_setting_of_the_tables_exists():
    known, named = field_types(), []
    groups = {name.partition(".")[0] for name in known}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 3:
            continue
        group = ""
        for name in re.findall(r"`([\w.]+)(?:=\w+)?`", " ".join(cells[1:])):
            if name.startswith("."):  # of the group that was named before
                named.append(f"{group}{name}")
            elif name.partition(".")[0] in groups and "." in name:
                group = name.partition(".")[0]
                named.append(name)
    assert len(named) >= 45
    assert [name for name in named if name not in known] == []


def test_every_preset_and_choice_of_the_tables_exists():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"--config=(\w+)`|--config=(\w+) ", text))
    flat = {name for pair in named for name in pair if name}
    assert flat and flat <= set(presets.names())
    assert "mt50" in presets.names()
