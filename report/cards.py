"""What a card of explain.html shows, and a line of the log: an image's record, arranged. It adds no number."""

from itertools import accumulate
from typing import Any

from explain.naming import class_name, unit_title
from explain.records import ImageRecord, Prediction, Score, UnitVote
from explain.terms import terms_of

_LISTED_FLIPS = 3  # units named on the page because the prediction changes without them


def card(image: ImageRecord, place: int, classes: int) -> dict[str, Any]:
    """An image's record with what only the page needs.

    Args:
        image: the record.
        place: on the page, from 0.
        classes: how many the network knows.
    """
    rivals = [class_name(side["name"]) for side in image["contest"]]
    bars, compared = _bars(image)
    return {
        **image,
        "anchor": f"image-{image['index']}" if image["index"] is not None else f"image-file-{place}",
        "verdict": _verdict(image),
        "doubt": _doubt(image, classes),
        "score": _score_of_prediction(image),
        **bars,
        "compared": compared,
        "text": _search_text(image),
        "contest_title": f"Why {rivals[0]}" + (f" and not {' or '.join(rivals[1:])}?" if rivals[1:] else "?"),
        "holds": _holds(image),
        "reasons": _reasons(image),
    }


def _verdict(image: Prediction) -> str:
    """'right', 'wrong', or '' where the true class is unknown."""
    if image["target"] is None:
        return ""
    return "right" if image["target"] == image["prediction"] else "wrong"


def _score_of_prediction(image: ImageRecord) -> float:
    """The score of the class that is predicted, also where another one is explained."""
    return next(side["logit"] for side in image["contest"] if side["class"] == image["prediction"])


def _doubt(image: ImageRecord, classes: int) -> str:
    """What to think of a prediction of low probability; '' of any other."""
    if not image["unsure"]:
        return ""
    if image["target"] is not None:  # of its classes, then
        return "The network is unsure: all other classes together are more probable."
    return f"The network is unsure: the image may show none of its {classes:,} classes."


def _bars(image: ImageRecord) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The bars of an image, and the card of the network of --compare with its own; both have one scale."""
    bars, compared = _waterfall(image), image.get("compared")
    if compared is None:
        return bars, None
    others = _waterfall(compared)
    scale = {"low": min(bars["low"], others["low"]), "high": max(bars["high"], others["high"])}
    return {**bars, **scale}, {**compared, "verdict": _verdict(compared), **others, **scale}


def _waterfall(score: Score) -> dict[str, Any]:
    """Where each bar of the sum begins: `starts` of the listed units, `others_start`, `bias_start`; and their scale.

    All bars of a score have one scale, from `low` to `high`, which holds every partial sum.
    """
    terms = terms_of(score)
    sums = list(accumulate(terms.values, initial=0.0))
    begins = iter(sums)
    idle = [unit["vote"] for unit in score["units"] if not unit["active"]]
    return {
        "starts": [next(begins) if unit["active"] else 0.0 for unit in score["units"]],
        "others_start": sums[len(terms.units)],
        "bias_start": sums[-2],
        "low": min(*sums, *idle),
        "high": max(*sums, *idle, min(sums) + 1e-9),
    }


def _search_text(image: ImageRecord) -> str:
    """What the page's search looks in: classes, file, concepts and unit numbers."""
    classes = [class_name(name) for name in (image["prediction_name"], image["target_name"] or "")]
    return " ".join([*dict.fromkeys(classes), image["file"], *(unit_title(unit) for unit in image["units"])])


def _reasons(image: ImageRecord) -> list[dict[str, Any]]:
    """The units of a score in groups of near-duplicates: `title`, their common `vote`, and the `units` of each.

    Empty where the variety of the units is not known.
    """
    listed = {unit["unit"]: unit for unit in image["units"]}
    reasons = []
    for group in image["variety"]["groups"] if "variety" in image else []:
        units = [listed[number] for number in group]
        names = dict.fromkeys(class_name(unit["label"]) for unit in units if unit["label"])
        title = ", ".join(names) or "units without a name"
        reasons.append(
            {
                "title": f"{title} × {len(units)}" if len(units) > 1 else unit_title(units[0]),
                "vote": sum(unit["vote"] for unit in units),
                "units": units,
            }
        )
    return reasons


def _holds(image: ImageRecord) -> list[str]:
    """What happened to the prediction when units were silenced, in sentences."""
    deletion, name = image["ablation"]["deletion"], class_name(image["explained_name"])
    steps = len(deletion["probability"]) - 1
    units = [unit for unit in image["units"] if unit["active"]]
    lines = []
    if image["explained"] == image["prediction"]:
        lines += _one_by_one(image, units)
        turned = next((step for step, said in enumerate(deletion["prediction"]) if said != image["explained"]), None)
        if turned is None:
            lines.append(f"With {steps} silenced, one after the other, it still says {name}.")
        elif turned > 1:
            other = class_name(deletion["prediction_name"][turned])
            lines.append(f"With the {turned} largest votes silenced it says {other}.")
    elif units:
        lines.append(f"{_silenced(units[0])} {_change(image, units[0])}.")
    kept = image["ablation"]["insertion"]["probability"][-1]
    alone = "Its largest vote alone gives" if steps == 1 else f"Its {steps} largest votes alone give"
    lines.append(f"{alone} {name} {100 * kept:.1f} %.")
    return lines


def _one_by_one(image: ImageRecord, units: list[UnitVote]) -> list[str]:
    """The units without which the prediction changes, or the one whose silence costs it most."""
    turning = [unit for unit in units if unit["without"]["prediction"] != image["explained"]]
    lines = []
    for unit in turning[:_LISTED_FLIPS]:
        other = class_name(unit["without"]["prediction_name"])
        lines.append(f"{_silenced(unit)} the prediction becomes {other}: {_change(image, unit)}.")
    if units and not turning:
        worst = min(units, key=lambda unit: unit["without"]["probability"])
        lines.append(f"No single unit changes the prediction. {_silenced(worst)}, at most, {_change(image, worst)}.")
    return lines


def _silenced(unit: UnitVote) -> str:
    return f"Without {unit_title(unit)}"


def _change(image: ImageRecord, unit: UnitVote) -> str:
    before, after = image["ablation"]["deletion"]["probability"][0], unit["without"]["probability"]
    return f"{class_name(image['explained_name'])} goes from {100 * before:.1f} to {100 * after:.1f} %"
