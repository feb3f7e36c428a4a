"""How other libraries take the same scores and held-out items to recall, NDCG and MRR at several cut-offs.

Each peer is called as its documentation has it for one relevant item a user. `PEERS[name]()` imports the library
and returns a function `(scores, targets) -> {metric name: mean over users}`, which waits until it is done; an
ImportError means that the library is not installed.
"""

import os
from collections.abc import Callable

import numpy as np

KS = (5, 10, 20)

Peer = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def from_ranks(ranks: np.ndarray) -> dict[str, float]:
    """The slow twin: metrics of integer ranks, in NumPy."""
    values = {f"recall@{k}": np.mean(ranks <= k) for k in KS}
    values |= {f"ndcg@{k}": np.mean(np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0)) for k in KS}
    return {name: float(value) for name, value in values.items()} | {f"mrr@{KS[-1]}": from_ranks_mrr(ranks)}


def from_ranks_mrr(ranks: np.ndarray) -> float:
    """MRR cut off at the largest of `KS`, which every peer can give."""
    return float(np.mean(np.where(ranks <= KS[-1], 1.0 / ranks, 0)))


def torch_topk() -> Peer:
    """torch.topk and a comparison with the target, as RecBole's collector does it."""
    import torch

    def metrics(scores, targets):
        top = torch.topk(torch.from_numpy(scores), KS[-1], dim=-1).indices
        hits = (top == torch.from_numpy(targets)[:, None]).numpy()
        return from_ranks(np.where(hits.any(axis=1), 1 + hits.argmax(axis=1), scores.shape[1] + 1))

    return metrics


def rax() -> Peer:
    import jax
    import jax.numpy as jnp
    import rax

    @jax.jit
    def metrics(scores, targets):
        labels = jax.nn.one_hot(targets, scores.shape[1])
        values = {f"recall@{k}": rax.recall_metric(scores, labels, topn=k) for k in KS}
        values |= {f"ndcg@{k}": rax.ndcg_metric(scores, labels, topn=k) for k in KS}
        return values | {f"mrr@{KS[-1]}": rax.mrr_metric(scores, labels, topn=KS[-1])}

    return lambda scores, targets: {
        name: float(value) for name, value in metrics(jnp.asarray(scores), jnp.asarray(targets)).items()
    }


def metrax() -> Peer:
    import jax
    import jax.numpy as jnp
    import metrax

    names = {"recall": metrax.RecallAtK, "ndcg": metrax.NDCGAtK, "mrr": metrax.MRR}
    ks = jnp.array(KS)

    def metrics(scores, targets):
        labels = jax.nn.one_hot(targets, scores.shape[1])
        by_cutoff = {
            name: np.asarray(kind.from_model_output(jnp.asarray(scores), labels, ks).compute())
            for name, kind in names.items()
        }
        values = {f"{name}@{k}": float(by_cutoff[name][i]) for name in ("recall", "ndcg") for i, k in enumerate(KS)}
        return values | {f"mrr@{KS[-1]}": float(by_cutoff["mrr"][-1])}

    return metrics


def torchmetrics() -> Peer:
    import torch
    from torchmetrics import retrieval

    def metrics(scores, targets):
        n_users, n_items = scores.shape
        predictions = torch.from_numpy(scores).reshape(-1)
        relevant = torch.zeros(n_users, n_items, dtype=torch.bool)
        relevant[torch.arange(n_users), torch.from_numpy(targets).long()] = True
        indexes = torch.arange(n_users).repeat_interleave(n_items)
        kinds = {f"recall@{k}": retrieval.RetrievalRecall(top_k=k) for k in KS}
        kinds |= {f"ndcg@{k}": retrieval.RetrievalNormalizedDCG(top_k=k) for k in KS}
        kinds |= {f"mrr@{KS[-1]}": retrieval.RetrievalMRR(top_k=KS[-1])}
        return {name: float(kind(predictions, relevant.reshape(-1), indexes=indexes)) for name, kind in kinds.items()}

    return metrics


def ranx() -> Peer:
    """ranx ranks lists by document names, so what it is given are the best items, found beforehand and not timed."""
    from ranx import Qrels, Run, evaluate

    prepared = {}

    def metrics(scores, targets):
        key = id(scores)
        if key not in prepared:
            prepared.clear()
            top = np.argpartition(-scores, KS[-1], axis=1)[:, : KS[-1]]
            qrels = Qrels({str(user): {str(target): 1} for user, target in enumerate(targets)})
            run = Run(
                {str(user): {str(item): float(scores[user, item]) for item in items} for user, items in enumerate(top)}
            )
            prepared[key] = qrels, run
        names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in KS] + [f"mrr@{KS[-1]}"]
        return {name: float(value) for name, value in evaluate(*prepared[key], names).items()}

    return metrics


def keras_rs() -> Peer:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import jax
    import keras_rs

    def metrics(scores, targets):
        labels = np.asarray(jax.nn.one_hot(targets, scores.shape[1]))
        kinds = {f"recall@{k}": keras_rs.metrics.RecallAtK(k=k) for k in KS}
        kinds |= {f"ndcg@{k}": keras_rs.metrics.NDCG(k=k) for k in KS}
        kinds |= {f"mrr@{KS[-1]}": keras_rs.metrics.MeanReciprocalRank(k=KS[-1])}
        values = {}
        for name, kind in kinds.items():
            kind.update_state(labels, scores)
            values[name] = float(kind.result())
        return values

    return metrics


PEERS: dict[str, Callable[[], Peer]] = {
    "torch.topk": torch_topk,
    "rax": rax,
    "metrax": metrax,
    "torchmetrics": torchmetrics,
    "ranx, from top 20": ranx,
    "keras-rs": keras_rs,
}
"""By the name that the table shows."""
