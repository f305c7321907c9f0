"""LoRA adapters against golden rows of transformers with merged weights. No torch here."""

from __future__ import annotations

import threading

import golden
import make_tiny_adapters
import make_tiny_models
import numpy as np
import pytest
import rows
from ggembed import (
    EmbedError,
    InvalidInputError,
    ModelFileError,
    ModelFormatError,
    UnsupportedError,
)
from test_parity import LIMITS, OWN_LIMITS

BASE = "qwen3-last"

# With changes of several times the weights' size the keys grow, and with them their rounding to
# F16: a merged file is as far off.
LIMIT_STRONG = 0.99999


@pytest.fixture(scope="module")
def adapters_golden():
    return golden.load("adapters.npz")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The file of a tiny adapter by the name of its base and its own, written once per run."""
    folder = tmp_path_factory.mktemp("adapters")

    def get(base, name, **options):
        label = "-".join([base, name, *options])
        path = folder / f"{label}.gguf"
        content = make_tiny_adapters.build(make_tiny_models.build(base), name)
        return path if path.exists() else make_tiny_adapters.write(content, path, **options)

    return get


def all_of(base, adapter):
    return [adapter(base, name) for name in make_tiny_adapters.NAMES]


@pytest.mark.parametrize("name", golden.ADAPTER_BASES)
def test_rows_with_an_adapter_equal_merged_weights_in_torch(
    name, tiny, adapter, adapters_golden, figures
):
    base = make_tiny_models.build(name)
    assert str(adapters_golden[f"{name}/content_sha256"]) == base.content_sha256()
    inputs, pooling = golden.tiny_ids(base), golden.own_pooling(name)
    with rows.Native(tiny(name), all_of(name, adapter)) as model:
        plain = model.encode(inputs, pooling=pooling)
        for i, kind in enumerate(make_tiny_adapters.NAMES, 1):
            for scale in golden.ADAPTER_SCALES:
                found = model.encode(inputs, pooling=pooling, adapter=i, adapter_scale=scale)
                wanted = adapters_golden[f"{name}/{kind}/{scale}"]
                cosine = golden.cosine(found, wanted)
                worst = np.abs(found - wanted).max()
                figures(
                    f"adapter {kind} x {scale} on {name} F32: min cosine {cosine.min():.8f}, max "
                    f"abs error {worst:.1e}; with the base {golden.cosine(found, plain).mean():.2f}"
                )
                assert cosine.min() >= (LIMITS["F32"] if scale <= 1.0 else LIMIT_STRONG)
                assert worst <= 1e-2  # of values up to 4, with factors up to 2.0 * 20 / 8
                assert golden.cosine(found, plain).mean() < 0.97  # else it would prove nothing


@pytest.mark.parametrize("name", golden.ADAPTER_BASES)
def test_rows_with_an_adapter_equal_a_merged_file(name, tiny, adapter, tmp_path):
    base = make_tiny_models.build(name)
    inputs, pooling = golden.tiny_ids(base), golden.own_pooling(name)
    with rows.Native(tiny(name), all_of(name, adapter)) as model:
        for i, kind in enumerate(make_tiny_adapters.NAMES, 1):
            merged = make_tiny_adapters.merge(base, make_tiny_adapters.build(base, kind), 2.0)
            with rows.Native(make_tiny_models.write(merged, tmp_path / f"{kind}.gguf")) as other:
                wanted = other.encode(inputs, pooling=pooling)
            found = model.encode(inputs, pooling=pooling, adapter=i, adapter_scale=2.0)
            np.testing.assert_allclose(found, wanted, atol=5e-3)
            assert golden.cosine(found, wanted).min() >= 0.999999


def test_no_adapter_is_the_base(tiny, adapter):
    inputs = golden.tiny_ids(make_tiny_models.build(BASE))
    with rows.Native(tiny(BASE)) as base, rows.Native(tiny(BASE), all_of(BASE, adapter)) as model:
        assert (base.info["n_adapters"], model.info["n_adapters"]) == (0, 3)
        wanted = base.encode(inputs, pooling="last")
        for scale in (1.0, 0.5):  # of nothing
            found = model.encode(inputs, pooling="last", adapter=0, adapter_scale=scale)
            np.testing.assert_array_equal(found, wanted)


def test_a_scale_of_zero_means_one(tiny, adapter):
    with rows.Native(tiny(BASE), [adapter(BASE, "first")]) as model:
        inputs = golden.tiny_ids(make_tiny_models.build(BASE))[:3]
        default = model.encode(inputs, pooling="last", adapter=1, adapter_scale=0.0)
        np.testing.assert_array_equal(
            default, model.encode(inputs, pooling="last", adapter=1, adapter_scale=1.0)
        )


def test_adapters_in_turns_give_the_rows_of_separate_models(tiny, adapter):
    inputs = golden.tiny_ids(make_tiny_models.build(BASE))
    wanted = []
    for name in make_tiny_adapters.NAMES:
        with rows.Native(tiny(BASE), [adapter(BASE, name)]) as alone:
            wanted.append(alone.encode(inputs, pooling="last", adapter=1, adapter_scale=1.5))
    with rows.Native(tiny(BASE), all_of(BASE, adapter)) as model:
        for i in (1, 2, 1, 3, 0, 2, 3, 3, 1):
            found = model.encode(inputs, pooling="last", adapter=i, adapter_scale=1.5)
            if i > 0:
                np.testing.assert_array_equal(found, wanted[i - 1])


def test_adapters_at_the_same_time_never_mix(tiny, adapter):
    inputs = golden.tiny_ids(make_tiny_models.build(BASE))
    wrong = []
    with rows.Native(tiny(BASE), all_of(BASE, adapter)) as model:
        wanted = [model.encode(inputs, pooling="last", adapter=i) for i in range(4)]
        barrier = threading.Barrier(8)

        def work(i):
            barrier.wait()
            for _ in range(6):
                found = model.encode(inputs, pooling="last", adapter=i)
                if not np.array_equal(found, wanted[i]):
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(i % 4,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_an_input_over_several_micro_batches_keeps_its_adapter(tiny, adapter):
    ids = [golden.tiny_ids(make_tiny_models.build(BASE))[-1] * 2]
    with (
        rows.Native(tiny(BASE), all_of(BASE, adapter)) as whole,
        rows.Native(tiny(BASE), all_of(BASE, adapter), n_ubatch=64) as pieces,
    ):
        wanted = whole.encode(ids, pooling="mean", adapter=2)
        found = pieces.encode(ids, pooling="mean", adapter=2)
    assert golden.cosine(found, wanted).min() >= LIMITS["F32"]


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_a_quantised_base_takes_adapters_in_full_and_half_precision(
    quant, adapter, tmp_path, adapters_golden, figures
):
    import gguf

    base = make_tiny_models.build("qwen2vl-mean")
    path = make_tiny_models.write(
        base, tmp_path / "base.gguf", quant=gguf.GGMLQuantizationType[quant]
    )
    inputs = golden.tiny_ids(base)
    files = [
        adapter("qwen2vl-mean", "second"),
        adapter("qwen2vl-mean", "second", dtype=np.float16),
    ]
    with rows.Native(path, files) as model:
        for i in (1, 2):
            found = model.encode(inputs, pooling="mean", adapter=i)
            cosine = golden.cosine(found, adapters_golden["qwen2vl-mean/second/1.0"])
            figures(
                f"adapter {'F32' if i == 1 else 'F16'} on {quant}: min cosine {cosine.min():.8f}"
            )
            assert cosine.min() >= OWN_LIMITS[quant]


def test_an_unknown_adapter_is_refused(tiny, adapter):
    ids = [[1, 2, 3]]
    with rows.Native(tiny(BASE), [adapter(BASE, "first")]) as model:
        with pytest.raises(InvalidInputError, match="adapter is 2, the model was loaded with 1"):
            model.encode(ids, pooling="last", adapter=2)
        with pytest.raises(InvalidInputError, match="adapter is -1"):
            model.encode(ids, pooling="last", adapter=-1)
        with pytest.raises(InvalidInputError, match="adapter_scale is not finite"):
            model.encode(ids, pooling="last", adapter=1, adapter_scale=float("nan"))


# Files that are no adapters for the base, and what the error says of them.


def load(tiny, path):
    with rows.Native(tiny(BASE), [path]):
        pass


def refuse(tiny, path, error, match):
    with pytest.raises(error, match=match) as info:
        load(tiny, path)
    assert str(path) in str(info.value)


def changed(**pairs):
    """The first adapter of the base with other pairs; "__" in a name stands for a dot."""
    content = make_tiny_adapters.build(make_tiny_models.build(BASE), "first")
    for name, pair in pairs.items():
        content.pairs[name.replace("__", ".")] = pair
    return content


def matrix(*shape):
    return np.ones(shape, np.float32)


def test_a_file_that_is_not_there_is_named(tiny, tmp_path):
    refuse(tiny, tmp_path / "none.gguf", ModelFileError, "No such file")
    (tmp_path / "text.gguf").write_text("no GGUF")
    refuse(tiny, tmp_path / "text.gguf", ModelFormatError, "not a GGUF file")


def test_a_model_is_not_an_adapter_and_an_adapter_not_a_model(tiny, adapter):
    refuse(tiny, tiny(BASE), ModelFormatError, "not an adapter, its general.type is")
    with pytest.raises(ModelFormatError, match="is an adapter, which is loaded together with"):
        rows.Native(adapter(BASE, "first"))


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        ({"adapter.type": "control_vector"}, UnsupportedError, "control_vector"),
        ({"adapter.lora.alpha": float("nan")}, ModelFormatError, "alpha is not a finite"),
        ({"adapter.lora.alpha": "six"}, ModelFormatError, "alpha is not a finite"),
        ({"adapter.alora.invocation_tokens": "x"}, UnsupportedError, "invocation tokens"),
        ({"general.type": 1.0}, ModelFormatError, "general.type is not a string"),
    ],
)
def test_metadata_of_another_kind_is_refused(keys, error, match, tiny, tmp_path):
    path = make_tiny_adapters.write(changed(), tmp_path / "a.gguf", keys=keys)
    refuse(tiny, path, error, match)


def test_an_adapter_without_alpha_has_factor_one(tiny, tmp_path):
    content = changed()
    factor = content.alpha / 4
    without = make_tiny_adapters.write(
        content, tmp_path / "without.gguf", keys={"adapter.lora.alpha": None}
    )
    inputs = golden.tiny_ids(make_tiny_models.build(BASE))[:4]
    with rows.Native(
        tiny(BASE), [without, make_tiny_adapters.write(content, tmp_path / "with.gguf")]
    ) as model:
        np.testing.assert_allclose(
            model.encode(inputs, pooling="last", adapter=1),
            model.encode(inputs, pooling="last", adapter=2, adapter_scale=1.0 / factor),
            atol=1e-5,
        )


def test_another_architecture_is_refused(tiny, adapter):
    refuse(
        tiny,
        adapter("eurobert-last", "first"),
        ModelFormatError,
        'it is for architecture "eurobert", the model has "qwen3"',
    )


@pytest.mark.parametrize(
    ("pairs", "error", "match"),
    [
        (
            {"blk__0__attn_q__weight": (matrix(4, 47), matrix(64, 4))},
            ModelFormatError,
            r"lora_a \[47, 4\] .* do not fit the model's tensor \[48, 64\]",
        ),
        (
            {"blk__0__attn_q__weight": (matrix(4, 48), matrix(63, 4))},
            ModelFormatError,
            "do not fit",
        ),
        (
            {"blk__0__attn_q__weight": (matrix(4, 48), matrix(64, 5))},
            ModelFormatError,
            "do not fit",
        ),
        (
            {"blk__0__attn_q__weight": (matrix(2, 4, 48), matrix(2, 64, 4))},
            ModelFormatError,
            "do not fit",
        ),
        (
            {"blk__9__attn_q__weight": (matrix(4, 48), matrix(64, 4))},
            ModelFormatError,
            "changes tensor blk.9.attn_q.weight, which the model does not have",
        ),
        (
            {"output_norm__weight": (matrix(4, 48), matrix(1, 4))},
            UnsupportedError,
            "changes tensor output_norm.weight, to which llama.cpp applies no adapters",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(pairs, error, match, tiny, tmp_path):
    path = make_tiny_adapters.write(changed(**pairs), tmp_path / "a.gguf")
    refuse(tiny, path, error, match)


def test_tied_token_embeddings_cannot_be_changed(tiny, tmp_path):
    n_vocab, n_embd = make_tiny_models.build(BASE).tensors["token_embd.weight"].shape
    content = changed(token_embd__weight=(matrix(n_vocab, 4), matrix(n_embd, 4)))
    path = make_tiny_adapters.write(content, tmp_path / "a.gguf")
    with pytest.raises(ModelFormatError, match=r"an output\.weight of its own"):
        load(tiny, path)


def test_single_tensors_are_refused(tiny, tmp_path):
    import gguf

    def write(name, *tensors):
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, "qwen3")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        for tensor, data in tensors:
            writer.add_tensor(tensor, data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    half = ("blk.0.attn_q.weight.lora_a", matrix(4, 48))
    refuse(tiny, write("half", half), ModelFormatError, "lacks blk.0.attn_q.weight.lora_b")
    norm = ("blk.0.attn_norm.weight", matrix(48))
    refuse(tiny, write("norm", norm), UnsupportedError, "holds tensor blk.0.attn_norm.weight")
    refuse(tiny, write("none"), ModelFormatError, "holds no tensors")


def test_the_output_matrix_may_be_changed_since_rows_do_not_depend_on_it(tmp_path):
    base = make_tiny_models.build(BASE)
    base.tensors["output.weight"] = base.tensors["token_embd.weight"].copy()
    path = make_tiny_models.write(base, tmp_path / "base.gguf")
    n_vocab, n_embd = base.tensors["output.weight"].shape
    content = changed(output__weight=(matrix(4, n_embd), matrix(n_vocab, 4)))
    inputs = golden.tiny_ids(base)[:3]
    files = [
        make_tiny_adapters.write(content, tmp_path / "with.gguf"),
        make_tiny_adapters.write(changed(), tmp_path / "without.gguf"),
    ]
    with rows.Native(path, files) as model:
        np.testing.assert_array_equal(
            model.encode(inputs, pooling="last", adapter=1),
            model.encode(inputs, pooling="last", adapter=2),
        )


def test_a_truncated_adapter_is_refused(tiny, adapter, tmp_path):
    data = adapter(BASE, "first").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (5, 100, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:size])
        with pytest.raises(EmbedError, match=r"cut\.gguf"):
            load(tiny, path)
