"""Random programs: compiled equals eager bit for bit, values and gradients, in any layout and any size of block."""

from typing import Any

import numpy as np
import pytest

import nabi
from fuzzing import examples
from nabi import ops
from nabi.engines import prepare, reference
from nabi.errors import GraphError, ShapeError

UNARY = (
    "exp expm1 sin cos tanh sigmoid gelu silu softplus elu leaky_relu relu relu6 hard_swish abs square erf sign".split()
)
BINARY = "add subtract multiply maximum minimum divide".split()
FOLDS = "sum mean max var logsumexp".split()


def program(seed: int) -> Any:
    """A function of three tensors that does the same 3 to 13 things at every call, and differentiates what it made."""

    def run(*inputs: Any) -> Any:
        rng = np.random.default_rng(seed)
        pool = list(inputs)
        pick = lambda things: things[int(rng.integers(len(things)))]
        for _ in range(int(rng.integers(3, 14))):
            a, b = pick(pool), pick(pool)
            kind = int(rng.integers(8))
            if kind < 3:
                made = getattr(ops, pick(UNARY))(a)
            elif kind < 5:
                made = (
                    getattr(ops, pick(BINARY))(a, b) if a.shape[-1:] == b.shape[-1:] and a.ndim and b.ndim else a * 0.5
                )
            elif kind == 5:
                made = ops.permute_dims(a, tuple(int(i) for i in rng.permutation(a.ndim)))
            elif kind == 6 and a.ndim:
                axis = int(rng.integers(a.ndim))
                made = getattr(ops, pick(FOLDS))(a, axis=axis, keepdims=bool(rng.integers(2)))
            elif kind == 7 and a.ndim == 2:
                made = a @ ops.permute_dims(a, (1, 0)) if rng.integers(2) else ops.softmax(a[::-1])
            else:
                made = a * 0.7
            pool.append(made if made.size < 20_000 else ops.mean(made))
        loss = sum((ops.mean(ops.tanh(made)) for made in pool[-4:]), start=nabi.tensor(0.0))
        return (loss, *pool[len(inputs) :], *nabi.gradients(loss, inputs))

    return run


def inputs(seed: int) -> list[Any]:
    rng = np.random.default_rng([seed, 1])
    height, width = (int(n) for n in rng.integers(1, 40, 2))
    dtype = np.float32 if rng.integers(2) else np.float64
    made = []
    for shape in ((height, width), (height, width), (width,)):
        array = rng.standard_normal(shape).astype(dtype)
        made.append(nabi.tensor(np.asfortranarray(array) if rng.integers(3) == 0 else array, requires_grad=True))
    return made


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities are welcome here, as long as both have them
def test_compiled_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = 0
    for seed in range(examples(200)):
        monkeypatch.setattr(reference, "BLOCK", (4, 16, 64, 300)[seed % 4])
        function, given = program(seed), inputs(seed)
        try:
            eager = function(*given)
        except (ShapeError, GraphError):  # shapes that do not broadcast; nothing left that depends on the inputs
            continue
        compiled = nabi.compile(function)
        # Called, it would run uncompiled, since its caller might differentiate on the inputs.
        values = prepare("reference", compiled.plan(*given))([t.value for t in given])
        ran += 1
        for got, wanted in zip(values, eager, strict=True):
            np.testing.assert_array_equal(got, wanted.numpy(), err_msg=f"program {seed}")
    assert ran > examples(100)
