"""The network to explain: a snapshot, and the tally that names its units, if it is this network's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

import settings
from explain.images import Classifier
from explain.inputs import misfit
from explain.naming import Concept
from explain.tally import read_made_of, read_tally
from models import DENSE_MARK, Head, load_snapshot, parse_mark
from models.snapshot import read_checkpoint, weights_fingerprint
from util.cli import UserError
from util.files import display_path, regular_file
from util.made_of import MadeOf
from util.text import say


@dataclass(frozen=True)
class Tally:
    """The tally that names a network's units.

    Attributes:
        file: tally.csv; None without one.
        concepts: what the units respond to, by number from 1.
        made_of: its record; None if it has none.
    """

    file: Path | None = None
    concepts: Mapping[int, Concept] = field(default_factory=dict)
    made_of: MadeOf | None = None


@dataclass(frozen=True)
class Network:
    """The network to explain.

    Attributes:
        classifier: the model, in eval mode, its head and its map.
        about: the snapshot's metadata.
        file: the snapshot.
        weights: fingerprint of its weights.
        tally: names its units.
        notices: what a reader must know before trusting the names of classes and units, in sentences.
        trained_topk: K that the network was trained with; None for a dense head, or where the snapshot does not say.
    """

    classifier: Classifier
    about: dict[str, Any]
    file: Path
    weights: str
    tally: Tally
    notices: list[str]
    trained_topk: int | None = None

    @property
    def head(self) -> Head:
        """The model's head."""
        return self.classifier.head

    @property
    def model(self) -> nn.Module:
        """Images (B, 3, H, W) -> scores (B, C)."""
        return self.classifier.model


def load_network(
    file: Path, arch: str | None, mark: str | None, finetune: str | None, topk: int | None = None
) -> Network:
    """The network of a snapshot, on the CPU, without names of its units.

    Args:
        file: the snapshot.
        arch: its architecture; None: as it says.
        mark: of the command line; None: as the snapshot says.
        finetune: the file of the weights that a slim snapshot lacks; None: its architecture brings them.
        topk: K of the head, whatever the mark and the snapshot say; None: as they say.

    Raises:
        UserError: if the files cannot be read, or do not fit each other, the mark or K.
    """
    k = parse_mark(mark) if topk is None and mark not in (None, DENSE_MARK) else topk
    model, about = load_snapshot(file, arch, k, finetune and regular_file(finetune, "snapshot"))
    trained = about["topk"] if k is None else _saved_topk(file, about)
    network = Network(Classifier.of(model), about, file, weights_fingerprint(model), Tally(), [], trained)
    check_k(network, mark, topk)
    return network


def _saved_topk(file: Path, about: dict[str, Any]) -> int | None:
    """K in a snapshot with these metadata, whose `topk` may be another; None for a dense head, or if it has none."""
    saved = read_checkpoint(file).get("topk")
    return saved if type(saved) is int and about["topk"] is not None else None


def with_tally(network: Network, nd_result: str | None, own_tally: Path | None) -> Network:
    """The network with names of its units; says what is explained, and by which names.

    Args:
        network: without names.
        nd_result: the tally that the user names; None without one.
        own_tally: the tally of the snapshot's run, if it has one.

    Raises:
        UserError: if the tally cannot be read, or the one that the user names does not fit.
    """
    file = nd_result or own_tally
    tally = read_units(network, Path(file), given=nd_result is not None) if file else Tally()
    if tally.file:
        say(f"units: {display_path(tally.file)}")
    else:
        say("no tally: units have numbers only; netdissect/main.py names them, --nd_result takes its tally.csv")
    arch, topk = network.about["arch"], network.about["topk"]
    say(f"model: {display_path(network.file)}, {arch}, K = {topk or 'all (dense head)'}")
    if not network.classifier.feature_map.direct:
        say(f"maps: {network.classifier.feature_map.about}")
    return replace(network, tally=tally)


def load_compared(file: Path) -> Network:
    """The network of --compare, as its snapshot says, on the CPU; says what it is, and how its units are named.

    Its tally is one that was made of it, and lies beside the snapshot or in the result folder of its run.

    Raises:
        UserError: if a file cannot be read.
    """
    network = load_network(file, None, None, None)
    tally = _tally_of_run(network)
    arch, topk = network.about["arch"], network.about["topk"]
    named = f"units: {display_path(tally.file)}" if tally.file else "no tally of its own: units have numbers only"
    say(f"compared with: {display_path(file)}, {arch}, K = {topk or 'all (dense head)'}; {named}")
    return replace(network, tally=tally)


def _tally_of_run(network: Network) -> Tally:
    """The tally near a snapshot whose record names this network and layer; one without a record may be another's."""
    folder = network.file.resolve().parent  # snapshot/<run>
    results = folder.parent.parent / settings.RESULT_ROOT / folder.name
    for file in (folder / "tally.csv", results / "netdissect" / "tally.csv"):
        made_of = read_made_of(file) if file.is_file() else None
        if made_of is not None and not misfit(made_of, network.weights, network.classifier.feature_map.layer):
            return read_units(network, file, given=False)
    return Tally()


def check_k(network: Network, mark: str | None, topk: int | None) -> None:
    """Compare --mark and --topk with the snapshot's head; they may name another K, with a notice.

    Raises:
        UserError: if one is dense and the other is not.
    """
    k = network.about["topk"]
    named = [(f"--mark {mark}", mark == DENSE_MARK)] if mark else []
    named += [(f"--topk {topk}", False)] if topk else []
    for flag, dense in named:
        name = flag.split()[0]
        if k is None and not dense:
            raise UserError(f"{flag}: {network.file} has a dense head, which has no K: leave {name} out")
        if k is not None and dense:
            raise UserError(f"{flag}: {network.file} has a head of K = {k}: leave {name} out")
    if network.trained_topk not in (None, k):
        flag = named[-1][0].split()[0]
        note(network.notices, f"K = {k}, as {flag} says; the network was trained with K = {network.trained_topk}")


def read_units(network: Network, file: Path, given: bool) -> Tally:
    """Read a tally, if it is the network's.

    Args:
        network: gets the notices.
        file: the tally.
        given: by the user, to whom it is an error if it does not fit; one that was found is left out, with a notice.

    Raises:
        UserError: if the file cannot be read, or a given one was made of another snapshot or layer.
    """
    regular_file(file, "tally")
    made_of = read_made_of(file)
    fault = None if made_of is None else misfit(made_of, network.weights, network.classifier.feature_map.layer)
    if fault and given:
        raise UserError(
            f"tally {file}: it was made of {fault}, not of {network.file}: run netdissect/main.py --model_file "
            f"{network.file}, or name the tally's own snapshot by --modelfile"
        )
    if fault:
        note(network.notices, f"the tally {display_path(file)} is left out: it was made of {fault}")
        return Tally()
    rows = read_tally(file, units=network.head.in_features)
    if made_of is None:
        note(network.notices, f"the origin of the tally {display_path(file)} is unknown: it may be another network's")
    return Tally(file, {row.unit: row for row in rows}, made_of)


def note(notices: list[str], notice: str | None) -> None:
    """Print a notice, if there is one, and add it to those that the pages show."""
    if notice:
        say(f"notice: {notice}")
        notices.append(notice)
