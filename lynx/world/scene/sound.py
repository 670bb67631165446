"""What a scene sounds like: five kinds of sound over a faint noise floor.

Every kind has its own shape in a log-mel picture: the bell is three fading lines, the drum a low falling blob
with a click, the siren one arch, the chirp three steep strokes high up, the hum a steady ladder of harmonics.
"""

from collections.abc import Callable

import numpy as np

from lynx.world.scene.scene import DURATION, SOUND_LENGTH, Scene, scene_rng

SAMPLE_RATE = 16000
NOISE_FLOOR = 0.001
"""RMS of the noise, which is also in silent clips: -60 dB of full scale."""
DETUNING = 0.03
"""No two rings of a bell are the same: each sound's pitch is off by up to this part."""

Voice = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _bell(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    partials = ((1.0, 1.0, 7.0), (2.76, 0.7, 10.0), (5.4, 0.4, 16.0))
    phase = 2 * np.pi * 830 * pitch * t
    rings = [level * np.exp(-fade * t) * np.sin(ratio * phase) for ratio, level, fade in partials]
    return np.asarray(sum(rings))


def _drum(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    sweep = 70 * t + 130 / 22 * (1 - np.exp(-22 * t))  # cycles: from 200 Hz down to 70 Hz
    skin = np.exp(-13 * t) * np.sin(2 * np.pi * pitch * sweep)
    return skin + 0.35 * np.exp(-90 * t) * rng.standard_normal(len(t))


def _siren(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    swing = SOUND_LENGTH / (2 * np.pi) * np.sin(2 * np.pi * t / SOUND_LENGTH)
    cycles = 1050 * t - 450 * swing  # up from 600 Hz to 1500 Hz and down again
    phase = 2 * np.pi * pitch * cycles
    return np.sin(phase) + 0.25 * np.sin(2 * phase)


def _chirp(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    note = SOUND_LENGTH / 3
    part = (t % note) / note
    cycles = note * (2800 * part + 1300 * part**2)  # each note climbs from 2800 to 5400 Hz
    return np.sin(np.pi * np.clip(part / 0.8, 0, 1)) ** 2 * np.sin(2 * np.pi * pitch * cycles)


def _hum(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * 140 * pitch * t
    return np.asarray(sum(np.sin(k * phase) / k**0.7 for k in range(1, 6)))


VOICES: dict[str, Voice] = {"bell": _bell, "drum": _drum, "siren": _siren, "chirp": _chirp, "hum": _hum}
ATTACKS = {"bell": 0.003, "drum": 0.003, "siren": 0.02, "chirp": 0.005, "hum": 0.04}
"""Seconds until a sound is fully there; the sustained ones swell."""
RELEASE = 0.08


def render_sound(scene: Scene, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The clip's sound: `(n,)` float32 mono in [-1, 1], `DURATION` seconds at `sample_rate` Hz."""
    rng = scene_rng(scene.key, len(VOICES))
    wave = rng.standard_normal(round(DURATION * sample_rate), dtype=np.float32) * np.float32(NOISE_FLOOR)
    t = np.arange(round(SOUND_LENGTH * sample_rate)) / sample_rate
    for event in scene.sounds:
        pitch = 1 + float(rng.uniform(-DETUNING, DETUNING))
        envelope = np.clip(t / ATTACKS[event.kind], 0, 1) * np.clip((SOUND_LENGTH - t) / RELEASE, 0, 1) ** 2
        sound = envelope * VOICES[event.kind](t, pitch, rng)
        sound = (sound / np.abs(sound).max()).astype(np.float32)  # a peak of one
        start = round(event.onset * sample_rate)
        end = min(start + len(sound), len(wave))
        wave[start:end] += np.float32(event.gain) * sound[: end - start]
    return wave.clip(-1, 1)
