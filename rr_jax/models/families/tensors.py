"""How the tensors of a model file and the arrays of ours correspond: names, transposition, fused projections.

A family of decoders or encoders lists its tensors once; reading, writing, checking and adapter files all follow that
list. Nothing here opens a file.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Describes one tensor of a file.

    Attributes:
      name: in the file; "{}" stands for the number of the layer.
      parts: the arrays of ours it holds, side by side along the output axis when there are several.
      flipped: [out, in] in the file, [in, out] with us.
      heads: the parts of a fused projection alternate head by head, as q, k, v of head 0, then of head 1 (GPT-NeoX).
    """

    name: str
    parts: tuple[str, ...]
    flipped: bool = False
    heads: bool = False

    @property
    def layered(self) -> bool:
        """Returns whether each layer has one."""
        return "{}" in self.name

    def file_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Returns the shape in the file, from the shape of each part in one layer."""
        whole = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        return whole[::-1] if self.flipped else whole

    def split(self, tensor: np.ndarray, shapes: Sequence[tuple[int, ...]], head_dim: int) -> list[np.ndarray]:
        """Returns the parts of a tensor as read, as views where that is possible."""
        whole = tensor.T if self.flipped else tensor
        if self.heads:
            by_head = whole.reshape(*whole.shape[:-1], -1, len(shapes), head_dim)
            return [by_head[..., i, :].reshape(shape) for i, shape in enumerate(shapes)]
        ends = np.cumsum([shape[-1] for shape in shapes])[:-1]
        return np.split(whole, ends, axis=-1)

    def join(self, parts: Sequence[np.ndarray], head_dim: int) -> np.ndarray:
        """Returns the tensor as it is written: the inverse of `split`."""
        if self.heads:
            by_head = [part.reshape(*part.shape[:-1], -1, 1, head_dim) for part in parts]
            whole = np.concatenate(by_head, axis=-2).reshape(*parts[0].shape[:-1], -1)
        else:
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return np.ascontiguousarray(whole.T if self.flipped else whole)


def linear(name: str, *parts: str, flipped: bool = True, heads: bool = False) -> tuple[Tensor, Tensor]:
    """Returns the weight and the bias of a linear module that holds one or several of our modules."""
    biases = tuple(f"{part}_bias" for part in parts)
    return Tensor(f"{name}.weight", parts, flipped, heads), Tensor(f"{name}.bias", biases, heads=heads)


def norm(name: str, part: str) -> tuple[Tensor, Tensor]:
    """Returns the weight and the bias of a norm."""
    return Tensor(f"{name}.weight", (part,)), Tensor(f"{name}.bias", (f"{part}_bias",))


def present_tensors(tensors: Iterable[Tensor], specs: Mapping[str, Any]) -> list[Tensor]:
    """Returns those tensors of a family whose arrays a model has, from the tree of its `ArraySpec`s."""
    present = {*specs, *specs["layers"]}
    return [tensor for tensor in tensors if present.issuperset(tensor.parts)]


ATTENTION = (
    *linear("model.layers.{}.self_attn.q_proj", "q"),
    *linear("model.layers.{}.self_attn.k_proj", "k"),
    *linear("model.layers.{}.self_attn.v_proj", "v"),
    *linear("model.layers.{}.self_attn.o_proj", "o"),
    Tensor("model.layers.{}.self_attn.q_norm.weight", ("q_norm",)),
    Tensor("model.layers.{}.self_attn.k_norm.weight", ("k_norm",)),
)
GATED_MLP = (
    *linear("model.layers.{}.mlp.gate_proj", "gate"),
    *linear("model.layers.{}.mlp.up_proj", "up"),
    *linear("model.layers.{}.mlp.down_proj", "down"),
)
OUTSIDE = (
    Tensor("model.embed_tokens.weight", ("embed",)),
    Tensor("model.norm.weight", ("final_norm",)),
    Tensor("lm_head.weight", ("head",), flipped=True),
)
PRE_NORMS = (
    Tensor("model.layers.{}.input_layernorm.weight", ("attn_norm",)),
    Tensor("model.layers.{}.post_attention_layernorm.weight", ("mlp_norm",)),
)
LLAMA_TENSORS = (*OUTSIDE, *PRE_NORMS, *ATTENTION, *GATED_MLP)
