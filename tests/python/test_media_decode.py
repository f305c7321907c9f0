"""Media files of every type become the pixels and samples that were put into them."""

from __future__ import annotations

import base64
import io
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import media_files
import numpy as np
import pytest
from ggembed import _native, errors
from ggembed.media import (
    Audio,
    Image,
    MediaLimits,
    Pdf,
    Video,
    _av,
    _prepare,
    _sources,
    _svg,
    prepare,
)
from PIL import Image as PilImage

MediaError = errors.MediaError


class Taken:
    """Stands in for the native library: keeps what it is given."""

    def __init__(self, kind: str, data: object, seconds=None, **limits: int) -> None:
        self.kind, self.data, self.seconds, self.limits = kind, data, seconds, limits

    @classmethod
    def image(cls, _model, pixels, **limits):
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        return cls("image", pixels, **limits)

    @classmethod
    def video(cls, _model, frames, n_frames, size, seconds, **limits):
        frames = [cls.image(None, frame).data for frame in frames]
        if len(frames) == n_frames:  # else the first guess was wrong
            assert {frame.shape for frame in frames} == {(size[1], size[0], 3)}
        return cls("video", np.array(frames), seconds, **limits)

    @classmethod
    def audio(cls, _model, samples):
        assert samples.dtype == np.float32
        assert samples.flags.c_contiguous
        return cls("audio", samples)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(_native, "Media", Taken)


def decoded(medium, **limits) -> np.ndarray:
    """What the only part of a medium was decoded to."""
    (part,) = prepare(medium, None, MediaLimits(**limits))
    return part.data


def greys(frames: np.ndarray) -> list[int]:
    """Which of the frames of media_files.frames those are, by their grey values."""
    return [round(frame.mean()) for frame in frames]


def expected_greys(n_frames: int, indices) -> list[int]:
    return [int(media_files.frames(n_frames)[i].mean()) for i in indices]


def close(a: list[int], b: list[int]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= 2 for x, y in zip(a, b, strict=True))


def correlation(a: np.ndarray, b: np.ndarray, delay: int = 0) -> float:
    """Of a, from `delay` on, with b."""
    n = min(len(a) - delay, len(b))
    return float(np.corrcoef(a[delay : delay + n], b[:n])[0, 1])


TONE = media_files.tone(1.0, 16000)[:, 0]
SUFFIXES = {**{kind: kind for kind in media_files.IMAGES}, "jpeg": "jpg", "tif": "tiff"}


# Images


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_file_gives_its_pixels(suffix, tmp_path):
    kind = SUFFIXES[suffix]
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(media_files.make_image(kind))
    pixels = decoded(Image(path))
    assert pixels.shape == (32, 48, 3)
    if kind == "svg":
        assert (pixels[:, :24] == (255, 0, 0)).all()
        assert (pixels[:, 24:] == 255).all()
        return
    tolerance = 0 if kind in media_files.LOSSLESS_IMAGES else 5
    assert np.abs(pixels.astype(int) - media_files.pixels()).mean() <= tolerance


def test_the_content_decides_and_not_the_suffix(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(media_files.make_image("png"))
    assert (decoded(Image(path)) == media_files.pixels()).all()


def test_every_kind_of_source_gives_the_same_image(tmp_path):
    data, want = media_files.make_image("png"), media_files.pixels()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    with path.open("rb") as file:
        sources = [str(path), path, data, bytearray(data), memoryview(data), file, uri]
        media = [Image(source) for source in sources]
    media += [
        Image(want),
        Image(want / 255),
        Image(PilImage.open(path)),
        Image(want[:, ::-1][:, ::-1]),
    ]
    for medium in media:
        assert (decoded(medium) == want).all()


def saved(image: PilImage.Image, kind: str, **options) -> Image:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image(out.getvalue())


def test_alpha_is_dropped_as_pillow_does():
    rgba = np.dstack([media_files.pixels(), np.full((32, 48), 7, np.uint8)])
    assert (decoded(saved(PilImage.fromarray(rgba), "png")) == media_files.pixels()).all()
    assert (decoded(Image(rgba)) == media_files.pixels()).all()


def test_modes_are_converted_as_pillow_does():
    image = PilImage.fromarray(media_files.pixels())
    for mode, kind in [("P", "png"), ("L", "png"), ("1", "png"), ("LA", "png"), ("CMYK", "tiff")]:
        want = np.asarray(image.convert(mode).convert("RGB"))
        assert (decoded(saved(image.convert(mode), kind)) == want).all(), mode


def test_a_palette_with_transparency_does_not_warn():
    image = PilImage.fromarray(media_files.pixels()).convert("P")
    want = np.asarray(image.convert("RGB"))
    assert (decoded(saved(image, "png", transparency=b"\x01\x02\xff")) == want).all()


def test_an_image_of_the_user_keeps_its_transparency():
    image = PilImage.fromarray(media_files.pixels()).convert("P")
    want = np.asarray(image.convert("RGB"))
    image.info["transparency"] = b"\x01\x02\xff"
    assert (decoded(Image(image)) == want).all()
    assert image.info["transparency"] == b"\x01\x02\xff"


def test_odd_metadata_does_not_warn():
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0" * 2
    image = PilImage.fromarray(media_files.pixels())
    assert decoded(saved(image, "jpeg", exif=exif)).shape == (32, 48, 3)


def test_sixteen_bits_are_scaled_to_eight():
    values = np.linspace(0, 65535, 48, dtype=np.uint16)[None].repeat(32, 0)
    want = np.rint(values / 257).astype(np.uint8)
    for kind in ("png", "tiff"):
        pixels = decoded(saved(PilImage.fromarray(values), kind))
        assert (pixels == want[:, :, None]).all(), kind


def test_values_of_a_file_that_are_not_finite_are_the_least_or_the_greatest():
    values = np.full((4, 4), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    want = np.full((4, 4), 128)
    want[0, :3] = 0, 255, 0
    assert (decoded(saved(PilImage.fromarray(values), "tiff"))[:, :, 0] == want).all()


def test_floating_point_files_are_scaled_or_stretched():
    values = np.linspace(0, 1, 48, dtype=np.float32)[None].repeat(32, 0)
    want = np.rint(values * 255.0).astype(np.uint8)[:, :, None]
    for image in (values, values * 300 - 100):
        assert (
            np.abs(decoded(saved(PilImage.fromarray(image), "tiff")).astype(int) - want).max() <= 1
        )


def test_the_orientation_of_a_photograph_is_not_applied():
    exif = PilImage.Exif()
    exif[0x0112] = 6
    medium = saved(PilImage.fromarray(media_files.pixels()), "jpeg", exif=exif.tobytes())
    assert decoded(medium).shape == (32, 48, 3)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    first, second = (PilImage.fromarray(media_files.pixels(seed=seed)) for seed in (1, 2))
    medium = saved(first, kind, save_all=True, append_images=[second])
    difference = np.abs(decoded(medium).astype(int) - media_files.pixels(seed=1)).mean()
    assert difference < 6


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 32, 48), np.uint8), r"shape .*got \(3, 32, 48\)"),
        (np.zeros((4, 4, 4, 3), np.uint8), r"got \(4, 4, 4, 3\)"),
        (np.zeros((4, 4), np.int32), "uint8 or floating point, got int32"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels: its size is 4 x 0"),
        (np.full((4, 4), 3.5), "from 0 to 1, got 3.5 to 3.5"),
        (np.full((4, 4), np.nan), "from 0 to 1, got nan"),
    ],
)
def test_an_array_that_is_no_image_is_an_error(array, message):
    with pytest.raises(MediaError, match=message):
        decoded(Image(array))


def test_a_grey_array_has_three_equal_channels():
    grey = media_files.pixels()[:, :, 0]
    assert (decoded(Image(grey)) == grey[:, :, None]).all()
    assert (decoded(Image(grey[:, :, None])) == grey[:, :, None]).all()


# Drawings


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="40" height="20"', (40, 20)),
        ('width="40.2" height="20px"', (41, 20)),
        ('width="1in" height="2.54cm"', (96, 96)),
        ('viewBox="0 0 30 60"', (30, 60)),
        ('width="60" viewBox="0 0 30 60"', (60, 120)),
        ('height="60" viewBox="0 0 30 60"', (30, 60)),
        ('width="100%" height="100%" viewBox="0 0 33 44"', (33, 44)),
        ("", (300, 150)),
        ('width="40" height="20" style="width:9999px;height:9999px"', (40, 20)),
    ],
)
def test_a_drawing_has_the_size_that_it_names(attributes, size):
    drawing = media_files.svg(10, 10, attributes=attributes)
    assert decoded(Image(drawing)).shape == (size[1], size[0], 3)


def test_a_drawing_may_be_a_percent_encoded_data_uri_or_utf_16():
    text = media_files.svg(8, 4, attributes="width='4' height='4'").decode()
    for source in (f"data:image/svg+xml,{text.replace('#', '%23')}", text.encode("utf-16")):
        assert (decoded(Image(source)) == (255, 0, 0)).all()


def image_in_drawing(uri: str) -> Image:
    return Image(
        media_files.svg(
            0, 32, f'<image width="48" height="32" href="{uri}"/>', 'viewBox="0 0 48 32"'
        )
    )


def test_an_image_inside_a_drawing_is_drawn():
    data = base64.b64encode(media_files.make_image("png")).decode()
    pixels = decoded(image_in_drawing(f"data:image/png;base64,{data}"))
    assert np.abs(pixels.astype(int) - media_files.pixels()).mean() < 3


def test_a_drawing_loads_no_other_files(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(media_files.make_image("png"))
    (tmp_path / "a.svg").write_bytes(media_files.make_image("svg"))
    monkeypatch.chdir(tmp_path)
    nested = base64.b64encode(media_files.make_image("svg")).decode()
    for uri in (
        str(tmp_path / "a.png"),
        "a.png",
        f"file://{tmp_path}/a.png",
        "a.svg",
        "http://localhost:1/a.png",
        f"data:image/svg+xml;base64,{nested}",
    ):
        assert (decoded(image_in_drawing(uri)) == 255).all(), uri


BOMBS = {
    "references": "".join(
        f'<g id="g{i}">' + f'<use href="#g{i + 1}"/>' * 10 + "</g>" for i in range(12)
    )
    + '<g id="g12"><rect width="1" height="1"/></g>',
    "a ring": '<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>',
    "a huge pattern": '<pattern id="p" width="4" height="4294967295" patternUnits="userSpaceOnUse">'
    '<path d="M0 0h1v1z"/></pattern><rect width="9" height="9" fill="url(#p)"/>',
    "octaves": '<filter id="f"><feTurbulence baseFrequency="0.1" numOctaves="2000000000"/></filter>'
    '<rect width="48" height="32" filter="url(#f)"/>',
    "depth": "<g>" * 50_000 + "</g>" * 50_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_drawing_that_would_break_the_process_is_an_error(name, capfd):
    drawing = Image(media_files.svg(body=BOMBS[name]))
    with pytest.raises(
        MediaError, match=r"cannot be d|takes longer to draw than max_svg_seconds, 2"
    ):
        decoded(drawing, max_svg_seconds=2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "body", ["<g/>" * 30, "<g>" + "&e1;" * 3 + "</g>", '<g a="1" b="2"/>' * 10]
)
def test_a_drawing_may_have_so_many_elements_and_attributes(body, monkeypatch):
    entities = f'<!DOCTYPE svg [<!ENTITY e0 "{"<g/>" * 5}"><!ENTITY e1 "&e0;&e0;">]>'.encode()
    drawing = entities + media_files.svg(48, 32, body)
    monkeypatch.setattr(_svg, "_MAX_ITEMS", 30)
    with pytest.raises(MediaError, match="more than 30 elements and attributes"):
        decoded(Image(drawing))
    monkeypatch.setattr(_svg, "_MAX_ITEMS", 50)
    assert decoded(Image(drawing)).shape == (32, 48, 3)


def test_a_bomb_of_entities_is_refused():
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE svg [<!ENTITY e0 "{"x" * 100}">{entities}]>'.encode()
    with pytest.raises(MediaError, match="cannot be decoded"):
        decoded(Image(bomb + media_files.svg(body="<text>&e11;</text>")))


# Video


@pytest.mark.parametrize("kind", media_files.VIDEOS)
def test_a_video_file_gives_its_frames(kind, tmp_path):
    path = tmp_path / f"video.{kind}"
    path.write_bytes(media_files.make_video(kind, 10))
    frames = decoded(Video(path))
    assert frames.shape == (10, 48, 64, 3)
    assert close(greys(frames), expected_greys(10, range(10)))


@pytest.mark.parametrize("size", [(7, 5), (37, 21), (130, 2)])
def test_a_video_may_have_any_size(size):
    frames = decoded(Video(media_files.make_video("avi", 4, size=size)))
    assert frames.shape == (4, size[1], size[0], 3)
    assert close(greys(frames), expected_greys(4, range(4)))


@pytest.mark.parametrize("kind", ["mp4", "avi"])
def test_of_a_long_video_evenly_spaced_frames_are_taken(kind):
    data = media_files.make_video(kind, 70)
    for n in (1, 2, 5, 32):
        indices = np.linspace(0, 69, n).astype(int)
        frames = decoded(Video(data, max_frames=n))
        assert close(greys(frames), expected_greys(70, indices)), n


def test_frames_that_are_not_shown_do_not_count():
    data = media_files.make_video("mp4", 50, pts=range(-10, 40))  # 50 packets, 40 frames
    indices = 10 + np.linspace(0, 39, 32).astype(int)
    assert close(greys(decoded(Video(data))), expected_greys(50, indices))


def seconds_of(medium: Video) -> list[float] | None:
    (part,) = prepare(medium, None)
    return part.seconds if part.seconds is None else list(np.round(part.seconds, 6))


def test_times_are_the_default_a_rate_or_those_of_the_file():
    data = media_files.make_video("mkv", 6, 8, pts=[0, 1, 5, 6, 20, 21])
    assert seconds_of(Video(data)) is None
    assert seconds_of(Video(data, fps=2)) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert seconds_of(Video(data, fps=2, max_frames=2)) == [0, 2.5]
    assert seconds_of(Video(data, fps="source")) == [0, 0.125, 0.625, 0.75, 2.5, 2.625]
    assert seconds_of(Video(data, fps="source", max_frames=3)) == [0, 0.625, 2.625]
    for fps in (4, np.float32(4), np.int64(4)):
        assert seconds_of(Video(media_files.frames(3), fps=fps)) == [0, 0.25, 0.5]


def test_the_sound_track_comes_before_the_video():
    data = media_files.make_video("mp4", 4, seconds=1.0)
    sound, video = prepare(Video(data, audio=True), None)
    assert (sound.kind, video.kind, len(video.data)) == ("audio", "video", 4)
    assert correlation(sound.data, TONE) > 0.999
    assert len(prepare(Video(data), None)) == 1
    assert len(prepare(Video(media_files.make_video("mp4", 4), audio=True), None)) == 1


@pytest.mark.parametrize("kind", media_files.VIDEOS)
def test_the_sound_track_of_every_container_is_read(kind):
    samples, want = decoded(Audio(media_files.make_video(kind, 4, seconds=1.0))), TONE
    delays = range(500 if kind in ("avi", "flv", "wmv") else 1)  # they do not say the encoder's
    assert abs(len(samples) - 16000) <= 800
    assert max(correlation(samples, want, delay) for delay in delays) > 0.97


def test_frames_may_be_arrays_or_images():
    frames = media_files.frames(40)
    images = [PilImage.fromarray(frame) for frame in frames]
    want = frames[np.linspace(0, 39, 32).astype(int)]
    for source in (frames, list(frames), images):
        assert (decoded(Video(source)) == want).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no frames"),
        (np.zeros((4, 4, 3), np.uint8), "expected .n_frames, height, width, 3"),
        (
            [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
            r"frame 1 has the shape \(4, 5",
        ),
        (
            [np.zeros((4, 4, 3), np.uint8), "b.png"],
            "frame 1 must be an array or a PIL image, got str",
        ),
        (np.zeros((2, 4, 4, 3), np.int64), "frame 0: pixels must be uint8"),
    ],
)
def test_frames_that_do_not_fit_are_an_error(source, message):
    with pytest.raises(MediaError, match=message):
        decoded(Video(source))


def with_cover() -> bytes:
    """A sound with a picture of the album, which is a video stream of one frame."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp3") as file:
        sound = file.add_stream("libmp3lame", rate=44_100)
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        picture = av.VideoFrame.from_ndarray(media_files.frames(1)[0], format="rgb24")
        file.mux(cover.encode(picture.reformat(format="yuvj420p")))
        file.mux(cover.encode())
        media_files._encode_sound(file, sound, media_files.tone(0.5, 44_100, 2), 44_100)
    return out.getvalue()


def test_frames_may_be_read_when_they_are_wanted():
    class Frames(Sequence):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i == 2:
                raise OSError("the disk is gone")
            return media_files.frames(3)[i]

    assert len(decoded(Video(Frames(), max_frames=1))) == 1
    with pytest.raises(MediaError, match="frame 2 cannot be decoded: the disk is gone"):
        prepare(Video(Frames()), None)


def test_the_cover_of_an_album_is_no_video():
    data = with_cover()
    assert len(decoded(Audio(data))) > 7000
    with pytest.raises(MediaError, match="no video stream"):
        decoded(Video(data))


# Sound


@pytest.mark.parametrize("kind", media_files.AUDIOS)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_sound_file_gives_its_samples(kind, n_channels, tmp_path):
    path = tmp_path / f"sound.{kind[:4]}"
    path.write_bytes(media_files.make_audio(kind, 1.0, 2 if kind == "ogg" else n_channels))
    samples = decoded(Audio(path))
    assert abs(len(samples) - 16000) <= 400  # AAC fills its last frame up
    assert correlation(samples, TONE) > 0.999
    assert abs(samples.std() / TONE.std() - 1) < 0.06  # LAME scales by 0.95


def test_stereo_at_44100_equals_mono_at_16000():
    stereo = decoded(Audio(media_files.make_audio("wav", 2.0, 2)))
    mono = decoded(Audio(media_files.make_audio("wav", 2.0, 1, 16000)))
    assert len(stereo) == len(mono) == 32000
    assert np.abs(stereo - mono)[200:-200].max() < 1e-3


def test_resampling_in_pieces_equals_resampling_at_once():
    import soxr

    noise = np.random.default_rng(1).uniform(-1, 1, 200_001).astype(np.float32)
    want = soxr.resample(noise, 44_100, 16_000, quality="HQ")
    samples = decoded(Audio((noise, 44_100)))
    assert len(samples) == len(want)
    assert np.abs(samples - want).max() < 1e-5


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.int16, np.int32, np.uint8, np.float16]
)
def test_samples_of_every_type_come_to_the_same(dtype):
    wave = media_files.tone(0.5, 16000, 2)
    scale = {"i": 2.0 ** (8 * np.dtype(dtype).itemsize - 1), "u": 128.0, "f": 1.0}
    kind = np.dtype(dtype).kind
    samples = np.clip(wave * scale[kind] + (128 if kind == "u" else 0), None, 2**31 - 128)
    got = decoded(Audio((samples.astype(dtype), 16000)))
    assert np.abs(got - wave[:, 0]).max() < (0.01 if dtype in (np.uint8, np.float16) else 1e-4)


def test_channels_are_averaged():
    left, right = media_files.tone(0.2, 16000)[:, 0], media_files.tone(0.2, 16000, 1, 990.0)[:, 0]
    got = decoded(Audio((np.stack([left, right], 1), 16000)))
    assert np.allclose(got, (left + right) / 2, atol=1e-6)


def test_samples_that_are_not_finite_do_not_spread():
    wave = media_files.tone(0.5, 44_100)[:, 0].copy()
    wave[1000] = np.nan
    assert np.isfinite(decoded(Audio((wave, 44_100)))).all()


def test_a_rate_may_be_of_any_numeric_type():
    wave = media_files.tone(0.5, 16000)[:, 0]
    for rate in (16000.0, np.float32(16000), np.int32(16000), np.array(16000)):
        assert (decoded(Audio((wave, rate))) == wave).all()


def test_the_beginning_of_a_sound_is_kept_on_demand():
    data = media_files.make_audio("wav", 2.0)
    whole = decoded(Audio(data))
    assert (decoded(Audio(data, max_seconds=0.5)) == whole[:8000]).all()
    assert len(decoded(Audio(data, max_seconds=30))) == 32000
    wave = media_files.tone(2.0, 16000)[:, 0]
    assert (
        decoded(Audio((wave, 16000), max_seconds=0.25), max_audio_seconds=1) == wave[:4000]
    ).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((np.zeros((2, 16000)), 16000), r"\(n_samples, n_channels\) .* got \(2, 16000\)"),
        ((np.zeros(0), 16000), "no samples"),
        ((np.zeros(9), 3), "3 samples per second, ggembed reads 1000 to 768000"),
        ((np.zeros(9), 0), "0 samples per second, ggembed reads 1000 to 768000"),
        ((np.zeros(9), 16000.5), "whole number, got 16000.5"),
        ((np.zeros(9), 0), "has 0 samples per second"),
        ((np.zeros(9), np.inf), "has inf samples per second"),
        ((np.zeros(9), np.nan), "has nan samples per second"),
        ((np.zeros(9), None), "the rate must be a number, got None"),
        ((np.zeros(9), "16000"), "the rate must be a number, got '16000'"),
        ((np.zeros(9, complex), 16000), "floating point, int16, int32 or uint8, got complex128"),
        (([0.0, 1.0], 16000), "a tuple of an array and its rate"),
    ],
)
def test_samples_that_do_not_fit_are_an_error(source, message):
    with pytest.raises(MediaError, match=message):
        decoded(Audio(source))


def test_a_video_without_sound_is_no_audio():
    with pytest.raises(MediaError, match="has no sound track"):
        decoded(Audio(media_files.make_video("mp4", 4)))


# PDF


def pages_of(medium: Pdf, **limits) -> list[np.ndarray]:
    return [part.data for part in prepare(medium, None, MediaLimits(**limits))]


def n_squares(page: np.ndarray) -> int:
    """Black squares on a page of media_files.make_pdf."""
    dark = (page[:, :, 0] < 128).any(axis=0).astype(int)
    return int((np.diff(dark) == 1).sum())


def test_pdf_pages_are_rendered_at_150_dpi():
    first, second = pages_of(Pdf(media_files.make_pdf()))
    assert (first.shape, second.shape) == ((150, 300, 3), (300, 150, 3))
    assert (n_squares(first), n_squares(second)) == (1, 2)
    assert pages_of(Pdf(media_files.make_pdf(), dpi=72))[0].shape == (72, 144, 3)


@pytest.mark.parametrize(
    ("pages", "squares"),
    [
        (None, [1, 2, 3, 4]),
        (2, [3]),
        (-1, [4]),
        ([3, 0, 0], [4, 1, 1]),
        (range(1, 3), [2, 3]),
        (slice(None, None, -2), [4, 2]),
        (np.array([1]), [2]),
    ],
)
def test_pages_of_a_pdf_can_be_chosen(pages, squares):
    pdf = Pdf(media_files.make_pdf([(144, 72)] * 4), pages=pages)
    assert [n_squares(page) for page in pages_of(pdf)] == squares


def test_an_encrypted_pdf_needs_its_password():
    data = media_files.make_pdf(password="secret")
    assert len(pages_of(Pdf(data, password="secret"))) == 2
    with pytest.raises(MediaError, match=r"is encrypted and needs a password"):
        pages_of(Pdf(data))
    with pytest.raises(MediaError, match="has another password"):
        pages_of(Pdf(data, password="guess"))
    assert "secret" not in repr(Pdf(data, password="secret"))


@pytest.mark.parametrize(
    ("pdf", "limits", "message"),
    [
        (Pdf(media_files.make_pdf(), pages=2), {}, "has 2 pages, so no page 2"),
        (Pdf(media_files.make_pdf(), pages=-3), {}, "has 2 pages, so no page -3"),
        (Pdf(media_files.make_pdf(), pages=[]), {}, "chooses none"),
        (Pdf(media_files.make_pdf([])), {}, "finds no pages in it"),
        (
            Pdf(media_files.make_pdf([(99, 99)] * 5)),
            {"max_pdf_pages": 4},
            "has 5 pages, max_pdf_pages is 4",
        ),
        (
            Pdf(media_files.make_pdf([(14400, 14400)])),
            {},
            "page 0 has 3000\\d x 3000\\d = 9000\\d+ pixels",
        ),
    ],
)
def test_a_pdf_without_such_pages_is_an_error(pdf, limits, message):
    with pytest.raises(MediaError, match=message):
        pages_of(pdf, **limits)


def test_pages_are_checked_before_the_number_of_pages_is_too_many():
    pdf = Pdf(media_files.make_pdf([(99, 99)] * 5), pages=slice(1, 3))
    assert len(pages_of(pdf, max_pdf_pages=2)) == 2


# All kinds

FILES = {
    **{
        kind: (Image, lambda kind=kind: media_files.make_image(kind)) for kind in media_files.IMAGES
    },
    **{
        kind: (Video, lambda kind=kind: media_files.make_video(kind)) for kind in media_files.VIDEOS
    },
    **{
        kind: (Audio, lambda kind=kind: media_files.make_audio(kind, 0.5))
        for kind in media_files.AUDIOS
    },
    "pdf": (Pdf, media_files.make_pdf),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_off_is_an_error(kind, capfd):
    medium, make = FILES[kind]
    data = make()
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        with pytest.raises(MediaError):
            prepare(medium(data[: int(len(data) * share)]), None)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("medium", [Image, Audio, Video, Pdf])
def test_what_is_no_medium_is_an_error_that_names_the_input(medium, tmp_path, capfd):
    junk = tmp_path / "junk"
    junk.write_bytes(np.random.default_rng(3).bytes(5000))
    empty = tmp_path / "empty"
    empty.touch()
    for source, message in (
        (junk, "junk"),
        (empty, "is empty"),
        (b"", "is empty"),
        (b"x", "of 1 bytes"),
        (tmp_path / "none.png", "none.png' cannot be read: No such file"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
        ("A" * 5000, "AAA' cannot be read: File name too long"),
    ):
        with pytest.raises(MediaError, match=message) as caught:
            prepare(medium(source), None)
        assert "\n" not in str(caught.value)
        assert caught.value.input_index is None
    assert capfd.readouterr() == ("", "")


def test_a_file_with_much_junk_in_it_is_an_error_soon(monkeypatch, capfd):
    monkeypatch.setattr(_av, "_MAX_STEPS", 10_000)
    data = media_files.make_audio("wav", 0.5)
    assert decoded(Audio(data + bytes(1000))).shape == (8000,)
    with pytest.raises(MediaError, match="is damaged: too much in it"):
        decoded(Audio(data + bytes(1 << 20)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["mp4", "flac", "pdf", "frames"])
def test_decoding_ends_when_it_is_told_to(kind, capfd):
    medium = Video(media_files.frames(4)) if kind == "frames" else FILES[kind][0](FILES[kind][1]())

    def end():
        raise errors.AbortedError("enough")

    token = _sources.checkpoint.set(end)
    try:
        with pytest.raises(errors.AbortedError, match="enough"):
            prepare(medium, None)
    finally:
        _sources.checkpoint.reset(token)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_a_device_is_not_read():
    with pytest.raises(MediaError, match="is not a regular file"):
        prepare(Image("/dev/zero"), None)


@pytest.mark.parametrize("medium", [Image, Audio, Video, Pdf])
@pytest.mark.parametrize("kind", ["png", "wav", "mp4", "pdf"])
def test_a_file_of_another_kind_is_an_error(medium, kind):
    own, make = FILES[kind]
    if medium is own or (medium, kind) == (Audio, "mp4"):
        return
    with pytest.raises(MediaError):
        prepare(medium(make()), None)


@pytest.mark.parametrize(
    ("medium", "limits", "message"),
    [
        (
            Image(media_files.png_of_size(60_000, 50_000)),
            {},
            "60000 x 50000 = 3000000000 pixels, max_image_pixels is 89478485",
        ),
        (
            Image(media_files.make_image("webp")),
            {"max_image_pixels": 1000},
            "48 x 32 = 1536 pixels, max_image_pixels is 1000",
        ),
        (Image(media_files.svg(attributes='width="1e5" height="1e5"')), {}, "100000 x 100000"),
        (Image(np.zeros((9, 9), np.uint8)), {"max_image_pixels": 80}, "9 x 9 = 81 pixels"),
        (Image(PilImage.new("L", (9, 9))), {"max_image_pixels": 80}, "9 x 9 = 81 pixels"),
        (Image(b"x" * 100), {"max_bytes": 99}, "has 100 bytes, max_bytes is 99"),
        (Video(media_files.make_video("mp4", 9)), {"max_video_frames": 8}, "more than 8 frames"),
        (Video(media_files.frames(9)), {"max_video_frames": 8}, "more than 8 frames"),
        (
            Video(media_files.make_video("avi", 4)),
            {"max_image_pixels": 3071},
            "64 x 48 = 3072 pixels",
        ),
        (
            Audio(media_files.make_audio("mp3", 1.2)),
            {"max_audio_seconds": 1},
            "longer than 1 s, the limit",
        ),
        (Audio((np.zeros(16001), 16000)), {"max_audio_seconds": 1}, "longer than 1 s, the limit"),
    ],
)
def test_what_is_beyond_a_limit_is_refused(medium, limits, message):
    with pytest.raises(MediaError, match=message):
        decoded(medium, **limits)


def test_a_jpeg_with_megabytes_of_fill_bytes_is_read_soon():
    data = media_files.make_image("jpg")
    scan = data.rindex(b"\xff\xda")
    started = time.monotonic()
    filled = decoded(Image(data[:scan] + b"\xff" * (1 << 26) + data[scan:]))
    assert (filled == decoded(Image(data))).all()
    assert time.monotonic() - started < 5


def test_a_jpeg_that_asks_for_thousands_of_passes_is_refused():
    data = media_files.make_image("jpg")
    scan = data[data.rindex(b"\xff\xda") : -2]
    bomb = Image(data[:-2] + scan * 99 + data[-2:])
    with pytest.raises(MediaError, match="100 passes over 48 x 32 pixels"):
        decoded(bomb, max_image_pixels=1600)


def test_limits_are_positive_numbers():
    with pytest.raises(TypeError, match="max_bytes must be an int"):
        MediaLimits(max_bytes=0.5)
    with pytest.raises(TypeError, match="max_audio_seconds must be a number, got '9'"):
        MediaLimits(max_audio_seconds="9")
    with pytest.raises(errors.InvalidInputError, match="max_pdf_pages must be positive, got 0"):
        MediaLimits(max_pdf_pages=0)
    with pytest.raises(TypeError, match="max_image_pixels must be an int, got 1000000"):
        MediaLimits(max_image_pixels=1e6)
    with pytest.raises(
        errors.InvalidInputError, match=r"max_svg_seconds must be at most .*, got inf"
    ):
        MediaLimits(max_svg_seconds=np.inf)


MISSING = {
    "PIL.PngImagePlugin": (Image(media_files.make_image("png")), "pillow"),
    "pillow_heif.as_plugin": (Image(media_files.make_image("heic")), "pillow-heif"),
    "resvg_py": (Image(media_files.make_image("svg")), "resvg-py"),
    "av": (Video(media_files.make_video("mp4", 2)), "av"),
    "soxr": (Audio((np.zeros(4410), 44_100)), "soxr"),
    "pypdfium2": (Pdf(media_files.make_pdf()), "pypdfium2"),
}


@pytest.mark.parametrize("module", MISSING)
def test_a_missing_package_is_an_error_that_names_the_extra(module, monkeypatch):
    medium, package = MISSING[module]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.MissingDecoderError) as caught:
        prepare(medium, None)
    assert f'needs the package {package}: pip install "ggembed[media]"' in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_the_package_is_imported_without_decoders(run_python):
    decoders = ["PIL", "av", "soxr", "pypdfium2", "resvg_py", "pillow_heif"]
    heavy = [*decoders, "multiprocessing", "xml.etree", "gguf", "pyarrow"]
    done = run_python(f"import sys, ggembed; print([m for m in {heavy} if m in sys.modules])")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_arrays_need_no_package(monkeypatch):
    for module in ("PIL.Image", "av", "soxr", "pypdfium2"):
        monkeypatch.setitem(sys.modules, module, None)
    assert decoded(Image(media_files.pixels())).shape == (32, 48, 3)
    assert decoded(Audio((np.zeros(800), 16000))).shape == (800,)
    assert len(decoded(Video(media_files.frames(2)))) == 2


def test_pixel_limits_reach_the_native_library():
    sizes = {"min_pixels": 100, "max_pixels": 200}
    media = [
        Image(media_files.pixels(), **sizes),
        Video(media_files.frames(2), **sizes),
        Pdf(media_files.make_pdf(), **sizes, pages=0),
    ]
    for medium in media:
        (part,) = prepare(medium, None)
        assert part.limits == sizes
    (part,) = prepare(Image(media_files.pixels()), None)
    assert part.limits == {"min_pixels": 0, "max_pixels": 0}


def test_errors_of_the_native_library_name_the_input(monkeypatch):
    def refuse(*_args, **_options):
        raise errors.InvalidInputError("one side is more than 200 times the other")

    monkeypatch.setattr(Taken, "image", refuse)
    with pytest.raises(MediaError, match=r"^image of shape .*: one side is more"):
        prepare(Image(media_files.pixels()), None)


def test_many_threads_decode_alike():
    files = [(kind, *FILES[kind]) for kind in FILES]
    media = [(kind, medium(make())) for kind, medium, make in files]
    want = {kind: [p.data for p in prepare(medium, None)] for kind, medium in media}
    barrier = threading.Barrier(4)

    def work(_i: int) -> bool:
        barrier.wait()
        got = {kind: [p.data for p in prepare(medium, None)] for kind, medium in media}
        return all(np.array_equal(a, b) for k in want for a, b in zip(want[k], got[k], strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_the_times_of_all_frames_agree_with_the_first_guess():
    assert _prepare.chosen(5, 32) == [0, 1, 2, 3, 4]
    assert _prepare.chosen(100, 4) == [0, 33, 66, 99]
