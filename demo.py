"""Explain predictions: which few units a network's decision is the sum of, and what they respond to.

    python3 demo.py                                              # the shipped network, on the embedded scenes
    python3 demo.py --mark t5 --nd_result tally.csv --modelfile snapshot/pytorch_.../epoch_89.pth
    python3 demo.py --images 10012,28993                         # these validation images
    python3 demo.py --image my.jpg holiday/ "scans/**/*.png"     # your own images: files, folders, patterns
    python3 demo.py --explain target                             # the votes for the true class
    python3 demo.py --compare dense.pth                          # beside another network's top votes: does it hold?

Writes explain.html (images), classes.html, class/, units.html (routes), faithfulness.html, the data of each in
explain.json, routes.json and faithfulness.json, and figure.png and .pdf, into result/pytorch_{arch}_{mark}_{dataset}/.
The network is tested on the validation images. Routes, and whether explanations hold, are measured on these, or with
--no_val on the explained ones only.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import settings
from explain.faithfulness import MOST_STEPS, Curves, ablation_records, by_votes, faithfulness_record
from explain.images import FEATURE_LAYER, explain_subjects
from explain.inputs import Data, find_data, find_snapshot, listed_numbers, select_images
from explain.naming import Concept, Names, unit_name
from explain.population import Population, population_routes, silence, validate
from explain.records import ImageRecord, Report, Unreadable, terms_of
from explain.subjects import Selection, find_files
from loader.batches import default_workers, make_loader
from loader.datasets import dataset_names, spec_of
from loader.images import explain_transform
from models import DENSE_MARK, Head, head_of, load_snapshot, mark_of, model_names, parse_mark, run_name
from netdissect.tally import read_tally
from report.explanations import Pages, write_report
from report.figures import write_figure
from report.overlays import MOST_TILES, overlay_tiles, write_strip
from util.cli import ArgumentParser, UserError, check_ranges, run
from util.device import describe_device, pick_device
from util.files import display_path, lock_folder
from util.progress import progress

ROOT = Path(__file__).resolve().parent
VAL_BATCH = 64
FIGURE_IMAGES = 4  # images in figure.png, as in the paper's figures
RANGES = {"topn": (1, MOST_TILES - 1), "workers": (0, settings.MOST_WORKERS)}


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--mark", help="tK, the number of votes per class (default: as the snapshot says)")
    parser.add_argument("--arch", help=f"one of {', '.join(model_names())} (default: as the snapshot says)")
    parser.add_argument("--modelfile", metavar="PTH", help="snapshot (default: the run's newest, or the shipped one)")
    parser.add_argument("--nd_result", metavar="CSV", help="tally.csv of netdissect/main.py for this snapshot")
    parser.add_argument("--dataset", help=f"{', '.join(dataset_names())}, or a folder with train/ and val/")
    parser.add_argument("--data", help="folder that holds the data sets, or the data set's own (default data/)")
    parser.add_argument(
        "--images",
        metavar="I,J,...|N",
        help=f"indices of validation images, or how many of them (default {settings.EXPLAIN_IMAGES})",
    )
    parser.add_argument(
        "--image", metavar="FILE", nargs="+", action="extend", help="your own images: files, folders, patterns"
    )
    parser.add_argument(
        "--figure",
        metavar="I,J,...",
        help=f"images of figure.png, by their place on the page from 0 (default the first {FIGURE_IMAGES})",
    )
    parser.add_argument("--compare", metavar="PTH", help="another network (a dense one, say) for faithfulness.html")
    parser.add_argument("--explain", default="prediction", choices=["prediction", "target"], help="whose votes")
    parser.add_argument("--topn", type=int, default=settings.EXPLAIN_TOPN, help="votes shown per image")
    parser.add_argument("--output", metavar="DIR", help="folder that gets explain.html")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes that read images")
    parser.add_argument("--no_val", action="store_true", help="leave the validation out")
    return parser


@dataclass(frozen=True)
class Network:
    """The network to explain.

    Attributes:
        model: in eval mode, on its device.
        about: the snapshot's metadata.
        file: the snapshot.
        tally_file: the tally that names its units; None without one.
        concepts: what its units respond to, by number from 1.
    """

    model: nn.Module
    about: dict[str, Any]
    file: Path
    tally_file: Path | None
    concepts: Mapping[int, Concept]

    @property
    def head(self) -> Head:
        """The model's head."""
        return head_of(self.model)


@dataclass(frozen=True)
class Options:
    """How images are explained.

    Attributes:
        topn: votes listed per image.
        target: explain the true class instead of the predicted one.
        no_val: leave the validation out.
        compare: path of the network to compare with, for people; None without one.
        workers: image loading processes.
        output: the folder that gets the report.
    """

    topn: int
    target: bool
    no_val: bool
    compare: str | None
    workers: int
    output: Path


@dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
        records: their entries in explain.json.
        population: the same images, for routes and faithfulness.
        curves: of silencing, as of `silence`.
        tiles: of the images that figure.png shows, by their place in `records`: the image and its overlays.
        unreadable: files that were left out.
    """

    records: list[ImageRecord]
    population: Population
    curves: tuple[dict[str, Curves], dict[str, Curves]]
    tiles: dict[int, list[np.ndarray]]
    unreadable: list[Unreadable]


@dataclass(frozen=True)
class Evidence:
    """What was measured over many images.

    Attributes:
        validation: metrics; None without validation.
        population: the images.
        methods: deletion and insertion, by the name of how the units were picked.
    """

    validation: dict[str, float] | None
    population: Population
    methods: dict[str, dict[str, Curves]]


def main(args: argparse.Namespace) -> Report:
    """Explain as the paper does: load, explain, validate, write. Returns explain.json's content."""
    check_args(args)
    device = pick_device(args.device)

    # Load: the network, what its units respond to, and the images
    model_file, own_tally = find_snapshot(args.modelfile, args.arch, args.mark, args.dataset, args.data)
    tally_file = Path(args.nd_result) if args.nd_result else own_tally
    network = load_network(model_file, tally_file, args.arch, args.mark, device)
    files = find_files(args.image or [])
    data = find_data(args.dataset, args.data, network.about, names_only=bool(files) and not args.images)
    check_classes(network, data)
    rival = load_rival(args.compare, data, device) if args.compare else None
    selection = select_images(data, args.images, files)
    figure = pick_figure(args.figure, len(selection))
    output = Path(args.output) if args.output else output_folder(network, args.mark, data)
    compared = args.compare and display_path(args.compare)
    options = Options(args.topn, args.explain == "target", args.no_val, compared, args.workers, output)

    with lock_folder(output / "vis"):  # training locks the folder itself, and may still be running
        explained = explain_selection(network, data, selection, options, figure)
        figure = pick_figure(args.figure, len(explained.records))  # some files may have been unreadable
        evidence = validate_network(network, data, explained, options, rival)
        return write(network, data, explained, evidence, options, figure)


# --- load ---------------------------------------------------------------------------------------------------------


def load_network(
    file: Path, tally_file: Path | None, arch: str | None, mark: str | None, device: torch.device
) -> Network:
    """The network of a snapshot on its device, and what its units respond to."""
    model, about = load_snapshot(file, arch, parse_mark(mark) if mark not in (None, DENSE_MARK) else None)
    if tally_file is None:
        print("no tally: units have numbers only; netdissect/main.py names them, --nd_result takes its tally.csv")
        concepts = {}
    else:
        print(f"units: {display_path(tally_file)}")
        concepts = {row.unit: row for row in read_tally(tally_file, units=head_of(model).in_features)}
    print(f"device: {describe_device(device)}")
    print(f"model: {display_path(file)}, {about['arch']}, K = {about['topk'] or 'all (dense head)'}")
    return Network(model.to(device), about, file, tally_file, concepts)


def check_classes(network: Network, data: Data) -> None:
    """Raises UserError if the network's number of classes is not the data set's."""
    count = network.about["num_classes"]
    if len(data.classes) != count:
        raise UserError(f"{network.file} has {count} classes, data set {data.name} has {len(data.classes)}")


def load_rival(path: str, data: Data, device: torch.device) -> nn.Module:
    """The network of --compare. Raises UserError if its number of classes is not the data set's."""
    rival, about = load_snapshot(path)
    if about["num_classes"] != len(data.classes):
        raise UserError(f"--compare {path}: it has {about['num_classes']} classes, expected {len(data.classes)}")
    return rival.to(device)


def output_folder(network: Network, mark: str | None, data: Data) -> Path:
    """result/pytorch_{arch}_{mark}_{dataset}/."""
    about = network.about
    return ROOT / settings.RESULT_ROOT / run_name(about["arch"], mark or mark_of(about["topk"]), data.name)


def pick_figure(figure: str | None, count: int) -> list[int]:
    """'3,5' -> these places on the page; None -> the first ones. Raises UserError for what is not on it."""
    if figure is None:
        return list(range(min(FIGURE_IMAGES, count)))
    places = listed_numbers(figure)
    if not places or max(places) >= count:
        raise UserError(f"--figure {figure!r}: expected places on the page, 0 to {count - 1}, such as 0,2,3")
    return places


# --- explain ------------------------------------------------------------------------------------------------------


def explain_selection(
    network: Network, data: Data, selection: Selection, options: Options, figure: list[int]
) -> Explained:
    """Explain images as they are read, and write their overlays, vis/cam_<i>.jpg.

    Args:
        network: to explain.
        data: whose classes it predicts.
        selection: the images.
        options: how.
        figure: places of the images whose tiles are kept.

    Raises:
        UserError: if no image can be read.
    """
    names = Names(data.classes, network.concepts)
    unreadable: list[Unreadable] = []
    subjects = selection.read(explain_transform(spec_of(data.name)), unreadable)
    pairs = explain_subjects(network.model, subjects, names, options.topn, options.target)
    records: list[ImageRecord] = []
    pooled: list[Tensor] = []
    tiles: dict[int, list[np.ndarray]] = {}
    for subject, explanation in progress(pairs, total=len(selection), desc="explain", unit="img"):
        place, strip = len(records), overlay_tiles(subject.square, explanation)
        overlays = f"vis/cam_{place}.jpg"
        write_strip(options.output / overlays, strip)
        if place in figure:
            tiles[place] = strip
        record: Any = {"file": subject.file, "index": subject.index, **explanation.record, "overlays": overlays}
        records.append(record)
        pooled.append(explanation.pooled)
    if not records:
        raise UserError(unreadable[0]["reason"])
    for lost in unreadable:
        print(f"left out: {lost['reason']}", file=sys.stderr)
    population = Population.of_explained(records, pooled)
    curves = silence(network.head, population, steps_of(network, options))
    for record, ablation in zip(records, ablation_records(*curves, data.classes), strict=True):
        record["ablation"] = ablation
        print(one_line(record))
    return Explained(records, population, curves, tiles, unreadable)


def steps_of(network: Network, options: Options) -> int:
    """How many units are silenced per image: the chosen ones, or of a dense head those that are listed."""
    return min(network.about["topk"] or options.topn, MOST_STEPS)


def one_line(record: ImageRecord) -> str:
    """A record for the terminal: what was predicted, and the sum behind it."""
    known = record["target"] is not None
    verdict = ("right" if record["target"] == record["prediction"] else f"is {record['target_name']}") if known else ""
    terms = terms_of(record)
    parts = [f"{unit['vote']:.2f} {unit_name(unit)}" for unit in terms.units]
    if terms.others is not None:
        parts.append(f"{terms.others:.2f} of {record['others']['count']} others")
    score = " + ".join([*parts, f"{terms.bias:.2f} bias"])
    return (
        f"{Path(record['file']).name}: {record['prediction_name']} {100 * record['probability']:.1f} %"
        f"{', ' + verdict if verdict else ''}; {record['explained_name']} {record['logit']:.2f} = {score}"
    )


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
    steps = steps_of(network, options)
    validation, population, curves = None, explained.population, explained.curves
    loader = None
    if data.val_set is not None and not options.no_val:
        loader = make_loader(data.val_set, VAL_BATCH, options.workers, network.head.weight.device)
        validation, population = validate(network.model, loader, options.target)
        print("validation: top-1 {top1:.2f} %, top-5 {top5:.2f} %, {count} images".format(**validation))
        curves = silence(network.head, population, steps)
    by_vote, random = curves
    methods = {f"{steps} largest votes": by_vote, f"{steps} active units at random": random}
    if rival and loader:
        _, theirs = validate(rival, loader)
        name = f"{steps} largest votes of {options.compare}"
        methods[name] = by_votes(head_of(rival), theirs.pooled, theirs.explained, steps)
    return Evidence(validation, population, methods)


# --- write --------------------------------------------------------------------------------------------------------


def write(
    network: Network, data: Data, explained: Explained, evidence: Evidence, options: Options, figure: list[int]
) -> Report:
    """Write all pages, their JSON and the figure. Returns explain.json's content."""
    names = Names(data.classes, network.concepts)
    report: Report = {
        "arch": network.about["arch"],
        "topk": network.about["topk"],
        "modelfile": display_path(network.file),
        "nd_result": display_path(network.tally_file) if network.tally_file else None,
        "dataset": data.name,
        "explain": "target" if options.target else "prediction",
        "images": explained.records,
        "unreadable": explained.unreadable,
        "validation": evidence.validation,
    }
    pages = Pages(
        report=report,
        routes=population_routes(network.head, evidence.population, names),
        faithfulness=faithfulness_record(evidence.methods, evidence.population.images),
        units=[names.unit(index) for index in range(network.head.in_features)],
        threshold=settings.SCORE_THRESHOLD,
        dissection=dissection_page(network.tally_file),
    )
    write_report(options.output, pages)
    write_figure(options.output / "figure.png", [(explained.records[i], explained.tiles[i]) for i in figure])
    print(f"report: {display_path(options.output / 'explain.html')}")
    return report


def dissection_page(tally_file: Path | None) -> Path | None:
    """Network Dissection's page of the layer, if it lies beside the tally."""
    page = tally_file and tally_file.parent / "html" / f"{FEATURE_LAYER}.html"
    return page if page and page.is_file() else None


def check_args(args: argparse.Namespace) -> None:
    """Raises UserError for values out of range, before any work."""
    if args.mark not in (None, DENSE_MARK):
        parse_mark(args.mark)
    if args.arch and args.arch not in model_names():
        raise UserError(f"--arch {args.arch}: expected one of {', '.join(model_names())}")
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
