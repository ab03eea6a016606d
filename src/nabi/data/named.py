"""The data sets that nabi knows by name: one declaration each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nabi.data.cifar import load_cifar
from nabi.data.dataset import Dataset, Split
from nabi.data.files import Progress
from nabi.data.idx import load_idx
from nabi.data.official import File, download, find
from nabi.data.splits import complete_splits


@dataclass(frozen=True)
class Form:
    """One way that a data set comes: its official files, and what reads them."""

    files: tuple[File, ...]
    read: Callable[[tuple[Path, ...], str], Dataset]


@dataclass(frozen=True)
class Named:
    """A data set with a name. Any of its forms serves if it is at hand; the first is what is downloaded."""

    name: str
    summary: str
    forms: tuple[Form, ...]

    def load(self, progress: Progress | None = None) -> Dataset:
        """Read it from this machine or, failing that, the network; raises as :mod:`nabi.data.official` does."""
        others = frozenset(
            file.md5 for other in NAMED.values() if other is not self for form in other.forms for file in form.files
        )
        for form in self.forms:
            paths = find(self.name, form.files, others)
            if paths is not None:
                return form.read(paths, self.name)
        form = self.forms[0]
        return form.read(download(self.name, form.files, progress), self.name)


def _digits(paths: tuple[Path, ...], name: str) -> Dataset:
    """The 1,797 digits that come with scikit-learn; their values from 0 to 16 are stretched to 0 to 255."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = np.rint(values.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    everything = Split(images, labels.astype(np.int64))
    return complete_splits(Dataset(name, tuple("0123456789"), everything))


def _cifar(paths: tuple[Path, ...], name: str) -> Dataset:
    return load_cifar(paths[0], name)


def _mnist(paths: tuple[Path, ...], name: str) -> Dataset:
    return load_idx(paths, name, tuple("0123456789"))


def _fashion_mnist(paths: tuple[Path, ...], name: str) -> Dataset:
    return load_idx(paths, name, FASHION)


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

_TORONTO = ("https://www.cs.toronto.edu/~kriz/",)
_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_ZALANDO = (
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)

NAMED = {
    named.name: named
    for named in (
        Named("digits", "1,797 digits of 8x8, comes with scikit-learn", (Form((), _digits),)),
        Named(
            "cifar10",
            "60,000 colour pictures of 32x32 in 10 classes",
            (
                Form(
                    (File("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170052171, _TORONTO),), _cifar
                ),
                Form(
                    (File("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170498071, _TORONTO),), _cifar
                ),
            ),
        ),
        Named(
            "cifar100",
            "60,000 colour pictures of 32x32 in 100 classes",
            (
                Form(
                    (File("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168513733, _TORONTO),), _cifar
                ),
                Form(
                    (File("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169001437, _TORONTO),), _cifar
                ),
            ),
        ),
        Named(
            "mnist",
            "70,000 handwritten digits of 28x28",
            (
                Form(
                    (
                        File("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422, _MNIST),
                        File("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28881, _MNIST),
                        File("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1648877, _MNIST),
                        File("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4542, _MNIST),
                    ),
                    _mnist,
                ),
            ),
        ),
        Named(
            "fashion-mnist",
            "70,000 pictures of clothes, grey, 28x28, in 10 classes",
            (
                Form(
                    (
                        File(
                            "train-images-idx3-ubyte.gz",
                            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                            26421880,
                            _ZALANDO,
                            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                        ),
                        File(
                            "train-labels-idx1-ubyte.gz",
                            "25c81989df183df01b3e8a0aad5dffbe",
                            29515,
                            _ZALANDO,
                            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                        ),
                        File(
                            "t10k-images-idx3-ubyte.gz",
                            "bef4ecab320f06d8554ea6380940ec79",
                            4422102,
                            _ZALANDO,
                            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                        ),
                        File(
                            "t10k-labels-idx1-ubyte.gz",
                            "bb300cfdad3c16e7a12a480ee83cd310",
                            5148,
                            _ZALANDO,
                            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                        ),
                    ),
                    _fashion_mnist,
                ),
            ),
        ),
    )
}
