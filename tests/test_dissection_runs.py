"""Interrupted, repeated and simultaneous dissections: the CSV is that of an undisturbed run, or there is none."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, write_small_broden

from models import build_model, load_snapshot
from models.snapshot import save_snapshot
from netdissect import dissect as dissect_module
from netdissect import main as dissection
from netdissect.agreement import read_agreement
from netdissect.broden import Broden
from netdissect.dissect import PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.tally import read_tally, write_tally
from util.cli import UserError
from util.files import lock_folder


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5)
    path = tmp_path_factory.mktemp("snapshot") / "epoch_0.pth"
    save_snapshot(path, {"state_dict": model.state_dict(), "arch": "resnet18_fc_ma", "topk": 5})
    return path


def flags(snapshot, broden, output, **more):
    own = {"model_file": str(snapshot), "data_directory": str(broden), "output_folder": str(output)}
    return {**own, "gpu": "False", "workers": "0", "chance_rounds": "1", "topn": "1", **more}


def dissect(*args, **more):
    return dissection.main(dissection.make_config(flags(*args, **more)))[0].read_bytes()


@pytest.fixture(scope="module")
def undisturbed(snapshot, broden, tmp_path_factory):
    return dissect(snapshot, broden, tmp_path_factory.mktemp("undisturbed"))


def test_layers_are_dissected_with_plain_values_too(snapshot, broden, tmp_path, undisturbed):
    model = load_snapshot(snapshot)[0].to(memory_format=torch.channels_last)
    images = Broden(broden)
    summaries = measure_layers(model, images, {"layer4": tmp_path / "cache"}, PassConfig())
    layer = score_layer("layer4", summaries["layer4"], images, TallyConfig(chance_rounds=0))
    write_tally(tmp_path / "tally.csv", layer.rows)
    assert (tmp_path / "tally.csv").read_bytes() == undisturbed
    assert layer.chance is None


def test_a_second_run_reuses_the_activations_of_the_first(snapshot, broden, tmp_path, undisturbed, monkeypatch):
    dissect(snapshot, broden, tmp_path, clean="False")
    agreement = (tmp_path / "agreement.csv").read_bytes()
    monkeypatch.setattr(dissect_module, "stream_features", lambda *_: pytest.fail("a second pass"))
    assert dissect(snapshot, broden, tmp_path, clean="True", topn="3") == undisturbed
    assert (tmp_path / "agreement.csv").read_bytes() == agreement
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"quantile": "0.01"}, "quantile"),
        pytest.param({"preprocess": "imagenet"}, "preprocess", marks=pytest.mark.slow),
    ],
)
def test_a_cache_of_other_settings_is_not_reused(snapshot, broden, tmp_path, caplog, change, reason):
    dissect(snapshot, broden, tmp_path, clean="False")
    with caplog.at_level("INFO"):
        changed = dissect(snapshot, broden, tmp_path, **change)
    assert f"not reusing {tmp_path / 'cache'}, which differs in {reason}\n" in caplog.text
    assert changed == dissect(snapshot, broden, tmp_path / "fresh", **change)


def test_a_cache_of_another_model_or_damaged_is_not_reused(snapshot, broden, tmp_path, caplog, undisturbed):
    torch.manual_seed(1)
    other = tmp_path / "other.pth"
    save_snapshot(other, {"state_dict": build_model("resnet18_fc_ma", 3, 5).state_dict(), "topk": 5})
    dissect(other, broden, tmp_path / "o", clean="False")
    with caplog.at_level("INFO"):
        assert dissect(snapshot, broden, tmp_path / "o", clean="False") == undisturbed
    assert "which differs in weights\n" in caplog.text
    maps = tmp_path / "o" / "cache" / "maps.f32"
    maps.write_bytes(maps.read_bytes()[:-4])
    with caplog.at_level("INFO"):
        assert dissect(snapshot, broden, tmp_path / "o") == undisturbed
    assert "is damaged (maps.f32 is incomplete)" in caplog.text


@pytest.mark.parametrize(
    "module, stage",
    [
        (dissect_module, "stream_features"),
        (dissect_module, "count"),
        (dissect_module, "chance_scores"),
        (dissection, "write_report"),
    ],
)
def test_a_run_that_fails_in_a_stage_can_be_repeated(
    snapshot, broden, tmp_path, undisturbed, monkeypatch, module, stage
):
    def fail(*_):
        raise RuntimeError("power cut")

    with monkeypatch.context() as context:
        context.setattr(module, stage, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            dissect(snapshot, broden, tmp_path)
    assert dissect(snapshot, broden, tmp_path) == undisturbed


@pytest.mark.parametrize("sign", [".lock", "cache/key.json", "tally.csv"])
def test_kill_9_in_each_stage(snapshot, broden, tmp_path, undisturbed, sign):
    """Killed as soon as the sign of a stage appears: while measuring, while counting, and after the tally."""
    arguments = [part for name, value in flags(snapshot, broden, tmp_path).items() for part in (f"--{name}", value)]
    process = subprocess.Popen([sys.executable, "netdissect/main.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (tmp_path / sign).exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    csv = tmp_path / "tally.csv"
    assert not csv.exists() or csv.read_bytes() == undisturbed
    assert dissect(snapshot, broden, tmp_path) == undisturbed


def test_two_runs_in_one_folder(snapshot, broden, tmp_path):
    with lock_folder(tmp_path), pytest.raises(UserError, match="another run is writing to it"):
        dissect(snapshot, broden, tmp_path)
    dissect(snapshot, broden, tmp_path)


@pytest.mark.parametrize("batch_size", ["5", pytest.param("64", marks=pytest.mark.slow)])  # three batches, and one
def test_two_processes_give_the_results_of_one(snapshot, tmp_path, batch_size):
    broden = write_small_broden(tmp_path / "broden", count=12)  # six images with a scene, and six without
    dissect(snapshot, broden, tmp_path / "one", batch_size=batch_size, chance_rounds="2")
    settings = flags(snapshot, broden, tmp_path / "two", batch_size=batch_size, chance_rounds="2")
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*launcher, "main.py", *arguments], cwd=ROOT / "netdissect", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1  # the first one speaks, the other does not
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert [str(file) for file in files if file.suffix in (".csv", ".npy")] == [
        "agreement.csv",
        "quantile.npy",
        "tally.csv",
        "top_images.csv",
    ]
    areas = [row.auroc for row in read_agreement(tmp_path / "two" / "agreement.csv") if row.label == "beach-s"]
    assert areas and None not in areas
    for file in files:
        if file.suffix not in (".svg", ".html"):  # the graph has random ids
            assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


@pytest.mark.parametrize(
    "model, layer, units",
    [
        ("resnet50", "layer3.1.conv2", 256),
        pytest.param("vgg11", "features.18", 512, marks=pytest.mark.slow),
        pytest.param("densenet121", "features.denseblock1", 256, marks=pytest.mark.slow),
    ],
)
def test_torchvisions_networks(broden, tmp_path, model, layer, units):
    layers = f"{layer},features" if model == "vgg11" else layer
    settings = flags("none", broden, tmp_path, model=model, feature_names=layers)
    tallies = dissection.main(dissection.make_config(settings))
    assert [len(read_tally(path)) for path in tallies] == ([units, 512] if model == "vgg11" else [units])
    for path in tallies:
        name = path.parent.name if len(tallies) > 1 else layer
        assert (path.parent / "html" / f"{name}.html").is_file()
    if model == "resnet50":  # random weights are equal in every run
        assert dissect("none", broden, tmp_path / "again", model=model, feature_names=layer) == tallies[0].read_bytes()


@pytest.mark.parametrize(
    "words", [["layer3", "layer4"], ["layer3,layer4"], ["layer3,", "layer4"], ["['layer3', 'layer4']"]]
)
def test_layers_are_named_by_several_words_or_by_one(words):
    arguments = ["--feature_names", *words, "--categories", "object", "color", "--topn", "3"]
    config = dissection.make_config(vars(dissection.get_args_parser().parse_args(arguments)))
    assert config.feature_names == ["layer3", "layer4"]
    assert (config.categories, config.topn) == (["object", "color"], 3)
