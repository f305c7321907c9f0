"""Limits of memory: what is refused, what is chosen to fit, and what is taken at the start."""

from __future__ import annotations

import json
import pickle
import re

import fake_gpus
import numpy as np
import pytest
from ggembed import Embedder, OutOfMemoryError, TruncationWarning, _arguments, cli, estimate

MIB = 2**20


def total(path, **options):
    return estimate(path, device="cpu", n_threads=1, **options).total


def embedder(path, **options):
    return Embedder(path, device="cpu", n_threads=1, **options)


def text_of(n, embedder):
    """A text of n tokens at most, and as few less as there are special ones."""
    return "a " * max(k for k in range(n) if embedder.count_tokens("a " * k) <= n)


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        (None, 0),
        (12345, 12345),
        (np.int64(5), 5),
        ("12345", 12345),
        ("2GiB", 2 * 2**30),
        ("500MB", 500_000_000),
        (" 1.5 gib ", 3 * 2**29),
        ("0.1KB", 100),
        ("3TiB", 3 * 2**40),
        ("7b", 7),
    ],
)
def test_sizes_are_bytes_or_have_a_unit(given, n_bytes):
    assert _arguments.n_bytes("memory_limit", given) == n_bytes


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("2 pounds", ValueError, "a number of bytes, or one with B, KB, KiB, .*, got '2 pounds'"),
        ("2G", ValueError, "got '2G'"),
        ("-1GiB", ValueError, "got '-1GiB'"),
        ("", ValueError, "got ''"),
        ("0.1B", ValueError, r"memory_limit must be in 1\.\..*, got 0"),
        ("99999999TiB", ValueError, r"memory_limit must be in 1\.\."),
        (0, ValueError, "got 0"),
        (-5, ValueError, "got -5"),
        (1.5, TypeError, "memory_limit must be an int, got float"),
        (True, TypeError, "memory_limit must be an int, got bool"),
    ],
)
def test_what_is_no_size_is_refused(given, error, message, tiny):
    for use in (Embedder, estimate):
        with pytest.raises(error, match=message):
            use(tiny("bert-mean"), memory_limit=given)


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last", "lfm2-mean"])
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(name, tiny):
    least = estimate(tiny(name), device="cpu", n_threads=1, n_ubatch=64, n_ctx=64)
    told = []
    with pytest.raises(OutOfMemoryError) as of_embedder:
        embedder(tiny(name), memory_limit=least.total - 1, progress=lambda *at: told.append(at))
    with pytest.raises(OutOfMemoryError) as of_estimate:
        total(tiny(name), memory_limit=least.total - 1)
    assert str(of_embedder.value) == str(of_estimate.value)
    sizes = [least.total - 1, least.weights_host, least.total - least.weights_host]
    limit, weights, buffers = (f"{size / MIB:.1f} MiB" for size in sizes)
    assert str(of_embedder.value) == (
        f"{tiny(name)}: memory_limit is {limit}, the weights take {weights} and the buffers for "
        f"micro-batches of 64 tokens another {buffers}"
    )
    assert told == []
    assert total(tiny(name), memory_limit=least.total) <= least.total
    with embedder(tiny(name), memory_limit=least.total) as loaded:
        assert loaded.info().n_ubatch == 64
        assert loaded.encode("a text").any()


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last", "lfm2-mean"])
def test_room_for_the_longest_text_that_fits_is_taken(name, tiny):
    path = tiny(name)
    limit = total(path, n_ubatch=64, n_ctx=256)
    with embedder(path, n_ubatch=64, memory_limit=limit) as limited, embedder(path) as plain:
        info = limited.info()
        assert (info.memory_limit, info.n_ubatch, info.n_room) == (limit, 64, 256)
        assert (plain.info().memory_limit, plain.info().n_room) == (None, info.n_ctx)
        texts = ["short", text_of(256, plain), text_of(260, plain), "the end"]
        found = limited.encode(texts, on_error="collect")
        n = int(plain.count_tokens(texts[2]))
        assert {i: str(error) for i, error in found.errors.items()} == {
            2: f"text 2 has {n} tokens, there is memory for 256: "
            f"memory_limit is {limit / MIB:.1f} MiB"
        }
        assert isinstance(found.errors[2], OutOfMemoryError)
        expected = plain.encode(texts)
        if name == "lfm2-mean":  # it has a recurrent state
            np.testing.assert_allclose(found.rows[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-5)
        else:
            np.testing.assert_array_equal(found.rows[[0, 1, 3]], expected[[0, 1, 3]])
        with pytest.warns(TruncationWarning, match="cut to 256 tokens"):
            cut = limited.encode(texts[2], overflow="truncate", return_info=True)
        assert (limited.max_seq_length, int(cut.n_tokens[0])) == (256, 256)
    assert total(path, n_ubatch=64, memory_limit=limit) <= limit
    assert total(path, n_ubatch=64, memory_limit=2**40) == total(path, n_ubatch=64)


def test_micro_batches_shrink_to_the_limit(tiny):
    path = tiny("bert-mean")
    for n in (64, 128, 256, 512):
        with embedder(path, memory_limit=total(path, n_ubatch=n, n_ctx=n)) as limited:
            assert (limited.info().n_ubatch, limited.info().n_room) == (n, max(n, 256 * (n // 256)))


@pytest.mark.parametrize("options", [{"n_ctx": 512}, {"n_ubatch": 512}, {"n_ubatch": 300}])
def test_sizes_that_were_given_and_do_not_fit_are_an_error_with_numbers(options, tiny):
    path = tiny("bert-mean")
    limit = total(path, n_ubatch=64, n_ctx=64)
    (n,) = options.values()
    what = f"inputs of {n} tokens" if "n_ctx" in options else f"micro-batches of {n} tokens"
    wanted = rf"memory_limit is [\d.]+ MiB, the weights take [\d.]+ MiB and the buffers for {what}"
    with pytest.raises(OutOfMemoryError, match=rf"{wanted}.* another [\d.]+ MiB"):
        embedder(path, memory_limit=limit, **options)
    with pytest.raises(OutOfMemoryError, match=wanted):
        total(path, memory_limit=limit, **options)


def test_a_pickle_carries_the_limits(tiny):
    with embedder(tiny("bert-mean"), memory_limit="1GiB", max_queued_tokens=99) as one:
        data = pickle.dumps(one)
    with pickle.loads(data) as other:
        assert other.info().memory_limit == 2**30
        assert other._recipe[1]["max_queued_tokens"] == 99


def test_commands_take_a_limit(tiny, capsys):
    path = str(tiny("bert-mean"))
    limit = total(path, n_ubatch=64, n_ctx=64)
    assert cli.main(["estimate", path, "--memory-limit", str(limit), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] <= limit
    for arguments in (["estimate", path], ["embed", "-m", path, "a text"]):
        assert cli.main([*arguments, "--memory-limit", "10KB"]) == 1
        assert "memory_limit is 0.0 MiB, the weights take" in capsys.readouterr().err


# ------------------------------------------------------------------ GPUs that are none


@pytest.fixture
def on_gpus(internals, tiny):
    def run(program, *, model="qwen3-last", **options):
        return fake_gpus.run(internals, program, model=tiny(model), **options)

    return run


@pytest.mark.parametrize("model", ["qwen3-last", "bert-mean"])
def test_what_is_held_neither_grows_nor_shrinks_where_the_longest_text_is_known(model, on_gpus):
    """And does both where it is not."""
    lines = on_gpus(
        """
def used():
    return internals.gpus()[0]["used"]

needs = estimate(MODEL, device="cuda", n_ubatch=64, n_ctx=300)
for options in ({"n_ctx": 300}, {"memory_limit": needs.total_device}, {}):
    with Embedder(MODEL, device="cuda", n_threads=1, n_ubatch=64, **options) as embedder:
        held = [used()]
        texts = ["a " * k for k in range(300)]
        text = max((t for t in texts if embedder.count_tokens(t) <= 256), key=len)
        embedder.encode("short")
        held.append(used())
        embedder.encode(text)
        held.append(used())
        for _ in range(3):
            embedder.encode(["a few words"] * 99)
        held.append(used())
    print(json.dumps([held, needs.total_device]))
""",
        model=model,
    )
    (given, n), (limited, _), (free, _) = map(json.loads, lines)
    assert len(set(given)) == len(set(limited)) == 1
    assert limited[0] <= n
    first, long, last = free[1:]
    assert max(first, last) < long


def test_a_gpu_gets_larger_micro_batches_as_far_as_its_memory_goes(on_gpus):
    program = """
found = []
for n_ubatch in (None, 256):
    with Embedder(MODEL, device="cuda", n_threads=1, n_ubatch=n_ubatch) as embedder:
        found.append([embedder.info().n_ubatch, internals.gpus()[0]["used"]])
weights = estimate(MODEL, device="cuda").weights_device
print(json.dumps([found, weights]))
"""
    (line,) = on_gpus(program)
    ((n, used), (_, used_256)), weights = json.loads(line)
    assert n == 2048
    assert used > used_256
    free = 4 * (used_256 - weights)  # of which the buffers for 256 tokens take a quarter
    (line,) = on_gpus(program, sizes=((weights + free + MIB // 4) / MIB,))
    ((n, used), _), _ = json.loads(line)
    assert n == 256
    assert used == used_256


def test_a_limit_of_a_gpu_counts_its_memory_alone(on_gpus):
    (line,) = on_gpus(
        """
needs = estimate(MODEL, device="cuda", n_ubatch=64, n_ctx=64)
print(outcome(lambda: Embedder(MODEL, device="cuda", memory_limit=needs.total_device - 1)))
"""
    )
    assert re.search(r"OutOfMemoryError: .*memory_limit is [\d.]+ MiB, the weights take", line)
