"""The reference model in PyTorch, written to be read: what every exported model is compared with."""

from __future__ import annotations

from rs4d_edge.reference.loading import load

__all__ = ["load"]
