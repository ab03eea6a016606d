"""Data sets and pictures as plain arrays: uint8 of shape (N, H, W, C), labels int64 of shape (N,).

:func:`load` gives a :class:`Dataset` of :class:`Split` objects, by name or from a folder or archive;
:func:`complete_splits` makes the validation or test split that one lacks (:func:`split_by_content` for arrays);
:func:`pictures` decodes any number of pictures, one after another; :mod:`nabi.data.augment` changes pictures for
training; :mod:`nabi.cache` lists and clears what was kept.

Inside, each file imports only from those above it::

    ondemand    pictures of a set larger than memory   files       folders and archives, with a cap on everything
    dataset     what a data set is                     resize      larger and smaller
    splits      dividing by content                    decode      one picture
    pickles     pickles as data, of which nothing runs unpickle    CIFAR's
    idx, cifar, folders     three kinds of source      official    finding and fetching published files
    named       the sets known by name: declarations   loading, stream    the two doors
    peek        how large pictures are
    augment     pictures changed at random (from resize and ondemand)
"""

from nabi.data import augment
from nabi.data.dataset import Dataset, Split
from nabi.data.loading import load
from nabi.data.ondemand import OnDemand
from nabi.data.peek import usual_side
from nabi.data.splits import complete_splits, content_keys, split_by_content
from nabi.data.stream import pictures

__all__ = [
    "Dataset",
    "OnDemand",
    "Split",
    "augment",
    "complete_splits",
    "content_keys",
    "load",
    "pictures",
    "split_by_content",
    "usual_side",
]
