"""High dynamic range and wide colors made pictures of standard range: a few curves and matrices.

Light is measured in parts of reference white, 203 nits (ITU-R BT.2408), which becomes nearly white.
"""

from functools import cache

import numpy as np

PQ, HLG = "PQ", "HLG"
WHITE = 203.0
"""Nits of a white sheet of paper in HDR recordings (ITU-R BT.2408, table 1)."""
PEAK = 10_000.0
"""Nits of the largest PQ value: all highlights are below."""
KNEE = 0.75
"""Light up to this part of reference white is kept; above it highlights are compressed."""
GAMMA = 2.4
"""Gamma of a standard-range display (ITU-R BT.1886), so that gray SDR in an HDR file stays as it is."""
ROWS = 256  # at once; bounds memory
TO_BT709 = {
    9: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],  # BT.2020
    11: [[1.1576, -0.1550, -0.0026], [-0.0416, 1.0456, -0.0040], [-0.0181, -0.0791, 1.0971]],  # DCI P3
    12: [[1.2249, -0.2247, 0.0000], [-0.0420, 1.0419, 0.0000], [-0.0197, -0.0786, 1.0979]],  # Display P3
}
"""Linear RGB of primaries (by their numbers in ITU-T H.273) to that of BT.709 (BT.2020: ITU-R BT.2087)."""
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Luminance of BT.2020's red, green and blue."""


def pq_nits(signal: np.ndarray) -> np.ndarray:
    """The light of PQ values 0..1, in nits: SMPTE ST 2084, eq. 4.1 (ITU-R BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = np.asarray(signal, np.float64) ** (1 / m2)
    return PEAK * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """The scene's light, 0..1, of HLG values 0..1: the inverse OETF of ITU-R BT.2100, table 5."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    signal = np.asarray(signal, np.float64)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def compress(light: np.ndarray) -> np.ndarray:
    """Light in parts of reference white -> 0..1, ascending: kept up to KNEE, 0.875 at white, 1 at PEAK.

    Above the knee t (1 + t / p^2) / (1 + t): E. Reinhard et al., Photographic Tone Reproduction, 2002, eq. 4.
    """
    t = np.maximum(light - KNEE, 0) / (1 - KNEE)
    p = (PEAK / WHITE - KNEE) / (1 - KNEE)
    return np.minimum(light, KNEE) + (1 - KNEE) * t * (1 + t / p**2) / (1 + t)


@cache
def _linear(transfer: str | None) -> np.ndarray:
    """Light of the 65,536 values of a channel: (65536,) float32."""
    signal = np.arange(65536) / 65535
    if transfer == PQ:
        light = pq_nits(signal) / WHITE
    else:
        light = hlg_light(signal) if transfer == HLG else signal**GAMMA
    return light.astype(np.float32)


@cache
def _encoded() -> np.ndarray:
    """Values (65536,) uint8 of light whose square root goes in 65,536 equal steps: small steps near black."""
    root = np.arange(65536) / 65535
    return np.rint(255 * root ** (2 / GAMMA)).astype(np.uint8)


def to_sdr(pixels: np.ndarray, transfer: str | None, primaries: int) -> np.ndarray:
    """(H, W, 3) uint16 of a transfer function (PQ, HLG, None: SDR) and primaries -> (H, W, 3) uint8 BT.709.

    Highlights are compressed by the largest of red, green and blue, which keeps their hue.
    """
    parts = []
    for row in range(0, len(pixels), ROWS):
        light = _linear(transfer)[pixels[row : row + ROWS]]  # (ROWS, W, 3)
        if transfer == HLG:  # BT.2100's OOTF of a display of 1000 nits: Y^0.2 E
            light *= (light @ LUMA)[..., None] ** 0.2 * np.float32(1000 / WHITE)
        if transfer is not None:
            largest = light.max(-1, keepdims=True)
            light *= compress(largest) / np.maximum(largest, 1e-6)
        if primaries in TO_BT709:
            light = light @ np.array(TO_BT709[primaries], np.float32).T
        parts.append(_encoded()[np.rint(np.sqrt(light.clip(0, 1)) * 65535).astype(np.uint16)])
    return np.concatenate(parts)
