"""The network as text: one line per part with what it costs, then the order of its operations, then its norm."""

import textwrap
from collections.abc import Sequence

from normres.models.variants import ORDERS, SHORTCUTS, ResNetConfig
from normres.show import words
from normres.show.count import Part
from normres.show.text import NOTHING, table

WIDTH = 100  # characters in a line


def headline(config: ResNetConfig) -> str:
    """Returns what the network is, in a few words."""
    kind = "residual" if SHORTCUTS[config.shortcut].add else "plain"
    return f"{kind} network, {config.depth} layers"


def subtitle(config: ResNetConfig) -> str:
    """Returns its order, shortcut and norm by the names that a config has for them."""
    order, shortcut = ORDERS[config.order], SHORTCUTS[config.shortcut]
    return f"order {config.order} ({order.title}); shortcut: {shortcut.title}; {words.norm_name(config)}"


def text(config: ResNetConfig, image_shape: Sequence[int], parts: Sequence[Part]) -> str:
    """Returns the table of `parts` and what explains it, in lines."""
    rows = [(*_cells(part), averaged_over(config, part)) for part in parts]
    sums = [sum(getattr(part, name) for part in parts) for name in ("parameters", "multiply_adds", "kept_bytes")]
    blocks = sum(part.blocks for part in parts)
    rows.append(("sum", str(blocks), "", f"{sums[0]:,}", scaled(sums[1]), f"{scaled(sums[2])}B", ""))
    header = ("part", "blocks", "output", "parameters", "multiply-adds", "kept", "each mean over")
    explained = {
        "multiply-adds": "of convolutions and fully connected layers, forward",
        "kept": f"activations that the backward pass needs, in {config.dtype.name}, before the compiler saves any",
    }
    if reductions(config):
        explained["each mean over"] = "what shares its statistics; N: the batch, C: the normalized channels"
    lines = [
        f"{headline(config)}; one image of {'×'.join(map(str, image_shape))}, {config.classes} classes",
        *textwrap.wrap(subtitle(config), WIDTH, break_on_hyphens=False),
        "",
        table(header, rows),
        "",
        *(line for name, meaning in explained.items() for line in _item(name, meaning, len("each mean over"))),
        "",
        *(line for name, meaning in order(config).items() for line in _item(name, meaning, len("classifier"))),
        "",
        *words.notes(config),
    ]
    return "\n".join(lines)


def order(config: ResNetConfig) -> dict[str, str]:
    """Returns where each convolution, norm and ReLU stands, for stem, block, shortcut and classifier."""
    block = words.block(config)
    inside, after = words.line((*block.lead, *block.branch)), words.line(block.after)
    described = {"stem": words.line(words.stem(config))}
    if block.shortcut is None:
        described["block"] = ", ".join(filter(None, [inside, after]))
    else:
        described["block"] = ", ".join(filter(None, [inside, "+ shortcut", after]))
        always = words.line([step for step in block.shortcut if not step.where_changed]) or "identity"
        changed = words.line([step for step in block.shortcut if step.where_changed])
        described["shortcut"] = always + f"; where the shape changes: {changed}" * bool(changed)
        if block.projection:
            described["shortcut"] += f" (of what follows {words.line(block.lead)})"
    return described | {"classifier": words.line(words.head(config))}


def averaged_over(config: ResNetConfig, part: Part) -> str:
    """Returns the sizes of the axes over which the norm of a part averages: "N×32×32", "32×32×C/8"; "–" for none."""
    return " & ".join(reductions(config, *part.normalized)) or NOTHING if part.normalized else NOTHING


def reductions(config: ResNetConfig, height: int | str = "H", width: int | str = "W") -> list[str]:
    """Returns for each reduction of the norm the axes that it averages over, with H and W as given."""
    spec = config.norm_spec
    found = []
    for over in spec.reductions:
        groups = f"/{config.norm_groups}" if spec.groups > 1 else ""
        sub_batches = f"/{config.norm_sub_batches}" if spec.sub_batches > 1 else ""
        names = {"N": f"N{sub_batches}", "H": height, "W": width, "C": f"C{groups}"}
        letters = over.replace("S", "HW")
        found.append("×".join(str(name) for letter, name in names.items() if letter in letters))
    return [axes for axes in found if axes]


def scaled(number: int) -> str:
    """Returns three digits and a unit: 640, 14.2 M, 4.09 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{number} "


def _item(name: str, meaning: str, width: int) -> list[str]:
    indent = " " * (width + 2)
    return textwrap.wrap(meaning, WIDTH, initial_indent=f"{name:{width}}  ", subsequent_indent=indent)


def _cells(part: Part) -> tuple[str, ...]:
    blocks = str(part.blocks) if part.blocks else NOTHING
    output = "×".join(map(str, part.output))
    cost = (f"{part.parameters:,}", scaled(part.multiply_adds), f"{scaled(part.kept_bytes)}B")
    return (part.name, blocks, output, *cost)
