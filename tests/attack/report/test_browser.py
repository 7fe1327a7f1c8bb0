"""The page in headless Chromium, narrow and wide: nothing clipped, nothing loaded, nothing on the console.

Uses Debian's `chromium` where it is installed; nothing is downloaded. The page has no script of its own: the test adds
one to a copy in a frame, which measures and tells what it found to the document that Chromium prints.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from attack import write_report

Maker = Callable[..., Path]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """
<script>
const problems = [];
addEventListener("error", event => problems.push("error: " + (event.message || event.target.outerHTML)), true);
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(element => { element.open = true; });
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll("table, td, th, svg, pre, p, img, figure")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 1 || box.left < -1 || element.scrollWidth > element.clientWidth + 1)
      && !element.closest("svg svg") && getComputedStyle(element).display !== "inline";
  });
  const result = {
    problems, width, scroll: document.documentElement.scrollWidth,
    clipped: wide.map(element => element.outerHTML.slice(0, 120)),
    requests: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^data:/.test(name)),
    tables: document.querySelectorAll("table").length,
  };
  parent.postMessage(JSON.stringify(result), "*");
});
</script>
"""
# A window of Chromium is 500 px wide at least; a frame may be narrower, and is all that its page sees.
FRAME = """
<pre id="measured"></pre>
<script>
addEventListener("message", event => { document.getElementById("measured").textContent = event.data; });
</script>
<iframe src="measured.html" style="border: 0; height: 1500px; width: WIDTHpx"></iframe>
"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")


@pytest.fixture
def page(make_shard_folder: Maker, make_result: Maker, tmp_path: Path) -> Path:
    shards = make_shard_folder(test=30)
    results = [make_result(shards, f"a method with a long name, {name}", arch="resnet34") for name in ("one", "two")]
    results += [make_result(shards, "pairing", suite="quick", seed=seed) for seed in (0, 1)]
    return write_report(results, tmp_path / "report", shards=[shards])


def measure(page: Path, width: int, profile: Path) -> tuple[dict[str, Any], str]:
    """Open a copy of the page that measures itself; return what it found and what Chromium logged."""
    copy = page.with_name("measured.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{MEASURE}", 1), encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={profile}", "--window-size=1400,1600", "--virtual-time-budget=10000",
        "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1])), done.stderr


def test_the_page_fits_and_is_quiet(page: Path, tmp_path: Path) -> None:
    for width in (390, 1280):
        found, log = measure(page, width, tmp_path / "profile")
        assert found["width"] == width
        assert found["tables"] > 10
        assert found["problems"] == []
        assert found["requests"] == []
        assert "CONSOLE" not in log
        assert found["clipped"] == []
        assert found["scroll"] <= found["width"]
    sees_what_is_clipped(page, tmp_path / "profile")


def sees_what_is_clipped(page: Path, profile: Path) -> None:
    """Assert that the measure finds a table that is too wide and a picture that is missing."""
    html = page.read_text(encoding="utf-8")
    wide = "<table><tr><td style='white-space: nowrap; display: inline-block; width: 900px'>wide</td></tr></table>"
    page.write_text(html.replace("</main>", f"{wide}<img src='missing.png'></main>"), encoding="utf-8")
    found, _ = measure(page, 390, profile)
    assert found["clipped"]
    assert found["scroll"] > found["width"]
    assert any("missing.png" in problem for problem in found["problems"])
