"""The binding: finds, loads and calls the native library. The only module that knows cffi."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from ._buffers import Bytes, FloatArray, row_stride
from ._native_log import NativeLog
from .errors import (
    BY_STATUS,
    LOGGED,
    ClosedError,
    EmbedError,
    InternalError,
    InvalidInputError,
    LibraryLoadError,
)
from .projection import Projection

if TYPE_CHECKING:
    from typing_extensions import Required, Unpack

ABI_VERSION = 5  # the GGE_ABI_VERSION that this module is written for
__version__ = importlib.metadata.version("ggembed")
LIBRARY_NAME = {"darwin": "libggembed.dylib", "win32": "ggembed.dll"}.get(
    sys.platform, "libggembed.so"
)

Progress = Callable[[int, int], object]
Pixels = npt.NDArray[np.uint8]

log = logging.getLogger("ggembed")
log.addHandler(logging.NullHandler())  # else logging prints warnings to stderr by itself

# llama.cpp says some 150 lines per model at its INFO level, of which a service that logs at INFO
# wants none: they come as DEBUG, and those at its DEBUG level below that.
_LOG_LEVELS = {1: logging.DEBUG - 5, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}

# How long the interpreter waits at its end for calls of daemon threads, which engines that close
# and abort callbacks end.
_ENDING_S = 10


class Call:
    """What the callbacks of one native call share with the Python function that made it."""

    def __init__(
        self,
        progress: Progress | None = None,
        errors: dict[int, EmbedError] | None = None,
        *,
        logs: bool = False,
    ) -> None:
        """logs: on the calling thread."""
        self.progress = progress
        self.errors = errors  # of inputs, by index; None if the first one is to be raised
        self.told: set[int] = set()  # statuses of inputs
        self.exception: BaseException | None = None
        self.mark = library().native_log.mark
        # Python handles signals on the main thread and only between bytecodes: there, the abort
        # callback is what lets Ctrl-C through. Elsewhere it serves to stop after an exception.
        self.on_main_thread = threading.current_thread() is threading.main_thread()
        self.wants_abort = self.on_main_thread or progress is not None or logs
        self._calls_back = progress is not None or errors is not None or logs

    def __enter__(self) -> None:
        """Begins the native call; raises if the interpreter is about to end."""
        if not self._calls_back:
            return
        if threading.current_thread() is not threading.main_thread():
            library().begin(self)

    def __exit__(self, *_: object) -> None:
        library().running.discard(self)


class Library:
    """The loaded shared library, its declarations, and the callbacks that it may call."""

    def __init__(self) -> None:
        from cffi import FFI  # with its parser about 50 ms, so not before the first use

        path, header = _find()
        self.path = path
        ffi: Any = FFI()
        self.ffi = ffi
        ffi.cdef(header[header.index("/* cffi: begin */") : header.index("/* cffi: end */")])
        try:
            self.lib: Any = ffi.dlopen(path)
        except OSError as err:
            raise LibraryLoadError(f"cannot load the native library: {err}") from err
        self._check_version(header)
        self._log_level = 0
        self.native_log = NativeLog()
        self._interrupt: BaseException | None = None
        self.running: set[Call] = set()  # on threads that may be ended within a callback
        self._is_ending = False
        # One closure each for the life of the process; user_data tells the calls apart.
        self._on_log = ffi.callback(
            "void(void *, int32_t, const char *)", self._log, onerror=self._log_failed
        )
        self._on_progress = ffi.callback(
            "void(void *, int64_t, int64_t)", self._progress, onerror=self._keep_exception
        )
        self._on_abort = ffi.callback(
            "int32_t(void *)", self._abort, error=1, onerror=self._keep_exception
        )
        self._on_input_error = ffi.callback(
            "void(void *, int64_t, int32_t, const char *)",
            self._input_error,
            onerror=self._keep_exception,
        )
        self._on_done = ffi.callback(
            "void(void *const *, int64_t)", self._done, onerror=self._done_failed
        )
        self._requests: dict[int, Request] = {}  # that are not done
        self._request_numbers = itertools.count(1)
        self.follow_log_level()
        # Finalizers run last made, first called: once this one does, all engines are closed.
        weakref.finalize(self, self._end, os.getpid())

    def begin(self, call: Call) -> None:
        """Notes that a call may run callbacks on a thread other than the main one."""
        self.running.add(call)
        if self._is_ending:
            self.running.discard(call)
            raise ClosedError("the interpreter is ending")

    def _end(self, pid: int) -> None:
        """Waits for daemon threads, which the ending interpreter ends where they ask for the GIL.

        That must not be in a callback: the library's frames do not let a thread be unwound.
        """
        self._is_ending = True
        deadline = time.monotonic() + _ENDING_S
        while self.running and time.monotonic() < deadline:
            time.sleep(0.001)
        if os.getpid() == pid:
            self.lib.gge_set_log(self.ffi.NULL, self.ffi.NULL, self.lib.GGE_LOG_ERROR)

    def _check_version(self, header: str) -> None:
        found, oldest = self.lib.gge_abi_version(), self.lib.gge_abi_oldest()
        version = self.string(self.lib.gge_version())
        match = re.search(r"^#define GGE_ABI_VERSION (\d+)", header, re.MULTILINE)
        declared = int(match[1]) if match else 0
        release = re.match(r"\d+\.\d+\.\d+", __version__)
        if oldest <= ABI_VERSION <= found == declared and release and release[0] == version:
            return
        raise LibraryLoadError(
            f"the native library does not fit the package: ggembed {__version__} wants version "
            f"{__version__} with ABI {ABI_VERSION}, found version {version} with ABI {found} "
            f"(oldest {oldest}, header {declared}) in {self.path}; install or build ggembed again"
        )

    # Callbacks. Exceptions leave through onerror, also a KeyboardInterrupt that Python raises
    # before the first line of the callback has run.

    def _progress(self, user_data: Any, done: int, total: int) -> None:
        call: Call = self.ffi.from_handle(user_data)
        if call.progress is not None and call.exception is None:
            call.progress(done, total)

    def _abort(self, user_data: Any) -> int:
        call: Call = self.ffi.from_handle(user_data)
        if self._interrupt is not None and call.on_main_thread and call.exception is None:
            call.exception, self._interrupt = self._interrupt, None
        return call.exception is not None or (self._is_ending and not call.on_main_thread)

    def _input_error(self, user_data: Any, index: int, status: int, message: Any) -> None:
        call: Call = self.ffi.from_handle(user_data)
        call.told.add(status)
        if call.errors is not None and index not in call.errors:  # else it is known from before
            call.errors[index] = self.exception(status, self.string(message), index, call.mark)

    def _keep_exception(self, _exc_type: Any, exc: BaseException, traceback: Any) -> None:
        call: Call = self.ffi.from_handle(traceback.tb_frame.f_locals["user_data"])
        call.exception = call.exception or exc

    def _log(self, _user_data: Any, level: int, message: Any) -> None:
        line = self.string(message)
        if level >= self.lib.GGE_LOG_INFO:
            self.native_log.add(line, complains=level >= self.lib.GGE_LOG_WARN)
        log.log(_LOG_LEVELS.get(level, logging.ERROR), "%s", line)

    def _log_failed(self, _exc_type: Any, exc: BaseException, _traceback: Any) -> None:
        # A failing log handler must not fail the call; Ctrl-C goes to the next abort callback.
        if not isinstance(exc, Exception):
            self._interrupt = exc

    def _done(self, done_data: Any, n: int) -> None:
        for number in self.ffi.unpack(self.ffi.cast("uintptr_t *", done_data), n):
            request = self._requests.pop(number)
            request.on_done(request)

    def _done_failed(self, _exc_type: Any, exc: BaseException, _traceback: Any) -> None:
        log.error("what waits for a request could not be told that it is done: %r", exc)

    def follow_log_level(self) -> None:
        """Tells the library to drop lines that neither the logger nor an exception would have.

        Above the debug level, models log when they are loaded, and engines when they fail.
        """
        all_wanted = log.getEffectiveLevel() <= _LOG_LEVELS[self.lib.GGE_LOG_DEBUG]
        level = self.lib.GGE_LOG_DEBUG if all_wanted else self.lib.GGE_LOG_INFO
        if level != self._log_level and not self._is_ending:
            self._log_level = level
            self.lib.gge_set_log(self._on_log, self.ffi.NULL, level)

    # Conversions

    def string(self, chars: Any) -> str:
        """A NUL-terminated C string."""
        data: bytes = self.ffi.string(chars)
        return data.decode("utf-8", "replace")

    def struct(self, name: str) -> Any:
        """A zeroed struct with its size filled in."""
        struct = self.ffi.new(f"{name} *")
        struct.struct_size = self.ffi.sizeof(name)
        return struct

    def fields(self, struct: Any) -> dict[str, Any]:
        """A filled struct as a dict: char arrays become str, those of structs lists of dicts."""
        kind = self.ffi.typeof(struct)
        values = {}
        for name, field in (kind.item if kind.kind == "pointer" else kind).fields or ():
            value = getattr(struct, name)
            if field.type.kind != "array":
                values[name] = value
            elif field.type.item.kind == "struct":  # with their number beside them
                values[name] = [self.fields(value[i]) for i in range(values[f"n_{name}"])]
            else:
                values[name] = self.string(value)
        return values

    def arm(self, opts: Any, call: Call) -> Any:
        """Puts the callbacks of a call into its options; returns what must live as long as it."""
        handle = self.ffi.new_handle(call)
        opts.user_data = handle
        if call.progress is not None:
            opts.progress = self._on_progress
        if call.wants_abort:
            opts.abort = self._on_abort
        if call.errors is not None:
            opts.on_input_error = self._on_input_error
        return handle

    def submit(self, submit: Callable[..., int], request: Request, *what: Any) -> None:
        """Starts a request, which is kept with all that it writes to until it is done."""
        if self._is_ending:
            raise ClosedError("the interpreter is ending")
        number = next(self._request_numbers)
        self._requests[number] = request
        out, err = self.ffi.new("gge_request **"), self.error()
        done = self._on_done, self.ffi.cast("void *", number)
        status = submit(*what, *done, out, err)
        if status != 0:
            del self._requests[number]
            check(status, err)
        request.pointer = out[0]

    def exception(
        self, status: int, message: str, index: int, mark: int | None = None
    ) -> EmbedError:
        """The exception of a status. mark: that of the native log when the call began."""
        name = self.string(self.lib.gge_status_name(status))
        error: type[EmbedError] = BY_STATUS.get(name, InternalError)
        made = error(message or name, input_index=index if index >= 0 else None)
        if error in LOGGED:
            log = self.native_log
            made.native_log = log.lines(log.mark if mark is None else mark)
            if made.native_log and hasattr(made, "add_note"):
                made.add_note("\n".join(["the last lines of the native log:", *made.native_log]))
        return made

    def writable(self, kind: str, array: npt.NDArray[Any], alive: list[Any]) -> Any:
        """A pointer to an array for the library to write, which lives as long as `alive`."""
        buffer = self.ffi.from_buffer(kind, array, require_writable=True)
        alive.append(buffer)
        return buffer

    def paths(self, files: Sequence[str], what: str, alive: list[Any]) -> Any:
        """An array of C strings that lives as long as `alive`."""
        chars = [self.ffi.new("char[]", c_string(os.fsencode(file), what)) for file in files]
        pointers = self.ffi.new("char *[]", chars)
        alive += [*chars, pointers]
        return pointers

    def parts(self, parts: Sequence[Part], alive: list[Any]) -> Any:
        """An array of gge_part that lives as long as `alive`."""
        array = self.ffi.new("gge_part[]", len(parts))
        alive += [array, parts]
        for part, (kind, content) in zip(array, parts, strict=True):
            part.kind = getattr(self.lib, f"GGE_PART_{kind.upper()}")
            if isinstance(content, Media):
                part.media = content.pointer
            else:
                text = self.ffi.from_buffer("uint8_t[]", content)
                part.text, part.n_bytes = text, len(content)
                alive.append(text)
        return array

    def floats(self, array: FloatArray, alive: list[Any]) -> Any:
        """A pointer to contiguous floats that lives as long as `alive`."""
        buffer = self.ffi.from_buffer("float[]", array)
        alive.append(buffer)
        return buffer

    def error(self) -> Any:
        """A fresh error struct."""
        return self.ffi.new("gge_error *")

    def owned(self, pointer: Any, free: Any) -> Any:
        """A handle that frees itself.

        The library's own function does, since Ctrl-C could end one of Python before that. It leaves
        the parent's handles alone in a forked child.
        """
        return self.ffi.gc(pointer, free)

    def name(self, prefix: str, value: int) -> str:
        """The lower-case name of an enum's value: ``name("GGE_POOLING_", 2)`` is ``"mean"``."""
        for constant in dir(self.lib):
            if constant.startswith(prefix) and getattr(self.lib, constant) == value:
                return constant[len(prefix) :].lower()
        raise InternalError(f"the native library returned the unknown value {prefix}{value}")


def _find() -> tuple[str, str]:
    """Path of the shared library in the package folder, and the text of the header beside it."""
    folder = importlib.resources.files("ggembed")
    path, header = folder.joinpath(LIBRARY_NAME), folder.joinpath("ggembed.h")
    if not isinstance(path, os.PathLike) or not (path.is_file() and header.is_file()):
        raise LibraryLoadError(
            f"{LIBRARY_NAME} or ggembed.h is missing from the package folder {folder}; "
            "install or build ggembed again"
        )
    return os.fspath(path), header.read_text("utf-8")


_library: Library | None = None
_library_lock = threading.Lock()


def library() -> Library:
    """The native library, loaded on first use."""
    global _library
    if _library is None:
        with _library_lock:
            if _library is None:
                _library = Library()
    return _library


def _renew_locks() -> None:
    """In a forked child, which lacks the threads that may have held them."""
    global _library_lock
    _library_lock = threading.Lock()
    if _library is not None:
        from cffi import cparser

        _library.running.clear()
        # cffi takes these where it meets a name or a type for the first time, and in dir()
        _library.ffi._lock = threading.Lock()
        cparser.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _in_process(pid: int, function: Callable[[Any], object], argument: Any) -> None:
    """Calls a function, unless this is a forked child of the process it belongs to."""
    if os.getpid() == pid:
        function(argument)


def check(status: int, err: Any, call: Call | None = None, mark: int | None = None) -> None:
    """Raises what a native call came to; the only place where a status becomes an exception."""
    if call is not None and call.exception is not None:
        try:
            raise call.exception
        finally:
            call.exception = None  # the traceback holds this frame, and this frame the call
    if status == 0:
        return
    lib = library()
    mark = mark if call is None else call.mark
    raise lib.exception(status, lib.string(err.message), int(err.input_index), mark)


def c_string(text: str | bytes, what: str) -> bytes:
    """Bytes of a string for C, which ends at a NUL."""
    data = text.encode() if isinstance(text, str) else text
    if b"\0" in data:
        raise InvalidInputError(f"{what} must not hold a NUL byte, got {text!r}")
    return data


class Files(TypedDict, total=False):
    """Where and with what a model is loaded."""

    device: Required[str]
    n_gpu_layers: int
    split: str
    adapters: Sequence[str]
    mmproj: Sequence[str]
    cpu_kernels: bool


def _model_options(lib: Library, alive: list[Any], **files: Unpack[Files]) -> Any:
    """A gge_model_options, whose strings live as long as `alive`."""
    opts = lib.struct("gge_model_options")
    device = lib.ffi.new("char[]", c_string(files["device"], "device"))
    alive.append(device)
    opts.device = device
    opts.n_gpu_layers = files.get("n_gpu_layers", 0)
    opts.split = getattr(lib.lib, f"GGE_SPLIT_{files.get('split', 'default').upper()}")
    opts.cpu_kernels = lib.lib.GGE_ON if files.get("cpu_kernels", True) else lib.lib.GGE_OFF
    adapters, mmproj = files.get("adapters", ()), files.get("mmproj", ())
    opts.adapters, opts.n_adapters = lib.paths(adapters, "adapter", alive), len(adapters)
    opts.mmproj, opts.n_mmproj = lib.paths(mmproj, "mmproj", alive), len(mmproj)
    return opts


def _engine_options(lib: Library, attention: str, numbers: Mapping[str, int]) -> Any:
    """A gge_engine_options."""
    opts = lib.struct("gge_engine_options")
    opts.attention = getattr(lib.lib, f"GGE_ATTENTION_{attention.upper()}")
    for name, number in numbers.items():
        setattr(opts, name, number)
    return opts


class Model:
    """Owner of a gge_model."""

    def __init__(
        self, path: str, *, mmap: bool, progress: Progress | None, **files: Unpack[Files]
    ) -> None:
        lib = library()
        lib.follow_log_level()
        ffi, call = lib.ffi, Call(progress, logs=True)
        alive: list[Any] = []
        opts = _model_options(lib, alive, **files)
        opts.mmap = lib.lib.GGE_ON if mmap else lib.lib.GGE_OFF
        alive.append(lib.arm(opts, call))
        out, err = ffi.new("gge_model **"), lib.error()
        with lib.native_log.loading(), call:
            status = lib.lib.gge_model_load(c_string(os.fsencode(path), "model"), opts, out, err)
            del alive
            if out[0]:
                self.pointer = lib.owned(out[0], lib.lib.gge_model_free)
            check(status, err, call)

    def info(self) -> dict[str, Any]:
        """Fields of gge_model_info."""
        lib = library()
        info, err = lib.struct("gge_model_info"), lib.error()
        check(lib.lib.gge_model_get_info(self.pointer, info, err), err)
        return lib.fields(info)

    def towers(self) -> list[dict[str, Any]]:
        """Fields of gge_tower_info of each tower."""
        lib = library()
        towers = []
        for i in range(lib.lib.gge_model_n_towers(self.pointer)):
            info, err = lib.struct("gge_tower_info"), lib.error()
            check(lib.lib.gge_model_get_tower(self.pointer, i, info, err), err)
            fields = lib.fields(info)
            towers.append({**fields, "modality": lib.name("GGE_MODALITY_", fields["modality"])})
        return towers

    def metadata(self) -> dict[str, str]:
        """Scalar metadata of the file."""
        lib = library()
        key, value = lib.lib.gge_model_meta_key, lib.lib.gge_model_meta_value
        return dict(
            sorted(
                (lib.string(key(self.pointer, i)), lib.string(value(self.pointer, i)))
                for i in range(lib.lib.gge_model_meta_count(self.pointer))
            )
        )


class Media:
    """Owner of a gge_media: an image, a video or a sound at the size that a model's tower wants."""

    def __init__(
        self,
        model: Model,
        make: str,
        *args: Any,
        min_pixels: int = 0,
        max_pixels: int = 0,
    ) -> None:
        lib = library()
        opts = lib.struct("gge_media_options")
        opts.min_pixels, opts.max_pixels = min_pixels, max_pixels
        out, err = lib.ffi.new("gge_media **"), lib.error()
        status = getattr(lib.lib, make)(model.pointer, *args, opts, out, err)
        if out[0]:
            self.pointer = lib.owned(out[0], lib.lib.gge_media_free)
        check(status, err)

    @classmethod
    def image(cls, model: Model, pixels: Pixels, **limits: int) -> Media:
        """An image of 8-bit RGB pixels: (height, width, 3), contiguous."""
        height, width, _ = pixels.shape
        data = library().ffi.from_buffer("uint8_t[]", pixels)
        return cls(model, "gge_media_image", data, width, height, 3 * width, **limits)

    @classmethod
    def video(
        cls,
        model: Model,
        frames: Iterable[Pixels],
        n_frames: int,
        size: tuple[int, int],
        seconds: npt.NDArray[np.float64] | None,
        **limits: int,
    ) -> Media:
        """A video of n_frames frames of 8-bit RGB pixels, each (height, width, 3) and contiguous.

        The frames are read one after the other; size: width and height of them.
        """
        lib = library()
        times = lib.ffi.NULL if seconds is None else lib.ffi.from_buffer("double[]", seconds)
        media = cls(model, "gge_media_video", n_frames, *size, times, **limits)
        for frame in frames:
            data, err = lib.ffi.from_buffer("uint8_t[]", frame), lib.error()
            check(lib.lib.gge_media_add_frame(media.pointer, data, 3 * size[0], err), err)
        return media

    @classmethod
    def audio(cls, model: Model, samples: FloatArray) -> Media:
        """A sound of one channel, 16 000 samples per second: (n_samples,), contiguous."""
        data = library().ffi.from_buffer("float[]", samples)
        return cls(model, "gge_media_audio", data, len(samples))

    @property
    def n_rows(self) -> int:
        """Rows that it takes in an input."""
        return int(library().lib.gge_media_n_rows(self.pointer))

    def shape(self) -> tuple[int, int, int]:
        """Width, height and number of frames that the tower sees."""
        lib = library()
        width, height = lib.ffi.new("int32_t *"), lib.ffi.new("int32_t *")
        n_frames = lib.ffi.new("int64_t *")
        lib.lib.gge_media_shape(self.pointer, width, height, n_frames)
        return int(width[0]), int(height[0]), int(n_frames[0])


# A piece of an input: text of the user, text of our own in which special tokens count, a medium.
Part = tuple[Literal["text", "template"], bytes] | tuple[Literal["media"], Media]


class Tokens:
    """Owner of a gge_tokens: the token ids of a list of texts, or of inputs with media in them."""

    def __init__(
        self,
        model: Model,
        texts: Bytes,
        offsets: npt.NDArray[np.int64],
        *,
        prompt: bytes = b"",
        add_special: bool = True,
        parse_special: bool = False,
        end_token: int | None = None,
        max_tokens: int = 0,
        overflow: str = "error",
        want_original: bool = False,
        n_threads: int = 0,
        pairs: bool = False,
        parts: Sequence[Part] | None = None,
        errors: dict[int, EmbedError] | None = None,
    ) -> None:
        """Tokenises texts, or with `pairs` each query with the document behind it.

        With `parts`, `offsets` counts these, and there are no `texts`.

        With `errors` the call collects, and puts the exceptions of texts there.
        """
        lib = library()
        ffi = lib.ffi
        opts, alive = _tokenize_options(
            lib,
            prompt=prompt,
            end_token=end_token,
            max_tokens=max_tokens,
            overflow=overflow,
            n_threads=n_threads,
        )
        opts.add_special = lib.lib.GGE_ON if add_special else lib.lib.GGE_OFF
        opts.parse_special = lib.lib.GGE_ON if parse_special else lib.lib.GGE_OFF
        n_texts = (len(offsets) - 1) // (2 if pairs else 1)
        self.truncated: npt.NDArray[np.bool_] | None = None
        self.n_tokens_original: npt.NDArray[np.int64] | None = None
        call = Call(errors=errors)
        alive.append(lib.arm(opts, call))
        if max_tokens:
            cut = np.zeros(n_texts, np.int32)
            opts.truncated = lib.writable("int32_t[]", cut, alive)
        if want_original:
            self.n_tokens_original = np.zeros(n_texts, np.int64)
            opts.n_tokens_original = lib.writable("int64_t[]", self.n_tokens_original, alive)
        out, err = ffi.new("gge_tokens **"), lib.error()
        starts = ffi.from_buffer("int64_t[]", offsets)
        if parts is not None:
            tokenize, data = lib.lib.gge_tokenize_parts, lib.parts(parts, alive)
        else:
            tokenize = lib.lib.gge_tokenize_pairs if pairs else lib.lib.gge_tokenize
            data = ffi.from_buffer("uint8_t[]", texts)
        with call:
            status = tokenize(model.pointer, data, starts, n_texts, opts, out, err)
        del alive
        if out[0]:
            self.pointer = lib.owned(out[0], lib.lib.gge_tokens_free)
        check(status, err, call)
        self.n_texts = n_texts
        if max_tokens:
            self.truncated = cut.astype(np.bool_)

    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each text's ids begin: (n_texts + 1,)."""
        lib = library()
        data = lib.ffi.buffer(lib.lib.gge_tokens_offsets(self.pointer), 8 * (self.n_texts + 1))
        offsets: npt.NDArray[np.int64] = np.frombuffer(data, np.int64).copy()
        return offsets

    def ids(self) -> npt.NDArray[np.int32]:
        """All ids, one text after the other."""
        lib = library()
        n_tokens = int(lib.lib.gge_tokens_offsets(self.pointer)[self.n_texts])
        data = lib.ffi.buffer(lib.lib.gge_tokens_ids(self.pointer), 4 * n_tokens)
        ids: npt.NDArray[np.int32] = np.frombuffer(data, np.int32).copy()
        return ids


class Cutting(TypedDict):
    """How texts become tokens."""

    prompt: bytes
    end_token: int | None
    max_tokens: int
    overflow: str
    n_threads: int


def _tokenize_options(lib: Library, **cutting: Unpack[Cutting]) -> tuple[Any, list[Any]]:
    """A gge_tokenize_options, and what must live as long as it."""
    opts = lib.struct("gge_tokenize_options")
    prompt, end_token = cutting["prompt"], cutting["end_token"]
    prompt_chars = lib.ffi.from_buffer("uint8_t[]", prompt)
    opts.prompt, opts.prompt_bytes = prompt_chars, len(prompt)
    opts.end_token = 0 if end_token is None else end_token + 1
    opts.max_tokens = cutting["max_tokens"]
    opts.overflow = getattr(lib.lib, f"GGE_OVERFLOW_{cutting['overflow'].upper()}")
    opts.n_threads = cutting["n_threads"]
    return opts, [prompt_chars]


class Settings(TypedDict, total=False):
    """How the rows of a call are made of its tokens."""

    pooling: str
    truncate_dim: int
    normalize: bool
    precision: str
    ranges: FloatArray | None
    projection: Projection | None
    adapter: int
    adapter_scale: float


def _encode_options(lib: Library, settings: Settings) -> tuple[Any, list[Any]]:
    """A gge_encode_options without callbacks, and what must live as long as it."""
    opts = lib.struct("gge_encode_options")
    opts.pooling = getattr(lib.lib, f"GGE_POOLING_{settings['pooling'].upper()}")
    opts.truncate_dim = settings.get("truncate_dim", 0)
    opts.normalize = lib.lib.GGE_ON if settings.get("normalize", True) else lib.lib.GGE_OFF
    precision = settings.get("precision", "float32")
    opts.output_type = getattr(lib.lib, f"GGE_OUTPUT_{precision.upper()}")
    opts.adapter = settings.get("adapter", 0)
    opts.adapter_scale = settings.get("adapter_scale", 1.0)
    alive: list[Any] = []
    if (ranges := settings.get("ranges")) is not None:
        opts.ranges = lib.floats(ranges, alive)
    if (projection := settings.get("projection")) is not None:
        opts.n_projection = len(projection.weight)
        opts.projection = lib.floats(projection.weight, alive)
        if projection.bias is not None:
            opts.projection_bias = lib.floats(projection.bias, alive)
    return opts, alive


def _outcome(status: int, err: Any, call: Call) -> EmbedError | None:
    """What a call came to: raised, or returned if the call collects and keeps what it has."""
    if status in call.told and call.exception is None:
        lib = library()
        return lib.exception(status, lib.string(err.message), int(err.input_index), call.mark)
    check(status, err, call)
    return None


class Request:
    """Owner of a gge_request, until `finish`, which must come once it is done."""

    def __init__(self, call: Call, on_done: Callable[[Request], None], *alive: Any) -> None:
        """alive: what the engine writes to and reads until the request is finished."""
        self.pointer: Any = None
        self.on_done = on_done
        self._call = call
        self._alive = alive

    def abort(self) -> None:
        """Asks for the end of a request that is not finished."""
        if self.pointer is not None:
            library().lib.gge_request_abort(self.pointer)

    @property
    def n_done(self) -> int:
        """Tokens that are computed so far, of a request that is not finished."""
        return int(library().lib.gge_request_n_done(self.pointer))

    def finish(self) -> EmbedError | None:
        """Returns or raises what `Engine.encode` does."""
        lib = library()
        with self._call:
            pointer, self.pointer, err = self.pointer, None, lib.error()
            status = lib.lib.gge_request_finish(pointer, err)
        self._alive = ()
        return _outcome(status, err, self._call)


class Engine:
    """Owner of a gge_engine. Any number of threads may call it; close() may come at any moment."""

    def __init__(self, model: Model, *, attention: str, **numbers: int) -> None:
        lib = library()
        opts = _engine_options(lib, attention, numbers)
        out, err = lib.ffi.new("gge_engine **"), lib.error()
        with lib.native_log.loading(), Call(logs=True):
            status = lib.lib.gge_engine_create(model.pointer, opts, out, err)
            check(status, err)
        self.pointer = lib.owned(out[0], lib.lib.gge_engine_free)
        # Runs once: when called, when this object dies, or before the interpreter shuts down.
        self.close = weakref.finalize(
            self, _in_process, os.getpid(), lib.lib.gge_engine_close, self.pointer
        )

    def info(self) -> dict[str, Any]:
        """Fields of gge_engine_info."""
        lib = library()
        info, err = lib.struct("gge_engine_info"), lib.error()
        check(lib.lib.gge_engine_get_info(self.pointer, info, err), err)
        return lib.fields(info)

    def stats(self) -> dict[str, Any]:
        """Fields of gge_engine_stats."""
        lib = library()
        stats, err = lib.struct("gge_engine_stats"), lib.error()
        check(lib.lib.gge_engine_stats_get(self.pointer, stats, err), err)
        return lib.fields(stats)

    def encode(
        self,
        tokens: Tokens,
        out: npt.NDArray[Any],
        *,
        progress: Progress | None = None,
        errors: dict[int, EmbedError] | None = None,
        **settings: Unpack[Settings],
    ) -> EmbedError | None:
        """Fills the rows of `out`, whose layout the caller has checked.

        With `errors` the call collects: it puts the exceptions of inputs there. Then a call that
        ends early, because it is aborted, say, keeps what it has and returns why.
        """
        lib = library()
        call = Call(progress, errors)
        opts, alive = _encode_options(lib, settings)
        alive.append(lib.arm(opts, call))
        err = lib.error()
        with call:
            status = lib.lib.gge_encode(
                self.pointer, tokens.pointer, opts, address(out), len(out), row_stride(out), err
            )
        del alive
        return _outcome(status, err, call)

    def submit(
        self,
        tokens: Tokens,
        out: npt.NDArray[Any],
        on_done: Callable[[Request], None],
        *,
        errors: dict[int, EmbedError] | None = None,
        **settings: Unpack[Settings],
    ) -> Request:
        """Starts what `encode` does and does not wait for it.

        on_done: called on a thread of the engine once the request can be finished without waiting.
        It must be quick, must not raise, and must not drop the last reference to an engine.
        """
        lib = library()
        call = Call(errors=errors)
        call.wants_abort = False
        opts, alive = _encode_options(lib, settings)
        alive.append(lib.arm(opts, call))
        request = Request(call, on_done, out, alive)
        what = tokens.pointer, opts, address(out), len(out), row_stride(out)
        lib.submit(lib.lib.gge_submit, request, self.pointer, *what)
        return request

    def abort(self) -> None:
        """Ends the calls that are queued or running."""
        library().lib.gge_engine_abort(self.pointer)


class TextCall:
    """Calls with one text each and the same options, which are filled in once."""

    def __init__(self, engine: Engine, cutting: Cutting, settings: Settings) -> None:
        self._lib = lib = library()
        self._engine = engine.pointer
        self._cuts = cutting["max_tokens"] > 0
        self._how, *self._alive = _tokenize_options(lib, **cutting)
        self._opts, more = _encode_options(lib, settings)
        self._alive.append(more)
        self._error_type = lib.ffi.typeof("gge_error *")
        self._bytes_type = lib.ffi.typeof("uint8_t[]")
        self._offsets_type = lib.ffi.typeof("int64_t[2]")
        self._how_type = lib.ffi.typeof("gge_tokenize_options *")
        self._opts_type = lib.ffi.typeof("gge_encode_options *")

    def flag(self) -> Any:
        """What a call says in whether it has cut its text; None if it cuts none."""
        return self._lib.ffi.new("int32_t *") if self._cuts else None

    def encode(self, text: bytes, row: npt.NDArray[Any], flag: Any) -> None:
        """Fills a row, whose layout the caller has checked."""
        lib = self._lib
        call, opts, mark = None, self._opts, lib.native_log.mark
        if threading.current_thread() is threading.main_thread():  # where Ctrl-C arrives
            call = Call()
            opts = lib.ffi.new(self._opts_type, opts[0])
            alive = lib.arm(opts, call)
        err = lib.ffi.new(self._error_type)
        status = lib.lib.gge_encode_texts(*self._arguments(text, opts, row, flag), err)
        if call is not None:
            del alive
        check(status, err, call, mark)

    def submit(
        self, text: bytes, row: npt.NDArray[Any], flag: Any, on_done: Callable[[Request], None]
    ) -> Request:
        """Starts to fill a row, as `Engine.submit` does."""
        request = Request(Call(), on_done, self._alive, row)
        arguments = self._arguments(text, self._opts, row, flag)
        self._lib.submit(self._lib.lib.gge_submit_texts, request, *arguments)
        return request

    def _arguments(
        self, text: bytes, opts: Any, row: npt.NDArray[Any], flag: Any
    ) -> tuple[Any, ...]:
        ffi, how = self._lib.ffi, self._how
        if flag is not None:
            how = ffi.new(self._how_type, how[0])
            how.truncated = flag
        start = ffi.from_buffer(self._bytes_type, text)
        offsets = ffi.new(self._offsets_type, (0, len(text)))
        return self._engine, start, offsets, 1, how, opts, ffi.from_buffer(row), 1, len(row)


def address(array: npt.NDArray[Any]) -> Any:
    """Where the first element of an array is."""
    return library().ffi.cast("void *", array.__array_interface__["data"][0])


def convert_rows(
    rows: FloatArray, out: npt.NDArray[Any], precision: str, ranges: FloatArray | None
) -> None:
    """Converts contiguous rows, (n, dim), to the elements of `out`, whose layout was checked."""
    lib = library()
    n, dim = rows.shape
    if not rows.size:
        return
    alive: list[Any] = []
    pointer = lib.ffi.NULL if ranges is None else lib.floats(ranges, alive)
    kind = getattr(lib.lib, f"GGE_OUTPUT_{precision.upper()}")
    start = lib.floats(rows, alive)
    err = lib.error()
    status = lib.lib.gge_convert_rows(
        start, n, dim, dim, kind, pointer, address(out), row_stride(out), err
    )
    check(status, err)


def devices() -> list[dict[str, Any]]:
    """Fields of gge_device_info of every device."""
    lib = library()
    found = []
    for i in range(lib.lib.gge_device_count()):
        info, err = lib.struct("gge_device_info"), lib.error()
        check(lib.lib.gge_device_get(i, info, err), err)
        found.append({**lib.fields(info), "kind": lib.name("GGE_DEVICE_", info.kind)})
    return found


def version() -> str:
    """Version of the native library."""
    lib = library()
    return lib.string(lib.lib.gge_version())


def build_info() -> dict[str, Any]:
    """How the native library was built."""
    lib = library()
    info: dict[str, Any] = json.loads(lib.string(lib.lib.gge_build_info()))
    return info


def quantize(
    source: str,
    target: str,
    level: str,
    *,
    imatrix: str | None,
    token_embedding_type: str | None,
    n_threads: int,
    requantize: bool,
    pure: bool,
    progress: Progress | None,
) -> None:
    """Writes a quantised copy of a file."""
    lib = library()
    lib.follow_log_level()
    call = Call(progress, logs=True)
    opts = lib.struct("gge_quantize_options")
    strings = {"level": level, "token_embedding_type": token_embedding_type}
    given = {name: text.encode() for name, text in strings.items() if text is not None}
    if imatrix is not None:
        given["imatrix"] = os.fsencode(imatrix)
    chars = {name: lib.ffi.new("char[]", c_string(data, name)) for name, data in given.items()}
    for name, pointer in chars.items():
        setattr(opts, name, pointer)
    opts.n_threads = n_threads
    opts.requantize = lib.lib.GGE_ON if requantize else lib.lib.GGE_OFF
    opts.pure = lib.lib.GGE_ON if pure else lib.lib.GGE_OFF
    alive = lib.arm(opts, call)
    err = lib.error()
    files = [c_string(os.fsencode(p), what) for p, what in ((source, "source"), (target, "target"))]
    with lib.native_log.loading(), call:
        status = lib.lib.gge_quantize(*files, opts, err)
        del alive, chars
        check(status, err, call)


def quantize_levels() -> list[str]:
    """Names of the levels of quantisation."""
    lib = library()
    names: list[str] = []
    while name := lib.lib.gge_quantize_level(len(names)):
        names.append(lib.string(name))
    return names


def estimate(
    path: str, *, attention: str = "default", numbers: Mapping[str, int], **files: Unpack[Files]
) -> dict[str, Any]:
    """Fields of gge_memory: what a model and an engine would need."""
    lib = library()
    lib.follow_log_level()
    alive: list[Any] = []
    model, engine = _model_options(lib, alive, **files), _engine_options(lib, attention, numbers)
    out, err = lib.struct("gge_memory"), lib.error()
    file = c_string(os.fsencode(path), "model")
    with lib.native_log.loading():
        check(lib.lib.gge_estimate(file, model, engine, out, err), err)
    del alive
    return lib.fields(out)
