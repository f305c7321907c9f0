"""doctor: the machine, a file against its profile, memory, levels, comparison; and the commands."""

from __future__ import annotations

import importlib
import json

import gguf
import gguf_files
import imatrix_files
import numpy as np
import pytest
from ggembed import (
    DeviceError,
    DeviceInfo,
    Embedder,
    InvalidInputError,
    LibraryLoadError,
    MemoryEstimate,
    Report,
    _info,
    _machine,
    doctor,
    quantize,
)
from ggembed.findings import Finding

GIB = 2**30
TEXTS = ["a", "the question", "the quick brown fox " * 3, "words and more words " * 40]


def found(report: Report, part: str) -> Finding:
    """The one finding that speaks of something."""
    matching = [f for f in report.findings if part in f.what]
    assert len(matching) == 1, [f.what for f in report.findings]
    return matching[0]


def warnings(findings) -> list[str]:
    return [f.what for f in findings if f.level != "ok"]


def kernel_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# ------------------------------------------------------------------ the machine


def test_the_machine_alone_is_described():
    report = doctor()
    assert not report.failed
    assert report.similarities == ()
    assert found(report, "CPUs may be used").level == "ok"
    assert found(report, "llama.cpp ").what.startswith("ggembed ")


def test_a_library_that_does_not_load_is_an_error(monkeypatch):
    def fail():
        raise LibraryLoadError("cannot load the native library: it is gone")

    monkeypatch.setattr(_info, "build_info", fail)
    report = doctor("model.gguf")
    assert report.failed
    assert [f.remedy for f in report.findings] == ["install or build ggembed again"]


def test_gpus_are_listed_with_their_free_memory(monkeypatch):
    gpu = DeviceInfo("cuda:0", "cuda", 0, "NVIDIA H200", 141 * GIB, 100 * GIB)
    monkeypatch.setattr(_info, "devices", lambda: [gpu])
    what = found(doctor(), "cuda:0").what
    assert what == "cuda:0, NVIDIA H200: 100.0 of 141.0 GiB free"


@pytest.mark.parametrize(
    ("driver", "build", "device", "what"),
    [
        (False, False, False, None),
        (True, True, True, None),
        (True, False, False, "this build has no CUDA"),
        (False, True, False, "libcuda"),
        (True, True, False, "it offers no device"),
    ],
)
def test_driver_build_and_device_have_to_come_together(driver, build, device, what):
    findings = list(_machine.check_nvidia(driver, build, device))
    assert len(findings) == (what is not None)
    for finding in findings:
        assert finding.level == "warn"
        assert what in finding.what
        assert finding.remedy


V2 = {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}
V3 = V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}


@pytest.mark.parametrize(
    ("build", "flags", "best"),
    [
        ("native", V3, None),
        ("x86-64-v3", V3, None),
        ("x86-64-v3", V2, None),
        ("x86-64-v2", V3, "x86-64-v3"),
        ("baseline", V2, "x86-64-v2"),
        ("baseline", V3 - {"popcnt"}, None),
        ("baseline", set(), None),
    ],
)
def test_unused_instructions_of_the_cpu_are_told(build, flags, best):
    findings = list(_machine.check_cpu_level(build, flags))
    assert len(findings) == (best is not None)
    for finding in findings:
        assert f"instructions of {best}" in finding.what
        assert f"GGEMBED_CPU={best}" in finding.remedy


def test_optional_packages_are_present_or_missing_with_their_extra():
    requirements = [
        "numpy>=1.24",
        'no_such_package>=1; extra == "hub"',
        "gguf>=0.10; extra == 'demo'",
        'pytest>=8; extra == "test"',
        "tomli>=2; python_version < '3.11'",
    ]
    present, missing = _machine.check_packages(requirements)
    assert present.what.startswith("gguf 0")
    assert present.remedy == ""
    assert "no-such-package is not installed" in missing.what
    assert missing.remedy == "if needed: pip install 'ggembed[hub]'"


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({}, None, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1000 kB\n"}, 1024000, None),
        (
            {
                "proc/meminfo": "MemAvailable: 1000000 kB\n",
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "5000\n",
                "sys/fs/cgroup/memory.current": "4000\n",
                "sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 500\n",
                "sys/fs/cgroup/cpu.max": "150000 100000\n",
            },
            1500,
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "9000\n",
                "sys/fs/cgroup/a/memory.current": "1000\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            8000,
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "700\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "100\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            600,
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
            None,
        ),
    ],
    ids=["nothing", "no cgroup", "version 2", "nested", "version 1", "no quota"],
)
def test_limits_of_cgroups_are_found(files, memory, cpus, tmp_path):
    root = kernel_files(tmp_path, files)
    assert _machine.available_memory(root) == memory
    assert _machine.cpu_quota(root) == cpus


# ------------------------------------------------------------------ the file


def test_a_sound_model_gives_no_warning(minilm):
    report = doctor(minilm, device="cpu")
    assert warnings(report.findings) == []
    assert "fits its profile, all-MiniLM" in found(report, "profile").what
    assert found(report, "quantisation").what == "quantisation F16"
    assert "pooling mean (file)" in found(report, "attention").what
    assert found(report, "the model needs").level == "ok"


def test_a_file_that_contradicts_its_profile_is_told_with_the_remedy(tiny, tmp_path):
    names = {"general.name": "bge-small-en-v1.5"}  # pools CLS, the file says mean
    path = gguf_files.copy(tiny("bert-mean"), tmp_path / "model.gguf", strings=names)
    finding = found(doctor(path, device="cpu"), "the file says pooling mean")
    assert finding.level == "warn"
    assert finding.remedy == "pass pooling='cls'"


def test_a_model_without_a_profile_and_a_pooling_is_told(tiny):
    report = doctor(tiny("bert-no-pooling-key"), device="cpu")
    assert found(report, "no profile knows this model").level == "warn"
    assert "mean follows from its attention" in found(report, "names no pooling").what
    assert not report.failed


def test_a_supplied_closing_token_is_told(tiny):
    report = doctor(tiny("eurobert-last-no-eos-key"), device="cpu")
    assert found(report, "lacks the rule for the closing token").level == "ok"


def test_an_unnamed_pre_tokenizer_is_told(tiny, tmp_path):
    strings = {"tokenizer.ggml.pre": "default"}
    path = gguf_files.copy(tiny("qwen3-last"), tmp_path / "model.gguf", strings=strings)
    assert found(doctor(path, device="cpu"), "before BPE").level == "warn"
    assert not any("before BPE" in f.what for f in doctor(tiny("qwen3-last")).findings)


def test_a_vocabulary_that_knows_no_english_is_told(tiny, monkeypatch):
    path = tiny("bert-mean")
    with Embedder(path) as embedder:
        unknown = int(embedder.info().metadata["tokenizer.ggml.unknown_token_id"])
        n = len(embedder.tokenize("The quick brown fox jumps over the lazy dog."))
    monkeypatch.setattr(Embedder, "tokenize", lambda *_: np.full(n, unknown))
    finding = found(doctor(path, device="cpu"), "unknown to the model")
    assert finding.what.startswith(f"{n} of {n} tokens")


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("Q8_0", None),
        ("Q5_K_M", None),
        ("Q5_K_S", "lowest cosines of another model: 0.991, 0.998, 0.997"),
        ("Q4_K_M", "0.986, 0.996, 0.994"),
        ("Q4_0", "lose most on short texts"),
        ("IQ2_XXS", "below 3 bits retrieval falls off"),
    ],
)
def test_low_levels_are_warned_of_for_short_texts(level, said, tiny, tmp_path):
    wide = tiny("qwen3-wide-last")
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", imatrix_files.ones(wide))
    path = quantize(wide, tmp_path / "small.gguf", level, imatrix=imatrix)
    finding = found(doctor(path, device="cpu"), f"quantisation {level}")
    assert finding.level == ("ok" if said is None else "warn")
    assert (said or "") in finding.what
    assert bool(finding.remedy) == (said is not None)


def test_a_broken_or_missing_file_is_an_error_with_a_remedy(tiny, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny("bert-mean").read_bytes()[:5000])
    for path, remedy in ((cut, "convert the file again"), (tmp_path / "missing.gguf", "the path")):
        report = doctor(path, device="cpu")
        assert report.failed
        assert report.findings[-1].level == "error"
        assert path.name in report.findings[-1].what
        assert remedy in report.findings[-1].remedy


def test_a_missing_device_is_an_error_with_a_remedy(tiny):
    report = doctor(tiny("bert-mean"), device="warp:7")
    assert report.failed
    assert report.findings[-1].remedy == "take one that `ggembed devices` lists"
    with pytest.raises(DeviceError):
        Embedder(tiny("bert-mean"), device="warp:7")


# ------------------------------------------------------------------ memory


def needing(monkeypatch, long, short):
    """Makes models need that much memory for texts as long as the context, and for short ones."""
    module = importlib.import_module("ggembed.doctor")
    calls = []

    def estimate(*_, n_ctx=None, **__):
        calls.append(n_ctx)
        return MemoryEstimate(*(short if n_ctx else long), 0, 0, 0, 0, 0)

    monkeypatch.setattr(module, "estimate", estimate)
    monkeypatch.setattr(module, "available_memory", lambda: 8 * GIB)
    gpu = DeviceInfo("cuda:0", "cuda", 0, "NVIDIA", 10 * GIB, 4 * GIB)
    monkeypatch.setattr(_info, "devices", lambda: [gpu])
    return calls


def test_a_model_that_fits_is_said_to(tiny, monkeypatch):
    needing(monkeypatch, (3 * GIB, 2 * GIB), (0, 0))
    what = found(doctor(tiny("bert-mean")), "the model needs").what
    assert "2.00 GiB on the host, 3.00 GiB on the device" in what


def test_a_model_that_fits_for_short_texts_alone_is_a_warning(tiny, monkeypatch):
    needing(monkeypatch, (0, 9 * GIB), (0, 2 * GIB))
    report = doctor(tiny("bert-mean"))
    finding = found(report, "the model needs 9.00 GiB on the host, 8.00 GiB are available")
    assert (finding.level, finding.remedy) == ("warn", "pass a smaller n_ctx")
    assert found(report, "dimensions")  # it was loaded


@pytest.mark.parametrize(("place", "sizes"), [("host", (0, 9 * GIB)), ("cuda:0", (5 * GIB, 0))])
def test_a_model_that_does_not_fit_is_an_error_and_not_loaded(place, sizes, tiny, monkeypatch):
    needing(monkeypatch, sizes, sizes)
    report = doctor(tiny("bert-mean"))
    assert report.failed
    assert report.findings[-1].level == "error"
    assert f"on the {place}" in report.findings[-1].what


def test_an_absurd_context_is_a_warning(tiny, tmp_path):
    path = tmp_path / "absurd.gguf"
    data = tiny("qwen3-last").read_bytes()
    key = b"qwen3.context_length"
    at = data.index(key) + len(key) + 4
    path.write_bytes(data[:at] + (2**31 - 1).to_bytes(4, "little") + data[at + 4 :])
    finding = found(doctor(path, device="cpu"), "estimates go up to")
    assert (finding.level, finding.remedy) == ("warn", "pass a smaller n_ctx")


# ------------------------------------------------------------------ comparison


def test_cosines_come_by_length(tiny, bert, tmp_path):
    rows = bert.encode(TEXTS)
    rows[1] = -rows[1]
    rows[3] += 0.1
    np.save(tmp_path / "ref.npy", rows * 7)
    report = doctor(tiny("bert-mean"), compare=tmp_path / "ref.npy", texts=TEXTS, device="cpu")
    counts = bert.count_tokens(TEXTS)
    names = [s.lengths for s in report.similarities]
    assert names == [
        name
        for name, low, high in (
            ("up to 4 tokens", 0, 4),
            ("5 to 16", 5, 16),
            ("17 to 128", 17, 128),
            ("over 128", 129, 10**9),
        )
        if any(low <= n <= high for n in counts)
    ]
    assert sum(s.n_texts for s in report.similarities) == len(TEXTS)
    assert min(s.lowest for s in report.similarities) == pytest.approx(-1, abs=1e-5)
    assert len(names) >= 3
    assert found(report, "lowest cosine with the reference").level == "error"
    assert report.failed


def test_equal_rows_are_fine_and_may_be_cut(tiny, bert):
    for dim in (bert.dim, 8):
        rows = bert.encode(TEXTS, truncate_dim=dim)
        report = doctor(tiny("bert-mean"), compare=rows, texts=TEXTS, device="cpu")
        assert not report.failed
        assert found(report, "lowest cosine").level == "ok"
        assert all(s.lowest > 0.9999 for s in report.similarities)
        assert all(s.lowest <= s.median for s in report.similarities)


def test_rows_of_another_pooling_are_more_than_quantisation_explains(tiny):
    with Embedder(tiny("bert-mean"), pooling="cls") as embedder:
        rows = embedder.encode(TEXTS)
    report = doctor(tiny("bert-mean"), compare=rows, texts=TEXTS, device="cpu")
    finding = found(report, "more than F32 explains")
    assert finding.level == "error"
    assert "pooling" in finding.remedy


def test_rows_a_little_off_are_a_warning(tiny, bert):
    rng = np.random.default_rng(0)
    rows = bert.encode(TEXTS)
    noise = rng.normal(size=rows.shape) * 0.1 / np.sqrt(rows.shape[1])
    report = doctor(tiny("bert-mean"), compare=rows + noise, texts=TEXTS, device="cpu")
    assert found(report, "usual for F32 is 0.9980").level == "warn"
    assert not report.failed


def test_a_low_level_is_judged_by_what_is_usual_for_it(tiny, tmp_path):
    wide = tiny("qwen3-wide-last")
    small = quantize(wide, tmp_path / "small.gguf", "Q2_K")
    with Embedder(wide) as embedder:
        rows = embedder.encode(TEXTS)
    report = doctor(small, compare=rows, texts=TEXTS, device="cpu")
    assert found(report, "cosine with the reference").level == "ok"
    assert min(s.lowest for s in report.similarities) < 0.99


@pytest.mark.parametrize("level", ["Q5_1", "Q4_0", "IQ3_M", "IQ2_XS", "Q1_0"])
def test_a_level_without_figures_is_judged_by_the_next_one_below(level, tiny, tmp_path):
    wide = tiny("qwen3-wide-last")
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", imatrix_files.ones(wide))
    small = quantize(wide, tmp_path / "small.gguf", level, imatrix=imatrix)
    with Embedder(wide) as embedder:
        rows = embedder.encode(TEXTS)
    report = doctor(small, compare=rows, texts=TEXTS, device="cpu")
    assert not report.failed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compare": [[1.0]]}, "compare needs texts"),
        ({"texts": ["a"]}, "texts need compare"),
        ({"compare": np.ones(4), "texts": ["a"]}, r"\(n_texts, dim\) for 1 texts, got \(4,\)"),
        ({"compare": np.ones((2, 4)), "texts": ["a"]}, r"for 1 texts, got \(2, 4\)"),
        ({"compare": np.ones((1, 99)), "texts": ["a"]}, "99 values, the model's have 32"),
        ({"compare": np.zeros((1, 4)), "texts": ["a"]}, "row 0 of the reference is zero"),
        ({"compare": [[1.0, np.nan]], "texts": ["a"]}, "row 0 of the reference is zero or not"),
        ({"compare": [["x"]], "texts": ["a"]}, "does not hold numbers"),
        ({"compare": "missing.npy", "texts": ["a"]}, r"cannot read the reference missing\.npy"),
        ({"compare": __file__, "texts": ["a"]}, "cannot read the reference"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(arguments, message, tiny):
    with pytest.raises(InvalidInputError, match=message):
        doctor(tiny("bert-mean"), device="cpu", **arguments)


def test_a_comparison_needs_a_model():
    with pytest.raises(InvalidInputError, match="both need a model"):
        doctor(compare=np.ones((1, 4)), texts=["a"])


def test_nothing_to_compare_is_a_warning(tiny):
    report = doctor(tiny("bert-mean"), compare=np.ones((0, 32)), texts=[], device="cpu")
    assert found(report, "no texts to compare").level == "warn"


# ------------------------------------------------------------------ commands


def test_doctor_prints_findings_and_the_table(run, tiny, bert, tmp_path):
    np.save(tmp_path / "ref.npy", bert.encode(TEXTS))
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    files = ("--compare", tmp_path / "ref.npy", "-f", tmp_path / "texts.txt")
    status, out, err = run("doctor", tiny("bert-mean"), "--device", "cpu", *files)
    assert (status, err) == (0, "")
    lines = out.decode().splitlines()
    assert any(line.startswith("warn") and "no profile" in line for line in lines)
    assert any(line.lstrip().startswith("-> read the model's card") for line in lines)
    head = next(i for i, line in enumerate(lines) if line.startswith("length "))
    assert lines[head].split() == ["length", "texts", "lowest", "cosine", "mean", "median"]
    assert len(lines[head + 1 :]) >= 3
    assert all(line.split()[-1].startswith(("1.0", "0.99")) for line in lines[head + 1 :])


def test_doctor_without_a_model_looks_at_the_machine(run):
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    assert b"CPUs may be used" in out
    assert b"dimensions" not in out


def test_doctor_fails_with_status_1_after_an_error_finding(run, tmp_path):
    path = tmp_path / "empty.gguf"
    path.write_bytes(b"")
    status, out, err = run("doctor", path)
    assert (status, err) == (1, "")
    assert b"error  " in out
    status, out, _ = run("doctor", path, "--json")
    assert status == 1
    assert json.loads(out)["findings"][-1]["level"] == "error"


def test_doctor_as_json_is_the_report(run, tiny):
    status, out, _ = run("doctor", tiny("bert-mean"), "--device", "cpu", "--json")
    assert status == 0
    report = json.loads(out)
    assert set(report) == {"findings", "similarities"}
    assert {f["level"] for f in report["findings"]} == {"ok", "warn"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--compare", "missing.npy"), "compare needs texts"),
        (("-f", "missing.txt"), "missing.txt"),
    ],
)
def test_doctor_refuses_half_a_comparison(run, tiny, args, message):
    status, out, err = run("doctor", tiny("bert-mean"), *args)
    assert (status, out) == (1, b"")
    assert message in err


def test_estimate_prints_a_table_and_json(run, tiny):
    status, out, err = run("estimate", tiny("qwen3-last"), "--device", "cpu", "--n-ctx", 512)
    assert (status, err) == (0, "")
    memory, weights = out.decode().split("\n\n")
    table = [line.split() for line in memory.splitlines()]
    assert [row[0] for row in table] == ["MiB", "weights", "cache", "compute", "output", "total"]
    assert weights.startswith("weights  kernel ")
    held = sum(float(line.split()[-1]) for line in weights.splitlines()[1:])
    assert held == pytest.approx(float(table[1][1]), abs=0.2)
    assert float(table[-1][1]) == pytest.approx(sum(float(r[1]) for r in table[1:-1]), abs=0.3)
    options = ("--n-ubatch", 64, "--n-seq-max", 2, "--n-gpu-layers", 0, "--json")
    status, out, _ = run("estimate", tiny("qwen3-last"), *options)
    assert status == 0
    sizes = json.loads(out)
    assert sizes["total"] == sizes["total_host"] > sizes["weights_host"] > 0
    assert sizes["total_device"] == 0


def test_estimate_of_a_missing_file_is_an_error(run):
    status, out, err = run("estimate", "missing.gguf")
    assert (status, out) == (1, b"")
    assert "missing.gguf" in err


def test_quantize_writes_a_file_and_tells_its_size(run, tiny, tmp_path):
    target = tmp_path / "small.gguf"
    options = ("--token-embedding-type", "q8_0", "--threads", 1)
    status, out, err = run("quantize", tiny("qwen3-wide-last"), target, "Q4_K_M", *options)
    assert status == 0
    assert out.decode() == f"{target}: {target.stat().st_size / 1e6:.1f} MB\n"
    assert "quantising 100%" in err
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(target).tensors}
    assert types["token_embd.weight"] == "Q8_0"
    status, _, err = run("quantize", target, tmp_path / "2.gguf", "Q3_K_M")
    assert status == 1
    assert "is quantised already" in err
    assert run("quantize", target, tmp_path / "2.gguf", "Q3_K_M", "--requantize", "--pure")[0] == 0


def test_quantize_takes_an_importance_matrix(run, tiny, tmp_path):
    wide, target = tiny("qwen3-wide-last"), tmp_path / "small.gguf"
    imatrix = imatrix_files.write(tmp_path / "imatrix.gguf", imatrix_files.ones(wide))
    status, _, err = run("quantize", wide, target, "IQ2_XS")
    assert status == 1
    assert "needs its importance matrix" in err
    assert run("quantize", wide, target, "IQ2_XS", "--imatrix", imatrix)[0] == 0
    assert target.exists()


def test_quantize_names_an_unknown_level(run, tiny, tmp_path):
    status, _, err = run("quantize", tiny("bert-mean"), tmp_path / "x.gguf", "Q3")
    assert status == 1
    assert 'level is "Q3", known are F32, ' in err
