"""A network of the user's: what it is told, and what is refused in one line."""

import pytest
from small_run import config, programs

from normres import files
from normres.errors import UserError
from normres.training.networks import build_network

HEAD = "import flax.linen as nn\n\n\nclass Net(nn.Module):\n    classes: int\n"
CALL = "\n    @nn.compact\n    def __call__(self, x, train):\n        return "
LOGITS = "nn.Dense(10)(x.mean((1, 2)))"


@pytest.fixture
def module(tmp_path):
    """Writes a file and returns the fields of a config with its module."""

    def written(text):
        (tmp_path / "net.py").write_text(text)
        return {"model__module": f"{tmp_path / 'net.py'}:Net"}

    return written


@pytest.mark.parametrize(("parallel", "axis"), [("pmap", "data"), ("jit", None)])
def test_it_is_told_what_its_norms_merge_over(module, parallel, axis):
    merging = module(f"{HEAD}    axis_name: str | None = None\n{CALL}{LOGITS}\n")
    assert build_network(config(train__parallel=parallel, **merging), 10, "float32").module.axis_name == axis


def test_each_file_finds_its_own_neighbour(tmp_path):
    widths, digests = [], []
    for folder, width in (("one", 4), ("two", 32), ("one", 4)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "blocks_beside.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "net.py").write_text("from blocks_beside import WIDTH\n")
        widths.append(files.load(str(tmp_path / folder / "net.py")).WIDTH)
        digests.append(files.digest(tmp_path / folder / "net.py"))
    assert widths == [4, 32, 4]
    assert digests[0] == digests[2] != digests[1]  # although the two files are equal


def test_its_annotations_may_be_texts(tmp_path):
    (tmp_path / "future_net.py").write_text(f"from __future__ import annotations\n{HEAD}{CALL}{LOGITS}\n")
    assert files.load(str(tmp_path / "future_net.py")).Net(classes=3).classes == 3


def test_a_field_that_a_run_does_not_know_needs_a_default_value(module):
    with pytest.raises(UserError, match=r"net\.py:Net': its field 'width' needs a default value"):
        build_network(config(**module(f"{HEAD}    width: int\n{CALL}{LOGITS}\n")), 10, "float32")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        # It trained, on 7 of 10 classes.
        ("nn.Dense(7)(x.mean((1, 2)))", r"returns an array \(2, 7\) .* logits \(2, 10\)"),
        ("nn.Dense(10)(x)", r"returns an array \(2, 8, 8, 10\)"),
        (f"({LOGITS}, x)", "returns a tuple"),
        (f"({LOGITS},) * 2 if train else {LOGITS}", "returns a tuple .* in training"),
        (f"{LOGITS}.astype(int)", r"returns an array \(2, 10\) of int32 .* in evaluation"),
        ("nn.Dense(10, param_dtype='bfloat16')(x.mean((1, 2)))", r"Dense_0\.bias is bfloat16; .* must be float32"),
        ("x.mean((1, 2)) @ x.mean((1, 2)).T", "has no parameters"),
    ],
)
def test_without_float32_parameters_or_logits_it_is_refused(module, returned, words):
    with pytest.raises(UserError, match=words):
        programs(**module(f"{HEAD}{CALL}{returned}\n")).initial_state()
