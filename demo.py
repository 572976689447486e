"""Explain predictions: which few units a network's decision is the sum of, and what they respond to.

    python3 demo.py                                              # the shipped network, on the embedded scenes
    python3 demo.py --image my.jpg holiday/ "scans/**/*.png"     # your own photographs: files, folders, patterns
    python3 demo.py --mark t5 --nd_result tally.csv --modelfile snapshot/pytorch_.../epoch_89.pth
    python3 demo.py --images 10012,28993                         # these validation images
    python3 demo.py --topk 3                                     # sum the 3 largest votes instead of the trained K
    python3 demo.py --explain target                             # the votes for the true class
    python3 demo.py --compare dense.pth                          # beside another network's top votes: does it hold?

Writes explain.html (images), classes.html, class/, units.html (routes), faithfulness.html, the data of each in
explain.json, routes.json and faithfulness.json, and figure.png and .pdf, into result/pytorch_{arch}_{mark}_{dataset}/,
or with --image into result/own_images/. Without --modelfile, --arch, --dataset and --images, a shipped network that was
trained on photographs explains the files of --image; requirements-photos.txt lists its packages.
The network is tested on the validation images. Routes, and whether explanations hold, are measured on these, or with
--no_val on the explained ones only.
"""

import argparse
from pathlib import Path

import settings
from util.cli import ArgumentParser, UserError, check_ranges, default_workers, run

ROOT = Path(__file__).resolve().parent
VAL_BATCH = 64
LOCK = ".report.lock"  # training locks the output folder itself, and may still be running
RANGES = {"topn": (1, settings.MOST_TILES - 1), "workers": (0, settings.MOST_WORKERS), "topk": (1, 2**20)}


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_output_arguments(parser)
    add_machine_arguments(parser)
    return parser


def add_model_arguments(parser: ArgumentParser) -> None:
    """Which network, and the names of its units."""
    group = parser.add_argument_group("model")
    group.add_argument("--mark", metavar="tK", help="the run's mark: tK, or dense (default: as the snapshot says)")
    group.add_argument(
        "--topk", type=int, metavar="K", help="votes to sum per class (default: the mark's, or as the snapshot says)"
    )
    group.add_argument("--arch", metavar="NAME", help=f"{settings.ARCHITECTURES} (default: as the snapshot says)")
    group.add_argument("--modelfile", metavar="PTH", help="snapshot (default: the run's newest, or a shipped one)")
    group.add_argument("--finetune", metavar="PTH", help="the weights that a slim snapshot was trained on, and lacks")
    group.add_argument(
        "--nd_result", metavar="CSV", help="tally.csv of netdissect/main.py for this snapshot (default: the run's)"
    )
    group.add_argument(
        "--compare", metavar="PTH", help="another network (a dense one, say) for faithfulness.html (default: none)"
    )


def add_data_arguments(parser: ArgumentParser) -> None:
    """Which images are explained."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        metavar="NAME|DIR",
        help=f"{', '.join(settings.DATASETS)}, or a folder with train/ and val/ (default: as the snapshot says)",
    )
    group.add_argument(
        "--data", metavar="DIR", help="folder that holds the data sets, or the data set's own (default: data/)"
    )
    group.add_argument(
        "--images",
        nargs="+",
        metavar="I,J|N",
        help="indices of validation images, 3,5 or 3 5, or one number: how many of them "
        f"(default: {settings.EXPLAIN_IMAGES})",
    )
    group.add_argument(
        "--image", metavar="FILE", nargs="+", action="extend", help="your own images: files, folders, patterns"
    )
    group.add_argument("--no_val", action="store_true", help="leave the validation out")


def add_output_arguments(parser: ArgumentParser) -> None:
    """What is explained of them, and where the report is written."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--explain",
        default="prediction",
        choices=["prediction", "target"],
        help="whose votes: the predicted or the true class's (default: prediction)",
    )
    group.add_argument(
        "--cam",
        default="votes",
        choices=["votes", "jet"],
        help="maps of the pages: each position's part of the vote, or the authors' heat maps (default: votes)",
    )
    group.add_argument(
        "--topn",
        type=int,
        default=settings.EXPLAIN_TOPN,
        metavar="N",
        help=f"votes shown per image (default: {settings.EXPLAIN_TOPN})",
    )
    group.add_argument(
        "--figure",
        nargs="+",
        metavar="I,J",
        help=f"images of figure.png, by their place on the page from 0 (default: the first {settings.FIGURE_IMAGES})",
    )
    group.add_argument(
        "--output", metavar="DIR", help="folder that gets explain.html (default: the run's; with --image own_images/)"
    )


def add_machine_arguments(parser: ArgumentParser) -> None:
    """Where it computes."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:I]", help="where it computes (default: auto)"
    )
    group.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        metavar="N",
        help=f"processes that read images (default here: {default_workers()})",
    )


if __name__ == "__main__":  # --help and mistakes are answered before the imports below, which take seconds
    run(get_args_parser().parse_args, "demo.py")

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explain.drawing import MOST_UNITS, overlay_tiles
from explain.faithfulness import MOST_STEPS, ablation_records, by_votes, faithfulness_record
from explain.images import explain_subjects
from explain.inputs import (
    Asked,
    Data,
    check_classes,
    data_fingerprint,
    find_data,
    find_snapshot,
    pick_figure,
    select_images,
)
from explain.live import live_head
from explain.materials import concepts_notice, images_notice, materials_shown
from explain.naming import Names
from explain.network import Network, load_network, note, with_tally
from explain.population import (
    MOST_SILENCED,
    Evidence,
    Population,
    add_variety,
    population_routes,
    silence,
    silence_all,
    sparsity_record,
    unit_correlations,
    validate,
    variety_record,
)
from explain.records import FaithfulnessRecord, ImageRecord, Report, RoutesRecord, UnitEvidence, Unreadable
from explain.subjects import Selection, find_files, shown_size
from explain.terms import log_line
from loader.batches import make_loader
from models import DENSE_MARK, head_of, load_snapshot, mark_of, parse_mark, run_name
from models.backbones import check_arch
from netdissect.beside import Beside, read_beside
from netdissect.strips import StripSource, report_strips
from report.explanations import REPLACEABLE, Pages, write_report
from report.figures import write_figure
from report.overlays import write_strip
from report.vote_maps import vote_tiles
from util.device import describe_device, pick_device
from util.files import display_path, lock_folder, regular_file, staged
from util.progress import progress
from util.text import say


@dataclass(frozen=True)
class Options:
    """How images are explained.

    Attributes:
        topn: votes listed per image.
        steps: units that are silenced per image, at most.
        cam: 'votes' or 'jet': what the maps of the pages show.
        target: explain the true class instead of the predicted one.
        no_val: leave the validation out.
        figure: places of the images that figure.png shows.
        data: folders that may hold the images of which a tally was made.
        compare: path of the network to compare with, for people; None without one.
        workers: image loading processes.
        output: the folder that gets the report.
        staging: the folder in which its files are written until all of them are there.
    """

    topn: int
    steps: int
    cam: str
    target: bool
    no_val: bool
    figure: list[int]
    data: list[Path]
    compare: str | None
    workers: int
    output: Path
    staging: Path


@dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
        records: their entries in explain.json.
        population: the same images, for routes and faithfulness.
        tiles: of the images that figure.png shows, by their place in `records`: the image and its overlays.
        unreadable: files that were left out.
    """

    records: list[ImageRecord]
    population: Population
    tiles: dict[int, list[np.ndarray]]
    unreadable: list[Unreadable]


def main(args: argparse.Namespace) -> Report:
    """Explain as the paper does: load, explain, validate, write. Returns explain.json's content."""
    check_args(args)
    device = pick_device(args.device)

    # Load: the network, what its units respond to, and the images
    files = find_files(args.image or [])
    images, places = listed(args.images), listed(args.figure)
    asked = Asked(args.modelfile, args.arch, args.mark, args.dataset, args.data, images, bool(args.image))
    choice = find_snapshot(asked)
    network = load_network(choice.file, args.arch, args.mark, args.finetune, args.topk)
    network = with_tally(network, args.nd_result, choice.tally)
    if choice.why:
        say(f"why this model: {choice.why}")
    say(f"device: {describe_device(device)}")
    network.model.to(device)
    data = find_data(args.dataset, args.data, network.about, names_only=asked.own_only)
    note(network.notices, check_classes("the snapshot", network.about, data))
    rival = load_rival(args.compare, network, data, device) if args.compare else None
    selection = select_images(data, images, files)
    trained_on = network.about.get("dataset")
    note(network.notices, images_notice(trained_on, materials_shown(data, selection)))
    note(network.notices, concepts_notice(trained_on, network.tally.made_of))
    figure = pick_figure(places, len(selection))
    output = Path(args.output) if args.output else output_folder(network, data, asked, args.topk)
    compared = args.compare and display_path(args.compare)

    with lock_folder(output, name=LOCK), staged(output, REPLACEABLE) as staging:
        # The chosen units are silenced, or of a dense head those that are listed.
        steps = min(network.about["topk"] or args.topn, MOST_STEPS)
        target, roots = args.explain == "target", [Path(args.data)] if args.data else []
        options = Options(
            args.topn,
            steps,
            args.cam,
            target,
            args.no_val,
            figure,
            [*roots, ROOT / settings.DATA_ROOT],
            compared,
            args.workers,
            output,
            staging,
        )
        beside = read_beside(network.tally.file) if network.tally.file else Beside()
        for fault in beside.faults:
            note(network.notices, fault)
        explained = explain_selection(network, data, selection, options, beside)
        figure = pick_figure(places, len(explained.records))  # some files may have been unreadable
        evidence = validate_network(network, data, explained, options, rival)
        report = write(network, data, explained, evidence, options, beside)
        write_figure(staging / "figure.png", [(explained.records[i], explained.tiles[i]) for i in figure])
    say(f"report: {display_path(output / 'explain.html')}")
    return report


# --- load ---------------------------------------------------------------------------------------------------------


def load_rival(path: str, network: Network, data: Data, device: torch.device) -> nn.Module:
    """The network of --compare. Raises UserError if its classes are not the data set's."""
    rival, about = load_snapshot(regular_file(path, "snapshot"))
    note(network.notices, check_classes("the snapshot of --compare", about, data))
    return rival.to(device)


def output_folder(network: Network, data: Data, asked: Asked, topk: int | None) -> Path:
    """result/pytorch_{arch}_{mark}_{dataset}/, the run's, or result/own_images/ if the user's own are among them.

    With --topk the mark is that of the asked K, so that the report of the K that was trained stays.
    """
    results, about = ROOT / settings.RESULT_ROOT, network.about
    if asked.image:
        return results / settings.OWN_IMAGES
    mark = asked.mark if asked.mark and topk is None else mark_of(about["topk"])
    return results / run_name(about["arch"], mark, data.name)


def listed(words: list[str] | None) -> str | None:
    """['3', '5'] and ['3,5'] -> '3,5'; None for a flag that was not given."""
    return None if words is None else ",".join(words)


# --- explain ------------------------------------------------------------------------------------------------------


def explain_selection(
    network: Network, data: Data, selection: Selection, options: Options, beside: Beside
) -> Explained:
    """Explain images as they are read, and write their overlays, vis/cam_<i>.jpg.

    Args:
        network: to explain.
        data: whose classes it predicts.
        selection: the images.
        options: how.
        beside: what lies beside the tally: thresholds of the units.

    Raises:
        UserError: if no image can be read.
    """
    names = Names(data.classes, network.tally.concepts)
    unreadable: list[Unreadable] = []
    side = shown_size(data.spec.size, tiles=1 + options.topn)
    subjects = selection.read(data.spec, side, unreadable)
    pairs = explain_subjects(network.classifier, subjects, names, options.topn, options.target)
    records: list[ImageRecord] = []
    pooled: list[Tensor] = []
    tiles: dict[int, list[np.ndarray]] = {}
    for subject, answer in progress(pairs, total=len(selection), desc="explain", unit="img"):
        place, overlays = len(records), f"vis/cam_{len(records)}.jpg"
        if place in options.figure:
            tiles[place] = overlay_tiles(subject.square, answer)
        if options.cam == "jet":
            strip = tiles.get(place) or overlay_tiles(subject.square, answer)
        else:
            strip = vote_tiles(subject.square, answer, [beside.limit(unit["unit"]) for unit in answer.record["units"]])
        write_strip(options.staging / overlays, strip)
        record: Any = {"file": subject.file, "index": subject.index, **answer.record, "overlays": overlays}
        records.append(record)
        pooled.append(answer.pooled)
    if not records:
        raise UserError(unreadable[0]["reason"])
    for lost in unreadable:
        say(f"left out: {lost['reason']}", sys.stderr)
    population = Population.of_explained(records, pooled)
    curves = silence(network.head, population, options.steps)
    for record, ablation in zip(records, ablation_records(*curves, data.classes), strict=True):
        record["ablation"] = ablation
        say(log_line(record, record["file"]))
    return Explained(records, population, tiles, unreadable)


# --- validate -----------------------------------------------------------------------------------------------------


def validate_network(
    network: Network, data: Data, explained: Explained, options: Options, rival: nn.Module | None
) -> Evidence:
    """Accuracy, and whether the explanations hold: over the validation images, or over the explained ones only.

    Args:
        network: to test.
        data: whose validation images.
        explained: images, if there are no validation images or the options leave them out.
        options: how.
        rival: another network, whose largest votes are silenced too.
    """
    validation, population = None, explained.population
    loader = None
    if data.val_set is not None and not options.no_val:
        loader = make_loader(data.val_set, VAL_BATCH, options.workers, network.head.weight.device)
        validation, population = validate(network.model, loader, options.target)
        say("validation: top-1 {top1:.2f} %, top-5 {top5:.2f} %, {count} images".format(**validation))
    silenced = population.spaced(MOST_SILENCED)
    methods = silence_all(network.head, silenced, options.steps)
    if rival and loader:
        theirs = validate(rival, loader)[1].spaced(MOST_SILENCED)
        name = f"{options.steps} largest votes of {options.compare}"
        methods[name] = by_votes(head_of(rival), theirs.pooled, theirs.explained, options.steps)
    return Evidence(validation, population, silenced, methods)


# --- write --------------------------------------------------------------------------------------------------------


def write(
    network: Network, data: Data, explained: Explained, evidence: Evidence, options: Options, beside: Beside
) -> Report:
    """Write all pages and their JSON. Returns explain.json's content."""
    names, tally = Names(data.classes, network.tally.concepts), network.tally
    feature_map = network.classifier.feature_map
    routes = population_routes(network.head, evidence.population, names)
    faithfulness = measure_faithfulness(network, explained, evidence, options, routes)
    numbers = {unit["unit"] for record in explained.records for unit in record["units"]}
    units, no_strips = describe_units(network, beside, sorted(numbers | {u["unit"] for u in routes["units"]}), options)
    report: Report = {
        "arch": network.about["arch"],
        "topk": network.about["topk"],
        "trained_topk": network.trained_topk,
        "modelfile": display_path(network.file),
        "nd_result": display_path(tally.file) if tally.file else None,
        "dataset": data.name,
        "feature_map": {"layer": feature_map.layer, "about": feature_map.about, "direct": feature_map.direct},
        "cam": options.cam,
        "explain": "target" if options.target else "prediction",
        "images": explained.records,
        "units": units,
        "no_strips": no_strips,
        "unreadable": explained.unreadable,
        "validation": evidence.validation,
        "made_of": {"weights": network.weights, "tally": tally.made_of, "data": data_fingerprint(data)},
        "notices": network.notices,
    }
    pages = Pages(
        report=report,
        routes=routes,
        faithfulness=faithfulness,
        units=[names.unit(index) for index in range(network.head.in_features)],
        threshold=settings.SCORE_THRESHOLD,
        dissection=dissection_page(network, options.output),
        live=live_head(network.head, explained.population.pooled, explained.records),
    )
    if options.topn > MOST_UNITS:
        say(f"figure.png shows the {MOST_UNITS} largest votes of each image only")
    write_report(options.staging, pages)
    return report


def measure_faithfulness(
    network: Network, explained: Explained, evidence: Evidence, options: Options, routes: RoutesRecord
) -> FaithfulnessRecord:
    """The content of faithfulness.json; the images' records get the variety of their units, where it is known."""
    head, steps = network.head, options.steps
    record = faithfulness_record(evidence.methods, evidence.silenced.images)
    record["sparsity"] = sparsity_record(head, evidence, routes, steps)
    correlation = unit_correlations(evidence.population)
    if correlation is not None:
        record["variety"] = variety_record(head, evidence.population, correlation, steps)
        add_variety(explained.records, correlation)
    return record


def describe_units(
    network: Network, beside: Beside, units: list[int], options: Options
) -> tuple[list[UnitEvidence], str | None]:
    """What is known of units, with strips of their images in vis/; and why there are none of these, if so.

    Args:
        network: whose.
        beside: what lies beside its tally.
        units: their numbers, from 1.
        options: where the report goes.
    """
    records = {unit: beside.record(unit, settings.SCORE_THRESHOLD) for unit in units}
    if network.tally.file is None:
        return list(records.values()), None
    try:
        source = StripSource(network.tally.file, network.classifier.feature_map.layer, network.tally.made_of, beside)
        made = report_strips(network.model, source, options.data, options.staging / "vis", units)
    except UserError as error:
        reason = f"No images of the units are shown: {error}."
        say(reason)
        return list(records.values()), reason
    for unit, count in made.items():
        records[unit] = {**records[unit], "strip": f"vis/unit-{unit}.jpg", "tiles": count}
    return list(records.values()), None


def dissection_page(network: Network, output: Path) -> str | None:
    """Network Dissection's page of the layer, if it lies beside the tally: its path from the output folder."""
    tally_file, layer = network.tally.file, network.classifier.feature_map.layer
    page = tally_file and tally_file.parent / "html" / f"{layer}.html"
    return Path(os.path.relpath(page, output)).as_posix() if page and page.is_file() else None


def check_args(args: argparse.Namespace) -> None:
    """Raises UserError for values out of range, before any work."""
    if args.mark not in (None, DENSE_MARK):
        parse_mark(args.mark)
    if args.arch:
        check_arch(args.arch, f"--arch {args.arch}")
    check_ranges(args, RANGES)
    if args.compare and (args.no_val or (args.image and not args.images)):
        raise UserError("--compare: needs the validation images, without --no_val")
    if args.explain == "target" and args.image:
        raise UserError("--explain target: images given by --image have no true class; explain their prediction")


def cli() -> None:
    """Parse the command line and explain."""
    main(get_args_parser().parse_args())


if __name__ == "__main__":
    run(cli, "demo.py")
