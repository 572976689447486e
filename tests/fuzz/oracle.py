"""What may come of an input, and what did: the findings of one case.

Exit code 2 must come with one line on stderr, and nothing changed. Exit code 0 must come with the trusted run's results
where the input is equivalent to its own, and otherwise with results that are finite and agree with themselves.
"""

import csv
import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import ANY, OTHERS_SAME, REFUSED, SAME, SAME_OR_REFUSED, Case
from ground import listing
from sandbox import Outcome

ERROR = re.compile(r"^(train\.py|demo\.py|netdissect/main\.py|netdissect\.broden): error: .")
NOISE = re.compile(r"Warning:|Error:|Exception|^\s|^Traceback|^warnings\.warn|^Fatal Python")
LOST = re.compile(r"Logging error|Exception ignored")  # what Python prints where nobody can catch it
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
LOCKS = (".lock", ".report.lock")
SMALL = 4 << 20  # bytes of files whose content is compared; of larger ones, size and date
UNITS = {"layer1": 64, "layer4": 512}


@dataclass(frozen=True)
class Finding:
    """What must not be.

    Attributes:
        verdict: which rule was broken, in a word or two.
        mechanism: the same for findings of one cause, as far as can be told.
        about: details.
    """

    verdict: str
    mechanism: str
    about: str


class Broken(Exception):
    """Results that are not as they must be."""


# --- the file system ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surroundings:
    """What was on disk.

    Attributes:
        files: everything in the campaign's folder, as `listing`.
        results: by path, the SHA-256 of the small files in the case's output folder.
    """

    files: dict[str, tuple]
    results: dict[str, str]


def look(case: Case) -> Surroundings:
    """What is on disk now."""
    files = listing(case.ground.work, [case.ground.home, case.ground.work / "matplotlib"])
    below = f"{case.output}/" if case.output else None
    small = (path for path, about in files.items() if below and path.startswith(below) and _small(about))
    return Surroundings(files, {path: _digest(path) for path in small})


def _small(about: tuple) -> bool:
    return stat.S_ISREG(about[0]) and about[2] <= SMALL


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(before: Surroundings, after: Surroundings) -> Iterator[str]:
    """The paths that differ in more than their dates, locks aside: they stay, since another run may hold one."""
    for path in sorted({*before.files, *after.files}):
        old, new = before.files.get(path), after.files.get(path)
        if old == new or Path(path).name in LOCKS:
            continue
        if old is None and "/out/cache" in path and "/.cache-" not in path:
            continue  # whole, and of use to the next run
        if "/repo/result/frozen/" in path and not Path(path).name.startswith("."):
            continue  # a cache too, of which a part is of use, and what cannot be used is removed
        if path in before.results and before.results[path] == after.results.get(path):
            continue
        yield path


# --- judging ------------------------------------------------------------------------------------------------------


def judge(case: Case, outcome: Outcome, before: Surroundings) -> list[Finding]:
    """The findings of a case that was run."""
    text = outcome.stderr.decode("utf-8", "replace")
    found = [Finding("denied", f"{case.program}: {_general(line)}", line) for line in outcome.violations]
    if outcome.hung:
        return [*found, Finding("hang", f"{case.program}: {_place(text)}", f"{outcome.seconds:.0f} s; {_last(text)}")]
    if outcome.code < 0:
        return [*found, Finding("signal", f"{case.program}: {-outcome.code} {_place(text)}", _last(text))]
    if "Traceback (most recent call last)" in text:
        found.append(Finding("traceback", f"{case.program}: {_place(text)}", _last(text)))
        return found + list(_judge_disk(case, outcome, before, refused=outcome.code != 0))
    found += _judge_streams(case, outcome, text)
    refused = outcome.code != 0 and not (case.program == "broden" and outcome.code == 1)
    found += _judge_disk(case, outcome, before, refused)
    found += _judge_result(case, outcome, before)
    return found


def _key(case: Case) -> str:
    return f"{case.program}: {case.kind}: {case.name}"


def _judge_streams(case: Case, outcome: Outcome, text: str) -> Iterator[Finding]:
    lines = text.splitlines()
    plain = case.options.get("streams", "plain") in ("plain", "ascii", "pipe")
    plain &= case.options.get("most_file") != 0  # stderr is a file too
    loss = case.program == "train" and outcome.code == 1 and len(lines) == 1 and " loss " in text
    faults = case.argv[:1] == ["check"] and outcome.code == 1 and not lines
    if outcome.code not in (0, 2) and not loss and not faults:
        yield Finding("exit code", f"{_key(case)}: {outcome.code}", f"{outcome.code}: {_last(text)}")
    elif outcome.code == 2 and plain:
        errors = [line for line in lines if ERROR.match(line)]
        if len(errors) != 1 or errors[0] != lines[-1]:
            first = re.split(r"[:'\d]", lines[0])[0] if lines else ""
            yield Finding("not one line", f"{case.program}: {len(errors)} errors, {first}", text[-2000:])
        elif any(NOISE.search(line) for line in lines[:-1]):
            yield Finding("not one line", f"{case.program}: {_general(lines[0])}", text[-2000:])
    if LOST.search(text):
        yield Finding("lost exception", f"{case.program}: {_place(text)}", text[-2000:])
    for name, data in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
        try:
            shown = data.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Finding("not UTF-8", f"{case.program}: {name}", f"{error} {data[max(0, error.start - 60) :][:120]!r}")
            continue
        sign = UNPRINTABLE.search(shown)
        if sign and case.expect != "help":
            start = shown.rfind("\n", 0, sign.start()) + 1
            line = shown[start : sign.end() + 80]
            yield Finding("control characters", f"{case.program}: {name}: {_general(line[:30])}", ascii(line))


# What tells of the run that was refused, an epoch's line before its snapshot: it is written as the run goes.
OF_THE_RUN = ("train.log", "train.jsonl", "train.made_of.json", "curves.png")


def _judge_disk(case: Case, outcome: Outcome, before: Surroundings, refused: bool) -> Iterator[Finding]:
    after = look(case)
    allowed = [f"{place}" for place in case.writable]
    for path in changed(before, after):
        new = path not in before.files
        shown = path.removeprefix(f"{case.ground.work}/")
        inside = any(path == place or path.startswith(f"{place}/") for place in allowed)
        name = Path(path).name
        if not inside:
            yield Finding("changed outside", _key(case), shown)
        elif refused and name not in OF_THE_RUN and not _tells_of_the_run(Path(path)):
            verdict = "left after a refusal" if new else "earlier results changed"
            about = f"{shown} {_last(outcome.stderr.decode(errors='replace'))}"
            yield Finding(verdict, f"{case.program}: {_general(name)}", about)
        elif new and name.startswith(".") and not name.startswith(".hidden"):
            yield Finding("temporary file left", f"{case.program}: {_general(name)}", shown)


def _tells_of_the_run(folder: Path) -> bool:
    """Whether it is the folder of a run that was refused, with nothing else in it."""
    if not folder.name.startswith("pytorch_") or not folder.is_dir():
        return False
    return all(entry.name in (*OF_THE_RUN, *LOCKS) for entry in folder.iterdir())


def _judge_result(case: Case, outcome: Outcome, before: Surroundings) -> Iterator[Finding]:
    about = f"exit code {outcome.code}: {_last(outcome.stderr.decode('utf-8', 'replace'))}"
    expect = case.expect
    if case.argv[:1] == ["check"]:
        if expect == SAME and outcome.code:
            yield Finding("refused", _key(case), f"{about} {outcome.stdout[-300:]!r}")
        elif expect == REFUSED and not outcome.code:
            yield Finding("accepted", _key(case), case.detail)
        return
    if outcome.code:
        if expect in (SAME, OTHERS_SAME, "help"):
            yield Finding("refused", _key(case), about)
        return
    if expect == "help":
        return
    if expect == REFUSED:
        yield Finding("accepted", _key(case), case.detail)
        return
    try:
        RESULTS[case.program](case, before)
    except Broken as error:
        rule = str(error).split(":")[0]
        yield Finding("wrong result", f"{_key(case)}: {rule}", str(error)[:2000])
    except Exception as error:  # a result that cannot be read is a finding, whatever is wrong with it
        yield Finding("wrong result", f"{_key(case)}: unreadable, {type(error).__name__}", str(error)[:500])


# --- where something went wrong -----------------------------------------------------------------------------------


def _last(text: str) -> str:
    text = text.split("\nExtension modules:")[0]
    return " | ".join(text.strip().splitlines()[-3:])[-600:]


def _general(line: str) -> str:
    """A line without what differs from case to case."""
    return re.sub(r"\d+", "N", re.sub(r"/\S*/", "", re.sub(r"'[^']*'", "'...'", line)))[:90]


def _place(text: str) -> str:
    """The error's type, and the last frame in the product's code of the last traceback, or of faulthandler's."""
    frames = re.findall(r'File "([^"]*)", line \d+,? in (\S+)', text)
    if "Current thread" in text:  # faulthandler's: the most recent call is first
        current = text[text.rindex("Current thread") :].split("\n\n")[0]
        frames = re.findall(r'File "([^"]*)", line \d+ in (\S+)', current)[::-1]
    own = [f"{path.rsplit('/repo/', 1)[1]}:{name}" for path, name in frames if "/repo/" in path]
    last = [f"{Path(path).name}:{name}" for path, name in frames][-1:]
    said = text[text.rindex("Traceback (most") :].splitlines()[1:] if "Traceback (most" in text else []
    kind = next((line.split(":")[0] for line in said if line[:1].strip()), "")
    return f"{kind} in {own[-1] if own else '?'} ({', '.join(last)})"


# --- results ------------------------------------------------------------------------------------------------------


def strict(path: Path) -> Any:
    """A JSON file without NaN."""

    def refuse(name: str) -> None:
        raise Broken(f"{path.name} has {name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def finite(value: Any, where: str) -> None:
    """Every number in it is finite."""
    if isinstance(value, dict):
        for name, part in value.items():
            finite(part, f"{where}.{name}")
    elif isinstance(value, list):
        for part in value:
            finite(part, f"{where}[]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise Broken(f"not finite: {where}")


def must(condition: bool, rule: str, *about: object) -> None:
    """A rule of what results are like."""
    if not condition:
        raise Broken(": ".join([rule, *(repr(part)[:300] for part in about)]))


def fresh(case: Case, name: str, before: Surroundings) -> list[Path]:
    """The files of this name that the run wrote."""
    # Where it may write to its whole folder, it was asked to, by a flag.
    places = [case.folder] if case.folder in case.writable else [case.output] if case.output else case.writable
    listed = [Path(path) for place in places if place.is_dir() for path in sorted(listing(place))]
    found = [path for path in listed if path.name == name and path.is_file()]
    now = {str(path): path.stat() for path in found}
    return [path for path in found if before.files.get(str(path), (0, 0))[1] != now[str(path)].st_ino]


def demo_results(case: Case, before: Surroundings) -> None:
    """explain.json and what lies beside it."""
    reports = fresh(case, "explain.json", before)
    if case.kind == "flags":
        reports = reports or [path for path in (case.folder / "out/explain.json",) if path.is_file()]
    must(len(reports) == 1, "no report", reports)
    folder = reports[0].parent
    found = {name: strict(folder / f"{name}.json") for name in ("explain", "routes", "faithfulness")}
    for name, content in found.items():
        finite(content, name)
    for page in folder.rglob("*.html"):
        page.read_text(encoding="utf-8")
    report = found["explain"]
    for record in report["images"]:
        check_record(record, report["topk"])
    files = [record["file"] for record in report["images"]]
    must(len(set(files)) == len(files) or case.kind == "flags", "an image twice", files)
    must(any(case.noticed in notice for notice in report["notices"] or [""]), "not noticed", report["notices"])
    if case.expect == ANY:
        return
    known = {name: strict(case.base / case.trusted / f"{name}.json") for name in found}
    if case.expect == OTHERS_SAME:
        ours, theirs = (
            {Path(record["file"]).name: _told(record) for record in content["images"]}
            for content in (report, known["explain"])
        )
        for name in set(theirs) - case.touched:
            must(name in ours, "an image was lost", name, list(ours))
            difference = _first_difference(ours[name], theirs[name], tolerance=1e-4)  # their batches differ
            must(not difference, "another explanation", name, difference)
        if not case.touched:
            must(len(ours) == len(theirs) == len(files), "an image more than once", files)
        return
    if case.noticed:
        must(len(report["notices"]) == 1, "another notice", report["notices"])
        report["notices"] = known["explain"]["notices"]
    for name in found:
        ours, theirs = (_without_paths(content[name]) for content in (found, known))
        must(ours == theirs, f"not the trusted {name}.json", _first_difference(ours, theirs))


def check_record(record: dict[str, Any], topk: int | None) -> None:
    """An explanation adds up."""
    units = record["units"]
    active = [unit["vote"] for unit in units if unit["active"]]
    others = record["others"]
    terms = [*active, others["vote"], record["bias"]]
    total = math.fsum(terms)
    scale = max(1.0, math.fsum(map(abs, terms)))
    must(abs(total - record["logit"]) <= 1e-4 * scale, "votes do not add up", total, record["logit"])
    must(topk is None or len(active) + others["count"] == topk, "not K votes", topk, len(active), others["count"])
    votes = [unit["vote"] for unit in units]
    must(votes == sorted(votes, reverse=True), "votes not in order", votes)
    numbers = [unit["unit"] for unit in units]
    must(len(set(numbers)) == len(numbers) and all(1 <= n <= 512 for n in numbers), "unit numbers", numbers)
    guesses = [guess["probability"] for guess in record["ranking"]]
    must(guesses == sorted(guesses, reverse=True), "ranking not in order", guesses)
    must(record["ranking"][0]["class"] == record["prediction"], "prediction is not first", record["prediction"])
    must(all(0 <= p <= 1 for p in [*guesses, record["probability"]]), "probability", guesses)
    must(sum(guesses) <= 1.0001, "probabilities above 1", guesses)


def _told(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what depends on the other images."""
    return {name: value for name, value in record.items() if name not in ("file", "overlays", "ablation", "index")}


PATHS = {"file", "overlays", "modelfile", "nd_result", "images_per_second", "made_of", "reason"}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(part) for name, part in value.items() if name not in PATHS}
    return [_without_paths(part) for part in value] if isinstance(value, list) else value


def _first_difference(ours: Any, theirs: Any, where: str = "", tolerance: float = 0.0) -> str:
    """Where two contents differ first, in words; '' if they do not, or numbers by no more than the tolerance."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        pairs = [(f"{where}.{name}", ours[name], theirs[name]) for name in ours]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(f"{where}[{place}]", *pair) for place, pair in enumerate(zip(ours, theirs, strict=True))]
    else:
        close = isinstance(ours, float) and isinstance(theirs, float) and abs(ours - theirs) <= tolerance
        return "" if close or ours == theirs else f"{where}: {ours!r:.80} instead of {theirs!r:.80}"
    found = (_first_difference(one, other, place, tolerance) for place, one, other in pairs)
    return next(filter(None, found), "")


def dissect_results(case: Case, before: Surroundings) -> None:
    """tally.csv and what lies beside it."""
    tallies = fresh(case, "tally.csv", before)
    must(bool(tallies), "no tally")
    for tally in tallies:
        check_tally(tally)
        check_agreement(tally.with_name("agreement.csv"), tally)
        finite(np.load(tally.parent / "quantile.npy").astype(float).tolist(), "quantile.npy")
        for path in tally.parent.glob("*.json"):
            finite(strict(path), path.name)
        for page in tally.parent.rglob("*.html"):
            page.read_text(encoding="utf-8")
    if case.expect != ANY:
        folder, known = tallies[0].parent, case.base / case.trusted
        for name in ("tally.csv", "agreement.csv", "chance.json"):
            must((folder / name).read_bytes() == (known / name).read_bytes(), f"not the trusted {name}")
        same = np.array_equal(np.load(folder / "quantile.npy"), np.load(known / "quantile.npy"))
        must(same, "not the trusted quantile.npy")


def check_tally(path: Path) -> None:
    """The numbers of a tally agree with each other."""
    csv.field_size_limit(1 << 28)
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    must(sorted(int(row["unit"]) for row in table) == list(range(1, len(table) + 1)), "units of the tally")
    scores = [float(row["score"]) for row in table]
    must(all(0 <= score <= 1.0001 for score in scores), "score", max(scores), min(scores))
    must(scores == sorted(scores, reverse=True), "tally not in order")
    categories = [name.removesuffix("-truth") for name in table[0] if name.endswith("-truth")]
    truths: dict[tuple[str, str], str] = {}
    for row in table:
        best = 0.0
        for category in categories:
            label, *texts = (row[f"{category}-{part}"] for part in ("label", "truth", "activation", "intersect", "iou"))
            truth, active, both, score = map(float, texts)
            must(min(truth, active, both) >= 0 and both <= truth, "counts of the tally", row)
            expected = both / (active + truth - both + 1e-10)
            must(abs(score - expected) <= 1e-5 * max(1e-5, abs(expected)), "IoU of the tally", row)
            best = max(best, score)
            if label:
                known = truths.setdefault((category, label), texts[0])
                must(known == texts[0], "a label's pixels differ", category, label)
        must(abs(best - float(row["score"])) <= 1e-9 + 1e-5 * best, "score is not the best IoU", row)


def check_agreement(path: Path, tally: Path) -> None:
    """The numbers beside a tally agree with it."""
    tables = []
    for file in (path, tally):
        with open(file, newline="", encoding="utf-8") as opened:
            tables.append(list(csv.DictReader(opened)))
    must(len(tables[0]) == len(tables[1]), "rows of agreement.csv")
    for row, known in zip(*tables, strict=True):
        same = [row[name] for name in ("unit", "label", "category", "iou")]
        must(same == [known[name] for name in ("unit", "label", "category", "score")], "not the tally's", row)
        truth, active, both = (
            float(known[f"{row['category']}-{part}"]) for part in ("truth", "activation", "intersect")
        )
        expected = {
            "ceiling": (min(truth, active), max(truth, active)),
            "precision": (both, active),
            "recall": (both, truth),
        }
        for name, (part, whole) in expected.items():
            must(abs(float(row[name]) - (part / whole if whole else 0)) < 1e-9, name, row)
        areas = [float(row[name]) for name in ("auroc", "auroc-best") if row[name]]
        must(all(0 <= area <= 1 for area in areas) and areas == sorted(areas), "AUROC", row)


def train_results(case: Case, before: Surroundings) -> None:
    """train.jsonl and the snapshot."""
    if "--dry_run" in case.argv:
        return
    logs = fresh(case, "train.jsonl", before) or sorted((case.ground.repo / "result").rglob("train.jsonl"))
    must(len(logs) == 1, "no log", logs)
    run = logs[0].parent
    lines = [json.loads(line) for line in logs[0].read_text().splitlines()]
    must(bool(lines), "empty log")
    line = lines[-1]  # the run's own; earlier ones may be anyone's
    finite(line, "train.jsonl")
    must(all(0 <= line[name] <= 100 for name in ("val_top1", "val_top5", "train_top1")), "accuracy", line)
    must(line["train_loss"] >= 0 and line["val_loss"] >= 0, "loss", line)
    snapshot = case.ground.repo / "snapshot" / run.name / f"epoch_{line['epoch']}.pth"
    state = _weights(snapshot)
    must(all(bool(value.isfinite().all()) for value in state.values()), "weights are not finite")
    if case.expect in (SAME, SAME_OR_REFUSED):
        known = case.base / case.trusted
        theirs = json.loads((known / "result/train.jsonl").read_text().splitlines()[-1])
        ours = {**line, "images_per_second": theirs["images_per_second"]}
        must(ours == theirs, "not the trusted epoch", _first_difference(ours, theirs))
        wanted = _weights(known / "snapshot" / snapshot.name)
        must(all(value.equal(state[name]) for name, value in wanted.items()), "not the trusted weights")


def _weights(path: Path) -> dict[str, Any]:
    import torch

    return torch.load(path, weights_only=True)["state_dict"]


def build_results(case: Case, before: Surroundings) -> None:
    """The folder that was built has its tables, and all the files that they name."""
    indices = fresh(case, "index.csv", before)
    must(len(indices) == 1, "no index", indices)
    with open(indices[0], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    must(bool(rows), "no rows")
    for row in rows:
        for entry in (row["image"], *row.get("object", "").split(";")):
            path = indices[0].parent / "images" / entry
            must(not entry or entry.isdigit() or path.is_file(), "a file is missing", entry)


RESULTS: dict[str, Callable[[Case, Surroundings], None]] = {
    "demo": demo_results,
    "netdissect": dissect_results,
    "train": train_results,
    "broden": build_results,
}
