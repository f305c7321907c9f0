"""Whole omni models without real weights: text models with towers against transformers.

The lines "omni" at the end of a run are the table of parity: what is compared, what was found, what
is asked, and with what.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import gguf
import golden
import make_tiny_models
import media_cases
import numpy as np
import pytest
import rows
import tiny_omni
from ggembed import _native, quantize
from tiny_omni import INPUTS, LAYOUTS, Input, Video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ON, OFF = 1, 2  # gge_switch

# Least cosine with the reference: of texts, of rows of towers. Asked for are 0.99999 and 0.9995.
TEXT, TOWER = 0.999999, 0.999999

# And of whole inputs, of which 0.999 is asked for, by flash attention. It adds up in 16 bits for
# the last few tokens of an input that spans micro-batches, and attention is sharp in these models.
WHOLE = {ON: 0.999, OFF: 0.999999}

# Least cosine between an input alone and together with others.
APART = {ON: 0.999999, OFF: 0.9999999}

OMNI = ("small", "nano")


@pytest.fixture(scope="module")
def data():
    return golden.load("omni.npz")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The text model and the towers of a layout, written once."""
    made: dict[str, tuple[Path, list[Path]]] = {}

    def get(layout: str) -> tuple[Path, list[Path]]:
        if layout not in made:
            made[layout] = tiny_omni.write(layout, tmp_path_factory.mktemp(layout))
        return made[layout]

    return get


@pytest.fixture
def table(figures):
    """Takes a line of the table, and asserts it."""

    def line(test: str, found: float, limit: float, reference: str, *, least: bool = True) -> None:
        what = "cosine" if least else "error"
        good = found >= limit if least else found <= limit
        shown = f"{found:.8f}" if least else f"{found:.1e}"
        sign = ">=" if least else "<="
        figures(f"omni | {test} | {what} {shown} | {sign} {limit} | {reference}")
        assert good, f"{test}: {what} {found}, asked for {sign} {limit}"

    return line


class Omni(rows.Native):
    """A text model with towers, and media made once."""

    def __init__(self, text: Path, towers: Iterable[Path], **numbers: int) -> None:
        super().__init__(text, mmproj=list(towers), **numbers)
        self._media: dict[str, _native.Media] = {}

    def medium(self, kind: str, name: str) -> _native.Media:
        if name not in self._media:
            self._media[name] = self._make(kind, tiny_omni.medium(name))
        return self._media[name]

    def _make(self, kind: str, medium: np.ndarray | Video) -> _native.Media:
        if kind == "image":
            return _native.Media.image(self.model, medium)
        if kind == "audio":
            return _native.Media.audio(self.model, medium)
        height, width, _ = medium.frames[0].shape
        seconds = None if medium.seconds is None else np.array(medium.seconds)
        shown = [np.ascontiguousarray(f) for f in medium.frames]
        return _native.Media.video(self.model, shown, len(shown), (width, height), seconds)

    def tokens(self, inputs: Iterable[Input], **options: object) -> _native.Tokens:
        parts: list[list[_native.Part]] = [
            [
                (kind, value.encode())
                if kind in ("text", "template")
                else ("media", self.medium(kind, value))
                for kind, value in (("text", i.prompt), *i.parts)
            ]
            for i in inputs
        ]
        offsets = np.cumsum([0, *map(len, parts)]).astype(np.int64)
        flat = list(itertools.chain.from_iterable(parts))
        return _native.Tokens(self.model, b"", offsets, parts=flat, **options)

    def rows_of(
        self, inputs: Iterable[Input], *, dim: int = 0, normalize: bool = False
    ) -> np.ndarray:
        tokens = self.tokens(inputs)
        out = np.full((tokens.n_texts, dim or self.info["n_embd"]), np.nan, np.float32)
        self.engine.encode(tokens, out, pooling="default", truncate_dim=dim, normalize=normalize)
        return out


@pytest.fixture(scope="module")
def omni(files):
    """A layout with its towers; without flash attention, many inputs share a micro-batch."""
    made: dict[tuple[str, int], Omni] = {}

    def get(layout: str, flash: int = ON) -> Omni:
        if (layout, flash) not in made:
            n_ubatch = 2048 if flash == OFF else 0
            numbers = {"flash_attention": flash, "n_ubatch": n_ubatch}
            made[layout, flash] = Omni(*files(layout), **numbers)
        return made[layout, flash]

    yield get
    for model in made.values():
        model.engine.close()


_HOW = {ON: "", OFF: ", no flash attention"}


def one(cosines: np.ndarray, names: Iterable[str]) -> str:
    worst = int(np.argmin(cosines))
    return f"worst: {list(names)[worst]}"


# ---------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_rows_belong_to_these_inputs(layout, data):
    again = "run reference_omni.py"
    assert str(data[f"{layout}/content_sha256"]) == tiny_omni.content_sha256(layout), again
    assert str(data[f"{layout}/inputs_sha256"]) == tiny_omni.inputs_sha256(INPUTS[layout]), again


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_and_places_of_media_equal_the_reference(layout, omni, data):
    wanted = golden.split(data[f"{layout}/ids"], data[f"{layout}/offsets"])
    found = rows.ids_of(omni(layout).tokens(INPUTS[layout].values()))
    assert dict(zip(INPUTS[layout], found, strict=True)) == dict(
        zip(INPUTS[layout], wanted, strict=True)
    )


@pytest.mark.parametrize("flash", [ON, OFF])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_equal_the_reference(layout, flash, omni, data, table):
    inputs = INPUTS[layout]
    found = omni(layout, flash).rows_of(inputs.values())
    compare_whole(layout, flash, inputs, found, data[f"{layout}/rows"], table)


def compare_whole(
    label: str,
    flash: int,
    inputs: dict[str, Input],
    found: np.ndarray,
    wanted: np.ndarray,
    table: Callable[..., None],
) -> None:
    cosine = golden.cosine(found, wanted)
    is_text = np.array([all(k == "text" for k, _ in i.parts) for i in inputs.values()])
    for what, chosen, limit in (("text", is_text, TEXT), ("whole inputs", ~is_text, WHOLE[flash])):
        names = list(itertools.compress(inputs, chosen))
        test = f"{label}{_HOW[flash]}: {what} ({len(names)}), {one(cosine[chosen], names)}"
        table(test, cosine[chosen].min(), limit, "transformers")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_towers_equal_the_reference(layout, files, data, table, tmp_path):
    text = make_tiny_models.write(tiny_omni.passing_text_model(layout), tmp_path / "text.gguf")
    with Omni(text, files(layout)[1]) as model:
        for group, parts in tiny_omni.TOWERS[layout].items():
            cosines = []
            for part in parts:
                tokens = model.tokens([Input((part,))])
                is_row = np.array(rows.ids_of(tokens)[0]) < 0
                assert is_row.sum() == data[f"{layout}/{part[1]}/n_rows"], part
                found = model.encode(tokens, pooling="none")[is_row]
                kept = found[tiny_omni.sampled(len(found))]
                cosines.append(golden.cosine(kept, data[f"{layout}/{part[1]}/rows"]).min())
            worst = one(np.array(cosines), [name for _, name in parts])
            table(f"{layout}: {group}, {worst}", min(cosines), TOWER, "transformers")


def test_spectrograms_equal_the_reference(internals, table):
    wanted, errors = golden.load("media.npz"), []
    for name, samples in media_cases.sounds().items():
        mel = internals.log_mel(samples, media_cases.N_BINS)
        mel = media_cases.thinned(mel[:, : media_cases.n_compared_frames(len(samples))])
        errors.append(np.abs(mel - wanted[f"mel/{name}"]).max())
    table(f"mel of {len(errors)} sounds", max(errors), 1e-3, "WhisperFeatureExtractor", least=False)


# ---------------------------------------------------------------------------- counts


@pytest.mark.parametrize("layout", OMNI)
@pytest.mark.parametrize(
    ("name", "n_rows"), [("half a second", 12), ("11 s", 275), ("30 s", 750), ("61 s", 1525)]
)
def test_sound_has_25_rows_per_second(layout, name, n_rows, omni):
    assert omni(layout).medium("audio", name).n_rows == n_rows
    ids = rows.ids_of(omni(layout).tokens([INPUTS[layout][name]]))[0]
    assert ids.count(-1) == n_rows


# ---------------------------------------------------------------------------- one batch


@pytest.mark.parametrize("layout", OMNI)
def test_text_beside_media_equals_text_by_ids(layout, files, table):
    """In a micro-batch with a medium, texts are computed from rows of the table."""
    texts = [INPUTS[layout][n] for n in ("text", "text, query", "long text")]
    medium = INPUTS[layout]["half a second"]
    with Omni(*files(layout), n_ubatch=1024) as model:
        by_ids = model.rows_of(texts, normalize=True)
        beside = model.rows_of([*texts, medium], normalize=True)[:-1]
    error = np.abs(by_ids - beside).max()
    table(f"{layout}: text in a batch of rows", error, 1e-5, "the same by ids", least=False)


# Left out for they take long and others are alike.
_NOT_ALONE = (
    *("30 s", "61 s", "11 s, query", "audio, text", "pages turned", "swapped pair"),
    *("image stamp", "image banner", "text, image, text"),
)


@pytest.mark.parametrize("flash", [ON, OFF])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_in_one_call_equal_each_alone(layout, flash, omni, table):
    inputs = {n: i for n, i in INPUTS[layout].items() if n not in _NOT_ALONE}
    model = omni(layout, flash)
    together = model.rows_of(inputs.values())
    alone = np.concatenate([model.rows_of([i]) for i in inputs.values()])
    cosine = golden.cosine(together, alone)
    test = f"{layout}{_HOW[flash]}: {len(inputs)} inputs in one call, {one(cosine, inputs)}"
    table(test, cosine.min(), APART[flash], "each alone")


@pytest.mark.parametrize("layout", OMNI)
@pytest.mark.parametrize(
    ("i_tower", "names"),
    [(0, ["image photo", "two pages", "pair"]), (1, ["half a second", "11 s", "audio, text"])],
)
def test_a_second_projector_changes_no_bit(layout, i_tower, names, files):
    text, towers = files(layout)
    inputs = [INPUTS[layout][n] for n in names]
    with Omni(text, towers) as both, Omni(text, [towers[i_tower]]) as single:
        np.testing.assert_array_equal(single.rows_of(inputs), both.rows_of(inputs))


@pytest.mark.parametrize("layout", OMNI)
def test_the_order_of_towers_on_loading_does_not_matter(layout, files):
    text, towers = files(layout)
    everything = [INPUTS[layout]["everything"]]
    with Omni(text, towers[::-1]) as turned, Omni(text, towers) as plain:
        np.testing.assert_array_equal(turned.rows_of(everything), plain.rows_of(everything))


@pytest.mark.parametrize("layout", OMNI)
@pytest.mark.parametrize("dim", [1, 16, 32])
def test_a_shorter_row_of_media_is_cut_and_then_normalised(layout, dim, omni, table):
    inputs = [INPUTS[layout][n] for n in ("image square", "11 s", "pair", "everything")]
    full = omni(layout).rows_of(inputs).astype(np.float64)[:, :dim]
    wanted = (full / np.linalg.norm(full, axis=1, keepdims=True)).astype(np.float32)
    found = omni(layout).rows_of(inputs, dim=dim, normalize=True)
    error = np.abs(found - wanted).max()
    table(f"{layout}: {dim} numbers of a row", error, 6e-8, "cut, then normalised", least=False)


# ---------------------------------------------------------------------------- what matters


@pytest.mark.parametrize("layout", OMNI)
@pytest.mark.parametrize(
    ("one_way", "other_way"),
    [
        ("text, image", "image, text"),
        ("two pages", "pages turned"),
        ("pair", "swapped pair"),
        ("image square", "image, document"),
        ("11 s", "11 s, query"),
        ("image square", "chat"),
    ],
)
def test_order_and_prompt_change_the_row(layout, one_way, other_way, omni):
    found = omni(layout).rows_of([INPUTS[layout][n] for n in (one_way, other_way)])
    assert golden.cosine(found[0], found[1]) < 0.9999


@pytest.mark.parametrize("name", ["image square", "11 s", "pair", "text"])
def test_nano_without_its_end_token_is_another_row(name, omni):
    model, inputs = omni("nano"), [INPUTS["nano"][name]]
    bare = model.encode(model.tokens(inputs, add_special=False), pooling="default")
    assert golden.cosine(bare, model.rows_of(inputs))[0] < 0.99


def test_nano_ends_with_its_token_whatever_the_file_says(omni, files, tmp_path):
    model = tiny_omni.text_model("nano")
    keys = {k: v for k, v in model.vocab.keys.items() if k != "add_eos_token"}
    vocab = replace(model.vocab, keys=keys)
    path = make_tiny_models.write(replace(model, vocab=vocab), tmp_path / "t.gguf")
    inputs = [INPUTS["nano"][n] for n in ("image square", "11 s", "text, image")]
    with Omni(path, files("nano")[1]) as without:
        found = rows.ids_of(without.tokens(inputs))
    assert found == rows.ids_of(omni("nano").tokens(inputs))
    assert all(ids[-1] == vocab.tokens.index("<|end_of_text|>") for ids in found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_is_the_same_as_text_in_front(layout, omni):
    model = omni(layout)
    for i in INPUTS[layout].values():
        if i.prompt:
            prompted = model.tokens([Input(i.parts)], prompt=i.prompt.encode())
            assert rows.ids_of(prompted) == rows.ids_of(model.tokens([i]))


# ---------------------------------------------------------------------------- quantised tables

# Least cosine of rows whose table of tokens has a type, to those of the F32 table. All types that
# the quantiser makes of it.
TABLES = {
    "f16": 0.999999,
    "bf16": 0.9999,
    "q8_0": 0.9999,
    "q6_K": 0.998,
    "q5_1": 0.999,
    "q5_K": 0.995,
    "q5_0": 0.998,
    "q4_1": 0.99,
    "q4_K": 0.99,
    "q4_0": 0.99,
    "iq4_nl": 0.99,
    "iq4_xs": 0.99,
    "q3_K": 0.97,
    "iq3_s": 0.95,
    "iq3_xxs": 0.95,
    "q2_K": 0.9,
    "tq2_0": 0.8,
    "tq1_0": 0.8,
}


# Text models whose rows every type can hold.
WIDE = {"small": "qwen3-wide-last", "nano": "eurobert-wide-last"}

_FUSED = ("text, image", "image, document", "audio, text")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Such a model, its towers, inputs of text and media, and their rows."""
    made = {}

    def get(layout: str) -> tuple[Path, list[Path], list[Input], np.ndarray]:
        if layout not in made:
            folder = tmp_path_factory.mktemp(layout)
            text, towers = tiny_omni.write(layout, folder, base=WIDE[layout])
            inputs = [INPUTS[layout][n] for n in _FUSED]
            with Omni(text, towers) as model:
                made[layout] = text, towers, inputs, model.rows_of(inputs, normalize=True)
        return made[layout]

    return get


def _set_table(source: Path, target: Path, table: np.ndarray) -> Path:
    """A copy of an F32 file with another table."""
    data = source.read_bytes()
    reader = gguf.GGUFReader(source)
    tensor = next(t for t in reader.tensors if t.name == "token_embd.weight")
    end = tensor.data_offset + table.nbytes
    target.write_bytes(data[: tensor.data_offset] + table.tobytes() + data[end:])
    return target


@pytest.mark.parametrize(
    ("layout", "table_type"),
    [("small", t) for t in TABLES] + [("nano", t) for t in ("f16", "q8_0", "q6_K", "q4_K")],
)
def test_tokens_beside_media_read_tables_of_any_type(layout, table_type, wide, table, tmp_path):
    text, towers, inputs, whole = wide(layout)
    path = quantize(text, tmp_path / "text.gguf", "F32", token_embedding_type=table_type)
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")
    assert tensor.tensor_type.name.lower() == table_type.lower()
    plain = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    dequantised = _set_table(text, tmp_path / "plain.gguf", plain)
    with Omni(path, towers) as quantised, Omni(dequantised, towers) as other:
        found = quantised.rows_of(inputs, normalize=True)
        assert np.abs(found - other.rows_of(inputs, normalize=True)).max() <= 1e-5
    limit = TABLES[table_type]
    cosine = golden.cosine(found, whole).min()
    table(f"{layout}: {table_type} table of tokens", cosine, limit, "F32 table")


# ---------------------------------------------------------------------------- at run time

_MISSING = [p for p in ("torch", "transformers", "PIL") if find_spec(p) is None]

live = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")


@pytest.fixture(scope="module")
def reference():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reference_omni
        import torch

    torch.set_num_threads(1)
    return reference_omni


@live
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_other_inputs_equal_transformers(layout, files, omni, reference, table):
    there, inputs = (
        reference.OmniReference(LAYOUTS[layout], files(layout)[0]),
        tiny_omni.LIVE[layout],
    )
    sequences = [there.sequence(i) for i in inputs.values()]
    assert rows.ids_of(omni(layout).tokens(inputs.values())) == [s.ids for s in sequences]
    wanted = np.stack([there.row(s) for s in sequences])
    for flash in (ON, OFF):
        found = omni(layout, flash).rows_of(inputs.values())
        compare_whole(f"live {layout}", flash, inputs, found, wanted, table)


@live
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_nano_equals_a_llama_without_causality(files, reference):
    there = reference.OmniReference(LAYOUTS["nano"], files("nano")[0])
    for name in ("text, query", "text, image", "half a second"):
        sequence = there.sequence(INPUTS["nano"][name])
        np.testing.assert_allclose(
            there.states(sequence), there.as_llama().states(sequence), atol=1e-9
        )
