"""`normres show` itself: reads the config, counts, prints the table and writes the picture."""

import textwrap
from pathlib import Path
from typing import Any

from normres.data.dataset import CLASSES
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import durable, machine
from normres.runs.fields import declared, flatten
from normres.show import table
from normres.show.count import count
from normres.training.networks import build_network

# There is no source of ImageNet here, but there are published counts.
IMAGENET = (224, 224, 3), 1000


def image_and_classes(config: Any) -> tuple[tuple[int, int, int], int]:
    """Returns the shape of a config's images and the number of its classes or styles, without reading its data."""
    if config.model.layout == "imagenet":
        return IMAGENET
    # Images of one's own are read by training only, and have as many classes here as CIFAR-10.
    of_styles = config.data.source == "photographs"
    classes = len(config.data.styles) if of_styles else CLASSES.get(config.data.name, 10)
    return (config.data.image_size, config.data.image_size, 3), classes


def run(path: str, overrides: dict[str, Any], svg: Path | None) -> None:
    """Prints the network of a config, and draws it if `svg` says where to."""
    config = configs.load(path, overrides)
    shape, classes = image_and_classes(config)
    # Merging statistics over devices changes no count, and there are no devices here.
    alone = configs.apply(config, {"train.parallel": "jit"})
    network = build_network(alone, classes, machine.resolve_dtype(config.train.dtype))
    if svg and (svg.suffix != ".svg" or svg.is_dir()):
        raise UserError(f"--svg={svg}: write the name of a file that ends in .svg")
    counts = count(network, shape)
    print(table.text(counts))
    if svg:
        # matplotlib is slow to import.
        from normres.show import picture

        print(f"\n{durable.write(svg, picture.svg(counts))}")


def print_fields(path: str, overrides: dict[str, Any]) -> None:
    """Prints each field of a config: its value (with * where base.py has another), and what it means."""
    values = flatten(configs.load(path, overrides))
    for name, field in declared().items():
        changed = "" if values[name] == field.value else " *"
        print(f"config.{name} = {values[name]!r}{changed}")
        choices = f" ({', '.join(field.names())})" if field.choices else ""
        print(textwrap.fill(field.meaning + choices, 100, initial_indent="    ", subsequent_indent="    "))
