"""Training behind a frozen trunk: its outputs, computed once and kept in a memory-mapped file, and batches of them.

A cache is a folder of two files: `features.bin`, a row for each image, and `features.made_of.json`, which is written
last and says what it was made of: the frozen weights, the layer, the images and how they were transformed. It also has
some of the outputs for noise: code is not recorded, but if the network answers otherwise now the cache is not used.
While it is computed the two are named `partial`, and an interrupted computation goes on where it stopped.
"""

import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

import settings
from loader.batches import LoaderOptions, epoch_order, make_loader
from loader.images import val_transform
from loader.splits import Images
from models.backbones import DKA_SUFFIX
from models.cut import Cut
from models.probe import noise
from training.epoch import Batches
from training.identity import stamp_of_images
from training.runs import Run, log
from util import distributed
from util.cli import UserError
from util.device import to_device
from util.files import display_path, lock_folder, regular_file, writing
from util.made_of import MadeOf, companion, differences, fingerprint, read_companion, write_companion
from util.progress import progress

FORMAT = 3  # of the files; raise it when their content changes
FOLDER = "frozen"  # below result/
BATCH = 64  # images that run through the trunk together
BLOCK = 512  # images after which progress is recorded
MOST_SMALL = 0.01  # share of the values other than zero that may be below float16's normal numbers
PROBED = 256  # outputs for noise that a record has, evenly spaced
# Largest difference between these, as a share of the largest. They are computed without autocast: machines differ by
# the order of their sums and by TensorFloat-32, whose 11 bits come to less; another activation comes to more.
MOST_DRIFT = 0.01
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


# --- what is to be computed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """The outputs of a trunk for the images of a run.

    Rows are numbered: those of the training images, the same flipped left to right, those of the validation images.

    Attributes:
        cut: the network.
        train_set: the training images, with the validation transform.
        val_set: the validation images, with the same.
        options: of the loaders.
        amp: autocast type; None for float32.
        shape: of one output.
        train: how many of the training images, from the first.
        val: how many of the validation images.
        probe: some outputs for noise, which tell the trunk's code.
    """

    cut: Cut
    train_set: Images
    val_set: Images
    options: LoaderOptions
    amp: torch.dtype | None
    shape: tuple[int, ...]
    train: int
    val: int
    probe: list[float]

    @property
    def rows(self) -> int:
        """In all."""
        return 2 * self.train + self.val

    @property
    def row_bytes(self) -> int:
        """Of one output, in half precision."""
        return 2 * math.prod(self.shape)

    def blocks(self) -> list["Block"]:
        """All work in portions, in the order in which it is done."""
        return [
            Block(is_train, start, min(start + BLOCK, count))
            for is_train, count in ((True, self.train), (False, self.val))
            for start in range(0, count, BLOCK)
        ]


@dataclass(frozen=True)
class Block:
    """Some images of a split, from `start` to before `stop`."""

    is_train: bool
    start: int
    stop: int

    def first_rows(self, job: Job) -> list[int]:
        """The row of its first image; of training images also that of the first one flipped."""
        return [self.start, job.train + self.start] if self.is_train else [2 * job.train + self.start]

    def rows(self) -> int:
        """In all."""
        return (self.stop - self.start) * (2 if self.is_train else 1)


def make_job(cut: Cut, sets: tuple[Images, Images], options: LoaderOptions, amp: torch.dtype | None, run: Run) -> Job:
    """The work of a run: `sets` are its training and validation images, which get the validation transform."""
    train_set, val_set = sets
    train_set.transform = val_set.transform = val_transform(run.source.spec)
    values, _ = _outputs(cut, noise(cut.model, run.source.spec.size), options, None)
    spaced = torch.linspace(0, values.numel() - 1, min(PROBED, values.numel())).long()
    probe = [float(f"{value:.6g}") for value in values.nan_to_num().flatten()[spaced].tolist()]
    return Job(cut, train_set, val_set, options, amp, tuple(values.shape[1:]), len(train_set), len(val_set), probe)


def key_of(job: Job, run: Run) -> MadeOf:
    """All that the outputs depend on, but for the rounding of machines, and for code, which `Job.probe` tells."""
    made_of, source = run.plan.made_of, run.source
    return {
        "format": FORMAT,
        "frozen_weights": made_of["frozen_weights"],
        "arch": run.config.arch.removesuffix(DKA_SUFFIX),  # a dense head has the same trunk
        "layer": job.cut.layer,
        "train": job.train,
        "val": job.val,
        "train_files": stamp_of_images(job.train_set, source.folder),
        "val_files": stamp_of_images(job.val_set, source.folder),
        "size": source.spec.size,
        "resize": source.spec.resize,
        "mean": list(settings.MEAN),
        "std": list(settings.STD),
        "flipped": True,
        "amp": str(job.amp),
        "shape": list(job.shape),
        "block": BLOCK,
    }


def folder_of(key: MadeOf, workdir: Path) -> Path:
    """Where the outputs that have this key are kept."""
    return workdir / settings.RESULT_ROOT / FOLDER / fingerprint(json.dumps(key, sort_keys=True))[:16]


# --- computing ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _outputs(cut: Cut, images: Tensor, options: LoaderOptions, amp: torch.dtype | None) -> list[Tensor]:
    """The trunk's outputs (B, ...) for images (B, 3, H, W), and for the same flipped, float32 on the CPU."""
    cut.model.eval()
    images = to_device(images, options.device)
    with torch.autocast(options.device.type, amp, enabled=amp is not None):
        found = [cut.trunk(view) for view in (images, images.flip(-1))]
    return [values.float().cpu() for values in found]


def _computed(job: Job, block: Block, batches: Iterator[tuple[Tensor, Any]]) -> Iterator[list[Tensor]]:
    """The outputs of a block by batches: (B, ...), of training images also those of the flipped ones.

    Raises:
        UserError: for one that is not finite, naming the image.
    """
    start, images = block.start, job.train_set if block.is_train else job.val_set
    while start < block.stop:
        pixels, _ = next(batches)
        found = _outputs(job.cut, pixels, job.options, job.amp)[: 2 if block.is_train else 1]
        for values in found:
            bad = (~values.flatten(1).isfinite().all(1)).nonzero()
            if len(bad):
                name = images.file(start + int(bad[0]))
                hint = "" if job.amp is None else ", with --amp off perhaps they are"
                raise UserError(f"{name}: the outputs of {job.cut.layer} for it are not finite{hint}")
        yield found
        start += len(pixels)


def _loaded(job: Job, blocks: list[Block]) -> Iterator[tuple[Tensor, Any]]:
    """Batches of the images of consecutive blocks; none goes beyond the end of a block, since BATCH divides BLOCK."""
    for images, is_train in ((job.train_set, True), (job.val_set, False)):
        own = [block for block in blocks if block.is_train == is_train]
        if own:
            numbers = range(own[0].start, own[-1].stop)
            yield from make_loader(images, BATCH, job.options.workers, job.options.device, numbers)


def choose_dtype(values: Tensor) -> torch.dtype:
    """float16, whose values have 11 bits; or bfloat16, 8 bits, where values exceed 65504 or many are below 6e-5."""
    size = values.abs()
    nonzero = size[size > 0]
    float16 = torch.finfo(torch.float16)
    small = (nonzero < float16.smallest_normal).double().mean().item() if len(nonzero) else 0.0
    return torch.bfloat16 if not _fits(values) or small > MOST_SMALL else torch.float16


def _fits(values: Tensor) -> bool:
    return bool(values.abs().max() <= torch.finfo(torch.float16).max)


class _TooLarge(Exception):
    """A value exceeds float16."""


def _as_bytes(values: Tensor, dtype: torch.dtype) -> bytes:
    """Values (B, ...) as they are stored. Raises _TooLarge."""
    if dtype == torch.float16 and not _fits(values):
        raise _TooLarge
    return values.to(dtype).contiguous().view(torch.int16).numpy().tobytes()


def computed_rows(job: Job) -> Tensor:
    """All outputs in memory: (rows, ...), in half precision as a cache would have them; for few images."""
    blocks = job.blocks()
    batches = _loaded(job, blocks)
    parts: list[list[Tensor]] = [[], [], []]
    for block in blocks:
        for found in _computed(job, block, batches):
            for place, values in zip([0, 1] if block.is_train else [2], found, strict=True):
                parts[place].append(values)
    rows = torch.cat([values for part in parts for values in part])
    return rows.to(choose_dtype(rows))


# --- the cache ----------------------------------------------------------------------------------------------------


def cached_rows(job: Job, key: MadeOf, folder: Path) -> Tensor:
    """All outputs, from the cache, which is computed first unless it is there, whole and undamaged.

    In a run of several processes the main one computes, and the others wait for it.

    Returns:
        (rows, ...), float16 or bfloat16, memory-mapped; what is written to it does not reach the file.

    Raises:
        UserError: if the disk is full or not writable, or an output is not finite.
    """
    if distributed.is_main_process():
        with _held(folder):
            fault = _fault_of(folder, key, job)
            if fault:
                log.warning("the cache %s is not used: %s", display_path(folder), fault)
            if fault is not None:
                _compute(job, key, folder)
            else:
                log.info("frozen outputs: %s of %s, from %s", f"{job.rows:,}", job.cut.layer, display_path(folder))
    distributed.barrier()
    made_of = read_companion(folder / "features.bin") or {}
    dtype = DTYPES[made_of["dtype"]]
    count = job.rows * math.prod(job.shape)
    mapped = torch.from_file(str(folder / "features.bin"), shared=False, size=count, dtype=dtype)
    return mapped.view(job.rows, *job.shape)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Within the block the folder is this process's; it waits for another one that computes the same."""
    with ExitStack() as held:
        try:
            held.enter_context(lock_folder(folder))
        except UserError:  # of another run; or for ever, which the second attempt says
            log.info("waiting for another run that computes %s", display_path(folder))
            held.enter_context(lock_folder(folder, wait=True))
        yield


def _fault_of(folder: Path, key: MadeOf, job: Job) -> str | None:
    """Why a cache cannot be used; None if it can, '' if there is none."""
    if not os.path.lexists(folder / "features.bin") and not os.path.lexists(companion(folder / "features.bin")):
        return ""
    made_of = _record_of(folder / "features.bin", key, job)
    if made_of is None:
        return "its record is missing, damaged or another one's"
    if not _answers_alike(made_of, job):
        return "the network has the same weights, but answers otherwise than when it was written"
    try:
        size = regular_file(folder / "features.bin", "").stat().st_size
        if size != job.rows * job.row_bytes:
            return f"it has {size:,} bytes, expected {job.rows * job.row_bytes:,}"
        if _sound_blocks(folder / "features.bin", made_of, job) < len(job.blocks()):
            return "its content has changed since it was written"
    except (OSError, UserError) as error:
        return f"it cannot be read ({error})"
    return None


def _record_of(path: Path, key: MadeOf, job: Job) -> MadeOf | None:
    """The record of a file of outputs, if it has this key and what else belongs into it."""
    try:
        made_of = read_companion(path)
    except UserError:
        return None
    if made_of is None or differences(made_of, key) or made_of.get("dtype") not in DTYPES:
        return None
    sums = made_of.get("crc")
    whole = isinstance(sums, list) and all(type(value) is int for value in sums) and len(sums) <= len(job.blocks())
    return made_of if whole else None


def _answers_alike(made_of: MadeOf, job: Job) -> bool:
    """Whether the trunk that a record tells of had, for noise, the outputs that the job's has."""
    probe = made_of.get("probe")
    if not isinstance(probe, list) or len(probe) != len(job.probe) or any(type(value) is not float for value in probe):
        return False
    found, now = np.array(probe), np.array(job.probe)
    return bool((np.abs(found - now) <= MOST_DRIFT * np.abs(now).max(initial=0)).all())


def _sound_blocks(path: Path, made_of: MadeOf, job: Job) -> int:
    """How many blocks, from the first on, have the content that was written."""
    with open(path, "rb") as file:
        for number, (block, expected) in enumerate(zip(job.blocks(), made_of["crc"], strict=False)):
            if _checksum(file, block, job, made_of["dtype"]) != expected:
                return number
    return len(made_of["crc"])


def _checksum(file: BinaryIO, block: Block, job: Job, dtype: str) -> int:
    """CRC-32 of a block's type and bytes, which mean nothing without it: against damage, not against an adversary."""
    found = zlib.crc32(dtype.encode())
    for row in block.first_rows(job):
        file.seek(row * job.row_bytes)
        found = zlib.crc32(file.read((block.stop - block.start) * job.row_bytes), found)
    return found


def _compute(job: Job, key: MadeOf, folder: Path) -> None:
    """Compute the cache, or the rest of it. Raises UserError as `cached_rows`."""
    partial, whole = folder / "partial.bin", folder / "features.bin"
    with writing(whole):
        for path in (companion(whole), whole):  # that cannot be used; another run that has it open keeps it
            path.unlink(missing_ok=True)
    made_of = _record_of(partial, key, job)
    usable = made_of is not None and _answers_alike(made_of, job) and partial.is_file() and not partial.is_symlink()
    done = _sound_blocks(partial, made_of, job) if made_of and usable else 0
    own = {**key, "probe": job.probe}
    dtype = DTYPES[made_of["dtype"]] if made_of and done else None
    try:
        made_of = _fill(job, partial, {**own, "crc": made_of["crc"][:done] if made_of else []}, dtype)
    except _TooLarge:
        log.warning("an output of %s exceeds float16: computing all of them again for bfloat16", job.cut.layer)
        made_of = _fill(job, partial, {**own, "crc": []}, torch.bfloat16)
    with writing(whole):
        os.replace(partial, whole)
    write_companion(whole, made_of)
    companion(partial).unlink(missing_ok=True)


def _fill(job: Job, partial: Path, made_of: MadeOf, dtype: torch.dtype | None) -> MadeOf:
    """Write the blocks that are not there yet, and record each.

    Args:
        job: what to compute.
        partial: the file.
        made_of: its record; the sums in `crc` are of the blocks that are there.
        dtype: of the values that are there; None: chosen by the first ones.

    Returns:
        the record of the whole file.

    Raises:
        _TooLarge: for a value beyond float16.
        UserError: as `cached_rows`.
    """
    blocks, sums = job.blocks(), list(made_of["crc"])
    done = sum(block.rows() for block in blocks[: len(sums)])
    _check_room(job, partial.parent, done)
    if dtype is not None:
        made_of = {**made_of, "dtype": str(dtype).removeprefix("torch.")}  # also if all of them are there
    if done:
        log.info("the cache has %s of %s outputs: computing the others", f"{done:,}", f"{job.rows:,}")
    else:
        with writing(partial):
            partial.unlink(missing_ok=True)
            partial.touch()
    began, batches = time.perf_counter(), _loaded(job, blocks[len(sums) :])
    with (
        writing(partial),
        open(partial, "rb+") as file,
        progress(desc=f"outputs of {job.cut.layer}", unit="img", total=job.rows, initial=done) as bar,
    ):
        for block in blocks[len(sums) :]:
            rows = block.first_rows(job)
            for found in _computed(job, block, batches):
                dtype = dtype or choose_dtype(torch.cat(found))
                for place, values in enumerate(found):
                    file.seek(rows[place] * job.row_bytes)
                    file.write(_as_bytes(values, dtype))
                    rows[place] += len(values)
                bar.update(sum(map(len, found)))
            file.flush()
            kind = str(dtype).removeprefix("torch.")
            sums.append(_checksum(file, block, job, kind))
            made_of = {**made_of, "dtype": kind, "crc": sums}
            write_companion(partial, made_of)
    _report(job, job.rows - done, time.perf_counter() - began, made_of)
    return made_of


def _check_room(job: Job, folder: Path, done: int) -> None:
    """Raises UserError if the disk has no room for the outputs that are still to be computed."""
    needed, free = (job.rows - done) * job.row_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {free / 1e9:.1f} GB are free, the outputs of {job.cut.layer} need {needed / 1e9:.1f}: "
            "freeze a layer with fewer values"
        )


def _report(job: Job, rows: int, seconds: float, made_of: MadeOf) -> None:
    log.info(
        f"frozen outputs: {rows:,} of {job.cut.layer} with {math.prod(job.shape):,} values each, {made_of['dtype']}, "
        f"{job.rows * job.row_bytes / 1e9:.2f} GB, in {seconds:.0f} s: {rows / seconds:.0f} images/s, "
        "those of the flipped ones counted"
    )


# --- batches ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrozenFeatures:
    """A trunk's outputs for all images of a run, and batches of them.

    Attributes:
        rows: (rows, ...), numbered as in `Job`.
        targets: (T,) classes of the training images.
        val_targets: (V,) classes of the validation images.
    """

    rows: Tensor
    targets: Tensor
    val_targets: Tensor

    def epoch_batches(self, options: LoaderOptions, seed: int, epoch: int, start: int = 0) -> Batches:
        """This process's training batches of an epoch, in the order of `epoch_loader`, half of the images flipped.

        Args:
            options: batch size.
            seed: the run's.
            epoch: from 0; with the seed it determines order and flips.
            start: batches to skip, because a run that was interrupted has trained on them.
        """
        count = len(self.targets)
        order = torch.tensor(epoch_order(count, options, seed, epoch, start), dtype=torch.long)
        index = order + count * flips(count, seed, epoch)[order]
        return RowBatches(self.rows, index, self.targets[order], options.batch_size // distributed.world_size())

    def val_batches(self, batch_size: int) -> Batches:
        """This process's share of the validation images."""
        own = torch.tensor(distributed.shard(len(self.val_targets)), dtype=torch.long)
        return RowBatches(self.rows, own + 2 * len(self.targets), self.val_targets[own], max(1, batch_size))


def flips(count: int, seed: int, epoch: int) -> Tensor:
    """Which of `count` images an epoch flips: (count,) bool; each depends on seed, epoch and the image's index only."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).random(count) < 0.5)


@dataclass(frozen=True)
class RowBatches:
    """Batches of rows, gathered at once: (outputs (B, ...), classes (B,)), again each time they are iterated.

    Attributes:
        rows: (rows, ...).
        index: (S,) which of them, in order.
        targets: (S,) their classes.
        batch_size: B.
    """

    rows: Tensor
    index: Tensor
    targets: Tensor
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.index) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, targets in zip(self.index.split(self.batch_size), self.targets.split(self.batch_size), strict=True):
            yield self.rows.index_select(0, index), targets


def frozen_features(job: Job, rows: Tensor) -> FrozenFeatures:
    """The rows of a job with the classes of its images."""
    targets = [
        torch.as_tensor(images.targets, dtype=torch.long)[:count]
        for images, count in ((job.train_set, job.train), (job.val_set, job.val))
    ]
    return FrozenFeatures(rows, *targets)


def first_features(job: Job, images: int, val_images: int) -> FrozenFeatures:
    """Those of the first images only, computed in memory; logs what all of them would take."""
    some = replace(job, train=min(images, job.train), val=min(val_images, job.val))
    began = time.perf_counter()
    rows = computed_rows(some)
    rate = some.rows / (time.perf_counter() - began)
    log.info(
        f"frozen outputs: {job.rows:,} of {job.cut.layer}, {job.rows * job.row_bytes / 1e9:.2f} GB, at "
        f"{rate:.0f} images/s, those of the flipped ones counted: {job.rows / rate / 3600:.2f} h"
    )
    return frozen_features(some, rows)
