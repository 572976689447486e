"""What the rows of `experiments.rivals` say: a figure, tables, and the sentence that they support."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.heads import Recipe
from experiments.readings import ACCURACY, CHOICE, MARGIN, Reading, verdict
from experiments.results import Interval, interval, paired, select
from experiments.rivals import ENOUGH, LONGER, LRS, MOST_LENGTHS, SHORT, TUNING, choose
from experiments.rivals_heads import MASKED, TRAINED
from experiments.rivals_jobs import BEHIND, CLASSES, DATASET, HELD_OUT, IMAGES, Job, K
from experiments.tables import Column, Rows, shown, table
from models.cut import TRUNK
from util.plots import STYLES, save_figure
from util.text import counted

COLUMNS = [
    Column("top-1, %", "top1"),
    Column("predicts as dense, %", "dense_agreement"),
    Column("predicts as DKA, %", "dka_agreement"),
    Column("units per class", "units_per_class"),
    Column("weights per class", "weights_per_class"),
]
TITLES = {
    "dense": "dense",
    "dense, trained on": "dense, trained further",
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
WHERE = {  # by what is frozen: for people, and as a data set of the table of verdicts
    TRUNK: ("behind frozen features", f"Tiny-ImageNet, {CLASSES} classes, frozen features"),
    BEHIND: ("where the last convolution trains along", f"Tiny-ImageNet, {CLASSES} classes, last convolution trained"),
}
DENSE = ("dense", "dense, trained on")
ANSWERS = {"holds": "pays", "does not hold": "does not pay", "cannot tell": "cannot tell"}
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
        """'pays', 'does not pay' or 'cannot tell' by the rule of all verdicts; or 'one seed'."""
        return ANSWERS[verdict(self.points)] if self.points.seeds > 1 else "one seed"


def gain(rows: Rows) -> Gain:
    """DKA against the best fixed mask, of rows that differ in head and seed only."""
    rival = best_of(MASKED, rows)
    return Gain(rival, paired(select(rows, head="dka"), select(rows, head=rival), "top1"))


def best_of(names: Iterable[str], rows: Rows) -> str:
    """The head of the best mean accuracy among those that have rows."""
    known = {row["head"] for row in rows}
    return max(known.intersection(names), key=lambda name: (mean_top1(rows, name), name))


def mean_top1(rows: Rows, name: str) -> float:
    """Of a head, over seeds, per cent."""
    return interval(row["top1"] for row in select(rows, head=name)).mean


def behind(rows: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    """The rows by what is frozen, where the usual setting was run."""
    rows = select(rows, dataset=DATASET)
    found = {frozen: select(rows, frozen=frozen) for frozen in WHERE}
    return {frozen: own for frozen, own in found.items() if main_rows(own)}


def along(rows: Rows, field: str) -> dict[int, Rows]:
    """The rows in which only one field of `Job` varies beside head and seed, by its value."""
    fixed = {name: value for name, (_, value) in AXES.items() if name != field}
    own = select(rows, **fixed)
    return {value: select(own, **{field: value}) for value in sorted({row[field] for row in own})}


def sentence(rows: Rows) -> str:
    """When choosing votes per image pays, as far as the rows behind one frozen part tell."""
    found, (where, _) = gain(main_rows(rows)), WHERE[rows[0]["frozen"]]
    cases: dict[str, dict[str, list[str]]] = {}  # {verdict: {what is varied: its values}}
    for field, (title, usual) in AXES.items():
        for value, own in along(rows, field).items():
            if value != usual:
                cases.setdefault(gain(own).verdict, {}).setdefault(title, []).append(str(value))
    others = sum(len(values) for found in cases.values() for values in found.values())

    def listed(answer: str) -> str:
        return "; ".join(f"{title} = {', '.join(values)}" for title, values in cases.get(answer, {}).items()) or "none"

    texts = [
        f"**Choosing votes per image, {where}: {found.verdict}.** With {CLASSES} classes, {IMAGES} "
        f"training images of each and K = {K}, DKA minus the best fixed choice of as many weights "
        f"({TITLES[found.rival]}) is {shown(found.points, 1)} points of top-1 ({found.points.seeds} seeds).",
        f"In {counted(others, 'other setting')} one of the three is varied. It pays: {listed('pays')}. It does not "
        f"pay: {listed('does not pay')}. These rows cannot tell: {listed('cannot tell')}. One interval of "
        "95 % in twenty misses by chance, so a verdict on one setting alone is worth little.",
        *([f"One seed only: {listed('one seed')}."] if "one seed" in cases else []),
    ]
    return " ".join(texts)


def main_rows(rows: Rows) -> Rows:
    """Those of the setting from which one field at a time is varied."""
    return select(rows, **{name: value for name, (_, value) in AXES.items()})


def claims_decided(rows: Iterable[dict[str, Any]]) -> Iterator[Reading]:
    """The claims that these rows decide, for the table of verdicts."""
    for frozen, own in behind(rows).items():
        data, main = WHERE[frozen][1], main_rows(own)
        found = gain(main)
        text = f"K = {K}, {CLASSES} classes: {shown(found.points)} points of top-1 above the best fixed choice"
        control = f"{TITLES[found.rival]}: the best of {len(MASKED)} trained fixed choices of as many weights"
        yield Reading(CHOICE, data, verdict(found.points), text, control)
        dense = best_of(DENSE, main)
        lost = paired(select(main, head="dka"), select(main, head=dense), "top1")
        text = f"K = {K}, {CLASSES} classes: {shown(lost)} points (holds if the whole interval is above -{MARGIN:g})"
        control = f"{TITLES[dense]}: same images, tuning and seed"
        yield Reading(ACCURACY, data, verdict(lost, margin=MARGIN), text, control)


def gains_table(rows: Rows) -> str:
    """A line per setting: dense, DKA, the best fixed mask, and the paired difference."""
    lines = [["", "seeds", "dense", "DKA", "best fixed choice of K weights", "which", "DKA minus that", "verdict"]]
    lines.append(["---", "---:", "---:", "---:", "---:", "---", "---:", "---"])
    for field, (title, _) in AXES.items():
        for value, own in along(rows, field).items():
            found = gain(own)
            heads = (best_of(DENSE, own), "dka", found.rival)
            top1 = [shown(interval(row["top1"] for row in select(own, head=name))) for name in heads]
            seeds = str(found.points.seeds)
            lines.append([f"{title} = {value}", seeds, *top1, found.rival, shown(found.points), found.verdict])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cut_off(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Heads whose longest training, when they were tuned, still gained `ENOUGH`, with the accuracy of each length."""
    found = []
    tuned = select(rows, dataset=TUNING)
    for job in dict.fromkeys(Job.of(row) for row in tuned):
        for name in TRAINED:
            own = sorted(select(tuned, head=name, **asdict(job)), key=lambda row: (row["epochs"], row["top1_held_out"]))
            best = {row["epochs"]: row["top1_held_out"] for row in own}  # of each length
            *before, last = best.values() or [0.0]
            if len(before) == MOST_LENGTHS - 1 and last >= max(before) + ENOUGH:
                found.append(f"{name} ({_in_short(job)}: {' → '.join(f'{value:.1f}' for value in best.values())} %)")
    return found


def at_the_end(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Heads whose chosen learning rate, when they were tuned, was the lowest or highest of `LRS`: in words."""
    tuned = select(rows, dataset=TUNING)
    found = []
    for job in dict.fromkeys(Job.of(row) for row in tuned):
        for name in TRAINED:
            tried = {
                Recipe(row["lr"], row["epochs"]): row["top1_held_out"]
                for row in select(tuned, head=name, **asdict(job))
            }
            if tried and (rate := choose(tried).lr) in (LRS[0], LRS[-1]):
                found.append(f"{name} ({_in_short(job)}: {rate:g})")
    return found


def _in_short(job: Job) -> str:
    return f"K = {job.k}, {job.classes} x {job.images} images, {'frozen' if job.frozen == TRUNK else 'trained along'}"


def section(rows: Iterable[dict[str, Any]]) -> str:
    """The Markdown section; '' without rows."""
    rows = list(rows)
    found = behind(rows)
    if not found:
        return ""
    every = [row for own in found.values() for row in own]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in every))
    sentences = "\n\n".join(map(sentence, found.values()))
    tables = "\n\n".join(_tables(frozen, own) for frozen, own in found.items())
    return f"""## When does choosing votes per image pay?

{sentences}

`experiments/rivals.py` compares heads of EfficientNet-Lite0 with its ImageNet weights on Tiny-ImageNet at 128 px,
without flips. Either the network stays as it is, and all heads see the same features as they come (the elastic nets
standardise them for their fit); or each trained head trains its own last convolution along, with the batch norm and
the dropout (0.2) that follow. All have the same images, seeds, optimizer (Adam, linear decay) and numbers of epochs to
choose from. All start from the dense head and its convolution, but "DKA, frozen" and what is trained of it start from
DKA's, which gives that rival one training more, and the weights of the elastic nets are their own. Learning rate and
epochs were chosen for each by the same procedure on {HELD_OUT} training images of each class on which no head is
trained, for each K, number of classes and of images up to {IMAGES}: three learning rates, more while the best is at an
edge, from {LRS[0]:g} to {LRS[-1]:g}, then a training {SHORT} times as long, and, if that gains {ENOUGH} points, one
{SHORT * LONGER} times as long. Validation images were looked at for the tables only.

- Still gaining when they were cut off: {"; ".join(cut_off(rows)) or "none"}. They are worth more than they show. The
  best learning rate was the first or last of all for: {"; ".join(at_the_end(rows)) or "none"}.
- A seed draws the classes and the images where these are not all, first weights, and the order of images. With
  {CLASSES} classes and {IMAGES} or 270 images it draws no data: those intervals are narrower than for new data. No
  interval has in it the chance of which images validate: it alone can move the difference of two heads that answer
  otherwise for half of 10,000 images by a point. All
  smaller numbers of images are drawn from the same {IMAGES} of each class. Recipes were chosen with seed 0 and used for
  all seeds, so no interval has the chance of that choice in it.
- The best fixed choice is the one with the best mean on the validation images, which favours it. So does it favour
  the better one of two dense heads, where the convolution trains: one starts from the other, as DKA does.
- A DKA head stores all N weights of a class and adds K votes; a fixed choice stores K weights. K = N is the dense head.
- The network was trained on ImageNet, of which these classes and perhaps these images are a part.
- One network, one data set.

{len({Job.of(row) for row in every})} trainings of all heads, commit {commits}.

{tables}

Units per class: different units in the scores of the images that are predicted as a class.

![Top-1 against K, classes and training images per class](results/rivals.png)
"""


def _tables(frozen: str, rows: Rows) -> str:
    main, (where, _) = main_rows(rows), WHERE[frozen]
    heads = [(title, own) for name, title in TITLES.items() if (own := select(main, head=name))]
    return f"""### All heads, {where}: {CLASSES} classes, {IMAGES} training images of each, K = {K}

{table(heads, COLUMNS)}

### Against K, classes and training images, {where}

{gains_table(rows)}"""


# --- the figure ---------------------------------------------------------------------------------------------------


def plot(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Top-1 of four kinds of heads against whatever was varied, behind each frozen part, with intervals."""
    panels = [
        (WHERE[frozen][0], title, by_value)
        for frozen, own in behind(rows).items()
        for field, (title, _) in AXES.items()
        if len(by_value := along(own, field)) > 1
    ]
    figure = Figure(figsize=(3.7 * max(len(panels), 1), 3.8), layout="constrained", dpi=140)
    axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for axis, (where, title, by_value) in zip(axes, panels, strict=False):
        for style, (label, names) in zip(STYLES, LINES.items(), strict=False):
            _line(axis, by_value, names, (label, *style))
        axis.set_title(where, fontsize=9)
        axis.set_xscale("log")
        axis.set_xticks(list(by_value), [str(value) for value in by_value])
        axis.minorticks_off()
        axis.set_xlabel(title)
        axis.set_ylim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("top-1, %")
    if panels:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


LINES = {  # the best of these heads at each value
    "DKA, K votes per image": ("dka",),
    "dense": DENSE,
    "best fixed choice of K weights per class": MASKED,
    "K most active units, the same for all classes": ("top activations",),
}


def _line(axis: Axes, by_value: dict[int, Rows], names: Sequence[str], look: tuple[str, str, str]) -> None:
    """The best of some heads at each value; `look` is label, colour and style."""
    label, colour, style = look
    found = [interval(row["top1"] for row in select(own, head=best_of(names, own))) for own in by_value.values()]
    halves = [value.half if value.seeds > 1 else 0.0 for value in found]
    means = [value.mean for value in found]
    axis.errorbar(list(by_value), means, halves, fmt=style, color=colour, capsize=3, markersize=4, label=label)
