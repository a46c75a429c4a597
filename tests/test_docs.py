"""Every Python snippet of the other pages in docs/ is run as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path.name: path.read_text() for path in DOCS.glob("*.md") if path.stem != "equivalences"}
SNIPPETS = [
    pytest.param(page, code, id=f"{page}:{text.count(chr(10), 0, match.start()) + 1}")
    for page, text in PAGES.items()
    for match in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    for code in match.groups()
]


@pytest.mark.parametrize(("page", "code"), SNIPPETS)
def test_python(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})


def test_there_is_something_to_run():
    assert {snippet.values[0] for snippet in SNIPPETS} == {"data.md", "neighborhoods.md"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (DOCS / target).exists(), target
