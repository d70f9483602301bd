"""stub"""
import torch
import evomal_core as ec
TREE = "abs(log(square(mul(y, f))))"
def absolute(w: float = 1.0, dtype: torch.dtype = torch.float32) -> ec.MetaLoss:
    """The absolute cross-entropy |log((w y f)^2 + eps)|: Table VI's e with the weight w on the edge of f, and 1 elsewhere."""
    return ec.MetaLoss.from_expression(TREE, torch.tensor([1, 1, 1, 1, w], dtype=dtype), classification=True)
