"""A short campaign of mutated inputs (tests/fuzz/campaign.py), and its instrument: what must be found, is found."""

import ast
import json
import sys

import pytest
from conftest import ROOT, call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the campaign needs Linux")
FUZZ = ROOT / "tests/fuzz"
INPUTS, SEED = 8, 7


def test_a_short_campaign_has_no_findings(tmp_path):
    report = tmp_path / "report.jsonl"
    ended = call(FUZZ / "campaign.py", "--inputs", INPUTS, "--seed", SEED, "--report", report)
    assert report.is_file(), ended.stderr
    summary = json.loads(report.read_text().splitlines()[-1])
    assert summary["inputs"] == INPUTS
    assert not summary["mechanisms"], json.dumps(summary["mechanisms"], indent=1)
    assert ended.returncode == 0


# --- the instrument -----------------------------------------------------------------------------------------------

# Programs that break a rule, and what the sandbox says of each.
RULES = {
    "import subprocess; subprocess.run(['true'])": "process: subprocess.Popen true",
    "import os; os.system('true')": "process: os.system",
    "import os; os.fork()": "process: os.fork",
    "open('../outside', 'w')": "write: open",
    "import os; os.symlink('/', '../outside')": "write: os.symlink",
    "import os; os.symlink('..', 'link'); open('link/outside', 'w')": "write: open",
    "import os; os.remove('../inside')": "write: os.remove",
    "import shutil; shutil.rmtree('../folder')": "write: os.remove",
    "import socket; socket.create_connection(('127.0.0.1', 9))": "network",
    "open('inside', 'w').write('x')": "",
    "import tempfile; tempfile.TemporaryFile()": "",
    "import os; os.makedirs('a/b', exist_ok=True); os.rename('a', 'c')": "",
}


@pytest.fixture
def attempt(tmp_path):
    """Run a program in the sandbox, in a process of its own: pytest's has threads."""
    for name in ("case", "home", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "inside").touch()
    (tmp_path / "folder/file").touch()

    def run(text: str) -> dict:
        (tmp_path / "program.py").write_text(text)
        script = (
            "import sys, dataclasses; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import sandbox\n"
            "sandbox.MOST_WAITING = 2.0\n"
            "home = Path(sys.argv[2])\n"
            "job = sandbox.Job(str(home / 'program.py'), ['x'], [home / 'case'], home / 'case')\n"
            "outcome = sandbox.run(job, home / 'home', 2.0)\n"
            "print(ascii(dataclasses.asdict(outcome)))\n"
        )
        ended = call("-c", script, FUZZ, tmp_path)
        assert ended.returncode == 0, ended.stderr
        return ast.literal_eval(ended.stdout)

    return run


@pytest.mark.parametrize("text", RULES)
def test_the_sandbox_denies_what_no_input_may_do(attempt, text, tmp_path):
    outcome = attempt(text)
    assert (RULES[text] in " ".join(outcome["violations"])) if RULES[text] else not outcome["violations"]
    assert (outcome["code"] != 0) == bool(RULES[text])
    assert not (tmp_path / "outside").exists() and (tmp_path / "inside").exists()
    assert (tmp_path / "folder/file").exists()


@pytest.mark.parametrize(
    ("text", "code", "printed"),
    [
        ("import sys; print(*sys.argv[1:]); sys.exit(2)", 2, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise SystemExit", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_exit_codes_are_the_interpreters(attempt, text, code, printed):
    outcome = attempt(text)
    assert outcome["code"] == code and printed.encode() in outcome["stderr"] and not outcome["hung"]


@pytest.mark.parametrize("text", ["while True: pass", "import time\ndef here(): time.sleep(60)\nhere()"])
def test_a_hang_is_ended_and_located(attempt, text):
    outcome = attempt(text)
    assert outcome["hung"] and b"program.py" in outcome["stderr"]


def test_memory_is_bounded(attempt):
    outcome = attempt("x = bytes(7 << 30)")
    assert outcome["code"] == 1 and b"MemoryError" in outcome["stderr"] and outcome["memory"] < 1 << 30


def test_an_explanation_that_does_not_add_up_is_seen(monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    import oracle

    record = {
        "units": [{"unit": 3, "vote": 2.0, "active": True}, {"unit": 1, "vote": 0.5, "active": False}],
        "others": {"count": 1, "vote": 0.25},
        "bias": -1.0,
        "logit": 1.25,
        "ranking": [{"class": 4, "probability": 0.75}, {"class": 0, "probability": 0.25}],
        "prediction": 4,
        "probability": 0.75,
    }
    oracle.check_record(record, 2)
    for changed, rule in (
        ({"logit": 1.3}, "votes do not add up"),
        ({"bias": -1.1}, "votes do not add up"),
        ({"others": {"count": 2, "vote": 0.25}}, "not K votes"),
        ({"units": record["units"][::-1]}, "votes not in order"),
        ({"prediction": 0}, "prediction is not first"),
    ):
        with pytest.raises(oracle.Broken, match=rule):
            oracle.check_record({**record, **changed}, 2)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("1,object,sky,0.2,sky,10,8,3,0.2", ""),
        ("1,object,sky,0.2,sky,10,8,3,0.3", "IoU of the tally"),
        ("1,object,sky,0.3,sky,10,8,3,0.2", "score is not the best IoU"),
        ("2,object,sky,0.2,sky,10,8,3,0.2", "units of the tally"),
        ("1,object,sky,0.2,sky,2,8,3,0.2", "counts of the tally"),
        ("1,object,sky,7,sky,10,8,3,7", "score"),
    ],
)
def test_a_tally_that_contradicts_itself_is_seen(tmp_path, monkeypatch, row, rule):
    monkeypatch.syspath_prepend(str(FUZZ))
    import oracle

    header = "unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou"
    (tmp_path / "tally.csv").write_text(f"{header}\n{row}\n")
    if rule:
        with pytest.raises(oracle.Broken, match=rule):
            oracle.check_tally(tmp_path / "tally.csv")
    else:
        oracle.check_tally(tmp_path / "tally.csv")


def test_the_kinds_have_their_turns(monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    import campaign

    order = campaign.interleaved(campaign.TURNS)
    assert {kind: order.count(kind) for kind in campaign.TURNS} == campaign.TURNS
    assert len(set(order[: len(campaign.TURNS)])) > len(campaign.TURNS) / 2
