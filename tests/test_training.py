"""Training: what it writes, how interrupted runs resume, in one process and in several; and users' mistakes."""

import json
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, call, run_train, write_tree
from PIL import Image

from loader.batches import make_loader
from loader.datasets import DataSource, find_dataset, spec_of
from loader.images import val_transform
from models import build_model, head_of, load_snapshot
from models.heads import ByMagnitudeHead, DenseHead, NoBiasHead, StaticHead, StraightThroughHead
from training import TrainConfig, config, dry_run, runs, train_and_evaluate
from training.config import check_shares, k_of_epochs, make_plan
from training.epoch import READ_EVERY, NonFiniteLoss, Sums, evaluate, evaluate_features, train_one_epoch, train_step
from training.loop import route_statistics
from training.state import build_scheduler, create_state
from util import distributed
from util.cli import UserError
from util.device import pick_amp
from util.files import lock_folder


def test_training_leaves_snapshots_and_numbers(trained, tree):
    root, snapshot, metrics = trained
    model, about = load_snapshot(snapshot)
    assert (about["epoch"], about["arch"], about["topk"], about["dataset"]) == (1, "resnet18_fc_ma", 5, "tiny_places")
    assert about["classes"] == ["bakery-shop", "beach", "tundra"]
    results = root / "result/pytorch_resnet18_fc_ma_t5_tiny_places"
    lines = [json.loads(line) for line in (results / "train.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    with Image.open(results / "curves.png") as curves:
        assert curves.size[0] > 1000
    assert {"train_loss", "val_top1", "val_top5", "lr", "images_per_second"} <= set(lines[0])
    assert about["best_prec1"] == pytest.approx(max(line["val_top1"] for line in lines), abs=1e-4)
    assert "K = 5" in (results / "train.log").read_text()
    source = find_dataset(str(tree))
    loader = make_loader(source.dataset("val", val_transform(source.spec)), 4, 0, torch.device("cpu"))
    again = evaluate(model, loader, torch.device("cpu"), pick_amp("auto", torch.device("cpu")))
    assert again["top1"] == pytest.approx(metrics["top1"])
    assert again["loss"] == pytest.approx(metrics["loss"], abs=1e-3)


def test_a_resumed_run_ends_as_an_undisturbed_one(trained, tree, tmp_path):
    _, snapshot, _ = trained
    first = snapshot.with_name("epoch_0.pth")
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", first)
    resumed = torch.load(tmp_path / "snapshot" / snapshot.parent.name / "epoch_1.pth")["state_dict"]
    expected = torch.load(snapshot)["state_dict"]
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)
    with pytest.raises(UserError, match="nothing is left to train"):
        run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto")
    with pytest.raises(UserError, match="of a run with epochs 2, not epochs 9: it cannot be resumed so"):
        run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto", "--epochs", 9)


def test_a_truncated_snapshot_is_named_and_the_one_before_is_used(trained, tree, tmp_path, capsys):
    _, snapshot, _ = trained
    folder = tmp_path / "snapshot" / snapshot.parent.name
    folder.mkdir(parents=True)
    for name in ("epoch_0.pth", "epoch_1.pth"):
        shutil.copy(snapshot.with_name(name), folder / name)
    (folder / "epoch_1.pth").write_bytes(snapshot.read_bytes()[:-1000])
    (folder / ".epoch_1-x8s1.pth").write_bytes(b"left by a run that was killed")
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto")
    assert re.search(r"epoch_1.pth: unreadable or truncated .*: taking the one before", capsys.readouterr().out)
    assert equal_weights(folder / "epoch_1.pth", snapshot)
    assert sorted(path.name for path in folder.iterdir()) == ["epoch_0.pth", "epoch_1.pth"]
    for name in ("epoch_0.pth", "epoch_1.pth"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 snapshots can be read"):
        run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto")


def equal_weights(one, other):
    one, other = (torch.load(path)["state_dict"] for path in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def equal_numbers(one, other):
    """Whether the epochs' lines of two runs are the same, but for the speed."""
    one, other = ([{**line, "images_per_second": 0} for line in runs.read_epochs(folder)] for folder in (one, other))
    return one == other


def script(root, disturbance):
    """A program that is train.py, writing below `root`, with something that happens to it."""
    return f"""
import os, pathlib, signal
import torch, train
from training import loop
from util import cli
step, save, evaluate = torch.optim.SGD.step, torch.save, loop.evaluate_features
steps, me = [], os.getpid()
{disturbance}
cli.run(lambda: train.main(pathlib.Path({str(root)!r})), "train.py")
"""


FLAGS = ["--epochs", 2, "--batch_size", 4, "--lr", 0.01, "--device", "cpu"]
KILLED_IN_TRAINING = """
def dying_step(self, *args, **kwargs):
    steps.append(1)
    if len(steps) == 5: os.kill(me, signal.SIGKILL)
    return step(self, *args, **kwargs)
torch.optim.SGD.step = dying_step
"""
KILLED_IN_SAVING = """
def dying_save(data, file):
    save(data, file)
    if data["epoch"] == 1:
        file.truncate(1000)
        os.kill(me, signal.SIGKILL)
torch.save = dying_save
"""
TERMINATED_IN_TRAINING = """
def doomed_step(self, *args, **kwargs):
    steps.append(1)
    if len(steps) == 5:  # the processes that read images get the signal too
        os.system(f"kill -TERM -{os.getpgrp()}")
    return step(self, *args, **kwargs)
torch.optim.SGD.step = doomed_step
"""
TERMINATED_IN_VALIDATION = """
def doomed_evaluation(*args):
    os.kill(me, signal.SIGTERM)
    return evaluate(*args)
loop.evaluate_features = doomed_evaluation
"""


@pytest.mark.parametrize(
    "disturbance, code, left",
    [
        (KILLED_IN_TRAINING, -signal.SIGKILL, {"epoch_0.pth"}),
        (KILLED_IN_SAVING, -signal.SIGKILL, {"epoch_0.pth"}),
        (TERMINATED_IN_TRAINING, 143, {"epoch_0.pth", "interrupted.pth"}),
        (TERMINATED_IN_VALIDATION, 143, {"interrupted.pth"}),
    ],
    ids=["kill -9 in training", "kill -9 in saving", "SIGTERM in training", "SIGTERM in validation"],
)
def test_a_run_that_was_ended_goes_on_as_if_nothing_had_happened(trained, tree, tmp_path, disturbance, code, left):
    """--resume auto leads to the weights of an undisturbed run, bit for bit, and to its numbers."""
    root, snapshot, _ = trained
    folder = tmp_path / "snapshot" / snapshot.parent.name
    ended = subprocess.run(
        [sys.executable, "-c", script(tmp_path, disturbance), "--dataset", tree, *map(str, FLAGS), "--workers", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert ended.returncode == code, ended.stderr
    assert {path.name for path in folder.glob("[!.]*")} == left
    if code == 143:
        assert ended.stderr.startswith("train.py: terminated: saved ") and ended.stderr.count("\n") == 1
        assert load_snapshot(folder / "interrupted.pth")[1]["topk"] == 5
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto")
    assert sorted(path.name for path in folder.iterdir()) == ["epoch_0.pth", "epoch_1.pth"]
    assert equal_weights(folder / "epoch_1.pth", snapshot)
    assert equal_numbers(*(place / "result" / folder.name for place in (root, tmp_path)))


def torchrun(file, *arguments, restarts=0):
    return call(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        f"--max_restarts={restarts}",
        file,
        *arguments,
    )


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    """With BatchNorm's running statistics, as its own batch's would be of each process's half; also behind a cut."""
    program = tmp_path / "gradients.py"
    program.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from torch.nn.parallel import DistributedDataParallel
from util import distributed
from loader.batches import LoaderOptions, epoch_loader
from loader.datasets import spec_of
from models import build_model
from models.cut import cut_at
from training import TrainConfig
from training.config import make_plan
from training.state import create_state
with distributed.process_group():
    generator = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(11, 3, 64, 64, generator=generator), torch.arange(11) % 3)
    torch.manual_seed(distributed.rank())  # as DistributedDataParallel starts from the first one's weights
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    step_model = DistributedDataParallel(model) if distributed.world_size() > 1 else model
    seen = 0
    for images, target in epoch_loader(data, LoaderOptions(4, 0, torch.device("cpu")), 0, 0, start=1):
        torch.nn.functional.cross_entropy(step_model(images), target).backward()
        seen += len(target)
        break
    gradients = {{name: value.grad.clone() for name, value in model.named_parameters()}}
    model.zero_grad()
    schedule = spec_of("places365").training
    cut = cut_at(model, "layer4.0")
    state = create_state(cut, make_plan(TrainConfig(), schedule, 100), schedule, images.device, None, False)
    torch.nn.functional.cross_entropy(state.step_model(cut.trunk(images).detach()), target).backward()
    gradients |= {{f"cut {{name}}": model.get_parameter(name).grad for name in cut.trained if "running" not in name
                  and "num_batches" not in name}}
    if distributed.is_main_process():
        torch.save(gradients, sys.argv[1])
        print("images", seen)
""")
    one, two = call(program, tmp_path / "1.pth"), torchrun(program, tmp_path / "2.pth")
    assert one.stdout == "images 4\n", one.stderr
    assert two.stdout.endswith("images 2\n"), two.stderr  # after what Gloo of PyTorch 2.9 says
    one, two = (torch.load(tmp_path / name) for name in ("1.pth", "2.pth"))
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        assert (gradient - two[name]).norm() <= 1e-5 * gradient.norm(), name


def test_two_processes_train_together_and_survive_the_death_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # as docs/CLUSTERS.md says
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a core for each
    tree = write_tree(tmp_path / "odd_places", per_class=(5, 3))  # 15 to train with, 9 to validate: both are odd
    program = tmp_path / "program.py"
    outputs = {}
    for name, disturbance in (
        ("undisturbed", ""),
        (
            "disturbed",
            f"""
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    {KILLED_IN_TRAINING.strip().replace(chr(10), chr(10) + "    ")}
""",
        ),
    ):
        text = f"import sys; sys.path.insert(0, {str(ROOT)!r})" + script(tmp_path / name, disturbance)
        program.write_text(text)
        done = torchrun(
            program, "--dataset", tree, *FLAGS, "--workers", 0, "--resume", "auto", "--amp", "off", restarts=1
        )
        assert done.returncode == 0, done.stderr
        outputs[name] = done.stdout
    assert outputs["undisturbed"].count("epoch 2 of 2") == 1  # one of them speaks
    assert outputs["disturbed"].count("resumed from") == 1
    run = "pytorch_resnet18_fc_ma_t5_odd_places"
    for name in outputs:
        assert sorted(p.name for p in (tmp_path / name / "snapshot" / run).iterdir()) == ["epoch_0.pth", "epoch_1.pth"]
    snapshot = tmp_path / "undisturbed" / "snapshot" / run / "epoch_1.pth"
    assert equal_weights(snapshot, tmp_path / "disturbed" / "snapshot" / run / "epoch_1.pth")
    assert equal_numbers(*(tmp_path / name / "result" / run for name in outputs))

    # The numbers are those of one process over all nine images.
    last = runs.read_epochs(tmp_path / "undisturbed" / "result" / run)[-1]
    source = find_dataset(str(tree))
    loader = make_loader(source.dataset("val", val_transform(source.spec)), 4, 0, torch.device("cpu"))
    model = load_snapshot(snapshot)[0]
    again, pooled = evaluate_features(model, loader, torch.device("cpu"))
    assert (again["count"], last["val_top1"]) == (9, pytest.approx(again["top1"], abs=1e-5))
    assert last["val_loss"] == pytest.approx(again["loss"], rel=1e-4)
    assert route_statistics(state_of(model), pooled) == {key: last[key] for key in ("units_per_example", "dead_units")}
    assert (last["train_top1"] / 100 * 14) % 1 == pytest.approx(0, abs=1e-4)  # of 14: seven each, none twice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["on", "off"])
def test_training_on_a_gpu(tree, tmp_path, amp):
    metrics = run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--device", "cuda", "--amp", amp, "--workers", 1)
    again = run_train(
        tmp_path,
        "--mark",
        "t5",
        "--dataset",
        tree,
        "--device",
        "cuda",
        "--amp",
        amp,
        "--resume",
        tmp_path / "snapshot/pytorch_resnet18_fc_ma_t5_tiny_places/epoch_0.pth",
    )
    assert again["loss"] == pytest.approx(metrics["loss"], rel=0.05)


def state_of(model, compiled=False):
    schedule = spec_of("places365").training
    plan = make_plan(TrainConfig(), schedule, 100)
    state = create_state(model, plan, schedule, torch.device("cpu"), None, compiled=False)
    state.compiled = compiled
    return state


def test_k_schedules():
    assert k_of_epochs("linear:50-5", 5, 4) == [50, 35, 20, 5]
    assert k_of_epochs("linear:1-3", 3, 3) == [1, 2, 3]
    assert k_of_epochs("linear:50-5", 5, 1) == [5]
    assert k_of_epochs(None, 7, 2) == [7, 7]


def test_a_compiled_head_gets_its_new_k():
    model = build_model("resnet18_fc_ma", 3, 9)
    state = state_of(model, compiled=True)
    head = torch.compile(model.rfc, backend="aot_eager")
    x = torch.rand(2, 512)
    for k in (9, 5):
        state.set_topk(k)
        assert torch.allclose(head(x), (x[:, None] * model.rfc.weight).topk(k, 2)[0].sum(2) + model.rfc.bias, atol=1e-5)


def test_annealing_k_is_recorded(tree, tmp_path):
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--k_schedule", "linear:9-5")
    folder = tmp_path / "snapshot/pytorch_resnet18_fc_ma_t5_tiny_places"
    found = [load_snapshot(folder / f"epoch_{epoch}.pth")[1] for epoch in (0, 1)]
    assert [(about["topk"], about["k_schedule"]) for about in found] == [(9, "linear:9-5"), (5, "linear:9-5")]
    lines = runs.read_epochs(tmp_path / "result" / folder.name)
    assert [(line["topk"], line["units_per_example"]) for line in lines] == [(9, 9), (5, 5)]
    with pytest.raises(UserError, match="run with k_schedule linear:9-5, not k_schedule None: it cannot be resumed so"):
        run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", folder / "epoch_0.pth")


def test_route_statistics():
    model = build_model("resnet18_fc_ma", 2, 2)
    with torch.no_grad():
        model.rfc.weight.zero_()
        model.rfc.weight[0, :3] = torch.tensor([3.0, 2.0, 1.0])
        model.rfc.bias.zero_()
    pooled = torch.zeros(2, 512)
    pooled[0, [0, 1, 2]] = 1.0  # units 0 and 1 of three with a vote
    pooled[1, 2] = 1.0  # unit 2 alone, beside a zero
    assert route_statistics(state_of(model), pooled) == {"units_per_example": 1.5, "dead_units": 509}


def test_a_dry_run_writes_nothing(tree, tmp_path, capsys):
    metrics = run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--dry_run")
    assert 0 <= metrics["top1"] <= 100
    said = capsys.readouterr().out
    assert "images per class: 4 to 4, 0 classes without any" in said
    for what in ("speed: ", "memory: ", "disk: 1.1 GB for 11 snapshots"):
        assert what in said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_on_a_full_disk(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda _: SimpleNamespace(free=5e8))
    with pytest.raises(UserError, match=r"0.5 GB are free, 11 snapshots need 1.1 \(--keep\)"):
        run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--dry_run")


def test_tensorboard(tree, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--tensorboard", "--epochs", 1)
    results = tmp_path / "result/pytorch_resnet18_fc_ma_t5_tiny_places"
    events = EventAccumulator(str(results / "tensorboard"))
    events.Reload()
    (line,) = runs.read_epochs(results)
    assert set(events.Tags()["scalars"]) == set(line) - {"epoch"}
    (point,) = events.Scalars("val_loss")
    assert (point.step, point.value) == (1, pytest.approx(line["val_loss"]))


def test_the_linear_scaling_of_the_learning_rate(tree, tmp_path):
    run_train(tmp_path, "--dataset", tree, "--epochs", 1, "--batch_size", 8, "--lr", 0.16, "--scale_lr")
    (line,) = runs.read_epochs(tmp_path / "result/pytorch_resnet18_fc_ma_t5_tiny_places")
    assert line["lr"] == pytest.approx(0.16 * 8 / 256)


def test_the_last_snapshots_and_the_best_stay(tmp_path):
    tops = [10.0, 50.0, 20.0, 50.0, 30.0, 31.0]
    source = DataSource("some_places", tmp_path, ["a"], ["a"], spec_of("some_places"))
    run = runs.Run(TrainConfig(), make_plan(TrainConfig(), source.spec.training, 100), source, tmp_path)
    run.snapshots.mkdir(parents=True)
    for epoch in range(6):
        run.snapshot(epoch).touch()
    lines = [{"epoch": epoch, "val_top1": top} for epoch, top in enumerate(tops)]
    runs.remove_old_snapshots(run, lines, keep=2)
    assert sorted(path.name for path in run.snapshots.iterdir()) == ["epoch_1.pth", "epoch_4.pth", "epoch_5.pth"]


def test_two_runs_of_one_name(trained, tree):
    root, snapshot, _ = trained
    before = snapshot.read_bytes()
    with lock_folder(root / "result" / snapshot.parent.name), pytest.raises(UserError, match="another run is writing"):
        run_train(root, "--mark", "t5", "--dataset", tree)
    assert snapshot.read_bytes() == before


def test_finetuning_a_dense_network_into_a_dka_one(trained, tree, tmp_path):
    run_train(tmp_path, "--arch", "resnet18", "--dataset", tree, "--epochs", 1)
    dense = tmp_path / "snapshot/pytorch_resnet18_dense_tiny_places/epoch_0.pth"
    assert load_snapshot(dense)[1]["topk"] is None
    run_train(tmp_path, "--mark", "t3", "--dataset", tree, "--finetune", dense, "--epochs", 1)
    assert load_snapshot(tmp_path / "snapshot/pytorch_resnet18_fc_ma_t3_tiny_places/epoch_0.pth")[1]["topk"] == 3


def test_a_head_of_other_classes_names_the_data_set_that_it_fits(tree, tmp_path):
    places = tmp_path / "places.pth"
    torch.save(build_model("resnet18", 365).state_dict(), places)
    run_train(tmp_path, "--mark", "t3", "--dataset", tree, "--finetune", places, "--epochs", 1)
    said = (tmp_path / "result/pytorch_resnet18_fc_ma_t3_tiny_places/train.log").read_text()
    assert "freshly initialised: rfc.bias, rfc.weight\n" in said
    assert re.search(r"its head has 365 classes, tiny_places has \d+: --dataset places365 has 365, and fits\n", said)


def test_a_loss_that_is_not_finite_stops_the_run(tree, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"the loss is (nan|inf) in batch \d of epoch 1"):
        run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--lr", 1e30)
    assert not (tmp_path / "snapshot").exists()


def batches(count, size=2, bad=None):
    """Small random batches of two classes; batch `bad` has a NaN in it."""
    generator = torch.Generator().manual_seed(0)
    made = [(torch.randn(size, 3, 32, 32, generator=generator), torch.arange(size) % 2) for _ in range(count)]
    if bad is not None:
        made[bad][0][0, 0, 0, 0] = float("nan")
    return made


@pytest.mark.parametrize("bad", [0, 3, READ_EVERY - 1, READ_EVERY, READ_EVERY + 2])
def test_a_non_finite_loss_is_noticed_in_time_and_its_batch_is_named(bad):
    state = state_of(build_model("resnet18_fc_ma", 2, 5))
    count, steps = READ_EVERY + 5, []
    state.scheduler.step = lambda: steps.append(1)
    with pytest.raises(NonFiniteLoss, match=rf"the loss is nan in batch {bad} of epoch 1: lower --lr"):
        train_one_epoch(state, batches(count, bad=bad))
    assert bad < len(steps) <= min(bad + READ_EVERY, count)


def test_weights_of_a_non_finite_validation_reach_no_snapshot(tree, tmp_path, monkeypatch):
    found = []

    def ruined(model, loader, *rest):
        torch.nn.init.constant_(head_of(model).weight, float("nan"))
        found.append(evaluate_features(model, loader, *rest))
        return found[-1]

    monkeypatch.setattr("training.loop.evaluate_features", ruined)
    with pytest.raises(NonFiniteLoss, match="the validation loss is nan after epoch 1 of"):
        run_train(tmp_path, "--dataset", tree)
    assert found and not (tmp_path / "snapshot").exists()


def test_sums_are_those_of_the_plain_loop():
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0, -2.0, -3.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    sums = Sums()
    for _ in range(3):
        sums.add(logits, torch.tensor([0, 0]), torch.tensor(1.5))
    assert (sums.steps, len(sums.unread)) == (0, 3)  # nothing was read back yet
    sums.read()
    assert (sums.steps, sums.count, sums.loss, sums.top1, sums.top5) == (3, 6, 4.5, 3, 3)
    assert Sums(**sums.to_dict()) == sums


def test_a_cycle_may_be_of_any_length():
    for steps in range(1, 20):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
        scheduler, rates = build_scheduler("one_cycle", optimizer, steps), []
        for _ in range(steps):
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        assert 0 < max(rates) <= 1 and scheduler.get_last_lr()[0] < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
def test_a_training_step_does_not_wait_for_the_gpu(amp):
    schedule = spec_of("places365").training
    plan = make_plan(TrainConfig(), schedule, 100)
    state = create_state(build_model("resnet18_fc_ma", 2, 5), plan, schedule, torch.device("cuda"), amp, False)
    pinned = [(images.pin_memory(), target.pin_memory()) for images, target in batches(4)]
    state.model.train()
    train_step(state, *pinned[0], Sums())  # the first one allocates and tunes
    sums = Sums()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, target in pinned:
            train_step(state, images, target, sums)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    sums.read()
    assert sums.steps == 4


def test_the_loop_writes_below_its_workdir_only_and_says_where(tree, tmp_path):
    before = sorted(ROOT.glob("result/*")) + sorted(ROOT.glob("snapshot/*"))
    options = TrainConfig(epochs=1, batch_size=4, lr=0.01, workers=0, device="cpu", mark="t4")
    metrics = train_and_evaluate(options, str(tmp_path / "deep" / "work"), source=find_dataset(str(tree)))
    assert metrics["snapshot"] == str(tmp_path / "deep/work/snapshot/pytorch_resnet18_fc_ma_t4_tiny_places/epoch_0.pth")
    assert load_snapshot(metrics["snapshot"])[1]["topk"] == 4
    assert sorted(path.name for path in (tmp_path / "deep" / "work").iterdir()) == ["result", "snapshot"]
    assert sorted(ROOT.glob("result/*")) + sorted(ROOT.glob("snapshot/*")) == before


@pytest.mark.parametrize(
    "arch, head",
    [
        ("resnet18_fc_ma", StraightThroughHead),
        ("resnet18_fc_ma", ByMagnitudeHead),
        ("resnet18_fc_ma", NoBiasHead),
        ("resnet18_fc_ma", StaticHead),
        ("resnet18", DenseHead),
    ],
)
def test_any_head_is_trained_and_its_snapshot_rebuilt(tree, tmp_path, arch, head):
    options = TrainConfig(epochs=1, batch_size=4, lr=0.01, workers=0, device="cpu", arch=arch, dataset=str(tree))
    metrics = train_and_evaluate(options, tmp_path, build_model=lambda *given: build_model(*given, head=head))
    model, about = load_snapshot(metrics["snapshot"])
    assert type(head_of(model)) is head
    assert about["topk"] == (5 if arch.endswith("_fc_ma") else None)
    if head is NoBiasHead:
        assert not head_of(model).bias.any()
    if head is StaticHead:
        assert head_of(model).mask.sum(1).tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mark", "x"], "mark 'x': expected `t` and the number of votes K"),
        (["--mark", "t513"], "K = 513: resnet18_fc_ma has 512 pooled features"),
        (["--arch", "vgg99"], "--arch vgg99: expected one of resnet18"),
        (["--dataset", "/nowhere/at/all"], "data set '/nowhere/at/all': expected places365"),
        (["--epochs", "0"], "--epochs 0: expected 1 to 100000"),
        (["--lr", "-1"], "--lr -1.0: expected a positive number"),
        (["--device", "tpu"], "device 'tpu': expected auto, cpu"),
        (["--device", "cuda:99"], "device 'cuda:99': this machine has"),
        (["--resume", "no.pth"], "snapshot no.pth: no such file"),
        (["--k_schedule", "cosine:9-5"], "--k_schedule cosine:9-5: expected linear:A-B"),
        (["--k_schedule", "linear:50-6"], "it ends at K = 6, but the mark is t5"),
        (["--k_schedule", "linear:600-5"], "K = 600: resnet18_fc_ma has 512 pooled features"),
        (["--arch", "resnet18", "--k_schedule", "linear:9-5"], "resnet18 has a dense head, without K"),
        (["--finetune", "no.pth"], "snapshot no.pth: no such file"),
    ],
)
def test_mistakes_in_training(tree, tmp_path, flags, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        run_train(tmp_path, "--dataset", tree, *flags)
    assert not list(tmp_path.iterdir())


def test_what_the_processes_cannot_share(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(UserError, match="--batch_size 4: expected a multiple of 3, the number of processes"):
        check_shares(4, 10)
    with pytest.raises(UserError, match="2 training images: expected at least 3, the number of processes"):
        check_shares(3, 2)


def test_tensorboard_that_is_not_installed(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(config.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="--tensorboard: the package is not installed; `pip install tensorboard`"):
        run_train(tmp_path, "--dataset", tree, "--tensorboard")
