"""COMPILE: the same maps to its precision, batches of other shapes, when 'auto' compiles, and where it cannot."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import write_broden
from torch import nn

from netdissect import forward as forward_module
from netdissect.broden import Broden
from netdissect.config import make_config
from netdissect.dissect import PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.forward import Forward, common_shape, compiled, expected_saving
from netdissect.layout import run_network
from netdissect.made_of import of_tally
from netdissect.network import NetworkInfo
from util.cli import UserError

SHAPE = (2, 3, 8, 8)


class TinyNetwork(nn.Sequential):
    """Two convolutions, a batch norm, in-place activations, and a head."""

    def __init__(self):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, padding=1)]
        body += [nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
        super().__init__(*body)
        self[3].running_mean.fill_(0.1)
        self.eval()


@pytest.fixture
def data(tmp_path):
    """Five images: two full batches of two, and one that is not."""
    generator = np.random.default_rng(0)
    images = [
        {
            "name": f"p{number}",
            "pixels": generator.integers(0, 255, (8, 8, 3)),
            "sh": 8,
            "sw": 8,
            "cells": {"object": [generator.integers(0, 3, (8, 8))]},
        }
        for number in range(5)
    ]
    labels = [{"number": number, "name": f"l{number}", "coverage": {"object": 9}} for number in (1, 2)]
    return Broden(write_broden(tmp_path / "broden", ["object"], labels, images))


@pytest.fixture
def stub(monkeypatch):
    """In place of compiled code, the network as it is."""
    monkeypatch.setattr(forward_module, "compiled", lambda *network: lambda images: run_network(*network, images))


def run(data, folder, compile_=False, layer="3"):
    model = TinyNetwork()
    config = PassConfig(quantile=0.1, batch_size=2, compile=compile_)
    summary = measure_layers(model, data, {layer: folder}, config)[layer]
    return summary, score_layer(layer, summary, data, TallyConfig(chance_rounds=0)).rows


def check_close(found, expected):
    (summary, rows), (plain, plain_rows) = found, expected
    np.testing.assert_allclose(summary.thresholds, plain.thresholds, rtol=1e-5, atol=1e-6)
    assert [(row.unit, row.label) for row in rows] == [(row.unit, row.label) for row in plain_rows]
    assert [row.score for row in rows] == pytest.approx([row.score for row in plain_rows], abs=0.01)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_equals_eager(data, tmp_path, caplog):
    with caplog.at_level("INFO"):
        found = run(data, tmp_path / "compiled", True)
    assert f"for batches {SHAPE}" in caplog.text
    expected = run(data, tmp_path / "eager")
    check_close(found, expected)
    assert (found[0].compiled, expected[0].compiled) == (True, False)


def test_layers_before_an_in_place_operation(monkeypatch):
    """Traced as in a compiled run, with PyTorch's own operators in place of a C++ compiler's."""
    monkeypatch.setattr(forward_module, "compiled", lambda *network: compiled(*network, backend="aot_eager"))
    model, images, layers = TinyNetwork(), torch.randn(SHAPE), ["0", "2", "3", "4"]  # an activation follows 0 and 3
    with torch.inference_mode():
        expected = Forward(model, layers)(images)
        forward = Forward(model, layers, True)
        forward.expect(SHAPE, 2)
        for _ in range(2):
            torch.testing.assert_close(forward(images), expected)
    assert forward.compiled
    assert not any(module._forward_hooks for module in model.modules())


def test_other_shapes_are_not_compiled(stub, monkeypatch):
    forward = Forward(TinyNetwork(), ["3"], True)
    forward.expect(SHAPE, 1)
    monkeypatch.setattr(forward_module, "compiled", lambda *_: pytest.fail("compiled"))
    with torch.inference_mode():
        for shape in ((1, 3, 8, 8), (2, 3, 8, 9)):
            assert forward(torch.randn(shape))["3"].shape == (shape[0], 6, *shape[2:])
    assert not forward.compiled


def test_common_shape():
    small, large = (8, 8), (8, 9)
    sizes = [small, small, large, large, small, small, small, large, None, None, small]
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]  # two of the small size, one large, one mixed, one unknown
    assert common_shape(sizes, batches, 2) == ((2, 3, 8, 8), 2)
    assert common_shape(sizes, batches[3:], 2) == (None, 0)


def test_what_auto_expects_to_save():
    # 15 % of 100 batches of 1 s, less 12 s to compile; 1,000 images of the shipped tally make 15 full batches
    assert expected_saving(100, 1.0) == pytest.approx(3)
    assert expected_saving(80, 1.0) == pytest.approx(0)
    assert expected_saving(15, 2.0) < 0


@pytest.mark.parametrize("seconds, wanted", [(0.1, False), (10.0, True)])
def test_auto_decides_by_measured_time(stub, monkeypatch, caplog, seconds, wanted):
    """Of 103 batches three are timed: 15 % of 100 times 0.1 s is less than 12 s, of 10 s more."""
    clock = iter(np.arange(100) * seconds)  # each look at it is so much later
    monkeypatch.setattr(forward_module.time, "perf_counter", lambda: next(clock))
    forward = Forward(TinyNetwork(), ["3"], "auto")
    forward.expect(SHAPE, 103)
    with torch.inference_mode(), caplog.at_level("INFO"):
        states = [forward(torch.randn(SHAPE)) is None or forward.compiled for _ in range(4)]
    assert states == [False, False, wanted, wanted]
    said = "compiling the network: 100 batches follow" if wanted else "not compiled: 100 batches follow, of 0.10 s each"
    assert said in caplog.text


def test_a_compiler_that_fails_is_one_line(data, tmp_path, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(forward_module, "compiled", lambda *_: broken)
    with caplog.at_level("INFO"):
        found, rows = run(data, tmp_path / "failed", True)
    lines = [record.getMessage() for record in caplog.records if record.name == forward_module.__name__]
    assert len(lines) == 1 and lines[0] == "the network is not compiled (RuntimeError: no C++ compiler)"
    expected, expected_rows = run(data, tmp_path / "eager")
    assert (found.thresholds.tolist(), rows) == (expected.thresholds.tolist(), expected_rows)
    assert not found.compiled


def test_other_values_are_not_used(monkeypatch, caplog):
    monkeypatch.setattr(forward_module, "compiled", lambda *_: lambda images: {"3": torch.zeros(2, 6, 8, 8)})
    forward = Forward(TinyNetwork(), ["3"], True)
    forward.expect(SHAPE, 1)
    with torch.inference_mode(), caplog.at_level("INFO"):
        assert forward(torch.randn(SHAPE))["3"].abs().max() > 0
    assert "its maps would differ by 1 of the largest" in caplog.text


def test_caches_tell_compiled_from_eager(stub, data, tmp_path, caplog):
    run(data, tmp_path / "cache", True)
    assert json.loads((tmp_path / "cache" / "key.json").read_text())["compiled"] is True
    with caplog.at_level("INFO"):
        assert run(data, tmp_path / "cache", "auto")[0].compiled  # either kind will do
        assert "reusing the activations" in caplog.text
        assert not run(data, tmp_path / "cache", False)[0].compiled
    assert "which differs in compiled\n" in caplog.text
    assert not run(data, tmp_path / "cache", True)[0].compiled


def test_the_record_names_it_only_if_it_was(data):
    info = NetworkInfo("tiny", "dense", "unknown", None, "tiny")
    assert "compiled" not in of_tally({}, info, data, "lite")
    assert of_tally({}, info, data, "lite", compiled=True)["compiled"] is True
    assert of_tally({}, info, data, "lite")["material"] == "photographed"  # nothing says that it was rendered


def test_the_setting():
    assert [make_config({"compile": text}).compile for text in ("True", "False", "auto", "AUTO")] == [
        *(True, False, "auto", "auto")
    ]
    assert make_config({}).compile is False
    with pytest.raises(UserError, match="COMPILE = 'yes': expected True, False or 'auto'"):
        make_config({"compile": "yes"})
