"""Explain predictions: which few units a network's decision is the sum of, and what they respond to.

    python3 demo.py                                              # the shipped network, on the embedded scenes
    python3 demo.py --mark t5 --nd_result tally.csv --modelfile snapshot/pytorch_.../epoch_89.pth
    python3 demo.py --images 10012,28993                         # these validation pictures
    python3 demo.py --image my.jpg holiday/ "scans/**/*.png"     # your own pictures: files, folders, patterns
    python3 demo.py --explain target                             # the votes for the true class
    python3 demo.py --compare dense.pth                          # beside another network's top votes: does it hold?

Writes explain.html (pictures), classes.html, class/, units.html (routes), faithfulness.html, the data of each in
explain.json, routes.json and faithfulness.json, and figure.png and .pdf, into result/pytorch_{arch}_{mark}_{dataset}/.
The network is tested on the validation pictures; with them, or with --no_val with the explained ones only, the routes
and the test of the explanations are measured.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

import settings
from engine import describe_device, evaluate_features, pick_device, progress
from errors import ArgumentParser, UserError, check_ranges, run, whole_number
from explain.faithfulness import MOST_STEPS, Curves, ablation_records, at_random, by_votes, faithfulness_record
from explain.pictures import FEATURE_LAYER, Explanation, explain_pictures
from explain.routes import class_accuracy, routes_of, routes_record
from explain.votes import predict
from files import alone_in, shown, whole_file
from loader.places365 import (
    DataSource,
    class_names,
    default_workers,
    explain_transform,
    find_dataset,
    folder_name,
    make_loader,
    read_image,
    spec_of,
    val_transform,
)
from models import MODELS, load_snapshot, mark_of, parse_mark, run_name
from models.resnet import DENSE_MARK, head_of
from models.snapshot import newest_snapshot
from netdissect.tally import TallyRow, read_tally
from report.explanations import Explained, write_pages
from report.figures import write_figure
from report.overlays import MOST_TILES, PICTURE_SIZE, heat_overlays, write_strip
from report.pages import plain_label

ROOT = Path(__file__).resolve().parent
EXPLAIN_BATCH = 16  # pictures through the network at one time
VAL_BATCH = 64
ENOUGH_PIXELS = 2048  # side of a user's picture above which a JPEG is not decoded in full: 224 are shown
FIGURE_PICTURES = 4  # pictures in figure.png, as in the paper's figures
RANGES = {"topn": (1, MOST_TILES - 1), "workers": (0, settings.MOST_WORKERS)}


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--mark", help="tK, the number of votes per class (default: as the snapshot says)")
    parser.add_argument("--arch", help=f"one of {', '.join(MODELS)} (default: as the snapshot says)")
    parser.add_argument("--modelfile", metavar="PTH", help="snapshot (default: the run's newest, or the shipped one)")
    parser.add_argument("--nd_result", metavar="CSV", help="tally.csv of netdissect/main.py for this snapshot")
    parser.add_argument("--dataset", help=f"{', '.join(settings.DATASETS)}, or a folder with train/ and val/")
    parser.add_argument("--data", help="folder that holds the data sets, or the data set's own (default data/)")
    parser.add_argument("--images", metavar="I,J,...|N", help="indices of validation pictures, or how many of them "
                        f"(default {settings.EXPLAIN_IMAGES})")  # fmt: skip
    parser.add_argument("--image", metavar="FILE", nargs="+", action="extend",
                        help="your own pictures: files, folders, patterns")  # fmt: skip
    parser.add_argument("--figure", metavar="I,J,...", help="pictures of figure.png, by their place on the page from 0 "
                        f"(default the first {FIGURE_PICTURES})")  # fmt: skip
    parser.add_argument("--compare", metavar="PTH", help="another network (a dense one, say) for faithfulness.html")
    parser.add_argument("--explain", default="prediction", choices=["prediction", "target"], help="whose votes")
    parser.add_argument("--topn", type=int, default=settings.EXPLAIN_TOPN, help="votes shown per picture")
    parser.add_argument("--output", metavar="DIR", help="folder that gets explain.html")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes that read pictures")
    parser.add_argument("--no_val", action="store_true", help="leave the validation out")
    return parser


@dataclass(frozen=True)
class Subject:
    """A picture to explain.

    Attributes:
        file: its path, for people.
        index: where it stands in the validation set, if it does.
        target: its true class, if known.
        image: (3, H, W) as the network sees it.
        square: (224, 224, 3) uint8, as the page shows it.
    """

    file: str
    index: int | None
    target: int | None
    image: Tensor
    square: np.ndarray


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Explain as the paper does: model, concepts, pictures, votes, validation, routes, faithfulness, pages.

    Returns explain.json's data.
    """
    check_args(args)
    device = pick_device(args.device)

    # The network, and what its units respond to
    model_file, tally_file = find_inputs(args)
    model, about = load_snapshot(
        model_file, args.arch, parse_mark(args.mark) if args.mark not in (None, DENSE_MARK) else None
    )
    concepts = read_concepts(tally_file, units=head_of(model).in_features)
    model.to(device)
    print(f"device: {describe_device(device)}")
    print(f"model: {shown(model_file)}, {about['arch']}, K = {about['topk'] or 'all (dense head)'}")

    # The pictures
    files = own_files(args.image or [])
    own_only = bool(files) and not args.images
    source, classes, dataset = find_classes(args.dataset, args.data, about, own_only)
    if len(classes) != about["num_classes"]:
        raise UserError(f"{model_file} has {about['num_classes']} classes, data set {dataset} has {len(classes)}")
    val_set: Any = None if source is None or own_only else source.dataset("val", val_transform(source.spec))
    indices = [] if val_set is None else pick_indices(args.images, len(val_set))
    rival = load_rival(args.compare, classes, device) if args.compare else None

    # Their votes
    output = Path(args.output) if args.output else ROOT / settings.RESULT_ROOT / run_name(
        about["arch"], args.mark or mark_of(about["topk"]), dataset)  # fmt: skip
    pick_figure(args.figure, len(indices) + len(files))  # raises before any work
    unreadable: list[dict[str, str]] = []
    pictures = subjects(val_set, indices, files, explain_transform(spec_of(dataset)), unreadable)
    first = next(pictures, None)
    if first is None:
        raise UserError(unreadable[0]["reason"])
    with alone_in(output / "vis"):  # training holds the folder itself, and need not be over
        records: list[dict[str, Any]] = []
        features: list[Tensor] = []
        bar = progress(chain([first], pictures), total=len(indices) + len(files), desc="explain", unit="img")
        for batch in batched(bar, EXPLAIN_BATCH):
            images = torch.stack([subject.image for subject in batch])  # (B, 3, H, W)
            targets = [subject.target for subject in batch]
            explanations = explain_pictures(
                model, images.to(device), targets, classes, concepts, args.topn, args.explain == "target"
            )
            for subject, explanation in zip(batch, explanations, strict=True):
                overlays = f"vis/cam_{len(records)}.jpg"
                draw_overlays(output / overlays, subject.square, explanation)
                record = {"file": subject.file, "index": subject.index, **explanation.record, "overlays": overlays}
                records.append(record)
                features.append(explanation.pooled)
        for lost in unreadable:
            print(f"left out: {lost['reason']}", file=sys.stderr)
        chosen_for_figure = pick_figure(args.figure, len(records))
        steps = min(about["topk"] or args.topn, MOST_STEPS)
        pooled = torch.stack(features)  # (V, N)
        predictions = torch.tensor([record["prediction"] for record in records])  # (V,)
        explained = torch.tensor([record["explained"] for record in records])  # (V,)
        chosen, random = silence(model, pooled, explained, steps)
        for record, curves in zip(records, ablation_records(chosen, random, classes), strict=True):
            record["ablation"] = curves
        for record in records:
            print(one_line(record))

        # The accuracy, by the code that training uses; it leaves what the routes of all validation pictures are made of
        validation, targets = None, [record["target"] for record in records]
        which = f"{len(records)} explained pictures"
        if val_set is not None and not args.no_val:
            loader = make_loader(val_set, VAL_BATCH, args.workers, device)
            validation, pooled = evaluate_features(model, loader, device)
            print("validation: top-1 {top1:.2f} %, top-5 {top5:.2f} %, {count} pictures".format(**validation))
            targets, which = [int(target) for target in val_set.targets], f"{len(pooled)} validation pictures"
            predictions = predict(head_of(model), pooled)
            explained = torch.tensor(targets) if args.explain == "target" else predictions
            chosen, random = silence(model, pooled, explained, steps)

        # Which ways they went, and whether the explanations hold
        head = head_of(model)
        found = routes_of(pooled, head.weight.detach().cpu(), explained, about["topk"] or head.in_features)
        routes = routes_record(found, classes, concepts, which)
        for row, accuracy in zip(routes["classes"], class_accuracy(predictions, targets, len(classes)), strict=True):
            row["accuracy"] = accuracy
        methods = {f"{steps} largest votes": chosen, f"{steps} active units at random": random}
        if rival:
            rival_pooled = evaluate_features(rival, make_loader(val_set, VAL_BATCH, args.workers, device), device)[1]
            name = f"{steps} largest votes of {shown(args.compare)}"
            methods[name] = by_votes(rival, rival_pooled, predict(head_of(rival), rival_pooled), steps)

        # The pages
        report = {
            "arch": about["arch"],
            "topk": about["topk"],
            "modelfile": shown(model_file),
            "nd_result": tally_file and shown(tally_file),
            "dataset": dataset,
            "explain": args.explain,
            "images": records,
            "unreadable": unreadable,
            "validation": validation,
        }
        faithfulness = faithfulness_record(methods, which)
        for name, data in (("explain", report), ("routes", routes), ("faithfulness", faithfulness)):
            with whole_file(output / f"{name}.json") as temporary:
                temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        units = [{"unit": unit, "label": row.label, "category": row.category, "iou": row.score}
                 for unit, row in sorted(concepts.items())]  # fmt: skip
        dissection = find_dissection(tally_file, output)
        write_pages(output, Explained(report, routes, faithfulness, units, settings.SCORE_THRESHOLD, dissection))
        write_figure(output / "figure.png", [records[place] for place in chosen_for_figure], output)
        print(f"report: {shown(output / 'explain.html')}")
    return report


def silence(
    model: nn.Module, pooled: Tensor, classes: Tensor, steps: int
) -> tuple[dict[str, Curves], dict[str, Curves]]:
    """What becomes of pictures without their largest votes, or with these alone; and the same of units at random."""
    return by_votes(model, pooled, classes, steps), at_random(model, pooled, classes, steps)


def check_args(args: argparse.Namespace) -> None:
    """Raises UserError for values out of range, before any work."""
    if args.mark not in (None, DENSE_MARK):
        parse_mark(args.mark)
    if args.arch and args.arch not in MODELS:
        raise UserError(f"--arch {args.arch}: expected one of {', '.join(MODELS)}")
    check_ranges(args, RANGES)
    if args.compare and (args.no_val or (args.image and not args.images)):
        raise UserError("--compare: it needs the validation pictures, without --no_val")
    if args.explain == "target" and args.image:
        raise UserError("--explain target: pictures given by --image have no true class; explain their prediction")


def find_inputs(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The snapshot and its tally: those given, else those of the run these options name, else the shipped ones.

    A tally belongs to one snapshot: a snapshot given without one is explained with unit numbers only.
    """
    given = Path(args.nd_result) if args.nd_result else None
    if args.modelfile:
        return Path(args.modelfile), given
    arch, mark = args.arch or settings.ARCH, args.mark or settings.MARK
    datasets = [folder_name(args.dataset)] if args.dataset else ["places365", "mini_places"]
    for dataset in datasets:
        folder = run_name(arch, mark, dataset)
        trained = newest_snapshot(ROOT / settings.SNAPSHOT_ROOT / folder)
        if trained:
            dissected = ROOT / settings.RESULT_ROOT / folder / "netdissect" / "tally.csv"
            # A tally that is older than the snapshot was made of another one.
            fits = dissected.is_file() and dissected.stat().st_mtime >= trained.stat().st_mtime
            return trained, given or (dissected if fits else None)
    if (arch, mark) != (settings.ARCH, settings.MARK) or "mini_places" not in datasets:
        if args.dataset:
            find_dataset(args.dataset, args.data, ROOT)  # raises if this is missing too, and says where to get it
        raise UserError(f"no snapshot in {settings.SNAPSHOT_ROOT}/{folder}: name one with --modelfile, or train it")
    return ROOT / settings.SHIPPED_SNAPSHOT, given or ROOT / settings.SHIPPED_TALLY


def read_concepts(tally_file: Path | None, units: int) -> dict[int, TallyRow]:
    """What each unit responds to, by its number from 1; without a tally, nothing."""
    if tally_file is None:
        print("no tally: units have numbers only; netdissect/main.py names them, --nd_result takes its tally.csv")
        return {unit: TallyRow(unit, "", "", 0.0, {}) for unit in range(1, units + 1)}
    print(f"units: {shown(tally_file)}")
    return {row.unit: replace(row, label=plain_label(row.label)) for row in read_tally(tally_file, units)}


def find_classes(
    dataset: str | None, data: str | None, about: dict[str, Any], names_only: bool
) -> tuple[DataSource | None, list[str], str]:
    """The data set, its class names, and its name; if the names are enough, no data need be on disk.

    Without --dataset and --data it is the snapshot's own, where the snapshot names one.
    """
    own = about.get("dataset")
    if names_only and dataset is None and "classes" in about:
        return None, list(about["classes"]), own or "unknown"
    if dataset is None and data is None and own in settings.DATASETS:
        dataset = own
    if names_only and (dataset in settings.DATASETS or dataset is None):
        name = dataset or "places365"
        return None, class_names(name), name
    source = find_dataset(dataset, data, ROOT)
    return source, source.classes, source.name


def pick_indices(images: str | None, count: int) -> list[int]:
    """'10012,28993' -> these indices; 'N' -> that many, evenly spaced over the validation set; None -> the default."""
    text = images or str(min(settings.EXPLAIN_IMAGES, count))
    numbers = listed_numbers(text)
    if not numbers:
        raise UserError(f"--images {text!r}: expected indices such as 10012,28993, or a count")
    if "," not in text:
        if not 1 <= numbers[0] <= count:
            raise UserError(f"--images {text}: expected a count from 1 to {count}; a single index is written `{text},`")
        return np.linspace(0, count, numbers[0], endpoint=False).astype(int).tolist()
    if max(numbers) >= count:
        raise UserError(f"--images {text}: {max(numbers)} is not an index of the validation set, 0 to {count - 1}")
    return numbers


def listed_numbers(text: str) -> list[int]:
    """'3,5' -> [3, 5]; nothing if any part of it is not a number."""
    numbers = [whole_number(part) for part in text.split(",") if part.strip()]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else []


def pick_figure(figure: str | None, count: int) -> list[int]:
    """'3,5' -> these places on the page; None -> the first ones. Raises UserError for what is not on it."""
    if figure is None:
        return list(range(min(FIGURE_PICTURES, count)))
    places = listed_numbers(figure)
    if not places or max(places) >= count:
        raise UserError(f"--figure {figure!r}: expected places on the page, 0 to {count - 1}, such as 0,2,3")
    return places


def own_files(patterns: list[str]) -> list[str]:
    """The files that --image means: files as they are, the pictures below folders, what patterns match."""
    files = []
    for pattern in patterns:
        path = Path(pattern)
        if not pattern:
            found: list[str] = []
        elif path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
        elif not path.exists() and glob.has_magic(pattern):
            found = sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))
        else:
            found = [pattern]
        if not found:
            raise UserError(f"--image {pattern}: no picture there ({', '.join(IMG_EXTENSIONS)})")
        files += found
    return list(dict.fromkeys(files))


def load_rival(path: str, classes: list[str], device: torch.device) -> nn.Module:
    """The network of --compare. Raises UserError if it is of other classes."""
    rival, about = load_snapshot(path)
    if about["num_classes"] != len(classes):
        raise UserError(f"--compare {path}: it has {about['num_classes']} classes, expected {len(classes)}")
    return rival.to(device)


def subjects(
    val_set: Any, indices: list[int], files: list[str], transform: Callable, unreadable: list[dict[str, str]]
) -> Iterator[Subject]:
    """The pictures, read one at a time; those that cannot be read are named and left out."""
    places = [(index, shown(val_set.file(index))) for index in indices]
    for index, file in [*places, *((None, file) for file in files)]:
        own = index is None
        try:
            picture = read_image(file, upright=True, enough=ENOUGH_PIXELS) if own else val_set.picture(index)
        except UserError as error:
            unreadable.append({"file": file, "reason": str(error)})
            continue
        square = np.asarray(picture.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BILINEAR))
        yield Subject(file, index, None if own else int(val_set.targets[index]), transform(picture), square)


def batched(items: Iterable[Subject], size: int) -> Iterator[list[Subject]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def draw_overlays(path: Path, square: np.ndarray, explanation: Explanation) -> None:
    """The squared picture and, side by side with it, the heat maps of the listed units, as strong as their votes."""
    percents = [unit["percent"] for unit in explanation.record["units"]]
    strongest = max(percents)
    strengths = [percent / strongest if strongest > 0 else 0.0 for percent in percents]
    tiles = [square, *heat_overlays(square, explanation.maps, strengths)]
    write_strip(path, tiles)


def find_dissection(tally_file: Path | None, output: Path) -> str | None:
    """Link from the pages to Network Dissection's page of the layer, where it lies beside the tally."""
    page = tally_file and tally_file.parent / "html" / f"{FEATURE_LAYER}.html"
    return Path(os.path.relpath(page, output)).as_posix() if page and page.is_file() else None


def one_line(record: dict[str, Any]) -> str:
    """A record for the terminal: what was predicted, and the sum that made it."""
    known = record["target"] is not None
    verdict = ("right" if record["target"] == record["prediction"] else f"is {record['target_name']}") if known else ""
    terms = [f"{unit['vote']:.2f} {unit['label'] or unit['unit']}" for unit in record["units"] if unit["active"]]
    if record["others"]["count"]:
        terms.append(f"{record['others']['vote']:.2f} of {record['others']['count']} others")
    score = " + ".join([*terms, f"{record['bias']:.2f} bias"])
    return (
        f"{Path(record['file']).name}: {record['prediction_name']} {100 * record['probability']:.1f} %"
        f"{', ' + verdict if verdict else ''}; {record['explained_name']} {record['logit']:.2f} = {score}"
    )


def cli() -> None:
    """Parse the command line and explain."""
    main(get_args_parser().parse_args())


if __name__ == "__main__":
    run(cli, "demo.py")
