"""A loss for a model and data of one's own.

call           `search_loss`: search, contest, comparison
data           what people have, read into tensors
setup          casts and checks, before anything is computed
adapt          model and data as the package's training sees them
weights        initial weights: drawn anew, or kept
optimisers     any optimiser of PyTorch's, and the meta-gradient through its step
watch          progress bar, time limit, callbacks
report         what was found
"""

from .call import search_loss
from .report import Found
from .watch import Progress

__all__ = ["Found", "Progress", "search_loss"]
