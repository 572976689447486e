"""Command lines: values out of range and of other kinds, flags that contradict each other or do not exist."""

import os
from pathlib import Path

from cases import ANY, REFUSED, Case, mutation
from ground import build_flags

NUMBERS = [
    "",
    " ",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e3",
    "0x10",
    "1_0",
    "٣",
    "²",
    " 2 ",
    "9" * 30,
]
NUMBERS += [
    "9" * 5000,
    "None",
    "True",
    "x",
    "-",
    "--",
    "1,2",
    "[1]",
    "\x1b[31m",
    "\udce9",
    "a\nb",
    "%",
    "%s",
    "+1",
    "-0",
    "00",
]
TEXTS = [
    "",
    " ",
    "x",
    "None",
    "none",
    "auto",
    "t5",
    "t0",
    "t-1",
    "t999",
    "t٣",
    "T5",
    "t5.0",
    "t",
    "5",
    "dense",
    "resnet18",
    "cpu",
]
TEXTS += [
    "cuda",
    "cuda:99",
    "cuda:-1",
    "mps",
    "../x",
    "/",
    ".",
    "..",
    "~",
    "*",
    "a/b",
    "x" * 5000,
    "\x1b[31m",
    "\udce9",
    "a\nb",
]
TEXTS += [
    "%",
    "%s%n",
    "$x$",
    "<b>",
    "{0}",
    "--help",
    "-h",
    "linear:50-5",
    "linear:5-5",
    "linear:9",
    "linear:0-5",
    "linear:5-50",
]
LISTS = [
    "0,",
    "0,0",
    "99,",
    "0,99",
    "-1,",
    ",",
    ",,",
    "1,,2",
    "a,b",
    "6",
    "7",
    "0",
    "1",
    "1-3",
    "0 1",
    "[0,1]",
    "9" * 30 + ",",
]
LISTS += ["0.5,", "nan", "٣,", "", " ", "5,4,3,2,1,0", "0,1,2,3,4,5,0,1", "0;1", "all", "\x1b,", "1e1", "+1,", "0,\n1"]

LAYERS = ["trunk", "layer1", "layer2.0.downsample", "layer4", "layer4.1.bn2", "avgpool", "relu", "rfc", "fc", "conv1"]
LAYERS += ["layer5", "layer4.2", ".", "layer4.", ".layer4", "layer4..0", "Trunk", "layer4.0.relu", "weight", "training"]
# No network, or one of a package that is not there; a function that is named here is run.
ARCHITECTURES = ["timm:", "timm:x", "timm:resnet18_fc_ma", ":", "x:", ":x", "no.such:thing", "math:pi", "math:sqrt"]
ARCHITECTURES += ["builtins:dict", "os:getcwd", "squeezenet1_0_fc_ma", "vgg11_fc_ma_fc_ma", "json:x", "a b:c", "é:é"]

TRAIN = {
    "--mark": TEXTS,
    "--arch": [*TEXTS, *ARCHITECTURES],
    "--freeze": [*TEXTS, *LAYERS, *LAYERS],
    "--slim": [None, "x"],
    "--size": [*NUMBERS, "15", "16", "33", "48", "128", "4097"],
    "--compile": ["x", "True", ""],  # without a value it would start a compiler
    "--k_schedule": TEXTS,
    "--data": TEXTS,
    "--epochs": ["", "0", "-1", "nan", "x", "1.5", "1", "2", "9" * 30],
    "--batch_size": NUMBERS,
    "--lr": [*NUMBERS, "1e10", "1e-50", "0.01"],
    "--workers": ["-1", "0", "9" * 9, "x", "1.5", "1025"],
    "--device": TEXTS,
    "--amp": TEXTS,
    "--resume": TEXTS,
    "--finetune": TEXTS,
    "--keep": NUMBERS,
    "--seed": NUMBERS,
    "--dry_run": [None],
    "--scale_lr": [None],
}
DEMO = {
    "--mark": TEXTS,
    "--arch": [*TEXTS, *ARCHITECTURES],
    "--modelfile": TEXTS,
    "--nd_result": TEXTS,
    "--data": TEXTS,
    "--images": LISTS,
    "--image": TEXTS,
    "--figure": LISTS,
    "--compare": TEXTS,
    "--explain": TEXTS,
    "--topn": [*NUMBERS, "291", "512", "513", "100"],
    "--device": TEXTS,
    "--workers": ["-1", "0", "9" * 9, "x", "1025"],
    "--no_val": [None],
}
NETDISSECT = {
    "--gpu": [*TEXTS, "True", "False"],
    "--model": [*TEXTS, *ARCHITECTURES],
    "--model_file": TEXTS,
    "--topk": NUMBERS,
    "--dataset": TEXTS,
    "--num_classes": NUMBERS,
    "--feature_names": [
        *TEXTS,
        "layer1,layer2",
        "bn1",
        "fc",
        "rfc",
        "[]",
        "['layer1']",
        "[1]",
        "layer1,layer1",
        "relu",
    ],
    "--index_file": [*TEXTS, "label.csv"],
    "--categories": [*TEXTS, "object", "scene,object", "['object']", "object,object", "[]", "3"],
    "--catagories": ["object", "x"],
    "--quantile": [*NUMBERS, "0.5", "0.999999", "1e-320"],
    "--quantile_file": TEXTS,
    "--iou_mode": [*TEXTS, "original"],
    "--preprocess": [*TEXTS, "imagenet"],
    "--chance_rounds": [*NUMBERS, "1001"],
    "--score_threshold": NUMBERS,
    "--seg_threshold": NUMBERS,
    "--topn": [*NUMBERS, "291", "4", "5"],
    "--batch_size": NUMBERS,
    "--tally_batch_size": NUMBERS,
    "--compile": ["", "x", "auto", "False", "0", "1.0", "None", "[]"],  # True may start a compiler
    "--clean": [*TEXTS, "True", "False"],
    "--test_mode": [*TEXTS, "True"],
    "--workers": ["-1", "x", "9" * 9, "0.0", "True", "[0]"],
}
BRODEN = {
    "--images": TEXTS,
    "--labels": TEXTS,
    "--names": TEXTS,
    "--output": ["", "x", "a/b/c", "\udce9", "x\n", ".", "/dev/null"],
}


def begin(case: Case) -> dict[str, list]:
    """A program on valid inputs, and its flags with values to try."""
    reader = case.rng.choices(["train", "demo", "netdissect", "broden"], [3, 4, 4, 1])[0]
    case.note(reader)
    if reader == "train":
        case.train()
        return TRAIN
    if reader == "demo":
        case.demo()
        return DEMO
    if reader == "netdissect":
        case.dissect()
        return NETDISSECT
    recipe = case.copy("recipe")
    case.build(recipe)
    case.argv = build_flags(recipe, case.folder / "out")
    return BRODEN


def strange_paths(case: Case) -> list[str]:
    """Paths that lead to what is no regular file."""
    fifo = case.folder / "fifo"
    os.mkfifo(fifo)
    (case.folder / "self").symlink_to("self")
    return [
        str(fifo),
        str(case.folder / "self"),
        "/dev/zero",
        "/dev/full",
        "/dev/stdin",
        str(case.folder),
        "/proc/self/mem",
        str(case.base / "run/snapshot/epoch_1.pth/x"),
        str(case.ground.outside / "secret.txt"),
    ]


@mutation("flags", 6)
def flag_values(case: Case) -> None:
    known = begin(case)
    paths = strange_paths(case)
    for flag in case.rng.sample(sorted(known), case.rng.choice([1, 1, 2, 3]) if len(known) > 4 else 1):
        pool = known[flag]
        value = case.rng.choice(paths) if pool is TEXTS and case.rng.random() < 0.25 else case.rng.choice(pool)
        if (flag, value) in {("--device", "auto"), ("--data", "none")}:
            continue
        case.argv += [flag] if value is None else [f"{flag}={value}"]
        case.note(flag, value)
    case.writable.append(case.folder)  # a path below the current folder may be named as the output


@mutation("flags", 2)
def flag_syntax(case: Case) -> None:
    """Flags that do not exist, are cut short, given twice or without a value; words beside them."""
    begin(case)
    ways = {
        "unknown": [*case.argv, "--nothing"],
        "unknown with value": [*case.argv, "--nothing=3"],
        "short": [*case.argv, "-x"],
        "abbreviated": [*case.argv, "--out=x", "--wor=0"],
        "without value": [*case.argv, "--device"],
        "last without value": case.argv[:-1] if case.argv[-2].startswith("--") else [*case.argv, "--workers"],
        "word": [*case.argv[:0], "word", *case.argv],
        "word after": [*case.argv, "--", "word"],
        "escape": [*case.argv, "--\x1b[31mred"],
        "not UTF-8": [*case.argv, "--\udce9"],
        "many": [*case.argv, *["--nothing"] * 10_000],
        "single dash": [*case.argv, "-"],
        "at": [*case.argv, "@file"],
        "newline": [*case.argv, "--a\nb"],
    }
    way = case.rng.choice(sorted(ways))
    case.note(way)
    case.argv = ways[way]
    case.expect = REFUSED


@mutation("flags")
def flags_of_frozen(case: Case) -> None:
    """--freeze with any layer, --slim with or without it, --size."""
    case.train()
    if case.rng.random() < 0.8:
        case.argv += [f"--freeze={case.rng.choice(LAYERS)}"]
    if case.rng.random() < 0.4:
        case.argv += ["--slim"]
    if case.rng.random() < 0.4:
        case.argv += [f"--size={case.rng.choice(['0', '15', '16', '17', '32', '47', '64', '130', '4097', '-64'])}"]
    if case.rng.random() < 0.5:
        case.argv += ["--finetune", str(case.base / case.rng.choice(["weights_1.pth", "frozen/snapshot/epoch_1.pth"]))]
    if case.rng.random() < 0.2:
        case.argv += ["--dry_run"]
    case.note(*case.argv[case.argv.index("--epochs") + 2 :])


@mutation("flags")
def flag_help(case: Case) -> None:
    begin(case)
    case.argv.append("--help")
    case.expect = "help"


@mutation("flags", 2)
def flag_places(case: Case) -> None:
    """Output folders of all kinds."""
    case.rng.choice([case.demo, case.dissect])()
    flag = "--output" if case.program == "demo" else "--output_folder"
    (case.folder / "file").write_text("a file\n")
    (case.folder / "link").symlink_to("real")
    (case.folder / "self").symlink_to("self")
    (case.folder / "away").symlink_to(case.ground.outside / "nothing")
    os.mkfifo(case.folder / "fifo")
    value = case.rng.choice(
        [
            "file",
            "file/out",
            "link",
            "self",
            "away",
            "fifo",
            "fifo/x",
            "/dev/null",
            "/dev/null/x",
            "/proc/x",
            "a\nb",
            "\x1b[31m",
            "\udce9",
            "x" * 300,
            "a/" * 150 + "b",
            "%s",
            "$x$",
            "é",
            " ",
            "-",
            "a" + "/b" * 50,
            "out/..",
            "./out/./",
        ]
    )
    case.note(value)
    case.argv[case.argv.index(flag) + 1] = value
    case.writable = [case.folder, Path("/proc/x")]  # to make that is tried, and no system lets anyone
    if value.startswith(("file", "self", "fifo", "/")):
        case.expect = REFUSED


@mutation("flags")
def broden_words(case: Case) -> None:
    """`netdissect.broden` with other words than its own."""
    case.check(case.base / "broden")
    case.argv = case.rng.choice(
        [
            [],
            ["check"],
            ["check", "a", "b"],
            ["nothing"],
            ["check", ""],
            ["check", "\x1b[31m"],
            ["check", "\udce9"],
            ["build"],
            ["check", "/dev/zero"],
            ["check", "nothing"],
            ["build", "--images", "x"],
            ["check", str(case.base / "tiny")],
            [""],
            ["check", "--nothing"],
            ["check", str(case.base / "weights_1.pth")],
        ]
    )
    case.note(*case.argv)
    case.expect = REFUSED if "tiny" not in str(case.argv) else ANY
