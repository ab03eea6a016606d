"""The walk back through a graph, one local gradient at a time.

At each node a gradient arrives from above; the node's own derivatives are multiplied with it; the products go on to
its inputs. Source: the lecture, chapter 4.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nabi.graph.backward import VALUES, pull_back
from nabi.graph.mathematics import Term, mathematics, number, symbol, write_number
from nabi.graph.node import Node
from nabi.graph.shapes import Spec

_LONGEST = 100  # characters of a formula that are shown


class Flow(NamedTuple):
    """What a step sends on to one input.

    Attributes
    ----------
    name : str
        The input.
    derivative : str
        The local derivative with names, as "z" in ∂f/∂q = z; "" where the input is an array folded or moved, and only
        the product with the upstream gradient can be written.
    condition : str
        On what condition it has this form, as "x > 0"; mostly "".
    numbers : str
        The same with numbers put in; "" for arrays.
    local : float or None
        The local derivative's value; None for arrays.
    product : str
        The downstream gradient written with the upstream one, as "df/dq·1" or "df/dz·Wᵀ".
    gradient : ndarray or NumPy scalar
        The downstream gradient: what flows to the input from this step.
    total : ndarray or NumPy scalar
        What has flowed to it so far: more than ``gradient`` where several nodes use the input.
    """

    name: str
    derivative: str
    condition: str
    numbers: str
    local: float | None
    product: str
    gradient: Any
    total: Any


class Step(NamedTuple):
    """One step of the walk back.

    Attributes
    ----------
    root : str
        The name of what is differentiated.
    name : str
        The node.
    operation : str
        The name of its operation.
    mathematics : str
        The operation's own line of mathematics.
    formula : str
        The node with names, as "q·z".
    numbers : str
        The formula with numbers put in, as "3·(-4)"; "" for arrays.
    value : ndarray or NumPy scalar
        What it gave.
    upstream : ndarray or NumPy scalar
        The gradient that arrives.
    flows : tuple of Flow
        One for each input that a gradient flows to.
    """

    root: str
    name: str
    operation: str
    mathematics: str
    formula: str
    numbers: str
    value: Any
    upstream: Any
    flows: tuple[Flow, ...]

    def lines(self) -> list["Line"]:
        """The step as it is printed: first the node and what arrives, then a line for each input.

        On the left stands what the node knows by itself, on the right the gradients that pass through it.
        """
        head = f"{self.name} = {self.formula}"
        if self.numbers and self.numbers not in (self.formula, tell(self.value)):
            head += f" = {self.numbers}"
        rows = [(head + _is(self.value), f"upstream d{self.root}/d{self.name}{_is(self.upstream)}")]
        rows += [self._flow(flow) for flow in self.flows]
        wide = max(len(left) for left, _ in rows if left) + 4
        result = [Line(f"{left:<{wide}}" if left else " " * 4, right) for left, right in rows]
        if self.formula[:1] == "σ" or self.formula.startswith(f"{self.operation}("):  # not plain from the formula
            result.append(Line(f"    {self.operation}: {self.mathematics}", ""))
        return result

    def _flow(self, flow: Flow) -> tuple[str, str]:
        local = ""
        if flow.derivative:
            shown = [flow.derivative, flow.numbers, "" if flow.local is None else write_number(flow.local)]
            local = " = ".join([f"    ∂{self.name}/∂{flow.name}", *dict.fromkeys(filter(None, shown))])
            local += f" where {flow.condition}" if flow.condition else ""
        down = f"d{self.root}/d{flow.name} = "
        if flow.local is None:
            down += f"{flow.product}: {tell(flow.gradient)}"
        else:
            down += f"{_factor(float(self.upstream))}·{_factor(flow.local)} = {tell(flow.gradient)}"
        if flow.total is not flow.gradient:
            down += f", in all {tell(flow.total)}"
        return local, down

    def __str__(self) -> str:
        return "\n".join((line.left + line.right).rstrip() for line in self.lines())


class Line(NamedTuple):
    """One printed line: what stands on the left, padded, and what on the right."""

    left: str
    right: str


def tell(value: Any) -> str:
    """A value in a few words: a number, a few numbers, or shape and smallest ≤ mean ≤ largest.

    Examples
    --------
    >>> tell(np.float32(0.5)), tell(np.arange(3)), tell(np.ones((2, 8)))
    ('0.5', '[0, 1, 2]', '(2, 8) 1 ≤ 1 ≤ 1')
    """
    array = np.asarray(value)
    if array.ndim == 0:
        return write_number(float(array))
    if array.ndim == 1 and 0 < array.size <= 4:
        return f"[{', '.join(write_number(float(v)) for v in array)}]"
    return f"{array.shape} {statistics(array)}".rstrip()


def statistics(array: Any, digits: int = 3) -> str:
    """Smallest ≤ mean ≤ largest."""
    if array.size == 0:
        return ""
    with np.errstate(all="ignore"):
        three = (array.min(), array.mean(dtype=np.float64), array.max())
    return " ≤ ".join(write_number(float(v), digits) for v in three)


def _is(value: Any) -> str:
    return f" = {tell(value)}" if np.ndim(value) == 0 else f": {tell(value)}"


def _factor(value: float) -> str:
    text = write_number(value)
    return f"({text})" if text.startswith("-") else text


def walk(nodes: Sequence[Any], gradients: Mapping[int, Any], names: Mapping[int, str], root: Any) -> Iterator[Step]:
    """Go back from the root.

    Parameters
    ----------
    nodes : sequence of Tensor
        A whole graph, in the order in which the nodes were made.
    gradients : mapping of int to array
        The gradient on each node by serial number; a tuple's is a list.
    names : mapping of int to str
    root : Tensor
    """
    totals: dict[int, Any] = {}
    for node in reversed(nodes):
        if node.operation is None or node.operation.kind == "projection" or node.serial not in gradients:
            continue
        g = gradients[node.serial]
        inputs = {source.serial: source for source in node.inputs}
        with np.errstate(all="ignore"):  # one step of the walk is a walk that ends at the inputs
            found = pull_back(node, g, VALUES, list(inputs.values()), False)
        flow_to = {source.serial: flow for source, flow in found}
        flows = []
        for serial, source in inputs.items():
            if serial not in flow_to:
                continue
            flow = flow_to[serial]
            before = totals.get(source.serial)
            totals[source.serial] = total = flow if before is None else before + flow
            flows.append(_flow(node, source, flow, total, names, f"d{names[root.serial]}/d{names[node.serial]}"))
        parts = isinstance(node.held, tuple)
        formula, numbers = _formulas(node, names)
        yield Step(
            names[root.serial],
            names[node.serial],
            node.operation.name,
            node.operation.mathematics,
            formula,
            numbers,
            node.held[0] if parts else node.held,
            next((part for part in g if part is not None), None) if parts else g,
            tuple(flows),
        )


def _formulas(node: Any, names: Mapping[int, str]) -> tuple[str, str]:
    """A node's own formula, with names and with numbers."""
    if node.operation.variadic or isinstance(node.held, tuple):
        return f"{node.operation.name}({', '.join(names[s.serial] for s in node.inputs)})", ""
    write = getattr(mathematics, node.operation.name)
    settings = node.settings or {}
    formula = write(*_terms(node, names, False), **settings).source
    if any(source.shape for source in node.inputs) or node.shape:
        return _cut(formula), ""
    return _cut(formula), _cut(write(*_terms(node, names, True), **settings).source)


def _terms(node: Any, names: Mapping[int, str], with_numbers: bool) -> list[Term]:
    """What a formula sees of the inputs: names, or numbers. Unnamed constants are numbers always."""
    terms = []
    for source in node.inputs:
        scalar = source.shape == ()
        if scalar and not source.requires_grad and source.operation is None and not source.name:
            terms.append(number(source.held, source.dtype, constant=node.operation.name == "pow"))
        elif scalar and with_numbers:
            terms.append(number(source.held, source.dtype))
        else:
            terms.append(symbol(names[source.serial], source.spec, source.held if scalar else None))
    return terms


def _flow(node: Any, source: Any, gradient: Any, total: Any, names: Mapping[int, str], upstream: str) -> Flow:
    single = not isinstance(node.held, tuple) and node.shape == ()
    scalars = single and all(s.shape == () for s in node.inputs)
    by_element = node.operation.kind == "elementwise" and not isinstance(node.held, tuple)
    if not single and not by_element:
        product = _rule(node, source, names, False, symbol(upstream, node_spec(node)))
        return Flow(names[source.serial], "", "", "", None, _cut(product.source), gradient, total)
    one = number(1.0, node.dtype, constant=True)
    derivative = _rule(node, source, names, False, one)
    condition = " and ".join(derivative.conditions)
    product = f"{upstream}·∂{names[node.serial]}/∂{names[source.serial]}"
    if by_element and source.shape != node.shape:
        product = f"Σ({product})"  # over the axes that it was broadcast along
    if not scalars:
        return Flow(names[source.serial], _cut(derivative.source), condition, "", None, product, gradient, total)
    with_numbers = _rule(node, source, names, True, one)
    return Flow(
        names[source.serial],
        _cut(derivative.source),
        condition,
        _cut(with_numbers.source),
        float(with_numbers.value),
        product,
        gradient,
        total,
    )


def node_spec(node: Any) -> Any:
    """Shape and dtype of what a node gives, or a tuple of them."""
    if isinstance(node.held, tuple):
        return tuple(Spec(v.shape, v.dtype) for v in node.held)
    return node.spec


def _rule(node: Any, source: Node, names: Mapping[int, str], with_numbers: bool, g: Term) -> Any:
    """The rules of all arguments that are this input, run over mathematics."""
    inputs = _terms(node, names, with_numbers)
    y: Any
    given: Any = g
    if isinstance(node.held, tuple):
        y = tuple(symbol(f"{names[node.serial]}[{i}]", spec) for i, spec in enumerate(node_spec(node)))
        given = tuple(symbol(f"{g.source}[{i}]" if i else g.source, spec) for i, spec in enumerate(node_spec(node)))
        given = (given[0], *(None for _ in given[1:]))
    elif node.shape == ():
        y = number(node.held, node.dtype) if with_numbers else symbol(names[node.serial], node.spec, node.held)
    else:
        y = symbol(names[node.serial], node.spec)
    result: Any = None
    for place, argument in enumerate(node.inputs):
        rule = node.operation.rule(place)
        if argument is source and rule is not None:
            flow = rule(mathematics, given, y, *inputs, **(node.settings or {}))
            if flow is not None:
                result = flow if result is None else result + flow
    return result


def _cut(formula: str) -> str:
    return formula if len(formula) <= _LONGEST else formula[: _LONGEST - 1] + "…"
