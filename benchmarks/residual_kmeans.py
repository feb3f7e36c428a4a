"""Times residual k-means of item vectors and compares its error with faiss's residual quantiser, where that is there.

    pip install faiss-cpu && python benchmarks/residual_kmeans.py --json residual-kmeans.json

The vectors are normal, with variances that fall as those of learned item vectors do. faiss trains with its own
defaults, which keep a beam of 5; ours is timed with each --beams. `first_seconds` includes compilation.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, to_json
from seqrec.files import write_json
from seqrec.semantic_ids.additive import relative_errors
from seqrec.semantic_ids.kmeans import KMeansConfig
from seqrec.semantic_ids.residual import ResidualConfig, residual_kmeans
from seqrec.sharding import MeshConfig


@dataclass(frozen=True)
class Config:
    """Times residual k-means, by the width of its beam."""

    n_vectors: int = 1_000_000
    """Number of vectors."""
    width: int = 64
    """Numbers of a vector."""
    n_levels: int = 3
    """Number of levels."""
    beams: tuple[int, ...] = (1, 5)
    """Widths of the beam to time."""
    refinements: int = 4
    """Joint fits of the codebooks where the beam is wider than 1."""
    seed: int = 0
    """Seed of the vectors and of k-means."""
    json: Path | None = None
    """JSON file to write the figures to."""
    kmeans: OmitArgPrefixes[KMeansConfig] = field(default_factory=lambda: KMeansConfig(kmeans_batch=1 << 16))

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_vectors", "width", "n_levels")


N_CODES = 256


def simulated_vectors(config: Config) -> np.ndarray:
    """Normal vectors with variances 1, 1/2, 1/3, …"""
    rng = np.random.default_rng(config.seed)
    vectors = rng.standard_normal((config.n_vectors, config.width), np.float32)
    return vectors / np.sqrt(np.arange(1, config.width + 1, dtype=np.float32))


def timed(function: Any) -> tuple[Any, dict[str, float]]:
    """What the function returns, with its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def faiss_figures(config: Config, vectors: np.ndarray) -> dict[str, Any] | None:
    """Time and errors of faiss's residual quantiser; None where faiss is not installed."""
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    quantiser = faiss.ResidualQuantizer(config.width, config.n_levels, 8)

    def run() -> np.ndarray:
        quantiser.train(vectors)
        return quantiser.compute_codes(vectors)

    codes, seconds = timed(run)
    tables = faiss.vector_to_array(quantiser.codebooks).reshape(config.n_levels, N_CODES, config.width)
    errors = relative_errors(vectors, codes.astype(np.int32), tuple(tables))
    return {**seconds, "errors": errors, "version": faiss.__version__, "beam": quantiser.max_beam_size}


def main(config: Config) -> dict[str, Any]:
    """Prints seconds and relative errors of each way and returns them."""
    runtime.start(MeshConfig())
    vectors, figures = simulated_vectors(config), {}
    for beam in config.beams:
        ways = ResidualConfig(beam, config.refinements if beam > 1 else 0)
        quantised, seconds = timed(
            lambda ways=ways: residual_kmeans(
                vectors, (N_CODES,) * config.n_levels, ways, kmeans_config=config.kmeans, seed=config.seed
            )
        )
        figures[f"beam {beam}"] = {**seconds, "errors": quantised.errors}
        print(f"beam {beam:<9}", figures[f"beam {beam}"])
    jax.clear_caches()
    figures["faiss"] = faiss_figures(config, vectors)
    print("faiss         ", figures["faiss"] or "not installed")
    result: dict[str, Any] = {"ways": figures}
    if figures["faiss"]:
        result["error_over_faiss"] = {
            name: each["errors"][-1] / figures["faiss"]["errors"][-1]
            for name, each in figures.items()
            if name != "faiss"
        }
        print("error over faiss's", result["error_over_faiss"])
    result |= {"config": to_json(config), "device": runtime.device_name(), "versions": runtime.versions()}
    if config.json is not None:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
