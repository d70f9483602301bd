"""What paper and released code lack, so that a loss holds from fresh initial weights, and what it has to beat there.

`early` is a control: the task loss, its learning rate and its number of steps chosen by validation. `halving` is a remedy:
the leaders of a search and the task loss meet in a contest over fresh starts. The other remedies are settings of the search:
`fitness_starts`, `fitness_over`, `fitness_start`, `racing`, `initial_losses`, `inner_steps` (`config.py`).
"""

from . import early, halving
