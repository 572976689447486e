"""Explaining the images of a report as they are read: their records, and the files of their maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from explain.drawing import overlay_tiles
from explain.images import explain_subjects
from explain.inputs import Data
from explain.naming import Names
from explain.network import Network
from explain.population import Population
from explain.records import ComparedImage, ImageRecord, Unreadable
from explain.subjects import Selection, shown_size
from report.overlays import write_strip
from report.vote_maps import vote_tiles
from util.cli import UserError
from util.progress import progress


class Limits(Protocol):
    """Thresholds of units."""

    def limit(self, unit: int, /) -> float | None:
        """That of a unit, numbered from 1, around whose activation a line is drawn; None: no line."""


@dataclass(frozen=True)
class Options:
    """How images are explained.

    Attributes:
        topn: votes listed per image.
        cam: 'votes' or 'jet': what the maps of the pages show.
        target: explain the true class instead of the predicted one.
        figure: places of the images that figure.png shows.
    """

    topn: int
    cam: str
    target: bool
    figure: Sequence[int] = ()


@dataclass(frozen=True)
class Overlays:
    """Where the maps of images are written.

    Attributes:
        folder: of the report; the files are vis/<name>_<i>.jpg in it.
        name: what they begin with.
        limits: of the units.
    """

    folder: Path
    name: str
    limits: Limits


@dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
        records: their entries in explain.json, without what silencing does.
        population: the same images, for routes and faithfulness.
        tiles: of the images that figure.png shows, by their place in `records`: the image and its overlays.
        unreadable: files that were left out.
    """

    records: list[ImageRecord]
    population: Population
    tiles: dict[int, list[np.ndarray]]
    unreadable: list[Unreadable]


def explain_selection(
    network: Network, data: Data, selection: Selection, options: Options, overlays: Overlays
) -> Explained:
    """Explain images as they are read, and write their overlays.

    Args:
        network: to explain.
        data: whose classes it predicts; its sizes are the network's.
        selection: the images.
        options: how.
        overlays: where.

    Raises:
        UserError: if no image can be read, or the network's answer to one is not finite.
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
        place, file = len(records), f"vis/{overlays.name}_{len(records)}.jpg"
        if place in options.figure:
            tiles[place] = overlay_tiles(subject.square, answer)
        if options.cam == "jet":
            strip = tiles.get(place) or overlay_tiles(subject.square, answer)
        else:
            limits = [overlays.limits.limit(unit["unit"]) for unit in answer.record["units"]]
            strip = vote_tiles(subject.square, answer, limits)
        write_strip(overlays.folder / file, strip)
        record: Any = {"file": subject.file, "index": subject.index, **answer.record, "overlays": file}
        records.append(record)
        pooled.append(answer.pooled)
    if not records:
        raise UserError(unreadable[0]["reason"])
    return Explained(records, Population.of_explained(records, pooled), tiles, unreadable)


def add_compared(
    explained: Explained, network: Network, data: Data, selection: Selection, options: Options, overlays: Overlays
) -> None:
    """Explain the same images by another network, and add what it says to their records.

    Args:
        explained: the images, which get the key `compared`.
        network: the other one.
        data: whose classes it predicts, at its size: the images are read again.
        selection: the images.
        options: how.
        overlays: where its maps are written.

    Raises:
        UserError: as `explain_selection`, or if files have become readable or unreadable meanwhile.
    """
    others = explain_selection(network, data, selection, replace(options, figure=()), overlays).records
    if [other["file"] for other in others] != [record["file"] for record in explained.records]:
        raise UserError("--compare: some of the images changed while they were read; run it again")
    for record, other in zip(explained.records, others, strict=True):
        record["compared"] = _compared_image(record, other)


def _compared_image(record: ImageRecord, other: ImageRecord) -> ComparedImage:
    """What another network says of an image, beside the record of the report's network."""
    return {
        "agree": record["prediction"] == other["prediction"],
        "target": other["target"],
        "target_name": other["target_name"],
        "prediction": other["prediction"],
        "prediction_name": other["prediction_name"],
        "probability": other["probability"],
        "unsure": other["unsure"],
        "explained": other["explained"],
        "explained_name": other["explained_name"],
        "ranking": other["ranking"],
        "logit": other["logit"],
        "bias": other["bias"],
        "units": other["units"],
        "others": other["others"],
        "map_scale": other["map_scale"],
        "overlays": other["overlays"],
    }
