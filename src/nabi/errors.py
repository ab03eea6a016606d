"""Every exception that nabi raises on purpose, as one tree.

::

    NabiError
    ├── ShapeError             (ValueError)    shapes that do not go together
    ├── DTypeError             (TypeError)     a dtype that the operation does not take
    ├── GraphError             (RuntimeError)  a graph that is not well formed, or cannot be differentiated
    ├── GradientError          (AssertionError)  a gradient that differs from central differences
    ├── CompileError           (TypeError)     a compiled function asked for what only a value can tell
    ├── NonFiniteError         (ArithmeticError)  training met an infinity or a NaN
    ├── SettingError           (ValueError)    an option with a value it cannot have
    ├── DataError              (ValueError)    a data set that cannot be used as it is
    │   ├── PictureError                       one picture that cannot be decoded
    │   ├── FormatError                        a file that is not what it should be, or is damaged
    │   └── ChecksumError                      a file whose checksum differs from the published one
    ├── ModelFileError         (ValueError)    a model file that is damaged or something else
    └── DownloadError          (OSError)       a download that did not come

Each also derives from the built-in exception that Python programmers would expect, so that ``except ValueError``
works. A message is one line that says what is wrong and where; the command line prints it as it is.
"""


class NabiError(Exception):
    """The root of every exception that nabi raises on purpose."""


class ShapeError(NabiError, ValueError):
    """Shapes that do not go together; the message names operation, argument and both shapes."""


class DTypeError(NabiError, TypeError):
    """A dtype that the operation does not take."""


class GraphError(NabiError, RuntimeError):
    """A graph that is not well formed, or that cannot be differentiated; the message names the node."""


class GradientError(NabiError, AssertionError):
    """A gradient that differs from central differences; the message names the worst entry."""


class CompileError(NabiError, TypeError):
    """A compiled function asked for a value, or used a tensor that was not declared as state."""


class NonFiniteError(NabiError, ArithmeticError):
    """A loss that is infinite or not a number; the message names epoch, step and the first offending node."""


class SettingError(NabiError, ValueError):
    """An option with a value that it cannot have; the message lists what it can be."""


class DataError(NabiError, ValueError):
    """A data set that cannot be used as it is."""


class PictureError(DataError):
    """One picture that cannot be decoded; the message says which and why.

    Attributes
    ----------
    kind : str
        What is wrong, as `nabi.data.damage` has it.
    """

    def __init__(self, message: str, kind: str = "damaged") -> None:
        super().__init__(message)
        self.kind = kind


class FormatError(DataError):
    """A file that is not in the format it should have, or is damaged."""


class ChecksumError(DataError):
    """A file whose checksum differs from the published one."""


class ModelFileError(NabiError, ValueError):
    """A model file that is damaged, of another version, or something else altogether."""


class DownloadError(NabiError, OSError):
    """A download that did not come; the message names the address and the alternative."""
