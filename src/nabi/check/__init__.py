"""Pictures looked at before anything is trained on them: what cannot be read, what is odd, what is there twice.

:func:`examine` looks at everything and gives a :class:`Report`; :func:`page` shows it with the pictures.
:func:`leaks` is its quick part, which training runs: pictures set aside for testing that are trained on as well.

Inside, each file imports only from those above it::

    fingerprints    what a picture looks like, as 255 numbers
    pairs, crops    which of many look the same, and which are parts of others
    oddities        what is wrong or odd about one file
    survey          every picture of a source, decoded once
    copies          groups of copies
    report          what is to be said about it
    page            the same as an HTML page
    leaks           the quick part (stands on fingerprints and pairs alone)
"""

from nabi.check.leaks import Leaks, leaks, without_leaks
from nabi.check.page import page
from nabi.check.report import Report, examine

__all__ = ["Leaks", "Report", "examine", "leaks", "page", "without_leaks"]
