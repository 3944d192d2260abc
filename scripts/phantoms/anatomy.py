"""A torso as formulas: which tissue and which organ lies at a place, in the patient's own frame.

The frame is RAS millimetres: x to the patient's right, y to the front, z to the head, the origin between the lungs'
lower ends. Numbers are an average adult's; every organ has its own random place and size. Layers are painted in order,
so that what comes later covers what came before, in the picture and in the truth alike.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bool = NDArray[np.bool_]

LABELS: Mapping[str, int] = {
    "liver": 1,
    "spleen": 2,
    "right_kidney": 3,
    "left_kidney": 4,
    "aorta": 5,
    "spine": 6,
    "right_lung": 7,
    "left_lung": 8,
}

RIGHT, LEFT = 1, -1
_SIDES = {"right": RIGHT, "left": LEFT}


@dataclass(frozen=True)
class Layer:
    """One thing to paint. `structure` is its name in LABELS, or "" for what has no label."""

    tissue: str
    structure: str
    mask: Bool


@dataclass(frozen=True)
class Place:
    """Where one organ lies in this patient against the average: shift (3,) in mm, scale (3,)."""

    shift: Array
    scale: Array


class Torso:
    """The organs of one patient at given places. Draw the layers once: each organ's place comes from `rng`.

    position: (3, I, J, K) mm. organ_shift (mm) and organ_scale (a factor) are standard deviations between patients.
    """

    def __init__(self, position: Array, rng: np.random.Generator, organ_shift: float, organ_scale: float) -> None:
        self._x, self._y, self._z = position
        self._rng = rng
        self._organ_shift = organ_shift
        self._organ_scale = organ_scale
        wall = rng.uniform(0.80, 0.90)  # the rest is fat under the skin
        self._outline = self._ellipsoid((0, 0, 0), (165, 112, 900), power=2.5)
        self._wall = self._ellipsoid((0, 0, 0), (165 * wall, 112 * wall, 900), power=2.5)
        self._cavity = self._ellipsoid((0, 6, 0), (165 * wall - 14, 112 * wall - 14, 900), power=2.5)
        # The diaphragm is a dome on each side: lungs end hollow on it, liver and spleen round below it
        self._domes = {RIGHT: self._dome(RIGHT, 68, 28), LEFT: self._dome(LEFT, 72, 20)}
        self._above = self._z > np.maximum(self._domes[RIGHT], self._domes[LEFT])

    def layers(self) -> Iterator[Layer]:
        """Everything in painting order; voxels in no layer are air."""
        yield Layer("fat", "", self._outline)
        yield Layer("muscle", "", self._wall)
        yield Layer("fat", "", self._cavity)
        yield from self._chest()
        yield from self._bowel()
        yield from self._upper_abdomen()
        yield from self._kidneys()
        yield from self._vessels()
        yield from self._bones()

    def _chest(self) -> Iterator[Layer]:
        inside = self._cavity & self._above
        for name, side in _SIDES.items():
            yield Layer("lung", f"{name}_lung", inside & (side * self._x > 22))
        heart = self._ellipsoid((-22, 28, 66), (50, 44, 52), place=self._place())
        yield Layer("heart", "", heart & inside)

    def _bowel(self) -> Iterator[Layer]:
        """Loops in the lower abdomen, some filled with gas: the clutter that real scans have."""
        room = self._cavity & (self._z < -30) & (self._y > -30)
        for _ in range(14):
            centre = (self._rng.uniform(-110, 110), self._rng.uniform(-10, 70), self._rng.uniform(-150, -45))
            radii = tuple(self._rng.uniform(12, 30, 3))
            tissue = "gas" if self._rng.uniform() < 0.3 else "bowel"
            yield Layer(tissue, "", self._ellipsoid(centre, radii) & room)

    def _upper_abdomen(self) -> Iterator[Layer]:
        under_left = self._cavity & (self._z < self._domes[LEFT] - 4)
        stomach = self._ellipsoid((-60, 32, -24), (42, 36, 46), lean=0.3, place=self._place())
        yield Layer("stomach", "", stomach & under_left)
        place = self._place()
        liver = self._ellipsoid((72, 14, -28), (84, 82, 80), lean=0.1, place=place)
        liver |= self._ellipsoid((2, 44, -4), (78, 36, 36), lean=-0.2, place=place)
        liver &= self._cavity & (self._z < np.maximum(self._domes[RIGHT], self._domes[LEFT]) - 4)
        yield Layer("liver", "liver", liver)
        spleen = self._ellipsoid((-106, -36, -18), (32, 46, 52), lean=0.2, place=self._place())
        yield Layer("spleen", "spleen", spleen & under_left)

    def _kidneys(self) -> Iterator[Layer]:
        for name, side in _SIDES.items():
            place = self._place()
            height = -80 if side == RIGHT else -68
            bean = self._ellipsoid((64 * side, -50, height), (30, 26, 56), lean=-0.25 * side, place=place)
            hilum = self._ellipsoid((36 * side, -42, height), (22, 16, 24), place=place)
            pelvis = self._ellipsoid((56 * side, -48, height), (12, 10, 28), lean=-0.25 * side, place=place)
            bean &= ~hilum & self._cavity
            yield Layer("kidney", f"{name}_kidney", bean)
            yield Layer("pelvis", f"{name}_kidney", bean & pelvis)

    def _vessels(self) -> Iterator[Layer]:
        wave = np.sin(self._z / 65 + self._rng.uniform(0, 2 * np.pi))
        radius = 12.5 * np.exp(self._rng.normal(0, self._organ_scale))
        yield Layer("vessel", "", self._tube(20 - 3 * wave, -26, 12) & (self._z < 40))
        yield Layer("vessel", "aorta", self._tube(-13 + 4 * wave, -32, radius))

    def _bones(self) -> Iterator[Layer]:
        x, y, z = self._x, self._y, self._z
        disc = (z + self._rng.uniform(0, 34)) % 34 < 8
        column = self._tube(0, -66, 22)
        arch = self._tube(0, -92, 17) | ((np.abs(x) < 5) & (y < -95) & (y > -120))
        arch |= (np.abs(x) < 40) & (np.abs(y + 90) < 5)
        ribs = self._wall & ~self._cavity & ((z + 0.3 * np.abs(x) - 0.3 * y) % 30 < 9) & (z > -80)
        yield Layer("bone", "", ribs)
        yield Layer("bone", "spine", (column | (arch & ~disc)) & self._outline)
        yield Layer("disc", "spine", column & disc)
        yield Layer("canal", "", self._tube(0, -92, 9))

    def _place(self) -> Place:
        return Place(
            self._rng.normal(0, self._organ_shift, 3),
            np.exp(self._rng.normal(0, self._organ_scale, 3)),
        )

    def _dome(self, side: int, centre: float, height: float) -> Array:
        """Height of the diaphragm (mm) at every voxel's x and y."""
        top = height + self._rng.normal(0, self._organ_shift)
        return top - ((self._x - side * centre) / 11) ** 2 - (self._y / 10.5) ** 2

    def _ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, ...],
        *,
        lean: float = 0.0,
        power: float = 2.0,
        place: Place | None = None,
    ) -> Bool:
        """A (super)ellipsoid, radii in mm; `lean` moves it towards +x by so many mm for each mm upwards."""
        place = place or Place(np.zeros(3), np.ones(3))
        x = self._x - centre[0] - place.shift[0]
        y = self._y - centre[1] - place.shift[1]
        z = self._z - centre[2] - place.shift[2]
        rx, ry, rz = np.asarray(radii) * place.scale
        inside: Bool = np.abs((x - lean * z) / rx) ** power + np.abs(y / ry) ** power + np.abs(z / rz) ** power < 1
        return inside

    def _tube(self, x: Array | float, y: Array | float, radius: float) -> Bool:
        """A column along z around (x, y), which may differ from voxel to voxel."""
        inside: Bool = np.hypot(self._x - x, self._y - y) < radius
        return inside
