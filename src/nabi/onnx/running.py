"""Other people's programs that judge an ONNX file: the checker of the ``onnx`` package, and onnxruntime."""

from typing import Any

from numpy.typing import NDArray

from nabi.errors import GraphError, SettingError

QUIET = 3  # errors only: what onnxruntime warns of while it optimises is not about the file


class Session:
    """A file's content, accepted by the checker and opened by onnxruntime.

    Raises
    ------
    SettingError
        One of the two is not installed.
    GraphError
        One of the two refuses the file; the message is theirs.
    """

    def __init__(self, content: bytes) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise SettingError(
                f"{error.name} is not installed, and no file is written unchecked: pip install 'nabi[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        self.version: str = onnxruntime.__version__
        try:
            onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # theirs share no class
            raise GraphError(f"what was written is refused: {' '.join(str(error).split())[:300]}") from None

    def __call__(self, x: NDArray[Any]) -> list[Any]:
        """The outputs for its one input."""
        outputs: list[Any] = self._session.run(None, {self._session.get_inputs()[0].name: x})
        return outputs
