"""A BERT of Sentence Transformers as ONNX files for onnxruntime, in F32 and with dynamic int8.

    python benchmarks/onnx_bert.py MODEL_FOLDER FOLDER     # writes f32.onnx and int8.onnx

The graph is written with onnxruntime's fused operators, which is what its optimiser makes out of an
exported BERT. Pooling (mean) and the division by the norm are part of it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

_FUSED = "com.microsoft"
_LAYER = "encoder.layer.{}."


class _Graph:
    """Nodes and weights, while they are collected."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, inputs: list[str], domain: str = "", **attributes: float) -> str:
        """Adds a node and returns the name of its first output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        made = helper.make_node(kind, inputs, [name], name, domain=domain, **attributes)
        self.nodes.append(made)
        return name

    def fused(self, kind: str, inputs: list[str], **attributes: float) -> str:
        return self.add(kind, inputs, _FUSED, **attributes)


def _layer(graph: _Graph, x: str, i: int, weights: dict[str, np.ndarray], config: dict) -> str:
    prefix = _LAYER.format(i)

    def get(name: str) -> str:
        full = prefix + name
        values = weights[full]
        return graph.constant(full, values.T if values.ndim == 2 else values)

    parts = [f"{prefix}attention.self.{part}." for part in ("query", "key", "value")]
    qkv = np.concatenate([weights[f"{part}weight"].T for part in parts], axis=1)
    bias = np.concatenate([weights[f"{part}bias"] for part in parts])
    inputs = [x, graph.constant(f"{prefix}qkv", qkv), graph.constant(f"{prefix}qkv.bias", bias)]
    heads = config["num_attention_heads"]
    attended = graph.fused("Attention", [*inputs, "lengths"], num_heads=heads)

    def joined(y: str, skip: str, part: str) -> str:
        out = graph.add("MatMul", [y, get(f"{part}.dense.weight")])
        norm = [get(f"{part}.LayerNorm.{name}") for name in ("weight", "bias")]
        added = [out, skip, *norm, get(f"{part}.dense.bias")]
        eps = config["layer_norm_eps"]
        return graph.fused("SkipLayerNormalization", added, epsilon=eps)

    x = joined(attended, x, "attention.output")
    inner = graph.add("MatMul", [x, get("intermediate.dense.weight")])
    inner = graph.fused("BiasGelu", [inner, get("intermediate.dense.bias")])
    return joined(inner, x, "output")


def _pooled(graph: _Graph, x: str) -> str:
    """The mean over the tokens of each text, divided by its norm."""
    one = graph.constant("one", np.array([1], np.int64))
    n = graph.add("Gather", [graph.add("Shape", ["ids"]), graph.constant("i", np.array(1))])
    zero, step = graph.constant("zero", np.array(0)), graph.constant("step", np.array(1))
    places = graph.add("Cast", [graph.add("Range", [zero, n, step])], to=TensorProto.INT32)
    limits = graph.add("Unsqueeze", ["lengths", one])
    inside = graph.add("Cast", [graph.add("Less", [places, limits])], to=TensorProto.FLOAT)
    total = graph.add("MatMul", [graph.add("Unsqueeze", [inside, one]), x])
    return graph.add("LpNormalization", [graph.add("Squeeze", [total, one])], axis=-1, p=2)


def write(folder: Path, out: Path) -> None:
    """Writes f32.onnx, int8.onnx and the tokenizer of the model in `folder`."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("bert."): x.astype(np.float32) for name, x in weights.items()}
    graph = _Graph()
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    names = ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight")
    words = graph.constant(names[0], weights[names[0]])
    places = graph.constant(names[1], weights[names[1]] + kind)
    norm = [
        graph.constant(name, weights[name])
        for name in ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias")
    ]
    inputs = ["ids", "", words, places, "", *norm]
    x = graph.fused("EmbedLayerNormalization", inputs, epsilon=config["layer_norm_eps"])
    graph.nodes[-1].output.append("unused")
    for i in range(config["num_hidden_layers"]):
        x = _layer(graph, x, i, weights, config)
    rows = _pooled(graph, x)
    made = helper.make_graph(
        graph.nodes,
        "bert",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "length"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        ],
        [helper.make_tensor_value_info(rows, TensorProto.FLOAT, ["batch", config["hidden_size"]])],
        graph.weights,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(_FUSED, 1)]
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=versions, ir_version=10), out / "f32.onnx")
    quantize_dynamic(
        out / "f32.onnx",
        out / "int8.onnx",
        op_types_to_quantize=["MatMul", "Attention"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # fused operators have no inference
    )
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
