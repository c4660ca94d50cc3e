"""Every field of a run, once, with its unit or its reason: ResNet-20 on CIFAR-10 after He et al. 2015.

    normres train --config=configs/base.py --config.data.source=binary --config.data.path=DIR --workdir=runs/resnet20

With the paper's recipe (64,000 steps) this run takes 3.5 hours on 2 CPU cores with fast bfloat16 (0.2 s a step on an
AMD EPYC of 2024); the paper reports 8.75 % test error.  `--config=configs/base.py:budget` runs a tenth of the steps.
"""

from ml_collections import ConfigDict

from normres.runs.recipes import apply_recipe


def get_config(recipe: str = "he2015") -> ConfigDict:
    """Returns the base configuration with the values of `recipe` (a row of normres/recipes.py) filled in."""
    config = ConfigDict()

    config.seed = 0  # initialization, data order and augmentation all derive from it
    config.seeds = ConfigDict()  # -1 = config.seed; set one to vary it alone
    config.seeds.initialization = -1  # of the parameters
    config.seeds.order = -1  # in which the training images are seen
    config.seeds.augmentation = -1  # crops and flips
    config.seeds.dropout = -1  # and stochastic depth
    config.recipe = ""  # a name in normres/recipes.py; setting it sets the fields that its row lists

    config.model = ConfigDict()
    config.model.depth = 20  # 6n+2 (basic) or 9n+2 (bottleneck): the stem, three stages of n blocks, the classifier
    config.model.width = 16  # channels of the first stage; each later one has twice as many
    config.model.layout = "cifar"  # cifar | wide (6n+4: counts the projections) | imagenet (7x7 stem, 18 to 152 layers)
    config.model.block = "basic"  # basic (two 3x3) | bottleneck (1x1, 3x3, 1x1 with four times the channels)
    config.model.shortcut = "A"  # none (a plain net) | A zero padding | B projection where needed | C always | ...
    config.model.order = "post"  # where norm and ReLU stand: post (He 2015) | pre (full pre-activation) | ...
    config.model.inner_width = 0  # channels of a bottleneck's inner convolutions in the first stage; 0 = width
    config.model.stem_width = 0  # channels of the stem; 0 = width
    config.model.cardinality = 1  # groups of a bottleneck's 3x3 convolution (ResNeXt)
    config.model.squeeze = 0  # squeeze-and-excitation's reduction, such as 16; 0 = none
    config.model.stride_at = "3x3"  # which convolution of a branch has the stride: first | 3x3
    config.model.padding = "end"  # where shortcut A adds channels of zeros: end | both
    config.model.gate_bias = -6.0  # initial bias of a gate on the shortcut
    config.model.dropout = 0.0  # rate before a branch's last convolution (wide networks)
    config.model.stochastic_depth = 0.0  # probability that the last block's branch is left out; falls to the first
    config.model.zero_last_scale = False  # the scale of each branch's last norm starts at zero
    config.model.auxiliary = ()  # stages with a classifier of their own, such as 1,2
    config.model.remat = "auto"  # what the backward pass computes anew: nothing | elementwise (norms, ReLUs; without
    # dropout) | block (all, from its input: the least memory, a third more time) | auto (elementwise in plain JAX)
    config.model.unroll = "auto"  # compile every block on its own: a tenth less time, but seconds to compile and more
    # memory: never | always | auto (on the CPU, for 400 steps and more of networks of up to 60 blocks)
    config.model.norm = "batch"  # a row of the table in normres/norms.py, or axes to average over, such as NHC
    config.model.norm_groups = 8  # channel groups, read by grouped norms and unnamed ones over C; must divide width
    config.model.norm_sub_batches = 4  # parts of the batch, read by ghost_batch only; must divide the batch
    config.model.norm_epsilon = 1e-5  # added to the variance
    config.model.norm_average = "exponential"  # of statistics: exponential | debiased (first batch counts) | cumulative
    config.model.norm_momentum = 0.9  # share of the old running average kept at each step
    config.model.norm_unbiased = False  # average n / (n - 1) times the variance, as PyTorch does
    config.model.weights = "plain"  # of kernels: plain | standardized | scaled_standardized | l2 | spectral
    config.model.residual_scale = "none"  # without norms: none | skipinit | rezero | fixup

    config.data = ConfigDict()
    config.data.name = "cifar10"  # cifar10 | cifar100; others (tfds, npz, folder): any name
    config.data.source = "embedded"  # embedded (2,560 + 640 images) | binary | python (the official files) | npz | ...
    config.data.path = ""  # the file or folder that the source reads; see SOURCES in normres/data/sources.py
    config.data.verify = True  # check the official checksums and counts; off for home-made files
    config.data.image_size = 32  # pixels; for the sources that resize (folder, tfds) or invent (synthetic)
    config.data.stream = "auto"  # images stay on disk: always | never | auto (too large for the device); tfds only
    config.data.validation = 0  # training examples set aside, 5,000 in the papers; 0 = none
    config.data.stratified = False  # validation set and fraction have each class in proportion
    config.data.evaluate_on = "test"  # test | validation: the images that the run's test error is measured on
    config.data.fraction = 1.0  # of the training examples (without the validation set) that is kept
    config.data.per_class = 0  # training examples kept of each class, in place of a fraction; 0 = all
    config.data.split_seed = 0  # of validation set and subset; not config.seed: all seeds see the same data
    config.data.label_noise = 0.0  # fraction of the training labels replaced by a random other class
    config.data.label_noise_seed = 0  # which labels, and by what
    config.data.preprocess = "pixel_mean"  # pixel_mean (He 2015) | channel_mean | channel_mean_std (wide networks) |
    # image_standardization (each image by its own mean and deviation) | none; statistics of the training images
    config.data.augmentation = "crop_flip"  # crop_flip (pad 4, random crop, flip) | flip | none
    config.data.padding = "zero"  # crop_flip only, of preprocessed images: zero | reflect (wide networks)
    config.data.cutout = 0  # pixels, side of a square set to zero in each training image, such as 16; 0 = off
    config.data.mixup = 0.0  # alpha, such as 1: mixes pairs of images by a share from Beta(alpha, alpha); 0 = off
    config.data.cutmix = 0.0  # alpha, such as 1: a box of another image, its area from Beta(alpha, alpha); 0 = off
    config.data.cutmix_probability = 1.0  # share of the steps at which cutmix is applied; Yun et al. 2019: 0.5 on CIFAR
    # Of mixed images, the training error that is logged counts the label with the larger share as the right one.
    config.data.corruptions = ()  # the finished run's test error under each, such as contrast,gaussian_noise
    config.data.corruption_seed = 0  # of their noise and hues; not config.seed, so that all runs see the same images

    config.optim = ConfigDict()
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.nesterov = False
    config.optim.weight_decay = 1e-4  # L2, added to the gradient before momentum
    config.optim.clip_factor = 0.0  # adaptive gradient clipping, such as 0.02; 0 = off
    config.optim.auxiliary_weights = (0.3,)  # of the auxiliary classifiers' losses: one for all or one for each ...
    config.optim.auxiliary_decay = "linear"  # ... falling to zero at the last step: linear | none
    config.optim.decay_norms = True  # decay scales and biases as well as kernels, as the papers did
    config.optim.schedule = "step"  # step (divide at each boundary) | cosine (to zero) | constant
    config.optim.boundaries = (32_000, 48_000)  # steps; step schedule only
    config.optim.decay_factor = 0.1  # step schedule only
    config.optim.warmup_steps = 0  # linear from zero
    config.optim.hold_learning_rate = 0.01  # deep nets start at this rate ...
    config.optim.hold_until_error = 0.8  # ... until the running training error is below this fraction
    config.optim.hold_from_depth = 110  # ... if they are at least this deep; 0 = never

    config.train = ConfigDict()
    config.train.steps = 64_000  # optimizer steps ("iterations" in the papers)
    config.train.batch_size = 128  # examples per step over all devices
    config.train.eval_batch_size = 256  # examples; the last batch is padded and masked
    config.train.dtype = "auto"  # auto | float32 | bfloat16; parameters and statistics are always float32
    config.train.ops = "auto"  # plain (plain JAX) | cpu (normres/cpu: faster on a CPU, no jax.jvp) | auto (cpu on CPUs)
    config.train.parallel = "jit"  # jit (one global batch) | pmap (one batch per device)
    config.train.seeds_per_program = 1  # arms of a sweep of one shape that train in one program, docs/performance.md
    config.train.steps_per_program = 0  # most steps dispatched at once; 0: 8 on one CPU device; streamed, grouped: 1
    config.train.sync_batch_norm = True  # pmap only: batch statistics over all devices
    config.train.log_every = 100  # steps between lines of metrics.jsonl
    config.train.eval_every = 2_000  # steps between evaluations on the test set
    config.train.checkpoint_every = 2_000  # steps; the most work that a kill can cost

    apply_recipe(config, recipe)
    config.lock()
    return config
