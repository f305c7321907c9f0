"""Rows of the tiny towers against golden rows of transformers. No torch here."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import golden
import numpy as np
import pytest
import tiny_towers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

# The least cosine that a row may have with the reference, by the type of the weight matrices.
#
# F32: the golden file's own 16-bit steps, 1e-9; found 2e-12 without them (test_live.py).
# F16: weights, and in ggml's kernels activations, of 11 bits; found 6e-6 with gated layers.
# Q8_0: 8-bit weights and activations.
LIMITS = {"F32": 1 - 3e-9, "F16": 1 - 1e-5, "Q8_0": 0.997}

# Alone or with others, with one thread or more: a product of another size is cut into other tiles,
# whose sums are added up in another order. Rows have values up to 4.
SAME = 3e-6

WIDTH = 48


class Tiny:
    """Opens tiny towers by name, and computes what golden.tower_cases lists."""

    def __init__(self, internals: ModuleType, folder: Any) -> None:
        self.internals, self.folder = internals, folder

    def open(self, name: str, *, kind: str = "F32", file: str = "", **options: Any) -> Any:
        path = self.folder / f"{file or name}-{kind}.gguf"
        if not path.exists():
            tiny_towers.make(file or name, path, kind=kind, width=WIDTH)
        modality = "vision" if name in golden.GRIDS else "audio"
        return self.internals.Tower(str(path), WIDTH, modality, **options)


@pytest.fixture(scope="module")
def towers(internals, tmp_path_factory) -> Tiny:
    return Tiny(internals, tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def wanted():
    return golden.load("towers.npz")


def parts(name: str, inputs: Sequence[Any]) -> list[Any]:
    """What a tower is given for one input of golden.tower_cases: pairs of frames, or a sound."""
    if name not in golden.GRIDS:
        return list(inputs)
    width, height, *pairs = inputs
    return [(width, height, pair) for pair in pairs]


def run_of(name: str, tower: Any) -> Callable[[list[Any]], list[np.ndarray]]:
    return tower.vision if name in golden.GRIDS else tower.audio


def rows_alone(name: str, tower: Any) -> dict[str, np.ndarray]:
    run = run_of(name, tower)
    cases = golden.tower_cases(name).items()
    return {case: np.concatenate(run(parts(name, inputs))) for case, inputs in cases}


@pytest.mark.parametrize("name", golden.TOWERS)
def test_golden_rows_belong_to_these_weights(name, wanted):
    found = tiny_towers.build(name).content_sha256()
    assert str(wanted[f"{name}/content_sha256"]) == found, "run reference_towers.py"


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("name", golden.TOWERS)
def test_rows_equal_the_reference(name, kind, towers, wanted, figures):
    cosines, worst = [], 0.0
    for case, rows in rows_alone(name, towers.open(name, kind=kind)).items():
        kept, reference = golden.kept_rows(rows), wanted[f"{name}/{case}"]
        assert kept.shape == reference.shape
        cosines.append(golden.cosine(kept, reference).min())
        worst = max(worst, np.abs(kept - reference).max())
    figures(
        f"tower {name} {kind}: min cosine 1 - {1 - min(cosines):.1e}, max abs error {worst:.1e} "
        f"over {len(cosines)} inputs"
    )
    assert min(cosines) >= LIMITS[kind]
    if kind == "F32":
        assert worst <= 1.5e-4  # of values up to 5, whose steps in the golden file are that large


@pytest.mark.parametrize("name", golden.TOWERS)
def test_golden_rows_differ_from_each_other(name, wanted):
    rows = np.concatenate([wanted[f"{name}/{case}"] for case in golden.tower_cases(name)])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    off = (unit @ unit.T)[~np.eye(len(rows), dtype=bool)]
    assert np.quantile(off, 0.95) < 0.999


@pytest.mark.parametrize("name", golden.TOWERS)
def test_rows_do_not_depend_on_what_shares_the_pass(name, towers):
    tower = towers.open(name)
    alone = rows_alone(name, tower)
    inputs = [part for case in golden.tower_cases(name).values() for part in parts(name, case)]
    together = run_of(name, tower)(inputs)
    assert np.abs(np.concatenate(together) - np.concatenate(list(alone.values()))).max() <= SAME
    backwards = run_of(name, tower)(inputs[::-1])[::-1]
    for found, before in zip(backwards, together, strict=True):
        assert np.abs(found - before).max() <= SAME


@pytest.mark.parametrize("name", golden.TOWERS)
def test_an_input_without_sense_does_not_touch_the_others(name, towers):
    tower = towers.open(name)
    run = run_of(name, tower)
    good = parts(name, next(iter(golden.tower_cases(name).values())))[0]
    bad = np.full_like(good, np.nan) if name == "qwen25o" else (*good[:2], good[2] * np.nan)
    rows = run([bad, good, bad])
    assert np.isnan(rows[0]).all()
    assert np.abs(rows[1] - run([good])[0]).max() <= SAME


@pytest.mark.parametrize("name", golden.TOWERS)
def test_threads_and_reading_instead_of_mapping_change_nothing(name, towers):
    plain = rows_alone(name, towers.open(name))
    read = rows_alone(name, towers.open(name, mmap=False))
    threads = rows_alone(name, towers.open(name, n_threads=2))
    for case, rows in plain.items():
        assert np.array_equal(read[case], rows)
        assert np.abs(threads[case] - rows).max() <= SAME


def test_one_file_gives_two_towers(towers):
    for name in ("qwen3vl", "qwen25o"):
        own, shared = towers.open(name), towers.open(name, file="omni")
        case = next(iter(golden.tower_cases(name).values()))
        for one, other in zip(
            run_of(name, own)(parts(name, case)),
            run_of(name, shared)(parts(name, case)),
            strict=True,
        ):
            assert np.array_equal(one, other)
        drop = ("path", "name", "file_bytes")
        assert {k: v for k, v in own.facts.items() if k not in drop} == {
            k: v for k, v in shared.facts.items() if k not in drop
        }


def test_the_frames_of_a_pair_have_an_order(towers):
    tower = towers.open("qwen3vl")
    pair = tiny_towers.patches("pair", 6, 4, 4)
    swapped = np.concatenate([pair[:, 48:], pair[:, :48]], axis=1)
    there, back = tower.vision([(6, 4, pair), (6, 4, swapped)])
    assert golden.cosine(there, back).max() < 0.99


def test_width_and_height_are_told_apart(towers):
    values = tiny_towers.patches("turned", 6, 10, 4)
    one, other = towers.open("qwen3vl").vision([(6, 10, values), (10, 6, values)])
    assert golden.cosine(one, other).min() < 0.999


def test_a_window_is_blind_to_the_others_until_a_layer_sees_the_whole_image(towers, tmp_path):
    blind = tiny_towers.changed(tiny_towers.build("qwen25vl"), vision__n_wa_pattern=9)
    path = tiny_towers.write(blind, tmp_path / "blind.gguf")
    values = tiny_towers.patches("window", 18, 10, 14)
    changed = values.copy()
    changed[:4] += 1.0  # of the first cell, which is in the first window of 4 x 4 cells
    seen = [
        np.abs(rows[0] - rows[1]).max(axis=1).reshape(5, 9) > 0
        for tower in (towers.internals.Tower(str(path), WIDTH, "vision"), towers.open("qwen25vl"))
        for rows in [tower.vision([(18, 10, values), (18, 10, changed)])]
    ]
    first = np.zeros((5, 9), bool)
    first[:4, :4] = True
    assert np.array_equal(seen[0], first)
    assert seen[1].all()


def test_a_piece_of_sound_is_blind_to_the_others(towers):
    tower = towers.open("qwen25o")
    mel = tiny_towers.mel("locality", 16, 500)
    changed = mel.copy()
    changed[:, 200:400] += 1.0
    rows, other = tower.audio([mel])[0], tower.audio([changed])[0]
    assert np.array_equal(rows[:50], other[:50])
    assert np.array_equal(rows[100:], other[100:])
    assert (np.abs(rows[50:100] - other[50:100]).max(axis=1) > 0).all()


def test_sounds_have_a_row_for_each_40_ms(towers):
    tower = towers.open("qwen25o")
    lengths = [*range(3, 24), *range(190, 215), 1100, 3000]
    rows = tower.audio([tiny_towers.mel("count", 16, n) for n in lengths])
    # as transformers computes it
    assert [len(r) for r in rows] == [((n - 1) // 2 + 1 - 2) // 2 + 1 for n in lengths]


@pytest.mark.parametrize("name", golden.TOWERS)
def test_a_pass_can_be_stopped_and_the_tower_used_again(name, towers):
    tower = towers.open(name)
    run = run_of(name, tower)
    case = parts(name, next(iter(golden.tower_cases(name).values())))
    before = run(case)[0]
    tower.stop()
    with pytest.raises(RuntimeError, match="aborted"):
        run(case)
    assert np.array_equal(run(case)[0], before)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_pass_can_be_stopped_in_its_middle(n_threads, towers):
    tower = towers.open("qwen3vl", n_threads=n_threads)
    large = (96, 96, tiny_towers.patches("stopped", 96, 96, 4))
    timer = threading.Timer(0.05, tower.stop)
    timer.start()
    with pytest.raises(RuntimeError, match="aborted"):
        tower.vision([large])
    timer.join()
    small = (8, 8, tiny_towers.patches("8x8/0", 8, 8, 4))
    again, fresh = tower.vision([small]), towers.open("qwen3vl").vision([small])
    assert np.abs(again[0] - fresh[0]).max() <= SAME


def test_inputs_that_do_not_fit_the_tower_are_errors(towers):
    vision, audio = towers.open("qwen3vl"), towers.open("qwen25o")
    values = tiny_towers.patches("odd", 8, 8, 4)
    for width, height in ((3, 2), (2, 3), (0, 2), (-2, -2)):
        with pytest.raises(RuntimeError, match=f"{width} x {height} patches"):
            vision.vision([(width, height, values)])
    with pytest.raises(RuntimeError, match="2 mel frames"):
        audio.audio([tiny_towers.mel("short", 16, 2)])
    with pytest.raises(RuntimeError, match="nothing"):
        vision.vision([])


def test_the_memory_of_a_session_is_reported(towers):
    tower = towers.open("qwen3vl")
    assert tower.memory()["weights_host"] >= tower.facts["tensor_bytes"]
    tower.vision([(8, 8, tiny_towers.patches("memory", 8, 8, 4))])
    small = tower.memory()
    tower.vision([(40, 40, tiny_towers.patches("memory", 40, 40, 4))])
    large = tower.memory()
    assert large["compute_host"] > 5 * small["compute_host"]
    assert large["output_host"] >= 400 * WIDTH * 4
