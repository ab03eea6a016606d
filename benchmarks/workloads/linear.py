"""A linear classifier on pictures of CIFAR-10's size: one epoch of softmax cross-entropy, batches of 256."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.suite import Built, Case, Contender, Settings, workload

BATCH = 256
RATE = 0.001


def pictures(count: int) -> tuple[Any, Any]:
    """Noise over a template for each of ten classes: uint8 (N, 32, 32, 3), and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    templates = rng.integers(0, 64, (10, 32, 32, 3), np.uint8)
    images = rng.integers(0, 192, (count, 32, 32, 3), np.uint8)
    images += templates[labels]
    return images, labels


def scale(images: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of each channel, where white is 1."""
    some = images[:1000] / np.float32(255)
    return some.mean((0, 1, 2)), some.std((0, 1, 2))


def standardized(images: Any) -> Any:
    """All pictures as rows of float32: what a peer may prepare beforehand."""
    mean, std = scale(images)
    return ((images / np.float32(255) - mean) / std).reshape(len(images), -1)


def epochs(step: Callable[[Any], Any], count: int) -> Callable[[], float]:
    """One epoch after another, in the same random orders for everybody: each gives its mean loss."""
    rng = np.random.default_rng(2)

    def epoch() -> float:
        order = rng.permutation(count)
        whole = count // BATCH * BATCH
        return float(np.mean([float(step(order[i : i + BATCH])) for i in range(0, whole, BATCH)]))

    return epoch


def weight() -> Any:
    return np.random.default_rng(3).standard_normal((3072, 10), np.float32) * np.float32(0.01)


def torch_step(images: Any, labels: Any, prepared: bool) -> Callable[[Any], Any]:
    """PyTorch from uint8 pictures, as ours, or from rows that stand ready as float32."""
    import torch

    layer = torch.nn.Linear(3072, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight().T.copy()))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, momentum=0.9)
    rows = torch.from_numpy(standardized(images) if prepared else images)
    answers = torch.from_numpy(labels)
    mean, std = map(torch.from_numpy, scale(images))

    def step(order: Any) -> Any:
        index = torch.from_numpy(order)
        batch = rows[index]
        if not prepared:
            batch = batch.float().div_(255).sub_(mean).div_(std).flatten(1)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(batch), answers[index])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@workload("linear", sizes=(50_000,), doubling=(6_250, 12_500, 25_000, 50_000), quick=512, size_is="pictures")
def linear(size: int, settings: Settings) -> Iterator[Case]:
    """Steps of one epoch of a linear classifier (softmax, batch 256) over uint8 pictures of 32x32x3"""
    images, labels = pictures(size)

    def ours() -> Built:
        import nabi

        first = nabi.nn.Standardize(*scale(images))
        layer = nabi.nn.Linear(3072, 10, key=nabi.random.key(0), initializer=lambda key, shape: weight())
        model = nabi.nn.Sequential(first, nabi.nn.Flatten(), layer)
        optimizer = nabi.optim.SGD(nabi.nn.parameters(model), RATE, momentum=0.9)

        @nabi.compile(state=(model, optimizer), engine=settings.engine)
        def step(batch: Any, answers: Any) -> Any:
            loss = nabi.losses.softmax_cross_entropy(model(batch, training=True), answers)
            optimizer.minimize(loss)
            return loss

        return Built(epochs(lambda order: step(images[order], labels[order]), size))

    def jax() -> Built:
        import jax
        import jax.numpy as jnp

        mean, std = scale(images)
        first = [jnp.asarray(weight()), jnp.zeros(10, jnp.float32)]
        held = [first, jax.tree.map(jnp.zeros_like, first)]

        def loss_of(p: Any, batch: Any, answers: Any) -> Any:
            rows = ((batch.astype(jnp.float32) / 255 - mean) / std).reshape(len(batch), -1)
            found = jax.nn.log_softmax(rows @ p[0] + p[1])
            return -jnp.take_along_axis(found, answers[:, None], axis=1).mean()

        def descend(p: Any, velocity: Any, batch: Any, answers: Any) -> Any:
            loss, gradient = jax.value_and_grad(loss_of)(p, batch, answers)
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
            return loss, jax.tree.map(lambda p, v: p - RATE * v, p, velocity), velocity

        run = jax.jit(descend, donate_argnums=(0, 1))

        def step(order: Any) -> Any:
            loss, *held[:] = run(*held, images[order], labels[order])
            return loss

        return Built(epochs(step, size))

    yield Case(
        "linear classifier, the steps of an epoch",
        [
            Contender("nabi", ours, ours=True),
            Contender("PyTorch", lambda: Built(epochs(torch_step(images, labels, prepared=False), size))),
            Contender("PyTorch, float32 rows", lambda: Built(epochs(torch_step(images, labels, prepared=True), size))),
            Contender("JAX", jax),
        ],
        size,
    )


@workload(
    "linear-fit", sizes=(50_000,), doubling=(6_250, 12_500, 25_000, 50_000), quick=1_024, size_is="pictures",
    long="a few minutes",
)  # fmt: skip
def fit(size: int, settings: Settings) -> Iterator[Case]:
    """`LinearClassifier.fit` for one epoch from uint8 pictures, beside scikit-learn's SGDClassifier on ready rows"""
    images, labels = pictures(size)
    some = slice(0, 1000)

    def learned(predict: Callable[[], Any]) -> Callable[[], float]:
        """Accuracy is no matter of rounding here; that all of them learn is."""

        def answer() -> float:
            right = float(np.mean(predict() == labels[some]))
            if not right > 0.9 and not settings.quick:
                raise ArithmeticError(f"only {right:.0%} of pictures that were trained on are right")
            return right

        return answer

    def ours() -> Built:
        import nabi

        how = {"loss": "softmax", "max_iter": 1, "batch_size": BATCH, "engine": settings.engine, "random_state": 0}
        fit = lambda: nabi.LinearClassifier(**how).fit(images, labels)  # type: ignore[arg-type]
        return Built(fit, learned(lambda: fit().predict(images[some])))

    def scikit_learn() -> Built:
        from sklearn.linear_model import SGDClassifier

        rows = standardized(images)
        how = {"loss": "log_loss", "max_iter": 1, "tol": None, "n_jobs": settings.threads, "random_state": 0}
        fit = lambda: SGDClassifier(**how).fit(rows, labels)
        return Built(fit, learned(lambda: fit().predict(rows[some])))

    def pytorch(prepared: bool) -> Built:
        return Built(epochs(torch_step(images, labels, prepared), size))

    yield Case(
        "linear classifier, fit for one epoch",
        [
            Contender("nabi", ours, ours=True),
            Contender("scikit-learn SGDClassifier", scikit_learn),
            Contender("PyTorch", lambda: pytorch(False)),
            Contender("PyTorch, float32 rows", lambda: pytorch(True)),
        ],
        size,
        alike="not",
    )
