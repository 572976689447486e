"""Explain predictions: which few units a network's decision is the sum of, and what they respond to.

    python3 demo.py                                              # the shipped network, on the embedded scenes
    python3 demo.py --image my.jpg holiday/ "scans/**/*.png"     # your own photographs: files, folders, patterns
    python3 demo.py --mark t5 --nd_result tally.csv --modelfile snapshot/pytorch_.../epoch_89.pth
    python3 demo.py --images 10012,28993                         # these validation images
    python3 demo.py --topk 3                                     # sum the 3 largest votes instead of the trained K
    python3 demo.py --explain target                             # the votes for the true class
    python3 demo.py --compare dense.pth                          # beside another network's explanations

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
from util.cli import ArgumentParser, UserError, add_dataset_flags, check_ranges, default_workers, run

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
        "--compare",
        metavar="PTH",
        help="snapshot of another network of the same classes, a dense one, say: shown beside it (default: none)",
    )


def add_data_arguments(parser: ArgumentParser) -> None:
    """Which images are explained."""
    group = parser.add_argument_group("data")
    add_dataset_flags(group, settings.DATASETS, default="as the snapshot says")
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

import torch
from torch.utils.data import DataLoader

from explain.drawing import MOST_UNITS
from explain.faithfulness import MOST_STEPS, ablation_records, by_votes
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
from explain.network import Network, load_compared, load_network, note, with_tally
from explain.population import (
    MOST_SILENCED,
    Evidence,
    measure_faithfulness,
    population_routes,
    silence,
    silence_all,
    validate,
)
from explain.records import ComparedNetwork, MapRecord, Report, UnitEvidence
from explain.subjects import Selection, find_files
from explain.terms import log_line
from loader.batches import make_loader
from models import DENSE_MARK, mark_of, parse_mark, run_name
from models.backbones import check_arch
from netdissect.beside import Beside, read_beside
from netdissect.strips import StripSource, report_strips
from report.explained import Explained, Options, Overlays, add_compared, explain_selection
from report.explanations import REPLACEABLE, Pages, write_report
from report.figures import write_figure
from util.device import describe_device, pick_device
from util.files import display_path, lock_folder, regular_file, staged
from util.text import counted, say


@dataclass(frozen=True)
class Loaded:
    """A network, ready to explain and to be tested.

    Attributes:
        network: on its device.
        data: the images, at the size of its input.
        loader: batches of the validation images; None if there are none, or the user leaves them out.
        beside: what lies beside its tally.
    """

    network: Network
    data: Data
    loader: DataLoader | None
    beside: Beside


@dataclass(frozen=True)
class Folders:
    """Where the report comes from and goes to.

    Attributes:
        output: the folder that gets the report.
        staging: the folder in which its files are written until all of them are there.
        data: folders that may hold the images of which a tally was made.
    """

    output: Path
    staging: Path
    data: list[Path]


def main(args: argparse.Namespace) -> Report:
    """Explain as the paper does: load, explain, validate, write. Returns explain.json's content."""
    check_args(args)
    device = pick_device(args.device)
    files = find_files(args.image or [])
    images, places = listed(args.images), listed(args.figure)
    asked = Asked(args.modelfile, args.arch, args.mark, args.dataset, args.data, images, bool(args.image))

    ours = load(args, asked, device)
    theirs = load_other(args, asked, ours, device) if args.compare else None
    selection = select_images(ours.data, images, files)
    note_materials(ours, selection)
    options = Options(args.topn, args.cam, args.explain == "target", pick_figure(places, len(selection)))
    # The chosen units are silenced, or of a dense head those that are listed.
    steps = min(ours.network.about["topk"] or args.topn, MOST_STEPS)
    output = Path(args.output) if args.output else output_folder(ours, asked, args.topk)

    with lock_folder(output, name=LOCK), staged(output, REPLACEABLE) as staging:
        folders = Folders(output, staging, [*([Path(args.data)] if args.data else []), ROOT / settings.DATA_ROOT])
        explained = explain(ours, selection, options, steps, staging)
        figure = pick_figure(places, len(explained.records))  # some files may have been unreadable
        evidence = validate_network(ours, explained, options, steps)
        compared = None
        if theirs:
            overlays = Overlays(staging, "beside", theirs.beside)
            add_compared(explained, theirs.network, theirs.data, selection, options, overlays)
            compared = compare(theirs, explained, evidence, options, steps)
        report = write(ours, explained, evidence, options, folders, compared)
        write_figure(staging / "figure.png", [(explained.records[i], explained.tiles[i]) for i in figure])
    say(f"report: {display_path(output / 'explain.html')}")
    return report


# --- load ---------------------------------------------------------------------------------------------------------


def load(args: argparse.Namespace, asked: Asked, device: torch.device) -> Loaded:
    """The network to explain, what its units respond to, and its data set."""
    choice = find_snapshot(asked)
    network = load_network(choice.file, args.arch, args.mark, args.finetune, args.topk)
    network = with_tally(network, args.nd_result, choice.tally)
    if choice.why:
        say(f"why this model: {choice.why}")
    say(f"device: {describe_device(device)}")
    data = find_data(args.dataset, args.data, network.about, names_only=asked.own_only)
    note(network.notices, check_classes("the snapshot", network.about, data))
    return ready(network, data, args, device)


def load_other(args: argparse.Namespace, asked: Asked, ours: Loaded, device: torch.device) -> Loaded:
    """The network of --compare, and the same data set at its size; its notices are added to those of the report.

    Raises:
        UserError: if its classes are not the data set's.
    """
    network, notices = load_compared(regular_file(args.compare, "snapshot")), ours.network.notices
    note(notices, check_classes("the snapshot of --compare", network.about, ours.data))
    about = {**ours.network.about, "size": network.about.get("size")}
    data = find_data(args.dataset, args.data, about, names_only=asked.own_only)
    loaded = ready(network, data, args, device)
    for notice in network.notices:
        notices.append(f"{display_path(network.file)}: {notice}")
    return loaded


def ready(network: Network, data: Data, args: argparse.Namespace, device: torch.device) -> Loaded:
    """A network on its device, batches of its validation images, and what lies beside its tally."""
    network.model.to(device)
    beside = read_beside(network.tally.file) if network.tally.file else Beside()
    for fault in beside.faults:
        note(network.notices, fault)
    note(network.notices, concepts_notice(network.about.get("dataset"), network.tally.made_of))
    val_set = None if args.no_val else data.val_set
    loader = None if val_set is None else make_loader(val_set, VAL_BATCH, args.workers, device)
    return Loaded(network, data, loader, beside)


def note_materials(ours: Loaded, selection: Selection) -> None:
    """Note whether the images are photographs, and the network was trained on drawn scenes, or the reverse."""
    network = ours.network
    note(network.notices, images_notice(network.about.get("dataset"), materials_shown(ours.data, selection)))


def output_folder(ours: Loaded, asked: Asked, topk: int | None) -> Path:
    """result/pytorch_{arch}_{mark}_{dataset}/, the run's, or result/own_images/ if the user's own are among them.

    With --topk the mark is that of the asked K, so that the report of the K that was trained stays.
    """
    results, about = ROOT / settings.RESULT_ROOT, ours.network.about
    if asked.image:
        return results / settings.OWN_IMAGES
    mark = asked.mark if asked.mark and topk is None else mark_of(about["topk"])
    return results / run_name(about["arch"], mark, ours.data.name)


def listed(words: list[str] | None) -> str | None:
    """['3', '5'] and ['3,5'] -> '3,5'; None for a flag that was not given."""
    return None if words is None else ",".join(words)


# --- explain ------------------------------------------------------------------------------------------------------


def explain(ours: Loaded, selection: Selection, options: Options, steps: int, staging: Path) -> Explained:
    """Explain the images and silence up to `steps` units of each, and say what was found.

    Raises:
        UserError: if no image can be read.
    """
    explained = explain_selection(ours.network, ours.data, selection, options, Overlays(staging, "cam", ours.beside))
    for lost in explained.unreadable:
        say(f"left out: {lost['reason']}", sys.stderr)
    curves = silence(ours.network.head, explained.population, steps)
    ablations = ablation_records(*curves, ours.data.classes)
    for record, ablation in zip(explained.records, ablations, strict=True):
        record["ablation"] = ablation
        say(log_line(record, record["file"]))
    return explained


# --- validate -----------------------------------------------------------------------------------------------------


def validate_network(ours: Loaded, explained: Explained, options: Options, steps: int) -> Evidence:
    """Accuracy, and whether the explanations hold: over the validation images, or over the explained ones only.

    Args:
        ours: the network to test.
        explained: images, if there are no validation images or the user leaves them out.
        options: how.
        steps: units that are silenced per image, at most.
    """
    validation, population = None, explained.population
    if ours.loader is not None:
        validation, population = validate(ours.network.model, ours.loader, options.target)
        say("validation: top-1 {top1:.2f} %, top-5 {top5:.2f} %, {count} images".format(**validation))
    silenced = population.spaced(MOST_SILENCED)
    return Evidence(validation, population, silenced, silence_all(ours.network.head, silenced, steps))


def compare(theirs: Loaded, explained: Explained, evidence: Evidence, options: Options, steps: int) -> ComparedNetwork:
    """Test the network of --compare as well; its largest votes are silenced too, and added to the evidence.

    Args:
        theirs: the network.
        explained: images, with what both networks say of them.
        evidence: of the report's network.
        options: how.
        steps: units that are silenced per image, at most.

    Returns:
        what explain.json says of it.
    """
    network, validation, agreement = theirs.network, None, None
    agreeing = sum(record["compared"]["agree"] for record in explained.records)
    say(f"compared: both networks agree on {agreeing} of {len(explained.records)} images")
    if theirs.loader is not None:
        validation, population = validate(network.model, theirs.loader, options.target)
        agreement = (population.predictions == evidence.population.predictions).double().mean().item()
        say(f"compared: top-1 {validation['top1']:.2f} %, agreement {100 * agreement:.2f} % of the validation images")
        silenced = population.spaced(MOST_SILENCED)
        name = f"{counted(steps, 'largest vote')} of {display_path(network.file)}"
        evidence.methods[name] = by_votes(network.head, silenced.pooled, silenced.explained, steps)
    return {
        "arch": network.about["arch"],
        "topk": network.about["topk"],
        "trained_topk": network.trained_topk,
        "modelfile": display_path(network.file),
        "nd_result": display_path(network.tally.file) if network.tally.file else None,
        "feature_map": map_record(network),
        "weights": network.weights,
        "size": theirs.data.spec.size,
        "agreeing": agreeing,
        "validation": validation,
        "agreement": agreement,
    }


# --- write --------------------------------------------------------------------------------------------------------


def write(
    ours: Loaded,
    explained: Explained,
    evidence: Evidence,
    options: Options,
    folders: Folders,
    compared: ComparedNetwork | None,
) -> Report:
    """Write all pages and their JSON. Returns explain.json's content."""
    network, data, tally = ours.network, ours.data, ours.network.tally
    names = Names(data.classes, tally.concepts)
    routes = population_routes(network.head, evidence.population, names)
    faithfulness = measure_faithfulness(network.head, evidence, explained.records, routes)
    shown = {unit["unit"] for record in explained.records for unit in record["units"]}
    units, no_strips = describe_units(ours, sorted(shown | {unit["unit"] for unit in routes["units"]}), folders)
    report: Report = {
        "arch": network.about["arch"],
        "topk": network.about["topk"],
        "trained_topk": network.trained_topk,
        "modelfile": display_path(network.file),
        "nd_result": display_path(tally.file) if tally.file else None,
        "dataset": data.name,
        "feature_map": map_record(network),
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
    if compared:
        report["compared"] = compared
    pages = Pages(
        report=report,
        routes=routes,
        faithfulness=faithfulness,
        units=[names.unit(index) for index in range(network.head.in_features)],
        threshold=settings.SCORE_THRESHOLD,
        dissection=dissection_page(network, folders.output),
        live=live_head(network.head, explained.population.pooled, explained.records),
    )
    if options.topn > MOST_UNITS:
        say(f"figure.png shows the {MOST_UNITS} largest votes of each image only")
    write_report(folders.staging, pages)
    return report


def map_record(network: Network) -> MapRecord:
    """Where a network's maps come from, for explain.json."""
    found = network.classifier.feature_map
    return {"layer": found.layer, "about": found.about, "direct": found.direct}


def describe_units(ours: Loaded, shown: list[int], folders: Folders) -> tuple[list[UnitEvidence], str | None]:
    """What is known of all units, with strips of images in vis/ for some; and why there are none of these, if so.

    Args:
        ours: whose.
        shown: numbers, from 1, of the units that get a strip.
        folders: where the report goes.
    """
    network, beside = ours.network, ours.beside
    numbers = range(1, network.head.in_features + 1)
    records = {unit: beside.record(unit, settings.SCORE_THRESHOLD) for unit in numbers}
    if network.tally.file is None:
        return list(records.values()), None
    try:
        source = StripSource(network.tally.file, network.classifier.feature_map.layer, network.tally.made_of, beside)
        made = report_strips(network.model, source, folders.data, folders.staging / "vis", shown)
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
    if args.explain == "target" and args.image:
        raise UserError("--explain target: images given by --image have no true class; explain their prediction")


def cli() -> None:
    """Parse the command line and explain."""
    main(get_args_parser().parse_args())


if __name__ == "__main__":
    run(cli, "demo.py")
