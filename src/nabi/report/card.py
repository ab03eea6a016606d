"""A model card: what a stranger must know of a model before using it, with the fields that model hubs read."""

import json
import re
from importlib.resources import files
from typing import Any

from nabi.classifiers import PhotoClassifier
from nabi.report.findings import Findings, why_no_test
from nabi.report.page import accuracy, rows
from nabi.weights.finding import HUB_ADDRESS


def card(found: Findings, name: str, file: str) -> str:
    """The card in Markdown, below its fields in YAML.

    The fields are those of model hubs [1]_: which library and which task, tags, metrics, the results under
    ``model-index``, and the repository on the hub that the backbone's weights came from. The licence is for the person
    to say who shares the model.

    Parameters
    ----------
    found : Findings
    name : str
        Of the model.
    file : str
        Of the model file.

    References
    ----------
    .. [1] https://huggingface.co/docs/hub/model-cards
    """
    from jinja2 import Environment

    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["md"] = _as_markdown
    template = environment.from_string(files("nabi.report").joinpath("card.md").read_text(encoding="utf-8"))
    about = found.as_dict()
    classifier = found.classifier
    photos = isinstance(classifier, PhotoClassifier)
    text: str = template.render(
        head=_fields(found, name),
        name=name,
        data=found.dataset.name,
        file=file,
        classes=found.classes,
        backbone=classifier.backbone if isinstance(classifier, PhotoClassifier) else None,
        finetuned=photos and bool(getattr(classifier, "finetune", 0)),
        head_kind=classifier.head if isinstance(classifier, PhotoClassifier) else None,
        shape=classifier.input_shape_,
        test=accuracy(found),
        rows=rows(found),
        calibration=about["calibration"],
        strangers=about["none_of_these"],
        cost=found.cost,
        no_test=why_no_test(found.dataset),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _fields(found: Findings, name: str) -> list[str]:
    """Lines of YAML. Every value is written as JSON, which YAML reads as it is, whatever is in a name."""
    measured = accuracy(found)
    fields: dict[str, Any] = {
        "library_name": "nabi",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "nabi"],
    }
    if isinstance(found.classifier, PhotoClassifier):
        fields["tags"].append(found.classifier.backbone)
        on_the_hub = HUB_ADDRESS.fullmatch(str(found.classifier.weights))
        if on_the_hub:
            fields["base_model"] = on_the_hub[1]
    if measured is not None:
        fields["metrics"] = ["accuracy"]
        fields["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {"name": found.dataset.name, "type": "imagefolder", "split": "test"},
                        "metrics": [{"type": "accuracy", "name": "Accuracy", "value": round(measured["accuracy"], 6)}],
                    }
                ],
            }
        ]
    return [f"{field}: {_yaml(value)}" for field, value in fields.items()]


def _yaml(value: Any) -> str:
    """JSON, which YAML reads, too; but for what no YAML may hold as it is."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _as_markdown(text: str) -> str:
    """A name in one line, of which Markdown and HTML read nothing into."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", " ".join(text.split()))
