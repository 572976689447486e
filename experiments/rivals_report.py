"""What the rows of `experiments.rivals` say: a figure, tables, and the sentence that they support."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.readings import ACCURACY, CHOICE, MARGIN, Reading, verdict
from experiments.results import Interval, interval, paired, select
from experiments.rivals import CLASSES, DATASET, ENOUGH, HELD_OUT, IMAGES, MASKED, Job, K
from experiments.tables import Column, Rows, shown, table
from util.plots import STYLES, save_figure

COLUMNS = [
    Column("top-1, %", "top1"),
    Column("predicts as dense, %", "dense_agreement"),
    Column("predicts as DKA, %", "dka_agreement"),
    Column("units per class", "units_per_class"),
    Column("weights per class", "weights_per_class"),
    Column("s", "seconds"),
]
TITLES = {
    "dense": "dense",
    "dka": "DKA",
    "dka, frozen": "DKA, frozen to its K largest weights",
    "dka, frozen, trained": "DKA, frozen to its K largest weights, then trained",
    "pruned": "dense, its K weights of largest absolute value",
    "pruned, trained": "dense, its K weights of largest absolute value, then trained",
    "pruned gradually": "pruned gradually while trained (Zhu and Gupta 2017)",
    "largest mean votes, trained": "dense, its K units of largest mean votes, then trained",
    "elastic net": "elastic net, at least K weights per class",
    "elastic net, trained": "elastic net at 2 K, its K largest weights, then trained",
    "top activations": "dense on the K most active units of each image",
}
AXES = {  # field of a job: (its name, what it is set to while another one varies)
    "k": ("K", K),
    "classes": ("classes", CLASSES),
    "images": ("training images per class", IMAGES),
}


class Gain(NamedTuple):
    """What choosing per image is worth.

    Attributes:
        rival: the head whose fixed choice of K weights per class has the best mean accuracy.
        points: DKA minus that head, of pairs of the same seed, percentage points of top-1.
    """

    rival: str
    points: Interval

    @property
    def verdict(self) -> str:
        """'pays' or 'does not pay' if the whole interval is on one side of 0, else 'cannot tell'; or 'one seed'."""
        if self.points.seeds == 1:
            return "one seed"
        return "pays" if self.points.low > 0 else "does not pay" if self.points.high < 0 else "cannot tell"


def gain(rows: Rows) -> Gain:
    """DKA against the best fixed mask, of rows that differ in head and seed only."""
    rival = best_mask(rows)
    return Gain(rival, paired(select(rows, head="dka"), select(rows, head=rival), "top1"))


def best_mask(rows: Rows) -> str:
    """The head of the best mean accuracy among those whose K units per class are fixed."""
    return max(MASKED, key=lambda name: interval(row["top1"] for row in select(rows, head=name)).mean)


def along(rows: Rows, field: str) -> dict[int, Rows]:
    """The rows in which only one field of `Job` varies beside head and seed, by its value."""
    fixed = {name: value for name, (_, value) in AXES.items() if name != field}
    own = select(rows, **fixed)
    return {value: select(own, **{field: value}) for value in sorted({row[field] for row in own})}


def sentence(rows: Rows) -> str:
    """When choosing votes per image pays, as far as the rows tell."""
    found = gain(main_rows(rows))
    cases: dict[str, dict[str, list[str]]] = {}  # {verdict: {what is varied: its values}}
    for field, (title, usual) in AXES.items():
        for value, own in along(rows, field).items():
            if value != usual:
                cases.setdefault(gain(own).verdict, {}).setdefault(title, []).append(str(value))
    others = sum(len(values) for found in cases.values() for values in found.values())

    def listed(answer: str) -> str:
        return "; ".join(f"{title} = {', '.join(values)}" for title, values in cases.get(answer, {}).items()) or "none"

    texts = [
        f"**Choosing votes per image, behind frozen features: {found.verdict}.** With {CLASSES} classes, {IMAGES} "
        f"training images of each and K = {K}, DKA minus the best fixed choice of as many weights "
        f"({TITLES[found.rival]}) is {shown(found.points, 1)} points of top-1 ({found.points.seeds} seeds).",
        f"In {others} other settings one of the three is varied. It pays: {listed('pays')}. It does not pay: "
        f"{listed('does not pay')}. These rows cannot tell: {listed('cannot tell')}. One interval of "
        "95 % in twenty misses by chance, so a verdict on one setting alone is worth little.",
        *([f"One seed only: {listed('one seed')}."] if "one seed" in cases else []),
    ]
    return " ".join(texts)


def main_rows(rows: Rows) -> Rows:
    """Those of the setting from which one field at a time is varied."""
    return select(rows, **{name: value for name, (_, value) in AXES.items()})


def claims_decided(rows: Iterable[dict[str, Any]]) -> list[Reading]:
    """The claims that these rows decide, for the table of verdicts; nothing without rows."""
    main = main_rows(select(rows, dataset=DATASET))
    if not main:
        return []
    found = gain(main)
    text = f"K = {K}, {CLASSES} classes: {shown(found.points)} points of top-1 above the best fixed choice"
    control = f"{TITLES[found.rival]}: the best of {len(MASKED)} trained fixed choices of as many weights"
    lost = paired(select(main, head="dka"), select(main, head="dense"), "top1")
    number = f"K = {K}, {CLASSES} classes: {shown(lost)} points (holds if the whole interval is above -{MARGIN:g})"
    data = "Tiny-ImageNet, frozen features"
    return [
        Reading(CHOICE, data, verdict(found.points), text, control),
        Reading(ACCURACY, data, verdict(lost, margin=MARGIN), number, "a dense head, same features, tuning and seed"),
    ]


def gains_table(rows: Rows) -> str:
    """A line per setting: dense, DKA, the best fixed mask, and the paired difference."""
    lines = [["", "seeds", "dense", "DKA", "best fixed choice of K weights", "which", "DKA minus that", "verdict"]]
    lines.append(["---", "---:", "---:", "---:", "---:", "---", "---:", "---"])
    for field, (title, _) in AXES.items():
        for value, own in along(rows, field).items():
            found = gain(own)
            top1 = [shown(interval(row["top1"] for row in select(own, head=name))) for name in ("dense", "dka")]
            best = shown(interval(row["top1"] for row in select(own, head=found.rival)))
            seeds = str(found.points.seeds)
            lines.append([f"{title} = {value}", seeds, *top1, best, found.rival, shown(found.points), found.verdict])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(rows: Iterable[dict[str, Any]]) -> str:
    """The Markdown section; '' without rows."""
    rows = select(rows, dataset=DATASET)
    main = main_rows(rows)
    if not main:
        return ""
    heads = [(TITLES[name], select(main, head=name)) for name in TITLES]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    jobs = {tuple(row[field.name] for field in fields(Job)) for row in rows}
    return f"""## When does choosing votes per image pay?

{sentence(rows)}

`experiments/rivals.py` compares heads on the features that EfficientNet-Lite0 with its ImageNet weights has for
Tiny-ImageNet at 128 px, without flips; the network stays as it is. All heads see the same features as they come (the
elastic nets standardise them for their fit), the same images, seeds, optimizer (Adam, linear decay) and number of
epochs to choose from; all but the elastic nets start from the weights of the dense head. Learning rate and epochs were
chosen for each by the same procedure, at K = {K}, on {HELD_OUT} training images of each class on which no head is
trained, for each number of classes and of images up to {IMAGES}: three learning rates, more while the best is at an
edge, then longer trainings while they gain {ENOUGH} points. Validation images were looked at for the tables only.

- A seed draws the classes and the images where these are not all, first weights, and the order of images. With
  {CLASSES} classes and {IMAGES} or 270 images it draws no data: those intervals are narrower than for new data. All
  smaller numbers of images are drawn from the same {IMAGES} of each class.
- Recipes were chosen at K = {K} and used for every K: at K = 1 and 2 a head may be trained badly.
- The best fixed choice is the one with the best mean on the validation images, which favours it.
- A DKA head stores all N weights of a class and adds K votes; a fixed choice stores K weights. K = N is the dense head.
- Of the {K} weights of largest absolute value of a class of the dense head, 99.9 % are negative (seed 0): they tell
  what a class is not, and few images have them. That is why pruning by magnitude fails here.
- The network was trained on ImageNet, of which these classes and perhaps these images are a part.
- One network, one data set, frozen features. Where the last convolution trains along, a DKA head loses little to a
  dense one ([Your own network](YOUR_NETWORK.md#weights-that-you-have)); trained fixed choices were not run there.

{len(jobs)} trainings of all heads, commit {commits}.

### All heads, {CLASSES} classes, {IMAGES} training images of each, K = {K}

{table(heads, COLUMNS)}

Units per class: different units in the scores of the images that are predicted as a class. Seconds are of a head's own
training, beside other work.

### Against K, classes and training images

{gains_table(rows)}

![Top-1 against K, classes and training images per class](results/rivals.png)
"""


# --- the figure ---------------------------------------------------------------------------------------------------


def plot(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Top-1 of four kinds of heads against K, classes and training images, with intervals."""
    rows = select(rows, dataset=DATASET)
    figure = Figure(figsize=(12.5, 3.6), layout="constrained", dpi=140)
    for axis, (field, (title, _)) in zip(figure.subplots(1, len(AXES)), AXES.items(), strict=True):
        by_value = along(rows, field)
        for style, (label, name) in zip(STYLES, LINES.items(), strict=False):
            _line(axis, by_value, name, (label, *style))
        axis.set_xscale("log")
        axis.set_xticks(list(by_value), [str(value) for value in by_value])
        axis.minorticks_off()
        axis.set_xlabel(title)
        axis.set_ylim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("top-1, %")
    first.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


LINES = {
    "DKA, K votes per image": "dka",
    "dense": "dense",
    "best fixed choice of K weights per class": None,
    "K most active units, the same for all classes": "top activations",
}


def _line(axis: Axes, by_value: dict[int, Rows], name: str | None, look: tuple[str, str, str]) -> None:
    """A head's accuracy against the values; None is the best fixed mask at each; `look` is label, colour and style."""
    label, colour, style = look
    found = [interval(row["top1"] for row in select(own, head=name or best_mask(own))) for own in by_value.values()]
    halves = [value.half if value.seeds > 1 else 0.0 for value in found]
    means = [value.mean for value in found]
    axis.errorbar(list(by_value), means, halves, fmt=style, color=colour, capsize=3, markersize=4, label=label)
