"""Frames and sound of video and audio files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import EmbedError, MediaError
from . import _sources, _truncation
from ._limits import MediaLimits
from ._sound import Mono, Samples, mono_of

Pixels = npt.NDArray[np.uint8]

# FFmpeg knows hundreds of containers, some of which open other files and addresses.
_CONTAINERS = "mov,avi,matroska,flv,asf,ogg,wav,mp3,flac"
_NAMES = "MP4, MOV, M4A, AVI, Matroska, WebM, FLV, WMV, Ogg, Opus, WAV, MP3, FLAC"


# Reads and seeks that a container may take to come to its next packet. FFmpeg goes through junk in
# steps of eight bytes, at three seeks each.
_MAX_STEPS = 1 << 20


class _Stream:
    """A file for PyAV, which would print exceptions of a seek to nowhere, or second ones of a read.

    So it keeps them, and looks to PyAV as if the file ended.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.tell = file.tell
        self._file = file
        self._n_steps = 0
        self._error: EmbedError | None = None

    def read(self, n_bytes: int = -1) -> bytes:
        if self._error is None:
            try:
                self._step()
            except EmbedError as err:
                self._error = err
        return b"" if self._error else self._file.read(n_bytes)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._n_steps += 1
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -1

    def _step(self) -> None:
        _sources.checkpoint.get()()
        self._n_steps += 1
        if self._n_steps > _MAX_STEPS:
            raise MediaError(f"{self.name} is damaged: too much in it is no sound and no frame")

    def check(self) -> None:
        """Raises what reading has raised."""
        if self._error is not None:
            raise self._error

    def on_packet(self) -> None:
        """Begins to count anew, since a packet was found."""
        _sources.checkpoint.get()()
        self._n_steps = 0


@contextmanager
def _opened(file: _sources.File, limits: MediaLimits, name: str) -> Iterator[tuple[Any, _Stream]]:
    """A container of PyAV, and what it reads from."""
    av = _sources.decoder("av", "av", name)
    with _sources.opened(file, limits, name) as stream, _sources.decoding(name):
        _truncation.check(stream, stream.seek(0, 2), name)
        source = _Stream(stream, name)
        try:
            with _container(av, source) as container:
                yield container, source
        except Exception:
            source.check()
            raise
        source.check()


def _container(av: Any, source: _Stream) -> Any:
    try:
        return av.open(source, container_options={"format_whitelist": _CONTAINERS})
    except (av.error.InvalidDataError, av.error.ArgumentError) as err:
        raise MediaError(f"{source.name} is damaged or in no known container ({_NAMES})") from err


class VideoFile:
    """A video, which is decoded from its beginning each time that frames are asked for."""

    def __init__(self, file: _sources.File, limits: MediaLimits, name: str = "video") -> None:
        self._file, self._limits, self._name = file, limits, name
        self.size = (0, 0)  # width and height
        self.n_frames = 0  # exact after frames or times were read to their end
        with _opened(file, limits, name) as (container, source):
            stream = self._stream(container)
            self.size = (stream.codec_context.width, stream.codec_context.height)
            limits._check_pixels(self.size, name)
            for packet in _packets(container, stream, source):
                self.n_frames += packet.size > 0
                limits._check_frames(self.n_frames, name)

    def _stream(self, container: Any) -> Any:
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams or streams[0].codec_context is None:
            raise MediaError(f"{self._name} has no video stream that can be decoded")
        # Not among the options of av.open: before version 16 it frees those of streams that appear
        # late, as in FLV, where it has none.
        streams[0].codec_context.options = {"max_pixels": str(self._limits.max_image_pixels)}
        streams[0].thread_type = "AUTO"
        return streams[0]

    def _decoded(self) -> Iterator[Any]:
        """All frames of PyAV in the order in which they are shown."""
        n_frames = 0
        with _opened(self._file, self._limits, self._name) as (container, source):
            for frame in _frames(container, self._stream(container), source):
                n_frames += 1
                self._limits._check_frames(n_frames, self._name)
                yield frame
        if n_frames == 0:
            raise MediaError(f"{self._name} has no frames")
        self.n_frames = n_frames

    def times(self) -> npt.NDArray[np.float64]:
        """When each frame is shown, in seconds from the first one: (n_frames,)."""
        times = [frame.time for frame in self._decoded()]
        if None in times:
            raise MediaError(f"{self._name} does not say when its frames are shown: give fps")
        return np.asarray(np.array(times, np.float64) - times[0])

    def frames(self, indices: list[int]) -> Iterator[Pixels]:
        """Pixels of the frames at ascending indices: (height, width, 3) each, contiguous."""
        wanted = iter(indices)
        index = next(wanted, None)
        for i, frame in enumerate(self._decoded()):
            while i == index:
                width, height = self.size  # a frame may have another one
                pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
                yield np.ascontiguousarray(pixels)
                index = next(wanted, None)


def decode_audio(
    file: _sources.File,
    limits: MediaLimits,
    name: str = "audio",
    max_seconds: float | None = None,
) -> Samples | None:
    """The first sound track at 16 000 samples per second: (n_samples,). None if there is none."""
    mono, n_decoded = Mono(limits, name, max_seconds), 0
    with _opened(file, limits, name) as (container, source):
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError(f"{name} has a sound track of an unknown kind")
        for frame in _frames(container, stream, source):
            n_decoded += frame.samples
            array = frame.to_ndarray()
            if not frame.format.is_planar:
                array = array.reshape(-1, frame.layout.nb_channels).T
            mono.add(mono_of(array.T, name), frame.sample_rate)
            if mono.full:
                break
        else:
            declared = stream.duration if container.format.name == "flac" else None
            if declared is not None and n_decoded < declared:
                raise MediaError(f"{name} is cut off: {n_decoded} of {declared} samples are there")
    return mono.samples()


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is the picture of an album."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _packets(container: Any, stream: Any, source: _Stream) -> Iterator[Any]:
    for packet in container.demux(stream):
        source.on_packet()
        yield packet


def _frames(container: Any, stream: Any, source: _Stream) -> Iterator[Any]:
    """What a stream decodes to.

    MP3 files often have something else around the sound, which FFmpeg takes for packets that
    cannot be decoded; anywhere else such a packet is an error.
    """
    lenient = container.format.name == "mp3"
    n_frames, error, name = 0, None, source.name
    for packet in _packets(container, stream, source):
        if packet.is_corrupt:
            raise MediaError(f"{name} is damaged or cut off after {n_frames} frames")
        try:
            frames = packet.decode()
        except ValueError as err:  # InvalidDataError of PyAV
            if not lenient:
                raise
            error = err if n_frames else None
            continue
        if frames and error:
            raise error
        for frame in frames:
            if getattr(frame, "is_corrupt", False):
                raise MediaError(f"{name} is damaged at frame {n_frames}")
            n_frames += 1
            yield frame
