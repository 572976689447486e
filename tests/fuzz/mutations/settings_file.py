"""netdissect/settings.py, as people edit it: values, syntax, names."""

from pathlib import Path

from cases import ANY, REFUSED, SAME, Case, mutation, spoil_bytes, strange_file

VALUES = [
    "None",
    "True",
    "False",
    "0",
    "1",
    "-1",
    "1.5",
    "0.0",
    "1e400",
    "float('nan')",
    "10**30",
    "''",
    "'x'",
    "'100 %'",
]
VALUES += [
    "'%s'",
    "'%(x)d'",
    "'\\x1b[31m'",
    "'a\\nb'",
    "'\\x00'",
    "'../x'",
    "'/dev/zero'",
    "'$x$'",
    "'\\udce9'",
    "[]",
    "['x']",
]
VALUES += [
    "[1]",
    "[None]",
    "[[]]",
    "()",
    "('layer1',)",
    "{}",
    "{'a': 1}",
    "b'x'",
    "1j",
    "print",
    "lambda: 1",
    "object()",
    "...",
]
VALUES += [
    "'x' * 100_000",
    "range(3)",
    "{'layer1'}",
    "int",
    "10 ** 5000",
    "__import__('pathlib').Path('x')",
    "2.0",
    "'2'",
]
OTHER_MODELS = [
    "'resnet18'",
    "'os:getcwd'",
    "'sys:exit'",
    "'builtins:exit'",
    "'torch.nn:Identity'",
    "'torch.nn:Linear'",
]
OTHER_MODELS += [
    "'torchvision.models:resnet18'",
    "'torchvision.models:nothing'",
    "'nothing:x'",
    "':'",
    "'a:b:c'",
    "'alexnet'",
]
OTHER_MODELS += ["'builtins:input'", "'swin_t'", "'vgg11'", "'..x:y'", "'subprocess:check_output'"]
OTHER_LAYERS = [
    "'layer1'",
    "['fc']",
    "['rfc']",
    "['avgpool']",
    "['relu']",
    "['bn1']",
    "['']",
    "['layer1.']",
    "['layer1', 'layer1']",
]
OTHER_LAYERS += [
    "['layer9']",
    "['conv1', 'layer1']",
    "['Layer1']",
    "['layer1.0.bn1']",
    "['maxpool']",
    "['../x']",
    "['layer1', 3]",
]


def edited(case: Case) -> Path:
    """The settings file of the product's copy, with the case's inputs as its values; the program reads it only."""
    case.dissect()
    path = case.ground.repo / "netdissect/settings.py"
    values = {
        "MODEL_FILE": str(case.base / "weights_1.pth"),
        "DATA_DIRECTORY": str(case.base / "broden"),
        "OUTPUT_FOLDER": str(case.folder / "out"),
        "FEATURE_NAMES": ["layer1"],
        "QUANTILE": 0.05,
        "TOPN": 1,
        "WORKERS": 0,
    }
    lines = path.read_text().splitlines()
    for place, line in enumerate(lines):
        name = line.split(" = ")[0]
        if name in values:
            lines[place] = f"{name} = {values[name]!r}"
    path.write_text("\n".join(lines) + "\n")
    case.argv = []
    case.options = {"reimport": ["netdissect"]}
    return path


def set_value(path: Path, name: str, value: str) -> None:
    """Set a value, as an expression."""
    lines = path.read_text().splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith(f"{name} = ")]
    lines[places[0]] = f"{name} = {value}"
    path.write_text("\n".join(lines) + "\n")


def names(path: Path) -> list[str]:
    """The settings' names."""
    return [line.split(" = ")[0] for line in path.read_text().splitlines() if line[:1].isupper() and " = " in line]


@mutation("settings", 5)
def settings_value(case: Case) -> None:
    """Values of other types; none that would render the embedded data or start processes."""
    path = edited(case)
    for _ in range(case.rng.choice([1, 1, 2])):
        name = case.rng.choice(names(path))
        value = case.rng.choice(VALUES)
        if (name, value) in {("DATA_DIRECTORY", "None"), ("WORKERS", "1")}:
            value = "'x'"
        if name == "OUTPUT_FOLDER":  # also by default, or relative to the settings' folder
            case.output = None  # wherever it may write
            case.writable += [case.ground.repo / "result", *(case.ground.repo / "netdissect" / x for x in ("x", "2"))]
            case.writable += [case.ground.repo / "netdissect" / x for x in ("100 %", "%s", "%(x)d", "$x$", "\udce9")]
            value = "None" if value in ("'../x'", "'x' * 100_000", "''") else value
        set_value(path, name, value)
        case.note(name, value)


@mutation("settings", 2)
def settings_network(case: Case) -> None:
    """Networks and layers that are none, that do not fit, or that do something else when they are made."""
    path = edited(case)
    if case.rng.random() < 0.5:
        model = case.rng.choice(OTHER_MODELS)
        set_value(path, "MODEL", model)
        set_value(path, "MODEL_FILE", case.rng.choice(["'none'", repr(str(case.base / "weights_1.pth"))]))
        case.note(model)
    layers = case.rng.choice(OTHER_LAYERS)
    set_value(path, "FEATURE_NAMES", layers)
    case.note(layers)


@mutation("settings", 2)
def settings_text(case: Case) -> None:
    """What Python does not read, or runs with another end."""
    path = edited(case)
    text = path.read_text()
    ways = {
        "syntax": text + "MODEL = = 3\n",
        "open string": text + "MODEL = '\n",
        "indent": text + "  MODEL = 3\n",
        "unknown name": text + "MODEL = resnet18\n",
        "division": text + "TOPN = 1 / 0\n",
        "exit": text + "raise SystemExit(0)\n",
        "exit with text": text + "raise SystemExit('no')\n",
        "base exception": text + "raise BaseException('x')\n",
        "import": text + "import nothing_of_this_name\n",
        "recursion": text + "def f(): return f()\nf()\n",
        "warning": text + "import warnings\nwarnings.warn('old')\n",
        "empty": "",
        "comment": "# nothing\n",
        "NUL": text + "\x00",
        "BOM": "\ufeff" + text,
        "form feed": text + "\x0c\n",
        "encoding": "# coding: nothing\n" + text,
        "latin": "# coding: latin-1\n" + text + "# é\n",
        "git conflict": text + "<<<<<<< HEAD\n",
        "unknown setting": text + "NOTHING = 3\n",
        "old spelling": text.replace("CATEGORIES = ", "CATAGORIES = "),
        "both spellings": text + "CATAGORIES = ['object']\n",
        "lower case": text + "topn = 5\n",
        "more code": text + "import os\nHOME = os.getcwd()\n",
        "nested": text + "(" * 500 + ")" * 500 + "\n",
        "deep": text + "X = " + "-" * 50_000 + "1\n",
        "long number": text + "X = " + "9" * 5000 + "\n",
        "annotations": text + "TOPN: int = 1\n",
    }
    way = case.rng.choice(sorted(ways))
    case.note(way)
    path.write_text(ways[way])
    bad = {
        "syntax",
        "open string",
        "indent",
        "unknown name",
        "division",
        "import",
        "recursion",
        "empty",
        "comment",
        "NUL",
    }
    bad |= {"encoding", "git conflict", "nested", "long number"}
    fine = {"BOM", "form feed", "latin", "old spelling", "lower case", "annotations"}
    case.expect = REFUSED if way in bad else SAME if way in fine else ANY


@mutation("settings")
def settings_name_missing(case: Case) -> None:
    path = edited(case)
    name = case.rng.choice([name for name in names(path) if name != "DATA_DIRECTORY"])
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name} = ")]
    path.write_text("\n".join(lines) + "\n")
    case.note(name)
    case.writable += [case.ground.repo / "result"]
    if name == "WORKERS":
        path.write_text("\n".join([*lines, "WORKERS = 0"]) + "\n")


@mutation("settings")
def settings_bytes(case: Case) -> None:
    path = edited(case)
    if case.rng.random() < 0.7:
        text = path.read_bytes()
        place = case.rng.randrange(len(text))
        path.write_bytes(text[:place] + bytes([case.rng.randrange(256)]) + text[place + 1 :])
    elif case.rng.random() < 0.5:
        spoil_bytes(case, path)
    else:
        strange_file(case, path, ["missing", "folder", "fifo", "link to itself", "link nowhere", "device"])
    case.writable += [case.ground.repo / "result", case.ground.repo / "netdissect"]
