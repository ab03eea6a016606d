"""The honest report of a trained classifier: how good it is, what it gets wrong, and how far to trust it.

:func:`examine` finds out everything, :func:`page` shows it as a page with the pictures, :func:`card` as a model card.

Inside, each file imports only from those above it::

    label_errors    which labels are likely wrong: confident learning
    cost            what a model costs to run
    findings        everything there is to say
    page            the same as an HTML page
    card            and as a model card
    tracking        and for MLflow
"""

from nabi.report.card import card
from nabi.report.cost import CostError, Measuring
from nabi.report.findings import Findings, Picture, examine
from nabi.report.page import page

__all__ = ["CostError", "Findings", "Measuring", "Picture", "card", "examine", "page"]
