"""Explanations: they add up, they are shown as the formulas say, and every presentation of one agrees with the rest."""

import json
import re
import warnings
from itertools import accumulate
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from explain.drawing import equation, heat_overlays
from explain.faithfulness import ablation_records, at_random, by_votes, faithfulness_record
from explain.images import Classifier, explain_images
from explain.naming import Names, unit_name, unit_title
from explain.routes import class_accuracy, routes_of, routes_record
from explain.subjects import shown_size
from explain.tally import TallyRow
from explain.terms import log_line, terms_of
from explain.votes import class_votes
from models import build_model, head_of
from models.dynamic_k import DynamicKLinear
from report.cards import card
from report.explanations import Pages, write_pages
from report.figures import faithfulness_graph, write_figure
from report.pages import file_name, plain_label
from util.text import abridged

CLASSES = ["beach", "forest_path", "street"]
CONCEPTS = {unit: TallyRow(unit, "object", f"thing {unit}", unit / 1000, {}) for unit in range(1, 513)}
NAMES = Names(CLASSES, CONCEPTS)


def one_class(weight, bias):
    """A DKA head of one class, K = 2, with this weight (N,)."""
    head = DynamicKLinear(len(weight), 1, topk=2)
    head.load_state_dict({"weight": torch.tensor([weight]), "bias": torch.tensor([bias])})
    return head


def test_votes_worked_by_hand():
    head = one_class([4.0, -1.0, 5.0, 2.0], 0.5)
    votes = class_votes(head, torch.tensor([1.0, 2.0, 0.0, 3.0]), 0)  # votes 4, -2, 0, 6
    assert votes.unit.tolist() == [3, 0, 2, 1]
    assert votes.vote.tolist() == [6, 4, 0, -2]
    assert votes.percent.tolist() == pytest.approx([50, 100 / 3, 0, -100 / 6])
    assert votes.share.tolist() == pytest.approx([60, 40, 0, 0])
    assert votes.active.tolist() == [True, True, False, False]
    assert votes.logit == 10.5


def test_explaining_true_classes_needs_one_per_image():
    model = build_model("resnet18_fc_ma", 3, 2).eval()
    with pytest.raises(ValueError, match="explain_target: expected a true class for each image"):
        explain_images(Classifier.of(model), torch.zeros(2, 3, 64, 64), [0, None], NAMES, 5, explain_target=True)


def test_silent_features_have_no_shares():
    votes = class_votes(one_class([1.0] * 4, -1.0), torch.zeros(4), 0)
    assert (votes.percent.tolist(), votes.share.tolist(), votes.logit) == ([0] * 4, [0] * 4, -1.0)
    assert votes.active.sum() == 2


ARCHS_AND_K = [
    ("resnet18_fc_ma", 1),
    ("resnet18_fc_ma", 5),
    ("resnet18_fc_ma", 40),
    ("resnet18_fc_ma", 512),
    ("resnet18", None),
]


@pytest.mark.parametrize("arch, topk", ARCHS_AND_K)
def test_an_explanation_adds_up_to_the_logit(arch, topk):
    torch.manual_seed(0)
    model = build_model(arch, 3, topk).eval()
    images = torch.randn(4, 3, 64, 64)
    logits = model(images)
    explanations = explain_images(Classifier.of(model), images, [0, 1, 2, None], NAMES, topn=5)
    for row, explanation in enumerate(explanations):
        record = explanation.record
        assert record["prediction"] == record["explained"] == int(logits[row].argmax())
        terms = sum(unit["vote"] for unit in record["units"] if unit["active"]) + record["others"]["vote"]
        assert terms + record["bias"] == pytest.approx(record["logit"], abs=1e-9)
        assert sum(terms_of(record).values) == pytest.approx(record["logit"], abs=1e-9)
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
    for row, explanation in enumerate(explain_images(Classifier.of(model), images, [0, 1, 2], NAMES, 5, True)):
        assert explanation.record["explained"] == row
        assert explanation.record["logit"] == pytest.approx(model(images)[row, row].item(), abs=1e-4)


def test_heat_overlay_is_the_authors_blend():
    image = np.full((2, 2, 3), 100, np.uint8)
    maps = torch.tensor([[[0.0, 2.0], [0.0, 2.0]], [[3.0, 3.0], [3.0, 3.0]]])
    strong, flat = heat_overlays(image, maps, [0.5, -1.0])
    # jet goes from (0, 0, 0.5) to (0.5, 0, 0): 0.5 * 100 + 0.45 * 0.5 * 127.5 = 78.7
    assert strong[0, 0].tolist() == [50, 50, 79]
    assert strong[0, 1].tolist() == [79, 50, 50]
    assert (flat == 50).all()


@pytest.mark.parametrize("size, tiles, side", [(64, 6, 224), (224, 6, 224), (384, 6, 384), (384, 292, 224)])
def test_a_page_shows_an_image_no_smaller_than_the_network_sees_it(size, tiles, side):
    assert shown_size(size, tiles) == side  # 292 tiles of 384 pixels would be wider than a JPEG can be
    assert side * tiles < 65_536


def test_labels_lose_their_suffix_only():
    labels = {"bakery_shop-s": "bakery_shop", "blue-c": "blue", "x-sea-s": "x-sea", "t-shirt": "t-shirt", "-c": ""}
    assert [plain_label(label) for label in [*labels, "a-scene"]] == [*labels.values(), "a-scene"]


def test_a_unit_without_a_concept_is_called_by_its_number():
    names = Names(CLASSES, {1: CONCEPTS[1], 3: TallyRow(3, "", "", 0.0, {})})
    units = [names.unit(index) for index in range(3)]  # the tally has no row for unit 2, and no label for unit 3
    assert units[1] == {"unit": 2, "label": "", "category": "", "iou": 0.0}
    assert [unit_name(unit) for unit in units] == ["thing 1", "unit 2", "unit 3"]
    assert [unit_title(unit) for unit in units] == ["thing 1 (unit 1)", "unit 2", "unit 3"]


def test_a_concept_is_written_in_words():
    unit = {"unit": 4, "label": "forest_path", "category": "scene", "iou": 0.1}
    assert (unit_name(unit), unit_title(unit)) == ("forest path", "forest path (unit 4)")


def explained_at_random(names, model=None, topk=7, count=2, concept="thing"):
    """Random images, explained by a network with random weights, and whether the explanations hold.

    Returns:
        the entries of explain.json's `images`, routes.json and faithfulness.json.
    """
    torch.manual_seed(0)
    model = model or build_model("resnet18_fc_ma", len(names), topk).eval()
    head = head_of(model)
    concepts = {unit: TallyRow(unit, concept, concept, unit / 2000, {}) for unit in range(1, 513)}
    known = Names(names, concepts)
    targets = [index % len(names) for index in range(count)]
    explanations = explain_images(Classifier.of(model), torch.randn(count, 3, 64, 64), targets, known, 5)
    pooled = torch.stack([explanation.pooled for explanation in explanations])
    records = [
        {"file": f"{concept}.jpg", "index": 3 + row, **explanation.record, "overlays": f"vis/{concept} #1.jpg"}
        for row, explanation in enumerate(explanations)
    ]
    predictions = torch.tensor([record["prediction"] for record in records])
    explained = torch.tensor([record["explained"] for record in records])
    silenced = [way(head, pooled, explained, 4) for way in (by_votes, at_random)]
    for record, curves in zip(records, ablation_records(*silenced, names), strict=True):
        record["ablation"] = curves
    accuracy = class_accuracy(predictions, targets, len(names))
    routes = routes_record(routes_of(head, pooled, explained), known, f"{count} {concept}s", accuracy)
    faithfulness = faithfulness_record({concept: by_votes(head, pooled, explained, 4)}, f"{count} {concept}s")
    return records, routes, faithfulness


def unit_evidence(unit):
    """What is known of a unit: some numbers, and no strip of images."""
    known = {"ceiling": 0.5, "binds": False, "auroc": 0.9, "chance": 0.01, "threshold": None}
    return {"unit": unit, **known, "strip": None, "tiles": 0}


def write_report(folder, names, model=None, topk=7, count=2, concept="thing", unreadable=()):
    """All pages of `count` random images, explained by a network with random weights; returns what they show."""
    records, routes, faithfulness = explained_at_random(names, model, topk, count, concept)
    report = {
        "arch": concept,
        "topk": topk,
        "trained_topk": topk,
        "modelfile": concept,
        "nd_result": concept,
        "dataset": concept,
        "feature_map": {"layer": "layer4", "about": "a map", "direct": True},
        "cam": "votes",
        "explain": "prediction",
        "images": records,
        "units": [unit_evidence(unit) for unit in range(1, 513)],
        "no_strips": None,
        "unreadable": list(unreadable),
        "validation": None,
    }
    units = [{"unit": unit, "label": concept, "category": concept, "iou": unit / 2000} for unit in range(1, 513)]
    report, routes, faithfulness = (json.loads(json.dumps(data)) for data in (report, routes, faithfulness))
    pages = Pages(report, routes, faithfulness, units, threshold=0.04)
    write_pages(folder, pages)
    return pages


@pytest.mark.parametrize("topk", [7, None])
def test_pages_escape_every_name(tmp_path, topk):
    evil = '<script>alert("x")</script>'
    lost = [{"file": evil, "reason": evil}]
    model = None if topk else build_model("resnet18", 3, None).eval()
    write_report(tmp_path, [evil, evil + "/../../..", "b"], model, topk, concept=evil, unreadable=lost)
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) == 4 + 3 and all(page.parent in (tmp_path, tmp_path / "class") for page in pages)
    for page in pages:
        html = page.read_text()
        assert html.count("&lt;script&gt;") >= 1
        # one script of our own in the pages with lists, with data that cannot close it on the page with the matrix
        own = {"explain.html": 1, "units.html": 1, "classes.html": 3}.get(page.name, 0)
        assert html.count("<script") == html.count("</script>") == own, page
    html = (tmp_path / "explain.html").read_text()
    assert 'src="vis/%3Cscript' in html
    assert 'id="image-3"' in html
    assert ("2 other units" if topk else "507 other units") in html


def test_pages_load_nothing_from_elsewhere(tmp_path):
    write_report(tmp_path, CLASSES)
    for page in tmp_path.rglob("*.html"):
        for address in re.findall(r"(?:src|href)=\"([^\"]*)\"", page.read_text()):
            assert not re.match(r"[a-z]+:(?!,)|//", address), address
        assert "@import" not in page.read_text()


def test_classes_without_images_come_last_and_have_no_row_in_the_matrix(tmp_path):
    names = [f"class {number}" for number in range(9)]
    routes = write_report(tmp_path, names, count=2).routes["classes"]  # of the classes 0 and 1
    explained = [row["name"] for row in routes if row["images"]]
    met = [row["name"] for row in routes if row["images"] or row["name"] in ("class 0", "class 1")]
    html = (tmp_path / "classes.html").read_text()
    assert 0 < len(explained) <= 2 and len(met) < 9
    assert sorted(re.findall(r"<li>(class .)</li>", html)) == explained
    with Image.open(tmp_path / "vis" / "routes.png") as matrix:
        assert matrix.height == len(explained)
    assert re.findall(r'<tr id="class-.*?data-name="(class .)"', html) == met
    folded = html.split("<details")[1]
    assert re.findall(r'<li id="class-.*?data-name="(class .)"', folded) == [n for n in names if n not in met]
    assert f"The {9 - len(explained)} classes that no image is explained as are left out." in html


def test_every_link_between_the_pages_resolves(tmp_path):
    write_report(tmp_path, CLASSES)
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    for page, html in pages.items():
        for address in re.findall(r"href=\"([^\"]*)\"", html):
            path, _, anchor = address.partition("#")
            if address != "data:,":
                target = (page.parent / unquote(path)).resolve() if path else page
                assert target in pages, address
                assert not anchor or f'id="{anchor}"' in pages[target], address


@pytest.mark.parametrize("topk", [1, 5, 512, None])
def test_every_number_of_a_card_is_in_the_json(tmp_path, topk):
    model = None if topk else build_model("resnet18", 3, None).eval()
    report = write_report(tmp_path, CLASSES, model, topk, count=1).report
    image = report["images"][0]
    known = set()

    def collect(data):
        if isinstance(data, dict):
            collect(list(data.values()))
        elif isinstance(data, list):
            for item in data:
                collect(item)
        elif isinstance(data, (int, float)) and data is not True:
            known.update(f"{abs(scale * data):.{digits}f}" for scale in (1, 100) for digits in (0, 1, 2, 3))

    collect([image, report["units"]])
    html = (tmp_path / "explain.html").read_text()
    article = re.sub(r"<svg.*?</svg>", "", html[html.index("<article") : html.index("</article>")], flags=re.S)
    numbers = re.findall(r"\d+\.\d+", re.sub(r"<[^>]*>", " ", article))
    assert len(numbers) > 20
    # the one number that no JSON has: that 100 % of the chosen votes are chosen
    assert [number for number in numbers if number not in known | {"100.0"}] == []


ALL_K = {"K = 1": 1, "K = 5": 5, "K = 40": 40, "K = 512": 512, "dense": None}


@pytest.mark.parametrize("topk", ALL_K.values(), ids=ALL_K)
def test_log_figure_card_and_record_show_the_same_terms(topk):
    """The K votes as one sum: record, one line of the log, equation of the figure, waterfall of the card."""
    model = build_model("resnet18_fc_ma" if topk else "resnet18", 3, topk).eval()
    records, _, _ = explained_at_random(CLASSES, model, topk)
    for record in records:
        terms = terms_of(record)
        assert sum(terms.values) == pytest.approx(record["logit"], abs=1e-9)
        assert len(terms.units) == min(topk or 512, 5)
        assert (terms.others is None) == (topk in (1, 5))

        line = log_line(record, "image.jpg").partition(f"; {record['explained_name']} ")[2]
        logit, _, total = line.partition(" = ")
        shown = [float(term.split(" ", 1)[0]) for term in total.split(" + ")]
        assert shown == pytest.approx(terms.values, abs=0.005)
        assert float(logit) == pytest.approx(record["logit"], abs=0.005)
        named = [unit_name(unit) for unit in terms.units]
        named += [] if terms.others is None else [f"of {record['others']['count']} others"]
        assert [term.split(" ", 1)[1] for term in total.split(" + ")] == [*named, "bias"]

        title, _, right = equation(record).partition("\n= ")
        assert title == f"{record['explained_name'].replace('_', ' ')}  {record['logit']:.2f}"
        assert [float(term) for term in right.split(" ")] == shown

        shown_card = card(record, 0, len(CLASSES))
        begins = [start for start, unit in zip(shown_card["starts"], record["units"], strict=True) if unit["active"]]
        begins += [] if terms.others is None else [shown_card["others_start"]]
        begins.append(shown_card["bias_start"])
        ends = [start + value for start, value in zip(begins, terms.values, strict=True)]
        assert begins == [0.0, *ends[:-1]]  # each bar begins where the one before ends
        assert ends == list(accumulate(terms.values))
        assert ends[-1] == pytest.approx(record["logit"], abs=1e-9)
        assert shown_card["low"] <= min(0.0, *ends) and shown_card["high"] >= max(0.0, *ends)


@pytest.mark.parametrize("target, said", [(None, "dusk"), (0, "dusk, right"), (2, "dusk, is street")])
def test_a_prediction_of_low_probability_is_called_unsure(target, said):
    """Scores 0, 0 and log 2: probabilities a quarter, a quarter, a half; then log 1.9 instead of log 2."""
    names = Names(["dusk", "beach", "street"], {})
    for score, unsure in ((2.0, False), (1.9, True)):
        model = build_model("resnet18_fc_ma", 3, 5).eval()
        torch.nn.init.zeros_(model.rfc.weight)
        model.rfc.bias.data = torch.tensor([score, 1.0, 1.0]).log()
        (answer,) = explain_images(Classifier.of(model), torch.zeros(1, 3, 64, 64), [target], names, 5)
        record = answer.record
        assert record["probability"] == pytest.approx(score / (score + 2))
        assert record["unsure"] is unsure
        doubt = said.replace("dusk", "unsure" if unsure else "", 1).removeprefix(", ")
        shown = f"{100 * record['probability']:.1f} %{', ' if doubt else ''}{doubt};"
        assert log_line(record, "a.jpg").startswith(f"a.jpg: dusk {shown}")


def test_a_card_says_what_to_think_of_an_unsure_prediction():
    (record,) = explained_at_random(CLASSES, topk=5, count=1)[0]
    own, unsure = {"target": None, "target_name": None}, "The network is unsure: "
    assert card({**record, "unsure": False}, 0, 200)["doubt"] == ""
    assert card({**record, "unsure": True}, 0, 200)["doubt"] == unsure + "all other classes together are more probable."
    others = card({**record, **own, "unsure": True}, 0, 1200)["doubt"]
    assert others == unsure + "the image may show none of its 1,200 classes."


def test_a_waterfall_worked_by_hand():
    """Votes 3, -1 and 2 (not chosen), three others of 4 together, bias -2: bars 0 to 3, 3 to 2, 2 to 6, 6 to 4."""
    records, _, _ = explained_at_random(CLASSES, topk=5, count=1)
    votes = [(3.0, True), (2.0, False), (-1.0, True)]
    units = [
        {**unit, "vote": vote, "active": active}
        for unit, (vote, active) in zip(records[0]["units"], votes, strict=False)
    ]
    others = {"count": 3, "vote": 4.0, "share": 50.0}
    record = {**records[0], "units": units, "others": others, "bias": -2.0, "logit": 4.0}
    shown = card(record, 0, len(CLASSES))
    assert (shown["starts"], shown["others_start"], shown["bias_start"]) == ([0.0, 0.0, 3.0], 2.0, 6.0)
    assert (shown["low"], shown["high"]) == (0.0, 6.0)
    assert equation(record).endswith("  4.00\n= 3.00 -1.00 +4.00 -2.00")
    assert log_line(record, "image.jpg").endswith(" 4.00 = 3.00 thing + -1.00 thing + 4.00 of 3 others + -2.00 bias")


def test_the_contest_names_shared_units():
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    images = torch.randn(4, 3, 64, 64)
    logits = model(images)
    for row, explanation in enumerate(explain_images(Classifier.of(model), images, [0, 1, 2, None], NAMES, 5)):
        contest = explanation.record["contest"]
        order = logits[row].argsort(descending=True).tolist()
        assert [side["class"] for side in contest[:2]] == order[:2]
        assert contest[0]["roles"][0] == "predicted" and contest[1]["roles"][0] == "runner-up"
        assert [side["class"] for side in contest if "true" in side["roles"]] == ([row] if row < 3 else [])
        routes = {side["name"]: {unit["unit"] for unit in side["units"] if unit["active"]} for side in contest}
        for side in contest:
            assert side["logit"] == pytest.approx(logits[row, side["class"]].item(), abs=1e-4)
            for unit in side["units"]:
                others = [name for name in routes if name != side["name"] and unit["unit"] in routes[name]]
                assert unit["also"] == others


def test_silencing_a_unit_equals_zeroing_its_map():
    """`without` is what the network says when the unit's map is zero."""
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    images = torch.randn(2, 3, 64, 64)
    for row, explanation in enumerate(explain_images(Classifier.of(model), images, [None] * 2, NAMES, 3)):
        for unit in explanation.record["units"]:

            def silence(_, __, output, unit=unit):
                return output.index_fill(1, torch.tensor([unit["unit"] - 1]), 0.0)

            handle = model.layer4.register_forward_hook(silence)
            probability = model(images)[row].softmax(0)
            handle.remove()
            own = explanation.record["explained"]
            assert unit["without"]["probability"] == pytest.approx(probability[own].item(), abs=1e-5)
            assert unit["without"]["prediction"] == int(probability.argmax())


def test_figure_of_a_paper(tmp_path):
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    tiles = [np.full((224, 224, 3), (200, 10, 10), np.uint8)] * 4  # the image and three overlays
    explanations = explain_images(Classifier.of(model), torch.randn(2, 3, 64, 64), [0, 1], NAMES, 3)
    write_figure(tmp_path / "figure.png", [(explanation.record, tiles) for explanation in explanations])
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.size[1] > figure.size[0] > 600
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded


def test_file_names_of_classes():
    taken = set()
    names = ["bakery/shop", "bakery_shop", "Bakery shop", "../../etc", "", "." * 3, "böö", "x" * 200]
    files = [file_name(name, taken) for name in names]
    assert files[:4] == ["bakery_shop", "bakery_shop-2", "Bakery_shop-3", "_etc"]
    assert len({file.lower() for file in files}) == len(files)
    assert all(re.fullmatch(r"[\w-]{1,82}", file) for file in files)


def test_a_curve_of_a_long_name_leaves_room_for_the_plot(tmp_path):
    _, _, faithfulness = explained_at_random(CLASSES)
    faithfulness["methods"][-1]["name"] = "5 largest votes of " + 40 * "long_folder/" + "epoch_9.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns where nothing is left of the axes
        svg = faithfulness_graph(tmp_path / "graph.svg", faithfulness)
    assert "5 largest votes of long_folder/…" in svg and "epoch_9.pth" in svg


@pytest.mark.parametrize("length, expected", [(9, "abcdefghi"), (8, "abcd…ghi"), (5, "ab…hi"), (1, "…")])
def test_abridged_texts_keep_beginning_and_end(length, expected):
    assert abridged("abcdefghi", length) == expected
