"""Losses. Per-sample ones return shape (B,), so that no image's attack depends on its neighbours in the batch.

Logits are scored in float32 whatever precision the network ran in.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K) against labels (B,) int64; shape (B,)."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)) of each sample; both (B, K), result (B,)."""
    log_p = F.log_softmax(logits.float(), dim=1)
    log_q = F.log_softmax(reference_logits.float(), dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)
