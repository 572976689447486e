"""Development: exposure, colour cast, blotches, vignette, blur and grain, as a camera adds them."""

import numpy as np
from PIL import Image, ImageFilter

from scenes import noise
from scenes.canvas import Canvas


def develop(canvas: Canvas) -> np.ndarray:
    """Turn the colours of a canvas into a (size, size, 3) uint8 image."""
    rng, size = canvas.rng, canvas.size
    colours = canvas.rgb
    blotches = noise.crop("wide", rng, (size, size))
    cast = rng.normal(0.0, 0.012, 3)
    exposure = rng.normal(1.0, 0.07)
    contrast = rng.normal(1.03, 0.08)
    at = np.linspace(-1.0, 1.0, size, dtype=np.float32) ** 2
    fall = 1.0 - np.float32(rng.uniform(0.0, 0.14)) * (at[None, :] + at[:, None])
    gain = fall * (exposure + 0.025 * blotches).astype(np.float32)
    tint = (contrast * (1.0 + cast)).astype(np.float32)
    shift = np.float32(0.5 * (1.0 - contrast))
    colours = colours * gain[..., None] * tint + shift
    image = Image.fromarray((np.clip(colours, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3) * size / 224))
    grain = noise.crop("grain", rng, (size, size)) * np.float32(rng.uniform(0.6, 1.9) ** 2)
    return np.clip(np.asarray(image, np.float32) + grain[..., None], 0.0, 255.0).astype(np.uint8)
