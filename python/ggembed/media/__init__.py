"""Images, audio, video and PDF files as inputs."""

from __future__ import annotations
