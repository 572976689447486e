"""Image files: in a tree, among a user's own, in a Broden folder, beside label maps."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import (
    ANY,
    OTHERS_SAME,
    SAME,
    SAME_OR_REFUSED,
    STRANGE_NAMES,
    Case,
    mutation,
    replace_bytes,
    spoil_bytes,
    strange_file,
)
from ground import SIZE, TREE
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG of these numbers, whether or not they agree; `rows`: its filtered rows; `more`: chunks before them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(case: Case, mode: str = "RGB", size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """An image of noise, of any mode."""
    generator = np.random.default_rng(case.rng.getrandbits(32))
    shape = (size[1], size[0])
    if mode in ("I", "F"):
        return Image.fromarray(generator.integers(0, 70_000, shape).astype(np.int32 if mode == "I" else np.float32))
    if mode.startswith("I;16"):
        return Image.fromarray(generator.integers(0, 65_536, shape).astype(np.uint16))
    return Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)).convert(mode)


# --- contents -----------------------------------------------------------------------------------------------------

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
FORMATS = [
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "ICO",
    "TGA",
    "PCX",
    "SGI",
    "DDS",
    "EPS",
    "PDF",
    "JPEG2000",
]
FORMATS += ["AVIF", "ICNS", "IM", "MSP", "XBM", "SPIDER", "BLP", "DIB", "MPO", "PALM", "TIFF", "GIF"]


def of_any_format(case: Case) -> tuple[str, bytes]:
    """Any mode in any format that can hold it."""
    mode, kind = case.rng.choice(MODES), case.rng.choice(FORMATS)
    try:
        return f"{kind} {mode}", saved(noise(case, mode), kind)
    except (OSError, ValueError, KeyError):
        return f"{kind} RGB, was {mode}", saved(noise(case), "PNG")


def animated(case: Case) -> tuple[str, bytes]:
    """Several frames."""
    kind = case.rng.choice(["GIF", "PNG", "WEBP", "TIFF", "MPO"])
    frames = [noise(case) for _ in range(case.rng.choice([2, 5]))]
    return f"animated {kind}", saved(frames[0], kind, save_all=True, append_images=frames[1:])


def extreme(case: Case) -> tuple[str, bytes]:
    """Sizes at the ends."""
    sizes = [(1, 1), (1, 2), (2, 1), (1, 65_000), (65_000, 1), (3, 40_000), (20_000, 5), (4000, 4000), (16, 16)]
    if case.program == "netdissect":  # the network sees it at its full size, three times: this takes minutes
        sizes[sizes.index((4000, 4000))] = (1500, 1500)
    size = case.rng.choice([*sizes, (9000, 9000)])
    return f"{size}", saved(Image.new("L", size, 77), case.rng.choice(["PNG", "JPEG", "GIF", "PNG"]))


def pretended(case: Case) -> tuple[str, bytes]:
    """A header that promises far more pixels than there are."""
    width, height = case.rng.choice(
        [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (0, 5), (13_000, 13_000)]
    )
    jpeg = bytearray(saved(noise(case), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 65_500, case.rng.choice([65_500, 1, 0]))
    gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\xf7\x00\x00" + bytes(768) + b";"
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    contents = {
        f"PNG {width} {height}": png(width, height, 8, 2, bytes(100)),
        "JPEG": bytes(jpeg),
        "GIF": gif,
        "BMP": bmp,
        "PPM": b"P6 99999 99999 255\n" + bytes(50),
        "PPM negative": b"P6 -5 -5 255\n" + bytes(50),
        "TGA": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0),
        "ICO": b"\0\0\1\0\xff\xff" + bytes(200),
    }
    name = case.rng.choice(sorted(contents))
    return f"pretended {name}", contents[name]


def sixteen_bit(case: Case) -> tuple[str, bytes]:
    """16 bits per channel."""
    colour, channels = case.rng.choice([(0, 1), (2, 3), (4, 2), (6, 4)])
    rows = b"".join(b"\0" + case.rng.randbytes(2 * channels * SIZE) for _ in range(SIZE))
    return f"16 bit, {channels} channels", png(SIZE, SIZE, 16, colour, rows)


def odd_chunks(case: Case) -> tuple[str, bytes]:
    """A PNG with compressed text that grows, an ICC profile, EXIF, gamma, palette and frames that are junk."""
    grown = zlib.compress(bytes(64 << 20))
    chunks = {
        "zTXt": chunk(b"zTXt", b"a\0\0" + grown),
        "iTXt": chunk(b"iTXt", b"a\0\1\0\0\0" + grown),
        "iCCP": chunk(b"iCCP", b"a\0\0" + grown),
        "iCCP junk": chunk(b"iCCP", b"a\0\0junk"),
        "eXIf junk": chunk(b"eXIf", case.rng.randbytes(60)),
        "eXIf": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        "gAMA": chunk(b"gAMA", b"\0"),
        "tRNS": chunk(b"tRNS", b"\0"),
        "PLTE": chunk(b"PLTE", b"\0"),
        "acTL": chunk(b"acTL", struct.pack(">II", 0, 0)),
        "acTL many": chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)),
        "fcTL": chunk(b"fcTL", bytes(26)),
        "pHYs": chunk(b"pHYs", b""),
        "cHRM": chunk(b"cHRM", b"\0" * 3),
        "IHDR twice": chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)),
        "unknown": chunk(b"abCd", b"x" * 1000),
    }
    name = case.rng.choice(sorted(chunks))
    rows = b"".join(b"\0" + case.rng.randbytes(3 * SIZE) for _ in range(SIZE))
    return f"PNG with {name}", png(SIZE, SIZE, 8, 2, rows, chunks[name])


def exif(case: Case) -> tuple[str, bytes]:
    """A JPEG whose EXIF is junk, or says an orientation that is none."""
    order, mark = case.rng.choice([(">", b"MM"), ("<", b"II")])
    kind, value = case.rng.choice(
        [(3, 0), (3, 1), (3, 6), (3, 8), (3, 9), (3, 65_535), (2, 5), (12, 3), (5, 2**31), (7, 6), (255, 6)]
    )
    left = order == ">" and value < 2**16  # where a value of two bytes lies in the field of four
    entry = struct.pack(order + "HHII", 0x0112, kind, case.rng.choice([1, 0, 2**31]), value << 16 if left else value)
    tables = {
        "orientation": mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4),
        "offset": mark + struct.pack(order + "HI", 42, 2**31),
        "loop": mark + struct.pack(order + "HIH", 42, 8, 0) + struct.pack(order + "I", 8),
        "many": mark + struct.pack(order + "HIH", 42, 8, 65_535) + entry * 3,
        "cut": mark + struct.pack(order + "HI", 42, 8) + b"\0",
        "random": case.rng.randbytes(80),
        "empty": b"",
    }
    name = case.rng.choice(sorted(tables))
    body = b"Exif\0\0" + tables[name]
    jpeg = saved(noise(case), "JPEG")
    return f"EXIF {name} {kind} {value}", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def beginnings(case: Case) -> tuple[str, bytes]:
    """The first bytes of formats whose readers start programs, or fail in their own ways; the rest is junk."""
    starts = {
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run\n",
        "EPS cut": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0",
        "EPS binary": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, 2**31) + bytes(22) + b"%!PS-Adobe-3.0\n",
        "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 64, 64, 0) + bytes(6) + b"\x01\x00\t\0",
        "EMF": b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(100),
        "DDS": b"DDS " + struct.pack("<I", 124) + case.rng.randbytes(120),
        "DDS DXT": b"DDS " + struct.pack("<IIIIIII44xII4s", 124, 0x1007, 64, 64, 0, 0, 0, 32, 4, b"DXT5") + bytes(300),
        "BLP": b"BLP2" + struct.pack("<iBBBB", 1, 2, 8, 7, 0) + struct.pack("<II", 64, 64) + bytes(100),
        "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                   99".ljust(80),
        "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 60_000, 64, 64, 8, 3) + bytes(60),
        "TIFF": b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + case.rng.randbytes(36),
        "JPEG2000": b"\xff\x4f\xff\x51" + case.rng.randbytes(80),
        "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + case.rng.randbytes(60),
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + case.rng.randbytes(60),
        "WEBP": b"RIFF\xff\xff\xff\xffWEBPVP8L" + case.rng.randbytes(60),
        "GIF": b"GIF89a\0\0\0\0\xf7\0\0" + bytes(780),
        "ICNS": b"icns\0\0\xff\xffic09" + case.rng.randbytes(60),
        "IM": b"Image type: RGB\r\nImage size (x*y): 9*9\r\n".ljust(512, b"\0") + b"\x1a",
        "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(256),
        "SUN": b"\x59\xa6\x6a\x95" + case.rng.randbytes(40),
        "XPM": b'/* XPM */\nstatic char *a[] = {\n"64 64 2 1",\n',
        "QOI": b"qoif" + struct.pack(">IIBB", 64, 64, 3, 0),
        "HTML": b"<!doctype html><title>404</title>",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    name = case.rng.choice(sorted(starts))
    return f"begins as {name}", starts[name]


def spoiled(case: Case) -> tuple[str, bytes]:
    """The bytes of a good file, spoiled."""
    path = case.folder / "spoiled"
    path.write_bytes(saved(noise(case), case.rng.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])))
    spoil_bytes(case, path)
    content = path.read_bytes()
    path.unlink()
    return "bytes", content


CONTENTS: list[Callable[[Case], tuple[str, bytes]]] = [of_any_format, of_any_format, animated, extreme, pretended]
CONTENTS += [sixteen_bit, odd_chunks, exif, exif, beginnings, beginnings, spoiled, spoiled, spoiled]


# --- where they lie -----------------------------------------------------------------------------------------------


def place(case: Case) -> Path:
    """An image of one of the programs' inputs, copied; the program is set to read it."""
    reader = case.rng.choices(
        ["own", "own folder", "demo", "train", "netdissect", "check", "build"], [6, 2, 3, 2, 4, 1, 1]
    )[0]
    case.note(reader)
    if reader in ("own", "own folder"):
        folder = case.copy("photos")
        files = sorted(folder.iterdir())
        chosen = [str(folder)] if reader == "own folder" else [str(file) for file in files]
        case.demo("--image", *chosen, own=True)
        case.expect = OTHERS_SAME
        return files[0]
    if reader in ("demo", "train"):
        tree = case.copy(TREE)
        if reader == "demo":
            case.demo(tree=tree)
            case.expect = OTHERS_SAME
            return tree / "val/bakery-shop/00000000.jpg"  # image 0
        case.train(tree=tree)
        return tree / case.rng.choice(["train/beach", "val/tundra"]) / "00000000.jpg"
    if reader == "build":
        recipe = case.copy("recipe")
        case.build(recipe)
        return recipe / "images/p0.png"
    folder = case.copy("broden")
    if reader == "check":
        case.check(folder)
    else:
        case.dissect(broden=folder)
    return folder / "images/p0.png"


@mutation("image", 8)
def image_content(case: Case) -> None:
    path = place(case)
    name, content = case.rng.choice(CONTENTS)(case)
    case.note(name)
    replace_bytes(path, content)
    case.touched.add(path.name)


@mutation("image")
def image_spoiled_in_place(case: Case) -> None:
    path = place(case)
    spoil_bytes(case, path)
    case.touched.add(path.name)


@mutation("image")
def image_equivalent(case: Case) -> None:
    """The same pixels in another format, under the old name."""
    path = place(case)
    kind = case.rng.choice(["PNG", "PNG", "BMP", "TIFF", "PPM", "WEBP"])
    with Image.open(path) as image:
        content = saved(image.convert("RGB"), kind, **({"lossless": True} if kind == "WEBP" else {}))
    case.note(kind)
    replace_bytes(path, content)
    if case.program in ("train", "demo", "netdissect"):
        case.expect = SAME if kind == "PNG" else SAME_OR_REFUSED


@mutation("image")
def image_strange_file(case: Case) -> None:
    path = place(case)
    listed = case.program == "train" or path.parent.name == "bakery-shop"
    kind = strange_file(case, path)
    if kind == "link":
        case.expect = SAME if case.program in ("train", "demo", "netdissect") else ANY
    elif case.program == "demo" and (listed or kind in ("missing", "folder")):
        case.expect = ANY  # what is not an image is not counted; a folder that was named must have images
    case.touched.add(path.name)


@mutation("image", 2)
def image_strange_name(case: Case) -> None:
    """Names that are hostile where they are shown or parsed."""
    folder = case.copy("photos")
    first = sorted(folder.iterdir())[0]
    name = case.rng.choice(STRANGE_NAMES).replace("/", "_") + case.rng.choice(
        [".jpg", ".JPG", ".jpeg", "", ".png", ".gif"]
    )
    case.note(name)
    target = folder / name
    try:
        first.rename(target)
    except OSError:
        target = first
    if case.rng.random() < 0.3:
        target.write_bytes(b"no image")
    case.demo("--image", str(target if case.rng.random() < 0.5 else folder), own=True)


@mutation("image")
def image_patterns(case: Case) -> None:
    """Patterns, folders and links that lead to the same file: it is explained once."""
    folder = case.copy("photos")
    (folder / "loop").symlink_to(folder)
    (folder / "again.jpg").symlink_to(folder / "00000000.jpg")
    (folder / "deep").mkdir()
    (folder / "deep/up").symlink_to(folder.parent)
    given = case.rng.choice(
        [
            [str(folder)],
            [str(folder / "**/*.jpg")],
            [str(folder / "*.jpg"), str(folder)],
            [str(folder / "00000000.jpg")] * 3 + [str(folder / "00000001.jpg")],
            [str(folder / "loop/loop/00000000.jpg"), str(folder / "00000001.jpg"), str(folder / "00000000.jpg")],
            [str(folder / "deep/../*.jpg"), str(folder / "*.jpg")],
        ]
    )
    case.note(*[Path(text).name for text in given])
    case.demo("--image", *given, own=True)
    case.expect = OTHERS_SAME
