"""Lanes as ``xp``: a formula run on registers writes the machine code that computes it.

An elementwise operation needs nothing more than its declaration. Every function here takes and gives `Lane`: as many
numbers as a register holds, or one that all lanes share.
"""

import functools
import math
import struct
from typing import Any

import numpy as np

from nabi.engines.cpu.code import TYPES, Code, in_register, suffix
from nabi.graph.operation import registry
from nabi.graph.operators import Operators


class Unwritten(Exception):
    """A formula asks for something that cannot be written in lanes."""


class Lane(Operators):
    """Numbers in a register.

    Attributes
    ----------
    code : Code
    name : str
        As LLVM's text has it.
    dtype : dtype
    width : int
        How many; 1 where all lanes share one.
    """

    __slots__ = ("code", "dtype", "name", "width")

    def __init__(self, code: Code, name: str, dtype: Any, width: int) -> None:
        self.code = code
        self.name = name
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.width = width

    @property
    def kind(self) -> str:
        """The type as LLVM's text has it."""
        one = in_register(self.dtype)
        return one if self.width == 1 else f"<{self.width} x {one}>"

    def spread(self, width: int) -> "Lane":
        """The same in every lane of a register."""
        if self.width == width:
            return self
        one = in_register(self.dtype)
        key = ("spread", self.name, one, width)
        name = self.code.known(key) if self.name.startswith("%") else None
        if name is None:
            name = self.code.remember(key, self.code.splat(one, self.name, width))
        return Lane(self.code, name, self.dtype, width)


def constant(code: Code, value: Any, dtype: Any) -> Lane:
    """A number known while the code is written."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        name = "true" if value else "false"
    elif kind.kind == "f":
        rounded = float(kind.type(value))
        name = "0x" + struct.pack(">d", rounded).hex().upper()
    else:
        name = str(int(np.asarray(value).astype(kind)))
    return Lane(code, name, kind, 1)


def _together(*values: Any) -> list[Lane]:
    """Operands as lanes of one dtype and width; Python's numbers take the dtype of the rest."""
    lanes = [v for v in values if isinstance(v, Lane)]
    code = lanes[0].code
    weak = [v for v in values if not isinstance(v, Lane)]
    dtype = np.result_type(*(lane.dtype for lane in lanes), *weak)
    width = max(lane.width for lane in lanes)
    given = [v if isinstance(v, Lane) else constant(code, v, dtype) for v in values]
    return [(v if v.dtype == dtype else lanes_xp.astype(v, dtype)).spread(width) for v in given]


def _binary(floating: str, signed: str, unsigned: str, x: Any, y: Any) -> Lane:
    x, y = _together(x, y)
    which = {"f": floating, "i": signed, "u": unsigned}.get(x.dtype.kind)
    if not which:
        raise Unwritten(f"no such instruction for {x.dtype}")
    return Lane(x.code, x.code.let(f"{which} {x.kind} {x.name}, {y.name}"), x.dtype, x.width)


def _compared(floating: str, signed: str, unsigned: str, x: Any, y: Any) -> Lane:
    x, y = _together(x, y)
    if x.dtype.kind == "f":
        line = f"fcmp {floating} {x.kind} {x.name}, {y.name}"
    else:
        line = f"icmp {unsigned if x.dtype.kind in 'ub' else signed} {x.kind} {x.name}, {y.name}"
    return Lane(x.code, x.code.let(line), bool, x.width)


def _intrinsic(called: str, *operands: Lane) -> Lane:
    """One of LLVM's own functions, on floating-point lanes."""
    x = operands[0]
    if x.dtype.kind != "f":
        raise Unwritten(f"{called} of {x.dtype}")
    name = f"@llvm.{called}.{suffix(TYPES[x.dtype], x.width)}"
    x.code.declare(name, f"declare {x.kind} {name}({', '.join(o.kind for o in operands)})")
    given = ", ".join(f"{o.kind} {o.name}" for o in operands)
    return Lane(x.code, x.code.let(f"call {x.kind} {name}({given})"), x.dtype, x.width)


def _library(called: str, *operands: Lane) -> Lane:
    """A function of the C library, lane by lane."""
    x = operands[0]
    if x.dtype.kind != "f":
        raise Unwritten(f"{called} of {x.dtype}")
    one = TYPES[x.dtype]
    name = "@" + called + ("f" if x.dtype == np.float32 else "")
    x.code.declare(name, f"declare {one} {name}({', '.join(one for _ in operands)})")
    if x.width == 1:
        given = ", ".join(f"{one} {o.name}" for o in operands)
        return Lane(x.code, x.code.let(f"call {one} {name}({given})"), x.dtype, 1)
    result = "poison"
    for lane in range(x.width):
        parts = [x.code.let(f"extractelement {o.kind} {o.name}, i64 {lane}") for o in operands]
        made = x.code.let(f"call {one} {name}({', '.join(f'{one} {part}' for part in parts)})")
        result = x.code.let(f"insertelement {x.kind} {result}, {one} {made}, i64 {lane}")
    return Lane(x.code, result, x.dtype, x.width)


def _bits(x: Lane) -> Lane:
    """The bits of float32 lanes, as integers."""
    kind = "i32" if x.width == 1 else f"<{x.width} x i32>"
    return Lane(x.code, x.code.let(f"bitcast {x.kind} {x.name} to {kind}"), np.int32, x.width)


def _of_bits(x: Lane) -> Lane:
    kind = "float" if x.width == 1 else f"<{x.width} x float>"
    return Lane(x.code, x.code.let(f"bitcast {x.kind} {x.name} to {kind}"), np.float32, x.width)


def fused(x: Lane, y: Lane, z: Lane) -> Lane:
    """x·y + z, rounded once where the processor can; a processor that cannot would take a hundred times as long."""
    if x.code.rounds_once:
        return _intrinsic("fma", x, y, z)
    return lanes_xp.add(x * y, z)


def add_product(total: str, x: Lane, y: Lane) -> None:
    """To a variable (see `Code.variable`), x·y."""
    old = Lane(y.code, y.code.let(f"load {y.kind}, ptr {total}"), y.dtype, y.width)
    y.code.emit(f"store {y.kind} {fused(x, y, old).name}, ptr {total}")


def _polynomial(x: Lane, *factors: float) -> Lane:
    """Horner's rule, in one rounding a step."""
    result = constant(x.code, factors[0], x.dtype).spread(x.width)
    for factor in factors[1:]:
        result = fused(result, x, constant(x.code, factor, x.dtype).spread(x.width))
    return result


class _Lanes:
    """The namespace; what it lacks is looked up among the declared operations, and their formulas written."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        operation = registry.get(name)
        if operation is None or operation.native or operation.kind != "elementwise":
            raise Unwritten(f"{name} is not written in lanes")
        found: Any = functools.partial(operation.forward, self)
        setattr(self, name, found)
        return found

    # --- arithmetic ---

    def add(self, x: Any, y: Any) -> Lane:
        return _binary("fadd", "add", "add", x, y)

    def subtract(self, x: Any, y: Any) -> Lane:
        return _binary("fsub", "sub", "sub", x, y)

    def multiply(self, x: Any, y: Any) -> Lane:
        return _binary("fmul", "mul", "mul", x, y)

    def divide(self, x: Any, y: Any) -> Lane:
        return _binary("fdiv", "", "", x, y)

    def negative(self, x: Lane) -> Lane:
        if x.dtype.kind == "f":
            return Lane(x.code, x.code.let(f"fneg {x.kind} {x.name}"), x.dtype, x.width)
        return self.subtract(constant(x.code, 0, x.dtype), x)

    def abs(self, x: Lane) -> Lane:
        if x.dtype.kind == "u":
            return x
        return _intrinsic("fabs", x) if x.dtype.kind == "f" else self.where(x < 0, -x, x)

    def sign(self, x: Lane) -> Lane:
        one, none = constant(x.code, 1, x.dtype), constant(x.code, 0, x.dtype)
        positive = self.where(x > 0, one, none)
        if x.dtype.kind == "u":
            return positive
        return self.where(x < 0, -one, self.where(x == x, positive, x))

    def maximum(self, x: Any, y: Any) -> Lane:
        return self._extreme(x, y, "ogt", "sgt", "ugt")

    def minimum(self, x: Any, y: Any) -> Lane:
        return self._extreme(x, y, "olt", "slt", "ult")

    def _extreme(self, x: Any, y: Any, floating: str, signed: str, unsigned: str) -> Lane:
        if not isinstance(x, Lane):
            x, y = y, x
        number = not isinstance(y, Lane) and not (isinstance(y, float) and math.isnan(y))
        x, y = _together(x, y)
        chosen = self.where(_compared(floating, signed, unsigned, y, x), y, x)  # x where it is not a number
        if x.dtype.kind != "f" or number:
            return chosen
        return self.where(_compared("uno", "", "", y, y), y, chosen)

    def floor_divide(self, x: Any, y: Any) -> Lane:
        x, y = _together(x, y)
        if x.dtype.kind != "u":
            raise Unwritten(f"floor_divide of {x.dtype}")
        return self._divided("udiv", x, y)

    def remainder(self, x: Any, y: Any) -> Lane:
        x, y = _together(x, y)
        if x.dtype.kind != "u":
            raise Unwritten(f"remainder of {x.dtype}")
        return self._divided("urem", x, y)

    def _divided(self, which: str, x: Lane, y: Lane) -> Lane:
        """Division of whole numbers: by zero it is zero, as in NumPy, and no trap."""
        none = y == 0
        found = _binary("", "", which, x, self.where(none, constant(y.code, 1, y.dtype), y))
        return self.where(none, constant(y.code, 0, y.dtype), found)

    def pow(self, x: Any, y: Any) -> Lane:
        if isinstance(y, int | float) and y == 2:
            return self.multiply(x, x)
        x, y = _together(x, y)
        return _library("pow", x, y)

    def floor(self, x: Lane) -> Lane:
        return x if x.dtype.kind in "iub" else _intrinsic("floor", x)

    def ceil(self, x: Lane) -> Lane:
        return x if x.dtype.kind in "iub" else _intrinsic("ceil", x)

    def round(self, x: Lane) -> Lane:
        return x if x.dtype.kind in "iub" else _intrinsic("rint", x)

    # --- bits ---

    def bitwise_and(self, x: Any, y: Any) -> Lane:
        return self._bitwise("and", x, y)

    def bitwise_or(self, x: Any, y: Any) -> Lane:
        return self._bitwise("or", x, y)

    def bitwise_xor(self, x: Any, y: Any) -> Lane:
        return self._bitwise("xor", x, y)

    def bitwise_left_shift(self, x: Any, y: Any) -> Lane:
        return self._bitwise("shl", x, y)

    def bitwise_right_shift(self, x: Any, y: Any) -> Lane:
        return self._bitwise("lshr" if x.dtype.kind == "u" else "ashr", x, y)

    def _bitwise(self, which: str, x: Any, y: Any) -> Lane:
        x, y = _together(x, y)
        if x.dtype.kind == "f":
            raise Unwritten(f"{which} of {x.dtype}")
        return Lane(x.code, x.code.let(f"{which} {x.kind} {x.name}, {y.name}"), x.dtype, x.width)

    logical_and = bitwise_and
    logical_or = bitwise_or

    def logical_not(self, x: Lane) -> Lane:
        return self.bitwise_xor(x, True)

    # --- comparisons and choices ---

    def less(self, x: Any, y: Any) -> Lane:
        return _compared("olt", "slt", "ult", x, y)

    def less_equal(self, x: Any, y: Any) -> Lane:
        return _compared("ole", "sle", "ule", x, y)

    def greater(self, x: Any, y: Any) -> Lane:
        return _compared("ogt", "sgt", "ugt", x, y)

    def greater_equal(self, x: Any, y: Any) -> Lane:
        return _compared("oge", "sge", "uge", x, y)

    def equal(self, x: Any, y: Any) -> Lane:
        return _compared("oeq", "eq", "eq", x, y)

    def not_equal(self, x: Any, y: Any) -> Lane:
        return _compared("une", "ne", "ne", x, y)

    def isnan(self, x: Lane) -> Lane:
        if x.dtype.kind != "f":
            return constant(x.code, False, bool)
        return _compared("uno", "", "", x, x)

    def isfinite(self, x: Lane) -> Lane:
        if x.dtype.kind != "f":
            return constant(x.code, True, bool)
        return self.less(self.abs(x), math.inf)

    def where(self, condition: Lane, x: Any, y: Any) -> Lane:
        if not isinstance(x, Lane) and not isinstance(y, Lane):
            dtype = np.result_type(x, y)
            dtype = np.dtype(np.float32) if dtype == np.float64 else dtype  # weak, as every Python number is
            x, y = constant(condition.code, x, dtype), constant(condition.code, y, dtype)
        x, y = _together(x, y)
        if condition.dtype.kind != "b":
            condition = self.not_equal(condition, 0)
        width = max(condition.width, x.width)
        x, y = x.spread(width), y.spread(width)
        if condition.width != width and width > 1:
            condition = condition.spread(width)
        line = f"select {condition.kind} {condition.name}, {x.kind} {x.name}, {y.kind} {y.name}"
        return Lane(x.code, x.code.let(line), x.dtype, width)

    def astype(self, x: Lane, dtype: Any) -> Lane:
        target = np.dtype(dtype)
        if target == x.dtype:
            return x
        if not x.name.startswith("%") and x.width == 1:
            return constant(x.code, _value(x), target)
        if target.kind == "b":
            return self.not_equal(x, 0)
        source, one = x.dtype.kind, TYPES[target]
        kind = one if x.width == 1 else f"<{x.width} x {one}>"
        if source == "f" and target.kind == "f":
            how = "fpext" if target.itemsize > x.dtype.itemsize else "fptrunc"
        elif source == "f":
            how = "fptoui" if target.kind == "u" else "fptosi"
        elif target.kind == "f":
            how = "uitofp" if source in "ub" else "sitofp"
        elif x.dtype.kind != "b" and target.itemsize <= x.dtype.itemsize:
            if target.itemsize == x.dtype.itemsize:
                return Lane(x.code, x.name, target, x.width)
            how = "trunc"
        else:
            how = "zext" if source in "ub" else "sext"
        return Lane(x.code, x.code.let(f"{how} {x.kind} {x.name} to {kind}"), target, x.width)

    # --- functions ---

    def sqrt(self, x: Lane) -> Lane:
        return _intrinsic("sqrt", x)

    def exp(self, x: Lane) -> Lane:
        """2ⁿ·eʳ with |r| ≤ ln 2 / 2: Cephes' polynomial, within two units in the last place."""
        if x.dtype != np.float32:
            return _library("exp", x)
        high = self.minimum(self.maximum(x, -104.0), 89.0)
        n = _intrinsic("rint", high * 1.44269504088896341)
        minus = -n
        r = fused(minus, constant(x.code, 0.693359375, x.dtype).spread(x.width), high)
        r = fused(minus, constant(x.code, -2.12194440e-4, x.dtype).spread(x.width), r)
        p = _polynomial(
            r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1
        )
        y = fused(p, r * r, r) + 1.0
        whole = self.astype(self.where(n == n, n, 0.0), np.int32)
        half = self.bitwise_right_shift(whole, 1)
        return self.multiply(y * self._power_of_two(half), self._power_of_two(whole - half))

    def _power_of_two(self, n: Lane) -> Lane:
        return _of_bits(self.bitwise_left_shift(n + 127, 23))

    def log(self, x: Lane) -> Lane:
        """ln(m·2ᵉ) = ln m + e·ln 2 with √½ ≤ m < √2: Cephes' polynomial, within two units in the last place."""
        if x.dtype != np.float32:
            return _library("log", x)
        small = x < 1.17549435e-38
        scaled = self.where(small, x * 2.0**23, x)
        bits = _bits(scaled)
        e = self.bitwise_and(self.bitwise_right_shift(bits, 23), 255) - 126
        m = _of_bits(self.bitwise_or(self.bitwise_and(bits, 0x007FFFFF), 0x3F000000))
        low = m < 0.707106781186547524
        exponent = self.astype(e, np.float32) - self.where(low, 1.0, 0.0) - self.where(small, 23.0, 0.0)
        m = self.where(low, m + m, m) - 1.0
        z = m * m
        p = _polynomial(
            m, 7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
            -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
        )  # fmt: skip
        y = p * m * z + exponent * -2.12194440e-4 - z * 0.5
        result = m + y + exponent * 0.693359375
        result = self.where(scaled < math.inf, result, scaled)  # infinity, and what is not a number
        result = self.where(x == 0, -math.inf, result)
        return self.where(x < 0, math.nan, result)

    def expm1(self, x: Lane) -> Lane:
        """eˣ - 1 = tanh(x/2)·(eˣ + 1), without a difference of near numbers: within three units in the last place."""
        if x.dtype != np.float32:
            return _library("expm1", x)
        e = self.exp(x)
        return self.where(self.abs(x) < 1.0, self.tanh(x * 0.5) * (e + 1.0), e - 1.0)

    def log1p(self, x: Lane) -> Lane:
        """ln u + (x - (u - 1)) / u with u = 1 + x rounded: what rounding lost is added again."""
        if x.dtype != np.float32:
            return _library("log1p", x)
        u = x + 1.0
        lost = (x - (u - 1.0)) / u
        return self.add(self.log(u), self.where((u > 0) & (u < math.inf), lost, 0.0))

    def tanh(self, x: Lane) -> Lane:
        """1 - 2 / (e²ˣ + 1), near 0 Cephes' polynomial: within two units in the last place."""
        if x.dtype != np.float32:
            return _library("tanh", x)
        size = self.abs(x)
        far = 1.0 - 2.0 / (self.exp(size + size) + 1.0)
        z = x * x
        p = _polynomial(z, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
        near = fused(p * z, x, x)
        return self.where(size < 0.625, near, self.where(x < 0, -far, far))

    def sin(self, x: Lane) -> Lane:
        return _library("sin", x)

    def cos(self, x: Lane) -> Lane:
        return _library("cos", x)

    def erf(self, x: Lane) -> Lane:
        return _library("erf", x)


def _value(x: Lane) -> Any:
    """The number that a constant's text stands for."""
    if x.dtype.kind == "b":
        return x.name == "true"
    if x.dtype.kind == "f":
        return struct.unpack(">d", bytes.fromhex(x.name[2:]))[0]
    return int(x.name)


lanes_xp = _Lanes()
"""Lanes as ``xp``: writes machine code."""
Lane._xp = lanes_xp
