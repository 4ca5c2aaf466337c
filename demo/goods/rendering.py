"""From a SKU and a view to a photograph and its ground truth.

The scene of a design is drawn once and kept (`_scene`); a specimen adds its own digits, cut of hide, wear, camera
and light. The mask is where the forged and the genuine scene differ before camera noise, so it needs no labels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageChops, ImageFilter

from demo.goods.camera import Picture, Shot, exposed, scuff, shot_of, through_lens
from demo.goods.design import Design, Grain, design_of
from demo.goods.families import FAMILIES, Family
from demo.goods.materials import MATERIALS
from demo.goods.materials.spectrum import TILE
from demo.goods.scenes import SCENES, Scene
from demo.goods.seeds import generator
from demo.goods.sheet import Sheet
from demo.goods.skus import CATEGORIES, Sku

CHANGED_LEVELS = 3  # of 255: a pixel that moved less is put back to the genuine one
_TURNS = {1: 0, 3: 2, 6: 1, 8: 3}  # quarter turns to the left, which a viewer undoes
REACH_PX = 2.5  # how far around a change, at 1024, the forged pixels are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A photograph, uint8 RGB [size, size, 3], and its changed pixels, bool [size, size], both upright.

    `orientation` is the EXIF number that the camera would write: how it was held.
    """

    image: Picture
    mask: npt.NDArray[np.bool_]
    orientation: int = 1


def render(
    sku: Sku, view: str, *, specimen: int, family: str | Family | None = None, strength: float = 1.0, size: int = 1024
) -> Rendering:
    """Photograph one view of one specimen, genuine or forged by a family: one of FAMILIES by name, or any other.

    The same arguments give the same pixels in every process. A forged specimen shares every nuisance with the
    genuine one of the same number. Raises ValueError for an unknown view or family, or a size below 64.
    """
    _check(sku, view, family, size)
    genuine = design_of(sku.category, sku.seed)
    forged = genuine
    forger = FAMILIES[family] if isinstance(family, str) else family
    if forger is not None and view in forger.views:
        forged = forger.forge(genuine, strength)
    shot = shot_of(sku.sku_id, view, specimen)
    scene = SCENES[sku.category][view]
    picture = _specimen(scene, genuine, shot, sku, specimen, size)
    if forged == genuine:
        unchanged = np.zeros((size, size), np.bool_)
        return Rendering(image=_photograph(picture, shot, size), mask=unchanged, orientation=shot.orientation)
    changed, mask = _kept(picture, _specimen(scene, forged, shot, sku, specimen, size), size)
    framed = np.asarray(through_lens(mask, shot, size)) > 127
    return Rendering(image=_photograph(changed, shot, size), mask=framed, orientation=shot.orientation)


def jpeg(image: Picture, *, quality: int = 90, orientation: int = 1) -> bytes:
    """Baseline JPEG of an upright uint8 RGB image, as a camera stores it that was held so (1, 3, 6 or 8 of EXIF)."""
    buffer = io.BytesIO()
    stored = Image.fromarray(np.rot90(image, _TURNS[orientation]), "RGB")
    exif = Image.Exif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = orientation
    stored.save(buffer, "JPEG", quality=quality, optimize=False, progressive=False, exif=exif)
    return buffer.getvalue()


def _check(sku: Sku, view: str, family: str | Family | None, size: int) -> None:
    if view not in CATEGORIES[sku.category]:
        raise ValueError(f"view {view!r} is not one of {', '.join(CATEGORIES[sku.category])}")
    if isinstance(family, str) and family not in FAMILIES:
        raise ValueError(f"family {family!r} is not one of {', '.join(FAMILIES)}")
    if size < 64:
        raise ValueError(f"size {size} is below 64 pixels")


def _photograph(picture: Image.Image, shot: Shot, size: int) -> Picture:
    scuff(picture, shot, size)
    return exposed(through_lens(picture, shot, size), shot, size)


def _specimen(scene: Scene, design: Design, shot: Shot, sku: Sku, specimen: int, size: int) -> Image.Image:
    """The sheet's picture of one specimen: its own cut of the material and its own number."""
    tiles = _shaded(scene.grain(design), design.seed, size, scene.zoom)
    picture = _grained(_scene(scene, design, size), tiles, shot)
    if scene.number is not None:
        sheet = Sheet(size, (0, 0, 0))
        sheet.rgb = picture
        scene.number(sheet, design, serial_text(design, sku, specimen))
    return picture


def serial_text(design: Design, sku: Sku, specimen: int) -> str:
    """The number of a specimen in its maker's format."""
    rng = generator("number", sku.sku_id, specimen)
    serial = design.serial
    groups = ["".join(str(int(d)) for d in rng.integers(0, 10, n)) for n in serial.groups]
    return serial.separator.join([serial.prefix, *groups])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A drawn scene without grain and number; read-only.

    `rgb` is uint8 [side, side, 3], `grain` int16 [side, side], `backdrop` int16 [side, side, 1] or None.
    """

    rgb: Picture
    grain: npt.NDArray[np.int16]
    backdrop: npt.NDArray[np.int16] | None


@lru_cache(maxsize=16)
def _scene(scene: Scene, design: Design, size: int) -> _Drawn:
    """The scene of a design, drawn once."""
    sheet = Sheet(size, (0, 0, 0))
    scene.draw(sheet, design)
    backdrop = None if sheet.backdrop is None else np.asarray(sheet.backdrop, np.int16)[..., None]
    return _Drawn(rgb=np.asarray(sheet.rgb), grain=np.asarray(sheet.grain, np.int16), backdrop=backdrop)


def _grained(drawn: _Drawn, tiles: npt.NDArray[np.int16], shot: Shot) -> Image.Image:
    """The drawn scene with this specimen's cut of the material and its backdrop."""
    side, period = drawn.grain.shape[0], tiles.shape[0] // 4
    top, left = (int(v * period) for v in shot.grain_at)
    gain = ((tiles[top : top + side, left : left + side] * drawn.grain) >> 8)[..., None] + np.int16(128)
    if drawn.backdrop is not None:
        colour = np.asarray([round(128 * v) - 128 for v in shot.backdrop], np.int16)
        gain = gain + ((drawn.backdrop * colour) >> 8)
    lit = np.multiply(drawn.rgb, gain.astype(np.uint16), dtype=np.uint16)
    lit >>= 7
    np.minimum(lit, 255, out=lit)
    return Image.fromarray(lit.astype(np.uint8), "RGB")


@lru_cache(maxsize=12)
def _shaded(grain: Grain, seed: int, size: int, zoom: float) -> npt.NDArray[np.int16]:
    """The light of a material around 0, in 128ths, at the scale of `size`: its tile of size / 2, four by four."""
    heights = MATERIALS[grain.material](seed, grain.scale * zoom)
    slope = heights - np.roll(heights, (2, 2), (0, 1))
    light = np.clip(0.16 * heights + 0.24 * slope, -0.5, 0.5) * grain.depth
    side = size // 2
    picture = Image.fromarray(np.asarray(light, np.float32))
    if side != TILE:
        picture = picture.resize((side, side), Image.Resampling.BOX)
    return np.tile(np.rint(np.asarray(picture) * 127).astype(np.int16), (4, 4))


def _kept(genuine: Image.Image, forged: Image.Image, size: int) -> tuple[Image.Image, Image.Image]:
    """The forged picture, put back to the genuine one where it hardly differs, and the mask of what changed."""
    bands = ImageChops.difference(genuine, forged).split()
    most = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    mask = most.point([255 if v >= CHANGED_LEVELS else 0 for v in range(256)])
    around = mask.filter(ImageFilter.BoxBlur(REACH_PX * size / 1024))
    keep = around.point([255 if v > 0 else 0 for v in range(256)])
    return Image.composite(forged, genuine, keep), keep
