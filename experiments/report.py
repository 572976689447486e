"""docs/RESULTS.md, its plots and the table in README.md, from the rows in experiments/results/.

python3 -m experiments.report

Numbers, readings and their wording come from the rows; only the questions and the rules of the answers stand here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import results
from experiments.plan import ABLATED_K, KS, plan
from experiments.results import Interval, interval, less, paired, select
from files import whole_file
from report.figures import STYLES, save_figure

ROOT = Path(__file__).resolve().parent.parent
MARGIN = 1.0  # per cent of accuracy that a network may lose and still count as no worse
STATIC = 0.95  # overlap within classes from which routes count as static
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NAMES = {"mini_places": "mini_places", "fashion_mnist": "Fashion-MNIST"}

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, the metric, decimals, and what the metric is multiplied by."""

    title: str
    metric: str
    decimals: int = 1
    scale: float = 1.0


ACCURACY = [
    Column("top-1, %", "top1", 2),
    Column("top-5, %", "top5", 2),
    Column("active units", "active_units"),
    Column("share of the 4 largest, %", "top4_share", 1, 100),
    Column("residual, %", "residual", 1, 100),
]
ROUTES = [
    Column("units per class", "units_per_class"),
    Column("units in all", "units_total"),
    Column("overlap within, %", "overlap_within", 1, 100),
    Column("overlap between, %", "overlap_between", 1, 100),
    Column("5 largest: units in all", "shown_units_total"),
    Column("within, %", "shown_overlap_within", 1, 100),
    Column("between, %", "shown_overlap_between", 1, 100),
]
FAITHFULNESS = [
    Column("deletion", "deletion", 3),
    Column("at random", "random_deletion", 3),
    Column("insertion", "insertion", 3),
    Column("at random", "random_insertion", 3),
]
CONCEPTS = [
    Column("interpretable", "lite_interpretable"),
    Column("unique", "lite_unique"),
    Column("mean IoU", "lite_best_iou", 4),
    Column("above chance", "lite_above_chance"),
    Column("original: interpretable", "original_interpretable"),
    Column("unique", "original_unique"),
    Column("mean IoU", "original_best_iou", 4),
    Column("above chance", "original_above_chance"),
]
POINTING = [
    Column("named, %", "named", 1, 100),
    Column("present, %", "present", 1, 100),
    Column("by chance, %", "present_by_chance", 1, 100),
    Column("pointed at, %", "pointing", 1, 100),
    Column("by chance, %", "pointing_by_chance", 1, 100),
]


# --- rows and numbers ---------------------------------------------------------------------------------------------


def head_name(row: dict[str, Any]) -> str:
    """What a row of a table is called."""
    if row["head"] == "dka":
        return f"DKA, K = {row['k']}" + (", all" if row["k"] == KS[-1] else "")
    if row["head"] == "pruned":
        return f"dense, pruned to {row['k']}"
    if row["head"] == "elastic net":
        return f"elastic net, C = {row['c']:g}"
    return "dense"


def groups(rows: Rows) -> list[tuple[str, Rows]]:
    """Rows that differ in their seed only, with their name, in the order in which they first come."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(head_name(row), []).append(row)
    order = {"dense": 0, "dka": 1, "pruned": 2, "elastic net": 3}
    return sorted(
        found.items(), key=lambda item: (order[item[1][0]["head"]], item[1][0]["k"] or item[1][0].get("c", 0))
    )


def shown(value: Interval, decimals: int = 1, scale: float = 1.0) -> str:
    """'87.50 ± 0.12': a mean and half of its 95 % interval; '–' for nothing."""
    if value.seeds == 0:
        return "–"
    mean = f"{value.mean * scale:.{decimals}f}"
    return mean if math.isnan(value.half) else f"{mean} ± {value.half * scale:.{decimals}f}"


def table(named: Sequence[tuple[str, Rows]], columns: Sequence[Column]) -> str:
    """A Markdown table with a line per group and a column per metric."""
    lines = [["", *(column.title for column in columns)], ["---", *["---:"] * len(columns)]]
    for name, rows in named:
        cells = [shown(interval(row.get(column.metric, math.nan) for row in rows), column.decimals, column.scale)
                 for column in columns]  # fmt: skip
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- readings -----------------------------------------------------------------------------------------------------


def verdict(difference: Interval, better: float = 1.0, margin: float = 0.0) -> str:
    """Whether a difference is, with its whole interval, on the wanted side of a margin, on the other, or on both."""
    low, high = sorted((difference.low * better, difference.high * better))
    if math.isnan(low):
        return "cannot tell"
    return "holds" if low > -margin else "does not hold" if high <= -margin else "cannot tell"


def reading(title: str, answer: str, why: str) -> str:
    """A claim, what becomes of it, and the numbers."""
    return f"- **{title}: {answer}.** {why}"


def read_accuracy(dataset: str, dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Claim 1."""
    difference = paired(dka(ABLATED_K), dense, "top1")
    others = ", ".join(f"{paired(dka(k), dense, 'top1').mean:+.2f} (K = {k})" for k in KS if k != ABLATED_K)
    return reading(
        f"No loss of accuracy, {NAMES[dataset]}",
        verdict(difference, margin=MARGIN),
        f"K = {ABLATED_K} stands {shown(difference, 2)} points from the dense head of the same seed (no more than "
        f"{MARGIN:g} lost would hold, with the whole interval). Others, in the mean: {others}.",
    )


def read_completeness(dataset: str, dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Claim 2."""
    own, other = interval(row["residual"] for row in dka(ABLATED_K)), interval(row["residual"] for row in dense)
    units = interval(row["active_units"] for row in dka(ABLATED_K))
    many = interval(row["active_units"] for row in dense)
    return reading(
        f"Each prediction is explained completely by few units, {NAMES[dataset]}",
        verdict(paired(dka(ABLATED_K), dense, "residual"), better=-1),
        f"K = {ABLATED_K}: {shown(units)} units with a part in a prediction, and {shown(own, 1, 100)} % of its votes "
        f"beyond the four largest; dense: {shown(many)} units, and {shown(other, 1, 100)} %.",
    )


def read_concepts(dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Claim 3."""
    names = {"lite_interpretable": "interpretable units", "lite_unique": "unique detectors",
             "lite_above_chance": "units above chance", "lite_best_iou": "mean best IoU"}  # fmt: skip
    differences = {metric: paired(dka(ABLATED_K), dense, metric) for metric in names}
    answers = {metric: verdict(difference) for metric, difference in differences.items()}
    listed = "; ".join(
        f"{names[metric]} {shown(difference, 4 if metric == 'lite_best_iou' else 1)} ({answers[metric]})"
        for metric, difference in differences.items()
    )
    return reading(
        "Units align better with human concepts, mini_places",
        answers["lite_interpretable"],
        f"K = {ABLATED_K} less the dense head of the same seed: {listed}.",
    )


def read_routes(dataset: str, dka: Callable[[int], Rows]) -> list[str]:
    """Claim 4, which is two: shared within a class, and yet dynamic."""
    rows = dka(ABLATED_K)
    within, between = (interval(row[f"overlap_{kind}"] for row in rows) for kind in ("within", "between"))
    per_class, total = (interval(row[name] for row in rows) for name in ("units_per_class", "units_total"))
    difference = interval(row["overlap_within"] - row["overlap_between"] for row in rows)
    numbers = f"K = {ABLATED_K}: two pictures of a class have {shown(within, 1, 100)} % of their units in common"
    dynamic = "cannot tell"
    if not math.isnan(within.low):
        dynamic = "holds" if within.high < STATIC else "does not hold" if within.low >= STATIC else "cannot tell"
    return [
        reading(f"Routes are shared within a class, {NAMES[dataset]}", verdict(difference),
                f"{numbers}, of two classes {shown(between, 1, 100)} %."),
        reading(f"Routes are dynamic, {NAMES[dataset]}", dynamic,
                f"{numbers} ({100 * STATIC:g} % or more counts as static); all pictures of a class together go through "
                f"{shown(per_class)} units, all classes through {shown(total)}."),
    ]  # fmt: skip


def read_static(dataset: str, rows: Rows, dka: Callable[[int], Rows]) -> str:
    """Dynamic against static sparsity."""
    parts = []
    for k in KS[:-1]:
        rival = select(rows, head="pruned", k=k)
        if rival:
            parts.append(f"{paired(dka(k), rival, 'top1').mean:+.1f} (K = {k})")
    nets = [(interval(row["weights_per_class"] for row in own), interval(row["top1"] for row in own))
            for name, own in groups(select(rows, head="elastic net"))]  # fmt: skip
    listed = ", ".join(f"{accuracy.mean:.1f} % with {weights.mean:.0f}" for weights, accuracy in nets)
    return reading(
        f"Dynamic sparsity is better than static, {NAMES[dataset]}",
        verdict(paired(dka(ABLATED_K), select(rows, head="pruned", k=ABLATED_K), "top1")),
        f"Top-1 of DKA less that of the dense network pruned to as many weights per class, in the mean: "
        f"{', '.join(parts)}. The elastic net on the dense network's features has {listed} weights per class; DKA with "
        f"K = {ABLATED_K} has {interval(row['top1'] for row in dka(ABLATED_K)).mean:.1f} %.",
    )


def read_faithfulness(dataset: str, dka: Callable[[int], Rows], dense: Rows) -> str:
    """Whether the units with the largest votes are what the prediction rests on."""
    own = interval(row["random_deletion"] - row["deletion"] for row in dka(ABLATED_K))
    of_dense = interval(row["random_deletion"] - row["deletion"] for row in dense)
    return reading(
        f"Explanations name what the prediction rests on, {NAMES[dataset]}",
        verdict(own),
        f"Silencing the five largest votes takes {shown(own, 3)} more of the area under the class's probability than "
        f"silencing five other active units does (K = {ABLATED_K}); with the dense head {shown(of_dense, 3)}.",
    )


def read_pointing(dense: Rows, dka: Callable[[int], Rows]) -> str:
    """Against the pictures' own labels."""

    def gain(rows: Rows, metric: str) -> Interval:
        return interval(less(row[metric], row[f"{metric}_by_chance"]) for row in rows)

    own, other = gain(dka(ABLATED_K), "present"), gain(dense, "present")
    point, other_point = gain(dka(ABLATED_K), "pointing"), gain(dense, "pointing")
    difference = interval([
        less(row["present"], row["present_by_chance"]) - less(match["present"], match["present_by_chance"])
        for row in dka(ABLATED_K) for match in dense if match["seed"] == row["seed"]
    ])  # fmt: skip
    return reading(
        "Named concepts are in the picture more often than those of a dense head's five largest votes, mini_places",
        verdict(difference),
        f"Above chance by {shown(own, 1, 100)} points with K = {ABLATED_K}, by {shown(other, 1, 100)} with the dense "
        f"head; and the heat map's peak lies on the concept {shown(point, 1, 100)} and {shown(other_point, 1, 100)} "
        f"points more often than the concept's area would give.",
    )


# --- plots --------------------------------------------------------------------------------------------------------


def plot_against_k(path: Path, rows: Rows, metric: str, title: str, scale: float = 1.0) -> None:
    """A metric of the DKA networks against K, with intervals, and the dense network's as a level, per data set."""
    datasets = [dataset for dataset in NAMES if any(metric in row for row in select(rows, dataset=dataset))]
    figure = Figure(figsize=(4.6 * len(datasets), 3.2), layout="constrained", dpi=140)
    for axis, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        own = select(rows, dataset=dataset)
        (colour, style), (dense_colour, _), (other_colour, other_style) = STYLES[:3]
        for head, name, line in (("dka", "DKA", (colour, style)), ("pruned", "dense, pruned to K per class",
                                                                   (other_colour, other_style))):  # fmt: skip
            ks = sorted({row["k"] for row in select(own, head=head)})
            found = [interval(row[metric] for row in select(own, head=head, k=k)) for k in ks]
            if not found or (head == "pruned" and metric not in ("top1", "overlap_within")):
                continue
            axis.errorbar(ks, [value.mean * scale for value in found], [value.half * scale for value in found],
                          fmt=line[1], color=line[0], capsize=3, markersize=4, label=name)  # fmt: skip
        dense = interval(row[metric] for row in select(own, head="dense"))
        if dense.seeds:
            axis.axhline(dense.mean * scale, color=dense_colour, linestyle="--", label="dense")
            if not math.isnan(dense.low):
                axis.axhspan(dense.low * scale, dense.high * scale, color=dense_colour, alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        axis.set_xticks(KS, [str(k) for k in KS])
        axis.minorticks_off()
        axis.set_xlabel("K")
        axis.set_title(f"{NAMES[dataset]}: {title}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


PLOTS = {
    "accuracy": ("top1", "top-1, %", 1.0),
    "residual": ("residual", "votes beyond the 4 largest, %", 100.0),
    "concepts": ("lite_interpretable", "interpretable units of 512", 1.0),
    "overlap": ("overlap_within", "overlap within classes, %", 100.0),
}


# --- the document -------------------------------------------------------------------------------------------------


def section(dataset: str, rows: Rows) -> str:
    """All tables of a data set."""
    everything = groups(rows)
    networks = groups([row for row in rows if row["head"] in ("dense", "dka")])
    parts = [f"## {NAMES[dataset]}\n", "### Accuracy and votes\n", table(everything, ACCURACY), "\n### Routes\n",
             table(everything, ROUTES), "\n### Faithfulness\n", table(everything, FAITHFULNESS)]  # fmt: skip
    if any("lite_interpretable" in row for row in rows):
        parts += ["\n### Concepts, of 512 units\n", table(networks, CONCEPTS),
                  "\n### Are the named concepts there?\n", table(everything, POINTING)]  # fmt: skip
    by_k = [row for row in rows if "top1_by_k" in row]
    flat = [{**row, **{f"test_{k}": value for k, value in row["top1_by_k"].items()}} for row in by_k]
    parts += ["\n### Top-1 in % with another K at test time\n",
              table(groups(flat), [Column(f"K = {k}", f"test_{k}", 2) for k in KS])]  # fmt: skip
    return "\n".join(parts)


def ablations(rows: Rows) -> str:
    """Variants of K = 5 beside the plain one."""
    parts = ["## Ablations\n"]
    for dataset in NAMES:
        own = select(rows, dataset=dataset)
        named = [("plain", select(own, head="dka", k=ABLATED_K, variant=""))]
        variants = dict.fromkeys(row["variant"] for row in own if row["variant"] and row["head"] == "dka")
        named += [(variant, select(own, head="dka", variant=variant)) for variant in variants]
        dense = dict.fromkeys(row["variant"] for row in own if row["variant"] and row["head"] == "dense")
        named += [(f"dense, {variant}", select(own, head="dense", variant=variant)) for variant in dense]
        if len(named) > 1:
            parts += [f"### {NAMES[dataset]}, K = {ABLATED_K}\n", table(named, [*ACCURACY, *ROUTES[:4]]), ""]
    return "\n".join(parts)


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


def provenance(rows: Rows) -> str:
    """Where, when and by what the rows were made."""

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(row[key]) for row in rows))

    seconds = {row["run"]: row["seconds"] for row in rows}
    missing = [run.name for run in plan() if run.name not in seconds]
    whole = f" **Not whole: {len(missing)} runs of the plan are missing** ({', '.join(missing)})." if missing else ""
    seeds = sorted({row["seed"] for row in rows})
    versions = ", ".join(f"{name} {all_of(name.lower())}" for name in ("Python", "torch", "torchvision", "NumPy",
                                                                      "scikit-learn"))  # fmt: skip
    return (
        f"{len(rows)} heads of {len(seconds)} runs, seeds {', '.join(map(str, seeds))}; "
        f"{sum(seconds.values()) / 3600:.2f} hours in sum, on {all_of('cores')} cores of {all_of('cpu')}; {versions}; "
        f"commit {all_of('commit')}.{whole}"
    )


def document(rows: Rows) -> str:
    """RESULTS.md."""
    plain = select(rows, variant="")
    sections = [section(name, own) for name in NAMES if (own := select(plain, dataset=name))]
    pictures = "\n".join(f"![{title} against K](results/{name}.png)\n" for name, (_, title, _) in PLOTS.items())
    return f"""# The paper's claims, measured

Written by `python3 -m experiments.report` from `experiments/results/`, which `python3 experiments/claims.py` made; not
edited by hand. {provenance(rows)}

Numbers are means over seeds ± half of their 95 % interval (Student's t; of differences: of pairs of the same seed).
`experiments/plan.py` has sizes and schedules, the docstrings of `experiments/measure.py` what each number is.

## What becomes of each claim

{readings(rows)}

{pictures}
{chr(10).join(f"{part}{chr(10)}" for part in sections)}
{ablations(rows)}"""


def summary_table(rows: Rows) -> str:
    """The table in README.md."""
    columns = [Column("top-1, %", "top1", 1), Column("active units", "active_units"),
               Column("votes beyond the 4 largest, %", "residual", 1, 100),
               Column("overlap within a class, %", "overlap_within", 1, 100),
               Column("interpretable units", "lite_interpretable")]  # fmt: skip
    named = []
    for dataset in NAMES:
        own = select(rows, dataset=dataset, variant="")
        for head, k in (("dense", None), ("dka", 1), ("dka", 5), ("dka", 20), ("pruned", 5)):
            found = select(own, head=head, k=k)
            if found:
                named.append((f"{NAMES[dataset]}, {head_name(found[0])}", found))
    return table(named, columns)


def put_between(text: str, inner: str) -> str:
    """Replace what stands between the marks of README.md. Raises ValueError if they are not there."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


def main(rows: Iterable[dict[str, Any]] | None = None, root: Path = ROOT) -> None:
    """Write the document, the plots and the table."""
    rows = results.read() if rows is None else list(rows)
    docs = root / "docs"
    (docs / "results").mkdir(parents=True, exist_ok=True)
    for name, (metric, title, scale) in PLOTS.items():
        plot_against_k(docs / "results" / f"{name}.png", select(rows, variant=""), metric, title, scale)
    readme = root / "README.md"
    for path, text in ((docs / "RESULTS.md", document(rows)),
                       (readme, put_between(readme.read_text(encoding="utf-8"), summary_table(rows)))):  # fmt: skip
        with whole_file(path) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
