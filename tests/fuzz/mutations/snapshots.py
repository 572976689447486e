"""Snapshots: the file's bytes, its weights, its metadata; read by all programs that take one."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import (
    ANY,
    REFUSED,
    SAME,
    SAME_OR_REFUSED,
    STRANGE_NAMES,
    STRANGE_VALUES,
    Case,
    mutation,
    replace_bytes,
    spoil_bytes,
    strange_file,
)
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file

LIKELY_KEYS = ["rfc.weight", "rfc.bias", "conv1.weight", "bn1.running_var", "bn1.running_mean", "bn1.weight"]
LIKELY_KEYS += ["bn1.num_batches_tracked", "layer4.1.bn2.running_var", "layer4.1.conv2.weight", "layer1.0.bn1.bias"]


def read_by(case: Case, path: Path, expect: str, only: str = "", otherwise: str = ANY) -> None:
    """Let one of the programs read a snapshot. `only`: the program of which `expect` is known; else `otherwise`."""
    reader = case.rng.choices(["demo", "netdissect", "finetune", "compare", "own"], [5, 4, 1, 1, 1])[0]
    case.note("read by", reader)
    if reader == "demo":
        case.demo(snapshot=path)
    elif reader == "own":
        case.demo("--image", str(case.base / "photos"), snapshot=path, own=True)
    elif reader == "netdissect":
        case.dissect(snapshot=path)
    elif reader == "finetune":
        case.train("--finetune", str(path))
    else:
        case.demo("--compare", str(path))
        case.argv.remove("--no_val")
    known = not only or reader in only.split()
    case.expect = expect if known else otherwise
    if case.expect in (SAME, SAME_OR_REFUSED) and reader in ("finetune", "compare"):
        case.expect = ANY  # there is no trusted run of these


def load(case: Case) -> dict[str, Any]:
    """The content of a valid snapshot."""
    return torch.load(case.base / "weights_1.pth", weights_only=True)


def save(case: Case, content: Any, **options: Any) -> Path:
    """Write it."""
    path = case.folder / "snapshot.pth"
    torch.save(content, path, **options)
    return path


def pick_key(case: Case, state: dict[str, torch.Tensor], floating: bool = False) -> str:
    """A tensor's name, and note it; `floating`: of one that is no counter."""
    keys = LIKELY_KEYS if case.rng.random() < 0.7 else sorted(state)
    key = case.rng.choice([key for key in keys if not floating or state[key].is_floating_point()])
    case.note(key)
    return key


# --- the file -----------------------------------------------------------------------------------------------------


@mutation("snapshot", 3)
def snapshot_bytes(case: Case) -> None:
    path = case.copy("weights_1.pth")
    spoil_bytes(case, path)
    read_by(case, path, ANY)


@mutation("snapshot")
def snapshot_directory_bytes(case: Case) -> None:
    """In the pickle or in the names and sizes of the zip file's entries: not in the weights."""
    path = case.copy("weights_1.pth")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        places = [*range(first.header_offset, first.header_offset + 200 + first.file_size)]
        places += range(archive.start_dir, len(data))
    for _ in range(case.rng.randint(1, 6)):
        data[case.rng.choice(places)] = case.rng.randrange(256)
    replace_bytes(path, bytes(data))
    read_by(case, path, ANY)


@mutation("snapshot")
def snapshot_strange_file(case: Case) -> None:
    path = case.copy("weights_1.pth")
    kind = strange_file(case, path)
    read_by(case, path, SAME if kind == "link" else REFUSED)


class _Harm:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/campaign-was-here",)


@mutation("snapshot")
def snapshot_other_content(case: Case) -> None:
    """Another file format, or other objects, some of which would run code."""
    path = case.folder / "snapshot.pth"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Harm()))
        archive.writestr("archive/version", "3\n")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 28))
        archive.writestr("archive/version", "3\n")
    arrays = io.BytesIO()
    np.savez(arrays, weights=np.zeros(3))
    contents = {
        "pickle": pickle.dumps({"state_dict": {}}),
        "harmful pickle": pickle.dumps(_Harm()),
        "harmful zip": packed.getvalue(),
        "zip bomb": bomb.getvalue(),
        "npz": arrays.getvalue(),
        "png": (case.base / "broden/images/p0.png").read_bytes(),
        "csv": (case.base / "dissected_1/tally.csv").read_bytes(),
        "text": b"state_dict\n",
        "deep pickle": b"\x80\x02" + b"(" * 100_000 + b"." * 10,
        "nested lists": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        "tar": b"ustar".rjust(262, b"\0").ljust(512, b"\0"),
    }
    name = case.rng.choice(sorted(contents))
    case.note(name)
    path.write_bytes(contents[name])
    read_by(case, path, REFUSED)


@mutation("snapshot")
def snapshot_other_objects(case: Case) -> None:
    """What torch can save, but no snapshot."""
    content = load(case)
    objects: dict[str, Any] = {
        "list": [content],
        "tensor": torch.zeros(3),
        "number": 3,
        "text": "state_dict",
        "none": None,
        "empty": {},
        "empty state": {**content, "state_dict": {}},
        "state is a list": {**content, "state_dict": list(content["state_dict"].values())},
        "state is none": {**content, "state_dict": None},
        "state is text": {**content, "state_dict": "x"},
        "state in state": {**content, "state_dict": {"state_dict": content["state_dict"]}},
        "keys are numbers": {**content, "state_dict": dict(enumerate(content["state_dict"].values()))},
        "keys are mixed": {**content, "state_dict": {**content["state_dict"], 3: torch.zeros(1), None: torch.ones(1)}},
        "numbers in the state": {**content, "state_dict": {**content["state_dict"], "rfc.bias": [0.0, 1.0, 2.0]}},
        "content has number keys": {3: content, "x": 3},
    }
    name = case.rng.choice(sorted(objects))
    case.note(name)
    read_by(case, save(case, objects[name]), REFUSED)


@mutation("snapshot", 2)
def snapshot_equivalent(case: Case) -> None:
    """The same weights, written in another way."""
    content = load(case)
    state = content["state_dict"]
    ways: dict[str, Callable[[], Path]] = {
        "old format": lambda: save(case, content, _use_new_zipfile_serialization=False),
        "module.": lambda: save(case, {**content, "state_dict": {f"module.{k}": v for k, v in state.items()}}),
        "_orig_mod.": lambda: save(case, {**content, "state_dict": {f"_orig_mod.{k}": v for k, v in state.items()}}),
        "parameters": lambda: save(
            case, {**content, "state_dict": {k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in state.items()}}
        ),
        "channels last": lambda: save(
            case,
            {
                **content,
                "state_dict": {
                    k: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in state.items()
                },
            },
        ),
        "double": lambda: save(
            case,
            {**content, "state_dict": {k: v.double() if v.is_floating_point() else v for k, v in state.items()}},
        ),
        "other order": lambda: save(case, {**content, "state_dict": dict(reversed(list(state.items())))}),
        "ordered dict": lambda: save(case, {**content, "state_dict": OrderedDict(state)}),
        "no counters": lambda: save(
            case, {**content, "state_dict": {k: v for k, v in state.items() if not k.endswith("batches_tracked")}}
        ),
        "views of one tensor": lambda: save(
            case, {**content, "state_dict": {k: torch.stack([v, v])[1] for k, v in state.items()}}
        ),
        "more fields": lambda: save(case, {**content, "author": "x", "notes": {"a": [1, 2, {"b": None}]}}),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    # The counters change no answer, but are in the fingerprint by which a tally knows its network.
    read_by(case, ways[name](), SAME_OR_REFUSED if name == "no counters" else SAME)


@mutation("snapshot")
def snapshot_of_the_authors(case: Case) -> None:
    """Three fields, `module.` before every key, no K."""
    content = load(case)
    kept = {name: content[name] for name in ("epoch", "best_prec1")}
    kept["state_dict"] = {f"module.{key}": value for key, value in content["state_dict"].items()}
    path = save(case, kept)
    if case.rng.random() < 0.5:
        case.demo("--mark", "t5", snapshot=path)
        case.expect, case.noticed = SAME, "does not name its classes"
    else:
        case.demo(snapshot=path)
        case.expect = REFUSED


# --- safetensors --------------------------------------------------------------------------------------------------


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file: the header's length, the header, the values; whether or not they agree."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@mutation("snapshot", 2)
def safetensors_equivalent(case: Case) -> None:
    """The weights alone, which do not say their K."""
    state = {key: value.contiguous() for key, value in load(case)["state_dict"].items()}
    ways: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "as they are": lambda: state,
        "double": lambda: {key: value.double() if value.is_floating_point() else value for key, value in state.items()},
        "module.": lambda: {f"module.{key}": value for key, value in state.items()},
        "no counters": lambda: {key: value for key, value in state.items() if not key.endswith("batches_tracked")},
    }
    way = case.rng.choice(sorted(ways))
    case.note(way)
    path = case.folder / case.rng.choice(["weights.safetensors", "weights.pth"])
    told = {"arch": "os:abort", "topk": "6", "format": case.rng.choice(["pt", "\x1b[31m", "x" * 10_000])}
    save_file(ways[way](), path, metadata=case.rng.choice([None, told]))
    if case.rng.random() < 0.7:
        case.demo("--mark", "t5", snapshot=path)
        case.expect = SAME_OR_REFUSED if way == "no counters" else SAME
        case.noticed = "does not name its classes"
    else:
        case.demo(snapshot=path)
        case.expect = REFUSED


@mutation("snapshot", 3)
def safetensors_malformed(case: Case) -> None:
    """Bytes spoiled, headers that are too long, too deep or do not agree with the values, other types of numbers."""
    state = {key: value.contiguous() for key, value in load(case)["state_dict"].items()}
    key = pick_key(case, state, floating=True)
    good = save_safetensors(state)
    size = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]
    entry, count = header[key], state[key].numel()
    start, end = entry["data_offsets"]

    def changed(**fields: Any) -> bytes:
        return packed({**header, key: {**entry, **fields}}, data)

    text = json.dumps(header)
    ways: dict[str, Callable[[], bytes]] = {
        "cut in the header": lambda: good[: case.rng.randrange(1, 8 + size)],
        "cut in the values": lambda: good[: case.rng.randrange(8 + size, len(good))],
        "more values": lambda: good + bytes(case.rng.choice([1, 4, 4096])),
        "huge length": lambda: packed(text.encode(), data, case.rng.choice([2**63, 2**64 - 1, 10**12, len(good) - 9])),
        "short length": lambda: packed(text.encode(), data, case.rng.choice([0, 1, 2, size // 2])),
        "many spaces": lambda: packed(text.encode() + b" " * (101 << 20), data),
        "deep": lambda: packed(b'{"a":' + b"[" * 100_000, data),
        "nothing": lambda: packed({}),
        "no values": lambda: packed(header),
        "list": lambda: packed([header], data),
        "twice": lambda: packed((text[:-1] + ", " + text[1:]).encode(), data),
        "not UTF-8": lambda: packed(text.replace(key, key + "?").encode().replace(b"?", b"\xff"), data),
        "type": lambda: changed(dtype=case.rng.choice(["F4", "C64", "F8_E4M3", "F8_E5M2", "", 3, None, "U64", "I128"])),
        "narrow type": lambda: changed(dtype=case.rng.choice(["F16", "BF16", "I8", "BOOL", "I64", "F64"])),
        "shape": lambda: changed(
            shape=case.rng.choice([[2**62, 4], [-1], [count + 1], [], [0], "x", None, [1.5], [2**70]])
        ),
        "offsets": lambda: changed(
            data_offsets=case.rng.choice(
                [[start, end + 4], [end, start], [0, 2**63], [-4, end], [start], [start + 4, end], "x", None, [0, 0]]
            )
        ),
        "metadata": lambda: packed(
            {"__metadata__": case.rng.choice([3, [], {"a": 1}, "x", {"a": None}]), **header}, data
        ),
        "strange name": lambda: packed({**{k: v for k, v in header.items() if k != key}, "\x1b[31m": entry}, data),
    }
    way = case.rng.choice([*sorted(ways), "bytes", "bytes"])
    case.note(way)
    path = case.folder / "weights.safetensors"
    path.write_bytes(good if way == "bytes" else ways[way]())
    if way == "bytes":
        spoil_bytes(case, path)
    case.demo("--mark", "t5", snapshot=path)
    if case.rng.random() < 0.3:
        case.train("--finetune", str(path))
    case.expect = ANY if way == "bytes" or (case.program == "train" and key.startswith("rfc")) else REFUSED


# --- weights ------------------------------------------------------------------------------------------------------


@mutation("snapshot", 3)
def weights_of_other_shape(case: Case) -> None:
    content = load(case)
    state = content["state_dict"]
    key = pick_key(case, state)
    value = state[key]
    shapes: dict[str, Callable[[], Any]] = {
        "transposed": lambda: value.t() if value.dim() == 2 else value[None],
        "one more": lambda: (
            torch.cat([value.reshape(len(value), -1), value.reshape(len(value), -1)[:1]])
            if value.dim()
            else value[None]
        ),
        "flat": lambda: value.flatten() if value.dim() > 1 else value[None],
        "number": lambda: torch.tensor(1.0) if value.dim() else torch.ones(1, 1),
        "empty": lambda: torch.zeros(0),
        "no rows": lambda: value[:0] if value.dim() else value[None][:0],
        "many dimensions": lambda: value.reshape(*value.shape, *[1] * 20),
    }
    name = case.rng.choice(sorted(shapes))
    case.note(name)
    state[key] = shapes[name]()
    only = "demo netdissect own compare" if key.startswith("rfc") else ""
    read_by(case, save(case, content), REFUSED, only)


@mutation("snapshot", 2)
def weights_expanded(case: Case) -> None:
    """A tensor of few bytes that stands for many."""
    content = load(case)
    key = pick_key(case, content["state_dict"])
    rows = case.rng.choice([10**6, 10**9, 10**12])
    shape = case.rng.choice([(rows,), (rows, 512), (3, rows), (rows // 1000, 3, 7, 7)])
    content["state_dict"][key] = torch.zeros(1).expand(*shape)
    case.note(shape)
    read_by(case, save(case, content), REFUSED, "demo netdissect own compare" if key.startswith("rfc") else "")


@mutation("snapshot", 2)
def weights_of_other_type(case: Case) -> None:
    content = load(case)
    state = content["state_dict"]
    key = pick_key(case, state)
    value = state[key].float()
    types: dict[str, tuple[Callable[[], Any], str]] = {
        "half": (value.half, ANY),
        "bfloat16": (value.bfloat16, ANY),
        "int64": (value.long, ANY),
        "bool": (value.bool, ANY),
        "uint8": (lambda: value.to(torch.uint8), ANY),
        "complex": (lambda: value.to(torch.complex64), REFUSED),
        "sparse": (value.to_sparse, REFUSED),
        "meta": (lambda: value.to("meta"), REFUSED),
        "quantized": (lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), REFUSED),
        "float8": (lambda: value.to(torch.float8_e4m3fn), ANY),
        "list": (lambda: value.flatten().tolist()[:100], REFUSED),
        "none": (lambda: None, REFUSED),
        "text": (lambda: "x", REFUSED),
        "number": (lambda: 1.0, REFUSED),
    }
    name = case.rng.choice(sorted(types))
    case.note(name)
    make, expect = types[name]
    state[key] = make()
    read_by(case, save(case, content), expect)


@mutation("snapshot", 3)
def weights_not_finite(case: Case) -> None:
    content = load(case)
    state = content["state_dict"]
    key = pick_key(case, state, floating=True)
    state[key] = state[key].contiguous()
    flat = state[key].view(-1)
    value = case.rng.choice([float("nan"), float("inf"), float("-inf")])
    flat[case.rng.randrange(len(flat)) if case.rng.random() < 0.7 else slice(None)] = value
    case.note(value)
    read_by(case, save(case, content), REFUSED)


@mutation("snapshot", 3)
def weights_impossible(case: Case) -> None:
    """Finite, but no network has such weights, or what it computes with them is not finite."""
    content = load(case)
    state = content["state_dict"]
    key = pick_key(case, state, floating=True)
    value = case.rng.choice([3e38, -3e38, 1e30, 1e-45, -1.0, 0.0, 1e20])
    case.note(value)
    if case.rng.random() < 0.7:
        state[key].fill_(value)
    else:
        state[key].mul_(value)
        state[key].nan_to_num_(0, 3e38, -3e38)
    read_by(case, save(case, content), ANY)


@mutation("snapshot")
def weights_counters(case: Case) -> None:
    """BatchNorm's counters: without effect on any output."""
    content = load(case)
    key = case.rng.choice([key for key in content["state_dict"] if key.endswith("batches_tracked")])
    content["state_dict"][key] = torch.tensor(case.rng.choice([-1, 2**62, 0]))
    read_by(case, save(case, content), ANY)


@mutation("snapshot", 2)
def weights_missing_or_more(case: Case) -> None:
    content = load(case)
    state = content["state_dict"]
    key = pick_key(case, state, floating=True)
    way = case.rng.choice(["missing", "more", "renamed", "twice"])
    case.note(way)
    only = ""
    if way == "missing":
        del state[key]
        only = "demo netdissect own compare" if key.startswith("rfc") else ""
    elif way == "more":
        state[case.rng.choice(["x", "rfc.mask", "fc.weight", "", "a" * 300, "\x1b[31m", "layer5.0.conv1.weight"])] = (
            torch.zeros(1)
        )
        only = "netdissect demo own compare"
    elif way == "renamed":
        state[key + case.rng.choice(["_", " ", "\n", "\x1b[2J"])] = state.pop(key)
    else:
        state[f"module.{key}"] = state[key] + 1
    read_by(case, save(case, content), ANY if way == "twice" else REFUSED, only)


# --- metadata -----------------------------------------------------------------------------------------------------


@mutation("snapshot", 3)
def metadata_strange(case: Case) -> None:
    """Any field of any type."""
    content = load(case)
    name = case.rng.choice([field for field in sorted(content) if field != "state_dict"])
    content[name] = case.rng.choice([*STRANGE_VALUES, torch.zeros(2), torch.tensor(float("nan"))])
    case.note(name, content[name])
    read_by(case, save(case, content), ANY)


@mutation("snapshot")
def metadata_absent(case: Case) -> None:
    content = load(case)
    for name in case.rng.sample([field for field in sorted(content) if field != "state_dict"], case.rng.randint(1, 4)):
        del content[name]
        case.note(name)
    needed = "topk" not in content
    read_by(case, save(case, content), REFUSED if needed else ANY, "demo netdissect own compare" if needed else "")


@mutation("snapshot", 2)
def metadata_topk(case: Case) -> None:
    content = load(case)
    content["topk"] = case.rng.choice(
        [0, -1, 513, 10**12, True, 5.0, "5", None, [5], {}, float("nan"), torch.tensor(5)]
    )
    case.note(content["topk"])
    read_by(case, save(case, content), REFUSED, "demo netdissect own compare")


@mutation("snapshot")
def metadata_other_topk(case: Case) -> None:
    """Another K is another network, but a possible one, with which all must still add up."""
    content = load(case)
    content["topk"] = case.rng.choice([1, 2, 6, 511, 512])
    case.note(content["topk"])
    read_by(case, save(case, content), ANY)


@mutation("snapshot", 3)
def metadata_classes(case: Case) -> None:
    """Other classes than the data set's, or the same in another order: what is said of them would be wrong."""
    content = load(case)
    names = content.get("classes", ["bakery-shop", "beach", "tundra"])
    ways: dict[str, Any] = {
        "reversed": names[::-1],
        "rotated": [*names[1:], names[0]],
        "others": ["a", "b", "c"],
        "one other": [*names[:2], "desert"],
        "fewer": names[:2],
        "more": [*names, "desert"],
        "none": [],
        "numbers": [1, 2, 3],
        "text": "abc",
        "dict": dict(enumerate(names)),
        "tuple": tuple(names[::-1]),
        "same name twice": [names[0], names[0], names[1]],
        "upper case": [name.upper() for name in names],
        "strange": [case.rng.choice(STRANGE_NAMES), *names[1:]],
    }
    name = case.rng.choice(sorted(ways))
    content["classes"] = ways[name]
    case.note(name, ways[name])
    read_by(case, save(case, content), REFUSED, "demo compare")


@mutation("snapshot")
def metadata_names_shown(case: Case) -> None:
    """Strange class names with a user's own images, which only need the names."""
    content = load(case)
    content["classes"] = case.rng.sample(STRANGE_NAMES, 3)
    case.note(content["classes"])
    path = save(case, content)
    case.demo("--image", str(case.base / "photos"), snapshot=path, own=True)
    place = case.argv.index("--dataset")
    del case.argv[place : place + 2]


@mutation("snapshot")
def metadata_arch(case: Case) -> None:
    content = load(case)
    known = ["resnet34_fc_ma", "resnet18", "resnet50", "resnet18_fc_ma_fc_ma", "vit_h_14", "vit_h_14_fc_ma", "vgg11"]
    known += ["regnet_y_128gf_fc_ma", "efficientnet_lite0_fc_ma", "mobilenet_v3_small_fc_ma", "googlenet_fc_ma"]
    known += ["inception_v3", "squeezenet1_0", "timm:x", "timm:", "timm:resnet18_fc_ma", "timm:resnet18:x"]
    code = [
        "os:abort",
        "os:abort_fc_ma",
        "os.path:join",
        ":",
        "x:",
        ":x",
        "a b:c",
        "\x1b[31m:x",
        "this:s",
        "os:abort\n",
    ]
    content["arch"] = case.rng.choice([*known, *code, "", "x", "../x", 3, None, [], {}, b"x", True])
    case.note(content["arch"])
    expect = ANY if not content["arch"] else REFUSED
    read_by(case, save(case, content), expect, "demo netdissect own compare")


@mutation("snapshot")
def metadata_size(case: Case) -> None:
    """The side of the network's input that the file says."""
    content = load(case)
    right, wrong = [1, 7, 63, 65, 224], [0, -64, True, 4097, 65_535, 10**40, 64.0, "64", None, [64], float("nan"), {}]
    possible = case.rng.random() < 0.5
    content["size"] = case.rng.choice(right if possible else wrong)
    case.note(content["size"])
    read_by(case, save(case, content), ANY if possible else REFUSED, "" if possible else "demo netdissect own compare")


@mutation("snapshot")
def metadata_dataset(case: Case) -> None:
    """The data set's name is part of the default output folder's."""
    content = load(case)
    content["dataset"] = case.rng.choice([*STRANGE_NAMES, "../x", "/etc", "a/b", "", "x" * 500, 3, None, ["a"], ".."])
    case.note(content["dataset"])
    path = save(case, content)
    if case.rng.random() < 0.5:
        case.dissect(snapshot=path)
    else:
        case.demo("--image", str(case.base / "photos"), snapshot=path, own=True)
        place = case.argv.index("--dataset")
        del case.argv[place : place + 2]
    place = case.argv.index("--output_folder" if case.program == "netdissect" else "--output")
    del case.argv[place : place + 2]
    case.output, case.writable = case.ground.repo / "result", [case.ground.repo / "result"]


@mutation("snapshot", 2)
def tally_of_another_snapshot(case: Case) -> None:
    """The tally of another epoch of the same run: names for units that mean something else now."""
    way = case.rng.choice(["snapshot", "tally"])
    if way == "snapshot":
        case.demo(snapshot=case.base / "weights_0.pth")
    else:
        case.demo(tally=case.base / "dissected_0/tally.csv")
    case.note(way)
    case.expect = REFUSED


@mutation("snapshot")
def run_folder_by_default(case: Case) -> None:
    """Without --modelfile: the newest snapshot of the run's folder, with its tally only if it is of this snapshot."""
    results, snapshots = case.run_folder("run")
    dissected = case.rng.choice(["dissected_0", "dissected_1"])
    case.note(dissected)
    import shutil

    shutil.copytree(case.base / dissected, results / "netdissect")
    case.demo()
    for flag in ("--modelfile", "--nd_result"):
        place = case.argv.index(flag)
        del case.argv[place : place + 2]
    case.argv += ["--mark", "t5"]
    newest = snapshots / "epoch_1.pth"
    os.utime(newest)
    os.utime(results / "netdissect/tally.csv")
    if dissected == "dissected_1":
        case.expect = SAME
    else:
        case.noticed = "is left out"  # it was found, not given
