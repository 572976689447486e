"""Vote maps sum to their votes, contours lie where a map crosses its limit, and pages show what a unit is."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, run_demo
from PIL import Image
from test_explain import CLASSES, NAMES, write_report

from explain.agreement import AgreementRow, ceiling_binds, read_agreement
from explain.drawing import overlay_tiles
from explain.images import Classifier, explain_images
from explain.tally import read_tally
from models import build_model
from netdissect import main as dissection
from netdissect.beside import Beside, read_beside, read_top_images, write_top_images
from report.links import links, reports_of
from report.vote_maps import contours, gradient, vote_tiles
from util.cli import UserError

SHIPPED = ROOT / "snapshot" / "shipped"


@pytest.fixture
def dissected_copy(trained, broden, tmp_path):
    """A dissection of the tiny network, with top images and page, that a test may change."""
    output = tmp_path / "nd"
    flags = {"model_file": str(trained[1]), "data_directory": str(broden), "output_folder": str(output), "topn": "3"}
    dissection.main(dissection.make_config({**flags, "gpu": "False", "workers": "0"}))
    return output


def answers(arch="resnet18_fc_ma", topk=5, count=3):
    torch.manual_seed(1)
    model = build_model(arch, len(CLASSES), topk).eval()
    return explain_images(Classifier.of(model), torch.randn(count, 3, 96, 96), [None] * count, NAMES, 5)


@pytest.mark.parametrize("arch, topk", [("resnet18_fc_ma", 5), ("resnet18_fc_ma", 1), ("resnet18", None)])
def test_a_map_sums_to_its_vote(arch, topk):
    for answer in answers(arch, topk):
        votes = [unit["vote"] for unit in answer.record["units"]]
        assert answer.vote_maps.sum((1, 2)).tolist() == pytest.approx(votes, abs=1e-5)
        scale = answer.record["map_scale"]
        assert (scale["height"], scale["width"]) == tuple(answer.vote_maps.shape[1:]) == (3, 3)
        assert scale["largest"] == answer.vote_maps.abs().max().item()


def test_all_maps_of_an_image_have_one_scale():
    (answer,) = answers(count=1)
    grey = np.full((90, 90, 3), 100, np.uint8)
    peaks = answer.vote_maps.amax((1, 2))
    shown = vote_tiles(grey, answer, [None] * 5)
    assert (shown[0] == grey).all() and len(shown) == 6
    brightest = [int(tile[..., 1].max()) for tile in shown[1:]]  # the palette's green grows with the vote
    order = np.argsort(peaks.numpy(), kind="stable")
    assert all(np.diff(np.array(brightest)[order]) >= 0) and brightest[int(peaks.argmax())] > min(brightest)


def test_negative_votes_have_colours_on_both_sides_of_zero():
    (answer,) = answers(count=1)
    turned = type(answer)(answer.record, answer.maps, answer.pooled, -answer.weights)
    answer.record["map_scale"]["palette"] = "signed"
    plain, negative = vote_tiles(np.zeros((30, 30, 3), np.uint8), turned, [None] * 5)[:2]
    assert negative[..., 0].astype(int).mean() > negative[..., 2].mean()  # orange below zero
    assert gradient("signed") != gradient("votes") and gradient("votes").count("#") == 9 and not plain.any()


def test_a_contour_lies_where_the_map_crosses_its_limit():
    map_ = np.zeros((5, 5))
    map_[2, 2] = 4.0
    (line,) = contours(map_, 1.0)  # linear from 4 to 0 in one pixel: 1 is reached after 3/4
    assert sorted({tuple(point) for point in line.tolist()}) == [(1.25, 2.0), (2.0, 1.25), (2.0, 2.75), (2.75, 2.0)]
    assert contours(map_, 5.0) == [] and contours(np.ones((1, 3)), 0.5) == []


def test_a_threshold_adds_a_line_and_none_adds_nothing():
    (answer,) = answers(count=1)
    square = np.full((60, 60, 3), 90, np.uint8)
    middle = float(answer.maps[0].min() + answer.maps[0].max()) / 2
    none, first = vote_tiles(square, answer, [None] * 5), vote_tiles(square, answer, [middle, *[None] * 4])
    assert (none[1] != first[1]).any() and all((a == b).all() for a, b in zip(none[2:], first[2:], strict=True))


@pytest.mark.parametrize("ceiling, label, binds", [(0.0799, "sea", True), (0.08, "sea", False), (0.0, "", False)])
def test_the_warning_is_for_a_ceiling_below_twice_the_threshold(ceiling, label, binds):
    row = AgreementRow(1, label, "object", 0.03, ceiling, 0.5, 0.1, 0.9, "", "", None)
    assert ceiling_binds(row, 0.04) is binds


@pytest.mark.parametrize("folder, units, binding", [(SHIPPED, 512, 81), (SHIPPED / "photos", 1280, 172)])
def test_all_that_lies_beside_the_shipped_tallies_fits_them(folder, units, binding):
    beside = read_beside(folder / "tally.csv")
    assert not beside.faults
    assert len(beside.agreement) == len(beside.chance) == len(beside.thresholds) == len(beside.top_images) == units
    known = [beside.record(unit, 0.04) for unit in range(1, units + 1)]
    assert sum(unit["binds"] for unit in known) == binding
    first = read_agreement(folder / "agreement.csv", read_tally(folder / "tally.csv"))[0]
    assert known[first.unit - 1]["ceiling"] == first.ceiling and known[first.unit - 1]["auroc"] == first.auroc


def test_files_of_another_tally_are_left_out_and_said_so(tmp_path):
    for file in SHIPPED.glob("*.csv"):
        shutil.copy(file, tmp_path)
    np.save(tmp_path / "quantile.npy", np.zeros(7))
    (tmp_path / "chance.json").write_text(json.dumps({"units": [{"unit": 1, "score": 0.9, "chance": 0.0}]}))
    (tmp_path / "top_images.csv").write_text("unit,images\n1,3;-4\n")
    beside = read_beside(tmp_path / "tally.csv")
    assert beside.thresholds is None and not beside.chance and not beside.top_images and len(beside.faults) == 3
    assert beside.record(1, 0.04)["threshold"] is None and Beside().record(1, 0.04)["ceiling"] is None


def test_top_images_are_read_as_written(tmp_path):
    write_top_images(tmp_path / "top_images.csv", np.array([[5, 0], [2, 9]]))
    assert read_top_images(tmp_path / "top_images.csv", 2) == {1: [5, 2], 2: [0, 9]}
    with pytest.raises(UserError, match="it has 2 units"):
        read_top_images(tmp_path / "top_images.csv", 3)


def test_a_dissection_page_links_to_reports_that_exist(tmp_path):
    page, report = tmp_path / "nd" / "html" / "layer4.html", tmp_path / "a #1 <b>" / "explain.html"
    for file in (page, report):
        file.parent.mkdir(parents=True)
        file.write_text("<p>before</p><!--reports--><!--/reports--><p>after</p>")
    page.write_text(f"<p>before</p><!--reports-->{links(page, [report, report])}<!--/reports--><p>after</p>")
    text = page.read_text()
    assert text.count('href="../../a%20%231%20%3Cb%3E/explain.html"') == 1 and "<b>" not in text
    assert reports_of(page) == [report]
    report.unlink()
    assert reports_of(page) == [] and links(page, []) == ""
    assert reports_of(tmp_path / "none.html") == []


def test_jet_is_the_authors_overlay_and_the_figure_is_the_same(trained, dissected_copy, tree, tmp_path):
    network = ["--modelfile", trained[1], "--nd_result", dissected_copy / "tally.csv", "--dataset", tree]
    runs = {}
    for cam in ("votes", "jet"):
        runs[cam] = run_demo(*network, "--images", "5,0", "--no_val", "--cam", cam, "--output", tmp_path / cam)
    pixels = [np.asarray(Image.open(tmp_path / cam / "figure.png")) for cam in runs]
    assert (pixels[0] == pixels[1]).all()
    strips = [np.asarray(Image.open(tmp_path / cam / "vis" / "cam_0.jpg")) for cam in runs]
    assert strips[0].shape == strips[1].shape and (strips[0] != strips[1]).any()
    pages = {cam: (tmp_path / cam / "explain.html").read_text() for cam in runs}
    assert "one scale for all maps" in pages["votes"] and "one scale for all maps" not in pages["jet"]
    assert runs["votes"]["no_strips"] is None
    assert [unit["unit"] for unit in runs["votes"]["units"]] == list(range(1, 513))
    assert all(unit["threshold"] is not None for unit in runs["votes"]["units"])
    shown = [unit for unit in runs["votes"]["units"] if unit["strip"]]  # copied from the dissection's page
    assert {unit["unit"] for unit in shown} >= {u["unit"] for i in runs["votes"]["images"] for u in i["units"]}
    for unit in shown:
        assert unit["strip"] == f"vis/unit-{unit['unit']}.jpg"
        with Image.open(tmp_path / "votes" / unit["strip"]) as strip:
            assert strip.size == (96 * unit["tiles"], 96)
    listed = runs["votes"]["images"][0]["units"][0]["unit"]
    assert f'src="vis/unit-{listed}.jpg"' in pages["votes"]
    assert f"html/layer4.html#unit-{listed}" in pages["votes"]
    page = dissected_copy / "html" / "layer4.html"
    assert "at most" in page.read_text() and "AUROC" in page.read_text()


def test_strips_that_cannot_be_made_are_said_in_one_line(trained, dissected_copy, tree, tmp_path, capsys):
    shutil.rmtree(dissected_copy / "html")
    network = ["--modelfile", trained[1], "--nd_result", dissected_copy / "tally.csv", "--dataset", tree]
    report = run_demo(*network, "--images", "5", "--no_val", "--output", tmp_path / "out")
    assert report["no_strips"].startswith("No images of the units are shown: ")
    assert capsys.readouterr().out.count("No images of the units are shown") == 1
    assert all(unit["strip"] is None for unit in report["units"])
    assert "which is not there" in (tmp_path / "out" / "explain.html").read_text()


def test_a_hostile_label_is_escaped_in_strips_and_their_text(tmp_path):
    evil = '"><script>alert(1)</script>'
    pages = write_report(tmp_path, CLASSES, concept=evil)
    assert pages.report["units"]
    for page in tmp_path.rglob("*.html"):
        assert "<script>alert" not in page.read_text()


def test_the_jet_overlays_have_not_changed():
    (answer,) = answers(count=1)
    square = np.full((24, 24, 3), 60, np.uint8)
    tiles = overlay_tiles(square, answer)
    strongest = max(unit["percent"] for unit in answer.record["units"])
    first = answer.maps[0]
    large = torch.nn.functional.interpolate(first[None, None], size=(24, 24), mode="bilinear")[0, 0]
    row, column = divmod(int(large.argmax()), 24)
    red = 0.45 * answer.record["units"][0]["percent"] / strongest * 127.5  # jet's greatest is (0.5, 0, 0)
    assert tiles[1][row, column].tolist() == [round(30 + red), 30, 30]
