"""The workloads, in the order in which they are run: importing this package declares them."""

from benchmarks.workloads import (  # noqa: F401, I001
    training,
    prediction,
    backbone,
    linear,
    scalars,
    starting,
    fresh,
    elsewhere,
)
