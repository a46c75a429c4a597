"""Every code block of docs/equivalences.md is run as it stands, in order, in one namespace."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "equivalences.md"
TEXT = PAGE.read_text()


class Block(NamedTuple):
    """A block of code, the line of the page in front of it, and the heading above it."""

    code: str
    line: int
    heading: str

    @property
    def name(self):
        """What pytest reports: the heading's words and the line where the code starts."""
        words = re.findall(r"\w+", self.heading.lower())
        return f"{'-'.join(words[:4])}:line-{self.line + 1}"


def find_blocks(text):
    return [
        Block(
            match[1],
            line=text.count("\n", 0, match.start(1)),
            heading=re.findall(r"^##? (.*)$", text[: match.start()], flags=re.MULTILINE)[-1],
        )
        for match in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    ]


def run_blocks(blocks):
    """Returns for each block the exception it raised, or None."""
    namespace: dict[str, Any] = {}
    errors: dict[Block, Exception | None] = {}
    before = torch.get_default_dtype()
    try:
        for block in blocks:
            try:
                # The empty lines make tracebacks point to the page's own lines.
                exec(compile("\n" * block.line + block.code, str(PAGE), "exec"), namespace)
                errors[block] = None
            except Exception as error:
                errors[block] = error
    finally:  # the prologue sets another default
        torch.set_default_dtype(before)
    return errors


BLOCKS = find_blocks(TEXT)


@pytest.fixture(scope="module")
def errors():
    return run_blocks(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block(block, errors):
    if errors[block] is not None:
        raise errors[block]


@pytest.mark.parametrize("number", range(1, 8))
def test_every_statement_is_checked_by_code(number):
    codes = [block.code for block in BLOCKS if block.heading.startswith(f"{number}. ")]
    assert any("same(" in code for code in codes)


def test_a_failing_block_is_located_and_leaves_the_default_dtype_alone():
    broken = find_blocks(
        "# One\n```python\nimport torch\ntorch.set_default_dtype(torch.float64)\n```\n"
        "## Two\n```python\nx = torch.ones(1)\nassert x.dtype == torch.float32\n```\n"
        "```python\nx += 1\n```\n"
    )
    first, second, third = run_blocks(broken).values()
    assert first is None
    assert isinstance(second, AssertionError)
    assert second.__traceback__ is not None
    assert second.__traceback__.tb_next is not None
    assert second.__traceback__.tb_next.tb_lineno == 9
    assert third is None  # the blocks behind it are still reported
    assert broken[1].name == "two:line-8"
    assert torch.get_default_dtype() == torch.float32


def test_images_and_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert sum(target.endswith(".png") for target in targets) >= 5
    for target in targets:
        assert (PAGE.parent / target).is_file(), target
