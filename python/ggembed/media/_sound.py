"""Samples of any rate and type as one channel at 16 000 per second."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MediaError
from . import _sources
from ._limits import MediaLimits

Samples = npt.NDArray[np.float32]

RATE = 16_000
RATES = (1_000, 768_000)
_MAX_CHANNELS = 64  # more are taken for an array the wrong way round


class Mono:
    """Collects a sound of one channel piece by piece, resampled as it comes."""

    def __init__(
        self, limits: MediaLimits, name: str = "audio", max_seconds: float | None = None
    ) -> None:
        self._limits, self._name = limits, name
        self._n_wanted = None if max_seconds is None else max(1, round(max_seconds * RATE))
        self._rate = 0
        self._resampler: Any = None
        self._pieces: list[Samples] = []
        self._n_samples = 0

    @property
    def full(self) -> bool:
        """Whether nothing more is wanted."""
        return self._n_wanted is not None and self._n_samples >= self._n_wanted

    def add(self, samples: Samples, rate: int) -> None:
        """Appends samples, (n_samples,); their rate may change."""
        if rate != self._rate:
            self._flush()
            self._begin(rate)
        samples = _finite(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        self._keep(samples)

    def samples(self) -> Samples:
        """All of it: (n_samples,)."""
        self._flush()
        if self._n_samples == 0:
            raise MediaError(f"{self._name} has no samples")
        return np.concatenate(self._pieces)[: self._n_wanted]

    def _begin(self, rate: int) -> None:
        _check_rate(rate, self._name)
        self._rate = rate
        if rate != RATE:
            soxr = _sources.decoder("soxr", "soxr", f"{self._name} at {rate} Hz")
            self._resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
            self._resampler = None

    def _keep(self, samples: Samples) -> None:
        self._pieces.append(_finite(samples))  # sums of very large samples may not be
        self._n_samples += len(samples)
        if not self.full:
            self._limits._check_seconds(self._n_samples / RATE, self._name)


def _check_rate(rate: Any, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise MediaError(
            f"{name} has {rate} samples per second, ggembed reads {RATES[0]} to {RATES[1]}"
        )


def _finite(samples: Samples) -> Samples:
    return np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)


def mono_of(array: npt.NDArray[Any], name: str) -> Samples:
    """The mean of the channels of (n_samples, n_channels), as float32 within -1 to 1."""
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if not (kind == "f" or (kind == "u" and bits == 8) or (kind == "i" and bits >= 16)):
        raise MediaError(
            f"{name}: samples must be floating point, int16, int32 or uint8, got {array.dtype}"
        )
    wide = np.float32 if kind == "f" and bits <= 32 else np.float64
    with np.errstate(all="ignore"):  # of values that are not finite
        mean = array.mean(axis=1, dtype=wide)
        if kind == "u":
            mean = (mean - 128.0) / 128.0
        elif kind == "i":
            mean = mean / 2.0 ** (bits - 1)
        return np.asarray(mean, np.float32)


def decode_samples(
    source: tuple[Any, ...],
    limits: MediaLimits,
    name: str = "audio",
    max_seconds: float | None = None,
) -> Samples:
    """Samples of a tuple of an array and its rate, at 16 000 per second: (n_samples,)."""
    if len(source) != 2 or not isinstance(source[0], np.ndarray):
        raise MediaError(f"{name}: expected a tuple of an array and its rate")
    array, rate = source
    if isinstance(rate, np.ndarray):
        rate = rate[()]  # as NumPy reads one from a file
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not 1 <= array.shape[1] <= _MAX_CHANNELS:
        raise MediaError(
            f"{name}: samples must have the shape (n_samples,) or (n_samples, n_channels) with at "
            f"most {_MAX_CHANNELS} channels, got {source[0].shape}"
        )
    if not isinstance(rate, Real):
        raise MediaError(f"{name}: the rate must be a number, got {rate!r}")
    _check_rate(rate, name)
    if rate % 1:
        raise MediaError(f"{name}: the rate must be a whole number, got {rate!r}")
    mono = Mono(limits, name, max_seconds)
    if max_seconds is None:
        limits._check_seconds(len(array) / float(rate), name)
    rate, step = int(float(rate)), 1 << 20
    for start in range(0, len(array), step):
        mono.add(mono_of(array[start : start + step], name), rate)
        if mono.full:
            break
    return mono.samples()
