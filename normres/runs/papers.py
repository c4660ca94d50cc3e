"""The papers that a config uses, and the software itself, as BibTeX."""

import re
from collections.abc import Iterable
from typing import Any

from normres.runs.fields import AnyConfig, declared, flatten

# As CITATION.cff has it, which is no part of an installed package.
SOFTWARE = {"title": "normres: normalization and depth in JAX", "author": "The normres authors", "year": "2026"}

HE = "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian"
LOSHCHILOV = "Loshchilov, Ilya and Hutter, Frank"
KRIZHEVSKY_2009 = "2009, technical report, University of Toronto"
KRIZHEVSKY_2012 = "2012, Advances in Neural Information Processing Systems 25"

# Authors and title, by the number on arXiv, which begins with the year, or by the year and the place.
PAPERS: dict[str, tuple[str, str]] = {
    "1512.03385": (
        HE,
        "Deep Residual Learning for Image Recognition",
    ),
    "1603.05027": (
        HE,
        "Identity Mappings in Deep Residual Networks",
    ),
    "1409.1556": (
        "Simonyan, Karen and Zisserman, Andrew",
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ),
    "1605.07146": (
        "Zagoruyko, Sergey and Komodakis, Nikos",
        "Wide Residual Networks",
    ),
    "1611.05431": (
        r"Xie, Saining and Girshick, Ross and Doll{\'a}r, Piotr and Tu, Zhuowen and He, Kaiming",
        "Aggregated Residual Transformations for Deep Neural Networks",
    ),
    "1709.01507": (
        "Hu, Jie and Shen, Li and Albanie, Samuel and Sun, Gang and Wu, Enhua",
        "Squeeze-and-Excitation Networks",
    ),
    "1603.09382": (
        "Huang, Gao and Sun, Yu and Liu, Zhuang and Sedra, Daniel and Weinberger, Kilian",
        "Deep Networks with Stochastic Depth",
    ),
    "1207.0580": (
        "Hinton, Geoffrey E. and Srivastava, Nitish and Krizhevsky, Alex and Sutskever, Ilya and "
        "Salakhutdinov, Ruslan R.",
        "Improving neural networks by preventing co-adaptation of feature detectors",
    ),
    "1409.5185": (
        "Lee, Chen-Yu and Xie, Saining and Gallagher, Patrick and Zhang, Zhengyou and Tu, Zhuowen",
        "Deeply-Supervised Nets",
    ),
    "1502.03167": (
        "Ioffe, Sergey and Szegedy, Christian",
        "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    ),
    "2003.05569": (
        "Luo, Chunjie and Zhan, Jianfeng and Wang, Lei and Gao, Wanling",
        "Extended Batch Normalization",
    ),
    "1607.08022": (
        "Ulyanov, Dmitry and Vedaldi, Andrea and Lempitsky, Victor",
        "Instance Normalization: The Missing Ingredient for Fast Stylization",
    ),
    "1607.06450": (
        "Ba, Jimmy Lei and Kiros, Jamie Ryan and Hinton, Geoffrey E.",
        "Layer Normalization",
    ),
    "1803.08494": (
        "Wu, Yuxin and He, Kaiming",
        "Group Normalization",
    ),
    "1910.07467": (
        "Zhang, Biao and Sennrich, Rico",
        "Root Mean Square Layer Normalization",
    ),
    "1907.04312": (
        "Li, Boyi and Wu, Felix and Weinberger, Kilian Q. and Belongie, Serge",
        "Positional Normalization",
    ),
    "1705.08741": (
        "Hoffer, Elad and Hubara, Itay and Soudry, Daniel",
        "Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
    ),
    "1702.03275": (
        "Ioffe, Sergey",
        "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models",
    ),
    "1911.09737": (
        "Singh, Saurabh and Krishnan, Shankar",
        "Filter Response Normalization Layer: Eliminating Batch Dependence in the Training of Deep Neural Networks",
    ),
    "2004.02967": (
        "Liu, Hanxiao and Brock, Andrew and Simonyan, Karen and Le, Quoc V.",
        "Evolving Normalization-Activation Layers",
    ),
    "1806.10779": (
        "Luo, Ping and Ren, Jiamin and Peng, Zhanglin and Zhang, Ruimao and Li, Jingyu",
        "Differentiable Learning-to-Normalize via Switchable Normalization",
    ),
    "1805.07925": (
        "Nam, Hyeonseob and Kim, Hyo-Eun",
        "Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks",
    ),
    KRIZHEVSKY_2012: (
        "Krizhevsky, Alex and Sutskever, Ilya and Hinton, Geoffrey E.",
        "ImageNet Classification with Deep Convolutional Neural Networks",
    ),
    "1903.10520": (
        "Qiao, Siyuan and Wang, Huiyu and Liu, Chenxi and Shen, Wei and Yuille, Alan",
        "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
    ),
    "2101.08692": (
        "Brock, Andrew and De, Soham and Smith, Samuel L.",
        "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
    ),
    "1602.07868": (
        "Salimans, Tim and Kingma, Diederik P.",
        "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural Networks",
    ),
    "1802.05957": (
        "Miyato, Takeru and Kataoka, Toshiki and Koyama, Masanori and Yoshida, Yuichi",
        "Spectral Normalization for Generative Adversarial Networks",
    ),
    "2002.10444": (
        "De, Soham and Smith, Samuel L.",
        "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks",
    ),
    "2003.04887": (
        "Bachlechner, Thomas and Majumder, Bodhisattwa Prasad and Mao, Huanru Henry and Cottrell, Garrison "
        "W. and McAuley, Julian",
        "ReZero is All You Need: Fast Convergence at Large Depth",
    ),
    "1901.09321": (
        "Zhang, Hongyi and Dauphin, Yann N. and Ma, Tengyu",
        "Fixup Initialization: Residual Learning Without Normalization",
    ),
    "2102.06171": (
        "Brock, Andrew and De, Soham and Smith, Samuel L. and Simonyan, Karen",
        "High-Performance Large-Scale Image Recognition Without Normalization",
    ),
    "1608.03983": (
        LOSHCHILOV,
        "SGDR: Stochastic Gradient Descent with Warm Restarts",
    ),
    "1711.05101": (
        LOSHCHILOV,
        "Decoupled Weight Decay Regularization",
    ),
    "1512.00567": (
        "Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jonathon and Wojna, Zbigniew",
        "Rethinking the Inception Architecture for Computer Vision",
    ),
    KRIZHEVSKY_2009: (
        "Krizhevsky, Alex",
        "Learning Multiple Layers of Features from Tiny Images",
    ),
    "1708.04552": (
        "DeVries, Terrance and Taylor, Graham W.",
        "Improved Regularization of Convolutional Neural Networks with Cutout",
    ),
    "1710.09412": (
        "Zhang, Hongyi and Cisse, Moustapha and Dauphin, Yann N. and Lopez-Paz, David",
        "mixup: Beyond Empirical Risk Minimization",
    ),
    "1905.04899": (
        "Yun, Sangdoo and Han, Dongyoon and Oh, Seong Joon and Chun, Sanghyuk and Choe, Junsuk and Yoo, Youngjoon",
        "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    ),
    "1903.12261": (
        "Hendrycks, Dan and Dietterich, Thomas",
        "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    ),
}

CHANGED = "any value but that of base.py"

# What a field's value cites.  To cite for a value, add a row.
CITED: dict[tuple[str, Any], str] = {
    ("model.family", "resnet"): "1512.03385",
    ("model.family", "vgg"): "1409.1556",
    **{("model.order", order): "1603.05027" for order in ("norm_after_addition", "relu_before_addition")},
    **{("model.order", order): "1603.05027" for order in ("relu_only_pre", "pre")},
    **{("model.shortcut", shortcut): "1603.05027" for shortcut in ("constant", "constant_both", "dropout")},
    **{("model.shortcut", shortcut): "1603.05027" for shortcut in ("exclusive_gate", "shortcut_gate")},
    ("model.layout", "wide"): "1605.07146",
    ("model.cardinality", CHANGED): "1611.05431",
    ("model.squeeze", CHANGED): "1709.01507",
    ("model.stochastic_depth", CHANGED): "1603.09382",
    ("model.dropout", CHANGED): "1207.0580",
    ("model.auxiliary", CHANGED): "1409.5185",
    ("model.norm", "batch"): "1502.03167",
    ("model.norm", "extended_batch"): "2003.05569",
    ("model.norm", "instance"): "1607.08022",
    ("model.norm", "layer"): "1607.06450",
    ("model.norm", "group"): "1803.08494",
    ("model.norm", "rms"): "1910.07467",
    ("model.norm", "positional"): "1907.04312",
    ("model.norm", "ghost_batch"): "1705.08741",
    ("model.norm", "batch_renorm"): "1702.03275",
    ("model.norm", "filter_response"): "1911.09737",
    ("model.norm", "evonorm_s0"): "2004.02967",
    ("model.norm", "evonorm_b0"): "2004.02967",
    ("model.norm", "switchable"): "1806.10779",
    ("model.norm", "batch_instance"): "1805.07925",
    ("model.norm", "local_response"): KRIZHEVSKY_2012,
    ("model.weights", "standardized"): "1903.10520",
    ("model.weights", "scaled_standardized"): "2101.08692",
    ("model.weights", "l2"): "1602.07868",
    ("model.weights", "spectral"): "1802.05957",
    ("model.residual_scale", "skipinit"): "2002.10444",
    ("model.residual_scale", "rezero"): "2003.04887",
    ("model.residual_scale", "fixup"): "1901.09321",
    ("optim.clip_factor", CHANGED): "2102.06171",
    ("optim.schedule", "cosine"): "1608.03983",
    ("optim.optimizer", "adamw"): "1711.05101",
    ("optim.label_smoothing", CHANGED): "1512.00567",
    ("data.name", "cifar10"): KRIZHEVSKY_2009,
    ("data.name", "cifar100"): KRIZHEVSKY_2009,
    ("data.cutout", CHANGED): "1708.04552",
    ("data.mixup", CHANGED): "1710.09412",
    ("data.cutmix", CHANGED): "1905.04899",
    ("data.corruptions", CHANGED): "1903.12261",
}


def cited(configs: Iterable[AnyConfig]) -> list[str]:
    """Returns the papers that the configs use, keys of PAPERS, each once and in the order of CITED."""
    fields = [flatten(config) for config in configs]
    used = (paper for (name, value), paper in CITED.items() if any(_uses(values, name, value) for values in fields))
    return list(dict.fromkeys(used))


def _uses(values: dict[str, Any], name: str, wanted: Any) -> bool:
    if name.startswith("model.") and values.get("model.module"):
        return False  # a module of the user's reads no field of the model
    before = declared()[name].value
    value = values.get(name, before)
    value = tuple(value) if isinstance(value, list) else value
    return bool(value != before if wanted is CHANGED else value == wanted)


def bibtex(paper: str) -> str:
    """Returns a paper as an entry of one line, named by its first author, its year and its title's first word."""
    authors, title = PAPERS[paper]
    year, _, where = paper.partition(", ")
    place = f"howpublished = {{{where}}}"
    if not where:
        year, place = f"20{paper[:2]}", f"eprint = {{{paper}}}, archivePrefix = {{arXiv}}"
    name = f"{authors.partition(',')[0]}{year}{re.findall('[A-Za-z]+', title)[0]}".lower()
    return f"@misc{{{name}, author = {{{authors}}}, title = {{{{{title}}}}}, year = {{{year}}}, {place}}}"


def software(version: str, commit: str | None) -> str:
    """Returns the entry of this software."""
    fields = SOFTWARE | ({"version": version} if version else {}) | ({"note": f"commit {commit}"} if commit else {})
    # Double braces keep the group of authors one name, and the title's letters as they are.
    return f"@software{{normres, {', '.join(f'{name} = {{{{{value}}}}}' for name, value in fields.items())}}}"
