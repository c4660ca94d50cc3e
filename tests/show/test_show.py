"""`normres show`: published counts, words that are what runs, any Flax module, and a picture that says the same."""

import functools
import re
from xml.etree import ElementTree

import flax.linen as nn
import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from normres import cli, layers
from normres.models.resnet import ResNet
from normres.models.stylizer import Stylizer, StylizerConfig
from normres.models.variants import ResNetConfig
from normres.norms import find_spec
from normres.show import picture, table
from normres.show.count import count
from normres.show.watch import Call, Op, reductions

BOTTLENECK = {"layout": "imagenet", "width": 64, "shortcut": "B", "classes": 1000, "block": "bottleneck"}
WIDE = {"layout": "wide", "stem_width": 16, "order": "pre", "shortcut": "B"}


@functools.cache
def resnet(**fields):
    size = 224 if fields.get("layout") == "imagenet" else 32
    return count(ResNet(ResNetConfig(**fields)), (size, size, 3))


def test_resnet20_is_counted_as_by_hand():
    stem, *stages, classifier = resnet(depth=20).parts
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
    outputs = [(32, 32, 16), (32, 32, 16), (16, 16, 32), (8, 8, 64), (10,)]
    assert [part.output for part in (stem, *stages, classifier)] == outputs
    assert [part.blocks for part in (stem, *stages, classifier)] == [0, 3, 3, 3, 0]


@pytest.mark.parametrize(
    ("fields", "multiply_adds", "parameters"),
    [
        # Multiply-adds and parameters in millions, as published to as many digits.
        # He et al. 2015: parameters of table 6.  Multiply-adds as they are quoted for these networks.
        ({"depth": 20}, "41", "0.27"),
        # As for ResNet-20 by hand: 0.442 M of the stem, and 1,199 times 2.359 M.
        ({"depth": 1202}, "2829", "19.4"),
        # He et al. 2015, table 1, says 3.8 thousand million, with the stride in the first convolution; ResNeXt with it
        # in the 3x3 one, as torchvision has it: 4.23.
        ({**BOTTLENECK, "depth": 50, "stride_at": "first"}, "3858", "25.56"),
        ({**BOTTLENECK, "depth": 50, "inner_width": 128, "cardinality": 32}, "4230", "25.03"),
        # Zagoruyko, Komodakis 2016: 36.5 M parameters, 5.2 thousand million.
        ({**WIDE, "depth": 28, "width": 160}, "5243", "36.5"),
    ],
)
def test_counts_are_the_published_ones(fields, multiply_adds, parameters):
    counts = resnet(**fields)
    for published, counted in ((multiply_adds, counts.total.multiply_adds), (parameters, counts.total.parameters)):
        assert f"{counted / 1e6:.{len(published.partition('.')[2])}f}" == published


class VGG(nn.Module):
    """VGG-16 with batch norm, in Flax's own layers: no blocks, biases, a field `train`."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        for convolutions, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
            for _ in range(convolutions):
                x = nn.relu(nn.BatchNorm(not self.train)(nn.Conv(channels, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.Dropout(0.5)(nn.relu(nn.Dense(4096)(x)), deterministic=not self.train)
        return nn.Dense(1000)(x)


def test_vgg16_is_counted_as_torchvision_counts_it():
    counts = count(VGG(), (224, 224, 3))
    assert counts.total.parameters == 138_365_992
    assert f"{counts.total.multiply_adds / 1e9:.2f}" == "15.47"
    assert counts.layers == 16
    assert [part.blocks for part in counts.parts] == [2, 2, 3, 3, 3, 0]
    assert [part.output for part in counts.parts[-2:]] == [(7, 7, 512), (1000,)]
    assert [block.line for block in counts.blocks] == ["3×3 conv, norm, ReLU"]
    assert dict(table.order(counts))["classifier"] == "dense, ReLU, dropout 0.5, dense, ReLU, dropout 0.5, dense"
    assert "plain network" in table.headline(counts)


@pytest.mark.parametrize("condition", ["none", "picture"])
def test_a_stylizer_is_residual_whatever_its_condition(condition):
    counts = count(Stylizer(StylizerConfig(depth=8, width=4, classes=1, condition=condition)), (8, 8, 3))
    assert table.headline(counts).startswith("residual network")


class Unit(nn.Module):
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.GroupNorm(4)(nn.Conv(self.channels, (3, 3), self.stride, use_bias=False)(x))


class Residual(nn.Module):
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        y = Unit(self.channels)(nn.silu(Unit(self.channels, self.stride)(x)))
        if self.stride > 1:
            x = nn.avg_pool(x, (2, 2), (2, 2))
            x = nn.Conv(self.channels, (1, 1), use_bias=False)(x)
        return nn.relu(x + y * nn.sigmoid(nn.Dense(self.channels)(y.mean((1, 2), keepdims=True))))


class Stage(nn.Module):
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x):
        x = Residual(self.channels, self.stride)(x)
        x = Residual(self.channels)(x)
        return nn.scan(
            lambda block, x, _: (block(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
        )(Residual(self.channels), x, None)[0]


class Own(nn.Module):
    """Stages of blocks of units, each a module of its own, and an argument `train`."""

    @nn.compact
    def __call__(self, x, train):
        assert train
        x = nn.relu(Unit(8)(x))
        for stage, channels in enumerate((8, 16)):
            x = Stage(channels, stage + 1)(x)
        return nn.Dense(10)(x.mean((1, 2)))


def test_a_users_own_module_is_watched_like_the_resnet():
    counts = count(Own(), (16, 16, 3))
    assert [part.name for part in counts.parts] == ["stem", "stage 1", "stage 2", "classifier"]
    assert [part.blocks for part in counts.parts] == [0, 7, 7, 0]
    gate = "× gate (global average, dense, sigmoid)"
    assert {block.line: block.times for block in counts.blocks} == {
        f"3×3 conv, norm, silu, 3×3 conv, norm, {gate}, + identity, ReLU": 13,
        f"3×3 conv / 2, norm, silu, 3×3 conv, norm, {gate}, + (2×2 average pool / 2, 1×1 conv), ReLU": 1,
    }
    # 14 convolutions of 8 channels, each with a norm, and 7 gates of 8 * 8 weights and 8 biases.
    assert counts.parts[1].parameters == 14 * (9 * 8 * 8 + 2 * 8) + 7 * (8 * 8 + 8)
    assert counts.parts[1].multiply_adds == 14 * 256 * 9 * 8 * 8 + 7 * 8 * 8


class Fused(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = layers.Norm(find_spec("layer"))(nn.Conv(8, (3, 3))(x), residual=x, activation="relu")
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_an_addition_and_a_relu_inside_a_norm_are_seen():
    counts = count(Fused(), (8, 8, 3))
    assert counts.blocks[-1].line == "3×3 conv, norm, + identity, ReLU"
    assert counts.layers == 3


# He et al. 2016, figure 4 and table 1.
CONV_NORM, PRE = "3×3 conv, norm", "norm, ReLU, 3×3 conv, norm, ReLU, 3×3 conv"
LINES = [
    ({"order": "norm_after_addition"}, f"{CONV_NORM}, ReLU, 3×3 conv, + identity, norm, ReLU"),
    ({"order": "relu_only_pre"}, f"ReLU, {CONV_NORM}, ReLU, {CONV_NORM}, + identity"),
    ({"order": "pre", "shortcut": "C"}, f"{PRE}, + 1×1 conv of (norm, ReLU)"),
    ({"order": "pre", "norm": "filter_response"}, f"{PRE}, + identity".replace(", ReLU", " with own nonlinearity")),
    ({"order": "pre", "norm": "none"}, "ReLU, 3×3 conv, ReLU, 3×3 conv, + identity"),
    ({"order": "pre", "dropout": 0.3}, "norm, ReLU, 3×3 conv, norm, ReLU, dropout 0.3, 3×3 conv, + identity"),
    ({"shortcut": "none"}, f"{CONV_NORM}, ReLU, {CONV_NORM}, ReLU"),
    ({"shortcut": "constant_both"}, f"{CONV_NORM}, ReLU, {CONV_NORM}, × 0.5, + × 0.5, ReLU"),
    (
        {"shortcut": "exclusive_gate"},
        f"{CONV_NORM}, ReLU, {CONV_NORM}, × gate (dense, sigmoid), + × gate (dense, sigmoid), ReLU",
    ),
    ({"residual_scale": "skipinit"}, f"{CONV_NORM}, ReLU, {CONV_NORM}, × learned, + identity, ReLU"),
    ({"stochastic_depth": 0.5}, f"{CONV_NORM}, ReLU, {CONV_NORM}, × random, + identity, ReLU"),
    ({"auxiliary": (1, 2)}, f"{CONV_NORM}, ReLU, {CONV_NORM}, + identity, ReLU"),
    (
        {"unrolled": True, "remat": "block", "order": "relu_before_addition"},
        f"{CONV_NORM}, ReLU, {CONV_NORM}, ReLU, + identity",
    ),
]


@pytest.mark.parametrize(("fields", "expected"), LINES, ids=lambda value: str(value))
def test_a_block_in_words_is_the_papers(fields, expected):
    most_frequent, *others = resnet(depth=14, **fields).blocks
    assert most_frequent.line == expected
    assert sum(block.times for block in (most_frequent, *others)) == 6


@pytest.mark.parametrize(
    ("norm", "shape", "expected"),
    [
        ("batch", (8, 8, 16), ["N×8×8"]),
        ("group", (8, 8, 16), ["8×8×C/8"]),
        ("ghost_batch", (8, 8, 16), ["N/4×8×8"]),
        ("NHC", (8, 8, 16), ["N×8×C/8"]),
        ("switchable", (8, 8, 16), ["N×8×8", "8×8", "8×8×C"]),
        ("local_response", (8, 8, 16), []),
        ("layer", (64,), ["H×W×C"]),  # after a dense layer there is no height
    ],
)
def test_axes_of_a_norm_in_words(norm, shape, expected):
    call = Call((), reductions=reductions(layers.Norm(find_spec(norm))))
    assert table.averaged_over(Op("norm", "", (), shape, (), call, times=1)) == expected


@pytest.mark.parametrize("shortcut", ["C", "none"])
def test_the_picture_has_a_box_for_each_operation_around_its_text(shortcut):
    counts = resnet(depth=14, order="pre", shortcut=shortcut)
    with matplotlib.rc_context(picture.LOOK):
        figure = picture.draw(counts)
        renderer = FigureCanvasAgg(figure).get_renderer()
        patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and patch.zorder == 2]
        texts = [text for text in figure.axes[0].texts if text.zorder == 4]
        boxes = [patch.get_window_extent(renderer) for patch in patches]
        for text, box in zip(texts, boxes, strict=True):
            inside = text.get_window_extent(renderer)
            assert box.x0 < inside.x0 < inside.x1 < box.x1, text
            assert box.y0 < inside.y0 < inside.y1 < box.y1, text
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    said = [text.get_text().replace("\n", " ") for text in texts[len(counts.parts) :]]
    blocks = counts.blocks[: picture.KINDS]
    ops = [op for block in blocks for op in (*block.lead, *block.branch, *block.shortcut, *block.after)]
    assert said == [table.sized(op) for op in ops]


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
    assert "6 blocks    norm, ReLU, 3×3 conv, norm, ReLU, 3×3 conv, + identity" in said
    assert said.splitlines()[-1] == str(path)
    assert max(map(len, said.splitlines()[:-1])) <= 100
    assert "font-family" not in path.read_text()  # the letters are paths
    assert "group norm" in " ".join(ElementTree.parse(path).getroot().itertext())


def test_every_data_set_has_its_images_and_classes(capsys):
    assert show("--config.data.name=cifar100", "--config.model.depth=8") == 0
    # 64 * 100 + 100 parameters of the classifier.
    assert row("classifier", capsys.readouterr().out)[1:3] == ["100", "6,500"]
    own = ("source=folder", "path=.", "name=flowers", "image_size=64")
    assert show("--config.model.depth=8", *(f"--config.data.{field}" for field in own)) == 0
    assert "one image of 64×64×3" in capsys.readouterr().out


def test_imagenet_layouts_are_shown_for_imagenet(capsys):
    fields = [f"--config.model.{field}" for field in ("layout=imagenet", "depth=18", "width=64", "shortcut=B")]
    assert show(*fields) == 0
    said = capsys.readouterr().out
    # He et al. 2015, table 1: 1.8 thousand million.
    assert row("sum", said)[1:3] == ["11,689,512", "1.81 G"]
    # The stem's norm stands before the pooling.
    assert [row("stem", said)[index] for index in (1, -1)] == ["56×56×64", "N×112×112"]


def test_the_fields_of_a_config_are_printed_with_their_meaning(capsys):
    assert cli.main(["show", "--config=base:demo", "--fields", "--config.model.norm=layer"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"config.model.depth = 20", "config.model.norm = 'layer' *", "config.optim.schedule = 'cosine' *"} <= {
        *lines
    }
    assert "(none, A, B, C, constant, constant_both," in " ".join(line.strip() for line in lines)
