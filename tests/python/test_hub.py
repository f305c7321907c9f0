"""Models of the Hub, from a stand-in server that speaks what the library speaks."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import threading
from functools import partial
from pathlib import Path

import gguf_files
import huggingface_hub
import huggingface_hub.constants
import pytest
from ggembed import (
    Embedder,
    InvalidInputError,
    MissingExtraError,
    ModelFileError,
    _hub_cache,
    demo_omni,
    hub,
)
from hub_server import HubServer

REPO = "org/model"
FILES = {f"m-{quant}.gguf": quant.encode() * 100_000 for quant in ("Q4_K_M", "Q8_0", "F16")} | {
    "README.md": b"# m"
}
DOCS = Path(__file__).parents[2] / "docs" / "hub.md"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    """The settings of the machine that runs the tests have no part in them."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with HubServer() as running:
        yield running


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def fetch(server, cache):
    """`hub.fetch` with the stand-in and a cache of the test's own."""
    return partial(hub.fetch, endpoint=server.url(), cache_dir=cache, token=False)


def content_of(path):
    return Path(path).read_bytes()


def blobs(cache):
    return [path for path in cache.glob("models--*/blobs/*") if path.suffix != ".lock"]


def test_the_model_of_a_level_is_fetched_from_the_revision_that_main_means(server, fetch):
    commit = server.add(REPO, FILES)
    files = fetch(REPO, quant="q8_0")
    assert content_of(files.model) == FILES["m-Q8_0.gguf"]
    assert files.model.name == "m-Q8_0.gguf"
    assert (files.repo, files.revision, files.mmproj) == (REPO, commit, ())
    assert files.sha256 == {"m-Q8_0.gguf": hashlib.sha256(FILES["m-Q8_0.gguf"]).hexdigest()}


def test_nothing_but_the_chosen_files_is_fetched(server, fetch, cache):
    server.add(REPO, FILES)
    fetch(REPO)
    (path,) = server.paths("storage", "GET")
    assert path.endswith("/m-Q4_K_M.gguf")
    assert len(blobs(cache)) == 1


def test_a_fetched_model_computes(server, fetch, tiny):
    source = tiny("bert-mean")
    server.add(REPO, {"tiny-F16.gguf": source.read_bytes()})
    with Embedder(source) as direct, Embedder(fetch(REPO, quant="F16").model) as fetched:
        assert (fetched.encode(["a cat"]) == direct.encode(["a cat"])).all()


def test_a_fetched_split_model_computes(server, fetch, tiny, tmp_path):
    source = tiny("bert-mean")
    gguf_files.copy(source, tmp_path / "m-Q8_0.gguf", split_tensors=10)
    parts = {f"Q8_0/{path.name}": path.read_bytes() for path in tmp_path.glob("m-Q8_0-*.gguf")}
    assert len(parts) > 1
    server.add(REPO, parts)
    files = fetch(REPO, quant="Q8_0")
    assert files.model.name == f"m-Q8_0-00001-of-{len(parts):05}.gguf"
    assert files.sha256.keys() == parts.keys()
    with Embedder(source) as direct, Embedder(files.model) as fetched:
        assert (fetched.encode(["a cat"]) == direct.encode(["a cat"])).all()


def test_a_missing_part_is_an_error_before_anything_is_downloaded(server, fetch):
    server.add(REPO, {f"m-Q4_K_M-0000{i}-of-00003.gguf": b"part" for i in (1, 3)})
    with pytest.raises(ModelFileError, match=r"lacks m-Q4_K_M-00002-of-00003\.gguf"):
        fetch(REPO)
    assert server.paths("storage", "GET") == []


def test_projectors_are_fetched_beside_the_model(server, fetch):
    names = ("m-Q4_K_M.gguf", "m-vision-mmproj-F16.gguf", "m-audio-mmproj-F16.gguf")
    server.add(REPO, {name: name.encode() for name in names})
    files = fetch(REPO, modality="omni")
    assert [path.name for path in (files.model, *files.mmproj)] == list(names)
    assert [content_of(path).decode() for path in (files.model, *files.mmproj)] == list(names)
    assert files.model.parent == files.mmproj[0].parent
    assert files.sha256.keys() == set(names)


@pytest.fixture
def from_stand_in(server, cache, monkeypatch):
    """Has an Embedder fetch from the stand-in."""
    own = {"endpoint": server.url(), "cache_dir": cache, "token": False}
    plain = hub.fetch
    monkeypatch.setattr(hub, "fetch", lambda *args, **options: plain(*args, **{**options, **own}))


@pytest.mark.usefixtures("from_stand_in")
def test_fetched_projectors_are_loaded(server, tmp_path):
    files = demo_omni.write_models(tmp_path, name="m-small")
    server.add(REPO, {path.name: path.read_bytes() for path in files})
    with Embedder.from_hub(REPO, quant="F16") as embedder:
        assert embedder.info().towers == ()
    for modality, names in (
        ("omni", [files.vision.name, files.audio.name]),
        ("audio", [files.audio.name]),
        ("text", []),
    ):
        with Embedder.from_hub(REPO, quant="F16", modality=modality) as embedder:
            assert [Path(path).name for path in embedder.info().mmproj] == names
        with Embedder(f"hf:{REPO}:F16", modality=modality) as embedder:
            assert [Path(path).name for path in embedder.info().mmproj] == names


@pytest.mark.usefixtures("from_stand_in")
def test_projectors_of_ones_own_take_the_place_of_fetched_ones(server, tmp_path):
    files = demo_omni.write_models(tmp_path, name="m-small")
    server.add(REPO, {files.model.name: files.model.read_bytes()})
    options = {"quant": "F16", "modality": "vision"}
    with Embedder.from_hub(REPO, mmproj=files.vision, **options) as embedder:
        assert embedder.info().mmproj == (str(files.vision),)
    with pytest.raises(ModelFileError, match="no vision projector for m-small-F16"):
        Embedder.from_hub(REPO, **options)


def test_branches_tags_and_commits_are_revisions(server, fetch):
    first = server.add(REPO, {"m-Q4_K_M.gguf": b"one"})
    second = server.repos[REPO].commit({"m-Q4_K_M.gguf": b"two"}, ref="refs/pr/1")
    assert content_of(fetch(REPO).model) == b"one"
    assert fetch(REPO, revision="refs/pr/1").revision == second
    assert content_of(fetch(REPO, revision=second).model) == b"two"
    assert content_of(fetch(REPO, revision=first).model) == b"one"


def test_a_branch_that_moved_gives_the_new_file(server, fetch):
    server.add(REPO, {"m-Q4_K_M.gguf": b"one"})
    assert content_of(fetch(REPO).model) == b"one"
    server.repos[REPO].commit({"m-Q4_K_M.gguf": b"two"})
    assert content_of(fetch(REPO).model) == b"two"
    assert content_of(fetch(REPO, local_files_only=True).model) == b"two"


def test_a_file_that_is_cached_is_not_fetched_again(server, fetch):
    server.add(REPO, FILES)
    first = fetch(REPO)
    server.requests.clear()
    assert fetch(REPO) == first
    assert [request.method for request in server.requests] == ["GET"]
    assert server.requests[0].path.startswith(f"/api/models/{REPO}")


def test_a_commit_hash_whose_files_are_cached_makes_no_request(server, fetch):
    commit = server.add(REPO, FILES)
    first = fetch(REPO)
    server.requests.clear()
    assert fetch(REPO, revision=commit) == first
    assert server.requests == []


def test_a_commit_hash_gives_the_answer_of_the_first_time_whatever_is_cached(server, fetch):
    commit = server.add(REPO, {"a-Q8_0.gguf": b"a", "b-Q8_0.gguf": b"b"})
    fetch(REPO, "a-Q8_0.gguf", revision=commit)
    with pytest.raises(ModelFileError, match="Q8_0 means 2 models"):
        fetch(REPO, quant="Q8_0", revision=commit)


@pytest.mark.parametrize("revision", [None, "main", "v1", "commit"])
def test_offline_the_cache_is_used_without_a_request(server, fetch, revision):
    commit = server.add(REPO, FILES)
    server.repos[REPO].refs["v1"] = commit
    revision = commit if revision == "commit" else revision
    first = fetch(REPO, quant="Q8_0", revision=revision)
    server.requests.clear()
    assert fetch(REPO, quant="Q8_0", revision=revision, local_files_only=True) == first
    assert server.requests == []


def test_the_variable_of_the_library_turns_offline_mode_on(server, fetch, cache, run_python):
    server.add(REPO, FILES)
    first = fetch(REPO, quant="Q8_0")
    server.requests.clear()
    program = """
import os, sys
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": sys.argv[1], "HF_HUB_CACHE": sys.argv[2]}
from ggembed import hub
print(hub.fetch("org/model", quant="Q8_0").model)
"""
    done = run_python(program, server.url(), cache)
    assert (done.stdout.strip(), done.stderr) == (str(first.model), "")
    assert server.requests == []


def test_offline_mode_of_the_library_is_no_failure_of_the_network(
    server, fetch, monkeypatch, caplog
):
    server.add(REPO, FILES)
    first = fetch(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch(REPO) == first
    assert caplog.records == []
    with pytest.raises(ModelFileError, match="is not in the cache, and offline mode is on"):
        fetch(REPO, quant="F16")


def test_the_variables_of_the_library_set_address_and_cache(server, cache, run_python):
    server.add(REPO, FILES)
    program = """
import os, sys
os.environ |= {"HF_ENDPOINT": sys.argv[1], "HF_HUB_CACHE": sys.argv[2]}
from ggembed import hub
print(hub.resolve("hf:org/model:f16").model)
"""
    done = run_python(program, server.url(), cache)
    assert done.stderr == ""
    assert content_of(done.stdout.strip()) == FILES["m-F16.gguf"]
    assert cache in Path(done.stdout.strip()).parents


def test_offline_a_cache_that_the_library_filled_will_do(server, fetch, cache):
    server.add(REPO, FILES)
    for name in ("m-Q8_0.gguf", "README.md"):
        huggingface_hub.hf_hub_download(
            REPO, name, cache_dir=cache, endpoint=server.url(), token=False
        )
    server.requests.clear()
    files = fetch(REPO, quant="Q8_0", local_files_only=True)
    assert content_of(files.model) == FILES["m-Q8_0.gguf"]
    assert files.sha256 == {"m-Q8_0.gguf": hashlib.sha256(FILES["m-Q8_0.gguf"]).hexdigest()}
    with pytest.raises(ModelFileError, match=r"has no F16 model; present: Q8_0$"):
        fetch(REPO, quant="F16", local_files_only=True)
    assert server.requests == []


def test_offline_a_missing_repository_or_revision_is_named(server, fetch):
    with pytest.raises(ModelFileError, match=r"org/model at main is not in the cache .* offline"):
        fetch(REPO, local_files_only=True)
    server.add(REPO, FILES)
    fetch(REPO)
    with pytest.raises(ModelFileError, match="org/model at v2 is not in the cache"):
        fetch(REPO, revision="v2", local_files_only=True)
    with pytest.raises(ModelFileError, match=r"org/model at 0{40} is not in the cache"):
        fetch(REPO, revision="0" * 40, local_files_only=True)


def test_offline_a_missing_file_lists_the_cached_ones(server, fetch):
    server.add(REPO, FILES)
    fetch(REPO, quant="Q8_0")
    with pytest.raises(
        ModelFileError,
        match=r"m-F16\.gguf of org/model at \w{12} is not in the cache, and offline mode is on; "
        r"cached: m-Q8_0\.gguf$",
    ):
        fetch(REPO, quant="F16", local_files_only=True)


@pytest.mark.parametrize("how", ["no server", "HTTP 503", "HTTP 429", "not a hub", "not JSON"])
def test_without_the_hub_the_cache_has_to_do_and_the_log_says_so(server, fetch, caplog, how):
    server.add(REPO, FILES)
    first = fetch(REPO)
    if how == "no server":
        fetch = partial(fetch, endpoint="http://127.0.0.1:1")
    elif how == "not a hub":
        server.api_answer = 200, b'{"id": "org/model", "tags": [], "downloads": 0, "likes": 0}'
    elif how == "not JSON":
        server.api_answer = 200, b"<html>please log in</html>"
    else:
        server.api_answer = int(how[-3:]), b""
    with caplog.at_level(logging.WARNING, "ggembed"):
        assert fetch(REPO) == first
    assert "using the cache" in caplog.text
    with pytest.raises(ModelFileError, match=r"m-F16\.gguf .* is not in the cache, and "):
        fetch(REPO, quant="F16")
    with pytest.raises(ModelFileError, match="http://127"):
        fetch("org/other")


def test_an_answer_of_the_hub_is_not_replaced_by_the_cache(server, fetch):
    server.add(REPO, FILES)
    fetch(REPO)
    del server.repos[REPO]
    with pytest.raises(ModelFileError, match="shows no repository org/model"):
        fetch(REPO)


def test_bytes_that_are_not_the_promised_ones_are_an_error_and_are_removed(server, fetch, cache):
    server.add(REPO, FILES)
    good = FILES["m-Q4_K_M.gguf"]
    bad = bytes([good[0] ^ 1]) + good[1:]
    server.tampered["m-Q4_K_M.gguf"] = bad
    expected, found = (hashlib.sha256(content).hexdigest() for content in (good, bad))
    with pytest.raises(
        ModelFileError, match=rf"m-Q4_K_M\.gguf has sha256 {found}, expected {expected}: .*removed"
    ):
        fetch(REPO)
    assert blobs(cache) == []
    assert not list(cache.rglob("*.gguf"))
    server.tampered.clear()
    assert content_of(fetch(REPO).model) == good


def test_a_file_is_hashed_once_for_the_bytes_that_it_has(server, fetch, monkeypatch):
    server.add(REPO, FILES)
    hashed = []
    genuine = _hub_cache._hash
    monkeypatch.setattr(_hub_cache, "_hash", lambda path: hashed.append(path) or genuine(path))
    model = fetch(REPO).model
    fetch(REPO)
    fetch(REPO, local_files_only=True)
    assert hashed == [model]
    content = content_of(model)
    model.write_bytes(content[:-1] + b"?")
    with pytest.raises(ModelFileError, match="has sha256"):
        fetch(REPO, local_files_only=True)
    assert not model.exists()
    assert content_of(fetch(REPO).model) == content
    assert len(hashed) == 3


def test_a_file_of_another_tool_is_hashed_too(server, fetch, cache):
    server.add(REPO, FILES)
    huggingface_hub.hf_hub_download(
        REPO, "m-Q8_0.gguf", cache_dir=cache, endpoint=server.url(), token=False
    )
    (blob,) = blobs(cache)
    blob.write_bytes(b"damaged")
    with pytest.raises(ModelFileError, match=r"m-Q8_0\.gguf has sha256"):
        fetch(REPO, quant="Q8_0", local_files_only=True)


def test_removing_a_bad_file_leaves_what_is_outside_of_the_cache(server, fetch, tmp_path):
    server.add(REPO, FILES)
    model = fetch(REPO).model
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"mine")
    model.unlink()
    model.symlink_to(outside)
    with pytest.raises(ModelFileError, match="has sha256"):
        fetch(REPO, local_files_only=True)
    assert not model.is_symlink()
    assert outside.read_bytes() == b"mine"


def test_a_file_outside_of_lfs_has_no_checksum(server, fetch):
    server.add(REPO, FILES, in_git={"m-Q8_0.gguf"})
    files = fetch(REPO, quant="Q8_0")
    assert content_of(files.model) == FILES["m-Q8_0.gguf"]
    assert files.sha256 == {}


def test_notes_that_cannot_be_written_or_read_are_done_without(server, fetch, cache):
    commit = server.add(REPO, FILES)
    first = fetch(REPO)
    notes = cache / "models--org--model" / ".ggembed"
    for note in notes.iterdir():
        note.write_bytes(b"\xff[")
    assert fetch(REPO, revision=commit) == first
    for note in notes.iterdir():
        note.unlink()
    notes.rmdir()
    notes.write_text("no folder")
    assert fetch(REPO, revision=commit) == first
    assert fetch(REPO, local_files_only=True) == first
    assert notes.read_text() == "no folder"


def test_the_cache_stays_one_that_the_library_can_read(server, fetch, cache):
    server.add(REPO, FILES)
    fetch(REPO)
    found = huggingface_hub.scan_cache_dir(cache)
    assert found.warnings == []
    (repo,) = found.repos
    assert repo.refs.keys() == {"main"}
    path = huggingface_hub.try_to_load_from_cache(REPO, "m-Q4_K_M.gguf", cache_dir=cache)
    assert content_of(path) == FILES["m-Q4_K_M.gguf"]


def test_progress_counts_the_bytes_of_all_files(server, fetch):
    parts = {f"m-F16-0000{i}-of-00003.gguf": bytes([i]) * 30_000_000 for i in (1, 2, 3)}
    server.add(REPO, parts)
    calls = []
    fetch(REPO, quant="F16", progress=lambda *call: calls.append(call))
    done = [n for n, _ in calls]
    assert {total for _, total in calls} == {90_000_000}
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == 90_000_000
    assert any(0 < n < 30_000_000 for n in done)
    assert {30_000_000, 60_000_000} <= set(done)


def test_progress_starts_with_what_is_cached_and_is_silent_without_a_download(server, fetch):
    server.add(REPO, {"m-F16.gguf": b"x" * 1000, "mmproj-F16.gguf": b"y" * 500})
    fetch(REPO, quant="F16")
    calls = []
    fetch(REPO, quant="F16", progress=lambda *call: calls.append(call))
    assert calls == []
    fetch(REPO, quant="F16", modality="vision", progress=lambda *call: calls.append(call))
    assert calls[0] == (1000, 1500)
    assert calls[-1] == (1500, 1500)


class StopError(OSError):
    pass


def test_what_progress_raises_ends_the_download_and_reaches_the_caller(server, fetch):
    server.add(REPO, FILES)

    def stop(done, total):
        raise StopError(f"{done} of {total}")

    with pytest.raises(StopError, match="0 of 600000"):
        fetch(REPO, progress=stop)
    assert content_of(fetch(REPO).model) == FILES["m-Q4_K_M.gguf"]


def test_nothing_is_printed(server, fetch, capfd):
    server.add(REPO, FILES)
    fetch(REPO)
    assert capfd.readouterr() == ("", "")


def test_a_download_whose_connection_drops_goes_on_where_it_broke(server, fetch):
    content = b"0123456789abcdef" * 2_000_000
    server.add(REPO, {"m-Q4_K_M.gguf": content})
    server.drop_once.add("m-Q4_K_M.gguf")
    calls = []
    files = fetch(REPO, progress=lambda *call: calls.append(call))
    assert content_of(files.model) == content
    first, second = (r.headers for r in server.requests if r.server == "storage")
    assert "range" not in first
    resumed = int(re.fullmatch(r"bytes=(\d+)-", second["range"])[1])
    assert 0 < resumed <= len(content) // 2
    assert [n for n, _ in calls] == sorted(n for n, _ in calls)
    assert calls[-1] == (len(content), len(content))


def test_a_download_begins_anew_where_the_rest_cannot_be_had(server, fetch):
    content = b"0123456789abcdef" * 2_000_000
    server.add(REPO, {"m-Q4_K_M.gguf": content})
    server.drop_once.add("m-Q4_K_M.gguf")
    server.knows_ranges = False
    calls = []
    files = fetch(REPO, progress=lambda *call: calls.append(call))
    assert content_of(files.model) == content
    assert max(calls) == calls[-1] == (len(content), len(content))


def test_parts_that_are_complete_are_kept_when_a_later_one_fails(server, fetch):
    parts = {f"m-Q8_0-0000{i}-of-00002.gguf": bytes([i]) * 1000 for i in (1, 2)}
    server.add(REPO, parts)

    def stop(done, _):
        if done > 1000:
            raise StopError

    with pytest.raises(StopError):
        fetch(REPO, quant="Q8_0", progress=stop)
    server.requests.clear()
    assert fetch(REPO, quant="Q8_0").model.is_file()
    (path,) = server.paths("storage", "GET")
    assert path.endswith("/m-Q8_0-00002-of-00002.gguf")


def test_the_token_goes_to_the_hub_and_not_to_its_storage(server, fetch):
    server.add(REPO, FILES, token="hf_secret")
    assert fetch(REPO, token="hf_secret").model.is_file()
    for request in server.requests:
        given = request.headers.get("authorization")
        assert given == ("Bearer hf_secret" if request.server == "hub" else None)


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_wrong", 404)])
def test_a_missing_or_private_repository_is_named(server, fetch, token, status):
    server.add(REPO, FILES, token="hf_secret")
    for repo in (REPO, "org/missing"):
        with pytest.raises(
            ModelFileError, match=rf"shows no repository {repo}: .*token.* \(HTTP {status}\)$"
        ) as caught:
            fetch(repo, token=token)
        assert "hf_" not in str(caught.value)


def test_a_token_that_is_not_valid_is_not_called_a_missing_repository(server, fetch):
    server.api_answer = 401, b'{"error": "Invalid credentials in Authorization header"}'
    with pytest.raises(ModelFileError, match=r"does not give org/model: Invalid cred.*HTTP 401"):
        fetch(REPO, token="hf_expired")


def test_a_gated_repository_says_what_to_do(server, fetch):
    server.add(REPO, FILES, token="hf_secret", gated=True)
    with pytest.raises(
        ModelFileError, match=rf"org/model is gated: accept its terms at {server.url()}/org/model"
    ):
        fetch(REPO)
    assert fetch(REPO, token="hf_secret").model.is_file()


def test_a_refusal_is_passed_on_with_its_status(server, fetch):
    server.add(REPO, FILES)
    server.api_answer = 403, b'{"error": "this token may not read"}'
    with pytest.raises(ModelFileError, match=r"may not read.* \(HTTP 403\)$"):
        fetch(REPO)


def test_a_missing_revision_is_named(server, fetch):
    server.add(REPO, FILES)
    with pytest.raises(ModelFileError, match=r"org/model has no revision v9 \(HTTP 404\)$"):
        fetch(REPO, revision="v9")


def test_a_missing_level_lists_the_levels_and_fetches_nothing(server, fetch):
    server.add(REPO, FILES)
    with pytest.raises(ModelFileError, match="has no Q2_K model; present: F16, Q4_K_M, Q8_0"):
        fetch(REPO, quant="Q2_K")
    assert server.paths("storage", "GET") == []


def test_names_that_leave_the_cache_are_not_chosen(server, fetch, tmp_path):
    names = ("../../../../evil-Q4_K_M.gguf", "/evil-Q4_K_M.gguf", "..\\evil-Q4_K_M.gguf")
    server.add(REPO, dict.fromkeys(names, b"evil"))
    with pytest.raises(ModelFileError, match="has no GGUF file"):
        fetch(REPO)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("repo", ["", "a/b/c", "../model", "org/model:Q8_0", "a--b", " "])
def test_a_name_that_is_no_repository_is_an_error_before_any_request(server, fetch, repo):
    with pytest.raises(InvalidInputError, match="is not the name of a repository"):
        fetch(repo)
    assert server.requests == []


@pytest.mark.parametrize("revision", ["", "../x", "/etc", "a b", "x\\y", "a:b"])
def test_a_name_that_is_no_revision_is_an_error_before_any_request(server, fetch, revision):
    with pytest.raises(InvalidInputError, match="is no branch, tag or commit hash"):
        fetch(REPO, revision=revision)
    assert server.requests == []


def test_threads_may_fetch_the_same_model(server, fetch):
    server.add(REPO, FILES)
    barrier, found = threading.Barrier(4), []

    def work():
        barrier.wait()
        found.append(fetch(REPO))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(str, found))) == 1
    assert content_of(found[0].model) == FILES["m-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf:org/m", ("org/m", None, None, None)),
        ("hf:org/m:Q8_0", ("org/m", None, "Q8_0", None)),
        ("hf:org/m:ud-q4_k_xl", ("org/m", None, "ud-q4_k_xl", None)),
        ("hf:org/m@v1.5:F16", ("org/m", None, "F16", "v1.5")),
        ("hf:org/m@refs/pr/1", ("org/m", None, None, "refs/pr/1")),
        ("hf:org/m:m-Q8_0.gguf", ("org/m", "m-Q8_0.gguf", None, None)),
        (
            "hf:org/m@main:BF16/m-00001-of-00002.GGUF",
            ("org/m", "BF16/m-00001-of-00002.GGUF", None, "main"),
        ),
        ("hf:org/m:*retrieval*", ("org/m", "*retrieval*", None, None)),
        ("hf:org/m:a@b:c.gguf", ("org/m", "a@b:c.gguf", None, None)),
    ],
)
def test_a_model_string_is_taken_apart(spec, parts):
    assert hub.parse(spec) == hub.HubSpec(*parts)


@pytest.mark.parametrize(
    "spec", ["", "hf:", "org/m", "hf::Q8_0", "hf:org/m:", "hf:org/m@:F16", "HF:a/b"]
)
def test_a_string_of_another_form_is_an_error(spec):
    with pytest.raises(InvalidInputError, match=re.escape("hf:REPO[@REVISION][:QUANT_OR_FILE]")):
        hub.parse(spec)


def test_a_model_string_is_fetched_with_all_that_it_says(server, cache):
    server.add(REPO, {"a-Q8_0.gguf": b"old"})
    server.repos[REPO].commit({"a-Q8_0.gguf": b"new", "b-Q8_0.gguf": b"b"}, ref="dev")
    resolve = partial(hub.resolve, endpoint=server.url(), cache_dir=cache, token=False)
    assert content_of(resolve(f"hf:{REPO}@dev:a-*.gguf").model) == b"new"
    assert content_of(resolve(f"hf:{REPO}:q8_0").model) == b"old"
    server.requests.clear()
    assert resolve(f"hf:{REPO}@dev:a-*.gguf", local_files_only=True).model.is_file()
    assert server.requests == []


def test_without_the_extra_the_error_says_how_to_install_it(fetch, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"huggingface_hub: pip install 'ggembed\[hub\]'"):
        fetch(REPO)


def test_a_library_that_is_too_old_is_named(fetch, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "__version__", "0.36.2")
    with pytest.raises(MissingExtraError, match=r"huggingface_hub 1\.20 or newer, got 0\.36\.2"):
        fetch(REPO)


def test_importing_the_module_does_not_import_the_library(run_python):
    done = run_python("import sys, ggembed.hub; print('huggingface_hub' in sys.modules)")
    assert done.stdout.strip() == "False"


EXAMPLES = """
import doctest, os, re, sys
os.environ |= {"HF_ENDPOINT": sys.argv[1], "HF_HUB_CACHE": sys.argv[2]}
from ggembed import hub
result = doctest.testmod(hub)
print(result.attempted, result.failed)
for text in re.findall(r"```python\\n(.*?)```", open(sys.argv[3], encoding="utf-8").read(), re.S):
    exec(compile(text, sys.argv[3], "exec"), {})
"""


def test_the_examples_run(server, cache, tiny, run_python):
    model = tiny("bert-mean").read_bytes()
    name = "nomic-embed-text-v1.5"
    server.add(
        f"nomic-ai/{name}-GGUF",
        {f"{name}.{quant}.gguf": model for quant in ("Q4_K_M", "Q8_0", "f16")},
    )
    done = run_python(EXAMPLES, server.url(), cache, DOCS)
    assert done.returncode == 0, done.stderr
    attempted, failed, *printed = done.stdout.split()
    assert int(attempted) >= 8
    assert failed == "0"
    assert printed[0] == f"{name}.Q8_0.gguf"
    assert printed[-1].endswith(f"/{name}.f16.gguf")
