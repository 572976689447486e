"""Dissect a network: name the units of its layers by the concepts they respond to.

    cd netdissect && python3 main.py                              # as settings.py says
    python3 main.py --model_file ../snapshot/X.pth --data_directory dataset/broden1_224 --output_folder result/X
    torchrun --nproc_per_node=4 main.py                           # the pictures shared by four processes or GPUs
    python3 -m netdissect.main --test_mode True                   # from the repository, a sample of 64 pictures

Every setting of settings.py is a flag in lower case. Writes tally.csv, quantile.npy, chance.json and html/<layer>.html
into the output folder; with several layers, into a folder of each.
"""

import argparse
import ast
import hashlib
import importlib
import logging
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # launched by path: this folder would shadow the repository's modules (both have a settings.py)
    sys.path[0] = str(ROOT)

import numpy as np
import torch
import torchvision
from easydict import EasyDict
from torch import nn

import distributed
import settings as project
from engine import describe_device, pick_device
from errors import ArgumentParser, UserError, run
from files import alone_in, whole_file
from loader.mini_places import ensure_mini_places
from models import MODELS, build_model, load_snapshot, mark_of, run_name
from models.snapshot import load_state, read_checkpoint
from netdissect import cache, settings
from netdissect.activity import LayerActivity, LayerSummary
from netdissect.broden import TEST_SAMPLE, Broden
from netdissect.features import PREPROCESS, map_sizes, stream_features
from netdissect.report import chance_summary, write_chance, write_report
from netdissect.tally import (
    IOU_MODES,
    TallyRow,
    chance_scores,
    count,
    interpretable,
    pairings,
    tally_rows,
    unique_detectors,
    write_tally,
)
from netdissect.thresholds import read_thresholds
from report.overlays import MOST_TILES

HERE = ROOT / "netdissect"
CACHE = "cache"  # folder, in a layer's output folder, of what a next run can use
_PATHS = ("MODEL_FILE", "DATA_DIRECTORY", "OUTPUT_FOLDER", "QUANTILE_FILE")
_LISTS = ("FEATURE_NAMES", "CATEGORIES")
_RANGES = {"topn": (1, MOST_TILES), "batch_size": (1, 2**20), "tally_batch_size": (1, 2**20),
           "workers": (0, project.MOST_WORKERS), "chance_rounds": (0, 1000)}  # fmt: skip
_TEXTS = ("MODEL", "DATASET", "INDEX_FILE")

log = logging.getLogger("netdissect")


def get_args_parser() -> ArgumentParser:
    """A flag per setting, in lower case, with the value that settings.py gives it as default."""
    parser = ArgumentParser(__doc__)
    for name, value in read_settings().items():
        flags = [f"--{name.lower()}"] + (["--catagories"] if name == "CATEGORIES" else [])
        parser.add_argument(*flags, default=argparse.SUPPRESS, metavar="VALUE", help=f"default {value!r}")
    return parser


def read_settings() -> dict[str, Any]:
    """The capital-letter names of settings.py; its relative paths are relative to its folder."""
    values = {name: value for name, value in vars(settings).items() if name.isupper()}
    if "CATAGORIES" in values:  # the original's spelling
        values["CATEGORIES"] = values.pop("CATAGORIES")
    for name in _PATHS:
        if values[name] not in (None, "none"):
            values[name] = HERE / values[name]
    return values


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
    if name in _LISTS and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if name in _LISTS and isinstance(value, tuple):
        return list(value)
    return value


def make_config(flags: dict[str, str]) -> EasyDict:
    """Settings overridden by flags, checked. Raises UserError naming the setting and what is accepted."""
    values = read_settings()
    for flag, text in flags.items():
        values[flag.upper()] = parse_value(flag.upper(), text)
    config = EasyDict({name.lower(): value for name, value in values.items()})

    def check(name: str, accepted: bool, expected: str) -> None:
        if not accepted:
            raise UserError(f"{name.upper()} = {config[name]!r}: expected {expected}")

    def is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool)

    def are_names(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)

    if isinstance(config.gpu, str) and config.gpu.lower() == "auto":
        config.gpu = "auto"
    check("gpu", config.gpu in (True, False, "auto"), "True, False or 'auto'")
    check("iou_mode", config.iou_mode in IOU_MODES, " or ".join(map(repr, IOU_MODES)))
    check("preprocess", config.preprocess in PREPROCESS, " or ".join(map(repr, PREPROCESS)))
    check("quantile", is_number(config.quantile, float) and 0 < config.quantile < 1, "a number between 0 and 1")
    for name in ("score_threshold", "seg_threshold"):
        check(name, is_number(config[name], (int, float)) and 0 <= config[name] <= 1, "a number from 0 to 1")
    for name, (lowest, highest) in _RANGES.items():
        check(name, is_number(config[name], int) and lowest <= config[name] <= highest,
              f"a whole number from {lowest} to {highest}")  # fmt: skip
    for name in ("topk", "num_classes"):
        check(name, config[name] is None or (is_number(config[name], int) and config[name] >= 1),
              "None or a whole number from 1")  # fmt: skip
    for name in ("clean", "test_mode"):
        check(name, isinstance(config[name], bool), "True or False")
    for name in ("model", "dataset"):
        check(name, config[name] is None or isinstance(config[name], str), "None or a name")
    check("index_file", isinstance(config.index_file, str), "the name of a file")
    check("feature_names", are_names(config.feature_names), "a list of layer names")
    check("categories", config.categories is None or are_names(config.categories), "None or a list of category names")
    return config


def main(config: EasyDict) -> list[Path]:
    """Dissect as the paper does: model, data, features, thresholds, tally, report. Returns the tallies' paths.

    Under torchrun every process calls it: they share the work, and the first one writes the results.
    """
    device = pick_device({True: "cuda", False: "cpu", "auto": "auto"}[config.gpu])

    # Model
    model, about = load_model(config)
    model.to(device).to(memory_format=torch.channels_last).eval()

    # Data
    with distributed.first_before_others():
        data = find_data(config.data_directory)
    broden = Broden(
        data,
        config.index_file,
        config.categories,
        TEST_SAMPLE if config.test_mode else None,
    )
    output = config.output_folder or default_output(about)
    processes = f", {distributed.world()} processes" if distributed.world() > 1 else ""
    log.info("model: %s, on %s%s", about["title"], describe_device(device), processes)
    log.info("data: %s, %d pictures, %s", broden.directory, len(broden), ", ".join(broden.categories))

    single = len(config.feature_names) == 1
    folders = {layer: output if single else output / layer for layer in config.feature_names}
    with alone_in(output) if distributed.is_first() else nullcontext():
        # Features: one pass over the pictures, for the layers that no interrupted or earlier run has measured
        summaries = measure(config, model, broden, device, folders)
        # Tally and page of each layer
        for layer, folder in folders.items():
            rows, chance = score(config, broden, layer, summaries[layer])
            if distributed.is_first():
                publish(config, broden, layer, summaries[layer], folder, about["title"], rows, chance)
        distributed.wait()  # all have read what CLEAN removes
        if config.clean and distributed.is_first():
            for folder in folders.values():
                shutil.rmtree(folder / CACHE, ignore_errors=True)
    return [folder / "tally.csv" for folder in folders.values()]


def measure(
    config: EasyDict, model: nn.Module, broden: Broden, device: torch.device, folders: dict[str, Path]
) -> dict[str, LayerSummary]:
    """What the units of each layer did on the pictures: from the cache in its folder, or by a pass over them."""
    key = {
        "model": cache.model_fingerprint(model),
        "data": cache.data_fingerprint(broden),
        "preprocess": config.preprocess,
        "quantile": config.quantile,
        "topn": config.topn,
    }
    summaries: dict[str, LayerSummary] = {}
    activities: dict[str, LayerActivity] = {}
    keys: dict[str, dict[str, Any]] = {}
    sizes = map_sizes(model, list(folders), *broden.largest_picture(), device)
    for layer, folder in folders.items():
        units, positions = sizes[layer]
        given = read_thresholds(config.quantile_file, units) if config.quantile_file else None
        given_hash = None if given is None else hashlib.sha256(given.tobytes()).hexdigest()
        keys[layer] = {**key, "layer": layer, "quantile_file": given_hash}
        stored, reason = cache.load(folder / CACHE, keys[layer])
        everybody_has_it = all(distributed.everyones(stored is not None))
        if reason:
            log.info("%s: what %s has was %s: measuring anew", layer, folder / CACHE, reason)
        if stored and everybody_has_it:
            log.info("%s: measured already, taking %s", layer, folder / CACHE)
            summaries[layer] = stored
            continue
        activities[layer] = LayerActivity(units, positions * len(broden), config.quantile, config.topn, given)
    if activities:
        stream = stream_features(
            model, list(activities), broden, device, config.preprocess, config.batch_size, config.workers
        )
        for indices, maps in stream:
            for layer, activity in activities.items():
                activity.add(indices, maps[layer])
    for layer, activity in activities.items():
        summary = summaries[layer] = cache.store(folders[layer] / CACHE, keys[layer], activity.finish())
        kept, spilled, dense = (size / 1e6 for size in (activity.maps.most, activity.maps.on_disk, 8 * summary.values))
        log.info("%s: %d units, %.1f MB of maps kept at most, %.1f MB of it on disk (all maps in float64: %.1f MB)",
                 layer, activity.units, kept, spilled, dense)  # fmt: skip
    return summaries


def score(
    config: EasyDict, broden: Broden, layer: str, summary: LayerSummary
) -> tuple[list[TallyRow], dict[str, Any] | None]:
    """The tally of a layer, and how it stands to chance, as chance.json has it; None for no CHANCE_ROUNDS."""
    partners = pairings(len(broden), config.chance_rounds)
    own, *random = count(
        summary.maps, summary.thresholds, broden, config.iou_mode, config.tally_batch_size, config.workers, partners
    )
    rows = tally_rows(own, broden)
    found = interpretable(rows, config.score_threshold)
    log.info("%s: %d of %d units interpretable (IoU >= %g, %s), %d unique detectors", layer, len(found), len(rows),
             config.score_threshold, config.iou_mode, len(unique_detectors(found)))  # fmt: skip
    if not random:
        return rows, None
    chance = chance_summary(rows, chance_scores(random, broden), config.score_threshold)
    log.info("%s: %d units above the 95th percentile of chance (IoU %.4f)", layer, chance["units_above_95"],
             chance["null_95"])  # fmt: skip
    return rows, chance


def publish(
    config: EasyDict,
    broden: Broden,
    layer: str,
    summary: LayerSummary,
    folder: Path,
    title: str,
    rows: list[TallyRow],
    chance: dict[str, Any] | None,
) -> None:
    """Write a layer's results into `folder`: quantile.npy, tally.csv, chance.json and the page."""
    with whole_file(folder / "quantile.npy") as temporary:
        np.save(temporary, summary.thresholds)
    write_tally(folder / "tally.csv", rows)
    if chance:
        write_chance(folder / "chance.json", chance)
    page = write_report(folder, layer, title, broden, summary, rows, config.iou_mode, config.score_threshold,
                        config.seg_threshold, chance)  # fmt: skip
    log.info("%s: %s, %s", layer, folder / "tally.csv", page)


def load_model(config: EasyDict) -> tuple[nn.Module, dict[str, Any]]:
    """The network to dissect, and its arch, mark, dataset and title.

    Raises:
        UserError: if it cannot be found or built, or its file does not fit it.
    """
    file = None if config.model_file in (None, "none") else config.model_file
    if config.model is None and file is None:
        raise UserError("MODEL and MODEL_FILE are both None: expected one of them at least")
    about = {"dataset": config.dataset or "unknown"}
    if file is not None and (config.model is None or config.model in MODELS):
        model, found = load_snapshot(file, config.model, config.topk)
        if config.num_classes not in (None, found["num_classes"]):
            raise UserError(f"NUM_CLASSES = {config.num_classes}: {file} has {found['num_classes']} classes")
        about["arch"], topk = found["arch"], found["topk"]
        about["dataset"] = config.dataset or found.get("dataset", "unknown")
    else:
        about["arch"], topk = config.model, config.topk
        torch.manual_seed(0)  # random weights, if they stay, are the same in every run and process
        model = build_other(config.model, config.num_classes, config.topk)
        if file is not None:
            load_state(model, read_checkpoint(file)["state_dict"], file)
        else:
            log.warning("MODEL_FILE is none: %s has random weights", config.model)
    about["mark"] = mark_of(topk)
    about["title"] = " ".join([about["arch"], about["mark"], *([f"({Path(file).name})"] if file else [])])
    return model, about


def build_other(name: str, num_classes: int | None, topk: int | None) -> nn.Module:
    """One of our architectures, a torchvision classifier, or what 'package.module:factory' returns."""
    options = {} if num_classes is None else {"num_classes": num_classes}
    if name in MODELS:
        return build_model(name, num_classes or project.DATASETS.imagenet.num_classes, topk)
    if ":" in name:
        module, _, factory = name.partition(":")
        try:
            model = getattr(importlib.import_module(module), factory)(**options)
        except (ImportError, AttributeError, ValueError) as error:  # ValueError: no name before the colon
            raise UserError(f"MODEL {name!r}: {error}") from error
        if not isinstance(model, nn.Module):
            raise UserError(f"MODEL {name!r}: it returned {type(model).__name__}, expected a torch.nn.Module")
        return model
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(f"MODEL {name!r}: expected {', '.join(MODELS)}, a torchvision name or package.module:factory")
    return torchvision.models.get_model(name, weights=None, **options)


def find_data(directory: Path | None) -> Path:
    """The Broden-format folder: the given one, else the public data where it is, else the embedded scenes."""
    if directory is not None:
        return directory
    public = HERE / "dataset" / "broden1_224"
    if public.is_dir():
        return public
    log.info("%s is not there: using the embedded data mini_broden", public.relative_to(ROOT))
    return ensure_mini_places(ROOT / project.DATA_ROOT)[1]


def default_output(about: dict[str, Any]) -> Path:
    """result/pytorch_{arch}_{mark}_{dataset}/netdissect."""
    run_folder = run_name(about["arch"].replace(":", "."), about["mark"], about["dataset"])
    return ROOT / project.RESULT_ROOT / run_folder / "netdissect"


def cli() -> None:
    """Parse the command line and dissect."""
    flags = vars(get_args_parser().parse_args())
    config = make_config(flags)
    with distributed.joined():
        level = logging.INFO if distributed.is_first() else logging.ERROR
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
        main(config)


if __name__ == "__main__":
    run(cli, "netdissect/main.py")
