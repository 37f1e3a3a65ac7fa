"""Where a run's settings come from: recipes in YAML, one over the other, and what the command line says over them.

A recipe is a mapping with the keys of `TrainSettings`; `augment` is a mapping in it, with those of `AugmentConfig`. The
package has one for each data set, head and encoder. For a model they are merged in the order encoder, head, data set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.settings import TrainSettings

DATA_RECIPES = ("nwpu", "ssdd", "whu")
QAT = "qat"
AUGMENT = "augment"
_ENDS = ("epochs", "max_minutes")  # whoever says one of them takes back the other
_EDGE, _PAPER = "rs4d-edge-", "paper"


def known_keys() -> list[str]:
    """All keys of a recipe; those of the augmentation as `augment.mosaic`."""
    return [
        *(key for key in TrainSettings.model_fields if key != AUGMENT),
        *(f"{AUGMENT}.{k}" for k in _augment_keys()),
    ]


def _augment_keys() -> list[str]:
    return list(AugmentConfig.model_fields)


def recipe_layers(data: str | None, config: DetectorConfig, *, qat: bool = False) -> list[dict[str, Any]]:
    """Recipes for a model, the weakest first. `data` names a data set's or a file of one's own; None leaves it out.

    With `qat`, that recipe goes over the shipped ones, and under a file of one's own.
    Raises InputError for a name that is neither, a file that is no mapping, and an unknown key, with the nearest known.
    """
    size = config.name.removeprefix(_EDGE).split("-")[0]
    encoder = f"edge-{size}" if config.name.startswith(_EDGE) else _PAPER
    names = [name for name in (encoder, config.head.value) if _shipped(name).is_file()]
    layers = [_read(_shipped(name).read_text(encoding="utf-8"), name) for name in names]
    short = [_read(_shipped(QAT).read_text(encoding="utf-8"), QAT)] if qat else []
    if data is None:
        return [*layers, *short]
    if data in DATA_RECIPES:
        return [*layers, _read(_shipped(data).read_text(encoding="utf-8"), data), *short]
    path = Path(data)
    if not path.is_file():
        raise InputError(f"there is no recipe {data!r}: name one of {', '.join(DATA_RECIPES)}, or a YAML file")
    try:
        return [*layers, *short, _read(path.read_text(encoding="utf-8"), str(path))]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} cannot be read: {error}") from error


def _shipped(name: str) -> Any:
    return resources.files("rs4d_edge.recipes") / f"{name}.yaml"


def _read(text: str, source: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {source} is not YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get(AUGMENT, {}), dict):
        raise InputError(
            f"the recipe {source} must be a mapping of settings, as `lr: 1.0e-3`, and so must its {AUGMENT}"
        )
    for key in _flat_keys(content):
        require_known(key, f"the recipe {source}")
    return content


def _flat_keys(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        if key == AUGMENT:
            yield from (f"{AUGMENT}.{inner}" for inner in value)
        else:
            yield str(key)


def require_known(key: str, source: str) -> None:
    """Raises InputError with the nearest known keys where `key` is none."""
    known = known_keys()
    if key in known:
        return
    nearest = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
    if not nearest:  # `mosaic` may stand for `augment.mosaic`
        nearest = [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
    guess = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise InputError(f"{source} has no setting {key!r}; {guess}Known: {', '.join(known)}")


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`["lr=1e-4", "augment.mosaic=0.2"]` as a layer; values are YAML. InputError for anything else."""
    layer: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r}: expected KEY=VALUE, as lr=1e-4 or augment.mosaic=0.2")
        require_known(key, "--set")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text!r}: {value!r} is not a YAML value: {error}") from error
        parent, _, inner = key.rpartition(".")
        target = layer.setdefault(AUGMENT, {}) if parent else layer
        target[inner] = parsed
    return layer


def merge(layers: Sequence[Mapping[str, Any]]) -> TrainSettings:
    """The settings of layers, the weakest first; a key of a later one replaces the earlier value.

    Raises InputError where they do not fit together.
    """
    merged: dict[str, Any] = {}
    augment: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(end) is not None for end in _ENDS):
            merged = {key: value for key, value in merged.items() if key not in _ENDS}
        merged |= {key: value for key, value in layer.items() if key != AUGMENT}
        augment |= layer.get(AUGMENT, {})
    try:
        return TrainSettings.model_validate(merged | {AUGMENT: augment})
    except ValueError as error:
        raise InputError(f"the settings do not fit together: {error}") from error


def as_yaml(settings: TrainSettings) -> str:
    """The settings as a recipe of their own."""
    content = settings.model_dump(mode="json", exclude={"initial_weights"}, exclude_none=True)
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    return text
