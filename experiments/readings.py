"""What the rows say about each of the paper's claims, by rules that stand here: a table of verdicts."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from experiments.plan import ABLATED_K
from experiments.results import Interval, interval, less, paired, select
from experiments.tables import NAMES, Rows, markdown, shown

MARGIN = 1.0  # points of accuracy that a network may lose and still count as no worse
REASONS = 4.0  # of five units: how many different ones they must be worth to count as different reasons
ACCURACY = "No loss of accuracy"
CHOICE = "Choosing votes per image beats fixed weights"
BY_CONSTRUCTION = "holds by construction"  # whatever the weights are: nothing that could be measured could refute it


class Reading(NamedTuple):
    """A claim on one data set.

    Attributes:
        claim, data: in words.
        verdict: 'holds', 'does not hold', 'cannot tell' or `BY_CONSTRUCTION`.
        number: the one that decides, with its interval.
        control: what it is compared with, which could have won.
    """

    claim: str
    data: str
    verdict: str
    number: str
    control: str


class Heads(NamedTuple):
    """A data set's rows: of the dense head, of the DKA head of K = 5, and all of them."""

    dense: Rows
    dka: Rows
    all: Rows


def readings(rows: Rows) -> list[Reading]:
    """All claims, as far as there are rows for them."""
    found: list[Reading] = []
    for dataset in NAMES:
        own = select(rows, dataset=dataset, variant="")
        heads = Heads(select(own, head="dense"), select(own, head="dka", k=ABLATED_K), own)
        if heads.dense and heads.dka:
            found += [read(NAMES[dataset], heads) for read in READERS]
            controlled = [row for row in heads.dka if "frozen_agreement" in row]  # earlier rows lack the controls
            if controlled:
                found += [read(NAMES[dataset], heads._replace(dka=controlled)) for read in READERS_OF_CONTROLS]
            if "lite_interpretable" in heads.dense[0]:
                found += read_concepts(NAMES[dataset], heads)
            if "present" in heads.dense[0]:
                found += [read_names(NAMES[dataset], heads), read_presence(NAMES[dataset], heads)]
    return found


def read_photographs(rows: Rows) -> list[Reading]:
    """Claim 3 where scenes can register: one network each, hence no interval and no verdict."""
    found = {kind: row for row in rows for kind in PHOTOGRAPHED if PHOTOGRAPHED[kind] in row["network"]}
    if len(found) < len(PHOTOGRAPHED):
        return []
    return [
        Reading(
            f"Units align better with concepts: {name}",
            "photographs of concepts",
            "cannot tell",
            "; ".join(f"{kind}: {found[kind][metric]}" for kind in PHOTOGRAPHED) + " of 512 units",
            "a dense head, same training and seed, and a network never trained; one network each, so no interval",
        )
        for metric, name in (("interpretable", "interpretable units"), ("unique", "unique detectors"))
    ]


PHOTOGRAPHED = {  # what the networks that are compared have in their names
    f"K = {ABLATED_K}": f"ResNet-18, Tiny-ImageNet (K = {ABLATED_K}",
    "dense": "ResNet-18, Tiny-ImageNet (dense",
    "untrained": "ResNet-18, untrained",
}


def overview(found: list[Reading]) -> str:
    """A Markdown table of the verdicts alone: a line per claim, a column per data set."""
    by_claim: dict[str, dict[str, str]] = {}
    for reading in found:
        by_claim.setdefault(reading.claim, {})[reading.data] = reading.verdict
    data = list(dict.fromkeys(reading.data for reading in found))
    lines = [[claim, *(verdicts.get(name, "") for name in data)] for claim, verdicts in by_claim.items()]
    return markdown(["claim", *data], lines, left=1 + len(data))


def verdict_table(found: list[Reading]) -> str:
    """A Markdown table, the readings of one claim together."""
    claims = list(dict.fromkeys(reading.claim for reading in found))
    ordered = sorted(found, key=lambda reading: claims.index(reading.claim))
    lines = [[one.claim, one.data, f"**{one.verdict}**", one.number, one.control] for one in ordered]
    return markdown(["claim", "data", "verdict", "the number that decides", "its control"], lines, left=5)


def verdict(difference: Interval, better: float = 1.0, margin: float = 0.0) -> str:
    """'holds' or 'does not hold' if a difference's whole interval is on one side of a margin, else 'cannot tell'."""
    low, high = sorted((difference.low * better, difference.high * better))
    if math.isnan(low):
        return "cannot tell"
    return "holds" if low > -margin else "does not hold" if high <= -margin else "cannot tell"


def read_accuracy(data: str, heads: Heads) -> Reading:
    """Claim 1."""
    difference = paired(heads.dka, heads.dense, "top1")
    return Reading(
        ACCURACY,
        data,
        verdict(difference, margin=MARGIN),
        f"K = {ABLATED_K}: {shown(difference, 2)} points (holds if the whole interval is above -{MARGIN:g})",
        "a dense head, same training and seed",
    )


def read_completeness(data: str, heads: Heads) -> Reading:
    """Claim 2: true of any weights, since the score is defined as that sum."""
    units = interval(row["active_units"] for row in heads.dka)
    many = interval(row["active_units"] for row in heads.dense)
    return Reading(
        "Each prediction is explained completely by few units",
        data,
        BY_CONSTRUCTION,
        f"{shown(units)} units take part in a prediction; dense: {shown(many)}",
        "none: K votes and the bias are the score",
    )


def read_sharing(data: str, heads: Heads) -> Reading:
    """Claim 4, its first half."""
    difference = interval(row["overlap_within"] - row["overlap_between"] for row in heads.dka)
    return Reading(
        "Routes are shared within a class",
        data,
        verdict(difference),
        f"two images of a class share {shown(difference, 1, 100)} points more of their units than two of others",
        "images of two classes, whose votes have other weights: it can hardly win, and fixed heads pass too",
    )


def read_dynamics(data: str, heads: Heads) -> Reading:
    """Claim 4, its second half. A fixed head's units fall silent too, so its routes differ as well."""
    fixed = select(heads.all, head="pruned", k=ABLATED_K)
    within, theirs = (interval(row["overlap_within"] for row in rows) for rows in (heads.dka, fixed))
    return Reading(
        "Routes are dynamic",
        data,
        verdict(paired(heads.dka, fixed, "overlap_within"), better=-1),
        f"two images of a class share {shown(within, 1, 100)} % of their units; with fixed weights: "
        f"{shown(theirs, 1, 100)} % (holds if the whole interval of the difference is below 0)",
        "the dense head pruned to as many weights of largest absolute value, whose units are not always active either",
    )


def read_static(data: str, heads: Heads) -> Reading:
    """Dynamic against static sparsity of the same weights: a control that is no worse if routes are static.

    It was not trained as a static head, so it can refute the claim, and cannot support it.
    """
    difference = interval(less(row["top1"], row.get("top1_frozen")) for row in heads.dka)
    same = interval(row.get("frozen_agreement", math.nan) for row in heads.dka)
    return Reading(
        CHOICE,
        data,
        "does not hold" if verdict(difference) == "does not hold" else "cannot tell",
        f"K = {ABLATED_K}: {shown(difference, 2)} points of top-1 above the same head with fixed weights; "
        f"both predict the same in {shown(same, 1, 100)} % of images",
        "the head frozen to its K largest weights of each class; not trained further, it can refute, but not support",
    )


def read_faithfulness(data: str, heads: Heads) -> Reading:
    """Whether predictions depend on the units with the largest votes, more than those of a dense head do."""
    own, dense = ([less(row["random_deletion"], row["deletion"]) for row in rows] for rows in (heads.dka, heads.dense))
    return Reading(
        "Predictions depend on the units that explanations name",
        data,
        BY_CONSTRUCTION,
        f"silencing the five largest votes: area under the probability {shown(interval(own), 3)} lower than with five "
        f"random active units; dense: {shown(interval(dense), 3)}",
        "none for K = 5, where random units are seldom in the route; the dense head shows what is not by construction",
    )


def read_activity(data: str, heads: Heads) -> Reading:
    """How much more the largest votes say than the largest activations, which need no weights."""
    areas = (interval(row[f"{kind}deletion"] for row in heads.dka) for kind in ("active_", "", "random_"))
    active, votes, random = (shown(area, 3) for area in areas)
    return Reading(
        "The largest votes matter more than the most active units",
        data,
        BY_CONSTRUCTION,
        f"silencing the most active units: area under the probability {active}; the largest votes: {votes}; active "
        f"units at random: {random}",
        "the five most active units; those among them that are outside the route cannot count",
    )


def read_variety(data: str, heads: Heads) -> Reading:
    """Whether five units are five reasons."""
    own, dense = (interval(row.get("effective_units", math.nan) for row in rows) for rows in (heads.dka, heads.dense))
    most = max(row.get("effective_units") or 0.0 for row in heads.all)
    return Reading(
        "The units of an explanation are different reasons",
        data,
        verdict(Interval(own.mean - REASONS, own.low - REASONS, own.high - REASONS, own.seeds)),
        f"the five largest votes are worth {shown(own, 2)} different units (holds if the whole interval is above "
        f"{REASONS:g}); dense: {shown(dense, 2)}",
        f"five units that do not correlate are worth 5; no head that was measured comes above {most:.2f}",
    )


READERS: tuple[Callable[[str, Heads], Reading], ...] = (
    read_accuracy,
    read_completeness,
    read_sharing,
    read_dynamics,
    read_faithfulness,
)
READERS_OF_CONTROLS = (read_static, read_activity, read_variety)


def read_concepts(data: str, heads: Heads) -> Iterator[Reading]:
    """Claim 3, by four measures."""
    names = {
        "lite_interpretable": ("interpretable units", 1),
        "lite_unique": ("unique detectors", 1),
        "lite_above_chance": ("units above chance", 1),
        "lite_best_iou": ("mean best IoU", 4),
    }
    for metric, (name, decimals) in names.items():
        difference = paired(heads.dka, heads.dense, metric)
        yield Reading(
            f"Units align better with concepts: {name}",
            data,
            verdict(difference),
            f"K = {ABLATED_K}: {shown(difference, decimals)} of 512 units" if decimals == 1 else shown(difference, 4),
            "a dense head, same training and seed",
        )


def read_names(data: str, heads: Heads) -> Reading:
    """Claim 3 of the units that explanations show, not of all."""
    own, dense = (interval(row["named"] for row in rows) for rows in (heads.dka, heads.dense))
    return Reading(
        "Units align better with concepts: units shown that have a name",
        data,
        verdict(paired(heads.dka, heads.dense, "named")),
        f"K = {ABLATED_K}: {shown(own, 1, 100)} %; dense: {shown(dense, 1, 100)} %",
        "the dense head's five largest votes",
    )


def read_presence(data: str, heads: Heads) -> Reading:
    """Named concepts against the images' own labels."""

    def gain(row: dict) -> float:
        return less(row["present"], row["present_by_chance"])

    dense = {row["seed"]: gain(row) for row in heads.dense}
    difference = interval(less(gain(row), dense.get(row["seed"])) for row in heads.dka)
    return Reading(
        "Named concepts are in the image",
        data,
        verdict(difference),
        f"K = {ABLATED_K}: {shown(difference, 1, 100)} points further above chance than the dense head's five largest",
        "the dense head's five largest votes",
    )
