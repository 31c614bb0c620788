"""Writing the report of one or more workdirs into a folder."""

import csv
import datetime
import math
import os
import pathlib
from collections.abc import Sequence

from m3po_jax.report import figures, page
from m3po_jax.report.figures import Panel
from m3po_jax.report.runs import ReportError, group_runs, load_runs
from m3po_jax.report.sections import all_sections
from m3po_jax.version import VERSION

PAGE_FILE = "report.html"
_CSV_HEADER = ("picture", "value", "series", "x", "mean", "low_95", "high_95", "seeds")


def write_report(
    workdirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> pathlib.Path:
    """Writes report.html, with a PNG and a CSV file for the pictures of each section.

    Args:
        workdirs: Folders of runs; runs that differ in the seed alone are shown as one.
        out: Folder to write to; by default `report` in the run, or next to several runs.

    Returns:
        Path of the page.

    Raises:
        UserError: A run is missing, empty or damaged, or the folder cannot be written.
    """
    runs = load_runs(workdirs)
    groups = group_runs(runs)
    sections = all_sections(groups)
    home = runs[0].path if len(runs) == 1 else _common_folder([run.path for run in runs])
    folder = pathlib.Path(out) if out is not None else home / "report"
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    title = f"M3PO report: {', '.join(group.label for group in groups)}"
    made = f"Made on {now} by m3po_jax {VERSION}."
    path = folder / PAGE_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            if section.panels:
                figures.png(section.panels, folder / f"{section.key}.png")
                _write_csv(section.panels, folder / f"{section.key}.csv")
        path.write_text(page.render(title, groups, sections, made), encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"cannot write the report to {folder}: {error.strerror or error}; give --out a folder "
            "that can be written"
        ) from error
    return path.absolute()


def _common_folder(paths: Sequence[pathlib.Path]) -> pathlib.Path:
    return pathlib.Path(os.path.commonpath([path.parent for path in paths]))


def _write_csv(panels: Sequence[Panel], path: pathlib.Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_CSV_HEADER)
        for panel in panels:
            for line in panel.lines:
                for x, *numbers, seeds in line.series.rows:
                    where = panel.names[int(x)] if panel.names else f"{x:.15g}"
                    cells = ("" if math.isnan(n) else f"{n:.9g}" for n in numbers)
                    value = panel.xlabel if panel.names else panel.ylabel
                    writer.writerow((panel.title, value, line.series.label, where, *cells, seeds))
