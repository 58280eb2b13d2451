"""How strongly a loss curves along each weight: the trace of its Hessian, estimated without the Hessian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_traces(loss: Tensor, weights: Sequence[Tensor], draws: int, generator: torch.Generator) -> Tensor:
    """For each weight, the mean of the diagonal of the Hessian of `loss` with respect to it: ``[weights]``, float64.

    Hutchinson's estimator: the mean of ``v H v`` over random vectors v of -1 and 1 has the trace for its expectation (Dong et
    al., HAWQ-V2, arXiv 1911.03852, section 3.1). A vector takes one backward pass. The expectation of the products between
    weights is zero, so that one vector serves all of them.

    Args:
        loss: a scalar; the graph that it was computed with can be differentiated twice.
        weights: leaves of that graph, which require gradients; one that the loss does not depend on has trace 0.
        draws: how many random vectors.
    """
    total = torch.zeros(len(weights), dtype=torch.float64)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    curved = [gradient for gradient in gradients if gradient.requires_grad]
    for _ in range(draws if curved else 0):
        vectors = [torch.randint(0, 2, w.shape, generator=generator).mul_(2).sub_(1).to(w) for w in weights]
        along = [vector for vector, gradient in zip(vectors, gradients) if gradient.requires_grad]
        products = torch.autograd.grad(curved, weights, along, retain_graph=True, materialize_grads=True)
        total += torch.stack([(v * product).double().mean().cpu() for v, product in zip(vectors, products)])
    return total / draws
