"""The report is one file that asks the network for nothing, and its sliders move, in a real browser."""

import base64
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import main
from app.drawing.sources import one_image
from tests.test_cli import run_folder  # noqa: F401  (a fixture)

# Moves every slider and chooses the other image; writes what is then shown into the page.
CHECK = """
<script>
const seen = [];
for (const pair of document.querySelectorAll(".pair")) {
  const slider = pair.querySelector("input[type=range]"), left = () => pair.querySelector(".left:not([hidden])");
  const state = () => [left().dataset.name, getComputedStyle(left()).clipPath,
                       pair.querySelector(".stage img").naturalWidth];
  seen.push(state());
  slider.value = 20; slider.dispatchEvent(new Event("input"));
  seen.push(state());
  pair.querySelectorAll("input[type=radio]")[1].click();
  seen.push(state());
}
document.title = "checked " + JSON.stringify(seen);
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, run_folder, photograph) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", str(run_folder), "--images", str(photograph), "--out", str(out)]) == 0
    return out


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images: dict[str, str] = {}
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)
        self.addresses += [known[name] for name in ("src", "href", "srcset", "action") if name in known]
        if tag == "img":
            self.images[known["alt"]] = known["src"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_it_is_one_whole_file_that_needs_no_network(page):
    text = page.read_text()
    parsed = _Page(text)
    assert parsed.open == [], "every tag is closed"
    assert all(address.startswith(("data:image/", "#")) for address in parsed.addresses)
    assert "default-src 'none'" in text
    assert "url(" not in text and "@import" not in text
    assert parsed.headings == [
        "Results", "Certificates", "Curves", "Filters", "Potentials", "Parameters", "Settings",
    ]  # fmt: skip
    assert "regularizer.filter_size" in text


def test_its_images_are_the_data(page, run_folder, photograph, tmp_path):  # noqa: F811
    images = _Page(page.read_text()).images
    measured = one_image(str(run_folder), str(photograph), None, [], tmp_path)
    x = measured.reconstruct(measured.y, (0,)).x
    for kind, expected in (("reconstruction", x), ("measured", measured.y), ("clean", measured.clean)):
        data = base64.b64decode(images[f"photograph.png: {kind}"].removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(pixels, (expected[0, 0].clamp(0, 1) * 255).round().numpy())


def test_the_same_run_gives_the_same_bytes(page, run_folder, photograph, tmp_path):  # noqa: F811
    again = tmp_path / "again.html"
    assert main(["report", str(run_folder), "--images", str(photograph), "--out", str(again)]) == 0
    assert again.read_bytes() == page.read_bytes()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser. It is installed only where the environment allows it: APP_TEST_APT=1, as root, on Debian."""
    if shutil.which("chromium") is None and os.environ.get("APP_TEST_APT") == "1" and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], check=False)
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium on this machine (APP_TEST_APT=1 lets this test install Debian's)")
    return found


def browse(chromium: str, home: Path, page: Path, *more: str) -> subprocess.CompletedProcess:
    """Dump the page as it is after its scripts ran; its console is on stderr."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={home}"]
    command = [chromium, *options, *more, f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_its_sliders_move_in_a_browser_without_a_console_message(page, chromium, tmp_path):
    checked = tmp_path / "checked.html"
    checked.write_text(page.read_text().replace("</body>", CHECK + "</body>"))
    done = browse(chromium, tmp_path / "home", checked, "--dump-dom")
    assert console(done) == []
    found = re.search(r"<title>checked (.*?)</title>", done.stdout)
    assert found, "the check ran"
    assert found[1] == (
        '[["measured","inset(0px 50% 0px 0px)",48],["measured","inset(0px 80% 0px 0px)",48],'
        '["clean","inset(0px 80% 0px 0px)",48]]'
    )


def test_the_browser_would_report_an_error(page, chromium, tmp_path):
    """The test above can fail: a script that throws and an image from the network are both on the console."""
    broken = tmp_path / "broken.html"
    wrong = '<img src="https://example.org/a.png"><script>undefined_function()</script></body>'
    broken.write_text(page.read_text().replace("</body>", wrong))
    messages = " ".join(console(browse(chromium, tmp_path / "home", broken, "--dump-dom")))
    assert "undefined_function" in messages
    assert "Content Security Policy" in messages


def test_a_screenshot_shows_the_page_in_light_and_dark(page, chromium, tmp_path):
    means = []
    for name, more in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
        shot = tmp_path / f"{name}.png"
        browse(chromium, tmp_path / name, page, f"--screenshot={shot}", "--window-size=1000,1400", *more)
        pixels = np.asarray(Image.open(shot).convert("L"))
        assert pixels.std() > 10, "not a blank page"
        means.append(float(np.median(pixels)))
    assert means[0] > 200 > 60 > means[1]
