"""A finished run in one file: a state dict for PyTorch, or its computation as StableHLO for serving.

What `normres export` writes is read without normres:

    safetensors.torch.load_file("net.safetensors")                 # a state dict, by torchvision's names
    torch.load("net.pt")["state_dict"]
    jax.export.deserialize(bytearray(open("net.stablehlo", "rb").read())).call(images_uint8_NHWC)  # logits_NK
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from normres.errors import UserError, library, nearest
from normres.interop import as_evaluated, network_to_torch, vgg_to_torch
from normres.interop import fold as folded
from normres.models import VGGConfig
from normres.runs import durable
from normres.runs.config import to_dict
from normres.runs.fields import digest
from normres.runs.finished import Loaded, load
from normres.training.tasks import task_of

PLATFORMS = ("cpu", "cuda", "tpu")
FORMULAS = {
    "pixel_mean": "images / 255 - mean",
    "channel_mean": "images / 255 - mean",
    "channel_mean_std": "(images / 255 - mean) / std",
    "image_standardization": "each image minus its mean, divided by max(its standard deviation, 1 / sqrt(H W C))",
    "none": "images / 255",
}


def export(path: str | Path, output: Path, form: str, which: str = "last", fold: bool = False, dtype: str = "") -> None:
    """Writes the network of the run in the directory `path` to the file `output`.

    Args:
      path, which, dtype: see finished.load; the dtype is that of the activations in StableHLO.
      output: the file.
      form: a row of FORMATS.
      fold: whether batch norms are folded into the convolutions before them.

    Raises:
      UserError: no such format, a package that is not there, or a network that the format or the folding cannot have.
    """
    if form not in FORMATS:
        raise UserError(f"--format={form} does not exist; {nearest(form, FORMATS)}")
    run = load(path, which, dtype)
    if not task_of(run.config).has_classes:
        raise UserError(f"{path}: only classifiers are exported, not config.model.family={run.config.model.family!r}")
    if run.config.model.module and (fold or form != "stablehlo"):
        what = "--fold" if fold else f"--format={form}"
        raise UserError(f"{path}: {what} knows no module of yours ({run.config.model.module}); use --format=stablehlo")
    about = metadata(run) | {"weights": which, "batch_norms": "folded" if fold else "as trained"}
    try:
        if fold:
            config, variables = folded(run.module.config, run.variables)
            run = replace(run, module=run.module.clone(config=config), variables=variables)
        content = FORMATS[form](run, about)
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    durable.write(output, content)


def state_dict(run: Loaded) -> dict[str, np.ndarray]:
    """Returns the state dict of a PyTorch network with the run's logits; kernels are as they are applied."""
    config, variables = as_evaluated(run.module.config, run.variables)
    if isinstance(config, VGGConfig):
        return vgg_to_torch(variables, config)
    return network_to_torch(variables, config)


def metadata(run: Loaded) -> dict[str, str]:
    """Returns what a file says about its weights: texts, of which some are JSON."""
    attempts, kind = run.record.get("attempts") or [{}], run.statistics.kind
    numbers = {name: values[0].tolist() for name, values in run.statistics.arrays().items()}
    return {
        "format": "pt",  # as readers of safetensors expect of a state dict
        "run_id": run.record["run_id"],
        "config": json.dumps(to_dict(run.config)),
        "config_digest": digest(run.config),
        "commit": str(attempts[-1].get("commit")),
        "step": str(run.step),
        # uint8 images of levels 0 to 255, (H, W, C) or (1, 1, C).
        "preprocess": json.dumps({"kind": kind, "formula": FORMULAS[kind], **numbers}),
    }


def _safetensors(run: Loaded, about: dict[str, str]) -> bytes:
    return bytes(library("safetensors.numpy", "export").save(state_dict(run), about))


def _torch(run: Loaded, about: dict[str, str]) -> bytes:
    torch = library("torch", "", "--format=torch needs PyTorch, which is not here; --format=safetensors does not")
    tensors = {name: torch.from_numpy(array) for name, array in state_dict(run).items()}
    torch.save({"state_dict": tensors, "metadata": about}, buffer := io.BytesIO())
    return buffer.getvalue()


def _stablehlo(run: Loaded, _about: dict[str, str]) -> bytes:
    """Returns uint8 images_NHWC -> logits_NK with the weights inside, for PLATFORMS and any number of images."""
    library("flatbuffers", "export")

    def logits(images_NHWC: jax.Array) -> Any:
        return run.module.apply(run.variables, run.preprocess(images_NHWC))

    (count,) = jax.export.symbolic_shape("N")
    images = jax.ShapeDtypeStruct((count, *run.record["data"]["image_shape"]), np.uint8)
    return bytes(jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize())


# To add a format, add a row.
FORMATS = {"safetensors": _safetensors, "torch": _torch, "stablehlo": _stablehlo}
