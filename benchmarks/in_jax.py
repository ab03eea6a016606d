"""The networks in JAX, compiled by XLA."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import networks
from benchmarks.suite import Built

Parameters = list[dict[str, Any]]
TRAINED = ("weight", "bias")


def split(arrays: list[networks.Arrays]) -> tuple[Parameters, Parameters]:
    """What is trained, and the running statistics, layer by layer."""
    trained = [{name: jnp.asarray(a) for name, a in own.items() if name in TRAINED} for own in arrays]
    running = [{name: jnp.asarray(a) for name, a in own.items() if name not in TRAINED} for own in arrays]
    return trained, running


def apply(
    network: networks.Network, trained: Parameters, running: Parameters, x: Any, key: Any = None
) -> tuple[Any, Parameters]:
    """Scores and the next running statistics; with a key it is a step of training."""
    after = []
    for number, (layer, own, state) in enumerate(zip(network, trained, running, strict=True)):
        match layer:
            case networks.Conv(stride=stride, padding=padding, groups=groups):
                x = lax.conv_general_dilated(
                    x,
                    own["weight"],
                    (stride, stride),
                    ((padding, padding),) * 2,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups,
                )
                x = x + own["bias"] if "bias" in own else x
            case networks.Linear():
                x = x @ own["weight"] + own["bias"]
            case networks.Norm():
                mean, variance = state["running_mean"], state["running_variance"]
                if key is not None:
                    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
                    count = x.size // x.shape[-1]
                    state = {
                        "running_mean": 0.9 * state["running_mean"] + 0.1 * mean,
                        "running_variance": 0.9 * state["running_variance"] + 0.1 * variance * count / (count - 1),
                    }
                x = (x - mean) * (own["weight"] * lax.rsqrt(variance + 1e-5)) + own["bias"]
            case networks.Activation(name):
                x = jax.nn.relu(x) if name == "relu" else jax.nn.relu6(x)
            case networks.Pool(kernel, stride):
                window, strides = (1, kernel, kernel, 1), (1, stride, stride, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")
            case networks.Dropout(rate):
                if key is not None:
                    kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, x.shape)
                    x = jnp.where(kept, x / (1 - rate), 0)
            case networks.Mean():
                x = x.mean((1, 2))
            case networks.Flatten():
                x = x.reshape(len(x), -1)
        after.append(state)
    return x, after


def step(network: networks.Network, arrays: list[networks.Arrays], x: Any, y: Any) -> Built:
    """One step of training: softmax cross-entropy, SGD with momentum 0.9."""
    trained, running = split(arrays)
    batch, labels = jnp.asarray(x), jnp.asarray(y)
    velocity = jax.tree.map(jnp.zeros_like, trained)

    def loss_of(trained: Any, running: Any, batch: Any, labels: Any, key: Any) -> Any:
        found, after = apply(network, trained, running, batch, key)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(found), labels[:, None], axis=1)
        return -chosen.mean(), after

    def descend(trained: Any, running: Any, velocity: Any, key: Any, batch: Any, labels: Any) -> Any:
        (loss, after), gradient = jax.value_and_grad(loss_of, has_aux=True)(trained, running, batch, labels, key)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        trained = jax.tree.map(lambda p, v: p - 0.01 * v, trained, velocity)
        return loss, trained, after, velocity, jax.random.fold_in(key, 1)

    run = jax.jit(descend, donate_argnums=(0, 1, 2, 3))
    predict = jax.jit(lambda trained, running, batch: apply(network, trained, running, batch)[0])
    held = [trained, running, velocity, jax.random.key(0)]

    def work() -> Any:
        loss, *held[:] = run(*held, batch, labels)
        jax.block_until_ready(held)
        return loss

    random = any(isinstance(layer, networks.Dropout) for layer in network)
    return Built(work, (lambda: predict(held[0], held[1], batch)) if random else None)


def forward(network: networks.Network, arrays: list[networks.Arrays], x: Any) -> Built:
    """Scores of one batch, as in prediction."""
    trained, running = split(arrays)
    batch = jnp.asarray(x)
    run = jax.jit(lambda trained, running, batch: apply(network, trained, running, batch)[0])
    return Built(lambda: run(trained, running, batch).block_until_ready())
