"""Tests of what the tests stand on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.mark.parametrize("keep", [0, 100], ids=["empty", "the beginning alone"])
def test_a_half_written_entry_of_the_compilation_cache_is_compiled_again(tmp_path: Path, keep: int) -> None:
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        compilation_cache.reset_cache()
        assert jax.jit(lambda x: 3 * x + keep)(jnp.float32(2)) == 6 + keep
        entries = list(tmp_path.glob("*-cache"))
        assert entries
        for entry in entries:
            entry.write_bytes(entry.read_bytes()[:keep])
        assert jax.jit(lambda x: 3 * x + keep)(jnp.float32(2)) == 6 + keep
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
