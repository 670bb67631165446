"""The world's sound: where the events are, how loud, how different, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from lynx.world.scene.scene import DURATION, GAINS, SOUND_LENGTH, SOUNDS, Scene, SoundEvent, draw_scene
from lynx.world.scene.sound import NOISE_FLOOR, SAMPLE_RATE, render_sound

SCENE = draw_scene("validation", 3, 0)


def with_sounds(*sounds: SoundEvent) -> Scene:
    return replace(SCENE, sounds=sounds)


def spectrum(scene: Scene, start: float = 1.0) -> np.ndarray:
    """Decibels of one sound in 32 bands of log-frequency, as a unit vector."""
    wave = render_sound(scene)[round(start * SAMPLE_RATE) :][: round(SOUND_LENGTH * SAMPLE_RATE)]
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    bands = np.array(
        [part.max() for part in np.array_split(power[np.geomspace(6, 2400, 1024).astype(int)], 32)]
    )
    level = np.clip(10 * np.log10(bands / bands.max()) + 50, 0, None)
    return level / np.linalg.norm(level)


def test_sound_has_the_clips_length_and_the_same_key_gives_the_same_sound() -> None:
    wave = render_sound(SCENE)
    assert wave.shape == (round(DURATION * SAMPLE_RATE),) and wave.dtype == np.float32
    assert np.array_equal(wave, render_sound(draw_scene("validation", 3, 0)))
    assert not np.array_equal(wave, render_sound(replace(SCENE, key=("train", 3, 0))))


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("gain", GAINS.values())
def test_event_peaks_at_its_gain_and_stays_in_its_window(kind: str, gain: float) -> None:
    event = SoundEvent(kind, 1.5, gain)
    wave = np.abs(render_sound(with_sounds(event)))
    assert wave.max() == pytest.approx(gain, abs=6 * NOISE_FLOOR)
    outside = np.concatenate(
        [wave[: round(1.5 * SAMPLE_RATE)], wave[round((1.5 + SOUND_LENGTH) * SAMPLE_RATE) :]]
    )
    assert outside.max() < 8 * NOISE_FLOOR


def test_silence_still_has_the_noise_floor() -> None:
    wave = render_sound(with_sounds())
    assert np.sqrt((wave**2).mean()) == pytest.approx(NOISE_FLOOR, rel=0.02)


def test_sound_at_the_very_end_is_cut_not_wrapped() -> None:
    wave = render_sound(with_sounds(SoundEvent("hum", DURATION - 0.1, 0.6)))
    assert len(wave) == round(DURATION * SAMPLE_RATE) and np.abs(wave[:SAMPLE_RATE]).max() < 8 * NOISE_FLOOR


def test_kinds_differ_more_than_two_of_a_kind() -> None:
    scenes = {
        kind: [replace(with_sounds(SoundEvent(kind, 1.0, 0.6)), key=("train", 0, i)) for i in range(4)]
        for kind in SOUNDS
    }
    vectors = {kind: [spectrum(scene) for scene in of_kind] for kind, of_kind in scenes.items()}
    same = min(float(a @ b) for of_kind in vectors.values() for a in of_kind for b in of_kind)
    different = max(
        float(a @ b)
        for one in SOUNDS
        for two in SOUNDS
        if one != two
        for a in vectors[one]
        for b in vectors[two]
    )
    assert same > different + 0.1


def test_any_sample_rate() -> None:
    wave = render_sound(SCENE, 44100)
    assert len(wave) == round(DURATION * 44100)
