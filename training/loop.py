"""Training as the paper does it: data, model, optimizer, epochs. train.py's work, importable."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import models
from loader.batches import LoaderOptions, epoch_loader, make_loader
from loader.datasets import DataSource, find_dataset, fitting_datasets
from loader.images import train_transform, val_transform
from loader.splits import Images
from models.cut import TRUNK, Cut, cut_at, frozen_fingerprint
from models.heads import predict, times_voted
from models.probe import NoInputFits, fitting_noise
from models.slim import fill
from models.snapshot import Fresh, is_text, load_pretrained
from training.config import Plan, TrainConfig, k_of_epochs, make_plan
from training.dry_run import dry_run
from training.epoch import Batches, NonFiniteLoss, Sums, evaluate_features, train_one_epoch
from training.frozen import FrozenFeatures, Job, cached_rows, folder_of, frozen_features, key_of, make_job
from training.identity import made_of_run
from training.resume import Checkpoint, check_plan, find_resume, restore
from training.runs import (
    EpochRecord,
    Run,
    log,
    remove_old_snapshots,
    report_epoch,
    save_epoch,
    save_interrupted,
    scalar_writer,
    summarize,
)
from training.state import TrainState, create_state
from util import distributed
from util.cli import Terminated, UserError, catch_sigterm
from util.device import describe_device, pick_amp, pick_device
from util.files import display_path
from util.text import shown

ROOT = Path(__file__).resolve().parent.parent  # of the repository, whose data/ has the data sets

Build = Callable[[str, int, int | None], nn.Module]  # arch, number of classes and K -> the network


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on.

    Attributes:
        source: the data set.
        train_set: the training images; their transform is the epoch's.
        val_set: the validation images.
        val_loader: this process's share of them.
        options: of the loaders.
        features: what the frozen part of the network makes of the images; None if all of it is trained.
    """

    source: DataSource
    train_set: Images
    val_set: Images
    val_loader: Batches
    options: LoaderOptions
    features: FrozenFeatures | None = None

    @property
    def own_batch(self) -> int:
        """This process's share of a batch."""
        return self.options.batch_size // distributed.world_size()

    def epoch_batches(self, plan: Plan, epoch: int, start: int) -> Batches:
        """This process's training batches of an epoch, from batch `start` on; images are transformed as it asks."""
        if self.features is not None:
            return self.features.epoch_batches(self.options, plan.seed, epoch, start)
        spec = self.source.spec
        self.train_set.transform = train_transform(spec, half=epoch < round(spec.training.small_share * plan.epochs))
        return epoch_loader(self.train_set, self.options, plan.seed, epoch, start)

    def behind(self, job: Job, run: Run) -> "TrainingData":
        """The same with the outputs of a frozen part in place of images; they are computed if they are not cached."""
        key = key_of(job, run)
        features = frozen_features(job, cached_rows(job, key, folder_of(key, run.workdir)))
        return replace(self, features=features, val_loader=features.val_batches(self.own_batch))


def train_and_evaluate(
    config: TrainConfig,
    workdir: str | Path,
    source: DataSource | None = None,
    build_model: Build | None = None,
) -> dict[str, Any]:
    """Train a network, and validate it after each epoch.

    Writes snapshot/ and result/pytorch_{arch}_{mark}_{dataset}/ below `workdir`, and nothing anywhere else; but
    mini_places, if it is asked for and not there, is rendered into the data folder first.

    Args:
        config: what to do, as the flags of train.py.
        workdir: the folder that gets snapshot/ and result/.
        source: the data set; None finds the one that the config names.
        build_model: called with arch, number of classes and K; None is `models.build_model`.

    Returns:
        the last validation's loss, top1, top5 (per cent), count and images_per_second, and `snapshot`, the path of the
        newest one (absent after a dry run).

    Raises:
        UserError: for a mistake in the config or in the files that it names, before any work.
        NonFiniteLoss: if the loss became NaN or infinite; no snapshot holds such weights.
        Terminated: after SIGTERM, once the state is saved.
    """
    config.check()
    device, build = pick_device(config.device), build_model or models.build_model
    source = source or find_source(config)
    source = check_names((source.behind_frozen() if config.freeze else source).at_size(config.size))
    data, plan = load_data(config, source, device)
    model, fresh = built(config, source, plan, build)
    network = freeze(model, config, source, device, build)
    frozen = network.fingerprint() if isinstance(network, Cut) else None
    plan = replace(plan, made_of=made_of_run(config, source, data.train_set, models.head_of(model), frozen))
    state = create_state(network, plan, source.spec.training, device, pick_amp(config.amp, device), config.compile)
    run = Run(config, plan, source, Path(workdir))
    checkpoint, partial = find_resume(config.resume, run), {}
    if checkpoint:
        run = replace(run, plan=check_plan(checkpoint, plan, finetune=config.finetune is not None))
        checkpoint = replace(checkpoint, content=fill(checkpoint.content, model, checkpoint.path))
        partial = restore(state, checkpoint, run.plan)
    with run.opened():
        log_start(run, state, data, fresh)
        if checkpoint:
            log_resumed(checkpoint, run, state, partial)
        job = frozen_job(run, state, data)
        if config.dry_run:
            return dry_run(run, state, data.train_set, data.val_set, data.options, job)
        return train_epochs(run, state, data.behind(job, run) if job else data, partial)


def built(config: TrainConfig, source: DataSource, plan: Plan, build: Build) -> tuple[nn.Module, Fresh | None]:
    """The network of a run, and the parameters that --finetune left as new; None without it.

    Raises:
        UserError: if it cannot take the run's images, or has fewer pooled features than any epoch's K.
    """
    torch.manual_seed(config.seed)
    model = build(config.arch, len(source.classes), config.topk)
    fresh = load_pretrained(model, config.finetune) if config.finetune else None
    width, most = models.head_of(model).in_features, max(run_topk(config, plan), default=0)
    if most > width:
        raise UserError(f"--k_schedule {config.k_schedule}: K = {most}, but {config.arch} has {width} pooled features")
    size, small_share = source.spec.size, source.spec.training.small_share
    sides = {size: ""}
    if config.freeze is None and round(small_share * plan.epochs):  # as `epoch_batches`
        sides[size // 2] = ", of which the first epochs see half"
    for side, hint in sides.items():
        try:
            fitting_noise(model, (side,))
        except NoInputFits as error:
            raise UserError(f"--size {size}{hint}: {config.arch}: {error}") from error
    return model, fresh


def run_topk(config: TrainConfig, plan: Plan) -> list[int]:
    """K of each epoch; none for a dense head."""
    return [topk for topk in k_of_epochs(config.k_schedule, config.topk, plan.epochs) if topk is not None]


def freeze(
    model: nn.Module, config: TrainConfig, source: DataSource, device: torch.device, build: Build
) -> nn.Module | Cut:
    """The network, cut where the config says; its modules are on the device already, since both parts share them.

    Raises:
        UserError: if it cannot be cut there, or slim snapshots would lack weights that nothing brings back.
    """
    if config.freeze is None:
        return model
    cut = cut_at(model.to(device).to(memory_format=torch.channels_last), config.freeze, source.spec.size)
    if config.slim and not config.finetune:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(config.seed + 1)
            other = build(config.arch, len(source.classes), config.topk)
        if frozen_fingerprint(other.state_dict(), cut.frozen) != cut.fingerprint():
            raise UserError(
                "--slim: the frozen weights are random, nothing would bring them back: give --finetune, or leave "
                "--slim out"
            )
    return cut


def frozen_job(run: Run, state: TrainState, data: TrainingData) -> Job | None:
    """What is to be computed of a frozen part; None if there is none. The images get the transform for it."""
    if state.cut is None:
        data.train_set.transform = train_transform(data.source.spec)
        return None
    return make_job(state.cut, (data.train_set, data.val_set), data.options, state.amp, run)


def find_source(config: TrainConfig) -> DataSource:
    """The data set that a config names; the main process renders the embedded one if it is not there."""
    with distributed.main_process_first():
        return find_dataset(config.dataset, config.data, ROOT)


def check_names(source: DataSource) -> DataSource:
    """The data set. Raises UserError for class names that a snapshot cannot hold, before work is spent on it."""
    for kind, name in [("data set", source.name), *(("class", name) for name in source.classes)]:
        if not is_text(name):
            of = f" of data set {source.name}" if kind == "class" else ""
            raise UserError(f"{kind} {name!r}{of}: its name is not UTF-8, which snapshots need; rename the folder")
    return source


def load_data(config: TrainConfig, source: DataSource, device: torch.device) -> tuple[TrainingData, Plan]:
    """Both splits of a data set, and the plan of a run over them. Raises UserError if they cannot be shared."""
    train_set, val_set = source.dataset("train"), source.dataset("val", val_transform(source.spec))
    plan = make_plan(config, source.spec.training, len(train_set))
    options = LoaderOptions(plan.batch_size, config.workers, device)
    own = distributed.shard(len(val_set))
    val_loader = make_loader(val_set, plan.batch_size // distributed.world_size(), config.workers, device, own)
    return TrainingData(source, train_set, val_set, val_loader, options), plan


# --- epochs -------------------------------------------------------------------------------------------------------


def train_epochs(run: Run, state: TrainState, data: TrainingData, partial: dict[str, Any]) -> dict[str, Any]:
    """All epochs from the state's on, each with its validation, its line of train.jsonl and its snapshot.

    Returns and raises as `train_and_evaluate`; `partial` is as of `train_and_validate`.
    """
    with ExitStack() as held:
        write_scalars = None
        if run.config.tensorboard and distributed.is_main_process():
            write_scalars = held.enter_context(scalar_writer(run.results, state.epoch))
        stop = held.enter_context(catch_sigterm())
        for epoch in range(state.epoch, run.plan.epochs):
            state.epoch = epoch
            line, tested = train_and_validate(run, state, data, partial, stop)
            partial = {}
            if distributed.is_main_process():
                if not run.results.is_dir():
                    save_epoch(run, state, tested)
                    raise UserError(
                        f"{run.results}: removed while the run was writing to it; --resume auto continues after "
                        + run.plan.epoch_name(epoch)
                    )
                # First the line, then the snapshot: a resumed run drops the lines of epochs that it repeats.
                lines = report_epoch(run, line)
                if write_scalars:
                    write_scalars(lines[-1])
                save_epoch(run, state, tested)
                remove_old_snapshots(run, lines, run.config.keep)
        newest = run.snapshot(state.epoch)
        if distributed.is_main_process():
            summarize(lines)
            log.info("newest snapshot: %s", display_path(newest))
        return {**tested, "snapshot": str(newest)}


def train_and_validate(
    run: Run, state: TrainState, data: TrainingData, partial: dict[str, Any], stop: Callable[[], bool]
) -> tuple[EpochRecord, dict[str, float]]:
    """An epoch, or the rest of one, and the validation after it.

    Args:
        run: of which this is an epoch.
        state: changed in place.
        data: to train on and to validate with.
        partial: the `Sums` of the epoch's earlier batches, as a dict; empty at its beginning.
        stop: whether SIGTERM was received.

    Returns:
        the epoch's line of train.jsonl, and the metrics of the validation.

    Raises:
        NonFiniteLoss: of training or of validation.
        Terminated: after SIGTERM, once the state is saved.
    """
    state.set_topk(run.topk(state.epoch))
    done = partial.get("steps", 0)
    # The main process continues the sums of all processes.
    sums = Sums(**partial) if distributed.is_main_process() else Sums(steps=done)
    trained = train_one_epoch(state, data.epoch_batches(run.plan, state.epoch, done), sums, stop)
    distributed.broadcast(state.model.buffers())  # BatchNorm's: each process has those of its own last images
    tested, pooled = evaluate_features(state.trained, data.val_loader, state.device, state.amp, stop, state.head)
    if distributed.any_process(stop()):
        so_far = sums.of_all_processes().to_dict()
        if distributed.is_main_process():
            save_interrupted(run, state, so_far)
        distributed.barrier()
        raise Terminated(f"saved {display_path(run.interrupted)}; --resume auto continues from there")
    if not math.isfinite(tested["loss"]):
        when = run.plan.epoch_name(state.epoch)
        raise NonFiniteLoss(f"the validation loss is {tested['loss']} after {when}: lower --lr")
    state.best = max(state.best, tested["top1"])
    routes = route_statistics(state, pooled)
    return epoch_record({"epoch": state.epoch, "topk": run.topk(state.epoch)}, trained, tested, routes), tested


def route_statistics(state: TrainState, pooled: Tensor) -> dict[str, float]:
    """How many units the predictions of all processes' validation images go through.

    Args:
        state: whose head predicts.
        pooled: (V, N) pooled features of this process's images.

    Returns:
        units_per_example and dead_units, as in `EpochRecord`.
    """
    times = times_voted(state.head, pooled, predict(state.head, pooled)).numpy()  # (N,)
    count = np.array([len(pooled)])
    distributed.all_reduce(times, count)
    return {"units_per_example": int(times.sum()) / int(count[0]), "dead_units": int((times == 0).sum())}


def epoch_record(
    which: dict[str, int | None], trained: dict[str, float], tested: dict[str, float], routes: dict[str, float]
) -> EpochRecord:
    """An epoch's line of train.jsonl; `which` is its number and K, which is left out where it is None."""
    line: dict[str, Any] = {name: value for name, value in which.items() if value is not None}
    line |= {"lr": trained["lr"], "images_per_second": trained["images_per_second"]}
    for split, metrics in (("train", trained), ("val", tested)):
        line |= {f"{split}_{name}": metrics[name] for name in ("loss", "top1", "top5")}
    return cast(EpochRecord, {name: round(value, 6) for name, value in {**line, **routes}.items()})


# --- log ----------------------------------------------------------------------------------------------------------


def log_start(run: Run, state: TrainState, data: TrainingData, fresh: Fresh | None) -> None:
    """Say what is about to be trained, where, and on what; `fresh` are the parameters that --finetune left as new."""
    config, plan, source = run.config, run.plan, run.source
    log.info("device: %s, %s", describe_device(state.device), f"autocast to {state.amp}" if state.amp else "float32")
    if distributed.world_size() > 1:
        log.info(f"processes: {distributed.world_size()}, with {data.own_batch} images of each batch")
    log.info(
        f"data: {source.folder}, {len(data.train_set)} train, {len(data.val_set)} val, {len(source.classes)} classes"
    )
    log.info(f"model: {config.arch}, {f'K = {config.k_schedule or config.topk}' if config.topk else 'dense head'}")
    if state.cut is not None:
        log_frozen(state, state.cut, fresh)
    log.info(
        f"schedule: {plan.epochs} epochs, batch {plan.batch_size}, lr {plan.lr:g} ({source.spec.training.schedule}), "
        f"seed {plan.seed}"
    )
    if fresh is not None:
        log.info("weights of %s; freshly initialised: %s", config.finetune, ", ".join(fresh.names) or "none")
        if fresh.names and fresh.classes not in (None, len(source.classes)):
            found = f"its head has {fresh.classes} classes, {source.name} has {len(source.classes)}"
            log.info("%s%s", found, fitting_datasets(fresh.classes))


def log_frozen(state: TrainState, cut: Cut, fresh: Fresh | None) -> None:
    """Say how much of a network is frozen, and where its weights are from."""
    total = sum(value.numel() for value in state.model.parameters())
    trained = sum(value.numel() for value in cut.parameters())
    origin = "as the architecture brings them" if fresh is None else "of --finetune"
    log.info(
        f"frozen: all but the head, {total - trained:,} of {total:,} weights, {origin}"
        if cut.layer == TRUNK
        else f"frozen: up to {cut.layer}, {total - trained:,} of {total:,} weights, {origin}"
    )


def log_resumed(checkpoint: Checkpoint, run: Run, state: TrainState, partial: dict[str, Any]) -> None:
    """Say what the run resumes from, which later snapshots it could not use, and what it cannot know."""
    for reason in checkpoint.unusable:
        log.warning("%s: taking the one before", reason)
    if unknown := checkpoint.unknown(run.plan):
        log.warning("%s does not say %s of its run: not compared", checkpoint.path, ", ".join(unknown))
    was = checkpoint.training.get("amp", str(state.amp))
    if was != str(state.amp):
        log.warning("so far it was trained with autocast to %s, from now on to %s", shown(was), state.amp)
    when = run.plan.epoch_name(state.epoch)
    log.info("resumed from %s in %s, step %d", checkpoint.path, when, partial.get("steps", 0))
