"""What the rows say about each of the paper's claims, by rules that stand here."""

import math
from collections.abc import Callable

from experiments.plan import ABLATED_K, KS
from experiments.results import Interval, interval, less, paired, select
from experiments.tables import NAMES, Rows, groups, shown

MARGIN = 1.0  # points of accuracy that a network may lose and still count as no worse
STATIC = 0.95  # overlap within classes from which routes count as static


def readings(rows: Rows) -> str:
    """All claims, as far as there are rows for them."""
    lines: list[str] = []
    for dataset in NAMES:
        own = select(rows, dataset=dataset, variant="")
        dense = select(own, head="dense")

        def dka(k: int, own: Rows = own) -> Rows:
            return select(own, head="dka", k=k)

        if not dense or not dka(ABLATED_K):
            continue
        lines += [read_accuracy(dataset, dense, dka), read_completeness(dataset, dense, dka)]
        if "lite_interpretable" in dense[0]:
            lines.append(read_concepts(dense, dka))
        lines += [*read_routes(dataset, dka), read_static(dataset, own, dka)]
        lines.append(read_faithfulness(dataset, dka, dense))
        if "present" in dense[0]:
            lines.append(read_pointing(dense, dka))
    return "\n".join(lines)


def verdict(difference: Interval, better: float = 1.0, margin: float = 0.0) -> str:
    """'holds' or 'does not hold' if a difference's whole interval is on one side of a margin, else 'cannot tell'."""
    low, high = sorted((difference.low * better, difference.high * better))
    if math.isnan(low):
        return "cannot tell"
    return "holds" if low > -margin else "does not hold" if high <= -margin else "cannot tell"


def reading(title: str, answer: str, why: str) -> str:
    """A claim, its verdict, and the numbers."""
    return f"- **{title}: {answer}.** {why}"


def read_accuracy(dataset: str, dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Claim 1."""
    difference = paired(dka(ABLATED_K), dense, "top1")
    others = ", ".join(f"{paired(dka(k), dense, 'top1').mean:+.2f} (K = {k})" for k in KS if k != ABLATED_K)
    return reading(
        f"No loss of accuracy, {NAMES[dataset]}",
        verdict(difference, margin=MARGIN),
        f"K = {ABLATED_K} minus the dense head of the same seed: {shown(difference, 2)} points (holds if the whole "
        f"interval is above -{MARGIN:g}). Means of the others: {others}.",
    )


def read_completeness(dataset: str, dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Claim 2."""
    own, other = interval(row["residual"] for row in dka(ABLATED_K)), interval(row["residual"] for row in dense)
    units = interval(row["active_units"] for row in dka(ABLATED_K))
    many = interval(row["active_units"] for row in dense)
    return reading(
        f"Each prediction is explained completely by few units, {NAMES[dataset]}",
        verdict(paired(dka(ABLATED_K), dense, "residual"), better=-1),
        f"K = {ABLATED_K}: {shown(units)} units take part in a prediction, and {shown(own, 1, 100)} % of its votes are "
        f"beyond the four largest; dense: {shown(many)} units and {shown(other, 1, 100)} %.",
    )


def read_concepts(dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Claim 3."""
    names = {
        "lite_interpretable": "interpretable units",
        "lite_unique": "unique detectors",
        "lite_above_chance": "units above chance",
        "lite_best_iou": "mean best IoU",
    }
    differences = {metric: paired(dka(ABLATED_K), dense, metric) for metric in names}
    answers = {metric: verdict(difference) for metric, difference in differences.items()}
    listed = "; ".join(
        f"{names[metric]} {shown(difference, 4 if metric == 'lite_best_iou' else 1)} ({answers[metric]})"
        for metric, difference in differences.items()
    )
    return reading(
        "Units align better with human concepts, mini_places",
        answers["lite_interpretable"],
        f"K = {ABLATED_K} minus the dense head of the same seed: {listed}.",
    )


def read_routes(dataset: str, dka: Callable[[int], Rows]) -> list[str]:
    """Claim 4, in two parts: routes are shared within a class, and yet dynamic."""
    rows = dka(ABLATED_K)
    within, between = (interval(row[f"overlap_{kind}"] for row in rows) for kind in ("within", "between"))
    per_class, total = (interval(row[name] for row in rows) for name in ("units_per_class", "units_total"))
    difference = interval(row["overlap_within"] - row["overlap_between"] for row in rows)
    numbers = f"K = {ABLATED_K}: two images of a class share {shown(within, 1, 100)} % of their units"
    dynamic = "cannot tell"
    if not math.isnan(within.low):
        dynamic = "holds" if within.high < STATIC else "does not hold" if within.low >= STATIC else "cannot tell"
    return [
        reading(
            f"Routes are shared within a class, {NAMES[dataset]}",
            verdict(difference),
            f"{numbers}, of two classes {shown(between, 1, 100)} %.",
        ),
        reading(
            f"Routes are dynamic, {NAMES[dataset]}",
            dynamic,
            f"{numbers} ({100 * STATIC:g} % or more counts as static); the images of a class use "
            f"{shown(per_class)} units together, all classes {shown(total)}.",
        ),
    ]


def read_static(dataset: str, rows: Rows, dka: Callable[[int], Rows]) -> str:
    """Dynamic against static sparsity."""
    parts = []
    for k in KS[:-1]:
        rival = select(rows, head="pruned", k=k)
        if rival:
            parts.append(f"{paired(dka(k), rival, 'top1').mean:+.1f} (K = {k})")
    nets = [
        (interval(row["weights_per_class"] for row in own), interval(row["top1"] for row in own))
        for name, own in groups(select(rows, head="elastic net"))
    ]
    listed = ", ".join(f"{accuracy.mean:.1f} % with {weights.mean:.0f}" for weights, accuracy in nets)
    return reading(
        f"Dynamic sparsity is better than static, {NAMES[dataset]}",
        verdict(paired(dka(ABLATED_K), select(rows, head="pruned", k=ABLATED_K), "top1")),
        f"Top-1 of DKA minus that of the dense network pruned to as many weights per class, means: "
        f"{', '.join(parts)}. The elastic net on the dense network's features reaches {listed} weights per class; DKA "
        f"with K = {ABLATED_K} reaches {interval(row['top1'] for row in dka(ABLATED_K)).mean:.1f} %.",
    )


def read_faithfulness(dataset: str, dka: Callable[[int], Rows], dense: Rows) -> str:
    """Whether predictions depend on the units with the largest votes."""
    own = interval(row["random_deletion"] - row["deletion"] for row in dka(ABLATED_K))
    of_dense = interval(row["random_deletion"] - row["deletion"] for row in dense)
    return reading(
        f"Predictions depend on the units that explanations name, {NAMES[dataset]}",
        verdict(own),
        f"Silencing the units of the five largest votes reduces the area under the class's probability by "
        f"{shown(own, 3)} more than silencing five active units drawn at random (K = {ABLATED_K}); "
        f"with the dense head, by {shown(of_dense, 3)} more.",
    )


def read_pointing(dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Named concepts against the images' own labels."""

    def gain(rows: Rows, metric: str) -> Interval:
        return interval(less(row[metric], row[f"{metric}_by_chance"]) for row in rows)

    own, other = gain(dka(ABLATED_K), "present"), gain(dense, "present")
    point, other_point = gain(dka(ABLATED_K), "pointing"), gain(dense, "pointing")
    difference = interval(
        [
            less(row["present"], row["present_by_chance"]) - less(match["present"], match["present_by_chance"])
            for row in dka(ABLATED_K)
            for match in dense
            if match["seed"] == row["seed"]
        ]
    )
    return reading(
        "Named concepts are in the image more often than those of a dense head's five largest votes, mini_places",
        verdict(difference),
        f"{shown(own, 1, 100)} points above chance with K = {ABLATED_K}, {shown(other, 1, 100)} with the dense head. "
        f"The heat map's peak lies on the concept {shown(point, 1, 100)} and {shown(other_point, 1, 100)} points more "
        f"often than the concept's area would predict.",
    )
