"""Every field of a run, once: its value, what it means, what it may be.  The values are He et al. 2015's ResNet-20.

    normres train --config=base --config.data.source=binary --config.data.path=DIR --workdir=runs/resnet20

The whole run (64,000 steps) takes 2 to 3.5 hours on 2 CPU cores with fast bfloat16 (0.11 to 0.2 s a step on AMD EPYCs).
The paper reports 8.75 % test error.  `--config=base:short` runs 3,200 steps, `--config=base:demo` 400.

Later values win: these, the recipe, a config file's own lines, the command line.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.runs.fields import Field, build

# Where ranges end: beyond what anyone trains, and within what arrays and their indices can hold.
SEEDS = 2**32  # a key holds 32 bits of a seed; a larger seed would repeat a smaller one
STEPS = 2**31  # counted in int32
RATE = 1e30  # float32 ends at 3e38
BATCH = 2**20
CHANNELS = 2**14
SIDE = 2**12
EXAMPLES = 10**8

FIELDS: dict[str, Field] = {
    "recipe": Field("he2015", "a row of RECIPES, below", choices="normres.configs.base:RECIPES"),
    "seed": Field(0, "of initialization, data order, augmentation and dropout", least=0, below=SEEDS),
    "init_from": Field("", "the directory of a run whose last weights this one starts from; empty = none", before=""),
    # -1 takes config.seed; another value sets one stream apart.
    "seeds.initialization": Field(-1, "seed of the parameters", least=-1, below=SEEDS),
    "seeds.order": Field(-1, "seed of the order in which the training images are seen", least=-1, below=SEEDS),
    "seeds.augmentation": Field(-1, "seed of crops and flips", least=-1, below=SEEDS),
    "seeds.dropout": Field(-1, "seed of dropout and stochastic depth", least=-1, below=SEEDS),
    # The network.  A family reads those that it has; see MODELS in normres/models.
    "model.family": Field("resnet", "a row of MODELS", choices="normres.models:MODELS", before="resnet"),
    "model.module": Field("", "a Flax module of yours in place of the family, FILE.py:NAME", before=""),
    "model.depth": Field(
        20,
        "layers: ResNets 6n+2 (basic) or 9n+2 (bottleneck), VGG 11, 13, 16 or 19, stylizer 2n+6",
        least=1,
        most=20_000,
    ),
    "model.width": Field(16, "channels of the first stage; later ones have multiples of it", least=1, most=CHANNELS),
    "model.layout": Field(
        "cifar", "cifar | wide (6n+4, counts projections) | imagenet (7x7 stem)", choices="normres.models:LAYOUTS"
    ),
    "model.block": Field(
        "basic",
        "basic (two 3x3) | bottleneck (1x1, 3x3, 1x1 with four times the channels)",
        choices="normres.models:BRANCHES",
    ),
    "model.shortcut": Field(
        "A",
        "none (a plain net) | A zero padding | B projection where needed | C always | ...",
        choices="normres.models:SHORTCUTS",
    ),
    "model.order": Field(
        "post",
        "where norm and ReLU stand: post (He 2015) | pre (full pre-activation) | ...",
        choices="normres.models:ORDERS",
    ),
    "model.inner_width": Field(
        0, "channels of a branch's convolutions but the last, in the first stage; 0 = width", least=0, most=CHANNELS
    ),
    "model.stem_width": Field(0, "channels of the stem; 0 = width", least=0, most=CHANNELS),
    "model.cardinality": Field(1, "groups of a bottleneck's 3x3 convolution (ResNeXt)", least=1, most=CHANNELS),
    "model.squeeze": Field(0, "reduction of squeeze-and-excitation, such as 16; 0 = none", least=0, most=CHANNELS),
    "model.stride_at": Field("3x3", "which convolution of a branch has the stride", choices=("first", "3x3")),
    "model.padding": Field("end", "where shortcut A adds channels of zeros", choices=("end", "both")),
    "model.gate_bias": Field(-6.0, "initial bias of a gate on the shortcut", least=-100, most=100),
    "model.dropout": Field(0.0, "rate before a branch's last convolution, or VGG's classifier", least=0, below=1),
    "model.stochastic_depth": Field(
        0.0, "probability that the last block's branch is left out; block l of L has l / L of it", least=0, below=1
    ),
    "model.zero_last_scale": Field(False, "the scale of norm2 (bottleneck: norm3) of each branch starts at zero"),
    "model.auxiliary": Field((), "stages with a classifier of their own, such as 1,2", least=1, most=3, longest=3),
    "model.condition": Field(
        "none",
        "stylizer: what scale and bias of the norms depend on: none | label (conditional instance norm) | picture "
        "(AdaIN)",
        choices="normres.models:CONDITIONS",
        before="none",
    ),
    "model.remat": Field(
        "auto",
        "what the backward pass computes anew: nothing | elementwise (norms, ReLUs; without dropout) | loops "
        "(elementwise, in scanned blocks only) | block (all, from its input: the least memory, a third more time) | "
        "block_in_loops (all but the norms' sums, in scanned blocks only) | auto (cpu ops: nothing; plain: loops, or "
        "on a TPU with width <= 64 block_in_loops)",
        choices=("nothing", "elementwise", "loops", "block", "block_in_loops", "auto"),
        how=True,
    ),
    "model.unroll": Field(
        "auto",
        "compile every block on its own: a tenth less time, but seconds to compile and more memory; auto: on CPUs and "
        "GPUs, for 400 steps and more of networks of up to 60 blocks",
        choices=("never", "always", "auto"),
        how=True,
    ),
    "model.norm": Field("batch", "a row of norms.TABLE, or axes to average over, such as NHC"),
    "model.norm_groups": Field(
        8, "channel groups of a grouped norm; they must divide the width", least=1, most=CHANNELS
    ),
    "model.norm_sub_batches": Field(
        4, "parts of the batch (with pmap, of each device's share) of ghost_batch", least=1, most=BATCH
    ),
    "model.norm_epsilon": Field(1e-5, "added to the variance", least=0, most=1),
    "model.norm_average": Field(
        "exponential",
        "running average: exponential | debiased (the first batch counts) | cumulative",
        choices="normres.norms:KINDS",
    ),
    "model.norm_momentum": Field(0.9, "share of the old running average that each step keeps", least=0, below=1),
    "model.norm_unbiased": Field(False, "average n / (n - 1) times the variance, as PyTorch does"),
    "model.weights": Field(
        "plain", "norm of the kernels: a row of kernels.TABLE", choices="normres.norms.kernels:TABLE"
    ),
    "model.residual_scale": Field(
        "none", "what replaces norms: none | skipinit | rezero | fixup", choices="normres.models:RESIDUAL_SCALES"
    ),
    # The data.
    "data.name": Field("cifar10", "cifar10 | cifar100; any name for the sources tfds, npz, folder and parquet"),
    "data.source": Field(
        "embedded",
        "embedded (2,560 + 640 images) | binary | python (the official files) | npz | ...",
        choices="normres.data.sources:SOURCES",
    ),
    "data.path": Field("", "the file or folder that the source reads", how=True),
    "data.verify": Field(True, "check the official checksums and counts; off for home-made files", how=True),
    "data.image_size": Field(32, "pixels; of the sources that scale images or invent them", least=1, most=SIDE),
    "data.styles": Field(
        ("cells",),
        "source photographs: the style pictures, one for each image in turn",
        choices="normres.data.photographs:STYLES",
        before=("cells",),
    ),
    "data.stream": Field(
        "auto",
        "images stay on disk: always | never | auto (too large for the device); tfds only",
        choices=("auto", "always", "never"),
        how=True,
    ),
    "data.validation": Field(0, "training examples set aside, 5,000 in the papers", least=0, below=EXAMPLES),
    "data.stratified": Field(False, "validation set and fraction keep the class proportions, or nearly"),
    "data.evaluate_on": Field("test", "the set that is evaluated", choices=("test", "validation")),
    "data.fraction": Field(
        1.0, "share of the training examples (without the validation set) that is kept", least=0, most=1
    ),
    "data.per_class": Field(
        0, "training examples kept of each class, in place of a fraction; 0 = all", least=0, below=EXAMPLES
    ),
    "data.split_seed": Field(
        0, "seed of validation set and subset; config.seed does not change them", least=0, below=SEEDS
    ),
    "data.label_noise": Field(0.0, "share of the training labels that a random other class replaces", least=0, most=1),
    "data.label_noise_seed": Field(0, "seed of the label noise", least=0, below=SEEDS),
    "data.preprocess": Field(
        "pixel_mean",
        "pixel_mean (He 2015) | channel_mean | channel_mean_std (wide networks) | image_standardization (each image by "
        "its own mean and std) | none; statistics of the training images",
        choices="normres.data.preprocess:KINDS",
    ),
    "data.augmentation": Field(
        "crop_flip",
        "crop_flip (pad 4, random crop, flip) | flip | none",
        choices="normres.data.augment:AUGMENTATIONS",
    ),
    "data.padding": Field(
        "zero", "of crop_flip, around preprocessed images: zero | reflect", choices="normres.data.augment:PADDINGS"
    ),
    "data.cutout": Field(
        0, "pixels, side of a square of zeros in each training image, such as 16; 0 = off", least=0, most=SIDE
    ),
    "data.mixup": Field(
        0.0, "alpha, such as 1: mixes pairs of images by a share from Beta(alpha, alpha)", least=0, most=1_000
    ),
    # Of mixed images, the training error counts the label with the larger share as the right one.
    "data.cutmix": Field(
        0.0, "alpha, such as 1: a box of another image, its area from Beta(alpha, alpha)", least=0, most=1_000
    ),
    "data.cutmix_probability": Field(
        1.0, "share of the steps at which cutmix is applied; Yun et al. 2019: 0.5 on CIFAR", least=0, most=1
    ),
    "data.corruptions": Field(
        (),
        "corruptions that test the finished run, such as contrast,gaussian_noise",
        choices="normres.data.corruptions:CORRUPTIONS",
    ),
    "data.corruption_seed": Field(0, "seed of the corruptions; all runs see the same images", least=0, below=SEEDS),
    # The optimization.
    "optim.optimizer": Field("sgd", "a row of OPTIMIZERS", choices="normres.training.optim:OPTIMIZERS", before="sgd"),
    "optim.learning_rate": Field(0.1, "at its highest", least=0, most=RATE),
    "optim.momentum": Field(0.9, "sgd: momentum; adamw: beta1, decay of the mean gradient", least=0, below=1),
    "optim.nesterov": Field(False, "Nesterov momentum; not adamw"),
    "optim.beta2": Field(0.999, "decay of the mean squared gradient; adamw only", least=0, below=1, before=0.999),
    "optim.epsilon": Field(
        1e-8, "added to the root of the mean squared gradient; adamw only", least=0, most=10, before=1e-8
    ),
    "optim.weight_decay": Field(
        1e-4,
        "sgd: L2, added to the gradient before momentum; adamw: times the rate, taken off the weight",
        least=0,
        most=1_000,
    ),
    "optim.decay_norms": Field(True, "decay scales and biases as well as kernels, as the papers did"),
    "optim.clip_factor": Field(0.0, "adaptive gradient clipping, such as 0.02; 0 = off", least=0, most=1_000),
    "optim.loss": Field(
        "cross_entropy", "a row of LOSSES", choices="normres.training.losses:LOSSES", before="cross_entropy"
    ),
    "optim.label_smoothing": Field(
        0.0, "share of each label that is spread over all classes, such as 0.1", least=0, below=1, before=0.0
    ),
    "optim.style_weight": Field(
        1.0, "of the style loss beside the content loss; stylizer", least=0, most=1_000_000, before=1.0
    ),
    "optim.auxiliary_weights": Field(
        (0.3,), "of the auxiliary classifiers' losses: one for all or one for each", least=0, most=1_000, longest=3
    ),
    "optim.auxiliary_decay": Field(
        "linear", "how these weights fall to zero at the last step", choices=("linear", "none")
    ),
    "optim.schedule": Field(
        "step",
        "of the rate: step (divided at each boundary) | cosine (to zero) | constant",
        choices="normres.training.optim:SCHEDULES",
    ),
    "optim.boundaries": Field(
        (32_000, 48_000), "steps at which the step schedule changes the rate", least=1, below=STEPS, longest=100
    ),
    "optim.decay_factor": Field(0.1, "step schedule: factor at each boundary", least=0, most=1_000),
    "optim.warmup_steps": Field(0, "steps in which the rate rises linearly from zero", least=0, below=STEPS),
    "optim.hold_learning_rate": Field(0.01, "small rate at which deep nets start (the hold)", least=0, most=RATE),
    "optim.hold_until_error": Field(0.8, "the hold ends when the running training error is below", least=0, most=1),
    "optim.hold_from_depth": Field(110, "least depth with a hold; 0 = never", least=0, below=STEPS),
    # The run.
    "train.steps": Field(64_000, "optimizer steps (the papers' iterations)", least=1, below=STEPS),
    "train.batch_size": Field(128, "examples per step over all devices", least=1, most=BATCH),
    "train.eval_batch_size": Field(256, "examples; the last batch is padded and masked", least=1, most=BATCH, how=True),
    "train.dtype": Field(
        "auto",
        "of activations; parameters and statistics are always float32; auto: bfloat16 where it is fast",
        choices=("auto", "float32", "bfloat16"),
    ),
    "train.ops": Field(
        "auto",
        "plain (plain JAX) | cpu (normres/cpu: faster on a CPU, no jax.jvp) | auto (cpu on CPUs)",
        choices=("auto", "plain", "cpu"),
        how=True,
    ),
    "train.parallel": Field(
        "jit", "jit (one global batch) | pmap (a program on each device; see sync_batch_norm)", choices=("jit", "pmap")
    ),
    "train.steps_per_program": Field(
        0,
        "most steps compiled as one program; 0 chooses: 8 on one CPU with train.ops=cpu, else 1",
        least=0,
        most=1_000,
        how=True,
    ),
    "train.sync_batch_norm": Field(True, "pmap only: batch norm averages over all devices"),
    "train.log_every": Field(100, "steps between lines of metrics.jsonl", least=1, below=STEPS, how=True),
    "train.eval_every": Field(
        2_000, "steps between evaluations on the test set, of which the best is noted", least=1, below=STEPS, how=True
    ),
    "train.probe_every": Field(
        0,
        "steps between measurements of activations and gradients layer by layer (training/probe.py), from step 0 on, "
        "and at the end; 0 = never; ResNets only",
        least=0,
        below=STEPS,
        before=0,
    ),
    "train.checkpoint_every": Field(2_000, "steps between checkpoints", least=1, below=STEPS, how=True),
    "train.sinks": Field(
        (),
        "beside metrics.jsonl: tensorboard, wandb (offline); each needs its extra",
        choices="normres.runs.sinks:SINKS",
        how=True,
    ),
    "train.keep": Field(
        ("last",),
        "weights that a finished run keeps: last, best (lowest test error), or none",
        choices=("last", "best", "none"),
        how=True,
    ),
    "train.keep_every": Field(0, "keep weights every so many steps too; 0 = never", least=0, below=STEPS, how=True),
}

# Recipes list what differs from the values above, which are He, Zhang, Ren, Sun 2015, arXiv 1512.03385, section 4.2.
# `short` has their schedule in proportion, on the full data.  `demo` takes a laptop minutes: smaller
# batches, for more steps from the same images; a warm-up in place of the hold; a cosine, as 400 steps leave no time to
# settle after a boundary; no augmentation, as it shows how well networks can be optimized.
RECIPES: dict[str, dict[str, Any]] = {
    "he2015": {},
    "short": {
        "train.steps": 3_200,
        "train.eval_every": 400,
        "train.checkpoint_every": 200,
        "optim.boundaries": (1_600, 2_400),
    },
    # Johnson, Alahi, Fei-Fei 2016, arXiv 1603.08155: for networks that give photographs a style.
    "johnson2016": {
        "train.steps": 40_000,
        "train.batch_size": 4,
        "optim.optimizer": "adamw",
        "optim.learning_rate": 1e-3,
        "optim.weight_decay": 0.0,
        "optim.schedule": "constant",
        "optim.hold_from_depth": 0,
        "data.preprocess": "none",
        "data.augmentation": "flip",
    },
    "demo": {
        "train.steps": 400,
        "train.batch_size": 64,
        "train.log_every": 10,
        "train.eval_every": 100,
        "train.checkpoint_every": 100,
        "optim.schedule": "cosine",
        "optim.boundaries": (),
        "optim.warmup_steps": 120,
        "optim.hold_from_depth": 0,
        "data.augmentation": "none",
    },
}


def get_config(recipe: str = "") -> ConfigDict:
    """Returns the values above, changed by a recipe; "" takes that of FIELDS."""
    return build(FIELDS, RECIPES, recipe)
