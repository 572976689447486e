"""The configuration of a dissection: settings.py, overridden by flags, and checked."""

import ast
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from easydict import EasyDict

import settings as project
from util.cli import Terminated, UserError, describe
from util.files import regular_file
from util.text import shown

HERE = Path(__file__).resolve().parent
SETTINGS_FILE = "netdissect/settings.py"  # as messages name it
_MODULE = "netdissect.settings"
_ORIGINAL_SPELLING = "CATAGORIES"  # of CATEGORIES
_PATHS = ("MODEL_FILE", "FINETUNE", "DATA_DIRECTORY", "OUTPUT_FOLDER", "QUANTILE_FILE")
LISTS = ("FEATURE_NAMES", "CATEGORIES")
IOU_MODES = ("lite", "original")
PREPROCESSES = ("netdissect", "imagenet")  # the keys of `netdissect.features.PREPROCESS`
_TEXTS = ("MODEL", "DATASET", "INDEX_FILE")


def read_settings() -> dict[str, Any]:
    """The settings in settings.py, in its order; its relative paths are relative to its folder.

    Raises:
        UserError: naming the file, and the line or the setting that is wrong or missing, and what is accepted.
    """
    values = _values()
    if _ORIGINAL_SPELLING in values:
        if "CATEGORIES" in values:
            raise UserError(f"{SETTINGS_FILE}: CATEGORIES and {_ORIGINAL_SPELLING}, expected one of them")
        values["CATEGORIES"] = values.pop(_ORIGINAL_SPELLING)
    for name, rule in _RULES.items():
        if name.upper() not in values:
            raise UserError(f"{SETTINGS_FILE}: no {name.upper()}, expected {name.upper()} = {rule.expected}")
        _check(f"{SETTINGS_FILE}: ", name, values[name.upper()])
    values = {name: value for name, value in values.items() if name.lower() in _RULES}
    for name in _PATHS:
        if values[name] not in (None, "none"):
            values[name] = HERE / values[name]
    return values


def unknown_settings() -> list[str]:
    """The capital-letter names in settings.py that are no settings."""
    return [name for name in _values() if name.lower() not in _RULES and name != _ORIGINAL_SPELLING]


def _values() -> dict[str, Any]:
    """The capital-letter names of settings.py, which people edit: it can fail in any way."""
    file = HERE / "settings.py"
    if _MODULE not in sys.modules:
        regular_file(file, "settings")
    try:
        settings = importlib.import_module(_MODULE)
    except (Terminated, UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too
        if isinstance(error, SyntaxError) and error.filename == str(file):
            line, reason = error.lineno, f"{type(error).__name__}: {error.msg}"
        else:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
            line, reason = lines[-1] if lines else None, describe(error)
        place = f"{SETTINGS_FILE}, line {line}" if line else SETTINGS_FILE
        raise UserError(f"{place}: {reason}; expected lines such as TOPN = 10") from error
    return {name: value for name, value in vars(settings).items() if name.isupper()}


def parse_value(name: str, text: str) -> Any:
    """A flag's text as the value that settings.py would have: numbers, True, False, None, lists ('a,b' too), text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if name in _PATHS:
        return None if value is None else text if text == "none" else Path(text)
    if name in _TEXTS and value is not None and not isinstance(value, str):
        return text
    if name in LISTS and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if name in LISTS and isinstance(value, tuple):
        return list(value)
    return value


def make_config(flags: Mapping[str, str | list[str]]) -> EasyDict:
    """The settings, by their names in lower case, overridden by flags, of which a list's value is of several words.

    Raises:
        UserError: naming a setting whose value is not accepted, and what is.
    """
    values = read_settings()
    for flag, text in flags.items():
        values[flag.upper()] = parse_value(flag.upper(), text if isinstance(text, str) else ",".join(text))
    for name in _RULES:
        _check("", name, values[name.upper()])
    config = EasyDict({name.lower(): value for name, value in values.items()})
    for name in ("gpu", "compile"):
        if isinstance(config[name], str):
            config[name] = config[name].lower()
    return config


def _check(place: str, name: str, value: Any) -> None:
    """Raise UserError, with the place before the name of the setting, for a value that its rule does not accept."""
    rule = _RULES[name]
    try:
        fits = bool(rule.accepts(value))
    except Exception:  # of an object that cannot be compared, such as an array
        fits = False
    if not fits:
        raise UserError(f"{place}{name.upper()} = {shown(value)}: expected {rule.expected}")


def accepted(name: str) -> str:
    """What a setting takes, in words."""
    return _RULES[name].expected


class _Rule(NamedTuple):
    """Which values of a setting are accepted, and how a message describes them."""

    accepts: Callable[[Any], bool]
    expected: str


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _one_of(names: Iterable[str]) -> _Rule:
    accepted = tuple(names)
    return _Rule(lambda value: value in accepted, " or ".join(map(repr, accepted)))


def _whole(lowest: int, highest: int) -> _Rule:
    expected = f"a whole number from {lowest} to {highest}"
    return _Rule(lambda value: _is_number(value, int) and lowest <= value <= highest, expected)


_IOU = _Rule(lambda value: _is_number(value, int, float) and 0 <= value <= 1, "a number from 0 to 1")
_COUNT = _Rule(lambda value: value is None or (_is_number(value, int) and value >= 1), "None or a whole number from 1")
_AUTO = _Rule(
    lambda value: value in (True, False) or (isinstance(value, str) and value.lower() == "auto"),
    "True, False or 'auto'",
)
_SWITCH = _Rule(lambda value: isinstance(value, bool), "True or False")
_NAME = _Rule(lambda value: value is None or isinstance(value, str), "None or a name")
_PATH = _Rule(
    lambda value: value is None or (isinstance(value, str | Path) and str(value) != "" and "\0" not in str(value)),
    "None or a path",
)
_RULES = {  # in the order of checking
    "gpu": _AUTO,
    "compile": _AUTO,
    "iou_mode": _one_of(IOU_MODES),
    "preprocess": _one_of(PREPROCESSES),
    "quantile": _Rule(lambda value: _is_number(value, float) and 0 < value < 1, "a number between 0 and 1"),
    "score_threshold": _IOU,
    "seg_threshold": _IOU,
    "topn": _whole(1, project.MOST_TILES),
    "batch_size": _whole(1, 2**20),
    "tally_batch_size": _whole(1, 2**20),
    "workers": _whole(0, project.MOST_WORKERS),
    "chance_rounds": _whole(0, 1000),
    "topk": _COUNT,
    "num_classes": _COUNT,
    "clean": _SWITCH,
    "test_mode": _SWITCH,
    "model": _NAME,
    "dataset": _NAME,
    "index_file": _Rule(lambda value: isinstance(value, str), "the name of a file"),
    **{name.lower(): _PATH for name in _PATHS},
    "feature_names": _Rule(lambda value: value is None or _are_names(value), "a list of layer names, or None"),
    "categories": _Rule(lambda value: value is None or _are_names(value), "None or a list of category names"),
}
