"""The networks in PyTorch, in both memory formats, with `torch.compile` and in bfloat16."""

import os
import shutil
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import networks
from benchmarks.suite import Built, LeftOut


def module(network: networks.Network, arrays: list[networks.Arrays]) -> nn.Sequential:
    """The network with these weights, which are kept the other way round here: (out, in, kh, kw) and (out, in)."""
    layers: list[nn.Module] = []
    flat: networks.Flatten | None = None
    for layer, own in zip(network, arrays, strict=True):
        made: Any
        match layer:
            case networks.Conv(inputs, outputs, kernel, stride, padding, groups, bias):
                made = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
                put(made.weight, own["weight"].transpose(3, 2, 0, 1))
            case networks.Linear(inputs, outputs):
                made = nn.Linear(inputs, outputs)
                weight = own["weight"]
                if flat is not None:  # rows in the order of channels first
                    weight = weight.reshape(*flat, outputs).transpose(2, 0, 1, 3).reshape(inputs, outputs)
                    flat = None
                put(made.weight, weight.T)
            case networks.Norm(channels):
                made = nn.BatchNorm2d(channels)
                put(made.weight, own["weight"])
                put(made.running_mean, own["running_mean"])
                put(made.running_var, own["running_variance"])
            case networks.Activation(name):
                made = {"relu": nn.ReLU, "relu6": nn.ReLU6}[name](inplace=True)
            case networks.Pool(kernel, stride):
                made = nn.MaxPool2d(kernel, stride)
            case networks.Dropout(rate):
                made = nn.Dropout(rate)
            case networks.Mean():
                layers.append(nn.AdaptiveAvgPool2d(1))
                made = nn.Flatten()
            case networks.Flatten():
                flat = layer
                made = nn.Flatten()
        if "bias" in own:
            put(made.bias, own["bias"])
        layers.append(made)
    return nn.Sequential(*layers)


def put(tensor: Any, array: Any) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def prepared(
    network: networks.Network, arrays: list[networks.Arrays], x: Any, channels_last: bool
) -> tuple[nn.Sequential, Any]:
    """Model and batch, in the memory format that is asked for."""
    net, batch = module(network, arrays), torch.from_numpy(x)
    if batch.ndim == 4:
        batch = batch.permute(0, 3, 1, 2)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        net, batch = net.to(memory_format=layout), batch.contiguous(memory_format=layout)
    return net, batch


def compiled(function: Any) -> Any:
    if not (os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++", "c++")))):
        raise LeftOut("it needs a C++ compiler")
    return torch.compile(function)


def step(
    network: networks.Network,
    arrays: list[networks.Arrays],
    x: Any,
    y: Any,
    *,
    channels_last: bool = False,
    precision: str = "float32",
    compile: bool = False,
) -> Built:
    """One step of training: softmax cross-entropy, SGD with momentum 0.9 (in its default form: `fused` was slower)."""
    net, batch = prepared(network, arrays, x, channels_last)
    labels = torch.from_numpy(y)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def measured(batch: Any, labels: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            return cross_entropy(net(batch), labels)

    loss_of = compiled(measured) if compile else measured

    def work() -> Any:
        optimizer.zero_grad()
        loss = loss_of(batch, labels)
        loss.backward()
        optimizer.step()
        return loss

    random = any(isinstance(layer, networks.Dropout) for layer in network)
    return Built(work, (lambda: scores(net, batch, precision)) if random else None)


def scores(net: nn.Sequential, batch: Any, precision: str) -> Any:
    """Scores as in prediction; the network goes on training afterwards."""
    net.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        found = net(batch)
    net.train()
    return found


def forward(
    network: networks.Network,
    arrays: list[networks.Arrays],
    x: Any,
    *,
    channels_last: bool = False,
    precision: str = "float32",
    compile: bool = False,
) -> Built:
    """Scores of one batch, as in prediction."""
    net, batch = prepared(network, arrays, x, channels_last)
    net.eval()
    run = compiled(net) if compile else net

    def work() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            return run(batch)

    return Built(work)
