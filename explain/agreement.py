"""agreement.csv, which lies beside tally.csv: how units and labels agree, beyond IoU. Its only reader and writer.

IoU has a ceiling: a label that covers 1/16 of all pixels and masks that cover 1/200 cannot reach more than 0.08. The
file says how near a unit comes to it (`ceiling`, `precision`, `recall`), and, without any mask, how well the unit tells
images that have a label from those that do not (`auroc`): the measure by which INVERT (Bykov et al. 2023) names units.
`netdissect.agreement` computes it.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from explain.tally import TallyRow
from explain.unit_table import Cells, check_units, read_cells
from util.cli import UserError
from util.files import atomic_write


@dataclass(frozen=True)
class AgreementRow:
    """A unit in agreement.csv; the fields are its columns, which have - for _.

    With A, T and I as in tally.csv: mask pixels of the unit, pixels of its label, and those in common.

    Attributes:
        unit: number from 1.
        label, category, iou: the unit's in tally.csv; '' where it has no label, with 0 in the next three fields.
        ceiling: min(A, T) / max(A, T), the greatest IoU that masks and labels of these sizes can have; 0 if A is.
        precision: I / A; 0 if A is. A pixel that has the label in two maps, of object and of material, counts twice in
            I and T: only such labels can have more than 1 here, or an IoU beyond the ceiling.
        recall: I / T.
        auroc: area under the ROC curve of the unit's largest activation in an image, as a score of whether the image
            has the label; ties count half. None where fewer than `netdissect.agreement.MIN_IMAGES` images have the
            label or have it not, and where there is no label.
        auroc_label, auroc_category: the label of greatest AUROC, among those that enough images have and have not, and
            its primary category; '' where there are none.
        auroc_best: its AUROC; None where there is none.
    """

    unit: int
    label: str
    category: str
    iou: float
    ceiling: float
    precision: float
    recall: float
    auroc: float | None
    auroc_label: str
    auroc_category: str
    auroc_best: float | None


COLUMNS = tuple(field.name.replace("_", "-") for field in fields(AgreementRow))


def ceiling_binds(row: AgreementRow, threshold: float) -> bool:
    """Whether a unit's IoU says little because of its ceiling: this is below twice the threshold.

    Masks and label then differ so much in size that the unit barely passes for interpretable, or cannot, however well
    it knows the concept. AUROC, in which sizes do not enter, is the measure to read.

    Args:
        row: of the unit.
        threshold: IoU from which a unit counts as interpretable.
    """
    return bool(row.label) and row.ceiling < 2 * threshold


def write_agreement(path: str | os.PathLike, rows: Sequence[AgreementRow]) -> None:
    """Write agreement.csv; None is an empty cell."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(astuple, rows))


def read_agreement(path: str | os.PathLike, tally: Sequence[TallyRow] | None = None) -> list[AgreementRow]:
    """Read an agreement.csv.

    Args:
        path: the file.
        tally: that it lies beside: it must have the same units, with the same labels and IoUs. None: not checked.

    Raises:
        UserError: naming the file, and the line and column that are wrong.
    """
    rows = [_parse_row(cells) for cells in read_cells(path, "agreement", COLUMNS)]
    file = f"agreement {os.fspath(path)}"
    check_units([row.unit for row in rows], None if tally is None else len(tally), file)
    known = {row.unit: (row.label, row.category, row.score) for row in tally or ()}
    for row in rows:
        if known and (row.label, row.category, row.iou) != known[row.unit]:
            raise UserError(f"{file}: unit {row.unit} is not as in the tally: it was made with another one")
    return rows


def _parse_row(cells: Cells) -> AgreementRow:
    return AgreementRow(
        unit=cells.whole("unit"),
        label=cells.text("label"),
        category=cells.text("category"),
        iou=cells.share("iou", "an IoU"),
        ceiling=cells.share("ceiling", "an IoU"),
        precision=cells.ratio("precision"),
        recall=cells.share("recall", "a share"),
        auroc=_auroc(cells, "auroc"),
        auroc_label=cells.text("auroc-label"),
        auroc_category=cells.text("auroc-category"),
        auroc_best=_auroc(cells, "auroc-best"),
    )


def _auroc(cells: Cells, column: str) -> float | None:
    return cells.share(column, "an AUROC") if cells.text(column) else None
