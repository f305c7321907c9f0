"""Quantising: every level, importance matrices, options, refusals, and files that stay whole."""

from __future__ import annotations

import contextlib
import os
import sys

import fixtures
import gguf
import gguf_files
import imatrix_files
import numpy as np
import pytest
from ggembed import (
    Embedder,
    EmbedError,
    InvalidInputError,
    ModelFileError,
    ModelFormatError,
    UnsupportedError,
    quantize,
    quantize_levels,
)
from ggembed.doctor import level_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from texts import TEXTS_ENGLISH as TEXTS

# The lowest cosine to the rows of F32 that a level may have: on a random model of 256 wide, where
# every type of the level is in use, and on all-MiniLM-L6-v2, whose rows of 384 do not fill the
# blocks of 256 of most types, so that all but one matrix per layer fall back to 32-wide ones. These
# are twice the distances that were measured, with an importance matrix that weighs columns alike.
# None: not measured, the kernels of these types are plain loops. Q2_0, TQ2_0, TQ1_0 and Q1_0 are
# for models that were trained in them.
FLOORS: dict[str, tuple[float, float | None]] = {
    "F32": (0.99999, 0.99999),
    "BF16": (0.9999, 0.9999),
    "F16": (0.9999, 0.9999),  # computed in bfloat16 where the CPU has products of it
    "Q8_0": (0.9997, 0.9985),
    "Q6_K": (0.9987, 0.997),
    "Q5_1": (0.997, 0.982),
    "Q5_K_M": (0.996, 0.983),
    "Q5_K_S": (0.996, 0.980),
    "Q5_0": (0.996, 0.97),
    "Q4_1": (0.990, 0.92),
    "Q4_K_M": (0.989, 0.97),
    "Q4_K_S": (0.989, 0.96),
    "Q4_0": (0.987, 0.91),
    "IQ4_NL": (0.985, 0.93),
    "IQ4_XS": (0.984, 0.93),
    "MXFP4_MOE": (0.9997, 0.9985),
    "Q3_K_L": (0.97, 0.94),
    "Q3_K_M": (0.97, 0.93),
    "IQ3_M": (0.94, 0.90),
    "IQ3_S": (0.93, 0.90),
    "Q3_K_S": (0.94, 0.87),
    "IQ3_XS": (0.91, 0.90),
    "IQ3_XXS": (0.89, 0.79),
    "Q2_K": (0.90, 0.87),
    "Q2_K_S": (0.86, 0.71),
    "IQ2_M": (0.80, 0.74),
    "IQ2_S": (0.77, 0.62),
    "IQ2_XS": (0.74, 0.63),
    "Q2_0": (0.26, None),
    "IQ2_XXS": (0.69, 0.57),
    "TQ2_0": (0.24, -0.17),
    "IQ1_M": (0.59, 0.45),
    "TQ1_0": (0.24, -0.17),
    "IQ1_S": (0.50, 0.35),
    "Q1_0": (0.34, None),
}
# What the level makes of most matrices, where the gguf package knows the type.
MAIN_TYPES = {
    **{level: level for level in ("F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_1")},
    **{level: level for level in ("Q4_0", "IQ4_NL", "IQ4_XS", "IQ3_S", "Q2_K")},
    **{level: level for level in ("IQ2_XXS", "IQ2_XS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0")},
    **{f"Q{bits}_K_{size}": f"Q{bits}_K" for bits in (3, 4, 5) for size in "SM"},
    "Q3_K_L": "Q3_K",
    "Q2_K_S": "Q2_K",
    "IQ3_M": "IQ3_S",
    "IQ2_M": "IQ2_S",
    "IQ2_S": "IQ2_XS",
    "MXFP4_MOE": "Q8_0",
}
NEED_IMATRIX = (
    *("IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
)
# One of each family, and the ends.
MINILM_LEVELS = (
    *("F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "IQ4_XS"),
    *("Q3_K_M", "Q2_K", "Q2_K_S", "IQ2_XXS", "TQ1_0", "IQ1_S"),
)
UNTRAINED = ("Q2_0", "TQ2_0", "TQ1_0", "Q1_0")


minilm_of = fixtures.minilm  # by the type of its matrices


@pytest.fixture(scope="module")
def wide(tiny):
    """A random model whose rows fill the blocks of every type."""
    return tiny("qwen3-wide-last")


@pytest.fixture(scope="module")
def wide_imatrix(wide, tmp_path_factory):
    path = tmp_path_factory.mktemp("imatrix") / "wide.gguf"
    return imatrix_files.write(path, imatrix_files.ones(wide))


def rows_of(path, texts):
    with Embedder(path, device="cpu", n_threads=2) as embedder:
        return embedder.encode(texts)


def types_of(path):
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def leftovers(folder):
    return [name for name in names(folder) if name.endswith(".part")]


def test_levels_have_a_floor_and_are_named_once():
    assert sorted(quantize_levels()) == sorted(FLOORS)
    assert len(set(quantize_levels())) == len(quantize_levels())


@pytest.fixture(scope="module")
def wide_rows(wide):
    return rows_of(wide, TEXTS)


@pytest.fixture(scope="module")
def wide_at(wide, wide_imatrix, tmp_path_factory):
    """The wide model at a level, made once."""
    folder = tmp_path_factory.mktemp("levels")

    def path(level):
        file = folder / f"{level}.gguf"
        return file if file.exists() else quantize(wide, file, level, imatrix=wide_imatrix)

    return path


@pytest.mark.parametrize("level", FLOORS)
def test_every_level_is_made_and_its_rows_stay_near(level, wide_at, wide_rows):
    path = wide_at(level)
    with Embedder(path, device="cpu", n_threads=2) as embedder:
        rows = embedder.encode(TEXTS)
        assert level_of(embedder.info()) == level
    assert np.isfinite(rows).all()
    assert (rows * wide_rows).sum(axis=1).min() >= FLOORS[level][0]
    assert leftovers(path.parent) == []
    if level in MAIN_TYPES:
        types = list(types_of(path).values())
        assert types.count(MAIN_TYPES[level]) >= 4


def test_sizes_fall_in_the_order_of_the_levels(wide_at):
    levels = [level for level in quantize_levels() if level != "MXFP4_MOE"]  # Q8_0, without experts
    sizes = [wide_at(level).stat().st_size for level in levels]
    order = np.argsort(sizes, kind="stable")[::-1]
    by_size = [levels[i] for i in order]
    moved = {level: by_size.index(level) - i for i, level in enumerate(levels)}
    assert max(abs(n) for n in moved.values()) <= 3, moved


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param(MINILM_LEVELS, id="some"),
        pytest.param(tuple(FLOORS), id="all", marks=pytest.mark.slow),  # minutes: the I-quants
    ],
)
def test_minilm_keeps_its_distance(levels, minilm_of, tmp_path, capsys):
    full = minilm_of("F32")
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", imatrix_files.ones(full))
    wanted = rows_of(full, TEXTS)
    lines, low = [], {}
    for level in levels:
        floor = FLOORS[level][1]
        if floor is None:
            continue
        path = quantize(full, tmp_path / "small.gguf", level, imatrix=imatrix, n_threads=2)
        cosine = (rows_of(path, TEXTS) * wanted).sum(axis=1)
        size = path.stat().st_size / 1e6
        lines.append(
            f"{level:9}  {size:5.1f} MB  {cosine.min():8.5f}  {np.median(cosine):8.5f}  "
            f"{cosine.mean():8.5f}"
        )
        if cosine.min() < floor:
            low[level] = float(cosine.min())
    with capsys.disabled():
        print(f"\nall-MiniLM-L6-v2, cosines to F32 over {len(TEXTS)} texts")
        print("level      size        lowest    median      mean", *lines, sep="\n")
    assert not low


def test_level_names_may_be_in_lower_case(wide, tmp_path):
    path = quantize(wide, tmp_path / "small.gguf", "q4_k_m")
    assert path.read_bytes() == quantize(wide, tmp_path / "2.gguf", "Q4_K_M").read_bytes()


@pytest.mark.parametrize("level", ["Q3", "", "COPY", "Q8_0 "])
def test_an_unknown_level_lists_the_known_ones(level, wide, tmp_path):
    with pytest.raises(InvalidInputError, match=r"known are F32, .*, Q4_K_M, .*IQ1_S"):
        quantize(wide, tmp_path / "small.gguf", level)
    assert names(tmp_path) == []


# ------------------------------------------------------------------ importance matrices


def test_both_formats_of_an_importance_matrix_give_the_same_file(wide, tmp_path):
    rng = np.random.default_rng(0)
    n_columns = imatrix_files.columns(wide)
    values = {n: rng.gamma(1.0, 1.0, k).astype(np.float32) for n, k in n_columns.items()}
    new = imatrix_files.write(tmp_path / "new.gguf", values)
    old = imatrix_files.write_old(tmp_path / "old.dat", values)
    a = quantize(wide, tmp_path / "a.gguf", "IQ3_XXS", imatrix=new)
    b = quantize(wide, tmp_path / "b.gguf", "IQ3_XXS", imatrix=old)
    assert a.read_bytes() == b.read_bytes()


def test_columns_of_more_importance_come_out_closer(wide, tmp_path):
    name = "blk.0.ffn_up.weight"
    values = imatrix_files.ones(wide)
    values[name][::4] = 1000.0
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", values)
    source = {t.name: t.data for t in gguf.GGUFReader(wide).tensors}[name]

    def error(path):
        tensor = {t.name: t for t in gguf.GGUFReader(path).tensors}[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return np.square(values - source)[:, ::4].mean()

    plain = quantize(wide, tmp_path / "plain.gguf", "Q4_K_S")
    weighed = quantize(wide, tmp_path / "weighed.gguf", "Q4_K_S", imatrix=imatrix)
    assert error(weighed) < 0.8 * error(plain)


@pytest.mark.parametrize("level", NEED_IMATRIX)
def test_a_missing_importance_matrix_is_found_before_any_work(level, wide, tmp_path):
    progress = []
    with pytest.raises(InvalidInputError, match=r"blk\.0\..* needs its importance matrix; give"):
        quantize(
            wide, tmp_path / "small.gguf", level, progress=lambda *state: progress.append(state)
        )
    assert progress == []
    assert names(tmp_path) == []


def test_the_other_levels_need_no_importance_matrix(wide, tmp_path):
    for level in quantize_levels():
        if level not in NEED_IMATRIX:
            assert quantize(wide, tmp_path / "small.gguf", level).exists()


def test_a_missing_entry_is_found_before_any_work(wide, tmp_path):
    values = imatrix_files.ones(wide)
    del values["blk.1.attn_q.weight"]
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", values)
    progress = []
    with pytest.raises(InvalidInputError, match=r"blk\.1\.attn_q\.weight becomes iq2_xs, which"):
        quantize(
            wide,
            tmp_path / "small.gguf",
            "IQ2_XS",
            imatrix=imatrix,
            progress=lambda *state: progress.append(state),
        )
    assert progress == []
    assert quantize(wide, tmp_path / "small.gguf", "Q4_K_M", imatrix=imatrix).exists()


@pytest.mark.parametrize("write", [imatrix_files.write, imatrix_files.write_old])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v: {n: x[:-1] for n, x in v.items()}, InvalidInputError, "255 values for .* 256"),
        (lambda v: {f"{n}s": x for n, x in v.items()}, InvalidInputError, "of another model"),
        (lambda v: {n: x * np.nan for n, x in v.items()}, ModelFormatError, "holds the value nan"),
        (lambda v: {n: x * np.inf for n, x in v.items()}, ModelFormatError, "holds the value inf"),
        (lambda v: {n: -x for n, x in v.items()}, ModelFormatError, "holds the value -1"),
    ],
    ids=["size", "names", "nan", "inf", "negative"],
)
def test_an_importance_matrix_that_does_not_fit_is_named(
    write, change, error, message, wide, tmp_path
):
    imatrix = write(tmp_path / "imatrix", change(imatrix_files.ones(wide)))
    with pytest.raises(error, match=message) as raised:
        quantize(wide, tmp_path / "small.gguf", "Q4_K_M", imatrix=imatrix)
    assert "imatrix" in str(raised.value)
    assert not (tmp_path / "small.gguf").exists()


@pytest.mark.parametrize("level", ["IQ2_XXS", "IQ2_S", "IQ3_XXS", "IQ1_M", "Q2_K_S", "Q4_K_M"])
@pytest.mark.parametrize(
    "entry",
    [
        lambda n: np.zeros(n),
        lambda n: (np.arange(n) >= 256) * 1.0,
        lambda n: (np.arange(n) % 3 > 0) * 1.0,
        lambda n: np.full(n, 3e38 / imatrix_files.N_CALLS),
        lambda n: np.full(n, 1e-44),
        lambda n: 10.0 ** np.linspace(-37, 37, n),
    ],
    ids=["zeros", "a block of zeros", "some zeros", "huge", "tiny", "spread"],
)
def test_any_finite_importance_is_usable(entry, level, wide, tmp_path, capfd):
    values = {name: entry(n) for name, n in imatrix_files.columns(wide).items()}
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", values)
    path = quantize(wide, tmp_path / "small.gguf", level, imatrix=imatrix)
    assert np.isfinite(rows_of(path, ["a text"])).all()
    assert capfd.readouterr() == ("", "")


def test_an_entry_that_met_no_token_weighs_all_columns_alike(wide, tmp_path):
    empty = imatrix_files.write(tmp_path / "empty.gguf", imatrix_files.ones(wide), counts=0)
    ones = imatrix_files.write(tmp_path / "ones.gguf", imatrix_files.ones(wide))
    a = quantize(wide, tmp_path / "a.gguf", "Q2_K", imatrix=empty)
    b = quantize(wide, tmp_path / "b.gguf", "Q2_K", imatrix=ones)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: None, ModelFileError, "No such file"),
        (lambda p: p.mkdir(), ModelFileError, "irectory"),
        (lambda p: p.write_bytes(b""), ModelFormatError, "ends too early"),
        (lambda p: p.write_text("not a matrix at all\n" * 9), ModelFormatError, "name of entry 0"),
        (lambda p: p.write_bytes(b"\0" * 64), ModelFormatError, "it has 0 entries"),
        (lambda p: p.write_bytes(b"GGUF"), ModelFormatError, "imatrix"),
    ],
    ids=["missing", "folder", "empty", "text", "zeros", "header alone"],
)
def test_a_file_that_is_no_importance_matrix_is_refused(make, error, message, wide, tmp_path):
    imatrix = tmp_path / "imatrix"
    make(imatrix)
    with pytest.raises(error, match=message):
        quantize(wide, tmp_path / "small.gguf", "Q4_K_M", imatrix=imatrix)


def test_a_model_is_no_importance_matrix(wide, tmp_path):
    with pytest.raises(ModelFormatError, match=r"no tensor named \*\.in_sum2"):
        quantize(wide, tmp_path / "small.gguf", "Q4_K_M", imatrix=wide)


@pytest.mark.parametrize("form", ["gguf", "old"])
def test_an_importance_matrix_that_ends_early_is_refused(form, wide, tmp_path):
    values = dict(list(imatrix_files.ones(wide).items())[:2])
    if form == "gguf":
        data = imatrix_files.write(tmp_path / "whole", values).read_bytes()[:-28]  # padding
    else:
        data = imatrix_files.old_bytes(values)[: -len(b"texts.txt") - 8]  # without the optional end
    imatrix = tmp_path / "imatrix"
    for n in sorted({*range(80), *range(80, len(data), 97), len(data) - 1}):
        imatrix.write_bytes(data[:n])
        with pytest.raises(EmbedError):
            quantize(wide, tmp_path / "small.gguf", "Q4_K_M", imatrix=imatrix)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_importance_matrix_is_an_error_or_works(data, wide, tmp_path):
    values = dict(list(imatrix_files.ones(wide).items())[:3])
    old = data.draw(st.booleans())
    whole = (
        imatrix_files.old_bytes(values)
        if old
        else imatrix_files.write(tmp_path / "whole", values).read_bytes()
    )
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(broken), 600) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    imatrix = tmp_path / "imatrix"
    imatrix.write_bytes(broken)
    with contextlib.suppress(EmbedError):
        quantize(wide, tmp_path / "small.gguf", "Q4_K_M", imatrix=imatrix, n_threads=1)
        assert np.isfinite(rows_of(tmp_path / "small.gguf", ["a text"])).all()
    assert leftovers(tmp_path) == []


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(("given", "stored"), [("q8_0", "Q8_0"), ("F16", "F16"), ("q4_K", "Q4_K")])
def test_token_embeddings_may_keep_another_type(given, stored, wide, tmp_path):
    path = quantize(wide, tmp_path / "small.gguf", "Q3_K_M", token_embedding_type=given)
    assert types_of(path)["token_embd.weight"] == stored
    plain = quantize(wide, tmp_path / "plain.gguf", "Q3_K_M")
    others = {n: t for n, t in types_of(path).items() if n != "token_embd.weight"}
    assert others == {n: t for n, t in types_of(plain).items() if n != "token_embd.weight"}


def test_every_type_of_token_embeddings_can_be_run(wide, tmp_path):
    with pytest.raises(InvalidInputError, match="known are f32, ") as raised:
        quantize(wide, tmp_path / "small.gguf", "F32", token_embedding_type="q9")
    known = str(raised.value).split("known are ")[1].split(", ")
    assert {"f32", "q8_0", "q6_K", "iq4_xs", "q2_K"} <= set(known)
    for name in known:
        path = quantize(wide, tmp_path / "small.gguf", "F32", token_embedding_type=name)
        assert np.isfinite(rows_of(path, TEXTS[:3])).all(), name


def test_a_type_whose_blocks_do_not_fit_the_token_embeddings_is_refused(tiny, tmp_path):
    message = "token_embd.weight has rows of 48 values, which q4_K packs in blocks of 256"
    with pytest.raises(InvalidInputError, match=message):
        quantize(tiny("qwen3-last"), tmp_path / "x.gguf", "Q4_K_M", token_embedding_type="q4_K")


def test_a_quantised_source_is_refused_unless_allowed(wide, wide_rows, tmp_path):
    eight = quantize(wide, tmp_path / "eight.gguf", "Q8_0")
    with pytest.raises(InvalidInputError, match=r"eight\.gguf is quantised already .* is q8_0"):
        quantize(eight, tmp_path / "four.gguf", "Q4_K_M")
    assert not (tmp_path / "four.gguf").exists()
    again = quantize(eight, tmp_path / "four.gguf", "Q4_K_M", requantize=True)
    assert (rows_of(again, TEXTS) * wide_rows).sum(axis=1).min() > 0.97


@pytest.mark.parametrize("level", ["F16", "BF16"])
def test_half_precision_may_be_quantised(level, wide, wide_rows, tmp_path):
    half = quantize(wide, tmp_path / "half.gguf", level)
    small = quantize(half, tmp_path / "small.gguf", "Q6_K")
    assert (rows_of(small, TEXTS) * wide_rows).sum(axis=1).min() > 0.995


def test_pure_gives_all_matrices_one_type(wide, tmp_path):
    matrices = {*imatrix_files.columns(wide), "token_embd.weight"}
    for pure, n_types in ((True, 1), (False, 2)):
        types = types_of(quantize(wide, tmp_path / "small.gguf", "Q4_K_M", pure=pure))
        assert len({types[name] for name in matrices}) == n_types


def test_pure_levels_that_need_importance_for_the_embeddings_are_refused(
    wide, wide_imatrix, tmp_path
):
    with pytest.raises(InvalidInputError, match=r"token_embd\.weight becomes iq2_xxs, which needs"):
        quantize(wide, tmp_path / "small.gguf", "IQ2_XXS", imatrix=wide_imatrix, pure=True)


def test_the_number_of_threads_does_not_change_the_file(wide, wide_imatrix, tmp_path):
    one, three = (
        quantize(wide, tmp_path / f"{n}.gguf", "IQ3_S", imatrix=wide_imatrix, n_threads=n)
        for n in (1, 3)
    )
    assert one.read_bytes() == three.read_bytes()


def test_a_split_source_becomes_one_file(wide, tmp_path):
    gguf_files.copy(wide, tmp_path / "split.gguf", split_tensors=9)
    parts = sorted(tmp_path.glob("split-*-of-*.gguf"))
    assert len(parts) > 2
    whole = quantize(wide, tmp_path / "whole.gguf", "Q5_K_M")
    joined = quantize(parts[0], tmp_path / "joined.gguf", "Q5_K_M")
    np.testing.assert_array_equal(rows_of(joined, TEXTS[:5]), rows_of(whole, TEXTS[:5]))
    parts[1].unlink()
    with pytest.raises(ModelFileError, match=parts[1].name):
        quantize(parts[0], tmp_path / "joined.gguf", "Q5_K_M")


@pytest.mark.parametrize("name", ["bert-mean", "modern-bert-mean", "gemma3-last", "lfm2-mean"])
def test_rows_too_narrow_for_a_type_fall_back_to_another(name, tiny, tmp_path):
    path = quantize(tiny(name), tmp_path / "small.gguf", "Q4_K_M")
    near = (rows_of(path, TEXTS[:9]) * rows_of(tiny(name), TEXTS[:9])).sum(axis=1)
    assert near.min() > 0.95


# ------------------------------------------------------------------ progress and files


def test_progress_counts_the_bytes_of_the_tensors(wide, tmp_path):
    states = []
    quantize(wide, tmp_path / "x.gguf", "Q8_0", progress=lambda *state: states.append(state))
    total = sum(t.n_bytes for t in gguf.GGUFReader(wide).tensors)
    done = [state[0] for state in states]
    assert {state[1] for state in states} == {total}
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert len(states) > 10


@pytest.mark.parametrize("calls_before", [0, 5])
def test_an_exception_of_progress_stops_and_leaves_the_old_file(calls_before, wide, tmp_path):
    target = tmp_path / "small.gguf"
    target.write_text("old")
    calls = []

    def stop(*state):
        calls.append(state)
        if len(calls) > calls_before:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        quantize(wide, target, "Q4_K_M", progress=stop)
    assert len(calls) == calls_before + 1
    assert target.read_text() == "old"
    assert names(tmp_path) == ["small.gguf"]


def test_the_target_is_replaced_when_it_is_complete(wide, tmp_path):
    target = tmp_path / "small.gguf"
    target.write_text("old")
    seen = []
    quantize(wide, target, "Q4_K_M", progress=lambda *_: seen.append(target.read_text()))
    assert set(seen) == {"old"}
    assert types_of(target)["token_embd.weight"] == "Q6_K"
    assert target.stat().st_mode & 0o777 == wide.stat().st_mode & 0o777


def test_target_and_source_must_differ(wide, tmp_path):
    source = tmp_path / "model.gguf"
    source.write_bytes(wide.read_bytes())
    hard, soft = tmp_path / "hard.gguf", tmp_path / "soft.gguf"
    hard.hardlink_to(source)
    soft.symlink_to(source)
    for target in (source, hard, soft, tmp_path / "." / "model.gguf"):
        with pytest.raises(InvalidInputError, match="the same file as"):
            quantize(source, target, "Q8_0")
    assert source.read_bytes() == wide.read_bytes()


def test_target_and_importance_matrix_must_differ(wide, wide_imatrix):
    with pytest.raises(InvalidInputError, match="the same file as"):
        quantize(wide, wide_imatrix, "Q8_0", imatrix=wide_imatrix)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (".", ModelFileError),
        ("no/such/folder/x.gguf", ModelFileError),
        (os.devnull, InvalidInputError),
        ("a\0b", InvalidInputError),
    ],
)
def test_a_target_that_cannot_be_a_file_is_refused(target, error, wide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        quantize(wide, target, "Q8_0")
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_an_error_and_leaves_nothing(run_python, wide, tmp_path):
    done = run_python(
        """
import resource, sys
from ggembed import ModelFileError, quantize
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    quantize(sys.argv[1], sys.argv[2], "Q8_0")
except ModelFileError as err:
    print(err)
""",
        wide,
        tmp_path / "small.gguf",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "cannot write" in done.stdout
    assert "small.gguf" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [("missing.gguf", "missing.gguf"), (".", "irectory"), (__file__, "is not a GGUF file")],
)
def test_a_source_that_is_no_model_is_named(source, message, tmp_path):
    with pytest.raises(EmbedError, match=message):
        quantize(source, tmp_path / "x.gguf", "Q8_0")


@pytest.mark.parametrize("level", ["F32", "BF16", "Q8_0", "Q4_K_M", "IQ3_S"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e5])
def test_weights_that_no_type_holds_are_named(value, level, wide, tmp_path, capfd):
    source = gguf_files.copy(
        wide, tmp_path / "source.gguf", values=[("blk.1.ffn_up.weight", (3, 7), value)]
    )
    if value == 1e5 and level in ("F32", "BF16"):
        quantize(source, tmp_path / "x.gguf", level)
        return
    with pytest.raises(ModelFormatError, match=r"blk\.1\.ffn_up\.weight holds the value"):
        quantize(source, tmp_path / "x.gguf", level)
    assert names(tmp_path) == ["source.gguf"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "level", ["IQ1_S", "IQ2_XXS", "IQ3_XXS", "Q2_K", "Q4_K_M", "IQ4_XS", "Q4_0"]
)
def test_weights_at_the_ends_of_the_range_are_quantised(level, wide, wide_imatrix, tmp_path, capfd):
    rng = np.random.default_rng(1)
    name = "blk.0.ffn_up.weight"
    shape = {t.name: t.data.shape for t in gguf.GGUFReader(wide).tensors}[name]
    rows = rng.choice([65504.0, -65504.0, 0.0, 1e-40, 6e-8, 1.0], shape).astype(np.float32)
    rows[:8] = [[0.0], [65504.0], [1e-40], [-1.0], [1e-30], [6e-8], [1.0], [-65504.0]]
    source = gguf_files.copy(wide, tmp_path / "source.gguf", values=[(name, ..., rows)])
    quantize(source, tmp_path / "x.gguf", level, imatrix=wide_imatrix, n_threads=2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("level", UNTRAINED)
def test_levels_of_models_trained_in_them_still_give_finite_rows(level, tiny, tmp_path):
    if level == "Q1_0":  # upstream has no other type for rows that do not fill its blocks
        with pytest.raises(UnsupportedError, match="no tensor type fallback"):
            quantize(tiny("bert-mean"), tmp_path / "small.gguf", level)
        return
    path = quantize(tiny("bert-mean"), tmp_path / "small.gguf", level)
    assert np.isfinite(rows_of(path, TEXTS[:9])).all()
