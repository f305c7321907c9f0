"""Exceptions of ggembed and the table from native statuses to them."""

from __future__ import annotations

import re


class EmbedError(Exception):
    """Base of all errors that ggembed raises itself.

    Attributes
    ----------
    status : str or None
        Name of the native status, such as ``"GGE_E_TOO_LONG"``; None if the error arose in Python.
    input_index : int or None
        Position of the text at fault among the texts of the call, if there is one.
    native_log : tuple of str
        What llama.cpp and the library logged last when a file could not be loaded, or a call failed
        for a reason that is not in its inputs: at most 16 lines, with those that ``logging`` drops.
        They are notes of the exception as well, which tracebacks show (from Python 3.11 on).
    """

    status: str | None = None
    input_index: int | None
    native_log: tuple[str, ...] = ()

    def __init__(self, message: str = "", *, input_index: int | None = None) -> None:
        super().__init__(message)
        self.input_index = input_index

    def __str__(self) -> str:
        return Exception.__str__(self)  # ImportError's own shows the first message for ever


class InvalidInputError(EmbedError, ValueError):
    """An argument or a text is not valid."""

    status = "GGE_E_INVALID"


class MediaError(InvalidInputError):
    """An image, sound, video or PDF cannot be used.

    It cannot be read or decoded, is empty, cut off or encrypted, or is beyond a limit of
    `MediaLimits`.
    """


class UnsupportedError(EmbedError, NotImplementedError):
    """A valid request that this model or this build cannot serve."""

    status = "GGE_E_UNSUPPORTED"


class ModelFileError(EmbedError, OSError):
    """A model file cannot be found, opened, read or fetched."""

    status = "GGE_E_IO"


class ModelFormatError(EmbedError, ValueError):
    """A file is not a usable GGUF model."""

    status = "GGE_E_FORMAT"


class OutOfMemoryError(EmbedError, MemoryError):
    """The host or the device has too little memory."""

    status = "GGE_E_MEMORY"


class DeviceError(EmbedError, RuntimeError):
    """A device is missing or failed."""

    status = "GGE_E_DEVICE"


class TextTooLongError(EmbedError, ValueError):
    """A text has more tokens than the context holds."""

    status = "GGE_E_TOO_LONG"


class EmptyTextError(EmbedError, ValueError):
    """A text has no tokens, so there is nothing to pool."""

    status = "GGE_E_EMPTY"


class NotFiniteError(EmbedError, ArithmeticError):
    """A row holds NaN or infinity, also when its text is computed alone."""

    status = "GGE_E_NOT_FINITE"


class AbortedError(EmbedError, RuntimeError):
    """A call was stopped before its end."""

    status = "GGE_E_ABORTED"


class ClosedError(EmbedError, RuntimeError):
    """An Embedder was used after ``close()``, or in a forked child of the process that made it."""

    status = "GGE_E_CLOSED"


class InternalError(EmbedError, RuntimeError):
    """A fault in ggembed or in llama.cpp."""

    status = "GGE_E_INTERNAL"


class BusyError(EmbedError, RuntimeError):
    """The queue of an Embedder has no room for another request."""

    status = "GGE_E_BUSY"


class LibraryLoadError(EmbedError, ImportError):
    """The native library is missing, cannot be loaded or does not fit this package."""


class MissingExtraError(EmbedError, ImportError):
    """A feature needs packages of an optional extra that is not installed."""


class MissingDecoderError(MissingExtraError):
    """A media file needs a decoder of the extra ``ggembed[media]`` that is not installed."""


def moved(error: EmbedError, first: int) -> EmbedError:
    """The error of a call on texts `first`, `first` + 1, ... with its place among all."""
    if error.input_index is not None and first > 0:
        index = error.input_index + first
        message, n_found = re.subn(
            rf"\b(text|input|pair) {error.input_index}\b", rf"\g<1> {index}", str(error), count=1
        )
        error.args = (message if n_found else f"text {index}: {message}",)
        error.input_index = index
    return error


class EmbedWarning(UserWarning):
    """Something that works, but probably not as it was meant."""


class TruncationWarning(EmbedWarning):
    """Texts were cut because they are too long.

    Attributes
    ----------
    n_truncated : int
        How many.
    input_index : int or None
        Position of the first of them among the texts of the call.
    """

    def __init__(
        self, message: str = "", *, n_truncated: int = 0, input_index: int | None = None
    ) -> None:
        super().__init__(message)
        self.n_truncated = n_truncated
        self.input_index = input_index


# Errors that the native log may tell more of.
LOGGED = (
    *(ModelFileError, ModelFormatError, UnsupportedError),
    *(OutOfMemoryError, DeviceError, InternalError),
)

BY_STATUS: dict[str, type[EmbedError]] = {
    error.status: error for error in EmbedError.__subclasses__() if error.status is not None
}
