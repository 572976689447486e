"""Dissect a network: name the units of its layers by the concepts they respond to.

    cd netdissect && python3 main.py                              # as settings.py says
    python3 main.py --model_file ../snapshot/X.pth --data_directory dataset/broden1_224 --output_folder result/X
    torchrun --nproc_per_node=4 main.py                           # the images shared by four processes or GPUs
    python3 -m netdissect.main --test_mode True                   # from the repository, a sample of 64 images

Every setting of settings.py is a flag in lower case. Writes tally.csv, what it was made of (tally.made_of.json),
agreement.csv, quantile.npy, top_images.csv, chance.json and html/<layer>.html into the output folder; with several
layers, into a folder of each.
"""

import argparse
import copy
import logging
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # launched by path: this folder would shadow the repository's modules (both have a settings.py)
    sys.path[0] = str(ROOT)

from easydict import EasyDict

import settings as project
from netdissect.config import HERE, LISTS, SETTINGS_FILE, accepted, make_config, read_settings, unknown_settings
from util.cli import ArgumentParser, UserError, run

GROUPS = {  # the settings, as settings.py groups them, and what each is
    "model": {
        "model": f"{project.ARCHITECTURES}; None: from --model_file",
        "model_file": "a snapshot or state dict; none: random weights",
        "finetune": "the weights that a slim snapshot lacks; None: its architecture brings them",
        "topk": "K of a DKA head; None: from --model_file",
        "dataset": "that the network was trained on; None: from --model_file",
        "num_classes": "None: from --model_file",
        "feature_names": "layers to dissect: layer3 layer4 or layer3,layer4; None: the one whose mean the head takes",
    },
    "data": {
        "data_directory": "Broden-format folder; None: dataset/broden1_224, or else the embedded scenes",
        "index_file": "table of the images in that folder",
        "categories": "categories of concepts: object part or object,part; None: all",
    },
    "method": {
        "quantile": "share of a unit's activations above its threshold",
        "quantile_file": "a quantile.npy with thresholds to use; None: compute them",
        "iou_mode": "lite: as the paper's authors; original: as Bau et al. 2017",
        "preprocess": "netdissect: mean and scale of Network Dissection; imagenet: torchvision's",
        "chance_rounds": "tallies with labels of other images, to estimate the chance level",
    },
    "output": {
        "output_folder": "None: result/pytorch_{arch}_{mark}_{dataset}/netdissect",
        "score_threshold": "IoU from which a unit counts as interpretable",
        "seg_threshold": "IoU from which the page lists a unit's concepts of other categories",
        "topn": "images shown per unit",
    },
    "machine": {
        "gpu": "whether a GPU computes",
        "workers": "processes that load images and label maps",
        "batch_size": "images per forward pass",
        "tally_batch_size": "images per batch of label maps",
        "compile": "compile the network",
        "clean": "False keeps activations in cache/, so that reruns skip the forward pass",
        "test_mode": "dissect a sample of 64 images only",
    },
}


def get_args_parser() -> ArgumentParser:
    """A flag per setting, in lower case, with the value in settings.py as default."""
    parser = ArgumentParser(__doc__)
    values = {name.lower(): value for name, value in read_settings().items()}
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, about in flags.items():
            spelled = [f"--{name}"] + (["--catagories"] if name == "categories" else [])
            shown = f"{about}. {accepted(name).capitalize()} (default {values[name]!r})".replace(
                "%", "%%"
            )  # for argparse
            nargs = "+" if name.upper() in LISTS else None
            group.add_argument(*spelled, default=argparse.SUPPRESS, metavar="VALUE", help=shown, nargs=nargs)
    return parser


if __name__ == "__main__":  # --help and mistakes are answered before the imports below, which take seconds
    run(lambda: get_args_parser().parse_args(), "netdissect/main.py")

import numpy as np
import torch

from explain.tally import tally_fingerprint
from loader.mini_places import ensure_mini_places
from models import run_name
from models.backbones import with_head
from models.feature_map import find_feature_map
from models.heads import DenseHead
from models.snapshot import weights_fingerprint
from netdissect.agreement import write_agreement
from netdissect.beside import THRESHOLDS, TOP_IMAGES, write_top_images
from netdissect.broden import Broden
from netdissect.broden.reader import TEST_SAMPLE
from netdissect.chance import write_chance
from netdissect.dissect import DissectedLayer, PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.made_of import of_activations, of_tally
from netdissect.network import NetworkInfo, load_model
from netdissect.report import PageConfig, write_report
from netdissect.results import swapped_in
from netdissect.tally import write_tally
from util import distributed
from util.device import describe_device, pick_device
from util.files import atomic_write, lock_folder
from util.made_of import MadeOf, write_companion
from util.text import PrintableFormatter

CACHE = "cache"  # folder, in a layer's output folder, of its summary for later runs

log = logging.getLogger("netdissect")


def main(config: EasyDict) -> list[Path]:
    """Dissect as the paper does: model, data, features, thresholds, tally, chance, report.

    Under torchrun every process calls it: they share the work, and the main process writes the results.

    Args:
        config: of `make_config`.

    Returns:
        The path of each layer's tally.
    """
    device = pick_device({True: "cuda", False: "cpu", "auto": "auto"}[config.gpu])

    # Model
    file = None if config.model_file == "none" else config.model_file
    model, info = load_model(config.model, file, config.topk, config.num_classes, config.dataset, config.finetune)
    model.to(device).to(memory_format=torch.channels_last).eval()
    weights = weights_fingerprint(model)

    # Data
    with distributed.main_process_first():
        data = find_data(config.data_directory)
    broden = Broden(data, config.index_file, config.categories, TEST_SAMPLE if config.test_mode else None)
    output = config.output_folder or default_output(info)
    folders = layer_folders(output, config.feature_names or [find_layer(model)])
    log_inputs(info.title, device, broden)

    pass_config, tally_config, page_config = step_configs(config)
    with lock_folder(output) if distributed.is_main_process() else nullcontext():
        # Features and thresholds of all layers: one pass over the images, or the caches of an earlier run
        caches = {layer: folder / CACHE for layer, folder in folders.items()}
        summaries = measure_layers(model, broden, caches, pass_config)
        for name, folder in folders.items():
            # Tally and chance
            layer = score_layer(name, summaries[name], broden, tally_config)
            # Report
            if distributed.is_main_process():
                with swapped_in(folder) as new:
                    # The run's own report, and those that the page linked to before
                    page = replace(
                        page_config, place=folder / "html" / f"{name}.html", reports=[output.parent / "explain.html"]
                    )
                    write_results(new, info.title, broden, layer, tally_config, page)
                    thresholds = layer.summary.thresholds if config.quantile_file else None
                    activations = of_activations(weights, name, config.preprocess, config.quantile, thresholds)
                    made_of = of_tally(activations, info, broden, config.iou_mode, layer.summary.compiled)
                    write_record(new / "tally.csv", made_of)
                log.info("%s: %s, %s", name, folder / "tally.csv", folder / "html" / f"{name}.html")
        distributed.barrier()  # the caches may be removed when all processes have read them
        if config.clean and distributed.is_main_process():
            for cache in caches.values():
                shutil.rmtree(cache, ignore_errors=True)
    return [folder / "tally.csv" for folder in folders.values()]


def step_configs(config: EasyDict) -> tuple[PassConfig, TallyConfig, PageConfig]:
    """What the steps of a dissection need of the settings."""
    method = config.preprocess, config.quantile, config.quantile_file
    pass_config = PassConfig(*method, config.batch_size, config.workers, config.compile)
    tally_config = TallyConfig(
        config.iou_mode, config.score_threshold, config.chance_rounds, config.tally_batch_size, config.workers
    )
    return pass_config, tally_config, PageConfig(config.topn, config.seg_threshold)


def find_data(directory: Path | None) -> Path:
    """The Broden-format folder: the given one, else the public data if downloaded, else the embedded scenes."""
    if directory is not None:
        return directory
    public = HERE / "dataset" / "broden1_224"
    if public.is_dir():
        return public
    log.info("%s not found: using the embedded data mini_broden", public.relative_to(ROOT))
    return ensure_mini_places(ROOT / project.DATA_ROOT)[1]


def default_output(info: NetworkInfo) -> Path:
    """result/pytorch_{arch}_{mark}_{dataset}/netdissect."""
    run_folder = run_name(info.arch, info.mark, info.dataset)
    return ROOT / project.RESULT_ROOT / run_folder / "netdissect"


def find_layer(model: torch.nn.Module) -> str:
    """The layer whose maps the network's head averages. Raises UserError if there is none."""
    try:
        found = find_feature_map(with_head(copy.deepcopy(model), DenseHead))
    except ValueError as error:
        raise UserError(f"FEATURE_NAMES = None: {error}; name the layers") from error
    if found.layer is None:
        raise UserError(f"FEATURE_NAMES = None: {found.about}; name the layers")
    return found.layer


def layer_folders(output: Path, layers: Sequence[str]) -> dict[str, Path]:
    """The folder of each layer's results: the output folder itself for a single layer, else one by its name in it."""
    return {layer: output if len(layers) == 1 else output / layer for layer in layers}


def log_inputs(title: str, device: torch.device, broden: Broden) -> None:
    """Say what is dissected, where, and on which data."""
    processes = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    log.info("model: %s, on %s%s", title, describe_device(device), processes)
    log.info("data: %s, %d images, %s", broden.directory, len(broden), ", ".join(broden.categories))


def write_results(
    folder: Path, model: str, broden: Broden, layer: DissectedLayer, tally: TallyConfig, page: PageConfig
) -> None:
    """Write the files of a layer's results, but for the record of its tally. Arguments as of `write_report`."""
    with atomic_write(folder / THRESHOLDS) as temporary:
        np.save(temporary, layer.summary.thresholds)
    write_top_images(folder / TOP_IMAGES, layer.summary.top_images(page.topn))
    write_tally(folder / "tally.csv", layer.rows)
    write_agreement(folder / "agreement.csv", layer.agreement)
    if layer.chance:
        write_chance(folder / "chance.json", layer.chance)
    write_report(folder, model, broden, layer, tally, page)


def write_record(tally: Path, made_of: MadeOf) -> None:
    """Write what a tally was made of, with the fingerprint of the file, beside it."""
    write_companion(tally, {**made_of, "tally": tally_fingerprint(tally)})


def cli() -> None:
    """Parse the command line and dissect."""
    flags = vars(get_args_parser().parse_args())
    config = make_config(flags)
    with distributed.process_group():
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(PrintableFormatter("%(message)s"))
        level = logging.INFO if distributed.is_main_process() else logging.ERROR
        logging.basicConfig(level=level, handlers=[handler])
        for name in unknown_settings():
            log.warning("%s: %s is not a setting and has no effect", SETTINGS_FILE, name)
        main(config)


if __name__ == "__main__":
    run(cli, "netdissect/main.py")
