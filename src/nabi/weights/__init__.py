"""Weights that others trained: finding a file of them, and reading it without PyTorch.

:func:`find` gives the path of a file, a file on the Hugging Face hub or one that an installed package brings;
:func:`read` gives its arrays by name, from a safetensors file or from either form of what ``torch.save`` writes.

Inside, each file imports only from those above it::

    arrays          dtypes, shapes, names: what all forms have in common
    safetensors     files that others wrote             pytorch     both forms of torch.save
    reading         the one reader                      finding     where files are
"""

from nabi.weights.finding import find
from nabi.weights.reading import read

__all__ = ["find", "read"]
