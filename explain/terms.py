"""A class score as a sum: written once, for the log, the figure, the page and the JSON."""

from typing import NamedTuple

from explain.records import Score, UnitVote


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
