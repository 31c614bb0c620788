"""What mkdocs builds from the code: settings, tasks, commands, the notebook, formulas.

A page asks for generated text with a line `<!-- generated: NAME -->`, NAME a key of `GENERATED`.
"""

import ast
import dataclasses
import html
import inspect
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import ziamath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from m3po_jax.config import Config, Range, rule_of
from m3po_jax.envs import catalog
from m3po_jax.training import scores

# Each drawing holds its own outlines: shared ones would need names that are unique on the page.
ziamath.config.svg2 = False
ROOT = pathlib.Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook."""
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        uri = f"notebooks/{notebook.stem}.md"
        page = notebook_page(json.loads(notebook.read_text(encoding="utf-8")))
        files.append(File.generated(config, uri, content=page))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the generated parts in; an unknown name stops the build."""
    return re.sub(r"<!-- generated: ([\w-]+) -->", lambda m: GENERATED[m[1]](), markdown)


def on_page_content(content: str, **_: Any) -> str:
    r"""Draws the `\(...\)` and `\[...\]` of arithmatex, so that no script or font is needed."""
    pattern = r'<(span|div) class="arithmatex">(.*?)</\1>'
    return re.sub(pattern, lambda m: formula(html.unescape(m[2]).strip()), content, flags=re.DOTALL)


def formula(delimited: str) -> str:
    r"""SVG of a formula between `\(` and `\)` or `\[` and `\]`, in the colour of the text."""
    latex = " ".join(delimited[2:-2].split())
    inline = delimited.startswith(r"\(")
    drawing = ziamath.Latex(latex, size=16, color="currentColor", inline=inline)
    attributes = f'role="img" aria-label="{html.escape(latex)}"'
    if inline:
        attributes += f' style="vertical-align:{drawing.getyofst():.2f}px"'
    # ziamath gives glyphs the colour, but draws the bars over letters in black.
    drawn = drawing.svg().replace('"black"', '"currentColor"')
    svg = drawn.replace("<svg ", f"<svg {attributes} ", 1)
    return svg if inline else f'<div class="formula">{svg}</div>'


def settings() -> str:
    """Tables of all settings with defaults, allowed values and meanings."""
    parts = [_settings_table("", Config)]
    for field in dataclasses.fields(Config):
        group = field.default
        if dataclasses.is_dataclass(group):
            title = inspect.getdoc(group).split("\n")[0]
            table = _settings_table(f"{field.name}.", type(group))
            parts.append(f"## {field.name}\n\n{title}\n\n{table}")
    return "\n\n".join(parts)


def tasks() -> str:
    """Tables of the tasks of each suite."""
    parts = []
    for suite, names in catalog.CATALOG.items():
        rows = [
            "| task | observation | action | control steps | terminates | score 0 | score 1 |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, facts in names.items():
            sizes = [facts.observation_size, facts.action_size, facts.episode_length]
            bounds = scores.references(f"{suite}/{name}") or (None, None)
            cells = [
                f"`{suite}/{name}`",
                *("?" if size is None else str(size) for size in sizes),
                "yes" if facts.can_terminate else "no",
                *("" if bound is None else f"{bound:g}" for bound in bounds),
            ]
            rows.append("| " + " | ".join(cells) + " |")
        parts.append(f"## {suite}: {len(names)} tasks\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def commands() -> str:
    """The help text of every command, which is the docstring of its module."""
    parts = []
    for path in sorted((ROOT / "m3po_jax" / "cli").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            text = ast.get_docstring(tree) or ""
            title, _, usage = text.partition("\n")
            parts.append(f"## {path.stem}\n\n{title}\n\n```text\n{usage.strip()}\n```")
    return "\n\n".join(parts)


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings,
    "tasks": tasks,
    "commands": commands,
}


def notebook_page(notebook: dict[str, Any]) -> str:
    """Markdown of a notebook: its text, its code, its text and PNG outputs."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![output of the cell above](data:image/png;base64,{image})")
                continue
            text = "".join(output.get("text", data.get("text/plain", "")))
            if text.strip():
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _settings_table(prefix: str, group: type) -> str:
    meanings = _attributes(inspect.getdoc(group) or "")
    rows = ["| setting | default | values | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(group):
        if dataclasses.is_dataclass(field.default):
            continue
        name = f"{prefix}{field.name}"
        cells = (f"`{name}`", _default(field.default), _values(field), meanings[field.name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    return "" if value == () else f"`{value:,}`" if type(value) is int else f"`{value}`"


def _values(field: dataclasses.Field) -> str:
    rule = rule_of(field)
    if isinstance(rule, Range):
        return str(rule)
    return ", ".join(f"`{choice}`" for choice in rule or ())


def _attributes(docstring: str) -> dict[str, str]:
    """The lines under `Attributes:` by their names."""
    section = docstring.split("Attributes:\n")[1]
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
