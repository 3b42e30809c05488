"""The Python of README and docs/BLACKBOX.md runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def snippets():
    for page in ("README.md", "docs/BLACKBOX.md"):
        blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(block for block in blocks if "import deepzero" in block):
            yield pytest.param(block, id=f"{page}-{number}")


def test_there_are_snippets():
    assert len(list(snippets())) == 2


@pytest.mark.parametrize("snippet", list(snippets()))
def test_snippets_run(snippet, capsys):
    exec(compile(snippet, "snippet", "exec"), {})
    assert capsys.readouterr().out
