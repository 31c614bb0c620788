"""The HTML page: one file, no script, nothing from the network."""

import html
import importlib.resources
from collections.abc import Sequence

from m3po_jax.report import figures
from m3po_jax.report.runs import Group, config_differences, notes, setting
from m3po_jax.report.sections import Section
from m3po_jax.report.tables import Table

# Style alone is allowed: a page that asks for anything else is refused by the browser itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(title: str, groups: Sequence[Group], sections: Sequence[Section], made: str) -> str:
    """The page.

    Args:
        title: Its heading.
        groups: The runs.
        sections: What is shown.
        made: When and by which version, as text.
    """
    style = importlib.resources.files("m3po_jax.report").joinpath("page.css").read_text()
    settings = _settings(groups)
    parts = [*((s.key, s.title) for s in sections), *((key, name) for key, name, _ in settings)]
    links = "".join(f'<li><a href="#{key}">{_text(name)}</a></li>' for key, name in parts)
    warnings = "".join(f"<li>{_text(note)}</li>" for note in notes(groups))
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="muted">{_text(_summary(groups))} {_text(made)}</p>',
        f'<ul class="notes" aria-label="Notes">{warnings}</ul>' if warnings else "",
        _legend(groups),
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
        *(_section(section) for section in sections),
        *(
            f'<section id="{key}"><h2>{_text(name)}</h2>{text}</section>'
            for key, name, text in settings
        ),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _summary(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    tasks = len({task for run in runs for task in run.tasks})
    counts = ((len(runs), "run"), (len(groups), "setting"), (tasks, "task"))
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts) + "."


def _legend(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return ""
    items = "".join(
        f"<li>{figures.legend_mark(style)} {_text(group.label)} "
        f'<span class="muted">({", ".join(f"seed {run.seed}" for run in group.runs)})</span></li>'
        for style, group in enumerate(groups)
    )
    return f'<ul class="legend" aria-label="Legend of all pictures">{items}</ul>'


def _section(section: Section) -> str:
    drawn = "".join(
        f"<figure>{figures.svg(panel, f'{section.key}-{index}')}</figure>"
        for index, panel in enumerate(section.panels)
    )
    empty = '<p class="muted">Nothing was logged for pictures here.</p>'
    tables = "".join(_table(table) for table in section.tables if table.rows)
    files = (
        f'<p class="muted">The same as files next to this page: <code>{section.key}.png</code>, '
        f"<code>{section.key}.csv</code>.</p>"
    )
    pictures = f'<div class="grid">{drawn}</div>{files}' if drawn else empty
    return (
        f'<section id="{section.key}"><h2>{_text(section.title)}</h2>'
        f"<p>{_text(section.text)}</p>{tables}{pictures}</section>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
    rows = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{_text(table.caption)}"><table>'
        f"<caption>{_text(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _settings(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    """Keys, titles and contents of the last two sections: settings and versions."""
    labels = tuple(group.label for group in groups)
    differing = [(key, *values) for key, values in config_differences(groups)]
    if len(groups) == 1:
        first = "<p>All runs have the same settings except for the seed.</p>"
    else:
        first = _table(Table("Settings that differ", ("setting", *labels), tuple(differing)))
    keys = dict.fromkeys(key for group in groups for key in group.config)
    rows = tuple((key, *(setting(g.config, key) for g in groups)) for key in keys)
    everything = _table(Table("All settings", ("setting", *labels), rows))
    folded = f"<details><summary>All {len(rows)} settings</summary>{everything}</details>"
    return [
        ("settings", "Settings", first + folded),
        ("versions", "Versions", _table(_versions(groups))),
    ]


def _versions(groups: Sequence[Group]) -> Table:
    runs = [run for group in groups for run in group.runs]
    names = dict.fromkeys(name for run in runs for name in run.versions)
    rows = [(name, *(run.versions.get(name, "-") for run in runs)) for name in names]
    rows.append(("commit", *((run.commit or "unknown")[:12] for run in runs)))
    rows.append(("resumed with changes", *(str(len(run.history)) for run in runs)))
    return Table(
        "Versions at the last start of each run", ("", *(r.name for r in runs)), tuple(rows)
    )
