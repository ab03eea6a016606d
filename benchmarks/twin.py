"""The network of a classifier of ours, and how it is trained, in PyTorch: read off the layers, not written down twice.

Weights begin as ours do. In PyTorch's terms the twin is an ordinary script that is careful with time: pictures stay
uint8 in memory and are augmented a batch at a time, convolutions are oneDNN's in channels_last, rectifiers work in
place. What it does not know, a layer, a setting or an augmentation, is an error that names it.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import batch_norm, cross_entropy

from nabi.classifiers.settings import seed_of
from nabi.data import augment
from nabi.losses import LOSSES
from nabi.training import Examples, GradientDescent, batch_bounds


class NoTwin(Exception):
    """Something of ours that the twin does not know."""


@dataclass
class Recipe:
    """How a classifier is about to be trained: everything that `fit` decides before its first step."""

    learner: GradientDescent
    loss: Callable[..., Any]
    examples: Examples
    batch_size: int
    seed: int
    clip_norm: float | None
    epochs: int
    schedule: Callable[[int], float]


def begun(classifier: Any, images: Any, labels: Any) -> Recipe:
    """A classifier just before its first step: the model is built and has seen the pictures."""
    classifier.check_settings()
    images, labels = classifier._learn_input(images, labels)
    seed = seed_of(classifier.random_state)
    classifier._build(images, seed)
    batch_size = min(classifier._batch(), len(images))
    learner = classifier._learner(batch_size)
    examples = Examples(images, labels, None, augment.parse(classifier.augment))
    plan = classifier._plan(learner, examples, batch_size, seed)
    return Recipe(learner, classifier._measured_loss(), examples, batch_size, seed, classifier.clip_norm, **plan)


class Twin:
    """The same training in PyTorch.

    Attributes
    ----------
    net : torch.nn.Module
        From pictures (N, H, W, C), uint8, to scores. After the change of axes come layers with the names of ours.
    steps : int
        How many were taken.
    """

    def __init__(self, recipe: Recipe) -> None:
        if unknown := set(recipe.learner.state) - {"model", "optimizer"}:
            raise NoTwin(f"training keeps {', '.join(sorted(unknown))}")
        self.net = nn.Sequential(Pictures(), module(recipe.learner.model)).to(memory_format=torch.channels_last)
        self.optimizer = optimizer(recipe.learner.optimizer, self.net)
        self.smoothing = smoothing(recipe.loss)
        self.changes = [change(part) for part in recipe.examples.augment.parts] if recipe.examples.augment else []
        if recipe.examples.augment and recipe.examples.augment.mixup:
            raise NoTwin("augmentation mixup")
        self.recipe = recipe
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.steps = 0

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Learn from a batch: its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.schedule(self.steps)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.net(images), labels, label_smoothing=self.smoothing)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.steps += 1
        return loss.detach()

    def epoch(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Go through all pictures once: the mean loss of the batches as they came."""
        order = torch.randperm(len(images), generator=self.generator)
        total = 0.0
        for start, end in itertools.pairwise(batch_bounds(len(images), self.recipe.batch_size)):
            batch = images[order[start:end]]
            for part in self.changes:
                batch = part(batch, self.generator)
            loss = float(self.step(batch, labels[order[start:end]]))
            if not math.isfinite(loss):
                raise ArithmeticError(f"step {self.steps}: the loss is {loss}")
            total += loss * (end - start)
        return total / len(images)

    def scores(self, images: torch.Tensor, at_once: int = 1000) -> torch.Tensor:
        """Scores as in prediction."""
        self.net.eval()
        with torch.inference_mode():
            found = torch.cat([self.net(part) for part in images.split(at_once)])
        self.net.train()
        return found


# --- layers


class Pictures(nn.Module):
    """(N, H, W, C) as PyTorch numbers the axes; in memory nothing moves, which is what channels_last means."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2)


class Standardize(nn.Module):
    """(x / 255 - mean) / std as one multiplication and one addition."""

    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        first = (lambda a: np.moveaxis(a, -1, 0)) if mean.ndim == 3 else lambda a: a.reshape(-1, *(1,) * 2 * a.ndim)
        mean, std = (first(np.asarray(a, np.float64)) for a in (mean, std))
        self.register_buffer("scale", torch.from_numpy(1 / std).float())
        self.register_buffer("shift", torch.from_numpy(-mean / std).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = 1 / 255 if x.dtype == torch.uint8 else 1.0
        return torch.addcmul(self.shift, x.to(self.scale.dtype), self.scale, value=factor)


class Mirrored(nn.Sequential):
    """The mean over a picture and its mirror; in training, the picture alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return super().forward(x)
        looks = self.looks(x)
        answers = super().forward(torch.cat([*looks, *(look.flip(3) for look in looks)]))
        return answers.reshape(2 * len(looks), len(x), *answers.shape[1:]).mean(0)

    def looks(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


class MultiCrop(Mirrored):
    """The same over a picture a pixel up and to the left, and down and to the right."""

    def looks(self, x: torch.Tensor) -> list[torch.Tensor]:
        padded = nn.functional.pad(x.to(torch.float32), (1, 1, 1, 1), mode="replicate").to(x.dtype)
        return [padded[:, :, 2:, 2:], padded[:, :, :-2, :-2]]


class Norm(nn.BatchNorm2d):
    """Batch normalisation whose bias counts several times."""

    def __init__(self, channels: int, gain: float, **how: Any) -> None:
        super().__init__(channels, **how)
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        running = self.running_mean, self.running_var
        return batch_norm(x, *running, self.weight, self.bias * self.gain, self.training, self.momentum, self.eps)


class Flatten(nn.Module):
    """Rows in the order that ours have, channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(1)


class Mean(nn.Module):
    """The mean over the picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "ReLU": partial(nn.ReLU, inplace=True), "ReLU6": partial(nn.ReLU6, inplace=True), "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU, "GELU": nn.GELU, "SiLU": nn.SiLU, "HardSwish": nn.Hardswish, "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh, "Softplus": nn.Softplus,
}  # fmt: skip


def module(layer: Any) -> nn.Module:
    """The twin of a layer of `nabi.nn`, with its weights."""
    own = dict(vars(layer))
    kind = type(layer).__name__
    made: nn.Module
    if not type(layer).__module__.startswith("nabi.nn."):
        raise NoTwin(f"layer {kind}")
    match kind:
        case "Sequential" | "Mirrored" | "MultiCrop":
            container = {"Sequential": nn.Sequential, "Mirrored": Mirrored, "MultiCrop": MultiCrop}[kind]
            return container(OrderedDict((name, module(one)) for name, one in own.items()))
        case "Standardize":
            return Standardize(own.pop("mean").numpy(), own.pop("std").numpy())
        case "Conv2d" | "Whitening":
            height, width, inputs, outputs = own["weight"].shape
            groups, padding = own.pop("groups", 1), own.pop("padding", 0)
            how = {"stride": own.pop("stride", 1), "dilation": own.pop("dilation", 1), "groups": groups}
            how |= {"padding": around(padding, (height, width), how["stride"]), "bias": own.get("bias") is not None}
            made = nn.Conv2d(inputs * groups, outputs, (height, width), **how)
            put(made, own)
        case "Linear":
            inputs, outputs = own["weight"].shape
            made = nn.Linear(inputs, outputs, bias=own["bias"] is not None)
            put(made, own)
        case "BatchNorm":
            (channels,) = own["running_mean"].shape
            how = {"eps": own.pop("epsilon"), "momentum": own.pop("momentum")}
            gain = own.pop("bias_gain")
            made = nn.BatchNorm2d(channels, **how) if gain == 1 else Norm(channels, gain, **how)
            put(made, own, running_variance="running_var")
        case "MaxPool2d" | "AvgPool2d":
            pool = {"MaxPool2d": nn.MaxPool2d, "AvgPool2d": nn.AvgPool2d}[kind]
            kernel, stride = own.pop("kernel_size"), own.pop("stride")
            made = pool(kernel, stride, around(own.pop("padding"), kernel, stride))
        case "GlobalAvgPool":
            made = Mean()
        case "Flatten":
            made = Flatten()
        case "Dropout":
            made = nn.Dropout(own.pop("rate"))
            own.pop("key"), own.pop("count")
        case _ if kind in ACTIVATIONS:
            made = ACTIVATIONS[kind](**own)
            own = {}
        case _:
            raise NoTwin(f"layer {kind}")
    if own:
        raise NoTwin(f"{', '.join(own)} of layer {kind}")
    return made


def around(padding: Any, kernel: tuple[int, int], stride: Any) -> Any:
    """Padding that both have: as much on each side."""
    if padding == "valid":
        return 0
    if padding == "same":
        if any(side % 2 == 0 for side in kernel) or stride not in (1, (1, 1)):
            raise NoTwin(f"padding 'same' of a window {kernel} with stride {stride}")
        return "same"
    if isinstance(padding, int) or all(isinstance(side, int) for side in padding):
        return padding
    raise NoTwin(f"padding {padding}")


def put(made: nn.Module, own: dict[str, Any], **renamed: str) -> None:
    """Take the tensors out of a layer's fields, and put them into a module that keeps them the other way round."""
    for name in [name for name, value in own.items() if value is None or hasattr(value, "numpy")]:
        tensor = own.pop(name)
        if tensor is None:
            if getattr(made, name) is not None:
                getattr(made, name).requires_grad_(False)  # as PyTorch makes it: ones, or zeros
            continue
        target = getattr(made, renamed.get(name, name))
        with torch.no_grad():
            target.copy_(torch.from_numpy(turned(tensor.numpy())))
        if isinstance(target, nn.Parameter):
            target.requires_grad_(tensor.requires_grad)


def turned(array: Any) -> Any:
    """A weight (kh, kw, in, out) as (out, in, kh, kw), and (in, out) as (out, in)."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


# --- training


def optimizer(ours: Any, net: nn.Module) -> torch.optim.Optimizer:
    """The twin of an optimiser of `nabi.optim`."""
    own = {name: value for name, value in vars(ours).items() if name not in ("parameters", "moments", "step")}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if len(trained) != len(ours.parameters):
        raise NoTwin(f"{len(ours.parameters)} of {len(trained)} parameters trained")
    how = {"lr": float(own.pop("learning_rate")), "weight_decay": float(own.pop("weight_decay") or 0)}
    made: Callable[..., torch.optim.Optimizer]
    match type(ours).__name__:
        case "SGD":
            made, how = torch.optim.SGD, how | {name: own.pop(name) for name in ("momentum", "nesterov")}
        case "RMSProp":
            how |= {"alpha": own.pop("decay"), "eps": own.pop("epsilon"), "momentum": own.pop("momentum")}
            made = torch.optim.RMSprop
        case "Muon":
            made, how = Muon, how | {name: own.pop(name) for name in ("momentum", "filter_rate", "filter_momentum")}
            own.pop("nesterov")
        case "Adam" | "AdamW" as name:
            how |= {"betas": (own.pop("beta1"), own.pop("beta2")), "eps": own.pop("epsilon")}
            made = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
        case name:
            raise NoTwin(f"optimiser {name}")
    if own:
        raise NoTwin(f"{', '.join(own)} of optimiser {type(ours).__name__}")
    return made(trained, **how)


class Muon(torch.optim.Optimizer):
    """Filters by the orthogonalised momentum, everything else by Nesterov's; as its author writes it for PyTorch."""

    def __init__(self, params: Any, **defaults: float) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                if p.ndim == 4:
                    velocity.mul_(group["filter_momentum"]).add_(p.grad)
                    way = p.grad.add(velocity, alpha=group["filter_momentum"]).flatten(1)
                    p.mul_(len(p) ** 0.5 / p.norm())
                    p.sub_(orthogonal(way).reshape(p.shape), alpha=group["lr"] * group["filter_rate"])
                else:
                    g = p.grad.add(p, alpha=group["weight_decay"])
                    velocity.mul_(group["momentum"]).add_(g)
                    p.sub_(g.add_(velocity, alpha=group["momentum"]), alpha=group["lr"])


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """A matrix whose singular values are all near 1, by five rounds of Newton and Schulz."""
    tall = len(x) > x.shape[1]
    x = (x.T if tall else x) / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


def smoothing(loss: Any) -> float:
    """How much of the target is spread over all classes, by the softmax cross-entropy."""
    given = {}
    if isinstance(loss, partial):
        loss, given = loss.func, dict(loss.keywords)
    found = given.pop("label_smoothing", 0.0)
    if loss is not LOSSES["softmax"] or given:
        raise NoTwin(f"loss {loss.__name__}{f' with {given}' if given else ''}")
    return float(found)


Change = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""An augmentation: a batch (N, H, W, C) of uint8, and what to draw from, to such a batch."""


def change(part: Any) -> Change:
    """The twin of an augmentation of `nabi.data.augment`."""
    name = getattr(part, "name", getattr(part, "__name__", repr(part)))
    if name not in CHANGES:
        raise NoTwin(f"augmentation {name}")
    return partial(CHANGES[name], *part.numbers)


def flip(probability: float, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Some pictures mirrored."""
    chosen = torch.rand(len(images), generator=generator) < probability
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def crop(padding: int | None, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each picture moved, with black where nothing was."""
    count, height, width, _ = images.shape
    around = min(height, width) // 8 if padding is None else padding
    padded = nn.functional.pad(images, (0, 0, around, around, around, around))
    top, left = torch.randint(2 * around + 1, (2, count), generator=generator)
    windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    return windows[torch.arange(count), top, left]


def cutout(size: int | None, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A square of each picture covered with its mean colour."""
    count, height, width, _ = images.shape
    size = min(height, width) // 2 if size is None else size
    inside = []
    for axis, length in ((1, height), (2, width)):
        first = torch.randint(length, (count,), generator=generator) - size // 2
        place = torch.arange(length) - first[:, None]
        inside.append(((place >= 0) & (place < size)).unsqueeze(3 - axis))
    covered = (inside[0] & inside[1])[..., None]
    colour = images.to(torch.float32).mean((1, 2), keepdim=True).round().to(images.dtype)
    return torch.where(covered, colour, images)


CHANGES: dict[str, Callable[..., torch.Tensor]] = {"flip": flip, "crop": crop, "cutout": cutout}
