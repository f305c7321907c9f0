"""Reference rows of the tiny omni models, computed by transformers from the very same weights.

    python reference_omni.py            # data/omni.npz

Sizes, pixels, patches, mel spectrograms, token ids, positions and rows all come from transformers,
Pillow and tokenizers; the order of things in an input is that of the models' own processors.
"""

from __future__ import annotations

import copy
import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import golden
import numpy as np
import reference
import reference_towers
import tiny_omni
import tokenizers_reference
import torch
import transformers
from PIL import Image
from tiny_omni import LAYOUTS, Input, Layout, Video
from tiny_towers import TinyTower
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

# What video processors take for clips without times.
FALLBACK_FPS = 24.0


@dataclass
class Unit:
    """What a tower made of an image, a pair of frames or a sound."""

    rows: np.ndarray
    grid: tuple[int, int, int] | None = None  # in patches


class Sight:
    """Pixels to rows, as an image processor and a vision tower of transformers do it."""

    def __init__(self, tower: TinyTower) -> None:
        keys = {k.removeprefix("clip.vision."): v for k, v in tower.keys.items()}
        self.rows = {"qwen3vl": reference_towers.qwen3vl, "qwen25vl": reference_towers.qwen25vl}[
            tower.name
        ](tower)
        self.patch_size = keys["patch_size"]
        self.limits = {"min_pixels": 512 * 512, "max_pixels": 1280 * 32 * 32}
        self.video_limits = {"min_pixels": 512 * 512, "max_pixels": 12_845_056}
        for kind, limits in (("image", self.limits), ("video", self.video_limits)):
            for end in limits:
                limits[end] = keys.get(f"{kind}_{end}", limits[end])
        self.processor = Qwen2VLImageProcessorPil(
            patch_size=self.patch_size,
            merge_size=2,
            temporal_patch_size=2,
            image_mean=keys["image_mean"],
            image_std=keys["image_std"],
            **self.limits,
        )

    def image(self, pixels: np.ndarray) -> Unit:
        made = self.processor(Image.fromarray(pixels), return_tensors="np")
        patches = self._by_frame(made["pixel_values"])
        return self._unit(patches, tuple(made["image_grid_thw"][0].tolist()))

    def _by_frame(self, values: np.ndarray) -> np.ndarray:
        """Patches with their two frames apart: (n, 2, 3, patch, patch)."""
        side = self.patch_size
        return values.reshape(-1, 3, 2, side, side).swapaxes(1, 2)

    def _unit(self, patches: np.ndarray, grid: tuple[int, int, int]) -> Unit:
        return Unit(self.rows(grid[2], grid[1], patches.reshape(len(patches), -1)), grid)

    def _size(self, n: int, height: int, width: int) -> tuple[int, int]:
        """The size of the frames, for a number of frames made even: (height, width)."""
        limits = {"factor": 2 * self.patch_size, **self.video_limits}
        if n % 2 == 0:
            return smart_resize(n, height, width, **limits)
        return odd_size(n, height, width, **limits)

    def video(self, video: Video) -> list[Unit]:
        """A unit for each pair of frames; an odd last frame is paired with itself."""
        shown = [*video.frames, *([video.frames[-1]] if len(video.frames) % 2 else [])]
        height, width, _ = shown[0].shape
        height, width = self._size(len(video.frames), height, width)
        return [
            self._pair(a, b, height, width) for a, b in zip(shown[::2], shown[1::2], strict=True)
        ]

    def _pair(self, first: np.ndarray, second: np.ndarray, height: int, width: int) -> Unit:
        """The patches of a pair: those of its frames as stills, half of each."""
        as_still = [
            self.processor(
                Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC),
                do_resize=False,
                return_tensors="np",
            )
            for frame in (first, second)
        ]
        grid = tuple(as_still[0]["image_grid_thw"][0].tolist())
        first_half, second_half = (self._by_frame(s["pixel_values"]) for s in as_still)
        return self._unit(np.stack([first_half[:, 0], second_half[:, 1]], axis=1), grid)


def odd_size(
    n: int, height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """As smart_resize of older releases, whose number of frames is rounded up to an even one."""
    if min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    h, w = (round(side / factor) * factor for side in (height, width))
    volume = (n + 1) // 2 * 2 * h * w
    if volume > max_pixels:
        beta = math.sqrt(n * height * width / max_pixels)
        h, w = (max(factor, math.floor(s / beta / factor) * factor) for s in (height, width))
    elif volume < min_pixels:
        beta = math.sqrt(min_pixels / (n * height * width))
        h, w = (math.ceil(s * beta / factor) * factor for s in (height, width))
    return h, w


def mel(samples: np.ndarray) -> np.ndarray:
    """The spectrogram of a sound at its true length: (128, n_frames)."""
    extract = transformers.WhisperFeatureExtractor(feature_size=128)
    made = extract(
        samples, sampling_rate=tiny_omni.SAMPLE_RATE, truncation=False, return_tensors="np"
    )
    return made["input_features"][0][:, : -(-len(samples) // extract.hop_length)]


def stamps(video: Video) -> list[str]:
    """The time of each pair, as the processor writes it in front of it."""
    n = len(video.frames)
    fps = FALLBACK_FPS if video.seconds is None else (n - 1) / video.seconds[-1]
    times = Qwen3VLProcessor._calculate_timestamps(None, list(range(n)), fps, 2)
    return [f"<{t:.1f} seconds>" for t in times]


@dataclass
class Sequence:
    """An input as the text model sees it: ids, -1 where a row of a medium stands."""

    ids: list[int]
    units: list[Unit]


class OmniReference:
    """A layout in transformers."""

    def __init__(self, layout: Layout, text_path: Path) -> None:
        self.layout = layout
        with reference.float64():
            self.gguf = reference.Gguf(text_path)
            self.text = reference.build(self.gguf)
        self.table = self.gguf.tensors["token_embd.weight"]
        vision, *audio = tiny_omni.towers(layout.name)
        self.sight = Sight(vision)
        self.hearing = reference_towers.qwen25o(audio[0]) if audio else None
        model = tiny_omni.text_model(layout.name)
        self.encode, self.encode_template = tokenizers_reference.plain_and_special(model)
        self.id_of = model.vocab.tokens.index
        self._units: dict[str, list[Unit]] = {}

    def units(self, kind: str, name: str) -> list[Unit]:
        """What the towers make of a medium."""
        if name not in self._units:
            medium = tiny_omni.medium(name)
            if kind == "image":
                made = [self.sight.image(medium)]
            elif kind == "video":
                made = self.sight.video(medium)
            else:
                made = [Unit(self.hearing(mel(medium)))]
            self._units[name] = made
        return self._units[name]

    def sequence(self, source: Input) -> Sequence:
        """The ids of an input, by the rules of the family's processor."""
        out, text = Sequence([], []), ""

        def flush() -> None:
            nonlocal text
            out.ids.extend(self.encode(text))
            text = ""

        def put(unit: Unit, markers: tuple[str, str] | None) -> None:
            flush()
            before, after = ([self.id_of(m)] for m in markers) if markers else ([], [])
            out.ids.extend([*before, *[-1] * len(unit.rows), *after])
            out.units.append(unit)

        text = source.prompt
        for kind, value in source.parts:
            if kind == "text":
                text += value
            elif kind == "template":
                flush()
                out.ids.extend(self.encode_template(value))
            elif kind == "audio":
                put(self.units(kind, value)[0], self.layout.audio_markers)
            elif kind == "image":
                put(self.units(kind, value)[0], self.layout.image_markers)
            else:
                written = stamps(tiny_omni.medium(value)) if self.layout.time_stamps else None
                for i, unit in enumerate(self.units(kind, value)):
                    text += written[i] if written else ""
                    put(unit, self.layout.image_markers)
        flush()
        if self.layout.end_token is not None:
            out.ids.append(self.id_of(self.layout.end_token))
        return out

    def _positions(self, sequence: Sequence) -> dict[str, torch.Tensor]:
        """M-RoPE positions where the model has them, from its own rule."""
        if self.layout.name != "v4":
            return {}
        ids = torch.tensor([sequence.ids])
        grids = torch.tensor([u.grid for u in sequence.units], dtype=torch.long)
        vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
        model = SimpleNamespace(
            config=SimpleNamespace(vision_config=vision),
            get_vision_position_ids=lambda *a, **k: Qwen2_5_VLModel.get_vision_position_ids(
                None, *a, **k
            ),
        )
        positions, _ = Qwen2_5_VLModel.get_rope_index(model, ids, (ids < 0).int(), grids)
        return {"position_ids": positions}

    def states(self, sequence: Sequence) -> np.ndarray:
        """The last hidden states, [n_tokens, n_embd] float64."""
        ids = torch.tensor(sequence.ids)
        rows = self.table[ids.clamp(min=0)].clone()
        if sequence.units:
            media = np.concatenate([u.rows for u in sequence.units])
            rows[ids < 0] = torch.from_numpy(media).double()
        with torch.inference_mode(), reference.float64():
            out = self.text(inputs_embeds=rows[None], **self._positions(sequence))
        return out.last_hidden_state[0].double().numpy()

    def as_llama(self) -> OmniReference:
        """The same with LlamaModel in place of the text model, bidirectional."""
        keys = reference._decoder_config(self.gguf)
        with reference.float64():
            text = transformers.LlamaModel(transformers.LlamaConfig(**keys, is_causal=False))
        text.load_state_dict(self.text.state_dict())
        other = copy.copy(self)
        other.text = text.double().eval()
        return other

    def row(self, sequence: Sequence) -> np.ndarray:
        """The pooled row, not normalised."""
        states, span = self.states(sequence), self.layout.pooled_span
        if span is not None and sequence.units:
            first, last = (sequence.ids.index(self.id_of(m)) for m in span)
            states = states[first : last + 1]
        return golden.pool(states, self.layout.pooling)


def load(layout: str, folder: Path) -> OmniReference:
    """A layout whose files are written to a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return OmniReference(LAYOUTS[layout], tiny_omni.write(layout, folder)[0])


def write(folder: Path) -> Path:
    """Golden ids and rows of all inputs, and rows of towers."""
    data = {"versions": np.array(f"{reference.versions()} pillow {Image.__version__}")}
    for name in LAYOUTS:
        with tempfile.TemporaryDirectory() as scratch:
            omni = load(name, Path(scratch))
        inputs = tiny_omni.INPUTS[name]
        sequences = {n: omni.sequence(i) for n, i in inputs.items()}
        rows = np.stack([omni.row(s) for s in sequences.values()])
        data[f"{name}/inputs_sha256"] = np.array(tiny_omni.inputs_sha256(inputs))
        data[f"{name}/content_sha256"] = np.array(tiny_omni.content_sha256(name))
        flat = golden.flatten([s.ids for s in sequences.values()])
        data[f"{name}/ids"], data[f"{name}/offsets"] = flat
        data |= {f"{name}/rows/{k}": v for k, v in golden.pack(rows).items()}
        for part in [p for parts in tiny_omni.TOWERS[name].values() for p in parts]:
            made = np.concatenate([u.rows for u in omni.units(*part)])
            data[f"{name}/{part[1]}/n_rows"] = np.array(len(made))
            kept = golden.pack(made[tiny_omni.sampled(len(made))])
            data |= {f"{name}/{part[1]}/rows/{k}": v for k, v in kept.items()}
        print(f"{name}: {len(rows)} inputs, {golden.spread(rows)}")
    out = folder / "omni.npz"
    np.savez_compressed(out, **data)
    return out


def main() -> None:
    torch.set_num_threads(1)
    golden.run(write, __doc__)


if __name__ == "__main__":
    main()
