"""What the site is made of besides pages: the generated parts and the notebook."""

import importlib.util
import json
import pathlib
import re

import material
import nbformat
import pygments
import pytest
from nbclient import NotebookClient
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonConsoleLexer

from m3po_jax.config import field_types
from m3po_jax.envs import catalog

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_stands_on_its_page_with_default_values_and_meaning(hooks):
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \| (.*) \| (.*) \|$", hooks.settings(), re.MULTILINE)
    assert [name for name, *_ in rows] == list(field_types())
    cells = {name: rest for name, *rest in rows}
    assert cells["train.total_env_steps"][0] == "`120,000`"
    assert cells["policy.kl_target"][:2] == ["`0.05`", "above 0"]
    assert cells["policy.trust_region"][1] == "`clip`, `kl`, `none`"
    assert all(len(meaning) > 10 for *_, meaning in rows)
    free = {name for name, kind in field_types().items() if kind is bool} | {"tasks", "variations"}
    assert {name for name, cell in cells.items() if not cell[1]} == free


def test_the_code_cites_headings_that_exist():
    headings = set(re.findall(r"^## (.+)$", (ROOT / "docs/concepts.md").read_text(), re.M))
    texts = [path.read_text() for path in (ROOT / "m3po_jax").rglob("*.py")]
    cited = {name for t in texts for name in re.findall(r'docs/concepts\.md, "(.+?)"', t)}
    assert len(cited) >= 4 and cited <= headings


def test_every_task_is_listed(hooks):
    page = hooks.tasks()
    assert tuple(re.findall(r"^\| `(.+?)` ", page, re.MULTILINE)) == catalog.task_names()
    assert "| `toy/TerminatingPole` | 2 | 1 | 50 | yes | 0 | 50 |" in page


def test_every_command_is_listed_with_its_flags(hooks):
    installed = re.findall(r'"m3po-([\w-]+) = ', (ROOT / "setup.py").read_text())
    assert {"train", "evaluate", "export"} <= set(installed)
    page = hooks.commands()
    assert {name.replace("-", "_") for name in installed} <= set(
        re.findall(r"^## (\w+)$", page, re.M)
    )
    assert "--workdir=DIR" in page


def test_formulas_are_drawn(hooks):
    page = r'<p>a <span class="arithmatex">\(x &lt; \hat r_t\)</span></p>'
    drawn = hooks.on_page_content(page)
    assert drawn.startswith('<p>a <svg role="img" aria-label="x &lt; \\hat r_t" style="vertical')
    assert "currentColor" in drawn
    block = hooks.on_page_content('<div class="arithmatex">\\[\n\\frac{1}{2}\n\\]</div>')
    assert block.startswith('<div class="formula"><svg ')


@pytest.mark.parametrize(
    "latex", [r"\overline{Q_i}", r"\bar x", r"\frac{1}{2}", r"\sqrt{x}", r"\hat r"]
)
def test_every_stroke_of_a_formula_has_the_colour_of_the_text(hooks, latex):
    # black would vanish in the dark theme
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', hooks.formula(rf"\({latex}\)")))
    assert colours <= {"currentColor", "none"} and "currentColor" in colours


def test_the_copy_button_leaves_out_prompts():
    # The theme's script marks a block with `data-md-copying` while it reads the text to copy.
    theme = pathlib.Path(material.__file__).parent / "templates" / "assets" / "javascripts"
    (script,) = theme.glob("bundle.*.min.js")
    assert '.setAttribute("data-md-copying"' in script.read_text(encoding="utf-8")
    css = (ROOT / "docs" / "site.css").read_text(encoding="utf-8")
    hidden = re.search(r"((?:\[data-md-copying\] \.\w+,?\s*)+)\{\s*display: none;", css)[1]
    session = (
        ">>> for x in (1, 0):\n...     1 / x\n1.0\nTraceback (most recent call last):\nError\n"
    )
    page = pygments.highlight(session, PythonConsoleLexer(), HtmlFormatter())
    classes = set(re.findall(r'class="(g\w)"', page))
    assert {"gp", "go", "gt"} <= classes
    assert {f"[data-md-copying] .{name}" for name in ("gp", "go", "gt")} <= set(
        re.split(r",?\s*\n", hidden.strip())
    )


def test_an_unknown_generated_part_stops_the_build(hooks):
    with pytest.raises(KeyError, match="setings"):
        hooks.on_page_markdown("<!-- generated: setings -->")


def test_the_notebooks_page_has_text_code_and_outputs(hooks):
    page = hooks.notebook_page(json.loads(NOTEBOOKS[0].read_text()))
    assert "## Train" in page
    assert "m3po.train_and_evaluate(config, run.path)" in page
    assert "the cart stands at 1.0" in page
    assert "data:image/png;base64," in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Compiling takes nearly all of the time, and a few steps need no fast program.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if "STEPS = 10_000" in cell.source)
    cell.source = cell.source.replace("STEPS = 10_000", "STEPS = 1_024")
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "toy/PointReachB:" in printed
    assert "the cart stands at 1.0" in printed
