"""Pages of PDF files as 8-bit RGB pixels."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MediaError
from . import _sources, _truncation
from ._limits import MediaLimits

Pixels = npt.NDArray[np.uint8]

# PDFium may only be used by one thread at a time. Reentrant, for iterators that are dropped.
_pdfium = threading.RLock()


def decode_pdf(
    file: _sources.File,
    limits: MediaLimits,
    name: str = "PDF",
    *,
    pages: slice | Sequence[int] | None = None,
    dpi: float = 150,
    password: str | None = None,
) -> Iterator[Pixels]:
    """Pixels of the chosen pages, one after the other: (height, width, 3) each, contiguous."""
    pdfium = _sources.decoder("pypdfium2", "pypdfium2", name)
    data = _sources.content(file, limits, name)
    with _sources.opened(data, limits, name) as stream:
        _truncation.check(stream, len(data), name)
    with _pdfium, _sources.decoding(name):
        document = _open(pdfium, data, password, name)
        n_pages = len(document)
    try:
        indices = _chosen(n_pages, pages, limits, name)
        for i in indices:
            _sources.checkpoint.get()()
            with _pdfium, _sources.decoding(f"{name}, page {i}"):
                pixels = _render(document, i, dpi, limits, f"{name}, page {i}")
            yield pixels
    finally:
        with _pdfium:
            document.close()


def _open(pdfium: Any, data: bytes, password: str | None, name: str) -> Any:
    try:
        return pdfium.PdfDocument(data, password=password)
    except pdfium.PdfiumError as err:
        # After other failures too, PDFium may report the error of an earlier document.
        if "password" not in str(err).lower() or b"/Encrypt" not in data:
            raise MediaError(f"{name} cannot be decoded: PDFium finds no pages in it") from err
        what = "is encrypted and needs a password" if password is None else "has another password"
        raise MediaError(f"{name} {what}: Pdf(..., password=...)") from err


def _chosen(
    n_pages: int, pages: slice | Sequence[int] | None, limits: MediaLimits, name: str
) -> list[int]:
    """Indices of the wanted pages."""
    if pages is None or isinstance(pages, slice):
        indices = list(range(n_pages)[pages or slice(None)])
    else:
        for page in pages:
            if not -n_pages <= page < n_pages:
                raise MediaError(
                    f"{name} has {n_pages} pages, so no page {page} (they count from 0)"
                )
        indices = [page % n_pages for page in pages]
    if not indices:
        raise MediaError(f"{name} has {n_pages} pages, of which pages={pages} chooses none")
    if len(indices) > limits.max_pdf_pages:
        raise MediaError(
            f"{name} has {len(indices)} pages, max_pdf_pages is {limits.max_pdf_pages}; "
            "Pdf(..., pages=...) chooses some"
        )
    return indices


def _render(document: Any, i: int, dpi: float, limits: MediaLimits, name: str) -> Pixels:
    page = document[i]
    try:
        scale = dpi / 72  # a page is measured in points
        width, height = page.get_size()
        limits._check_pixels((math.ceil(width * scale), math.ceil(height * scale)), name)
        bitmap = page.render(scale=scale, rev_byteorder=True)
        try:
            return np.array(bitmap.to_numpy()[:, :, :3], order="C")  # a copy: PDFium frees its own
        finally:
            bitmap.close()
    finally:
        page.close()
