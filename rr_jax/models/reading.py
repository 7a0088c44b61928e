"""Puts the arrays of a model together from the tensors of its files, for decoders and encoders alike.

Names and headers are compared with what the config expects before any tensor is read. Then each array is filled from
the tensors of its layers, or only the block of it that a device is to hold. Knows `Tensor` tables and `ArraySpec`
trees, never a family or a config.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rr_jax.models import weights
from rr_jax.models.families.tensors import Tensor
from rr_jax.models.spec import ArraySpec, Params

Progress = Callable[[int, int], None]
Shardings = Callable[[ArraySpec], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Says what the files of a model are expected to hold, and which array each tensor fills.

    Attributes:
      kind: what the model is called in errors, such as "llama model".
      specs: the tree of `ArraySpec` of the parameters; those under "layers" are stacked on a leading axis.
      tensors: the tensors that fill all of these arrays.
      head_dim: width of a head, for projections that are fused head by head.
      plain_name: a weight's name without what may differ between files of the same model, such as a prefix.
      unused: whether a weight of this plain name is known to be of no use to the model.
    """

    kind: str
    specs: dict[str, Any]
    tensors: Sequence[Tensor]
    head_dim: int
    plain_name: Callable[[str], str]
    unused: Callable[[str], bool]


def read_params(
    folder: Path,
    layout: Layout,
    dtype: np.dtype,
    shardings: Shardings | None = None,
    progress: Progress | None = None,
) -> Params:
    """Reads the parameter tree of a folder, array by array, each block straight to the device that holds it.

    Args:
      folder: with safetensors files.
      layout: what they are expected to hold.
      dtype: of the arrays in memory.
      shardings: from an array's spec (shape and named axes) to where it is to lie; None: whole on the default device.
      progress: called with (kinds of tensors read, kinds in all) after each one.

    Raises:
      ValueError: a tensor is missing, or there twice, or unknown, or of another shape, or quantised, or not finite, or its
        file is corrupt.
    """
    with weights.opened(folder) as files:
        found = find_tensors(folder, layout, files)

        def array(tensor: Tensor, part: int) -> jax.Array:
            spec, shapes = _specs_of(tensor, layout.specs)[part], part_shapes(tensor, layout.specs)
            names = [found[name] for name in _names_of(tensor, layout.specs)]

            def block(index: tuple[slice, ...] | None = None) -> np.ndarray:
                index = (slice(None),) * len(spec.shape) if index is None else index
                layers, rest = (names[index[0]], index[1:]) if tensor.layered else (names, index)
                lengths = [len(range(*cut.indices(size))) for cut, size in zip(index, spec.shape, strict=True)]
                filled = _aligned(tuple(lengths), dtype)
                for layer, name in enumerate(layers):
                    piece = tensor.split(files.read(name), shapes, layout.head_dim)[part][rest]
                    filled_by = filled[layer] if tensor.layered else filled
                    with np.errstate(over="ignore"):  # what a dtype cannot hold is named below
                        filled_by[...] = piece
                    if not np.isfinite(filled_by).all():
                        raise ValueError(f"{folder}: {name} {_not_finite(piece, dtype)}")
                return filled

            sharding = None if shardings is None else shardings(spec)
            if sharding is None:
                return jax.device_put(block())
            return jax.make_array_from_callback(spec.shape, sharding, block)

        params: Params = {"layers": {}}
        for done, tensor in enumerate(layout.tensors, start=1):
            for part, ours in enumerate(tensor.parts):
                (params["layers"] if tensor.layered else params)[ours] = array(tensor, part)
            files.forget()
            if progress is not None:
                progress(done, len(layout.tensors))
    return params


def find_tensors(folder: Path, layout: Layout, files: weights.WeightFiles) -> dict[str, str]:
    """Compares the headers of the files with the layout: {name in the layout: name in the files}.

    Raises:
      ValueError: as `read_params`, for all that the headers show.
    """
    wanted = {
        layout.plain_name(name): (name, tensor.file_shape(part_shapes(tensor, layout.specs)))
        for tensor in layout.tensors
        for name in _names_of(tensor, layout.specs)
    }
    there: dict[str, str] = {}  # plain name -> name in the files
    for name in files.names:
        plain = layout.plain_name(name)
        if plain not in wanted and layout.unused(plain):
            continue
        if plain in there:
            raise ValueError(f"{folder} holds {name}, the same weight as {there[plain]}: expected one of them")
        there[plain] = name
    missing = [f"{name} {list(shape)}" for plain, (name, shape) in wanted.items() if plain not in there]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(wanted)} weights of a {layout.kind} of this config: {_five(missing)}"
        )
    extra = [name for plain, name in there.items() if plain not in wanted]
    if extra:
        raise ValueError(
            f"{folder} holds {len(extra)} of {len(files.names)} weights: {_five(extra)}, which a {layout.kind} of this "
            "config has not"
        )
    for plain, (_, shape) in wanted.items():
        files.check(there[plain], shape)
    return {name: there[plain] for plain, (name, _) in wanted.items()}


def part_shapes(tensor: Tensor, specs: dict[str, Any]) -> list[tuple[int, ...]]:
    """Returns the shape of each part of a tensor, of one layer where there are layers."""
    return [spec.shape[1:] if tensor.layered else spec.shape for spec in _specs_of(tensor, specs)]


def _specs_of(tensor: Tensor, specs: dict[str, Any]) -> list[ArraySpec]:
    return [(specs["layers"] if tensor.layered else specs)[part] for part in tensor.parts]


def _names_of(tensor: Tensor, specs: dict[str, Any]) -> list[str]:
    """Returns the name in the files for each layer, or the one name of a tensor outside the layers."""
    count = _specs_of(tensor, specs)[0].shape[0] if tensor.layered else 1
    return [tensor.name.format(layer) for layer in range(count)]


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an empty array that begins where XLA's arrays may: on CPU it is taken over instead of copied."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + size].view(dtype).reshape(shape)


def _not_finite(found: np.ndarray, dtype: np.dtype) -> str:
    """Says what is wrong with a tensor that is not finite, in its file or only in memory."""
    bad = int((~np.isfinite(found)).sum())
    if bad:
        return f"holds {bad} of {found.size} numbers that are NaN or infinite, expected finite weights"
    largest = float(np.abs(found.astype(np.float64)).max())
    return f"holds numbers up to {largest:.3g}, which {dtype.name} cannot hold: load it with another dtype"


def _five(names: Sequence[str]) -> str:
    """Returns the first five names, and the count of the rest."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
