"""Sizes, resizing, spectrograms and patches: the pure pieces against Pillow and transformers.

`tests/parity/data/media.npz` holds what transformers says; where it is installed it is asked again.
"""

from __future__ import annotations

import hashlib
import importlib
import math

import media_cases
import numpy as np
import pytest
from golden import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

MEL_TOLERANCE = 1e-4  # transformers computes in single precision


@pytest.fixture(scope="module")
def golden_media():
    with np.load(DATA / "media.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("transformers", reason="the live comparison needs the extra `parity`")
    return importlib.import_module("reference_media")


@pytest.fixture(scope="module")
def pillow():
    """Pillow's module of images, whose filter is compared bit by bit."""
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def size_of(size, *case):
    """The size that a medium is brought to, (0, 0) where it is refused for its aspect ratio."""
    try:
        return size(*case)
    except RuntimeError as err:
        if "at most 200 times the other" not in str(err):
            raise
        return 0, 0


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("name", ["image_size", "video_size"])
def test_sizes_are_those_of_transformers(internals, golden_media, name):
    rows = golden_media[f"{name}s"].tolist()
    size = getattr(internals, name)
    assert len(rows) >= 1000
    assert [row for row in rows if size_of(size, *row[:-2]) != tuple(row[-2:])] == []


@pytest.mark.parametrize("name", ["image_size", "video_size"])
def test_more_sizes_are_those_of_transformers_today(internals, reference, name):
    ours, theirs = getattr(internals, name), getattr(reference, name)
    cases = getattr(media_cases, f"{name}s")(3000)
    assert [case for case in cases if size_of(ours, *case) != theirs(*case)] == []


def test_golden_sizes_hold_ties_and_refusals(golden_media):
    height, width, factor, *_, out_height, _ = golden_media["image_sizes"].T
    assert ((height % factor == factor // 2) & (width % factor == factor // 2)).sum() > 500
    assert 20 < (out_height == 0).sum() < len(height) / 2


@pytest.mark.parametrize(
    ("n_frames", "expected"),
    [
        (1, (512, 512)),  # counts as 2
        (2, (512, 512)),
        (31, (640, 640)),  # 32 x 640 x 640 is just over the limit, which 31 frames are scaled to
        (32, (608, 608)),
        (33, (608, 608)),
    ],
)
def test_odd_numbers_of_frames_count_as_the_next_even_one(internals, n_frames, expected):
    side = 512 if n_frames < 3 else 660
    assert internals.video_size(n_frames, side, side, 32, 262_144, 12_845_056) == expected


def test_short_side_is_scaled_up(internals):
    assert internals.image_size(10, 1000, 32, 262_144, 1_310_720) == (64, 5120)
    assert internals.video_size(2, 10, 1000, 32, 4096, 12_845_056) == (32, 3200)


@given(
    height=st.integers(1, 65536),
    width=st.integers(1, 65536),
    factor=st.sampled_from([4, 28, 32]),
    limits=st.tuples(st.integers(1, 2**24), st.integers(1, 2**24)).map(sorted),
    n_frames=st.integers(1, 64),
)
@settings(max_examples=300, deadline=None)
def test_any_size_becomes_a_multiple_of_cells_or_is_refused(
    internals, height, width, factor, limits, n_frames
):
    case = (height, width, factor, *limits)
    for size, counts in ((internals.image_size, ()), (internals.video_size, (n_frames,))):
        out = size_of(size, *counts, *case)
        if max(height, width) > 200 * min(height, width):
            assert out == (0, 0)
        else:
            assert min(out) >= factor
            assert out[0] % factor == out[1] % factor == 0


# ------------------------------------------------------------------ resizing


def columns_first(source, target):
    """Whether Pillow 13 begins with the columns, where those before it began with the rows."""
    lost = source[0] - target[0], source[1] - target[1]
    return lost[0] > 0 and lost[0] > 2 * lost[1] and lost[1] != 0


def test_resized_images_are_those_of_pillow(internals, golden_media):
    for (source, target), expected in zip(
        media_cases.RESIZES, golden_media["resized_sha256"].tolist(), strict=True
    ):
        out = internals.resize(media_cases.image(*source), *target)
        assert out.shape == (*target, 3)
        assert hashlib.sha256(out.tobytes()).hexdigest() == expected, (source, target)


def sides(longest):
    return st.floats(0, math.log2(longest)).map(lambda x: round(2**x))


@given(
    source=st.tuples(sides(300), sides(300)),
    target=st.tuples(sides(300), sides(300)),
    keep=st.sampled_from([(False, False)] * 4 + [(True, False), (False, True), (True, True)]),
    levels=st.sampled_from([2, 256]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_any_resized_image_is_that_of_the_installed_pillow(
    internals, pillow, source, target, keep, levels, seed
):
    target = tuple(s if k else t for s, t, k in zip(source, target, keep, strict=True))
    version = importlib.import_module("PIL").__version__
    if int(version.split(".")[0]) < 13 and columns_first(source, target):
        return
    draw = np.random.default_rng(seed).integers(0, levels, (*source, 3))
    pixels = (draw * (255 // (levels - 1))).astype(np.uint8)
    filtered = pillow.fromarray(pixels).resize(target[::-1], pillow.Resampling.BICUBIC)
    np.testing.assert_array_equal(internals.resize(pixels, *target), np.asarray(filtered))


@pytest.mark.parametrize(
    ("source", "target"), [((4096, 3), (37, 64)), ((3, 5000), (64, 33)), ((700, 900), (960, 1280))]
)
def test_long_sides_are_resized_as_pillow_does(internals, pillow, source, target):
    version = importlib.import_module("PIL").__version__
    if int(version.split(".")[0]) < 13 and columns_first(source, target):
        pytest.skip(f"Pillow {version} begins with the rows")
    pixels = media_cases.image(*source)
    filtered = pillow.fromarray(pixels).resize(target[::-1], pillow.Resampling.BICUBIC)
    np.testing.assert_array_equal(internals.resize(pixels, *target), np.asarray(filtered))


# ------------------------------------------------------------------ sound


def test_spectrograms_are_those_of_transformers(internals, golden_media):
    for name, samples in media_cases.sounds().items():
        mel = internals.log_mel(samples, media_cases.N_BINS)
        assert mel.shape == (media_cases.N_BINS, -(-len(samples) // 160))
        compared = mel[:, : media_cases.n_compared_frames(len(samples))]
        expected = golden_media[f"mel/{name}"]
        difference = np.abs(media_cases.thinned(compared) - expected).max()
        assert difference <= MEL_TOLERANCE, (name, difference)


def test_whole_spectrograms_are_those_of_transformers_today(internals, reference):
    for name, samples in media_cases.sounds().items():
        expected = reference.log_mel(samples)
        mel = internals.log_mel(samples, media_cases.N_BINS)[:, : expected.shape[1]]
        assert np.abs(mel - expected).max() <= MEL_TOLERANCE, name


@pytest.mark.parametrize("n", [1, 159, 160, 161, 1599, 479_999, 480_000, 480_001, 480_159])
def test_every_started_frame_counts(internals, n):
    mel = internals.log_mel(np.ones(n, np.float32), 8)
    assert mel.shape == (8, -(-n // 160))
    assert np.isfinite(mel).all()


def test_samples_that_are_not_finite_count_as_silence(internals):
    samples = media_cases.sounds()["480 samples"]
    bad = samples.copy()
    bad[[0, 100, 479]] = [np.nan, np.inf, -np.inf]
    silent = np.where(np.isfinite(bad), bad, 0).astype(np.float32)
    np.testing.assert_array_equal(internals.log_mel(bad, 128), internals.log_mel(silent, 128))


@pytest.mark.parametrize("peak", [1.0000001, 3.0, 32768.0, 3e38])
def test_loud_samples_are_divided_by_the_largest(internals, peak):
    samples = media_cases.sounds()["480 samples"]
    samples = samples / np.abs(samples).max()
    np.testing.assert_allclose(
        internals.log_mel((samples * peak).astype(np.float32), 128),
        internals.log_mel(samples, 128),
        atol=1e-5,
    )


def test_a_click_later_on_does_not_touch_frames_before_it(internals):
    samples = media_cases.sounds()["noise"].copy()
    before = internals.log_mel(samples, 128)
    samples[10_000] += 0.5
    after = internals.log_mel(samples, 128)
    np.testing.assert_array_equal(before[:, :60], after[:, :60])
    assert np.abs(before - after)[:, 62].max() > 0.01


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (0, "audio has 0 ms, it needs at least 30 ms"),
        (-5, "audio has 0 ms, it needs at least 30 ms"),
        (479, "audio has 29 ms, it needs at least 30 ms"),
        (86_400 * 16_000 + 16, "audio has 86400001 ms, the limit is 86400000 ms, a day"),
        (2**63 - 1, "a day"),
    ],
)
def test_too_little_and_too_much_sound_is_refused(internals, n, message):
    with pytest.raises(RuntimeError, match=message):
        internals.check_n_samples(n)


def test_thirty_milliseconds_and_a_day_of_sound_are_accepted(internals):
    internals.check_n_samples(480)
    internals.check_n_samples(86_400 * 16_000)


# ------------------------------------------------------------------ patches


@pytest.mark.parametrize("name", sorted(media_cases.NORMALIZATIONS))
def test_patches_are_those_of_transformers(internals, golden_media, name):
    pixels = media_cases.image(12, 24)
    out = internals.patches([pixels], 3, 2, *media_cases.NORMALIZATIONS[name])
    np.testing.assert_array_equal(out, golden_media[f"patches/{name}"])


@pytest.mark.parametrize("name", sorted(media_cases.NORMALIZATIONS))
@pytest.mark.parametrize("patch_size", [14, 16])
def test_patches_of_whole_images_are_those_of_transformers_today(
    internals, reference, name, patch_size
):
    pixels = media_cases.image(6 * patch_size, 4 * patch_size)
    out = internals.patches([pixels], patch_size, 2, *media_cases.NORMALIZATIONS[name])
    np.testing.assert_array_equal(out, reference.patches(pixels, patch_size, name))


def test_still_image_is_both_frames_of_its_patches(internals):
    pixels = media_cases.image(8, 12)
    halves = media_cases.NORMALIZATIONS["halves"]
    once = internals.patches([pixels], 2, 2, *halves)
    np.testing.assert_array_equal(once, internals.patches([pixels, pixels], 2, 2, *halves))


def test_each_frame_of_a_pair_fills_its_half_of_the_patches(internals):
    first, second = media_cases.image(8, 12), media_cases.image(8, 12)[::-1].copy()
    halves = media_cases.NORMALIZATIONS["halves"]
    pair = internals.patches([first, second], 2, 2, *halves)
    n = pair.shape[1] // 2
    np.testing.assert_array_equal(pair[:, :n], internals.patches([first], 2, 2, *halves)[:, :n])
    np.testing.assert_array_equal(pair[:, n:], internals.patches([second], 2, 2, *halves)[:, :n])
