"""Beginning: importing, a first prediction from the command line, and what there is to install."""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.suite import Built, Case, Contender, LeftOut, Settings, workload

SCRIPT = Path(__file__).parent.parent / "torch_predict.py"


@workload("start", parallel=False)
def start(size: int, settings: Settings) -> Iterator[Case]:
    """How long importing takes in a process of its own, without the interpreter's own start"""
    yield Case(
        "import",
        [
            Contender("nabi", importing("import nabi"), ours=True),
            Contender("NumPy", importing("import numpy"), beside=True),
            Contender("PyTorch", importing("import torch")),
            Contender("JAX", importing("import jax")),
        ],
        timed=False,
        alike="not",
    )
    yield Case(
        "import, and a first tensor",
        [
            Contender("nabi", importing("import nabi; nabi.tensor(1.0)"), ours=True),
            Contender("NumPy", importing("import numpy; numpy.array(1.0)"), beside=True),
            Contender("PyTorch", importing("import torch; torch.tensor(1.0)")),
            Contender("JAX", importing("import jax.numpy; jax.numpy.array(1.0)")),
        ],
        timed=False,
        alike="not",
    )
    yield Case(
        "import, and a first estimator",
        [
            Contender("nabi", importing("import nabi; nabi.MLPClassifier()"), ours=True),
            Contender("scikit-learn", importing("from sklearn.neural_network import MLPClassifier; MLPClassifier()")),
        ],
        timed=False,
        alike="not",
    )


def importing(source: str) -> Callable[[], Built]:
    """Seconds that a process takes with this source, less those of one that does nothing, right before it."""

    def build() -> Built:
        done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True)
        if done.returncode:
            raise LeftOut((done.stderr.strip().splitlines() or ["it does not start"])[-1])
        return Built(lambda: lasts(source) - lasts("pass"))

    return build


def lasts(source: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", source], check=True)
    return time.perf_counter() - begun


@workload("predict", sizes=(1,), doubling=(1, 2, 4, 8, 16, 32, 64, 128), quick=1, size_is="pictures")
def predict(size: int, settings: Settings) -> Iterator[Case]:
    """From the command to what it predicts: `nabi predict` with a small saved convnet, and the same in PyTorch"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, pictures = folder / "model.safetensors", folder / "pictures"

        def answers(command: list[Any]) -> Built:
            run = lambda: subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
            return Built(run, lambda: [int(line.split()[1]) for line in run().splitlines()])

        def ours() -> Built:
            from PIL import Image

            import nabi

            digits = nabi.data.load("digits")
            plain = {"convolutions": 1, "whitening": False}  # the network of the script
            classifier = nabi.ConvNetClassifier(channels=(8, 16), **plain, max_iter=3, random_state=0)
            classifier.fit(digits.train.images, digits.train.labels).save(model)
            pictures.mkdir()
            for number, image in enumerate(digits.train.images[:size, :, :, 0]):
                Image.fromarray(image).save(pictures / f"{number:04}.png")
            return answers([sys.executable, "-m", "nabi", "predict", model, pictures])

        def pytorch() -> Built:
            import torch

            import nabi
            from benchmarks import in_pytorch

            first, *rest = nabi.load(model).model_
            named = "weight", "bias", "running_mean", "running_variance"
            arrays = [
                {name: tensor.numpy() for name in named if (tensor := vars(layer).get(name)) is not None}
                for layer in rest
            ]
            net = in_pytorch.module(networks.convnet((8, 16), depth=1), arrays)
            scale = {"mean": first.mean.numpy().item(), "std": first.std.numpy().item()}
            torch.save({"net": net.state_dict(), **scale}, folder / "model.pt")
            return answers([sys.executable, SCRIPT, folder / "model.pt", pictures])

        yield Case(
            "from the command to its predictions",
            [Contender("nabi", ours, ours=True), Contender("PyTorch", pytorch)],
            size,
            alike="exactly",
        )


@workload("size", parallel=False)
def size(size: int, settings: Settings) -> Iterator[Case]:
    """What is installed, dependencies included"""

    def contender(name: str, distribution: str, ours: bool = False) -> Contender:
        def build() -> Built:
            importlib.metadata.distribution(distribution)
            return Built(lambda: installed(distribution) / 1e6)

        return Contender(name, build, ours=ours)

    yield Case(
        "installed, with all it needs",
        [
            contender("nabi", "nabi", ours=True),
            contender("PyTorch (CPU build)", "torch"),
            contender("JAX", "jax"),
            contender("scikit-learn", "scikit-learn"),
        ],
        unit="MB",
        timed=False,
        rounds=1,
        alike="not",
    )


def installed(name: str) -> int:
    """Bytes on disk of a distribution and all that it requires."""
    seen: set[str] = set()
    total = 0
    pending = [name]
    while pending:
        one = re.split(r"[ ;<>=!~\[(]", pending.pop())[0].lower().replace("_", "-")
        if one in seen:
            continue
        seen.add(one)
        try:
            found = importlib.metadata.distribution(one)
        except importlib.metadata.PackageNotFoundError:
            continue
        files = [Path(str(f.locate())) for f in found.files or ()]
        if one == "nabi" and not any(f.match("nabi/__init__.py") for f in files):  # installed as a link to its source
            files += (Path(__file__).parents[2] / "src" / "nabi").rglob("*.py")
        total += sum(f.stat().st_size for f in files if f.exists())
        pending += [r for r in found.requires or () if "extra ==" not in r]
    return total
