"""Models of the Hugging Face Hub: the files of one model, fetched through ``huggingface_hub``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from ._hub_cache import HubFile, Listing, RepoCache, is_commit, is_safe_name
from ._hub_names import Modality, choose, listed
from .errors import InvalidInputError, MissingExtraError, ModelFileError

PREFIX = "hf:"
"""What a model string that names a repository begins with."""

Progress = Callable[[int, int], object]

_DEFAULT_REVISION = "main"
# The first one that takes up a download where the connection dropped.
_OLDEST_LIBRARY = (1, 20)
_SPEC = re.compile(r"hf:(?P<repo>[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<choice>.+))?")
_REVISION = re.compile(r"(?!/)(?!.*\.\.)[^\s\\:~^?*\[\x00-\x1f]+")

_log = logging.getLogger("ggembed")


@dataclass(frozen=True)
class HubSpec:
    """A model string, taken apart.

    Attributes
    ----------
    repo : str
        Repository, such as ``"jinaai/jina-embeddings-v5-text-nano-retrieval"``.
    file, quant, revision : str or None
        As ``fetch`` takes them; at most one of `file` and `quant` is set.
    """

    repo: str
    file: str | None = None
    quant: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class HubFiles:
    """The files of one model in the cache.

    Attributes
    ----------
    model : Path
        The GGUF file, the first one of a split model.
    mmproj : tuple of Path
        Projectors: vision before audio, one file if it serves both; empty for text.
    repo : str
        Repository.
    revision : str
        Commit hash.
    sha256 : mapping of str to str
        Checksums by the files' names in the repository, where the Hub has one. The files in the
        cache have been compared with them.
    """

    model: Path
    mmproj: tuple[Path, ...]
    repo: str
    revision: str
    sha256: Mapping[str, str]


def parse(spec: str) -> HubSpec:
    """Takes a model string ``hf:REPO[@REVISION][:QUANT_OR_FILE]`` apart.

    Parameters
    ----------
    spec : str
        The string. What follows the last colon is a file, or a pattern of one, if it ends in
        ``.gguf`` or holds one of ``* ? [ /``, and else a level.

    Returns
    -------
    HubSpec
        Its parts.

    Raises
    ------
    InvalidInputError
        The string has another form.

    Examples
    --------
    >>> from ggembed import hub
    >>> hub.parse("hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0")
    HubSpec(repo='nomic-ai/nomic-embed-text-v1.5-GGUF', file=None, quant='Q8_0', revision=None)
    >>> hub.parse("hf:nomic-ai/nomic-embed-text-v1.5-GGUF@main:*.f16.gguf").file
    '*.f16.gguf'
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise InvalidInputError(
            f"model {spec!r} is not of the form hf:REPO[@REVISION][:QUANT_OR_FILE]"
        )
    choice = found["choice"]
    if choice is not None and (choice.lower().endswith(".gguf") or re.search(r"[*?\[/]", choice)):
        return HubSpec(found["repo"], file=choice, revision=found["revision"])
    return HubSpec(found["repo"], quant=choice, revision=found["revision"])


def resolve(
    spec: str,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    modality: Modality = "text",
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> HubFiles:
    """Fetches what a model string names: ``fetch`` after ``parse``.

    Parameters
    ----------
    spec : str
        ``hf:REPO[@REVISION][:QUANT_OR_FILE]``.
    token, cache_dir, local_files_only, modality, progress, endpoint
        As ``fetch`` takes them.

    Returns
    -------
    HubFiles
        The files.

    Examples
    --------
    >>> from ggembed import hub
    >>> files = hub.resolve("hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0")
    >>> files.model.name
    'nomic-embed-text-v1.5.Q8_0.gguf'
    """
    parts = parse(spec)
    return fetch(
        parts.repo,
        parts.file,
        parts.quant,
        revision=parts.revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        modality=modality,
        progress=progress,
        endpoint=endpoint,
    )


def pinned(spec: str, revision: str) -> str:
    """A model string with another revision.

    Parameters
    ----------
    spec : str
        ``hf:REPO[@REVISION][:QUANT_OR_FILE]``.
    revision : str
        Branch, tag or commit hash.

    Returns
    -------
    str
        The same model at that revision.

    Examples
    --------
    >>> from ggembed import hub
    >>> hub.pinned("hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0", "0188c9b")
    'hf:nomic-ai/nomic-embed-text-v1.5-GGUF@0188c9b:Q8_0'
    """
    parts = parse(spec)
    choice = parts.file or parts.quant
    return f"{PREFIX}{parts.repo}@{revision}" + ("" if choice is None else f":{choice}")


def fetch(
    repo: str,
    file: str | None = None,
    quant: str | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    modality: Modality = "text",
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> HubFiles:
    """Puts one model of a repository into the Hub's cache and gives the paths of its files.

    The Hub is asked once what the revision holds; it is not if `revision` is a commit hash that
    was asked about before, nor in offline mode. Files that are in the cache are not fetched again.
    If the Hub cannot be reached, a warning is logged and the cache has to do.

    Parameters
    ----------
    repo : str
        Repository, such as ``"jinaai/jina-embeddings-v5-text-nano-retrieval"``.
    file : str, optional
        The model's file, or a pattern with ``* ? [...]`` that fits one model. It is compared with
        the path in the repository and with the name alone; one part stands for a split model.
    quant : str, optional
        The level in the file's name or in that of its folder, in any case; ``"Q4_K_M"`` if there
        is neither `file` nor `quant`. With `file` it decides among several models that fit.
    revision : str, optional
        Branch, tag or commit hash; the main branch by default.
    token : str or bool, optional
        Access token; the one that ``hf auth login`` or ``HF_TOKEN`` left by default, none if False.
    cache_dir : path-like, optional
        Cache folder; that of ``huggingface_hub`` by default.
    local_files_only : bool, optional
        Use the cache alone, as ``HF_HUB_OFFLINE=1`` does: no request is made.
    modality : {"text", "vision", "audio", "omni"}, optional
        What the model will be given, which says what projectors it needs. They are looked for
        beside the model and in the folders above, at F16 before other levels.
    progress : callable, optional
        Called with (bytes done, bytes of all files) while files are fetched, from a thread of the
        library where that downloads in threads. What it raises stops the download.
    endpoint : str, optional
        Address of the Hub; ``HF_ENDPOINT`` or the public one by default.

    Returns
    -------
    HubFiles
        Paths, commit and checksums.

    Raises
    ------
    ModelFileError
        Repository, revision or file do not exist, cannot be reached or are not open to the token;
        several models fit; a part or a projector is missing; a file is not what the Hub promised.
    InvalidInputError
        An argument is not valid.
    MissingExtraError
        ``huggingface_hub`` is not installed, or is too old.

    Examples
    --------
    >>> from ggembed import Embedder, hub
    >>> files = hub.fetch("nomic-ai/nomic-embed-text-v1.5-GGUF", quant="Q8_0")
    >>> with Embedder(files.model) as embedder:
    ...     row = embedder.encode("search_query: what is a cat?")
    >>> files.model.name, len(row) == embedder.dim
    ('nomic-embed-text-v1.5.Q8_0.gguf', True)
    """
    library = _library()
    _check(library, repo, revision)
    revision = revision or _DEFAULT_REVISION
    cache = RepoCache(Path(cache_dir or library.constants.HF_HUB_CACHE), repo)
    remote = _Remote(library, cache, repo, token, endpoint)
    offline = local_files_only or bool(library.is_offline_mode())
    listing, obstacle = _find(cache, None if offline else remote, repo, revision)
    where = f"{repo} at {listing.commit[:12]}"
    choice = choose(listing.files, where, file, quant, modality)
    names = choice.model + choice.mmproj
    missing = [name for name in names if not cache.has(listing.commit, name)]
    if missing and obstacle is not None:
        cached = (name for name in listing.files if cache.has(listing.commit, name))
        raise ModelFileError(
            f"{listed(missing)} of {where} is not in the cache, and {obstacle}; "
            f"cached: {listed(cached)}"
        )
    if missing:
        _download(remote, cache, listing, names, missing, progress)
    sha256 = {name: sha for name in names if (sha := listing.files[name].sha256) is not None}
    for name, expected in sha256.items():
        cache.verify(listing.commit, name, expected)
    if obstacle is None:
        cache.remember(revision, listing)
    model, *_ = (cache.path(listing.commit, name) for name in choice.model)
    mmproj = tuple(cache.path(listing.commit, name) for name in choice.mmproj)
    return HubFiles(model, mmproj, repo, listing.commit, sha256)


def _library() -> Any:
    """``huggingface_hub``, imported when it is needed and not before."""
    try:
        import huggingface_hub.constants  # its submodules do not come with it
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as err:
        raise MissingExtraError(
            f"fetching from the Hub needs the package {err.name}: pip install 'ggembed[hub]'"
        ) from None
    version = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2])
    if version < _OLDEST_LIBRARY:
        raise MissingExtraError(
            f"fetching from the Hub needs huggingface_hub {'.'.join(map(str, _OLDEST_LIBRARY))} or "
            f"newer, got {huggingface_hub.__version__}: pip install -U 'ggembed[hub]'"
        )
    return huggingface_hub


def _check(library: Any, repo: str, revision: str | None) -> None:
    try:
        library.utils.validate_repo_id(repo)
    except ValueError as err:
        raise InvalidInputError(f"repo {repo!r} is not the name of a repository: {err}") from err
    if revision is not None and _REVISION.fullmatch(revision) is None:
        raise InvalidInputError(f"revision {revision!r} is no branch, tag or commit hash")


def _find(
    cache: RepoCache, remote: _Remote | None, repo: str, revision: str
) -> tuple[Listing, str | None]:
    """What the revision holds, and why nothing more can be fetched if that is so."""
    commit = cache.commit_of(revision)
    known = None if commit is None else cache.known_listing(commit)
    if remote is not None and known is not None and is_commit(revision):
        return known, None
    if known is None and commit is not None and cache.path(commit, "").is_dir():
        known = cache.cached_listing(commit)
    if remote is None:
        if known is None:
            raise ModelFileError(
                f"{repo} at {revision} is not in the cache {cache.root}, and offline mode is on"
            )
        return known, "offline mode is on"
    try:
        return remote.listing(revision), None
    except Exception as err:
        reason, is_answer = remote.explain(err, revision)
        if is_answer or known is None:
            raise ModelFileError(reason) from err
        _log.warning("%s; using the cache", reason)
        return known, reason


def _download(
    remote: _Remote,
    cache: RepoCache,
    listing: Listing,
    names: Iterable[str],
    missing: Iterable[str],
    progress: Progress | None,
) -> None:
    sizes = {name: listing.files[name].size or 0 for name in names}
    cached = sum(size for name, size in sizes.items() if cache.has(listing.commit, name))
    meter = _Meter(progress, cached, sum(sizes.values()))
    for name in missing:
        try:
            remote.download(listing.commit, name, meter.bar(sizes[name]))
        except Exception as err:
            if meter.error is None:
                raise ModelFileError(remote.explain(err, listing.commit, name)[0]) from err
        if meter.error is not None:
            raise meter.error
        meter.end_file()


class _Remote:
    """One repository on the Hub, asked through the library."""

    def __init__(
        self,
        library: Any,
        cache: RepoCache,
        repo: str,
        token: str | bool | None,
        endpoint: str | None,
    ) -> None:
        self._library = library
        self._cache_dir = cache.root
        self._repo = repo
        self._api = library.HfApi(
            endpoint=endpoint, token=token, library_name="ggembed", library_version=__version__
        )

    def listing(self, revision: str) -> Listing:
        timeout = self._library.constants.HF_HUB_ETAG_TIMEOUT
        info = self._api.model_info(
            self._repo, revision=revision, timeout=timeout, files_metadata=True
        )
        if not is_commit(info.sha or ""):
            raise ValueError(f"the answer names no commit but {info.sha!r}")
        files = {
            file.rfilename: HubFile(file.size, file.lfs.sha256 if file.lfs else None)
            for file in info.siblings or ()
            if is_safe_name(file.rfilename)
        }
        return Listing(info.sha, files)

    def download(self, commit: str, name: str, bar: type) -> None:
        self._api.hf_hub_download(
            self._repo, name, revision=commit, cache_dir=self._cache_dir, tqdm_class=bar
        )

    def explain(
        self, err: BaseException, revision: str, name: str | None = None
    ) -> tuple[str, bool]:
        """What went wrong in a sentence, and whether it is the Hub's answer to the question."""
        errors, repo, endpoint = self._library.errors, self._repo, self._api.endpoint
        if isinstance(err, errors.LocalEntryNotFoundError) and err.__cause__ is not None:
            err = err.__cause__
        what = repo if name is None else f"{name} of {repo}"
        if not isinstance(err, errors.HfHubHTTPError):
            detail = " ".join(str(err).split()) or type(err).__name__
            return f"cannot fetch {what} from {endpoint}: {detail}", False
        status = err.response.status_code
        detail = " ".join((err.server_message or err.response.reason_phrase).split())
        if isinstance(err, errors.GatedRepoError):
            reason = f"{repo} is gated: accept its terms at {endpoint}/{repo} and give your token"
        elif isinstance(err, errors.RevisionNotFoundError):
            reason = f"{repo} has no revision {revision}"
        # The library tells a stranger's 401 from other ones only where the address is https.
        elif isinstance(err, errors.RepositoryNotFoundError) or (
            status == 401 and "credentials" not in detail
        ):
            reason = (
                f"{endpoint} shows no repository {repo}: there is none, or it is private and needs "
                "a token that may read it"
            )
        else:
            reason = f"{endpoint} does not give {what}: {detail}"
        return f"{reason} (HTTP {status})", status < 500 and status != 429


class _Meter:
    """Turns the library's progress bars, one a file, into calls with bytes of all files."""

    def __init__(self, progress: Progress | None, done: int, total: int) -> None:
        self._progress = progress
        self._done = done
        self._total = total
        self._file_size = 0
        self._file_done = 0
        self.error: BaseException | None = None

    def bar(self, file_size: int) -> type:
        """The class that the library makes its bar from while it fetches the next file."""
        self._file_size = file_size
        self._report(self._done)
        meter = self

        class Bar:
            """What the library asks of a bar, which is not the whole of tqdm's interface."""

            def __init__(self, *_: object, **__: object) -> None:
                pass

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def close(self) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                meter.advance(n or 0)

            # Where there is this one, network bytes do not come through a second bar.
            def update_transfer(self, n: float | None = 1) -> None:
                pass

            def set_postfix_str(self, *_: object, **__: object) -> None:
                pass

            set_transfer_postfix_str = set_postfix_str

        return Bar

    def advance(self, n: float) -> None:
        self._file_done += int(n)
        self._report(self._done + max(0, min(self._file_done, self._file_size)))

    def end_file(self) -> None:
        self._done += self._file_size
        self._file_size = self._file_done = 0
        self._report(self._done)

    def _report(self, done: int) -> None:
        if self._progress is None or self.error is not None:
            return
        try:
            self._progress(done, self._total)
        except BaseException as err:
            self.error = err
            raise
