"""A pinhole camera that stands at the world's origin and looks along Z.

The world is measured in metres: X to the right, Y up from the ground, Z away from the viewer. Image coordinates are
shares of the image's width: x to the right and y down, both in 0..1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEAR = 0.2


@dataclass(frozen=True)
class Camera:
    """The viewpoint.

    Attributes:
        height: height of the eye above the ground in metres.
        horizon: image y of the horizon.
        centre: image x of the optical axis.
        focal: focal length in image widths.
        yaw: turn to the right in radians.
        tilt: roll of the camera in radians.
    """

    height: float
    horizon: float
    centre: float = 0.5
    focal: float = 1.0
    yaw: float = 0.0
    tilt: float = 0.0

    @cached_property
    def _turns(self) -> tuple[float, float, float, float]:
        cos, sin, cos_tilt, sin_tilt = (float(f(a)) for a in (self.yaw, self.tilt) for f in (np.cos, np.sin))
        return cos, sin, cos_tilt, sin_tilt

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project a polygon of (n, 3) world points to (m, 2) image points, clipped just in front of the eye."""
        cos, sin, cos_tilt, sin_tilt = self._turns
        x = cos * points[:, 0] - sin * points[:, 2]
        y = points[:, 1] - self.height
        z = sin * points[:, 0] + cos * points[:, 2]
        if z.min() < NEAR:
            x, y, z = clip_polygon(np.stack([x, y, z], axis=1), z - NEAR).T
        u = self.centre + self.focal * x / z - 0.5
        v = self.horizon - self.focal * y / z - 0.5
        placed = np.empty((len(u), 2))
        placed[:, 0] = cos_tilt * u - sin_tilt * v + 0.5
        placed[:, 1] = sin_tilt * u + cos_tilt * v + 0.5
        return placed

    def rays(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the world directions X, Y, Z of the pixels' centres, (size, size) float32 each."""
        cos, sin, cos_tilt, sin_tilt = self._turns
        at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        u, v = at[None, :], at[:, None]
        x = (cos_tilt * u + sin_tilt * v + (0.5 - self.centre)) / self.focal
        y = (self.horizon - 0.5 - (cos_tilt * v - sin_tilt * u)) / self.focal
        rays = (cos * x + sin, y, cos - sin * x)
        right, up, ahead = (np.ascontiguousarray(np.broadcast_to(ray, (size, size)), np.float32) for ray in rays)
        return right, up, ahead


def clip_polygon(points: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Clip a polygon (n, d) at a border; `inside` (n,) is the distance of its corners from it, negative beyond it."""
    kept = []
    for at in range(len(points)):
        here, there = points[at - 1], points[at]
        before, after = inside[at - 1], inside[at]
        if (before >= 0) != (after >= 0):
            kept.append(here + before / (before - after) * (there - here))
        if after >= 0:
            kept.append(there)
    return np.array(kept).reshape(-1, points.shape[1])
