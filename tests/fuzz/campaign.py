"""A generated campaign: mutated inputs for all programs, each run under limits, and an oracle for what came of it.

    python3 tests/fuzz/campaign.py --inputs 200 --seed 1                     # a short one
    python3 tests/fuzz/campaign.py --inputs 2000 --seed 1 --only snapshot    # one kind of input
    python3 tests/fuzz/campaign.py --seed 1 --number 37                      # one input again, with all that it printed
    python3 tests/fuzz/campaign.py --inputs 10000 --seed 1 --jobs 2 --report campaign.jsonl

The product is copied and imported once; each input is read in a forked process that may write to its output folder
only, start no process and reach no network, with 6 GB of memory and 60 seconds. What may come of an input is stated in
oracle.py. Everything else is a finding: a line of the report, with what makes it again. Ends with exit code 1 if there
are any. Needs Linux.
"""

import argparse
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# How often each kind has its turn.
TURNS = {"snapshot": 5, "resume": 4, "tally": 3, "table": 4, "image": 5, "label map": 2, "tree": 3, "settings": 2}
TURNS |= {"flags": 4, "folder": 3, "frozen": 3}
ROOM = 6 << 30  # bytes that a folder in memory should have for the campaign's files


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200, metavar="N", help="how many (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="with an input's number, it determines the input")
    parser.add_argument("--only", choices=sorted(TURNS), metavar="KIND", help=f"one of {', '.join(TURNS)}")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="begin with this number (default 0)")
    parser.add_argument("--number", type=int, metavar="I", help="run this input only, and print all about it")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the inputs")
    parser.add_argument("--report", type=Path, metavar="FILE", help="JSON lines: findings, then a summary")
    parser.add_argument("--seconds", type=float, default=60, help="of computing that an input may take (default 60)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the campaign, and say where it is")
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)  # of one job: its number / their number
    return parser


def main() -> int:
    """Run the campaign; returns the exit code."""
    args = get_args_parser().parse_args()
    if args.report:
        args.report = args.report.absolute()
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text("")
    lines = share_out(args) if args.jobs > 1 else run_share(args)
    findings, totals = [line for line in lines if "finding" in line], [line for line in lines if "outcomes" in line]
    summary = summarize(findings, totals, args)
    if args.report:
        args.report.write_text("".join(json.dumps(line) + "\n" for line in [*findings, summary]))
    if args.share != "0/1":
        return 0  # the process that started this one shows the summary of all
    show(summary)
    return 1 if findings else 0


# --- several processes --------------------------------------------------------------------------------------------


def share_out(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Start a process per job, and collect their reports, which grow beside the whole one: FILE.0, FILE.1, ..."""
    with tempfile.TemporaryDirectory() as folder:
        whole = args.report or Path(folder) / "report"
        reports = [whole.with_name(f"{whole.name}.{job}") for job in range(args.jobs)]
        flags = ["--first", args.first, "--inputs", args.inputs, "--seed", args.seed, "--seconds", args.seconds]
        flags += ["--only", args.only] if args.only else []
        started = [
            subprocess.Popen(
                [sys.executable, __file__, *map(str, flags), "--share", f"{job}/{args.jobs}", "--report", str(report)]
            )
            for job, report in enumerate(reports)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError("a job of the campaign failed")
        lines = [json.loads(line) for report in reports for line in report.read_text().splitlines()]
        for report in reports:
            report.unlink()
    return sorted(lines, key=lambda line: line.get("number", -1))


# --- one process --------------------------------------------------------------------------------------------------


def run_share(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run this process's inputs: a line per finding, then one with the counts."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("campaign.py: terminated"))  # so that the folder is removed
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported: a process with threads cannot be forked
    shared = Path("/dev/shm")
    in_memory = shared.is_dir() and shutil.disk_usage(shared).free > ROOM
    work = Path(tempfile.mkdtemp(prefix="campaign-", dir=shared if in_memory else None))
    try:
        return run_in(work, args)
    finally:
        if args.keep:
            print(f"kept: {work}", file=sys.stderr)
        else:
            os.chdir("/")
            shutil.rmtree(work, ignore_errors=True)


def run_in(work: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prepare a folder, and run the inputs in it."""
    import ground as grounds

    os.chdir(work)
    start = time.monotonic()
    ground = grounds.prepare(work)
    import mutations  # noqa: F401  registers them

    gc.collect()
    gc.freeze()
    prepared = time.monotonic() - start
    order = [args.only] if args.only else interleaved(TURNS)
    job, jobs = map(int, args.share.split("/"))
    numbers = range(args.first + job, args.first + args.inputs, jobs) if args.number is None else [args.number]
    lines: list[dict[str, Any]] = []
    outcomes: Counter = Counter()
    slowest, largest = (0.0, -1), (0, -1)
    for done, number in enumerate(numbers):
        findings, line = run_number(ground, args, number, order)
        outcomes[f"{line['kind']}: {line['outcome']}"] += 1
        slowest, largest = max(slowest, (line["seconds"], number)), max(largest, (line["megabytes"], number))
        lines += findings
        if args.report and findings:  # at once: a campaign takes hours
            with open(args.report, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(finding) + "\n" for finding in findings)
        if args.number is not None:
            print(json.dumps(line, indent=1))
        elif sys.stderr.isatty() or done % 100 == 99:
            print(f"{done + 1} inputs, {len(lines)} findings, {time.monotonic() - start:.0f} s", file=sys.stderr)
    about = {"prepared": prepared, "seconds": time.monotonic() - start, "slowest": slowest, "largest": largest}
    return [*lines, {"outcomes": dict(outcomes), **about}]


def interleaved(turns: dict[str, int]) -> list[str]:
    """The kinds in a fixed order in which each has its turns, spread evenly."""
    places = [((turn + 0.5) / count, kind) for kind, count in turns.items() for turn in range(count)]
    return [kind for _, kind in sorted(places)]


def run_number(
    ground: Any, args: argparse.Namespace, number: int, order: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Make an input, run what reads it, judge: its findings, and a line about it."""
    import cases
    import oracle
    import sandbox

    ground.clear()
    again = f"--seed {args.seed} --number {number}" + (f" --only {args.only!r}" if args.only else "")
    try:
        case = cases.make_case(ground, args.seed, number, order)
    except RuntimeError as error:  # a fault of a mutation must not end a campaign of hours
        where = {"finding": "no input", "mechanism": repr(error.__cause__), "about": str(error), "again": again}
        about = dict.fromkeys(("kind", "mutation", "detail", "outcome"), "no input")
        line = {"number": number, **about, "seconds": 0.0, "megabytes": 0, "stderr": ""}
        return [{**line, **where}], {**line, **where}
    before = oracle.look(case)
    outcome = sandbox.run(case.job(), ground.home, args.seconds)
    found = oracle.judge(case, outcome, before)
    if case.held:
        case.held.close()
    ending = "hang" if outcome.hung else f"exit code {outcome.code}" if outcome.code >= 0 else f"signal {-outcome.code}"
    printed = outcome.stderr.decode("utf-8", "backslashreplace")
    line = {
        "number": number,
        "kind": case.kind,
        "mutation": case.name,
        "detail": case.detail,
        "program": case.program,
        "expected": case.expect,
        "outcome": ending + (", finding" if found else ""),
        "seconds": round(outcome.seconds, 2),
        "megabytes": outcome.memory >> 20,
        "stderr": printed[-1500:],
        "again": again,
    }
    findings = [
        {**line, "finding": finding.verdict, "mechanism": finding.mechanism, "about": finding.about}
        for finding in found
    ]
    if args.number is not None:
        about = [vars(finding) for finding in found]
        line |= {"argv": case.argv, "stdout": outcome.stdout.decode("utf-8", "backslashreplace")[-3000:]}
        line |= {"stderr": printed[-8000:], "findings": about}
    return findings, line


# --- summary ------------------------------------------------------------------------------------------------------


def summarize(findings: list[dict], totals: list[dict], args: argparse.Namespace) -> dict[str, Any]:
    """Counts of outcomes by kind, and the mechanisms of the findings, each with its smallest input."""
    outcomes: Counter = Counter()
    for total in totals:
        outcomes.update(total["outcomes"])
    mechanisms: dict[str, dict[str, Any]] = {}
    for line in sorted(findings, key=lambda line: line["number"]):
        name = f"{line['finding']}: {line['mechanism']}"
        entry = mechanisms.setdefault(
            name, {"inputs": 0, "first": line["number"], "again": line["again"], "examples": []}
        )
        entry["inputs"] += 1
        example = f"{line['mutation']}: {line['detail']}: {line['about']}"[:400]
        if len(entry["examples"]) < 3 and example not in entry["examples"]:
            entry["examples"].append(example)
    return {
        "seed": args.seed,
        "inputs": sum(outcomes.values()),
        "seconds": round(max((total["seconds"] for total in totals), default=0)),
        "slowest": max((total["slowest"] for total in totals), default=None),
        "largest": max((total["largest"] for total in totals), default=None),
        "inputs with findings": len({line["number"] for line in findings}),
        "outcomes": dict(sorted(outcomes.items())),
        "mechanisms": dict(sorted(mechanisms.items(), key=lambda item: -item[1]["inputs"])),
    }


def show(summary: dict[str, Any]) -> None:
    """Print a summary."""
    for name, count in summary["outcomes"].items():
        print(f"{count:6d}  {name}")
    for name, entry in summary["mechanisms"].items():
        print(f"{entry['inputs']:6d}  {name}\n        first: {entry['again']}; {entry['examples'][0]}")
    found, causes = summary["inputs with findings"], len(summary["mechanisms"])
    print(f"{summary['inputs']} inputs in {summary['seconds']} s, {found} with findings, of {causes} mechanisms")


if __name__ == "__main__":
    sys.exit(main())
