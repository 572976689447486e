"""Explaining one image from Python: `explain.explain`."""

import copy
import io
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import settings
from explain.drawing import draw_images, overlay_tiles
from explain.faithfulness import MOST_STEPS, ablation_records, at_random, by_votes
from explain.images import Answer, Classifier, NotFiniteError, explain_classes
from explain.inputs import misfit
from explain.naming import Concept, Names
from explain.records import Ablation
from explain.subjects import Subject, read_own, shown_size, square_of
from explain.tally import read_made_of, read_tally
from explain.terms import log_line
from loader.datasets import DataSpec
from loader.folders import display_name
from loader.images import explain_transform, upright_rgb
from models import Head, head_of
from models.probe import SIDES, evaluating, fitting_noise
from models.snapshot import weights_fingerprint
from util.cli import UserError, describe
from util.files import display_path


@dataclass(frozen=True, repr=False)
class Explanation:
    """One explained image. Printing it gives one line: the prediction, and the sum behind the explained score.

    Attributes:
        subject: the image.
        answer: what the network says of it.
        ablation: what silencing units does.
    """

    subject: Subject
    answer: Answer
    ablation: Ablation

    def to_dict(self) -> dict[str, Any]:
        """An entry of explain.json's `images`, as of `explain.records.ImageRecord`, but for its file of `overlays`."""
        subject = self.subject
        entry = {"file": subject.file, "index": subject.index, **self.answer.record, "ablation": self.ablation}
        return copy.deepcopy(entry)

    def figure(self, across: bool = False) -> Figure:
        """A column of figure.png, or a row: the image under the equation of its score, and its units' heat maps."""
        return draw_images([(self.answer.record, overlay_tiles(self.subject.square, self.answer))], across)

    def __repr__(self) -> str:
        return log_line(self.answer.record, self.subject.file)

    def _repr_jpeg_(self) -> bytes:
        """What a notebook shows: the figure, its images in a row."""
        buffer = io.BytesIO()
        self.figure(across=True).savefig(buffer, format="jpeg", dpi=75)
        return buffer.getvalue()


def explain(
    model: nn.Module,
    image: str | os.PathLike | Image.Image | np.ndarray | Tensor,
    concepts: str | os.PathLike | Mapping[int, Concept] | None = None,
    classes: Sequence[str] | None = None,
    explained: int | str | None = None,
) -> Explanation:
    """Explain a network's prediction of one image: which units' votes its score is the sum of.

    >>> from explain import explain
    >>> from models import build_model
    >>> model = build_model("resnet18_fc_ma", num_classes=3, topk=5)
    >>> explanation = explain(model, np.zeros((64, 64, 3), np.uint8), explained="class 2")
    >>> units, entry = explanation.to_dict()["units"], explanation.to_dict()
    >>> len(units), abs(sum(unit["vote"] for unit in units) + entry["bias"] - entry["logit"]) < 1e-9
    (5, True)

    Args:
        model: images (B, 3, H, W) -> scores (B, C), with a head of `models.heads`, DKA or dense; on any device, in any
            mode, which stays as it is. It is run on noise first, to find the map behind its head.
        image: a file, a Pillow image, pixels (H, W, 3) uint8, or what the network takes: (3, H, W) or (1, 3, H, W),
            float, normalised by ImageNet's means and deviations. All but a tensor are squeezed to a square of
            `model.size` pixels, which `models.load_snapshot` sets where the file says it; otherwise of 224, or the
            smallest size that the network takes if it does not take that.
        concepts: what the units respond to: a tally.csv, or concepts by unit number from 1. None: unknown.
        classes: the C class names. None: `model.classes`, which `models.load_snapshot` sets where the file has names,
            or else 'class 0', 'class 1', ...
        explained: number (from 0) or name of the class whose score is taken apart. None: the prediction.

    Returns:
        the explanation, with the `settings.EXPLAIN_TOPN` largest votes one by one.

    Raises:
        UserError: naming the value that is wrong, or the file that cannot be read or does not fit the network. It is a
            ValueError.
        ValueError: if the network has no head (`models.with_dynamic_k` puts one in), or does not run.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    if not isinstance(model, nn.Module):
        raise UserError(f"model of type {type(model).__name__}: expected a network, a torch.nn.Module")
    head = head_of(model)
    if head.weight.dtype != torch.float32:
        raise UserError(f"model: its head computes in {head.weight.dtype}, explanations in float32: give model.float()")
    known = _class_names(model, classes, head.out_features)
    class_ = _class_number(explained, known)
    named = _concepts(concepts, head)
    read = _read(image)
    network = Classifier.of(model)
    if isinstance(concepts, (str, os.PathLike)):
        _check_tally(concepts, network)
    subject = read if isinstance(read, Subject) else _subject(model, *read)
    with evaluating(model):
        pixels = subject.image[None].to(head.weight.device)  # (1, 3, H, W)
        _check_runs(model, pixels)
        try:
            names = Names(known, named)
            (answer,) = explain_classes(network, pixels, [None], [class_], names, settings.EXPLAIN_TOPN)
        except NotFiniteError as error:
            raise UserError(
                f"{subject.file or 'image'}: the network's features or scores of this image are not finite"
            ) from error
        return Explanation(subject, answer, _ablation(head, answer, known))


def _check_runs(model: nn.Module, pixels: Tensor) -> None:
    """Raises UserError if a network, which can fail in any way, does not take an image (1, 3, H, W)."""
    try:
        model(pixels)
    except Exception as error:
        raise UserError(f"image {tuple(pixels.shape)}: the network does not take it ({describe(error)})") from error


def _ablation(head: Head, answer: Answer, classes: Sequence[str]) -> Ablation:
    """What silencing the chosen units does, or of a dense head those that are listed."""
    listed = settings.EXPLAIN_TOPN if head.topk == head.in_features else head.topk
    steps = min(listed, head.in_features, MOST_STEPS)
    pooled, explained = answer.pooled[None], torch.tensor([answer.record["explained"]])  # (1, N), (1,)
    curves = by_votes(head, pooled, explained, steps), at_random(head, pooled, explained, steps)
    return ablation_records(*curves, classes)[0]


# --- what the caller gave -----------------------------------------------------------------------------------------


def _class_names(model: nn.Module, classes: Sequence[str] | None, count: int) -> list[str]:
    """The C names: those given, those that the network carries, or numbers."""
    if classes is None:
        own = getattr(model, "classes", None)  # of a stranger's network it may be anything
        if isinstance(own, list) and len(own) == count and all(isinstance(name, str) for name in own):
            return list(own)
        return [f"class {class_}" for class_ in range(count)]
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not all(isinstance(n, str) for n in classes):
        raise UserError(f"classes {classes!r}: expected a list of {count} names")
    if len(classes) != count:
        raise UserError(f"classes: {len(classes)} names, expected {count}, one for each score of the network")
    return list(classes)


def _class_number(explained: int | str | None, classes: list[str]) -> int | None:
    """The number of the class to explain; None: the prediction's."""
    if explained is None:
        return None
    if isinstance(explained, str):
        if classes.count(explained) != 1:
            found = "no class has" if explained not in classes else "several classes have"
            raise UserError(f"explained {explained!r}: {found} this name, expected one of {', '.join(classes[:20])}")
        return classes.index(explained)
    try:
        number = operator.index(explained)
    except TypeError:
        number = -1
    if isinstance(explained, bool) or not 0 <= number < len(classes):
        raise UserError(f"explained {explained!r}: expected a class name, or a number from 0 to {len(classes) - 1}")
    return number


def _concepts(concepts: str | os.PathLike | Mapping[int, Concept] | None, head: Head) -> Mapping[int, Concept]:
    """Concepts by unit number."""
    if concepts is None:
        return {}
    if isinstance(concepts, (str, os.PathLike)):
        return {row.unit: row for row in read_tally(concepts, units=head.in_features)}
    if not isinstance(concepts, Mapping):
        raise UserError(f"concepts of type {type(concepts).__name__}: expected a tally.csv, or concepts by unit number")
    for unit, concept in concepts.items():
        if type(unit) is not int or not 1 <= unit <= head.in_features:
            raise UserError(f"concepts: unit {unit!r}, expected a number from 1 to {head.in_features}")
        if not all(hasattr(concept, field) for field in ("label", "category", "score")):
            raise UserError(f"concepts: unit {unit} has {concept!r}, expected a label, a category and a score")
    return concepts


def _check_tally(path: str | os.PathLike, network: Classifier) -> None:
    """Raises UserError for a tally that says that it was made of another network or layer."""
    made_of = read_made_of(path)
    if made_of is None:
        return
    fault = misfit(made_of, weights_fingerprint(network.model), network.feature_map.layer)
    if fault:
        raise UserError(f"tally {display_name(path)}: it was made of {fault}")


def _read(image: object) -> Subject | tuple[Image.Image, str]:
    """What is to be explained: as the network sees it, or an image and its file's name, '' if unknown."""
    if isinstance(image, (str, os.PathLike)):
        return read_own(os.fspath(image)), display_name(display_path(image))
    if isinstance(image, Image.Image):
        try:
            return upright_rgb(image), display_name(getattr(image, "filename", ""))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reads files late
            raise UserError(f"image {getattr(image, 'filename', '')}: not readable ({error})") from error
    if isinstance(image, Tensor):
        return _of_tensor(image)
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"image of type {type(image).__name__}: expected a path, a Pillow image, an array (H, W, 3) or a tensor"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"image {image.shape} of {image.dtype}: expected an array (H, W, 3) of uint8")
    return Image.fromarray(image), ""


def _of_tensor(image: Tensor) -> Subject:
    """A normalised image (3, H, W) or (1, 3, H, W)."""
    shape = tuple(image.shape)
    pixels = image[0] if len(shape) == 4 and shape[0] == 1 else image
    if pixels.dim() != 3 or len(pixels) != 3 or not pixels.numel() or not pixels.is_floating_point():
        expected = "(3, H, W) or (1, 3, H, W), float and normalised"
        raise UserError(f"image {shape} of {image.dtype}: expected a tensor {expected}")
    if not pixels.isfinite().all():
        raise UserError(f"image {shape}: it has values that are not finite")
    pixels = pixels.detach().cpu().float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.MEAN, settings.STD))  # (3, 1, 1)
    shown = ((pixels * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()  # (H, W, 3)
    return Subject("", None, None, pixels, square_of(Image.fromarray(shown), shown_size(min(pixels.shape[1:]))))


def _subject(model: nn.Module, image: Image.Image, file: str) -> Subject:
    """An image at the size that the network was trained with; where it does not say, 224 pixels if it takes that."""
    size = getattr(model, "size", None)
    if type(size) is not int:  # of a stranger's network it may be anything
        noise, _ = fitting_noise(model, (settings.IMAGE_SIZE, *SIDES))
        size = noise.shape[-1]
    pixels = explain_transform(DataSpec("", "", size=size))(image)
    return Subject(file, None, None, pixels, square_of(image, shown_size(size)))
