"""The networks in nabi."""

from typing import Any

import numpy as np

import nabi
from benchmarks import networks
from benchmarks.suite import Built, LeftOut
from nabi import nn
from nabi.errors import SettingError


def model(network: networks.Network, arrays: list[networks.Arrays]) -> nn.Sequential:
    """The network as layers of `nabi.nn`."""
    key = nabi.random.key(0)
    layers: list[nn.Layer] = []
    for layer, own in zip(network, arrays, strict=True):
        given = {"key": key, "initializer": lambda key, shape, own=own: own["weight"]}
        made: Any
        match layer:
            case networks.Conv(inputs, outputs, kernel, stride, padding, groups, bias):
                how = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
                made = nn.Conv2d(inputs, outputs, kernel, **how, **given)
            case networks.Linear(inputs, outputs):
                made = nn.Linear(inputs, outputs, **given)
            case networks.Norm(channels):
                made = nn.BatchNorm(channels)
            case networks.Activation(name):
                made = {"relu": nn.ReLU, "relu6": nn.ReLU6}[name]()
            case networks.Pool(kernel, stride):
                made = nn.MaxPool2d(kernel, stride)
            case networks.Dropout(rate):
                made = nn.Dropout(rate, key=nabi.random.key(len(layers)))
            case networks.Mean():
                made = nn.GlobalAvgPool()
            case networks.Flatten():
                made = nn.Flatten()
        for name, array in own.items():
            getattr(made, name).assign(array)
        layers.append(made)
    return nn.Sequential(*layers)


def compiled(function: Any, state: Any, engine: str, precision: str = "float32") -> Any:
    """`nabi.compile`, in the precision that is asked for."""
    if precision == "float32":
        return nabi.compile(function, state=state, engine=engine)
    try:
        return nabi.compile(function, state=state, engine=engine, precision="bf16")
    except SettingError as error:  # the processor has no instructions for bfloat16
        raise LeftOut(str(error)) from None


def step(
    network: networks.Network, arrays: list[networks.Arrays], x: Any, y: Any, engine: str, precision: str = "float32"
) -> Built:
    """One step of training: softmax cross-entropy, SGD with momentum 0.9."""
    net = model(network, arrays)
    optimizer = nabi.optim.SGD(nn.parameters(net), learning_rate=0.01, momentum=0.9)

    def descend(images: Any, labels: Any) -> Any:
        loss = nabi.losses.softmax_cross_entropy(net(images, training=True), labels)
        optimizer.minimize(loss)
        return loss

    run = compiled(descend, (net, optimizer), engine, precision)
    random = any(isinstance(layer, networks.Dropout) for layer in network)
    return Built(lambda: run(x, y), scores(net, x, engine, precision) if random else None)


def scores(net: nn.Sequential, x: Any, engine: str, precision: str = "float32") -> Any:
    """What computes the scores of a batch, as in prediction."""
    run = compiled(lambda images: net(images, training=False), net, engine, precision)
    return lambda: run(x)


def forward(
    network: networks.Network, arrays: list[networks.Arrays], x: Any, engine: str, precision: str = "float32"
) -> Built:
    """Scores of one batch, as in prediction."""
    run = scores(model(network, arrays), x, engine, precision)
    return Built(lambda: np.asarray(run().numpy()))
