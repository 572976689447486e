"""Architectures and snapshots; heads are in test_heads.py."""

import os
import pickle

import pytest
import torch
import torchvision
from torch.testing import assert_close

from models import build_model, load_snapshot, mark_of, model_names, parse_mark
from models.export import export
from models.snapshot import guess_arch, load_pretrained, newest_snapshot, read_checkpoint, save_snapshot
from util.cli import UserError


@pytest.fixture
def authors_file(tmp_path):
    """A snapshot as the paper's authors wrote it: three keys, `module.` before every name, no K. And its model."""
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 7, 5).eval()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "authors.pth"
    torch.save({"epoch": 90, "best_prec1": 54.2, "state_dict": state}, path)
    return path, model


def test_the_authors_snapshot_matches_the_plain_formula(authors_file):
    path, original = authors_file
    model, about = load_snapshot(path, topk=5)
    assert about == {"epoch": 90, "best_prec1": 54.2, "arch": "resnet18_fc_ma", "topk": 5, "num_classes": 7}
    assert not model.training
    images = torch.randn(2, 3, 64, 64)
    trunk = torchvision.models.resnet18(num_classes=7).eval()
    trunk.load_state_dict({k: v for k, v in original.state_dict().items() if "rfc" not in k}, strict=False)
    trunk.fc = torch.nn.Identity()
    pooled = trunk(images)  # (B, F)
    votes = pooled[:, None] * original.rfc.weight  # (B, C, F)
    assert_close(model(images), votes.topk(5, 2)[0].sum(2) + original.rfc.bias, rtol=1e-5, atol=1e-5)


def test_the_authors_snapshot_needs_a_k(authors_file):
    with pytest.raises(UserError, match="does not say its K"):
        load_snapshot(authors_file[0])
    with pytest.raises(UserError, match="expected 1 <= K <= 512"):
        load_snapshot(authors_file[0], topk=513)
    with pytest.raises(UserError, match="expected 1 <= K <= 512"):
        load_snapshot(authors_file[0], topk=0)


@pytest.mark.parametrize("arch", model_names())
def test_every_trunk_is_torchvisions(arch):
    trunk = arch.removesuffix("_fc_ma")
    with torch.device("meta"):  # no weights: names and shapes only
        expected = {key: value.shape for key, value in torchvision.models.get_model(trunk).state_dict().items()}
        model = build_model(arch, 1000, 5 if arch != trunk else None)
        state = model.state_dict()
    if arch != trunk:
        expected = {key.replace("fc.", "rfc."): shape for key, shape in expected.items()}
    assert {key: value.shape for key, value in state.items()} == expected
    assert guess_arch(state) == arch
    with pytest.raises(UserError, match="pooled features, expected 1 <= K <="):
        build_model(f"{trunk}_fc_ma", 4, 2049)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet18_fc_ma", "resnet50_fc_ma"])
def test_a_saved_network_is_rebuilt(arch, tmp_path):
    topk = 3 if arch.endswith("_fc_ma") else None
    model = build_model(arch, 4, topk).eval()
    path = tmp_path / "epoch_0.pth"
    metadata = {"epoch": 0, "best_prec1": 1.5, "arch": arch, "topk": topk, "num_classes": 4, "classes": list("abcd")}
    save_snapshot(path, {**metadata, "state_dict": model.state_dict(), "training": {}})
    again, about = load_snapshot(path)
    assert about == metadata
    images = torch.randn(1, 3, 40, 50)
    assert torch.equal(again(images), model(images))


def test_a_given_k_overrides_the_files(tmp_path):
    model = build_model("resnet18_fc_ma", 4, 3)
    save_snapshot(tmp_path / "a.pth", {"state_dict": model.state_dict(), "arch": "resnet18_fc_ma", "topk": 3})
    assert load_snapshot(tmp_path / "a.pth", topk=8)[0].rfc.topk == 8


def test_faulty_keys_are_named(tmp_path):
    state = build_model("resnet18_fc_ma", 4, 3).state_dict()
    del state["layer1.0.bn1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(UserError) as error:
        load_snapshot(tmp_path / "a.pth", arch="resnet18_fc_ma", topk=3)
    assert "missing: layer1.0.bn1.weight" in str(error.value)
    assert "unexpected: layer9.weight" in str(error.value)
    assert "conv1.weight (2, 2) instead of (64, 3, 7, 7)" in str(error.value)
    with pytest.raises(UserError, match="none of resnet18"):
        load_snapshot(tmp_path / "a.pth", topk=3)


def test_a_dense_snapshot_is_not_a_dka_model(tmp_path):
    torch.save(build_model("resnet18", 4).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"missing: rfc\.weight"):
        load_snapshot(tmp_path / "a.pth", arch="resnet18_fc_ma", topk=3)
    assert load_snapshot(tmp_path / "a.pth")[1]["arch"] == "resnet18"


class _Evil:
    def __reduce__(self):
        return (pytest.fail, ("code from a snapshot was run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_not_snapshots(tmp_path):
    missing, text, truncated, evil = (tmp_path / name for name in ("no.pth", "text.pth", "short.pth", "evil.pth"))
    text.write_text("not a snapshot")
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    torch.save({"state_dict": {"a": _Evil()}}, evil)
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(_Evil()))
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(missing)
    for name in ("text.pth", "short.pth", "evil.pth", "pickle.pth", "list.pth", "empty.pth"):
        with pytest.raises(UserError, match=name):
            read_checkpoint(tmp_path / name)


def test_finetuning_from_torchvisions_weights(tmp_path):
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = build_model("resnet18_fc_ma", 5, 2)
    assert load_pretrained(model, tmp_path / "resnet18.pth") == (["rfc.bias", "rfc.weight"], 1000)
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    dense = build_model("resnet18", 1000)
    assert load_pretrained(dense, tmp_path / "resnet18.pth") == ([], None)
    with pytest.raises(UserError, match="does not fit the model"):
        load_pretrained(build_model("resnet50", 5), tmp_path / "resnet18.pth")


def test_export_halves_the_file_and_keeps_the_metadata(tmp_path):
    model = build_model("resnet18_fc_ma", 4, 3)
    metadata = {"epoch": 2, "arch": "resnet18_fc_ma", "topk": 3}
    training = {"optimizer": {}}
    save_snapshot(tmp_path / "a.pth", {**metadata, "state_dict": model.state_dict(), "training": training})
    export(tmp_path / "a.pth", tmp_path / "b.pth")
    again, about = load_snapshot(tmp_path / "b.pth")
    assert about == {**metadata, "num_classes": 4}
    assert (tmp_path / "b.pth").stat().st_size < 0.52 * (tmp_path / "a.pth").stat().st_size
    images = torch.randn(1, 3, 64, 64)
    assert_close(again(images), model.eval()(images), rtol=0, atol=0.02)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "epoch_0.pth"
    save_snapshot(path, {"state_dict": {}})
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_snapshot(path, {"state_dict": lambda: None})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_0.pth"]


def test_newest_snapshot(tmp_path):
    assert newest_snapshot(tmp_path / "none") is None
    for epoch in (2, 10, 9):
        (tmp_path / f"epoch_{epoch}.pth").touch()
        os.utime(tmp_path / f"epoch_{epoch}.pth", (100, 100))
    (tmp_path / "epoch_best.pth").touch()
    assert newest_snapshot(tmp_path).name == "epoch_10.pth"


def test_marks():
    assert parse_mark("t5") == 5
    assert (mark_of(20), mark_of(None)) == ("t20", "dense")
    for mark in ("x", "5", "t", "t0", "t05", "t-1", "t5x", ""):
        with pytest.raises(UserError, match="expected `t` and the number of votes"):
            parse_mark(mark)


BAD_ARGUMENTS = [
    ("resnet19", 4, 5, "architecture 'resnet19': expected one of resnet18, resnet34"),
    ("resnet18_fc_ma", 4, None, "K = None: resnet18_fc_ma has 512 pooled features, expected 1 <= K <= 512"),
    ("resnet18_fc_ma", 4, 513, "K = 513: resnet18_fc_ma has 512 pooled features, expected 1 <= K <= 512"),
    ("resnet18", 0, None, "number of classes 0: expected at least 1"),
]


@pytest.mark.parametrize("arch, classes, topk, message", BAD_ARGUMENTS)
def test_build_model_rejects_bad_arguments(arch, classes, topk, message):
    with pytest.raises(UserError, match=message):
        build_model(arch, classes, topk)
