"""The report: a page that tells a run's numbers, stands alone, and lets no document speak for itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from pipeline.report import report
from tests.conftest import Cli


class Page(HTMLParser):
    """What a browser would make of it: tags, and the text of table cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "td" and data.strip():
            self.cells.append(data.strip())


def test_the_page_tells_the_funnel_and_why_and_escapes_what_documents_say(cli: Cli, tmp_path: Path) -> None:
    lines = ["<script>alert(1)</script> SHOUTING AT YOU AND YOU AND YOU \u001b[31m", "calm words stay here"]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines) + "\nno json\n")
    (tmp_path / "r.yaml").write_text(
        "max_bad: 0.5\nstages:\n  - use: ingest\n    inputs: [in.jsonl]\n"
        "  - use: toy_stages:NoShouting\n    max_upper: 0.3\n"
    )
    done = cli("run", "r.yaml", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    html = (tmp_path / "out/report.html").read_text("utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "\x1b" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert page.cells[:5] == ["01-ingest", "3", "2", "0", "1"]
    assert "upper" in page.cells
    assert re.search(r"invalid_json\s+1", html)
    assert cli("report", "out", "--to", "page.html").returncode == 0
    assert (tmp_path / "page.html").read_text("utf-8") == html
    assert cli("report", "nowhere").returncode == 2


def test_the_loss_is_drawn(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("stages:\n  - use: toy_stages:Make\n")
    assert cli("run", "r.yaml", "--out", "out").returncode == 0
    losses = [9.0, float("nan"), 5.0, 3.0]
    news = [{"step": k, "steps": 4, "tokens": 10 * k, "loss": loss} for k, loss in enumerate(losses, 1)]
    metrics = tmp_path / "out/01-make/metrics.jsonl"
    metrics.write_text("".join(json.dumps(one) + "\n" for one in news))
    html = report(tmp_path / "out")
    assert re.findall(r'<polyline points="(.*?)"', html) == ["0.0,0.0 480.0,133.3 720.0,200.0"]
    assert "loss, nats per token: 3 at the end" in html
