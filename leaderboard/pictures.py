"""Pictures of grids and plots: PNG cells at the scored resolution, and coordinates for SVG that the templates draw.

Conventions
    Row 0 of a grid is 0 Hz; pictures are flipped so that high frequencies are on top. One cell is one pixel, except for the outline of the
    truth, which needs three. Colours come from two ramps whose lightness rises linearly in OKLab (Ottosson 2020), so that equal steps look
    equal and every ramp still orders in grey and for colour-blind eyes.
"""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]

LEVELS = 64
RANKS = np.array([0.40, 0.55, 0.66, 0.75, 0.82, 0.87, 0.91, 0.93, 0.95, 0.96, 0.97, 0.98, 0.9875, 0.9925, 0.9965])
"""Upper ends of the rank classes of a heatmap picture, as shares of the clip's cells; .95 is the edge of the scored top 5 %."""
FLOOR_DB = 75.0
"""Range of the spectrogram pictures under the clip's maximum, in dB."""
QUIETEST = 0.01
"""Largest magnitude (about -95 dBFS) below which a clip is drawn dark, not stretched to full contrast."""
HIT, FALSE_ALARM, MISSED = (255, 255, 255), (242, 142, 43), (64, 180, 255)
TRUTH = (126, 240, 255)


def _oklch_to_rgb(lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.float64]) -> Bytes:
    """Turn OKLCh (0..1, 0.., degrees) into sRGB bytes (n, 3), clipped to the gamut (matrices: Ottosson 2020)."""
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
        ],
        axis=1,
    ).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: Bytes = np.rint(encoded * 255).astype(np.uint8)
    return rgb


@lru_cache(maxsize=8)
def ramp(name: str, steps: int) -> Bytes:
    """Return a colour ramp from dark to light, (steps, 3) sRGB bytes: ``"ink"`` for magnitude, ``"ember"`` for evidence.

    Raises:
        ValueError: If there is no ramp of this name.
    """
    t = np.linspace(0, 1, steps)
    if name == "ink":
        return _oklch_to_rgb(0.16 + 0.80 * t, 0.035 * np.sin(np.pi * t), np.full(steps, 255.0))
    if name == "ember":
        return _oklch_to_rgb(0.17 + 0.79 * t, 0.02 + 0.17 * np.sin(np.pi * t) ** 0.8, 290.0 + 170.0 * t)
    raise ValueError(f"ramp must be 'ink' or 'ember', got {name!r}; choose one of the two")


def _png(pixels: Bytes, palette: Bytes, bits: int, transparent: int | None = None) -> bytes:
    """Encode palette indices (rows, columns) as PNG; equal input gives equal bytes."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels[::-1]), mode=None)
    picture = picture.convert("L")
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    options = {} if transparent is None else {"transparency": transparent}
    picture.save(buffer, "PNG", bits=bits, compress_level=5, **options)
    return buffer.getvalue()


def spectrogram_png(magnitude: Grid, reference: float | None = None) -> bytes:
    """Draw linear magnitude (F, N) in dB under ``reference`` (its own maximum by default); silence is drawn dark."""
    peak = max(float(magnitude.max()) if reference is None else reference, QUIETEST)
    decibel = 20 * np.log10(np.maximum(magnitude, 1e-8) / peak)
    level = np.clip((decibel + FLOOR_DB) / FLOOR_DB, 0, 1) * (LEVELS - 1)
    return _png(np.rint(level).astype(np.uint8), ramp("ink", LEVELS), bits=8)


def rank_classes(heatmap: Grid, valid: Mask) -> Bytes:
    """Sort the cells of a heatmap (F, N) into the classes of ``RANKS`` among its valid cells; the others, and wide ties, go low."""
    values = heatmap[valid]
    if not values.size:
        return np.zeros(heatmap.shape, np.uint8)
    edges = np.sort(values)[np.ceil(RANKS * values.size).astype(int) - 1]
    return np.where(valid, np.searchsorted(edges, heatmap, "left"), 0).astype(np.uint8)


def heatmap_png(heatmap: Grid, valid: Mask) -> bytes:
    """Draw a heatmap (F, N) by rank within its clip, which is all that the equal-area scores see; 16 colours."""
    return _png(rank_classes(heatmap, valid), ramp("ember", len(RANKS) + 1), bits=4)


def verdict_png(chosen: Mask, truth: Mask) -> bytes:
    """Draw chosen cells against the truth (F, N): white hits, orange false alarms, blue misses, the rest transparent."""
    classes = (chosen.astype(np.uint8) + 2 * truth.astype(np.uint8)).astype(np.uint8)
    return _png(classes, np.array([(0, 0, 0), FALSE_ALARM, MISSED, HIT], np.uint8), bits=2, transparent=0)


def outline_png(mask: Mask) -> bytes:
    """Draw the border of a mask (F, N) on a transparent ground, three pixels to a cell."""
    large = np.kron(mask, np.ones((3, 3), bool))
    padded = np.pad(large, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return _png((large & ~inner).astype(np.uint8), np.array([(0, 0, 0), TRUTH], np.uint8), bits=1, transparent=0)


def legend_colours() -> list[tuple[float, str]]:
    """Return the rank classes of ``heatmap_png`` as (lower share, #rrggbb), dark to light."""
    lower = [0.0, *RANKS.tolist()]
    return [(share, "#" + bytes(colour).hex()) for share, colour in zip(lower, ramp("ember", len(lower)), strict=True)]


def cuts() -> list[tuple[str, float]]:
    """Return the thresholds of the slider: the share of cells that stay, in words, and the luma (0..1) just under the first class kept.

    The picture of a heatmap has one colour for each rank class, and lightness rises from class to class; so a threshold on luma is a
    threshold on rank, which a filter of the page can apply to the picture that is there.
    """
    colours = ramp("ember", len(RANKS) + 1).astype(np.float64) / 255
    luma = colours @ np.array([0.2126, 0.7152, 0.0722])
    return [(f"{100 * (1 - share):.3g} %", round(float(luma[i] + luma[i + 1]) / 2, 5)) for i, share in enumerate(RANKS.tolist())]


def webp(png: bytes, quality: int, scale: float = 1.0) -> bytes:
    """Encode a picture again as WebP, smaller by ``scale``; transparent ones keep their exact colours."""
    from PIL import Image

    source = Image.open(io.BytesIO(png))
    clear = "transparency" in source.info
    picture = source.convert("RGBA" if clear else "RGB")
    if scale != 1.0:
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.NEAREST if clear else Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, lossless=clear, method=4)
    return buffer.getvalue()
