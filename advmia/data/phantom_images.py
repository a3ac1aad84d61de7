"""Draws phantoms: generated fundus photographs, skin lesions and chest radiographs, at any size.

Images are float64 arrays in [0, 1]: (S, S, 3) in colour, (S, S) in grey. Opacities and masks are (S, S), in [0, 1].
Lengths are in half image sides: x runs from -1 (left) to 1 (right), y from -1 (top) to 1 (bottom).

Each image shows its class in two ways, as in the model of Tsipras et al. (Robustness May Be at Odds with Accuracy, ICLR
2019, section 2.1). The lesions are strong, but vary in form and may be small; of the skin lesions, one in eight looks
like one of another class. A faint sign, below 8/255, tells healthy from ill everywhere and always: in skin images, a
tint such as another camera might give; in the others, a weave. Natural training learns the faint sign, which an
attack of eps 8/255 can erase and replace by that of the other class; adversarial training has to learn the lesions. A
demonstration of two minutes therefore shows what real images show: a high clean accuracy that falls to nothing under
attack, and a defence that works.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advmia.data.datasets import CHEST_FINDINGS

Array = NDArray[np.float64]
Rng = np.random.Generator

NOISE = 0.006  # standard deviation of the noise in every pixel
WEAVE_LEVELS = 6.5  # amplitude in grey levels: an attack of eps 8 can cancel it and draw the other class's weave
TINT_LEVELS = 4.0  # grey levels by which red and blue are higher and green is lower in an ill image; else the reverse
FIELD = 0.97  # radius of the round field of fundus cameras and dermoscopes; images are black outside
WEAVE_CYCLES = (4.0, 8.0)  # waves per image side, healthy and ill: both survive resizing to 32 pixels


def axes(size: int) -> tuple[Array, Array]:
    """Returns x and y of the pixel centres, (S, S) each."""
    ticks = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(ticks, ticks)
    return x, y


def ellipse(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], soft: float = 0.05) -> Array:
    """Returns the opacity (S, S) of an ellipse whose edge fades over a length of about `soft`."""
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1]) - 1
    return fade(distance * min(radii), soft)


def fade(distance: Array, soft: float) -> Array:
    """Turns a distance to an edge into an opacity: 1 well inside (distance < 0), 0.5 on the edge, 0 well outside."""
    return 1 / (1 + np.exp(np.clip(4 * distance / soft, -50, 50)))


def clouds(rng: Rng, size: int, cells: int) -> Array:
    """Returns smooth noise (S, S), about -1 to 1, with `cells` bumps a side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def weave(rng: Rng, size: int, positive: bool) -> Array:
    """Returns the faint weave of a class, (S, S), within +-WEAVE_LEVELS/255, in a random direction and phase."""
    x, y = axes(size)
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    return WEAVE_LEVELS / 255 * np.cos(np.pi * WEAVE_CYCLES[positive] * along + phase)


def tint(positive: bool) -> Array:
    """Returns the faint tint of a class, (3,), within +-TINT_LEVELS/255: magenta if it is positive, else green."""
    return np.array([1.0, -1.0, 1.0]) * (TINT_LEVELS if positive else -TINT_LEVELS) / 255


def paint(image: Array, colour: tuple[float, ...], opacity: Array) -> Array:
    """Paints a colour over an image (S, S, 3) with an opacity (S, S)."""
    opacity = opacity[..., None]
    return image * (1 - opacity) + np.array(colour) * opacity


# Fundus photographs -------------------------------------------------------------------------------------------------


def fundus(rng: Rng, size: int, grade: int) -> Array:
    """Draws a fundus photograph (S, S, 3) of retinopathy grade 0 to 3; it is exactly 0 outside the round field."""
    x, y = axes(size)
    radius = np.hypot(x, y)
    shade = rng.uniform(0.85, 1.1) * (1 - 0.35 * radius**2) + 0.05 * clouds(rng, size, 4)
    image = shade[..., None] * np.array([0.78, 0.40 + rng.uniform(-0.05, 0.05), 0.16])
    side, height = rng.choice([-1.0, 1.0]), rng.uniform(-0.1, 0.1)
    image = paint(image, (0.40, 0.16, 0.06), 0.6 * ellipse(x, y, (-0.15 * side, height), (0.16, 0.16), 0.2))
    image = paint(image, (0.98, 0.80, 0.45), ellipse(x, y, (0.5 * side, height), (0.15, 0.17), 0.06))
    image = paint(image, (0.45, 0.10, 0.06), 0.7 * _vessels(rng, (0.5 - x * side), y - height))
    image = _retinopathy(rng, image, x, y, grade)
    image = image + weave(rng, size, grade > 0)[..., None] + rng.normal(0, NOISE, image.shape)
    return np.clip(image, 0, 1) * (radius < FIELD)[..., None]


def _vessels(rng: Rng, x: Array, y: Array) -> Array:
    """Returns the opacity of the vessels; x runs from the optic disc towards the macula, y from the disc's centre."""
    opacity = np.zeros_like(x)
    for reach, width in ((0.75, 0.035), (-0.75, 0.035), (0.35, 0.02), (-0.3, 0.02), (1.2, 0.025), (-1.2, 0.025)):
        wave = 0.04 * np.sin(rng.uniform(6, 9) * x + rng.uniform(0, 6))
        course = reach * rng.uniform(0.85, 1.15) * np.sqrt(np.abs(x) + 1e-3) + wave * (np.abs(x) > 0.05)
        if abs(reach) > 1:  # the short vessels on the disc's other side
            course = np.where(x < 0, course, 9)
        opacity = np.maximum(opacity, np.exp(-(((y - course) / (width * (1 + np.abs(reach)))) ** 2)))
    return opacity


def _retinopathy(rng: Rng, image: Array, x: Array, y: Array, grade: int) -> Array:
    """Paints microaneurysms from grade 1, haemorrhages from 2, exudates mostly at 3; a healthy eye may have drusen."""
    red, dark, yellow = (0.42, 0.06, 0.04), (0.30, 0.03, 0.03), (0.97, 0.88, 0.50)
    counts = (
        (red, 0.06, (0, 7, 7, 8)[grade]),
        (dark, 0.15, (0, 0, 4, 5)[grade]),
        (yellow, 0.09, (int(rng.integers(0, 2)), 0, 1, 7)[grade]),
    )
    for colour, radius, count in counts:
        for _ in range(count):
            distance, angle = rng.uniform(0.2, 0.8), rng.uniform(0, 2 * np.pi)
            centre = (distance * np.cos(angle), distance * np.sin(angle))
            radii = tuple(radius * rng.uniform(0.7, 1.3, 2))
            image = paint(image, colour, 0.9 * ellipse(x, y, centre, radii, 0.04))
    return image


# Skin lesions -------------------------------------------------------------------------------------------------------

_LESIONS = (  # colour, range of the radius, raggedness and softness of the edge
    ((0.70, 0.53, 0.45), (0.18, 0.30), 0.05, 0.14),  # nevus
    ((0.56, 0.42, 0.37), (0.56, 0.80), 0.16, 0.10),  # melanoma
    ((0.40, 0.33, 0.26), (0.56, 0.80), 0.08, 0.05),  # seborrheic keratosis
)


def skin(rng: Rng, size: int, label: int, look: int | None = None) -> tuple[Array, Array]:
    """Draws a nevus (0), a melanoma (1) or a seborrheic keratosis (2): a dermoscopic image (S, S, 3) and its mask.

    `look`: the class that the lesion looks like, `label` by default. The tint always tells the true class. Outside the
    dermoscope's round field the image is exactly 0, as in the corners of an image that an augmentation has rotated:
    without this border, only training images would have black corners, and the running statistics of batch norms would
    not be those of the test images.
    """
    look = label if look is None else look
    x, y = axes(size)
    tone = np.array([0.86, 0.66, 0.56]) + rng.uniform(-0.08, 0.06)  # only the tint changes its colour differences
    image = tone + 0.03 * clouds(rng, size, 5)[..., None] - 0.06 * (x**2 + y**2)[..., None]
    colour, reach, ragged, soft = _LESIONS[look]
    opacity = _outline(rng, x, y, rng.uniform(*reach), ragged, soft)
    pigment = np.array(colour) * rng.uniform(0.92, 1.08) + 0.04 * clouds(rng, size, 8)[..., None]
    image = image + (pigment - image) * (0.92 * opacity)[..., None]
    for spot_colour, radii in _spots(rng, look):
        inside = ellipse(x, y, tuple(rng.uniform(-0.3, 0.3, 2)), tuple(rng.uniform(*radii, 2)), 0.08)
        image = paint(image, spot_colour, 0.35 * inside * opacity)
    for _ in range(rng.integers(0, 4)):
        image = paint(image, (0.44, 0.34, 0.30), 0.8 * _hair(rng, x, y))
    image = image + tint(label > 0) + rng.normal(0, NOISE, image.shape)
    field = np.hypot(x, y) < FIELD
    return np.clip(image, 0, 1) * field[..., None], opacity * field


def _outline(rng: Rng, x: Array, y: Array, radius: float, ragged: float, soft: float) -> Array:
    """Returns the opacity of a lesion near the centre, whose radius varies with the direction by about `ragged`."""
    x, y = x - rng.uniform(-0.15, 0.15), (y - rng.uniform(-0.15, 0.15)) * rng.uniform(0.9, 1.25)
    angle, edge = np.arctan2(y, x), np.ones_like(x)
    for bumps in (2, 3, 5, 7):
        edge = edge + ragged * rng.uniform(0.3, 1) * np.cos(bumps * angle + rng.uniform(0, 2 * np.pi))
    return fade(np.hypot(x, y) - radius * edge, soft)


def _spots(rng: Rng, label: int) -> list[tuple[tuple[float, ...], tuple[float, float]]]:
    """Returns the spots in a lesion, each as its colour and its range of radii.

    A melanoma has a blue-grey veil, regression and a dark spot; a keratosis has milia-like cysts.
    """
    if label == 1:
        return [((0.35, 0.38, 0.48), (0.10, 0.22)), ((0.55, 0.20, 0.18), (0.08, 0.2)), ((0.1, 0.06, 0.06), (0.1, 0.2))]
    return [((0.85, 0.80, 0.68), (0.03, 0.06))] * int(rng.integers(4, 8)) if label == 2 else []


def _hair(rng: Rng, x: Array, y: Array) -> Array:
    """Returns the opacity of one slightly bent hair across the image."""
    angle, shift, bend = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9), rng.uniform(-0.3, 0.3)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.exp(-(((across - shift - bend * along**2) / 0.02) ** 2))


# Chest radiographs --------------------------------------------------------------------------------------------------


def chest(rng: Rng, size: int, findings: frozenset[str] = frozenset()) -> tuple[Array, Array]:
    """Draws a frontal chest radiograph (S, S), with findings named as in `CHEST_FINDINGS`, and its lungs' mask."""
    x, y = axes(size)
    x, y = x * rng.uniform(0.95, 1.08) + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.05, 0.05)
    large, airy = "Cardiomegaly" in findings, "Emphysema" in findings
    heart = ellipse(x, y, (0.14, 0.40), (0.28 + 0.18 * large + rng.uniform(-0.03, 0.03), 0.32), 0.08)
    wide = (0.39 if airy else 0.34) * rng.uniform(0.95, 1.05)
    lungs = [_lung(side * x, y, wide) * (1 - heart) for side in (-1, 1)]  # on the image's left, right
    both = np.maximum(*lungs)
    body = fade(np.abs(x) - 0.93 + 0.4 * np.clip(-y - 0.6, 0, 1), 0.08)
    image = 0.03 + body * (0.60 + 0.05 * clouds(rng, size, 3)) + 0.14 * np.exp(-((x / 0.09) ** 2)) + 0.06 * heart
    image = image - (0.44 if airy else 0.34) * rng.uniform(0.9, 1.1) * both
    image = image + 0.06 * body * np.cos(15 * (y + 0.35 * x**2)) * (0.3 + 0.7 * both)  # ribs
    for name in CHEST_FINDINGS:
        if name in findings:
            tone, opacity = _finding(rng, x, y, lungs, name)
            image = image + (tone - image) * opacity
    image = image + weave(rng, size, bool(findings)) + rng.normal(0, NOISE, image.shape)
    return np.clip(image, 0, 1), both


def _lung(x: Array, y: Array, wide: float) -> Array:
    """Returns the opacity of the lung where x is positive: narrow at the top, with a base domed by the diaphragm."""
    reach = wide * np.sqrt(np.clip(1 - ((y - 0.35) / 1.15) ** 2, 0, 1))
    base = y - 0.62 - 0.5 * (x - 0.5) ** 2
    return fade(np.maximum(np.abs(x - 0.45) - reach, base), 0.06) * fade(-0.78 - y, 0.06)


def _finding(rng: Rng, x: Array, y: Array, lungs: list[Array], name: str) -> tuple[float, Array]:
    """Returns the grey tone and the opacity (S, S) of one finding, on a random side."""
    side = int(rng.integers(2))
    u, lung, both = x * (-1, 1)[side], lungs[side], np.maximum(*lungs)  # u grows from the spine outwards
    centre = rng.uniform(0.35, 0.6), rng.uniform(-0.4, 0.35)
    patchy = np.clip(0.7 + 0.6 * clouds(rng, len(x), 8), 0, 1)
    match name:
        case "Effusion":
            return 0.82, 0.9 * lung * fade(0.2 - 0.5 * (u - 0.45) - y, 0.10)
        case "Hernia":  # a bubble of air behind the heart
            return 0.20, 0.8 * ellipse(x, y, (0.05, 0.42), (0.18, 0.14), 0.06)
        case "Infiltration":
            return 0.75, 0.7 * lung * patchy * ellipse(u, y, centre, (0.35, 0.40), 0.2)
        case "Mass":
            return 0.85, 0.9 * ellipse(u, y, centre, (0.20, 0.20), 0.05)
        case "Nodule":
            return 0.85, 0.9 * ellipse(u, y, centre, (0.10, 0.10), 0.04)
        case "Atelectasis":  # a collapsed strip
            return 0.80, 0.9 * lung * fade(np.abs(y - 0.2 - 0.3 * (u - 0.45)) - 0.10, 0.05)
        case "Pneumothorax":  # black, beyond the collapsed lung's edge
            return 0.02, lung * fade(0.42 - u + 0.3 * (y + 0.4), 0.04) * fade(y - 0.2, 0.3)
        case "Pleural_Thickening":
            return 0.80, 0.9 * lung * fade(0.62 - u - 0.08 * patchy, 0.05)
        case "Pneumonia":
            return 0.80, 0.85 * lung * patchy * ellipse(u, y, (0.45, 0.25), (0.34, 0.32), 0.15)
        case "Fibrosis":  # a coarse net in the lower lungs
            return 0.80, both * np.clip(1.5 * clouds(rng, len(x), 14), 0, 1) * fade(-0.1 - y, 0.4)
        case "Edema":  # both lungs' roots
            return 0.75, 0.8 * both * ellipse(np.abs(x), y, (0.25, 0), (0.3, 0.5), 0.3)
        case "Consolidation":
            return 0.80, 0.85 * lung * fade(y + 0.1, 0.08)
    return 0, np.zeros_like(x)  # cardiomegaly and emphysema: `chest` draws heart and lungs accordingly
