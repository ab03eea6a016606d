"""Files made for the tests: pictures, IDX, CIFAR in both forms, archives."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 6, width: int = 7, channels: int = 3) -> np.ndarray:
    """A random picture; the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tree(root: Path, tree: dict[str, bytes]) -> Path:
    """Files under ``root``; a name that ends with / is an empty folder."""
    for name, content in tree.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def tar(tree: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(tree: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pets() -> dict[str, bytes]:
    """Two classes and an empty one, in splits."""
    tree = {"train/snake/": b""}
    for number, split in enumerate(("train", "train", "val", "test")):
        for label in ("cat", "dog"):
            name = f"{split}/{label}/{number}.png"
            tree[name] = encoded(pixels(hash_of(name)))
    return tree


def hash_of(name: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**32


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_pair(count: int, part: str = "train", seed: int = 0) -> dict[str, bytes]:
    images = pixels(seed, count, 5 * 4, 1).reshape(count, 5, 4)
    labels = np.arange(count) % 3
    return {
        f"{part}-images-idx3-ubyte.gz": gzip.compress(idx(images)),
        f"{part}-labels-idx1-ubyte.gz": gzip.compress(idx(labels)),
    }


def cifar_arrays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 32, 32, 3) and labels."""
    return pixels(seed, count * 32, 32, 3).reshape(count, 32, 32, 3), (np.arange(count) * 7 + seed) % 10


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def cifar_binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), planes(images)], axis=1).tobytes()


def cifar_python(images: np.ndarray, labels: np.ndarray) -> bytes:
    """As Python 3 with protocol 2 writes it: byte strings through ``_codecs.encode``."""
    batch = {b"batch_label": b"a batch", b"labels": labels.tolist(), b"data": np.ascontiguousarray(planes(images))}
    return pickle.dumps(batch, protocol=2)


def python2(value: Any) -> bytes:
    """A pickle as Python 2 wrote it with protocol 2: strings of bytes, an array that calls numpy.core.multiarray."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, bytes):
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"M" + struct.pack("<H", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return made + b"(K\x01" + shape + kind + b"\x89" + _python2(value.tobytes()) + b"tb"


def cifar_tree(count: int, form: str) -> dict[str, bytes]:
    """The files of CIFAR-10 with ``count`` pictures a batch: ``"binary"``, ``"python"`` or ``"python2"``."""
    tree = {}
    for number in (1, 2, 3, 4, 5, 0):
        images, labels = cifar_arrays(count, number)
        name = f"data_batch_{number}" if number else "test_batch"
        if form == "binary":
            tree[f"cifar-10-batches-bin/{name}.bin"] = cifar_binary(images, labels)
        elif form == "python":
            tree[f"cifar-10-batches-py/{name}"] = cifar_python(images, labels)
        else:
            tree[f"cifar-10-batches-py/{name}"] = python2({b"data": planes(images), b"labels": labels.tolist()})
    names = [name.encode() for name in CIFAR_CLASSES]
    if form == "binary":
        tree["cifar-10-batches-bin/batches.meta.txt"] = b"\n".join(names) + b"\n\n"
    elif form == "python":
        tree["cifar-10-batches-py/batches.meta"] = pickle.dumps({b"label_names": names}, protocol=2)
    else:
        tree["cifar-10-batches-py/batches.meta"] = python2({b"label_names": names})
    return tree
