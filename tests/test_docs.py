"""The documentation is what the code says, and its examples run."""

import re
from pathlib import Path

import jax
import pytest

from normres.bench import page

ROOT = Path(__file__).resolve().parent.parent


def test_the_norms_page_holds_the_tables_of_the_code():
    computed = re.search(
        r"<!-- begin generated -->\n(.*)<!-- end generated -->", (ROOT / "docs/norms.md").read_text(), re.S
    )
    assert computed, "the markers are gone"
    assert computed[1].strip() == page.text().strip(), "run: normres bench norms --markdown"


@pytest.mark.parametrize("file", ["README.md", "docs/norms.md", "docs/data.md"])
def test_the_examples_run(file):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.S)
    assert blocks
    with jax.numpy_rank_promotion("allow"):  # as a user has it
        exec(compile("\n".join(blocks), file, "exec"), {})
