"""Label maps: in a Broden folder and as `build` takes them."""

from pathlib import Path

import numpy as np
from cases import ANY, REFUSED, SAME, SAME_OR_REFUSED, Case, mutation, replace_bytes, spoil_bytes, strange_file
from PIL import Image

from mutations.pixels import CONTENTS, chunk, png, saved


def label_map(case: Case) -> tuple[Path, np.ndarray]:
    """A label map of a copy of the Broden folder, and its pixels (sh, sw, 3)."""
    folder = case.copy("broden")
    path = folder / "images/p0_object_0.png"
    if case.rng.random() < 0.8:
        case.dissect(broden=folder)
    else:
        case.check(folder)
    with Image.open(path) as image:
        return path, np.asarray(image)


@mutation("label map", 4)
def map_recoded(case: Case) -> None:
    """The same labels in another mode, depth, size or format."""
    path, pixels = label_map(case)
    size = pixels.shape[0]
    image = Image.fromarray(pixels)
    rows16 = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    high16 = b"".join(b"\0" + (row.astype(">u2") * 256).astype(">u2").tobytes() for row in pixels)
    rows8 = b"".join(b"\0" + row.tobytes() for row in pixels)
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    clear = np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])
    contents = {
        "RGBA": (saved(Image.fromarray(opaque), "PNG"), SAME),
        "RGBA, transparent": (saved(Image.fromarray(clear), "PNG"), ANY),
        "text chunks": (png(size, size, 8, 2, rows8, chunk(b"tEXt", b"a\0b")), SAME),
        "gamma": (png(size, size, 8, 2, rows8, chunk(b"gAMA", b"\0\0\xff\xff")), SAME),
        "16 bit": (png(size, size, 16, 2, rows16), SAME_OR_REFUSED),
        "16 bit, high": (png(size, size, 16, 2, high16), SAME_OR_REFUSED),
        "JPEG": (saved(image, "JPEG"), REFUSED),
        "WEBP, lossy": (saved(image, "WEBP", quality=50), REFUSED),
        "BMP": (saved(image, "BMP"), SAME_OR_REFUSED),
        "TIFF": (saved(image, "TIFF"), SAME_OR_REFUSED),
        "WEBP, lossless": (saved(image, "WEBP", lossless=True), SAME_OR_REFUSED),
        "GIF": (saved(image, "GIF"), REFUSED),
        "palette": (saved(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), SAME_OR_REFUSED),
        "grey": (saved(Image.fromarray(pixels[..., 0]), "PNG"), SAME_OR_REFUSED),
        "grey, 16 bit": (saved(Image.fromarray(pixels[..., 0].astype(np.uint16)), "PNG"), SAME_OR_REFUSED),
        "1 bit": (saved(image.convert("1"), "PNG"), REFUSED),
        "CMYK": (saved(image.convert("CMYK"), "TIFF"), REFUSED),
        "two frames": (saved(image, "PNG", save_all=True, append_images=[Image.fromarray(pixels[::-1])]), ANY),
        "half": (saved(image.resize((size // 2, size // 2)), "PNG"), REFUSED),
        "one row more": (saved(Image.fromarray(np.vstack([pixels, pixels[:1]])), "PNG"), REFUSED),
        "other shape": (saved(Image.fromarray(pixels.reshape(size * 2, size // 2, 3)), "PNG"), REFUSED),
        "one pixel": (saved(image.crop((0, 0, 1, 1)), "PNG"), REFUSED),
        "large": (saved(Image.new("RGB", (6000, 6000)), "PNG"), REFUSED),
    }
    name = case.rng.choice(sorted(contents))
    case.note(name)
    content, expect = contents[name]
    replace_bytes(path, content)
    case.expect = expect if case.program == "netdissect" else ANY


@mutation("label map", 2)
def map_labels(case: Case) -> None:
    """Labels that label.csv lacks, or of another category."""
    path, pixels = label_map(case)
    changed = pixels.copy()
    value = case.rng.choice(
        [(3, 0, 0), (255, 255, 255), (0, 255, 0), (44, 1, 0), (0, 0, 7), (45, 1, 0), (1, 0, 9), (0, 1, 0)]
    )
    if case.rng.random() < 0.7:
        changed[case.rng.randrange(32), case.rng.randrange(32)] = value
    else:
        changed[:] = value
    case.note(value)
    replace_bytes(path, saved(Image.fromarray(changed), "PNG"))
    unknown = value[0] + 256 * value[1] > 300
    case.expect = REFUSED if unknown and case.program == "netdissect" else ANY


@mutation("label map", 2)
def map_bytes(case: Case) -> None:
    spoil_bytes(case, label_map(case)[0])


@mutation("label map")
def map_content(case: Case) -> None:
    path, _ = label_map(case)
    name, content = case.rng.choice(CONTENTS)(case)
    case.note(name)
    replace_bytes(path, content)


@mutation("label map")
def map_strange_file(case: Case) -> None:
    path, _ = label_map(case)
    kind = strange_file(case, path)
    if case.program == "netdissect":
        case.expect = SAME if kind == "link" else REFUSED


@mutation("label map", 2)
def build_inputs(case: Case) -> None:
    """What `build` reads: maps of integers, names, and folders that do not agree."""
    recipe = case.copy("recipe")
    case.build(recipe)
    path = recipe / "labels/p0.png"
    numbers = np.asarray(Image.open(path)).copy()
    names = recipe / "names.csv"
    ways = {
        "16 bit": lambda: replace_bytes(path, saved(Image.fromarray(numbers.astype(np.uint16)), "PNG")),
        "unknown": lambda: replace_bytes(path, saved(Image.fromarray(numbers + 9), "PNG")),
        "RGB": lambda: replace_bytes(path, saved(Image.fromarray(numbers).convert("RGB"), "PNG")),
        "JPEG": lambda: replace_bytes(path, saved(Image.fromarray(numbers), "JPEG")),
        "32 bit": lambda: replace_bytes(path, saved(Image.fromarray(numbers.astype(np.int32) - 5), "TIFF")),
        "map missing": path.unlink,
        "image missing": (recipe / "images/p0.png").unlink,
        "no images": lambda: [file.unlink() for file in (recipe / "images").iterdir()],
        "same stem": lambda: (recipe / "images/p0.jpg").write_bytes((recipe / "images/p0.png").read_bytes()),
        "names empty": lambda: names.write_text(""),
        "names twice": lambda: names.write_text("number,name,category\n1,a,object\n1,b,object\n"),
        "names number": lambda: names.write_text(
            f"number,name,category\n{case.rng.choice(['0', '-1', 'x', '65536', '1.5', '9' * 40])},a,object\n"
        ),
        "names category": lambda: names.write_text(
            f"number,name,category\n1,a,{case.rng.choice(['../x', '', 'a' * 99, '/', 'index', '$x$'])}\n"
        ),
        "names control": lambda: names.write_text("number,name,category\n1,\x1b[31mred,object\n2,sea,object\n"),
        "names bytes": lambda: spoil_bytes(case, names),
        "map bytes": lambda: spoil_bytes(case, path),
        "image bytes": lambda: spoil_bytes(case, recipe / "images/p0.png"),
        "map file": lambda: strange_file(case, path),
        "names file": lambda: strange_file(case, names),
        "output there": lambda: (case.folder / "out").mkdir(),
        "output link": lambda: (case.folder / "out").symlink_to(case.ground.outside),
        "output in a file": lambda: case.argv.__setitem__(-1, str(names / "out")),
        "output in the images": lambda: case.argv.__setitem__(-1, str(recipe / "images/out")),
        "image of a strange name": lambda: (recipe / "images/p0.png").rename(recipe / "images/p;0,\x1b.png"),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    ways[name]()
