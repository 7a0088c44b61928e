"""Settings every test shares: strict promotion, a persistent compilation cache, and where the optional real data lies."""

import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# On small arrays two threads of torch wait for each other, and for those of JAX, twenty times as long as one computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Large arrays are otherwise given back to the system and fetched anew at every step, page by page (glibc's malloc).
os.environ.setdefault("MALLOC_ARENA_MAX", "1")
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**31))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31))
CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"rr-jax-compilation-cache-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling takes most of the time of these tests, and what is compiled runs on numbers that fit a page: LLVM is told not to
# optimize. What stands in XLA_FLAGS already comes last and wins: --xla_backend_optimization_level=3 and
# --xla_cpu_use_fusion_emitters=true give the code that users have. XLA refuses to start with a flag that it does not know,
# and from 0.11 on it does not know the last one.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
if QUICK not in os.environ.get("XLA_FLAGS", ""):  # a process of pytest-xdist has them from the first one
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

import jax
import pytest

TESTS = Path(__file__).parent
LONGEST = {"runs", "studies", "training", "release", "tasks", "testbed", "parallel", "test_cli.py"}
MAPPINGS = 30_000  # of a module more there may be twice as many

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that neither of two processes is left with one of them alone."""
    items.sort(key=lambda item: not LONGEST & set(item.path.relative_to(TESTS).parts))
    if os.environ.get("RR_JAX_SLOW") != "1":
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set RR_JAX_SLOW=1 to run it"))


@pytest.fixture(scope="module", autouse=True)
def free_compiled_code() -> Iterator[None]:
    """Each compiled function holds memory mappings, of which a process may have 65,530: the whole suite needs more."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its tokenizer, as a folder that nobody writes to."""
    from rr_jax.models.hub import save
    from tests import tiny

    path = tmp_path_factory.mktemp("model") / "tiny"
    save(tiny.model(), path)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and models, or a skip that says why."""
    folder = Path(os.environ.get("RR_JAX_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}: set RR_JAX_SHARED to run this test")
    return folder
