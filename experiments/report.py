"""docs/RESULTS.md, its plots and the table in README.md, from the rows in experiments/results/.

python3 -m experiments.report

All numbers come from the rows; the rules for the verdicts are in `experiments.readings`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import results, rivals_report
from experiments.plan import ABLATED_K, FULL, KS, TRAINED_OUT, plan
from experiments.readings import overview, read_photographs, readings, verdict_table
from experiments.results import interval, select
from experiments.rivals_jobs import CLASSES
from experiments.tables import (
    ACCURACY,
    CONCEPTS,
    CONTROLS,
    FAITHFULNESS,
    NAMES,
    POINTING,
    ROUTES,
    SPARSITY,
    VARIETY,
    Column,
    Rows,
    groups,
    head_name,
    markdown,
    table,
)
from util.files import atomic_write
from util.plots import STYLES, save_figure

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = results.FOLDER / "photographs.json"
RIVALS = results.FOLDER / "rivals"
PUBLIC = """## What is known of the paper's own network

It was trained on Places365, on which this project has not been run. Two tallies of 512 units of `layer4` are public, on
Broden with five categories, `IOU_MODE` 'lite':

| tally | interpretable units | unique detectors | mean best IoU | best label is a scene | without scenes |
| --- | ---: | ---: | ---: | ---: | --- |
| the authors' ResNet-18, K = 5 (`pretrained/tally.csv` of sunyiyou/dynamic-k-activation) | 441 | 230 | 0.1028 | 307 | 341 units, 107 detectors, mean 0.0637 |
| a dense ResNet-18 (`data/NetDissect_results/resnet18_places365_layer4.csv` of Trustworthy-ML-Lab/CLIP-dissect) | 432 | 186 | 0.0740 | 239 | 311 units, 105 detectors, mean 0.0576 |

Without scenes the difference is 2 detectors instead of 44, but 30 units instead of 9. It is one network each, trained by different people, and how the second
tally was made is not stated: no interval, hence no verdict. [FULL_STUDY.md](FULL_STUDY.md) says how to compare a tally
of your own with these."""  # noqa: E501 a line per row of the table
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


# --- plots --------------------------------------------------------------------------------------------------------


def plot_against_k(path: Path, rows: Rows, metric: str, title: str, scale: float = 1.0) -> None:
    """A metric against K, with intervals, a panel per data set; the dense network's is a horizontal line."""
    datasets = [dataset for dataset in NAMES if any(metric in row for row in select(rows, dataset=dataset))]
    figure = Figure(figsize=(4.6 * len(datasets), 3.2), layout="constrained", dpi=140)
    heads = {"dka": "DKA"} | ({"pruned": "dense, pruned to K per class"} if metric in OF_PRUNED else {})
    for axis, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        own = select(rows, dataset=dataset)
        dense = interval(row[metric] for row in select(own, head="dense"))
        for (head, name), style in zip(heads.items(), (STYLES[0], STYLES[2]), strict=False):
            _plot_head(axis, select(own, head=head), metric, scale, (name, *style))
        if dense.seeds:
            axis.axhline(dense.mean * scale, color=STYLES[1][0], linestyle="--", label="dense")
        if dense.seeds > 1:
            axis.axhspan(dense.low * scale, dense.high * scale, color=STYLES[1][0], alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        axis.set_xticks(KS, [str(k) for k in KS])
        axis.minorticks_off()
        axis.set_xlabel("K")
        axis.set_title(f"{NAMES[dataset]}: {title}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _plot_head(axis: Axes, rows: Rows, metric: str, scale: float, look: Sequence[str]) -> None:
    """One head's metric against K; `look` is its label, colour and line style."""
    label, colour, style = look
    ks = sorted({row["k"] for row in rows})
    found = [interval(row[metric] for row in select(rows, k=k)) for k in ks]
    if found:
        means, halves = [value.mean * scale for value in found], [value.half * scale for value in found]
        axis.errorbar(ks, means, halves, fmt=style, color=colour, capsize=3, markersize=4, label=label)


OF_PRUNED = ("top1", "overlap_within")  # the metrics that are plotted of pruned networks too
PLOTS = {
    "accuracy": ("top1", "top-1, %", 1.0),
    "residual": ("residual", "votes beyond the 4 largest, %", 100.0),
    "concepts": ("lite_interpretable", "interpretable units of 512", 1.0),
    "overlap": ("overlap_within", "overlap within classes, %", 100.0),
}


# --- the document -------------------------------------------------------------------------------------------------


def section(dataset: str, rows: Rows) -> str:
    """All tables of a data set."""
    everything = groups([row for row in rows if row["head"] != "untrained"])
    networks = groups([row for row in rows if row["head"] in ("untrained", "dense", "dka")])
    parts = [
        f"## {NAMES[dataset]}\n",
        "### Accuracy and votes\n",
        table(everything, ACCURACY),
        "\n### Routes\n",
        table(everything, ROUTES),
        "\n### Faithfulness\n",
        table(everything, FAITHFULNESS),
    ]
    if any("nec" in row for row in rows):  # earlier rows lack these
        parts += [
            "\n### Faithfulness beside controls\n",
            "Units outside the route cannot change a DKA head's own score, by construction.\n",
            table(everything, CONTROLS),
            "\n### Does the head choose?\n",
            table(everything, SPARSITY),
            "\n### How different are the units of the five largest votes?\n",
            table(everything, VARIETY),
        ]
    if any("lite_interpretable" in row for row in rows):
        parts += [
            "\n### Concepts, of 512 units\n",
            table(networks, CONCEPTS),
            "\n### Are the named concepts there?\n",
            table(everything, POINTING),
        ]
    by_k = [row for row in rows if "top1_by_k" in row]
    flat = [{**row, **{f"test_{k}": value for k, value in row["top1_by_k"].items()}} for row in by_k]
    parts += [
        "\n### Top-1 in % with another K at test time\n",
        table(groups(flat), [Column(f"K = {k}", f"test_{k}", 2) for k in KS]),
    ]
    return "\n".join(parts)


def ablations(rows: Rows) -> str:
    """Variants of K = 5 beside the default one."""
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


def photographs(about: dict[str, Any]) -> str:
    """Dissections on photographs of concepts: the content of results/photographs.json as two tables."""
    rows = sorted(about["rows"], key=lambda row: row["network"])  # the untrained ones come last of each architecture
    categories = sorted({name for row in rows for key in BY_CATEGORY for name in row.get(key, ())})
    iou = {"interpretable": "interpretable", "unique": "unique detectors", "mean_iou": "mean best IoU"}
    chance = {"above_chance": "above chance", "chance_95": "chance, 95th percentile", "seconds": "s"}
    told = {"told": "units", "told_unique": "unique labels"}
    versions = f"torch {_all_of(rows, 'torch')}, on {_all_of(rows, 'cpu')}; commit {_all_of(rows, 'commit')}"
    return f"""## Photographs

`python3 experiments/photographs.py` dissected these networks on {about["images"]} photographs of `{about["data"]}`;
seed 0. The control is the network of the same architecture that was never trained: what it reaches is no detector of
anything learned. Seconds are of all layers of a network together. {versions}.

Units of IoU >= 0.04, and how many of them have a best label of each category:

{_dissected(rows, {"units": "units", **iou}, categories, "by_category", chance)}

Units by the label that their largest activation in an image tells best, at AUROC >= 0.9 (`agreement.csv`). Labels of
the whole image, scenes and textures, can win here, which have a low ceiling of IoU:

{_dissected([row for row in rows if "told" in row], told, categories, "told_by_category", {})}
"""


BY_CATEGORY = ("by_category", "told_by_category")


def _dissected(rows: Rows, before: dict[str, str], categories: list[str], key: str, after: dict[str, str]) -> str:
    """A line per network and layer: columns `before`, units and labels by category from `key`, columns `after`."""
    titles = [
        "network",
        "layer",
        *before.values(),
        *(f"{name}: units (labels)" for name in categories),
        *after.values(),
    ]
    lines = []
    for row in rows:
        if key not in row:  # a row of an earlier version of the study
            counts = ["–"] * len(categories)
        else:
            counts = ["{} ({})".format(*row[key].get(name, (0, 0))) for name in categories]
        numbers = [str(row.get(name, "–")) for name in (*before, *after)]
        lines.append([row["network"], f"`{row['layer']}`", *numbers[: len(before)], *counts, *numbers[len(before) :]])
    return markdown(titles, lines, left=2)


def provenance(rows: Rows) -> str:
    """On which machine, with which versions, and from which commit the rows were made."""
    seconds = {row["run"]: row["seconds"] for row in rows}
    missing = [run.name for run in plan() if run.name not in seconds]
    whole = f" **Incomplete: {len(missing)} runs of the plan are missing** ({', '.join(missing)})." if missing else ""
    seeds = sorted({row["seed"] for row in rows})
    versions = ", ".join(
        f"{name} {_all_of(rows, name.lower())}" for name in ("Python", "torch", "torchvision", "NumPy", "scikit-learn")
    )
    return (
        f"{len(rows)} heads of {len(seconds)} runs, seeds {', '.join(map(str, seeds))}; "
        f"{sum(seconds.values()) / 3600:.2f} hours in total, on {_all_of(rows, 'cores')} cores of "
        f"{_all_of(rows, 'cpu')}; {versions}; commit {_all_of(rows, 'commit')}.{whole}"
    )


def _all_of(rows: Rows, key: str) -> str:
    """The different values of a key, in the order of the rows."""
    return ", ".join(dict.fromkeys(str(row[key]) for row in rows))


def document(rows: Rows) -> str:
    """RESULTS.md."""
    plain = select(rows, variant="")
    sections = [section(name, own) for name in NAMES if (own := select(plain, dataset=name))]
    photos = json.loads(PHOTOGRAPHS.read_text(encoding="utf-8"))
    rivals = results.read(RIVALS)
    found = [*readings(rows), *rivals_report.claims_decided(rivals), *read_photographs(photos["rows"])]
    images = "\n".join(f"![{title} against K](results/{name}.png)\n" for name, (_, title, _) in PLOTS.items())
    return f"""# The paper's claims, measured

Generated by `python3 -m experiments.report` from `experiments/results/`, which `python3 experiments/claims.py` wrote;
do not edit. {provenance(rows)}

Numbers are means over seeds ± half of their 95 % interval (Student's t; differences: of pairs of the same seed).
`experiments/plan.py` has sizes and schedules; the docstrings of `experiments/measure.py` define each number.

## The claims

{overview(found)}

A claim *holds* or *does not hold* if the whole interval is on one side; what *holds by construction* is true of any
weights, and no measurement supports it. An interval that ends at the margin is no gain. Networks were trained briefly,
but for those called trained out: {_schedules()}.
Empty: not measured. On scenes and on Fashion-MNIST the control of "Choosing votes per image" can only refute it. With
other numbers of classes than {CLASSES} its answer may be another one
([below](#when-does-choosing-votes-per-image-pay)).

### What decides each

{verdict_table(found)}

{PUBLIC}

{images}
{chr(10).join(f"{part}{chr(10)}" for part in sections)}
{ablations(rows)}
{rivals_report.section(rivals)}
{photographs(photos)}"""


def _schedules() -> str:
    """How long the networks of each data set were trained."""
    return "; ".join(
        f"{NAMES[name]}: {data.epochs} epoch{'s' if data.epochs > 1 else ''} at {data.size} px"
        for name, data in FULL.items()
    )


def summary_table(rows: Rows) -> str:
    """The table in README.md."""
    columns = [
        Column("top-1, %", "top1", 1),
        Column("active units", "active_units"),
        Column("votes beyond the 4 largest, %", "residual", 1, 100),
        Column("overlap within a class, %", "overlap_within", 1, 100),
        Column("interpretable units", "lite_interpretable"),
    ]
    named = []
    for dataset in (TRAINED_OUT, "fashion_mnist"):
        own = select(rows, dataset=dataset, variant="")
        for head, k in (("dense", None), ("dka", 5)):
            found = select(own, head=head, k=k)
            if found:
                named.append((f"{NAMES[dataset]}, {head_name(found[0])}", found))
    return table(named, columns)


def put_between(text: str, inner: str) -> str:
    """Replace the text between the markers in README.md. Raises ValueError if they are not there."""
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
    rivals_report.plot(docs / "results" / "rivals.png", results.read(RIVALS))
    readme = root / "README.md"
    for path, text in (
        (docs / "RESULTS.md", document(rows)),
        (readme, put_between(readme.read_text(encoding="utf-8"), summary_table(rows))),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
