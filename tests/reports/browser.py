"""A report's page in headless Chromium; tests that need it are skipped where there is none."""

import json
import re
import shutil
import subprocess

import pytest

MEASURE = """<script>
const details = [...document.querySelectorAll("details")];
const opened = details.filter(each => each.open).length;
details.forEach(each => each.open = true);
const wide = [...document.querySelectorAll(".table, pre")].filter(
    each => each.scrollWidth > each.clientWidth + 1);
parent.postMessage(JSON.stringify({
    width: innerWidth,
    fits: document.documentElement.scrollWidth <= innerWidth,
    images: [...document.images].filter(image => image.naturalWidth > 0).length,
    details: details.length,
    opened: opened,
    wide: wide.map(each => each.innerText.slice(0, 60)),
}), "*");
</script></body>"""


def chromium(tmp_path):
    """The beginning of the command line of a headless Chromium."""
    browser = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if browser is None:
        pytest.skip("no chromium is installed")
    flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --v=0"
    logs = ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    return [browser, *flags.split(), *logs]


def browse(tmp_path, page, *arguments):
    """Open a page and return the finished process."""
    command = [*chromium(tmp_path), *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def measured(tmp_path, text, width):
    """Measure a page at a width: a copy that may run one script, in a frame, since windows are at
    least 500 pixels wide. What can be opened is counted as it is, then opened."""
    page = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", MEASURE)
    (tmp_path / "page.html").write_text(page)
    frame = f'<iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe>'
    (tmp_path / "frame.html").write_text(
        f"<script>onmessage = e => document.title = e.data</script>{frame}"
    )
    arguments = ("--window-size=1600,1000", "--dump-dom", "--virtual-time-budget=10000")
    done = browse(tmp_path, tmp_path / "frame.html", *arguments)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.DOTALL)
    assert title, done.stdout[:500]
    return json.loads(title[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
