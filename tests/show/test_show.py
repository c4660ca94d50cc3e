"""`normres show`: published counts, words that are what runs, and a picture that tells networks apart."""

import functools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from normres import cli, layers
from normres.data import sources
from normres.models.resnet import Block, ResNet, count_parameters
from normres.models.variants import ORDERS, SHORTCUTS, ResNetConfig
from normres.show import commands, count, diagram, svg, table, words

IMAGENET = {"layout": "imagenet", "width": 64, "shortcut": "B", "classes": 1000}
BOTTLENECK = {**IMAGENET, "block": "bottleneck"}
WIDE = {"layout": "wide", "stem_width": 16, "order": "pre", "shortcut": "B"}
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


@functools.cache
def parts(**fields):
    size = 224 if fields.get("layout") == "imagenet" else 32
    return count.parts(ResNetConfig(**fields), (size, size, 3))


def test_resnet20_is_counted_as_by_hand():
    stem, *stages, classifier = parts(depth=20, dtype=BFLOAT16, remat="elementwise")
    # Multiply-adds of a 3x3 convolution are positions x 9 x inputs x outputs.  Stem: 1,024 * 9 * 3 * 16.  Every other
    # convolution has 1,024 * 9 * 16 * 16 = 256 * 9 * 32 * 32 = 64 * 9 * 64 * 64 = 2,359,296, six in a stage, but the
    # one that doubles the channels has half of it.
    one = 2_359_296
    assert [part.multiply_adds for part in (stem, *stages, classifier)] == [442_368, 6 * one, 5.5 * one, 5.5 * one, 640]
    # Kernels 9 * inputs * outputs, and two parameters of the norm for each output.
    assert stem.parameters == 9 * 3 * 16 + 2 * 16
    assert [part.parameters for part in stages] == [
        6 * (9 * 16 * 16 + 2 * 16),
        9 * 16 * 32 + 5 * 9 * 32 * 32 + 6 * 2 * 32,
        9 * 32 * 64 + 5 * 9 * 64 * 64 + 6 * 2 * 64,
    ]
    assert classifier.parameters == 64 * 10 + 10
    assert [part.output for part in (stem, *stages, classifier)] == [
        (32, 32, 16),
        (32, 32, 16),
        (16, 16, 32),
        (8, 8, 64),
        (10,),
    ]
    assert [part.blocks for part in (stem, *stages, classifier)] == [0, 3, 3, 3, 0]
    # A block keeps its input and what its two convolutions put out, at 2 bytes.  The first one of stages 2 and 3 reads
    # twice as many.
    sizes = (1_024 * 16, 256 * 32, 64 * 64)
    assert [part.kept_bytes for part in stages] == [3 * 6 * sizes[0], 20 * sizes[1], 20 * sizes[2]]
    # Stem, of which nothing is computed anew: the image, the norm's three arrays in float32 (the input less its first
    # mean, less its mean, and standardized) and the ReLU's mask.  Classifier: 64 pooled features in float32.
    assert stem.kept_bytes == 1_024 * (3 * 2 + 16 * (3 * 4 + 1))
    assert classifier.kept_bytes == 64 * 4


@pytest.mark.parametrize(
    ("fields", "multiply_adds", "parameters"),
    [
        # Multiply-adds and parameters in millions, as published to as many digits.
        # He et al. 2015: parameters of table 6.  Multiply-adds as they are quoted for these networks.
        ({"depth": 20}, "41", "0.27"),
        ({"depth": 20, "shortcut": "B"}, "40.8", "0.27"),
        ({"depth": 56}, "125", "0.85"),
        ({"depth": 110}, "253", "1.7"),
        # He et al. 2015, table 1, says 1.8, 3.6, 3.8, 7.6 and 11.3 thousand million, with the stride in the first
        # convolution; with it in the 3x3 one, as torchvision has it: 1.81, 3.66, 4.09, 7.80, 11.51, ResNeXt 4.23.
        ({**IMAGENET, "depth": 18}, "1814", "11.69"),
        ({**IMAGENET, "depth": 34}, "3664", "21.80"),
        ({**BOTTLENECK, "depth": 50}, "4089", "25.56"),
        ({**BOTTLENECK, "depth": 50, "stride_at": "first"}, "3858", "25.56"),
        ({**BOTTLENECK, "depth": 101}, "7801", "44.55"),
        ({**BOTTLENECK, "depth": 152}, "11514", "60.19"),
        ({**BOTTLENECK, "depth": 50, "inner_width": 128, "cardinality": 32}, "4230", "25.03"),
        # Zagoruyko, Komodakis 2016: 36.5 M parameters, 5.2 thousand million.
        ({**WIDE, "depth": 28, "width": 160}, "5243", "36.5"),
    ],
)
def test_counts_are_the_published_ones(fields, multiply_adds, parameters, monkeypatch):
    monkeypatch.setattr(count, "_kept", lambda *_: 0)  # which takes most of the time
    found = parts.__wrapped__(**fields)

    def millions(name, digits):
        return f"{sum(getattr(part, name) for part in found) / 1e6:.{digits}f}"

    assert millions("multiply_adds", len(multiply_adds.partition(".")[2])) == multiply_adds
    assert millions("parameters", len(parameters.partition(".")[2])) == parameters


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"order": "pre", "shortcut": "exclusive_gate", "auxiliary": (1, 2)},
        {"block": "bottleneck", "depth": 20, "shortcut": "B", "squeeze": 4, "norm": "switchable", "axis_name": "data"},
        {"norm": "none", "residual_scale": "fixup", "weights": "spectral"},
    ],
)
def test_parameters_are_those_of_an_initialized_network(fields, monkeypatch):
    monkeypatch.setattr(count, "_kept", lambda *_: 0)
    config = ResNetConfig(**{"depth": 14, "width": 4, "norm_groups": 4, **fields})
    initialize = jax.jit(ResNet(config).init, compiler_options={"xla_backend_optimization_level": 0})
    # One is made, of the others the shapes: compiling takes seconds.
    run = initialize if not fields else lambda *given: jax.eval_shape(initialize, *given)
    params = run(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    assert sum(part.parameters for part in count.parts(config, (8, 8, 3))) == count_parameters(params)


def test_activations_halve_with_bfloat16_and_shrink_with_rematerialization():
    def kept(**fields):
        return parts(depth=20, **fields)[1].kept_bytes

    array = 32 * 32 * 16 * 2
    assert kept(remat="elementwise", dtype=BFLOAT16) == 3 * 3 * array  # as counted above
    assert kept(remat="elementwise", dtype=FLOAT32) == 3 * 3 * array * 2
    assert kept(remat="block", dtype=BFLOAT16) == 3 * array
    # The inputs of two convolutions, three float32 arrays for each of two norms and two masks of a byte.
    assert kept(remat="nothing", dtype=BFLOAT16) == 3 * (2 + 2 * 3 * 2 + 1) * array


def watched(config):
    """Returns what a block of the third stage runs, in order, watched on the network."""
    events, inside = [], [False]
    kinds = {layers.Conv: "conv", layers.Norm: "norm", nn.Dropout: "dropout", nn.Dense: "gate"}

    def watch(call, args, kwargs, context):
        module, kind = context.module, kinds.get(type(context.module))
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, Block) and module.name == "stage3_rest":
            inside[0] = True
            events.clear()  # a scan traces its body more than once
            result = call(*args, **kwargs)
            inside[0] = False
            return result
        if inside[0] and kind and not (kind == "norm" and config.norm == "none"):
            events.append(f"shortcut {kind}" if "shortcut" in module.name else kind)
        if inside[0] and kwargs.get("activation") == "relu" and not config.norm_spec.activation:
            events.append("relu")
        return call(*args, **kwargs)

    def activation(x, name):
        if inside[0] and name != "identity":
            events.append(name)
        return layers.PLAIN.activation(x, name)

    network = ResNet(config, ops=layers.PLAIN._replace(activation=activation))
    with nn.intercept_methods(watch):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return events


CASES = [{"order": order, "shortcut": shortcut} for order in ORDERS for shortcut in ("none", "A", "C")]
CASES += [{"shortcut": shortcut} for shortcut in SHORTCUTS if shortcut not in ("none", "A", "C")]
CASES += [{"order": order, "norm": norm} for order in ORDERS for norm in ("filter_response", "none")]
CASES += [{"order": "pre", "block": "bottleneck", "depth": 20, "dropout": 0.3}]


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_the_words_are_what_runs(fields):
    config = ResNetConfig(**{"depth": 14, "width": 8, **fields})
    drawn = words.block(config)
    own = config.norm == "filter_response"
    said = [step.kind for step in (*drawn.lead, *drawn.branch) if step.text != words.OWN]
    for step in drawn.shortcut or ():
        if not step.where_changed and step.kind != "scale":
            said.append("gate" if step.kind == "gate" else f"shortcut {step.kind}")
    said += [step.kind for step in drawn.after if step.text != words.OWN]
    # The two factors of exclusive gating are one gate; constants are no module.
    said = [kind for kind in said if kind != "scale"]
    if config.shortcut == "exclusive_gate":
        said.remove("gate")
    found = watched(config)
    # The two paths are taken in any order: the addition may be part of the branch's last norm.
    by_path = [sorted(kinds, key=lambda kind: kind.startswith("shortcut")) for kinds in (found, said)]
    assert by_path[0] == by_path[1]
    assert own == any(step.text == words.OWN for step in (*drawn.lead, *drawn.branch, *drawn.after))


@pytest.mark.parametrize(
    ("norm", "expected", "coloured"),
    [
        # The cube has 6 channels, 4 positions, 4 examples; of a coloured box a x b x c its three faces are seen.
        ("batch", ["N×32×32"], 4 + 4 * 4 + 4),
        ("instance", ["32×32"], 4 + 4 + 1),
        ("layer", ["32×32×C"], 6 * 4 + 4 + 6),
        ("group", ["32×32×C/8"], 2 * 4 + 4 + 2),
        ("positional", ["C"], 6 + 1 + 6),
        ("ghost_batch", ["N/4×32×32"], 4 + 4 * 2 + 2),
        ("NHC", ["N×32×C/8"], 2 * 4 + 4 * 4 + 2 * 4),
        ("switchable", ["N×32×32", "32×32", "32×32×C"], 24 + 9 + 34),
        ("local_response", [], 0),
        ("none", [], 0),
    ],
)
def test_axes_of_a_norm_in_words_and_as_a_cube(norm, expected, coloured):
    config = ResNetConfig(norm=norm)
    assert table.reductions(config, 32, 32) == expected
    assert diagram.draw(config, SOME).count(f'fill="{svg.VERMILION}" fill-opacity="0.6"') == coloured


SOME = tuple(
    count.Part(name, blocks, output, (output[0], output[0]) if blocks else None, 1, 1, 1)
    for name, blocks, output in [
        ("stem", 0, (32, 32, 16)),
        ("stage 1", 3, (32, 32, 16)),
        ("stage 2", 3, (16, 16, 32)),
        ("stage 3", 3, (8, 8, 64)),
        ("classifier", 0, (10,)),
    ]
)
SVG = "{http://www.w3.org/2000/svg}"


def column(**fields):
    """Returns what stands on the branch of the picture from top to bottom, and what stands on the shortcut."""
    root = ElementTree.fromstring(diagram.draw(ResNetConfig(**fields), SOME))
    main, side = [], []
    for group in root.iter(f"{SVG}g"):
        kind = group.get("class")
        if kind == "adder":
            circle = group.find(f"{SVG}circle")
            assert float(circle.get("cx")) == diagram.MAIN
            main.append((float(circle.get("cy")), "+"))
        elif kind.startswith("step "):
            box = group.find(f"{SVG}rect")
            center = float(box.get("x")) + float(box.get("width")) / 2
            (main if center == diagram.MAIN else side).append((float(box.get("y")), kind.removeprefix("step ")))
    paths = [path for path in root.iter(f"{SVG}path") if path.get("class") == "shortcut"]
    return [kind for _, kind in sorted(main)], [kind for _, kind in sorted(side)], len(paths)


def test_the_picture_tells_plain_post_and_pre_apart():
    # He et al. 2016, figure 4.
    assert column(shortcut="none") == (["conv", "norm", "relu", "conv", "norm", "relu"], [], 0)
    assert column() == (["conv", "norm", "relu", "conv", "norm", "+", "relu"], ["pad"], 1)
    assert column(order="norm_after_addition")[0] == ["conv", "norm", "relu", "conv", "+", "norm", "relu"]
    assert column(order="relu_before_addition")[0] == ["conv", "norm", "relu", "conv", "norm", "relu", "+"]
    assert column(order="relu_only_pre")[0] == ["relu", "conv", "norm", "relu", "conv", "norm", "+"]
    assert column(order="pre") == (["norm", "relu", "conv", "norm", "relu", "conv", "+"], ["pad"], 1)


def test_the_picture_shows_what_stands_on_the_shortcut():
    assert column(shortcut="B")[1] == ["conv", "norm"]
    assert column(shortcut="C", order="pre")[1] == ["conv"]
    assert column(shortcut="exclusive_gate")[:2] == (
        ["conv", "norm", "relu", "conv", "norm", "gate", "+", "relu"],
        ["pad", "gate"],
    )
    assert column(shortcut="constant_both")[0].count("scale") == column(shortcut="constant_both")[1].count("scale") == 1
    assert column(shortcut="dropout")[1] == ["pad", "dropout"]


EVERYTHING = {
    "depth": 20,
    "squeeze": 16,
    "residual_scale": "fixup",
    "stochastic_depth": 0.5,
    "dropout": 0.3,
    "weights": "scaled_standardized",
    "auxiliary": (1, 2),
    "cardinality": 32,
    "inner_width": 1024,
    "width": 512,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_picture_is_well_formed_and_its_boxes_lie_apart(order, shortcut):
    config = ResNetConfig(block="bottleneck", order=order, shortcut=shortcut, norm="batch_instance", **EVERYTHING)
    root = ElementTree.fromstring(diagram.draw(config, SOME))
    assert root.find(f"{SVG}title").text.startswith("plain" if shortcut == "none" else "residual")
    assert root.find(f"{SVG}desc").text.startswith("stem: 3×3 conv, norm, ReLU.")
    width, height = (float(root.get(side)) for side in ("width", "height"))
    assert width <= 400
    boxes = []
    for group in root.iter(f"{SVG}g"):
        if group.get("class").startswith("step "):
            x, y, w, h = (float(group.find(f"{SVG}rect").get(side)) for side in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h))
            for text in group.iter(f"{SVG}text"):
                assert svg.LETTER * svg.FONT * len(text.text) <= w, text.text
                assert y < float(text.get("y")) < y + h
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert right <= width
        assert top >= 0
        assert bottom <= height
        for other in boxes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    assert min(float(text.get("font-size")) for text in root.iter(f"{SVG}text")) >= 11  # at 400 pixels


def show(*arguments):
    return cli.main(["show", "--config=configs/base.py", "--config.train.dtype=bfloat16", *arguments])


def row(name, said):
    """Returns the cells of a row of the printed table, which stand two spaces apart."""
    line = next(line for line in said.splitlines() if line.startswith(f"{name} "))
    return re.split(r"\s{2,}", line)[1:]


def test_the_command_prints_the_table_and_draws(tmp_path, capsys):
    path = tmp_path / "net.svg"
    assert show("--config.model.norm=group", "--config.model.order=pre", f"--svg={path}") == 0
    said = capsys.readouterr().out
    # 9 * 16 * 32 + 5 * 9 * 32 * 32 of kernels; norms of 16 channels once and of 32 five times.
    assert row("stage 2", said)[:4] == ["3", "16×16×32", "51,040", "13.0 M"]
    assert row("stage 2", said)[-1] == "16×16×C/8"
    assert "block       norm, ReLU, 3×3 conv, norm, ReLU, 3×3 conv, + shortcut" in said
    assert said.splitlines()[-1] == str(path)
    assert ElementTree.parse(path).getroot().tag == f"{SVG}svg"


def test_long_lines_are_wrapped():
    config = ResNetConfig(order="norm_after_addition", shortcut="C", norm="group", dropout=0.3, dtype=BFLOAT16)
    said = table.text(config, (32, 32, 3), SOME).splitlines()
    assert "order norm_after_addition (norm after addition); shortcut: projection always (C), 1x1 convolution;" in said
    assert max(map(len, said)) <= 100


def test_every_data_set_has_its_images_and_classes(capsys, monkeypatch):
    monkeypatch.setattr(count, "_kept", lambda *_: 0)
    assert set(commands.CLASSES) == set(sources.NAMES)
    assert show("--config.data.name=cifar100") == 0
    # 64 * 100 + 100 parameters of the classifier.
    assert row("classifier", capsys.readouterr().out)[1:3] == ["100", "6,500"]
    own = ("--config.data.source=folder", "--config.data.path=.", "--config.data.name=flowers")
    assert show(*own, "--config.data.image_size=64") == 0
    assert "one image of 64×64×3, 10 classes" in capsys.readouterr().out


def test_help_says_how(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["show", "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert all(needed in said for needed in ("--config", "--svg", "--image", "--config.FIELD=VALUE", "example:"))


def test_imagenet_layouts_are_shown_for_imagenet(capsys, monkeypatch):
    monkeypatch.setattr(count, "_kept", lambda *_: 0)
    fields = ("layout=imagenet", "block=bottleneck", "depth=50", "width=64", "shortcut=B")
    assert show(*(f"--config.model.{field}" for field in fields)) == 0
    said = capsys.readouterr().out
    assert row("sum", said)[1:3] == ["25,557,032", "4.09 G"]
    # The stem's norm stands before the pooling.
    assert [row("stem", said)[index] for index in (1, -1)] == ["56×56×64", "N×112×112"]
    assert show(*(f"--config.model.{field}" for field in fields), "--image=32x32x3") == 0
    assert row("stage 4", capsys.readouterr().out)[:2] == ["3", "1×1×2048"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.model.ordr=pre", "did you mean 'model.order'?"),
        ("--svg=net.png", "ends in .svg"),
        ("--svg=nowhere/net.svg", "there is no directory nowhere"),
        ("--image=32x32", "write HxWxC"),
        ("--image=0x32x3", "write HxWxC"),
        ("--svgg=net.svg", "did you mean '--svg'?"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(argument, message, capsys, tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["show", f"--config={root / 'configs/base.py'}", argument]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
