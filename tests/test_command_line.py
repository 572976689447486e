"""The command lines: help without heavy imports, lists of words, another K, names of what fits and of what is meant."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_demo, run_train
from torchvision.models import resnet18

import demo
import train
from loader.datasets import fitting_datasets
from netdissect.config import PREPROCESSES, make_config
from netdissect.features import PREPROCESS
from netdissect.main import GROUPS, get_args_parser
from training.config import Plan
from util.cli import UserError

PROGRAMS = {
    "train.py": ["model", "data", "schedule", "output", "machine"],
    "demo.py": ["model", "data", "output", "machine"],
    "netdissect/main.py": ["model", "data", "method", "output", "machine"],
    "netdissect/compare.py": [],
    "netdissect/broden/__main__.py": [],
}
HELP = """
import runpy, sys
sys.path.insert(0, {root!r})
sys.argv = [{file!r}, "--help"]
try:
    runpy.run_path({file!r}, run_name="__main__")
except SystemExit as end:
    heavy = {{"torch", "torchvision", "matplotlib", "sklearn", "scipy", "numpy", "PIL", "timm"}} & sys.modules.keys()
    sys.exit(f"{{end.code}} {{sorted(heavy)}}")
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_heavy(program):
    code = HELP.format(root=str(ROOT), file=str(ROOT / program))
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stderr == "0 []\n", process.stderr
    for group in PROGRAMS[program]:
        assert f"\n{group}:\n" in process.stdout


def test_every_setting_is_a_flag_with_its_default():
    named = [name for group in GROUPS.values() for name in group]
    assert sorted(named) == sorted(make_config({}))
    text = " ".join(get_args_parser().format_help().split())
    assert all(f"--{name} VALUE" in text for name in named)
    assert "(default 0.005)" in text and "'lite' or 'original'" in text.replace("'Lite'", "'lite'")
    assert tuple(PREPROCESS) == PREPROCESSES


def test_no_list_is_a_word_too():
    assert make_config({"categories": ["None"]}).categories is None


def test_another_k_explains_the_same_network(tmp_path):
    report = run_demo("--topk", 3, "--images", 1, "--no_val", "--output", tmp_path)
    assert (report["topk"], report["trained_topk"]) == (3, 5)
    assert sum(unit["active"] for unit in report["images"][0]["units"]) == 3
    assert report["nd_result"] == "snapshot/shipped/tally.csv"  # it does not depend on K: it still fits
    told = "K = 3, as --topk says; the network was trained with K = 5"
    assert report["notices"] == [told]
    page = (tmp_path / "explain.html").read_text()
    assert told in page and "K = 3 (trained with K = 5)" in page
    assert json.loads((tmp_path / "explain.json").read_text())["trained_topk"] == 5


def test_a_state_dict_names_the_data_set_that_fits(tmp_path, tree, capsys):
    assert fitting_datasets(1000) == ": --dataset imagenet has 1000, and fits"
    assert fitting_datasets(7) == ": none by name has 7; --dataset takes a folder with train/ and val/ of its classes"
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    said = "has 1000 classes, data set mini_places has 16: --dataset imagenet has 1000, and fits"
    with pytest.raises(UserError, match=said):
        run_demo("--modelfile", tmp_path / "resnet18.pth", "--dataset", "mini_places", "--output", tmp_path)
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--epochs", 1, "--finetune", tmp_path / "resnet18.pth")
    log = capsys.readouterr().out
    assert "its head has 1000 classes, tiny_places has 3: --dataset imagenet has 1000, and fits" in log
    assert "epoch 1 of 1: loss" in log and "dead (in no prediction)" in log
    assert "dead units have no part in the predicted class's score of any validation image" in log
    assert "last (epoch 1)" in log
    results = tmp_path / "result/pytorch_resnet18_fc_ma_t5_tiny_places"
    assert json.loads((results / "train.jsonl").read_text())["epoch"] == 0  # files count from 0


def test_epochs_count_from_1_for_people():
    plan = Plan(epochs=24, batch_size=1, steps_per_epoch=1, lr=0.1, seed=0, k_schedule=None)
    assert (plan.epoch_name(0), plan.epoch_name(23)) == ("epoch 1 of 24", "epoch 24 of 24")


def test_flags_state_their_defaults():
    assert "default: t5" in train.get_args_parser().format_help()
    assert "(default: 15)" in " ".join(demo.get_args_parser().format_help().split())
    assert demo.listed(["3", "5"]) == demo.listed(["3,5"]) == "3,5"
