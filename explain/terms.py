"""A class score as a sum: written once, for the log, the figure, the page and the JSON."""

from pathlib import Path
from typing import NamedTuple

from explain.naming import unit_name
from explain.records import ExplanationRecord, Score, UnitVote


class Terms(NamedTuple):
    """The terms of a class score, which add up to it.

    Attributes:
        units: the chosen votes that are listed.
        others: the sum of the chosen votes that are not listed; None if all are.
        bias: of the class.
    """

    units: list[UnitVote]
    others: float | None
    bias: float

    @property
    def values(self) -> list[float]:
        """All of them, in order: votes, others, bias."""
        return [*(unit["vote"] for unit in self.units), *([] if self.others is None else [self.others]), self.bias]


def terms_of(score: Score) -> Terms:
    """What a class score is the sum of."""
    others = score["others"]
    chosen = [unit for unit in score["units"] if unit["active"]]
    return Terms(chosen, others["vote"] if others["count"] else None, score["bias"])


def log_line(record: ExplanationRecord, file: str) -> str:
    """A record for the terminal: what was predicted of the image `file`, and the sum behind it."""
    remarks = ["unsure"] if record["unsure"] else []
    if record["target"] is not None:
        right = record["target"] == record["prediction"]
        remarks.append("right" if right else f"is {record['target_name']}")
    terms = terms_of(record)
    parts = [f"{unit['vote']:.2f} {unit_name(unit)}" for unit in terms.units]
    if terms.others is not None:
        parts.append(f"{terms.others:.2f} of {record['others']['count']} others")
    score = " + ".join([*parts, f"{terms.bias:.2f} bias"])
    said = ", ".join([f"{record['prediction_name']} {100 * record['probability']:.1f} %", *remarks])
    return f"{Path(file).name or 'image'}: {said}; {record['explained_name']} {record['logit']:.2f} = {score}"
