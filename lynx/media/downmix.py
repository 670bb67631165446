"""Frames of sound of any channels -> mono samples at one rate.

Channels are mixed after they are resampled, so that mono and stereo are the plain mean. The first seconds
are held back until it is known whether the channels cancel out in the mix, as where one of them is wired the
wrong way round; the loudest is then heard alone.
"""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np

FRONT, CENTER = 0.5, 0.5**0.5
"""ITU-R BS.775: left and right get the center and the surrounds at -3 dB and no LFE; mono is the mean of
these two, as it is of a stereo track."""
WEIGHTS = {
    **dict.fromkeys("FL FR FLC FRC WL WR DL DR BIL BIR".split(), FRONT),
    "FC": CENTER,
    **dict.fromkeys("BL BR SL SR SDL SDR SSL SSR".split(), FRONT * CENTER),
    **dict.fromkeys("TFL TFR TBL TBR TSL TSR TTL TTR BFL BFR".split(), FRONT * CENTER),
    **dict.fromkeys("BC TC TFC TBC BFC".split(), FRONT),  # both sides get it at -6 dB
    **dict.fromkeys("LFE LFE2".split(), 0.0),
    "AMBI0": 1.0,  # ambisonics: the omnidirectional channel; the others have a direction
}
HELD = 2**22
"""Maximum samples (of all channels together) that are held back: 131 s of stereo at 16 kHz, 16 MB."""
AT_ONCE = 32
"""Frames that are mixed at once."""
PAIR = ("left", "right")
LOUDEST = 1e6
"""Amplitude to which samples are cut before they are resampled, since larger ones overflow there."""
AUDIBLE = 1e-8
"""Mean power (-80 dB) from which on channels are compared."""
LOSS, TOTAL_LOSS = 10.0, 20.0
"""Decibels lost in the mix from which on a note says so, and from which on one channel is heard alone."""
SAME_LOUDNESS = 0.8
"""The first channel with at least this share of the loudest one's power is heard, so that all parts agree."""
ASSUMED = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""Layouts assumed of so many channels without names, as in WAV without a mask; players do the same."""


def placed(layout: av.AudioLayout) -> av.AudioLayout:
    """The layout with the places of its channels, assumed where it has none; else itself."""
    count = layout.nb_channels
    unnamed = layout.name == f"{count} channels"
    return av.AudioLayout(ASSUMED[count]) if unnamed and count in ASSUMED else layout


def mono_weights(layout: av.AudioLayout) -> np.ndarray | None:
    """Weights (C,) float32 of a layout's channels in mono; None is their mean.

    The mean is taken of one channel, of two equal ones, and of channels whose places are not known.
    """
    weights = [WEIGHTS.get(c.name, 0.0 if c.name.startswith("AMBI") else None) for c in layout.channels]
    if None in weights or len(set(weights)) < 2:
        return None
    return np.array(weights, np.float32)


def _format(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


class Downmix:
    """Mono of frames that share one sample rate, layout and sample format."""

    def __init__(self, first: av.AudioFrame, sample_rate: int) -> None:
        layout = placed(first.layout)
        self.name = f"{first.sample_rate} Hz {layout.name}"
        self.not_numbers = 0  # samples that are NaN or infinite
        self._rate, self._layout, self._format = sample_rate, layout, _format(first)
        self._assumed = layout.name != first.layout.name and layout.nb_channels > len(PAIR)
        self._weights, count = mono_weights(layout), layout.nb_channels
        self._mean = np.full(count, 1 / count) if self._weights is None else self._weights.astype(np.float64)
        self._resampler: av.AudioResampler | None = None
        self._products = np.zeros((count, count))  # of every two channels, summed over time
        self._samples = 0  # summed in it
        self._decided = count == 1
        self._loose: list[np.ndarray] = []  # (n, C) each, not yet looked at
        self._held: list[np.ndarray] = []  # (n, C) each
        self._waiting = 0  # samples in them
        self._alone: int | None = None  # the channel that is heard instead of the mix

    def fits(self, frame: av.AudioFrame) -> bool:
        """Whether the frame has the sample rate, layout and sample format of the first."""
        return _format(frame) == self._format

    def push(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """Mono samples (n,) float32, not yet clipped, of what is known by now."""
        self._resampler = self._resampler or av.AudioResampler(format="flt", rate=self._rate)
        for resampled in self._resampler.resample(self._finite(frame)):
            yield from self._collect(resampled)

    def flush(self) -> Iterator[np.ndarray]:
        """The rest of it; what is pushed later begins anew, as after a gap."""
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                yield from self._collect(resampled)
            self._resampler = None
        yield from self._add()
        yield from self._release()

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed of the channels, and what of their sound is lost in mono."""
        count, channels, lost, notes = self._layout.nb_channels, self._layout.channels, self._loss(), []
        if self._assumed:
            notes.append(f"its {count} channels have no names: taken for {self._layout.name}")
        pair = count == len(PAIR)
        who = "left and right cancel" if pair else f"the {count} channels cancel"
        much = f"{lost:.0f} dB are lost" if lost < 60 else "nothing is left"
        if self._alone is not None:
            channel = channels[self._alone]
            name = PAIR[self._alone] if pair else channel.description
            named = pair or channel.name in WEIGHTS
            heard = f"the {name} channel" if named else f"channel {self._alone + 1}"
            notes.append(f"{who} out in mono ({much}): {heard} is heard alone")
        elif lost >= LOSS:
            notes.append(f"{who} out in mono: {much}")
        power, audible = np.diag(self._products), AUDIBLE * self._samples
        weightless = self._mean == 0
        if power[~weightless].max() <= audible < power.max():
            names = [c.name for c, without in zip(channels, weightless, strict=True) if without]
            notes.append(f"only what mono leaves out ({', '.join(names)}) has sound")
        return tuple(notes)

    def _finite(self, frame: av.AudioFrame) -> av.AudioFrame:
        """The frame; in what is stored as floats, samples that are not finite are counted and become 0.

        Planar frames come from decoders, whose samples are finite unless the file is damaged.
        """
        if frame.format.name not in ("flt", "dbl"):
            return frame
        samples = frame.to_ndarray()
        if not samples.size or np.abs(samples).max() < LOUDEST:  # false where one is not a number
            return frame
        kept: Any = self._without_nan(samples)
        clean = av.AudioFrame.from_ndarray(kept, frame.format.name, frame.layout)
        clean.sample_rate, clean.pts, clean.time_base = frame.sample_rate, frame.pts, frame.time_base
        return clean

    def _without_nan(self, samples: np.ndarray) -> np.ndarray:
        finite = np.isfinite(samples)
        self.not_numbers += int((~finite).sum())
        return np.where(finite, samples, 0).clip(-LOUDEST, LOUDEST).astype(samples.dtype)

    def _collect(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """Mix many frames at once: packets are short, and each step costs as much for few samples."""
        # packed, because PyAV miscounts the planes of eight and more channels
        self._loose.append(frame.to_ndarray().reshape(-1, self._products.shape[0]))  # (n, C)
        if len(self._loose) >= AT_ONCE:
            yield from self._add()

    def _add(self) -> Iterator[np.ndarray]:
        if not self._loose:
            return
        block, self._loose = np.concatenate(self._loose), []
        flat = block.ravel()
        if not np.dot(flat, flat) < LOUDEST:  # false where one is not a number
            block = self._without_nan(block)
        if block.shape[1] > 1:
            self._products += block.T @ block
            self._samples += len(block)
        if self._decided:
            yield self._mix(block)
        else:
            self._held.append(block)
            self._waiting += block.size
            if self._waiting > HELD:
                yield from self._release()

    def _release(self) -> Iterator[np.ndarray]:
        """What was held back, with one channel alone if the mix of it is next to nothing."""
        power = np.diag(self._products)
        if not self._decided and power.max() > AUDIBLE * self._samples:
            self._decided = True
            if self._loss() > TOTAL_LOSS:
                self._alone = int((power >= SAME_LOUDNESS * power.max()).argmax())
        held, self._held, self._waiting = self._held, [], 0
        yield from map(self._mix, held)

    def _mix(self, block: np.ndarray) -> np.ndarray:
        if self._alone is not None:
            return block[:, self._alone].copy()
        return block.mean(1) if self._weights is None else block @ self._weights

    def _loss(self) -> float:
        """Decibels from what independent channels of that power give down to the mix; 0 if silent."""
        apart = float(np.diag(self._products) @ self._mean**2)
        if apart <= AUDIBLE * self._samples * float((self._mean**2).sum()):
            return 0.0
        mixed = max(float(self._mean @ self._products @ self._mean), 1e-9 * apart)
        return float(10 * np.log10(apart / mixed))
