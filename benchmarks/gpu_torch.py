"""What a user of torch would run in place of the programs of `gpu.py`, compiled; an error each without torch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Program = Callable[[], Any]


def version() -> str:
    """That of torch and its CUDA; empty without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return ""
    return f"{torch.__version__}, {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}"


def _tensors(*arrays: jax.Array, trained: int = 0) -> list[Any]:
    """Copies for torch on its best device, the first `trained` of them with gradients."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = []
    for number, array in enumerate(arrays):
        is_bfloat16 = array.dtype == jax.numpy.bfloat16
        tensor = torch.tensor(np.asarray(array.astype(np.float32) if is_bfloat16 else array), device=device)
        tensor = tensor.bfloat16() if is_bfloat16 else tensor.long() if array.dtype == np.int32 else tensor
        tensors.append(tensor.requires_grad_(number < trained))
    return tensors


def _waited_for(run: Program) -> Program:
    import torch

    def program() -> None:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return program


def _both_ways(loss: Callable[..., Any], tensors: list[Any]) -> Program:
    """The compiled loss and its gradients."""
    import torch

    compiled = torch.compile(loss) if torch.cuda.is_available() else loss

    def run() -> None:
        for tensor in tensors:
            tensor.grad = None
        compiled(*tensors).backward()

    return _waited_for(run)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> Callable[[], Program]:
    """`scaled_dot_product_attention` with a mask of segments, of arrays [rows, length, n_heads, d_head]."""

    def make() -> Program:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        (segments,) = _tensors(segment_ids)
        mask = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]
        tensors = _tensors(*(each.swapaxes(1, 2) for each in (q, k, v)), trained=3)
        return _both_ways(
            lambda *heads: scaled_dot_product_attention(*heads, attn_mask=mask).sum(dtype=torch.float32), tensors
        )

    return make


def losses(
    hidden: jax.Array, table: jax.Array, targets: jax.Array, *, n_items: int, n_negatives: int
) -> dict[str, Callable[[], Program]]:
    """Cross-entropy over all items, naive and in chunks without the scores in memory, and over sampled items."""

    def tensors() -> list[Any]:
        states, vectors = _tensors(hidden[0], table[1 : n_items + 1], trained=2)
        return [states, vectors, _tensors(targets[0] - 1)[0]]

    def naive() -> Program:
        import torch

        def loss(states, vectors, labels):
            scores = (states @ vectors.to(states.dtype).T).float()
            return torch.nn.functional.cross_entropy(scores, labels, reduction="sum")

        return _both_ways(loss, tensors())

    def fused() -> Program:
        states, vectors, labels = tensors()
        function = _linear_cross_entropy(n_positions_at_once=max(1, 2**28 // n_items))

        def run() -> None:
            states.grad = vectors.grad = None
            function.apply(states, vectors, labels).backward()

        return _waited_for(run)

    def sampled() -> Program:
        import torch

        def loss(states, vectors, labels):
            drawn = torch.randint(n_items, (n_negatives,), device=labels.device)
            scores = (states @ vectors[drawn].to(states.dtype).T).float() + torch.log(
                torch.tensor(n_items / n_negatives)
            )
            scores = scores.masked_fill(drawn[None] == labels[:, None], -torch.inf)
            target = (states * vectors[labels].to(states.dtype)).sum(-1, dtype=torch.float32)
            return (torch.logsumexp(torch.cat([target[:, None], scores], 1), 1) - target).sum()

        return _both_ways(loss, tensors())

    return {"torch full, naive": naive, "torch full, fused": fused, "torch sampled": sampled}


def _linear_cross_entropy(*, n_positions_at_once: int) -> Any:
    """Linear layer and cross-entropy as one, whose gradients are taken chunk by chunk in the forward pass."""
    import torch

    def chunk(states, vectors, labels):
        scores = (states @ vectors.T).float()
        log_normalisers = torch.logsumexp(scores, 1)
        places = torch.arange(len(labels), device=labels.device)
        loss = (log_normalisers - scores[places, labels]).sum()
        d_scores = torch.exp(scores - log_normalisers[:, None])
        d_scores[places, labels] -= 1.0
        d_scores = d_scores.to(states.dtype)
        return loss, d_scores @ vectors, d_scores.T @ states

    compiled = torch.compile(chunk) if torch.cuda.is_available() else chunk

    class LinearCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(context, states, vectors, labels):
            rounded = vectors.to(states.dtype)
            d_states, d_vectors, total = torch.empty_like(states), torch.zeros_like(vectors), 0.0
            for first in range(0, len(states), n_positions_at_once):
                part = slice(first, first + n_positions_at_once)
                loss, d_states[part], added = compiled(states[part], rounded, labels[part])
                d_vectors += added
                total = total + loss
            context.save_for_backward(d_states, d_vectors)
            return total

        @staticmethod
        def backward(context, cotangent):
            d_states, d_vectors = context.saved_tensors
            return cotangent * d_states, cotangent * d_vectors, None

    return LinearCrossEntropy


def top_k(users: jax.Array, table: jax.Array, seen: jax.Array, *, n_items: int, k: int) -> Callable[[], Program]:
    """Products in blocks of users that leave 4 GB of scores at a time, seen items left out, and `torch.topk`."""

    def make() -> Program:
        import torch

        states, vectors, excluded = _tensors(users, table, seen)
        block = max(1, 2**30 // n_items)

        def run() -> None:
            for part in range(0, len(states), block):
                scores = states[part : part + block] @ vectors[: n_items + 1].T
                scores[:, 0] = -torch.inf
                torch.topk(scores.scatter_(1, excluded[part : part + block], -torch.inf), k)

        return _waited_for(run)

    return make
