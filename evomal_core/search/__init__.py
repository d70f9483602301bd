"""What finds losses: the genetic search (EvoMAL, GP-LFL, random), CMA-ES (TaylorGLO, GLO), gradients alone (ML3), a rate."""

from .methods import METHODS, search
from .state import Leader, Method, Result, SearchState
