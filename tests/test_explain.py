"""Explanations: they add up, and they are shown as the formulas say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from explain.pictures import explain_pictures
from explain.votes import class_votes
from models import build_model
from netdissect.tally import TallyRow
from report.overlays import heat_overlays
from report.pages import plain_label, write_explain_page

CLASSES = ["beach", "forest_path", "street"]
CONCEPTS = {unit: TallyRow(unit, "object", f"thing {unit}", unit / 1000, {}) for unit in range(1, 513)}


def test_votes_worked_by_hand():
    pooled, weight = torch.tensor([1.0, 2.0, 0.0, 3.0]), torch.tensor([4.0, -1.0, 5.0, 2.0])
    votes = class_votes(pooled, weight, 0.5, topk=2)  # votes 4, -2, 0, 6
    assert votes.unit.tolist() == [3, 0, 2, 1]
    assert votes.vote.tolist() == [6, 4, 0, -2]
    assert votes.percent.tolist() == pytest.approx([50, 100 / 3, 0, -100 / 6])
    assert votes.share.tolist() == pytest.approx([60, 40, 0, 0])
    assert votes.active.tolist() == [True, True, False, False]
    assert votes.logit == 10.5


def test_silent_features_have_no_shares():
    votes = class_votes(torch.zeros(4), torch.ones(4), -1.0, topk=2)
    assert (votes.percent.tolist(), votes.share.tolist(), votes.logit) == ([0] * 4, [0] * 4, -1.0)
    assert votes.active.sum() == 2


@pytest.mark.parametrize("arch, topk", [("resnet18_fc_ma", 1), ("resnet18_fc_ma", 5), ("resnet18_fc_ma", 40),
                                        ("resnet18_fc_ma", 512), ("resnet18", None)])  # fmt: skip
def test_an_explanation_adds_up_to_the_logit(arch, topk):
    torch.manual_seed(0)
    model = build_model(arch, 3, topk).eval()
    images = torch.randn(4, 3, 64, 64)
    logits = model(images)
    explanations = explain_pictures(model, images, [0, 1, 2, None], CLASSES, CONCEPTS, topn=5)
    for row, explanation in enumerate(explanations):
        record = explanation.record
        assert record["prediction"] == record["explained"] == int(logits[row].argmax())
        terms = sum(unit["vote"] for unit in record["units"] if unit["active"]) + record["others"]["vote"]
        assert terms + record["bias"] == pytest.approx(record["logit"], abs=1e-9)
        assert record["logit"] == pytest.approx(logits[row].max().item(), abs=1e-4)
        assert record["probability"] == pytest.approx(logits[row].softmax(0).max().item(), abs=1e-6)
        assert sum(unit["active"] for unit in record["units"]) + record["others"]["count"] == (topk or 512)
        assert explanation.maps.shape == (5, 2, 2)
    assert [e.record["target_name"] for e in explanations] == ["beach", "forest_path", "street", None]
    if topk == 5:
        shares = [abs(unit["share"]) for unit in explanations[0].record["units"]]
        assert sum(shares) == pytest.approx(100)


def test_explaining_the_true_class():
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    images = torch.randn(3, 3, 64, 64)
    for row, explanation in enumerate(explain_pictures(model, images, [0, 1, 2], CLASSES, CONCEPTS, 5, True)):
        assert explanation.record["explained"] == row
        assert explanation.record["logit"] == pytest.approx(model(images)[row, row].item(), abs=1e-4)


def test_heat_overlay_is_the_authors_blend():
    picture = np.full((2, 2, 3), 100, np.uint8)
    maps = torch.tensor([[[0.0, 2.0], [0.0, 2.0]], [[3.0, 3.0], [3.0, 3.0]]])
    strong, flat = heat_overlays(picture, maps, [0.5, -1.0])
    # jet goes from (0, 0, 0.5) to (0.5, 0, 0): 0.5 * 100 + 0.45 * 0.5 * 127.5 = 78.7
    assert strong[0, 0].tolist() == [50, 50, 79]
    assert strong[0, 1].tolist() == [79, 50, 50]
    assert (flat == 50).all()


def test_labels_lose_their_suffix_only():
    assert [plain_label(label) for label in ("bakery_shop-s", "blue-c", "x-sea-s", "t-shirt", "-c", "a-scene")] == [
        "bakery_shop", "blue", "x-sea", "t-shirt", "", "a-scene"]  # fmt: skip


def test_page_escapes_every_name(tmp_path):
    torch.manual_seed(0)
    evil = '<script>alert("x")</script>'
    model = build_model("resnet18_fc_ma", 3, 7).eval()
    concepts = {unit: TallyRow(unit, evil, evil, 0.5, {}) for unit in range(1, 513)}
    record = explain_pictures(model, torch.randn(1, 3, 64, 64), [0], [evil] * 3, concepts, 5)[0].record
    record = {"file": f"{evil}.jpg", "index": 3, **record, "overlays": f"vis/{evil} #1.jpg"}
    report = {"arch": evil, "topk": 7, "modelfile": evil, "nd_result": evil, "dataset": evil, "explain": "prediction",
              "images": [json.loads(json.dumps(record))], "validation": None}  # fmt: skip
    write_explain_page(tmp_path / "explain.html", report, 0.04)
    html = (tmp_path / "explain.html").read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 10
    assert 'src="vis/%3Cscript' in html
    assert 'id="image-3"' in html
    assert "2 other units" in html


def test_page_loads_nothing_from_elsewhere(tmp_path):
    report = {"arch": "resnet18", "topk": None, "modelfile": "m", "nd_result": None, "dataset": "d",
              "explain": "prediction", "images": [], "validation": None}  # fmt: skip
    write_explain_page(tmp_path / "explain.html", report, 0.04)
    html = (tmp_path / "explain.html").read_text()
    assert "http" not in html
    assert "@import" not in html


def test_figure_of_a_paper(tmp_path):
    from report.figures import write_figure

    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    records = []
    for row, explanation in enumerate(explain_pictures(model, torch.randn(2, 3, 64, 64), [0, 1], CLASSES, CONCEPTS, 3)):
        Image.new("RGB", (4 * 224, 224), (200, 10, 10)).save(tmp_path / f"cam_{row}.jpg")
        records.append({**explanation.record, "overlays": f"cam_{row}.jpg"})
    write_figure(tmp_path / "figure.png", records, tmp_path)
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.size[1] > figure.size[0] > 600
