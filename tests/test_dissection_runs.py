"""Interrupted, repeated and simultaneous dissections: the CSV is that of an undisturbed run, or there is none."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_pipeline import ROOT

from errors import UserError
from files import alone_in
from models import build_model
from models.snapshot import save_snapshot
from netdissect import main as dissection


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5)
    path = tmp_path_factory.mktemp("snapshot") / "epoch_0.pth"
    save_snapshot(path, {"state_dict": model.state_dict(), "arch": "resnet18_fc_ma", "topk": 5})
    return path


def flags(snapshot, broden, output, **more):
    return {"model_file": str(snapshot), "data_directory": str(broden), "output_folder": str(output), "gpu": "False",
            "workers": "0", "chance_rounds": "1", "topn": "2", **more}  # fmt: skip


def dissect(*args, **more):
    return dissection.main(dissection.make_config(flags(*args, **more)))[0].read_bytes()


@pytest.fixture(scope="module")
def undisturbed(snapshot, broden, tmp_path_factory):
    return dissect(snapshot, broden, tmp_path_factory.mktemp("undisturbed"))


def test_a_second_run_takes_the_measurements_of_the_first(snapshot, broden, tmp_path, undisturbed, monkeypatch):
    dissect(snapshot, broden, tmp_path, clean="False")
    monkeypatch.setattr(dissection, "stream_features", lambda *_: pytest.fail("measured again"))
    assert dissect(snapshot, broden, tmp_path, clean="True") == undisturbed
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("change, reason", [({"quantile": "0.01"}, "another quantile"), ({"topn": "3"}, "another topn"),
                                            ({"preprocess": "imagenet"}, "another preprocess")])  # fmt: skip
def test_a_cache_of_other_settings_is_not_taken(snapshot, broden, tmp_path, caplog, change, reason):
    dissect(snapshot, broden, tmp_path, clean="False")
    with caplog.at_level("INFO"):
        changed = dissect(snapshot, broden, tmp_path, **change)
    assert f"was made with {reason}: measuring anew" in caplog.text
    assert changed == dissect(snapshot, broden, tmp_path / "fresh", **change)


def test_a_cache_of_another_model_or_broken_is_not_taken(snapshot, broden, tmp_path, caplog, undisturbed):
    torch.manual_seed(1)
    other = tmp_path / "other.pth"
    save_snapshot(other, {"state_dict": build_model("resnet18_fc_ma", 3, 5).state_dict(), "topk": 5})
    dissect(other, broden, tmp_path / "o", clean="False")
    with caplog.at_level("INFO"):
        assert dissect(snapshot, broden, tmp_path / "o", clean="False") == undisturbed
    assert "made with another model" in caplog.text
    maps = tmp_path / "o" / "cache" / "maps.f32"
    maps.write_bytes(maps.read_bytes()[:-4])
    with caplog.at_level("INFO"):
        assert dissect(snapshot, broden, tmp_path / "o") == undisturbed
    assert "not whole (maps.f32 is not whole)" in caplog.text


@pytest.mark.parametrize("stage", ["stream_features", "count", "chance_scores", "write_report"])
def test_a_run_that_fails_in_a_stage_can_be_repeated(snapshot, broden, tmp_path, undisturbed, monkeypatch, stage):
    def fail(*_):
        raise RuntimeError("power cut")

    with monkeypatch.context() as context:
        context.setattr(dissection, stage, fail)
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
    with alone_in(tmp_path), pytest.raises(UserError, match="another run is writing to it"):
        dissect(snapshot, broden, tmp_path)
    dissect(snapshot, broden, tmp_path)
