"""The page in a headless browser: it fits a phone, the pictures are drawn, dark mode is dark."""

import json
import os
import re
import shutil
import subprocess

import pytest

from m3po_jax.report import write
from tests.report.fake_runs import make_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)

PROBE = """<!DOCTYPE html><iframe src="report.html" width="{width}" height="800"></iframe>
<pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, style = (x) => frame.contentWindow.getComputedStyle(x);
  const pictures = [...page.querySelectorAll("figure svg")].map((x) => x.getBoundingClientRect());
  const line = page.querySelector("figure svg path[style*='--series-0']");
  document.querySelector("#found").textContent = JSON.stringify({{
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    left: Math.min(...pictures.map((x) => x.left)),
    right: Math.max(...pictures.map((x) => x.right)),
    narrowest: Math.min(...pictures.map((x) => x.width)),
    lowest: Math.min(...pictures.map((x) => x.height)),
    text: Math.min(...[...page.querySelectorAll("figure svg text")].map(
      (x) => x.getBoundingClientRect().height)),
    stroke: style(line).stroke,
    paper: style(page.body).backgroundColor,
    ink: style(page.body).color,
  }});
}};
</script>"""


def probe(folder, width, *flags):
    (folder / "probe.html").write_text(PROBE.format(width=width))
    command = [
        BROWSER,
        "--headless=new",
        "--disable-gpu",
        "--no-sandbox" if os.geteuid() == 0 else "--incognito",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000",
        *flags,
        "--dump-dom",
        (folder / "probe.html").as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(\{.*?\})</pre>', result.stdout)
    assert found, result.stdout[-500:] + result.stderr[-500:]
    return json.loads(found[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    made = [make_run(folder / f"a_s{seed}", seed=seed) for seed in range(2)]
    return write.write_report(made, folder / "out").parent


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_it_fits_a_phone_and_is_drawn_in_its_colours(folder):
    found = probe(folder, 390, "--blink-settings=preferredColorScheme=1")
    assert found["overflow"] == 0
    assert found["left"] >= 0 and found["right"] <= 390
    assert found["narrowest"] > 330 and found["lowest"] > 180
    assert found["text"] >= 8, "text of pictures is too small to read"
    assert found["stroke"] == "rgb(0, 114, 178)"
    assert found["paper"] == "rgb(255, 255, 255)"


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_dark_mode_is_dark_and_lines_are_brighter_there(folder):
    found = probe(folder, 1200, "--blink-settings=preferredColorScheme=0")
    assert found["overflow"] == 0
    assert found["paper"] == "rgb(20, 23, 27)"
    assert found["ink"] == "rgb(232, 234, 237)"
    assert found["stroke"] == "rgb(74, 168, 224)"
