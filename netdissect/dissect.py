"""The dissection as a library: measure layers in one pass over the images, then score each of them.

    summaries = measure_layers(model, broden, {"layer4": Path("cache")}, PassConfig())
    layer = score_layer("layer4", summaries["layer4"], broden, TallyConfig())
    write_tally("tally.csv", layer.rows)

`main.py` calls them with the values of settings.py.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from explain.records import ChanceRecord
from models.snapshot import weights_fingerprint
from netdissect import cache
from netdissect.activity import LayerActivity, LayerSummary, StoredMaps
from netdissect.agreement import AgreementRow, agreement_rows, describe
from netdissect.broden import Broden
from netdissect.chance import chance_scores, chance_summary, pairings
from netdissect.counting import count
from netdissect.features import stream_features
from netdissect.forward import Forward
from netdissect.layout import MapLayout, find_layouts
from netdissect.made_of import files_fingerprint, of_activations
from netdissect.tally import TallyRow, interpretable, tally_rows, unique_detectors
from netdissect.thresholds import read_thresholds
from util import distributed
from util.made_of import MadeOf

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassConfig:
    """The pass over the images.

    Attributes:
        preprocess: a key of `features.PREPROCESS`.
        quantile: share of its activations that exceed a unit's threshold.
        quantile_file: a quantile.npy (U,) whose thresholds are used instead; None: they are computed.
        batch_size: images at a time through the network.
        workers: processes that read images; 0: this one.
        compile: whether to compile the network: True, False, or 'auto', as of `forward.Forward`.
    """

    preprocess: str = "netdissect"
    quantile: float = 0.005
    quantile_file: Path | None = None
    batch_size: int = 64
    workers: int = 0
    compile: bool | str = False


@dataclass(frozen=True)
class TallyConfig:
    """The tally of a layer.

    Attributes:
        iou_mode: 'lite' or 'original', as in `counting.count`.
        score_threshold: IoU from which a unit counts as interpretable.
        chance_rounds: tallies of randomly paired masks and labels, for the chance level; 0: none.
        batch_size: images that a worker process counts at a time.
        workers: processes that count; 0: this one.
    """

    iou_mode: str = "lite"
    score_threshold: float = 0.04
    chance_rounds: int = 1
    batch_size: int = 16
    workers: int = 0


@dataclass(frozen=True)
class DissectedLayer:
    """A layer's results.

    Attributes:
        name: dotted, as in `model.named_modules()`.
        summary: thresholds, maps and peaks of its units.
        rows: its tally.
        agreement: the rows of agreement.csv.
        chance: the content of chance.json; None without rounds of chance.
    """

    name: str
    summary: LayerSummary
    rows: list[TallyRow]
    agreement: list[AgreementRow]
    chance: ChanceRecord | None


def measure_layers(
    model: nn.Module, broden: Broden, caches: Mapping[str, Path], config: PassConfig
) -> dict[str, LayerSummary[StoredMaps]]:
    """Summarise the activations of layers over all images: from their caches, or in one pass for those without.

    Args:
        model: in eval mode, on the device that is to compute.
        broden: the images.
        caches: by layer, the folder that holds or gets its summary. The returned maps are read from it on demand: keep
            it as long as they are in use.
        config: of the pass; a cache made with other settings, weights or images is replaced.

    Raises:
        UserError: for a layer that the model lacks or whose output is not of maps, an image that is not readable or
            whose activations are not finite, a quantile file that does not fit, or a folder that is not a cache's.
    """
    for folder in caches.values():
        cache.check_place(folder)
    layouts = find_layouts(model, list(caches), *broden.largest_image())
    file = config.quantile_file
    given = {layer: read_thresholds(file, layout.units) if file else None for layer, layout in layouts.items()}
    keys = _cache_keys(model, broden, given, config)
    loaded = {layer: _load(folder, keys[layer], layouts[layer].units, len(broden)) for layer, folder in caches.items()}
    activities = {
        layer: LayerActivity(layout.units, len(broden), layout.positions, config.quantile, given[layer])
        for layer, layout in layouts.items()
        if loaded[layer] is None
    }
    compiled = bool(activities) and _pass(model, broden, layouts, activities, config)
    summaries = {layer: summary for layer, summary in loaded.items() if summary}
    for layer, activity in activities.items():
        summaries[layer] = cache.store(caches[layer], keys[layer], activity.finish(compiled))
        sizes_mb = (activity.maps.most / 1e6, activity.maps.on_disk / 1e6, 8 * summaries[layer].values / 1e6)
        message = "%s: %d units, at most %.1f MB of maps kept, %.1f MB of them on disk (all maps in float64: %.1f MB)"
        log.info(message, layer, activity.units, *sizes_mb)
    return summaries


def score_layer(layer: str, summary: LayerSummary, broden: Broden, config: TallyConfig) -> DissectedLayer:
    """Name the units of a layer: its tally, how units and labels agree beyond it, and how it compares with chance.

    Args:
        layer: its name.
        summary: of the layer, from `measure_layers`.
        broden: the labels of the same images.
        config: of the tally.

    Raises:
        UserError: for a label map that is not readable or does not fit.
    """
    partners = pairings(len(broden), config.chance_rounds)
    counts, presence = count(summary, broden, config.iou_mode, config.batch_size, config.workers, partners)
    own, *random = counts
    rows = tally_rows(own, broden)
    found = interpretable(rows, config.score_threshold)
    message = "%s: %d of %d units interpretable (IoU >= %g, %s), %d unique detectors"
    detectors = len(unique_detectors(found))
    log.info(message, layer, len(found), len(rows), config.score_threshold, config.iou_mode, detectors)
    agreement = agreement_rows(rows, own, summary.peaks, presence, broden)
    log.info("%s: %s", layer, describe(agreement))
    if not random:
        return DissectedLayer(layer, summary, rows, agreement, None)
    chance = chance_summary(rows, chance_scores(random, broden), config.score_threshold)
    message = "%s: %d units above the 95th percentile of chance (IoU %.4f)"
    log.info(message, layer, chance["units_above_95"], chance["null_95"])
    return DissectedLayer(layer, summary, rows, agreement, chance)


def _cache_keys(
    model: nn.Module, broden: Broden, given: Mapping[str, np.ndarray | None], config: PassConfig
) -> dict[str, MadeOf]:
    """By layer, all that its summary depends on, with the thresholds `given` for it, if any."""
    files: MadeOf = {"images": files_fingerprint(broden)}
    if not config.compile:  # one who lets the network be compiled may get maps of either kind
        files["compiled"] = False
    weights = weights_fingerprint(model)
    return {
        layer: {**of_activations(weights, layer, config.preprocess, config.quantile, thresholds), **files}
        for layer, thresholds in given.items()
    }


def _load(folder: Path, key: MadeOf, units: int, images: int) -> LayerSummary[StoredMaps] | None:
    """The summary of an earlier run, if every process can read it."""
    stored, reason = cache.load(folder, key, units, images)
    readable = all(distributed.all_gather(stored is not None))
    if reason:
        log.info("%s: not reusing %s, which %s", key["layer"], folder, reason)
    if not readable:
        return None
    log.info("%s: reusing the activations in %s", key["layer"], folder)
    return stored


def _pass(
    model: nn.Module,
    broden: Broden,
    layouts: Mapping[str, MapLayout],
    activities: Mapping[str, LayerActivity],
    config: PassConfig,
) -> bool:
    """Run all images through the network, and record what the layers do. Returns whether it was compiled."""
    own = {layer: layouts[layer] for layer in activities}
    forward = Forward(model, list(own), config.compile)
    stream = stream_features(forward, own, broden, config.preprocess, config.batch_size, config.workers)
    for indices, maps in stream:
        for layer, activity in activities.items():
            activity.add(indices, maps[layer])  # (B, U, h, w)
    return forward.compiled
