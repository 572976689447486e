"""Training behind a frozen trunk: what the cache holds, when it is used, and that nothing else differs."""

import json
import os
import re
import shutil
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_train
from PIL import Image
from test_training import equal_numbers, equal_weights
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

import settings
from loader.batches import LoaderOptions, epoch_order
from loader.datasets import find_dataset
from loader.images import val_transform
from models import build_model, export, load_snapshot, snapshot
from models.backbones import TRUNKS
from models.cut import cut_at
from models.dynamic_k import DynamicKLinear
from models.slim import is_slim
from training import TrainConfig, frozen, identity, loop, train_and_evaluate
from training.frozen import choose_dtype, flips
from training.runs import open_log
from util import distributed
from util.cli import Terminated, UserError
from util.files import lock_folder

ARCH, NAME = "resnet10_fc_ma", "pytorch_resnet10_fc_ma_t5_tiny_places"
FLAGS = ["--mark", "t5", "--arch", ARCH, "--size", 32, "--amp", "off"]
LAYER = "layer3"


@pytest.fixture(scope="module", autouse=True)
def small():
    """A network of few weights."""
    TRUNKS["resnet10"] = dict(block=BasicBlock, layers=[1, 1, 1, 1])
    yield
    del TRUNKS["resnet10"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights to start from."""
    torch.manual_seed(5)
    model = build_model(ARCH, 3, 5)
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_()
    file = tmp_path_factory.mktemp("weights") / "start.pth"
    torch.save(model.state_dict(), file)
    return file


def train_frozen(root, tree, start, *flags, layer=LAYER):
    return run_train(root, "--dataset", tree, *FLAGS, "--finetune", start, "--freeze", layer, *flags)


@pytest.fixture(scope="module")
def finished(tree, start, tmp_path_factory):
    """A workspace with a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("frozen")
    metrics = train_frozen(root, tree, start)
    return root, metrics


def cache_of(root):
    (folder,) = (root / "result" / "frozen").iterdir()
    return folder


def copied(root, target):
    """The workspace without its run: the cache only."""
    shutil.copytree(root / "result" / "frozen", target / "result" / "frozen")
    return target


def reference(tree, start, layer, epochs=2, batch=4, rounded=torch.float16):
    """The same training without a cache: the trunk runs in eval mode on each batch."""
    source = find_dataset(str(tree)).at_size(32)
    images = source.dataset("train", val_transform(source.spec))
    torch.manual_seed(0)
    model = build_model(ARCH, 3, 5)
    snapshot.load_pretrained(model, start)
    cut = cut_at(model.to(memory_format=torch.channels_last), layer, 32)
    steps = epochs * 3
    optimizer = torch.optim.SGD(cut.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(steps / 3), round(2 * steps / 3)])
    for epoch in range(epochs):
        order = epoch_order(len(images), LoaderOptions(batch, 0, torch.device("cpu")), 0, epoch)
        flip = flips(len(images), 0, epoch)
        for at in range(0, len(order), batch):
            own = order[at : at + batch]
            x = torch.stack([images[i][0].flip(-1) if flip[i] else images[i][0] for i in own])
            model.eval()
            with torch.no_grad():
                features = cut.trunk(x.to(memory_format=torch.channels_last)).to(rounded).float()
            cut.rest.train()
            optimizer.zero_grad()
            F.cross_entropy(cut.rest(features), torch.tensor([images.targets[i] for i in own])).backward()
            optimizer.step()
            scheduler.step()
    return model.state_dict()


def largest_difference(found, expected):
    """Of any weight, as a share of the largest one in its tensor."""
    return max(
        float((found[key] - value).abs().max() / value.abs().max().clamp(min=1e-9))
        for key, value in expected.items()
        if value.is_floating_point()
    )


@pytest.mark.parametrize("layer", ["trunk", LAYER])
def test_cached_training_is_training_without_a_cache(finished, tree, start, tmp_path, layer):
    """With outputs that are rounded to float16 alike; the head alone also without, to the rounding's precision."""
    metrics = finished[1] if layer == LAYER else train_frozen(tmp_path, tree, start, layer=layer)
    found = torch.load(metrics["snapshot"])["state_dict"]
    assert largest_difference(found, reference(tree, start, layer)) < 1e-5
    if layer == "trunk":  # behind it BatchNorm divides by the spread of four values
        assert largest_difference(found, reference(tree, start, layer, rounded=torch.float32)) < 2e-3


def test_frozen_weights_and_statistics_stay_as_they_are(finished, start):
    before, after = torch.load(start), torch.load(finished[1]["snapshot"])["state_dict"]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    trained = {key for key in before if key.startswith(("layer4.", "rfc."))}
    assert changed == trained
    optimizer = torch.load(finished[1]["snapshot"])["training"]["optimizer"]
    assert len(optimizer["param_groups"][0]["params"]) == 11  # three convolutions and BatchNorms, the head


def test_the_log_says_what_was_frozen_and_computed(finished):
    said = (finished[0] / "result" / NAME / "train.log").read_text()
    assert re.search(rf"frozen: up to {LAYER}, 1,\d+,\d+ of 4,\d+,\d+ weights, of --finetune", said)
    assert re.search(rf"30 of {LAYER} with 1,024 values each, float16, 0.00 GB, in \d+ s: \d+ images/s", said)
    record = json.loads((cache_of(finished[0]) / "features.made_of.json").read_text())
    assert (record["layer"], record["train"], record["val"], record["size"]) == (LAYER, 12, 6, 32)
    assert sorted(path.name for path in cache_of(finished[0]).iterdir() if path.name != ".lock") == [
        "features.bin",
        "features.made_of.json",
    ]


def damage(change):
    def apply(folder):
        data = bytearray((folder / "features.bin").read_bytes())
        (folder / "features.bin").write_bytes(change(data))

    return apply


def rerecord(**changes):
    def apply(folder):
        file = folder / "features.made_of.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return apply


DAMAGED = {
    "truncated": (damage(lambda data: data[:-100]), "bytes, expected"),
    "a byte changed": (damage(lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:]), "its content has changed"),
    "no record": (lambda folder: (folder / "features.made_of.json").unlink(), "its record is missing"),
    "no outputs": (lambda folder: (folder / "features.bin").unlink(), "no such file"),
    "other weights": (rerecord(frozen_weights="0" * 64), "another one's"),
    "odd sums": (rerecord(crc=["x"]), "damaged"),
    "odd outputs for noise": (rerecord(probe=["x"] * 256), "answers otherwise"),
    "no outputs for noise": (rerecord(probe=None), "answers otherwise"),
    "odd type": (rerecord(dtype="float64"), "damaged"),
    "another type of as many bytes": (rerecord(dtype="bfloat16"), "changed"),
    "not JSON": (lambda folder: (folder / "features.made_of.json").write_text("{"), "damaged"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_cache_is_not_used_but_computed_again(finished, tmp_path, caplog, case):
    change, reason = DAMAGED[case]
    whole = cache_of(finished[0])
    folder = tmp_path / whole.name
    shutil.copytree(whole, folder)
    change(folder)
    job, key = job_of(whole)
    fault = frozen._fault_of(folder, key, job)
    assert reason in fault
    assert frozen._fault_of(whole, key, job) is None


def job_of(folder):
    """A job and its key as the record of a cache tells them, for tests that compute nothing."""
    record = json.loads((folder / "features.made_of.json").read_text())
    key = {name: value for name, value in record.items() if name not in ("crc", "dtype", "probe")}
    options = LoaderOptions(4, 0, torch.device("cpu"))
    job = frozen.Job(
        None, [], [], options, None, tuple(record["shape"]), record["train"], record["val"], record["probe"]
    )
    return job, key


def test_a_whole_cache_is_used_and_a_damaged_one_replaced(finished, tree, start, tmp_path, capsys, monkeypatch):
    root = copied(finished[0], tmp_path)
    content = (cache_of(root) / "features.bin").read_bytes()
    DAMAGED["a byte changed"][0](cache_of(root))
    metrics = train_frozen(root, tree, start)
    assert f"the cache {cache_of(root)} is not used: its content has changed" in capsys.readouterr().out
    assert (cache_of(root) / "features.bin").read_bytes() == content
    monkeypatch.setattr(frozen, "_compute", None)  # nothing is computed any more
    again = train_frozen(root, tree, start)
    assert again["loss"] == metrics["loss"] == finished[1]["loss"]


@pytest.fixture
def cache_again(monkeypatch):
    """A function that runs train.py as far as the cache, and returns the names of all caches that are there then."""
    monkeypatch.setattr(loop, "train_epochs", lambda *_: {})

    def names(root, tree, start, *flags, **options):
        train_frozen(root, tree, start, *flags, **options)
        return {folder.name for folder in (root / "result" / "frozen").iterdir()}

    return names


def other_weights(tmp_path, start):
    state = torch.load(start)
    state["layer2.0.bn1.running_mean"] += 1
    torch.save(state, tmp_path / "other.pth")
    return tmp_path / "other.pth"


@pytest.mark.parametrize("other", ["weights", "layer", "size", "MEAN", "STD"])
def test_other_weights_layers_sizes_and_transforms_have_caches_of_their_own(
    finished, tree, start, tmp_path, cache_again, monkeypatch, other
):
    root = copied(finished[0], tmp_path)
    own = {cache_of(root).name}
    options = {"layer": ["layer2", []], "size": [LAYER, ["--size", 48]]}
    layer, flags = options.get(other, [LAYER, []])
    if other in ("MEAN", "STD"):
        monkeypatch.setattr(settings, other, (0.5, 0.5, 0.5))
    weights = other_weights(tmp_path, start) if other == "weights" else start
    assert len(cache_again(root, tree, weights, *flags, layer=layer) - own) == 1


def test_other_images_of_equal_size_have_a_cache_of_their_own(tree, start, tmp_path, cache_again, monkeypatch):
    """Also where the run's own record, which reads some images only, stays as it was."""
    monkeypatch.setattr(identity, "READ", 1)
    images = tmp_path / "data" / "tiny_places"
    shutil.copytree(tree, images)
    own = cache_again(tmp_path, images, start)
    *_, file = sorted((images / "train").glob("*/*.jpg"))
    content = file.read_bytes()
    file.write_bytes(content[:15] + b"\2" + content[16:])
    assert len(cache_again(tmp_path, images, start) - own) == 1


def test_images_without_files_are_told_by_their_pixels():
    class Pixels(list):
        def image(self, index):
            return Image.new("L", (2, 2), self[index])

        def file(self, index):
            return f"no-such-file#{index}"

    first = identity.stamp_of_images(Pixels([1, 2, 3]), Path())
    assert first == identity.stamp_of_images(Pixels([1, 2, 3]), Path())
    assert first != identity.stamp_of_images(Pixels([1, 2, 4]), Path())


def test_other_code_with_equal_weights_has_the_cache_computed_again(
    finished, tree, start, tmp_path, cache_again, capsys, monkeypatch
):
    root = copied(finished[0], tmp_path)
    content = (cache_of(root) / "features.bin").read_bytes()
    forward = BasicBlock.forward
    monkeypatch.setattr(BasicBlock, "forward", lambda self, x: F.gelu(forward(self, x)))
    assert cache_again(root, tree, start) == {cache_of(root).name}
    assert "the network has the same weights, but answers otherwise than when it" in capsys.readouterr().out
    assert (cache_of(root) / "features.bin").read_bytes() != content


def test_a_second_run_waits_for_the_first(tmp_path, capsys):
    with ExitStack() as held:
        held.enter_context(lock_folder(tmp_path / "cache"))
        timer = threading.Timer(0.3, held.pop_all().close)
        timer.start()
        with open_log(None), frozen._held(tmp_path / "cache"):
            timer.join()
    assert "waiting for another run that computes" in capsys.readouterr().out


@pytest.fixture
def blocks_of_four(monkeypatch):
    monkeypatch.setattr(frozen, "BATCH", 4)
    monkeypatch.setattr(frozen, "BLOCK", 4)


def test_a_computation_interrupted_at_its_end_is_taken_as_it_is(finished, tree, start, tmp_path, capsys):
    """All outputs are there, under the names of a part."""
    root = copied(finished[0], tmp_path)
    for name in ("bin", "made_of.json"):
        (cache_of(root) / f"features.{name}").rename(cache_of(root) / f"partial.{name}")
    metrics = train_frozen(root, tree, start)
    assert "the cache has 30 of 30 outputs" in capsys.readouterr().out
    assert equal_weights(metrics["snapshot"], finished[1]["snapshot"])


@pytest.mark.usefixtures("blocks_of_four")
def test_an_interrupted_computation_goes_on(finished, tree, start, tmp_path, capsys, monkeypatch):
    write, times = frozen.write_companion, []

    def interrupted(*given):
        write(*given)
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "write_companion", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_frozen(tmp_path, tree, start)
    names = {path.name for path in cache_of(tmp_path).iterdir()}
    assert names - {".lock"} == {"partial.bin", "partial.made_of.json"}
    metrics = train_frozen(tmp_path, tree, start)
    assert "the cache has 16 of 30 outputs: computing the others" in capsys.readouterr().out
    assert equal_weights(metrics["snapshot"], finished[1]["snapshot"])
    names = {path.name for path in cache_of(tmp_path).iterdir()}
    assert names - {".lock"} == {"features.bin", "features.made_of.json"}


def test_a_run_that_was_ended_in_an_epoch_resumes_slim_as_it_would_have_gone_on(
    finished, tree, start, tmp_path, monkeypatch
):
    root, step, steps = copied(finished[0], tmp_path), torch.optim.SGD.step, []

    def doomed_step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.SGD, "step", doomed_step)
        with pytest.raises(Terminated, match=r"saved .*interrupted\.pth"):
            train_frozen(root, tree, start, "--slim")
    interrupted = root / "snapshot" / NAME / "interrupted.pth"
    assert is_slim(torch.load(interrupted))
    with pytest.raises(UserError, match=r"has only what was trained: .* name the file they came from by --finetune"):
        run_train(root, "--dataset", tree, *FLAGS, "--freeze", LAYER, "--resume", "auto")
    metrics = train_frozen(root, tree, start, "--resume", interrupted)
    assert equal_weights(metrics["snapshot"], finished[1]["snapshot"])
    assert equal_numbers(*(place / "result" / NAME for place in (root, finished[0])))


def test_resuming_needs_no_weights_to_start_from(finished, tree, start, tmp_path):
    root = copied(finished[0], tmp_path)
    first = finished[0] / "snapshot" / NAME / "epoch_0.pth"
    resumed = run_train(root, "--dataset", tree, *FLAGS, "--freeze", LAYER, "--resume", first)
    assert equal_weights(resumed["snapshot"], finished[1]["snapshot"])
    assert len(list((root / "result" / "frozen").iterdir())) == 1
    for flags, was in (
        ([], "freeze layer3, not freeze None"),
        (["--freeze", "trunk"], "freeze layer3, not freeze trunk"),
    ):
        with pytest.raises(UserError, match=was):
            run_train(root, "--dataset", tree, *FLAGS, *flags, "--resume", first)
    torch.manual_seed(9)
    other = tmp_path / "other.pth"
    torch.save(build_model(ARCH, 3, 5).state_dict(), other)
    with pytest.raises(UserError, match="other weights to start from"):
        train_frozen(root, tree, other, "--resume", first)
    content = torch.load(first)
    content["state_dict"]["conv1.weight"] += 1
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(UserError, match="its frozen weights are not those that its run began with"):
        run_train(root, "--dataset", tree, *FLAGS, "--freeze", LAYER, "--resume", tmp_path / "changed.pth")


def test_a_slim_snapshot_loads_back_or_says_what_is_missing(finished, tree, start, tmp_path):
    root = copied(finished[0], tmp_path)
    slim = train_frozen(root, tree, start, "--slim")["snapshot"]
    content = torch.load(slim)
    assert all(key.startswith(("layer4.", "rfc.")) for key in content["state_dict"])
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    full, about = load_snapshot(finished[1]["snapshot"])
    model, found = load_snapshot(slim, finetune=start)
    with torch.no_grad():
        assert torch.equal(model(x), full(x))
    assert found == about
    with pytest.raises(UserError) as error:
        load_snapshot(slim)
    assert "the weights up to layer3 of resnet10_fc_ma are missing" in str(error.value)
    assert "name the file they came from by --finetune (start.pth, SHA-256" in str(error.value)
    for change, message in (
        (dict(frozen="x"), "frozen 'x', expected the SHA-256"),
        (dict(frozen={"weights": "0" * 64}), "the architecture's own weights are needed"),
        (dict(frozen={"weights": "0" * 64, "file": 5, "file_sha256": []}), r"\(unknown, SHA-256 unknown"),
        (dict(state_dict={**content["state_dict"], "x": torch.zeros(1)}), "unexpected: x"),
        (dict(state_dict={**content["state_dict"], "rfc.bias": torch.zeros(4)}), "of another shape: rfc.bias"),
        (
            dict(state_dict={**content["state_dict"], "rfc.weight": torch.zeros(10**12, 0)}, num_classes=10**12),
            "classes, expected a list of 1000000000000 names",
        ),
    ):
        torch.save({**content, **change}, tmp_path / "s.pth")
        with pytest.raises(UserError, match=message):
            load_snapshot(tmp_path / "s.pth")


def test_a_slim_snapshot_is_exported_slim_with_the_same_logits(finished, tree, start, tmp_path, monkeypatch):
    trained = train_frozen(copied(finished[0], tmp_path), tree, start, "--slim")["snapshot"]
    shared = tmp_path / "shared.pth"
    monkeypatch.setattr("sys.argv", ["export", trained, str(shared), "--finetune", str(start)])
    export.main()
    before, after = torch.load(trained), torch.load(shared)
    assert is_slim(after) and "training" in before and "training" not in after
    assert after["frozen"] == before["frozen"]
    assert list(after["state_dict"]) == list(before["state_dict"])
    assert shared.stat().st_size < 0.6 * Path(trained).stat().st_size
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (model, about), (again, found) = load_snapshot(trained, finetune=start), load_snapshot(shared, finetune=start)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert found == about
    weights = torch.load(start)
    weights["conv1.weight"] += 1e-3
    torch.save(weights, tmp_path / "other.pth")
    for wrong in (None, tmp_path / "other.pth"):
        with pytest.raises(UserError, match="up to layer3 of resnet10_fc_ma are missing, and are not those"):
            load_snapshot(shared, finetune=wrong)
    with pytest.raises(UserError, match=r"name the file they came from by --finetune \(start\.pth"):
        export.export(trained, tmp_path / "no.pth")
    assert not (tmp_path / "no.pth").exists()


def test_k_schedules_compiling_and_dry_runs(finished, tree, start, tmp_path, capsys, monkeypatch):
    metrics = train_frozen(tmp_path, tree, start, "--dry_run")
    assert 0 <= metrics["top1"] <= 100 and not list(tmp_path.iterdir())
    assert re.search(r"frozen outputs: 30 of layer3, 0.00 GB, at \d+ images/s", capsys.readouterr().out)
    root = copied(finished[0], tmp_path)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    train_frozen(root, tree, start, "--k_schedule", "linear:9-5", "--compile")
    assert [hasattr(model, "layer4") and not list(model.layer3.parameters()) for model in compiled] == [True]
    lines = [json.loads(line) for line in (root / "result" / NAME / "train.jsonl").read_text().splitlines()]
    assert [(line["topk"], line["units_per_example"] > 5) for line in lines] == [(9, True), (5, False)]


def test_processes_share_the_batches_of_one(monkeypatch):
    rows = torch.arange(2 * 11 + 5.0)[:, None]
    features = frozen.FrozenFeatures(rows, torch.arange(11), torch.arange(5))
    options = LoaderOptions(4, 0, torch.device("cpu"))

    def batches(rank, world, start=0):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        epoch = features.epoch_batches(options, seed=3, epoch=1, start=start)
        return [list(epoch), list(features.val_batches(2)), len(epoch)]

    one, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for (x, classes), (x1, classes1), (x2, classes2) in zip(one[0], first[0], second[0], strict=True):
        assert set(torch.cat([classes1, classes2]).tolist()) <= set(classes.tolist())
        assert set(torch.cat([x1, x2]).flatten().tolist()) <= set(x.flatten().tolist())
        assert torch.equal(x.flatten() % 11, classes.float())  # the row of its image, or of the flipped one
    assert {0, 1} == set((torch.cat([x for x, _ in one[0]]) >= 11).int().flatten().tolist())
    shares = [x.flatten() for _, val, _ in (first, second) for x, _ in val]
    assert sorted(torch.cat(shares).tolist()) == [22.0, 23.0, 24.0, 25.0, 26.0]
    rest = batches(0, 1, start=1)
    assert rest[2] == one[2] - 1 and all(torch.equal(a[0], b[0]) for a, b in zip(rest[0], one[0][1:], strict=True))


def test_half_precision_is_chosen_by_the_values():
    ordinary = torch.rand(1000)
    assert choose_dtype(ordinary) == choose_dtype(torch.zeros(3)) == torch.float16
    assert choose_dtype(ordinary * 1e5) == choose_dtype(ordinary * 1e-5) == torch.bfloat16
    assert choose_dtype(torch.cat([ordinary, torch.full((5,), 1e-6)])) == torch.float16  # half a per cent


@pytest.mark.usefixtures("blocks_of_four")
def test_a_value_beyond_float16_that_comes_late_is_not_lost(tree, start, tmp_path, capsys, monkeypatch):
    outputs = frozen._outputs

    def late(cut, pixels, *rest):
        found = [values.clone() for values in outputs(cut, pixels, *rest)]
        batches.append(1)
        found[0][0, 0] = 7e4 if len(batches) == 3 else 1.0  # the first is a trial for the shape
        return found

    batches = []
    monkeypatch.setattr(frozen, "_outputs", late)
    train_frozen(tmp_path, tree, start, "--epochs", 1)
    assert "exceeds float16: computing all of them again for bfloat16" in capsys.readouterr().out
    assert json.loads((cache_of(tmp_path) / "features.made_of.json").read_text())["dtype"] == "bfloat16"


def test_outputs_that_are_not_finite_name_the_image(tree, start, tmp_path, monkeypatch):
    outputs = frozen._outputs

    def ruined(cut, pixels, *rest):
        found = [values.clone() for values in outputs(cut, pixels, *rest)]
        if len(pixels) > 5:
            found[1][5] = float("nan")
        return found

    monkeypatch.setattr(frozen, "_outputs", ruined)
    with pytest.raises(UserError, match=r"beach/00000001.jpg: the outputs of layer3 for it are not finite"):
        train_frozen(tmp_path, tree, start)
    assert not (tmp_path / "snapshot").exists()


def test_a_full_disk_is_noticed_before_the_work(tree, start, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"0.0 GB are free, the outputs of layer3 need 0.0: freeze a layer"):
        train_frozen(tmp_path, tree, start)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--freeze", "layer4.0.conv1"], "--freeze layer4.0.conv1: what follows it needs more than its output: choose"),
        (["--freeze", "layer9"], "--freeze layer9: expected trunk, or a layer of the network or within one of conv1"),
        (["--freeze", ""], "--freeze : expected trunk"),
        (["--freeze", "rfc"], "--freeze rfc: the head is in it"),
        (["--freeze", "layer4.0.relu"], "--freeze layer4.0.relu: it runs 2 times in one forward pass"),
        (["--slim"], "--slim: nothing is frozen"),
        (["--slim", "--freeze", "layer3"], "--slim: the frozen weights are random, nothing would bring them back"),
    ],
)
def test_mistakes_in_freezing(tree, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run_train(tmp_path, "--dataset", tree, *FLAGS, *flags)
    assert not list(tmp_path.iterdir())


class Mean(nn.Module):
    """A network of three features that takes images of at least 20 pixels."""

    def __init__(self, classes, topk):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 20), DynamicKLinear(3, classes, topk=topk)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(k_schedule="linear:5-2", dry_run=True), r"--k_schedule linear:5-2: K = 5, but .* has 3 pooled features"),
        (dict(k_schedule="linear:5-2", freeze="trunk"), "K = 5"),
        (dict(size=16), r"--size 16: .*takes no square RGB image of 16 to 16 pixels \(RuntimeError"),
        (dict(size=32, small=1), "--size 32, of which the first epochs see half: .*16 to 16 pixels"),
    ],
)
def test_what_a_network_cannot_do_is_said_before_work(tree, tmp_path, changes, message):
    small, source = changes.get("small", 0), find_dataset(str(tree))
    source = replace(
        source, spec=replace(source.spec, training=replace(source.spec.training, epochs=2, small_share=small))
    )
    own = {name: value for name, value in changes.items() if name != "small"}
    config = TrainConfig(**{"arch": "test_frozen:Mean_fc_ma", "mark": "t2", "workers": 0, "device": "cpu", **own})
    with pytest.raises(UserError, match=message) as error:
        train_and_evaluate(config, tmp_path, source, lambda _, classes, topk: Mean(classes, topk))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
