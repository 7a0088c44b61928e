"""Times one bandit iteration beside a PyTorch loop: `python scripts/benchmark_bandit.py --out FILE.json`. Two minutes.

An iteration is fit + score + choose, for a pool of random arms after INSTINCT's 165 observations. Ours is one compiled
call, the median of several; it runs with our defaults and with the preset `instinct`, which does the same work as the
loop but in float32. The loop is INSTINCT's algorithm in float64: 1,000 steps of Adam, then one backward pass an arm for
its gradient; it is run in full, once. (INSTINCT itself gathers gradients 300 arms at a time with BackPACK.) Both have the
same number of threads, one unless told otherwise: on shared cores the loop's many small operations wait for each other.
"""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

OBSERVED = 165
REPEATS = 5


def main() -> None:
    """Ours first, so that its peak memory is that of a process without torch."""
    parser = argparse.ArgumentParser(description="Time a bandit iteration beside a PyTorch loop.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--arms", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    # Before the first import of jax, which sizes its pool of threads by the cores that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    rows = [ours(options.features, arms, name) for arms in sorted(options.arms) for name in ("default", "instinct")]
    for arms in sorted(options.arms):
        seconds = torch_loop(options.features, arms, options.threads)
        for row in rows:
            if row["arms"] == arms:
                row |= {"torch_seconds": seconds, "ratio": seconds / row["seconds"], "threads": options.threads}
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(
            " ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()
            )
        )


def pool(features: int, arms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feature rows of the arms and of the observed ones, and the rewards of these."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((arms + OBSERVED, features), np.float32)
    return drawn[OBSERVED:], drawn[:OBSERVED], rng.uniform(size=OBSERVED).astype(np.float32)


def ours(features: int, arms: int, name: str) -> dict[str, Any]:
    """One row: seconds of `bandit.step`."""
    import jax
    import jax.numpy as jnp

    from rr_jax.reveal import bandit

    config = bandit.instinct() if name == "instinct" else bandit.BanditConfig(capacity=OBSERVED)
    x, observed, rewards = map(jnp.asarray, pool(features, arms))
    state = bandit.observe(bandit.init(jax.random.key(0), config, features), observed, rewards)
    arguments = (
        state.replace(picks=state.picks + 1),
        x,
        jnp.ones(arms, bool),
        config,
    )  # not INSTINCT's blind first pick
    started = time.perf_counter()
    step = bandit.step.lower(*arguments).compile()
    compiling = time.perf_counter() - started
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        jax.block_until_ready(step(*arguments))
        times.append(time.perf_counter() - started)
    return {
        "arms": arms,
        "features": features,
        "settings": name,
        "fit_steps": config.fit_steps,
        "dtype": "float32",
        "seconds": statistics.median(times[1:]),
        "compile_seconds": compiling,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "features_mb": x.nbytes / 2**20,
        "torch_dtype": "float64",
    }


def torch_loop(features: int, arms: int, threads: int) -> float:
    """Seconds of the loop: fit, then mean and sigma of one arm after the other, and the choice."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, observed, rewards = (torch.from_numpy(part).double() for part in pool(features, arms))
    network = torch.nn.Sequential(torch.nn.Linear(features, 100), torch.nn.ReLU(), torch.nn.Linear(100, 1)).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    u = 0.1 * torch.ones(sum(weight.numel() for weight in network.parameters()))
    network(observed).sum().backward()  # what torch does once, it does before the clock runs

    started = time.perf_counter()
    mean, std = observed.mean(0), observed.std(0) + 1e-30
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=0.1 / OBSERVED)
    x, observed = (x - mean) / std, (observed - mean) / std
    for _ in range(1000):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(observed).view(-1), rewards).backward()
        optimizer.step()
    best, chosen = -torch.inf, None
    for arm in range(arms):
        network.zero_grad()
        predicted = network(x[arm : arm + 1]).sum()
        predicted.backward()
        gradient = torch.cat([weight.grad.flatten() for weight in network.parameters()])
        ucb = predicted.item() + torch.sqrt(torch.sum(0.1 * gradient * gradient / u)).item()
        if ucb > best:
            best, chosen = ucb, gradient
    u += chosen * chosen
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
