"""Settings that are probably mistakes: said before a run starts, and kept in its record."""

import math
from collections.abc import Iterator
from dataclasses import replace

from ml_collections import ConfigDict

from normres.models import BRANCHES, LAYOUTS, MODELS, ORDERS, RESIDUAL_SCALES, SHORTCUTS, NetworkConfig
from normres.norms import TABLE, NormSpec, find_spec, reduction_axes
from normres.runs import unread
from normres.runs.fields import declared, flatten
from normres.training.networks import user_module
from normres.training.optim import holds

# The fields that make a recipe, or how their names begin.
OF_RECIPE: tuple[str, ...] = ("optim.", "train.steps", "train.batch_size", "data.preprocess", "data.augmentation")
OF_RECIPE += ("data.padding", "data.cutout", "data.mixup", "data.cutmix")

MOST_INITIAL = 0.05  # share of the initial values in running averages at the end
LARGE_FOR_ADAM = 0.02

# Norms of kernels that change nothing but a scale which the norm after the convolution removes, if it is invariant to
# this change: then gradients agree too, and the training is the same as with the other row.
CANCELLED = {
    "l2": ("channel scale", "plain"),
    "spectral": ("scale", "plain"),
    "scaled_standardized": ("channel scale", "standardized"),
}


def of(config: ConfigDict, image_size: int = 0, examples: int = 0, devices: int = 0) -> list[str]:
    """Returns a sentence for each trap of a config.

    The other arguments are known where the data have been read: pixels of a side, training images, and devices of the
    run.  Before, a user's module is not looked at: importing it may take devices.
    """
    size = image_size or (0 if config.data.source in ("auto", "npz") else config.data.image_size)
    if config.model.module:
        network = [*_module(config)] if image_size else []
    else:
        network = [*_norm(config, size), *_branches(config), *_sizes(config, size)]
    return [*unread.of(config), *network, *_optimization(config), *_data(config, examples, devices), *_recipe(config)]


def _module(config: ConfigDict) -> Iterator[str]:
    """What a run expects of a user's module that the module does not take."""
    train, reference = config.train, f"config.model.module={config.model.module!r}"
    merged = train.parallel == "pmap" and train.sync_batch_norm
    fields = user_module(config.model.module).__dataclass_fields__ if merged or train.dtype == "bfloat16" else {}
    if train.dtype == "bfloat16" and "dtype" not in fields:
        yield f"config.train.dtype='bfloat16' has no effect: {reference} has no field `dtype`"
    if merged and "axis_name" not in fields:
        yield f"{reference} has no field `axis_name`: batch norms in it, if any, are not merged over devices"


def _norm(config: ConfigDict, image_size: int) -> Iterator[str]:
    """Norms that are another norm, or nothing."""
    network, name, model = MODELS[config.model.family].configured(config.model), config.model.norm, config.model
    spec, parted, grouped = network.norm_spec, find_spec(name).sub_batches > 1, find_spec(name).groups > 1
    batch, of_norm, momentum = config.train.batch_size, f"config.model.norm={name!r}", model.norm_momentum
    if name == "group" and spec.groups == 1:
        yield "config.model.norm_groups=1: one group of all channels is layer norm"
    if parted and model.norm_sub_batches == 1:
        yield f"config.model.norm_sub_batches=1: {name} with one sub-batch is batch norm"
    alike = [row for row in TABLE if _bare(find_spec(row, model.norm_groups), network) == _bare(spec, network)]
    if name not in TABLE and alike:
        groups = f" with config.model.norm_groups={spec.groups}" if grouped else ""
        yield f"{of_norm}{groups} is {alike[0]} norm"
    if grouped and spec.groups > 1 and any(channels == spec.groups for channels, _ in network.stages):
        same = ": a group norm with one channel a group is an instance norm" * (name == "group")
        yield f"config.model.norm_groups={spec.groups}: of {spec.groups} channels, each group is one channel{same}"
    if image_size and _single_element(network, image_size, batch):
        always = "some layers average over a single number, and the result is always 0 (plus the bias)"
        yield f"{of_norm}: from images of {image_size} pixels, {always}"
    if spec.over_examples and spec.running and batch == spec.sub_batches and name != "batch_renorm":
        parts = f" and config.model.norm_sub_batches={spec.sub_batches}" if parted else ""
        alone = f"{name} norm sees one image at a time in training, but evaluation uses running averages"
        yield f"config.train.batch_size={batch}{parts}: {alone}"
    if spec.running and model.norm_average == "exponential":
        if (initial := momentum**config.train.steps) > MOST_INITIAL:
            at_the_end = f"after config.train.steps={config.train.steps} the running averages are still {initial:.0%}"
            yield f"config.model.norm_momentum={momentum}: {at_the_end} of their initial values"
        if momentum < 0.5:
            share = f"the share of the old average that stays (PyTorch's momentum {momentum} is {1 - momentum:g} here)"
            yield f"config.model.norm_momentum={momentum} is {share}"
    scale = getattr(network, "residual_scale", "none")
    bare = not spec.reductions and scale == "none"
    if bare and model.weights in ("plain", "l2", "spectral") and network.depth > 20:
        yield f"{of_norm}, and nothing replaces norms: networks of more than 20 layers hardly learn"
    if bare and model.weights == "standardized":
        grows = "each convolution multiplies the signal by about the square root of its fan-in"
        yield f"{of_norm} with config.model.weights='standardized': {grows}; 'scaled_standardized' keeps its scale"
    change, same = CANCELLED.get(model.weights, ("", ""))
    order = ORDERS[model.order]  # drop = 2: the sum is normalized in place of the last convolution
    normalized = model.family != "resnet" or ("conv norm" in order.unit and order.drop < 2)
    if normalized and spec.about and change in spec.about.invariant and not RESIDUAL_SCALES[scale].fixup:
        as_with = f"the network trains as with config.model.weights={same!r}"
        yield f"config.model.weights={model.weights!r}: {name} norm removes what it changes, so {as_with}"


def _bare(spec: NormSpec, network: NetworkConfig) -> NormSpec:
    """Returns a spec with only what is computed, axes as numbers, to compare it with others."""
    over = tuple(",".join(map(str, reduction_axes(each, ndim=4))) for each in spec.reductions)
    return replace(spec, over=over, about=None, epsilon=network.norm_spec.epsilon)


def _branches(config: ConfigDict) -> Iterator[str]:
    """Residual branches from which no gradient comes, and networks with two names."""
    model = config.model
    if model.family != "resnet":
        return
    plain, scale, weights = not SHORTCUTS[model.shortcut].add, model.residual_scale, model.weights
    words = ORDERS[model.order].branch(len(BRANCHES[model.block].kernels))
    norms = [word for word in words if word.startswith("norm")]
    last = norms[-1] if len(norms) == len(BRANCHES[model.block].kernels) else ""
    spec = find_spec(model.norm)
    zero_scale = model.zero_last_scale and last and "scale" in spec.affine
    cut = f"{last} relu" in " ".join(words) and not spec.activation
    fixup = RESIDUAL_SCALES[scale].fixup
    own = model.zero_last_scale or scale != "none" or model.squeeze or model.auxiliary or spec.activation
    if plain and model.order != "post" and not own:
        yield f"config.model.order={model.order!r} without a shortcut: all orders are the same network"
    if scale == "rezero":
        yield "config.model.residual_scale='rezero' is the same network as 'skipinit'"
    if scale != "none" and spec.reductions:
        without = "for a network without norms set config.model.norm='none'"
        yield f"config.model.residual_scale={scale!r} stands beside {model.norm} norm; {without}"
    for name, starts_at_zero in (("zero_last_scale=True", zero_scale), (f"residual_scale={scale!r}", scale != "none")):
        if plain and starts_at_zero:
            yield f"config.model.{name} without a shortcut: every branch starts at 0, and the network cannot learn"
    if zero_scale and cut:
        why = "a ReLU follows the scale that starts at zero, and the branch never gets a gradient"
        yield f"config.model.zero_last_scale=True with config.model.order={model.order!r}: {why}"
    if zero_scale and scale != "none":
        both = f"config.model.zero_last_scale=True and config.model.residual_scale={scale!r}"
        yield f"{both}: the branch is multiplied by two numbers that are 0 at the start. Neither gets a gradient"
    if fixup and weights not in ("plain", "l2"):
        yield f"config.model.residual_scale={scale!r} starts with small kernels; {weights!r} makes them large again"
    for cause, cuts in (("weights='l2'", weights == "l2"), (f"order={model.order!r}", words[-1] == "relu")):
        if fixup and cuts:
            why = "the branch's last kernel starts at zero and gets no gradient"
            yield f"config.model.residual_scale={scale!r} with config.model.{cause}: {why}"
    if plain and model.stochastic_depth:
        why = "a block that is left out stops the signal, and the output no longer depends on the image"
        yield f"config.model.stochastic_depth={model.stochastic_depth} without a shortcut: {why}"


def _sizes(config: ConfigDict, image_size: int) -> Iterator[str]:
    """Networks that have no room for what they do, and networks with two names."""
    model, network = config.model, MODELS[config.model.family].configured(config.model)
    if image_size and image_size <= (stride := max(stride for _, stride in network.stages)):
        yield f"images of {image_size} pixels: the last stage sees 1x1 pixels, as the network divides sides by {stride}"
    if model.norm_epsilon == 0 and network.norm_spec.reductions:
        same = "equal" if network.norm_spec.center else "0"
        yield f"config.model.norm_epsilon=0.0: where all numbers of an average are {same}, the result is not finite"
    if model.family != "resnet":
        return
    if model.squeeze and model.width * BRANCHES[model.block].expansion < 2 * model.squeeze:
        yield f"config.model.squeeze={model.squeeze}: 1 hidden unit in the first stage"
    if model.layout == "wide" and SHORTCUTS[model.shortcut].project == "never":
        fewer = LAYOUTS["wide"].counted - LAYOUTS["cifar"].counted
        same = f"config.model.layout='cifar' with config.model.depth={model.depth - fewer}"
        yield f"config.model.layout='wide' with config.model.shortcut={model.shortcut!r} is {same}"


def _single_element(network: NetworkConfig, image_size: int, batch_size: int) -> bool:
    """Returns whether all means that some norm subtracts are those of a single element: the element itself."""
    spec = network.norm_spec
    for channels, stride in network.stages:
        side = -(-image_size // stride)
        shape = (batch_size // spec.sub_batches, side, side, channels // spec.groups)
        counts = (math.prod(shape[axis] for axis in reduction_axes(over, ndim=4)) for over in spec.reductions)
        if spec.center and spec.reductions and all(count == 1 for count in counts):
            return True
    return False


def _optimization(config: ConfigDict) -> Iterator[str]:
    optim, steps, every = config.optim, config.train.steps, config.train.eval_every
    boundaries = optim.boundaries if optim.schedule == "step" else ()
    if optim.learning_rate == 0:
        yield "config.optim.learning_rate=0.0: nothing is learned"
    if optim.optimizer == "adamw" and optim.learning_rate >= LARGE_FOR_ADAM:
        why = "each weight moves by about so much in each step; 0.001 is usual"
        yield f"config.optim.learning_rate={optim.learning_rate} with config.optim.optimizer='adamw': {why}"
    changes = boundaries or optim.schedule == "cosine" or optim.warmup_steps or holds(config)
    if optim.optimizer == "sgd_classical" and not changes:
        yield "config.optim.optimizer='sgd_classical' at a constant learning rate is 'sgd'"
    if optim.schedule == "step" and not boundaries:
        yield "config.optim.schedule='step' without config.optim.boundaries is the schedule 'constant'"
    if holds(config):
        held, until = f"config.optim.hold_learning_rate={optim.hold_learning_rate}", optim.hold_until_error
        if optim.hold_learning_rate == 0 or until == 0:
            yield f"{held} in the whole run: the training error never falls below config.optim.hold_until_error={until}"
        elif optim.hold_learning_rate >= optim.learning_rate or until == 1:
            yield f"{held} until config.optim.hold_until_error={until}: the hold has no effect"
    if late := [step for step in boundaries if step >= steps]:
        yield f"config.optim.boundaries={boundaries}: {late[0]} is not reached in config.train.steps={steps}"
    if boundaries and boundaries[-1] < steps / 4:
        yield f"config.optim.boundaries={boundaries}: the last is an early one of config.train.steps={steps}"
    if boundaries and not 0 < optim.decay_factor < 1:
        falls = "does not fall at a boundary" if optim.decay_factor else f"is 0 after step {boundaries[0]}"
        yield f"config.optim.decay_factor={optim.decay_factor}: the learning rate {falls}"
    if any(step < optim.warmup_steps for step in boundaries):
        warmup = f"config.optim.warmup_steps={optim.warmup_steps}"
        yield f"config.optim.boundaries={boundaries}: the first comes before the end of {warmup}"
    if every > steps:
        yield f"config.train.eval_every={every} is more than config.train.steps={steps}: no curve of the test error"


def _data(config: ConfigDict, examples: int, devices: int) -> Iterator[str]:
    """Images that are not used, and devices that change what a norm sees."""
    train, seen = config.train, config.train.steps * config.train.batch_size
    if seen < examples:
        yield f"in config.train.steps={train.steps} the run sees {seen:,} of {examples:,} training images"
    if config.data.validation and config.data.evaluate_on == "test":
        unused = "these images are neither trained on nor measured; config.data.evaluate_on='validation' measures them"
        yield f"config.data.validation={config.data.validation}: {unused}"
    if train.parallel == "pmap" and not train.sync_batch_norm and devices:
        effect = f"averages over {train.batch_size // devices} images, on each of {devices} devices"
        effect = "has no effect on one device" if devices == 1 else f"a batch norm {effect}"
        yield f"config.train.sync_batch_norm=False: {effect}"


def _recipe(config: ConfigDict) -> Iterator[str]:
    """Fields in which the config is not the recipe that it names."""
    edited = []
    for name, value in flatten(config).items():
        meant = unread.in_recipe(config, name)
        if name.startswith(OF_RECIPE) and not declared()[name].how and value != meant:
            edited.append(f"{name}={value!r} ({meant!r})")
    if edited:
        yield f"config.recipe={config.recipe!r} is edited (in brackets, its own): {', '.join(edited)}"
