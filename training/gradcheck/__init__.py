"""Gradients derived by hand, and the check of autograd against them and against finite differences."""

from training.gradcheck.check import ARCHITECTURES, run_gradcheck
from training.gradcheck.rows import GradcheckRow, TensorError, Tolerance, format_gradcheck

__all__ = ["ARCHITECTURES", "GradcheckRow", "TensorError", "Tolerance", "format_gradcheck", "run_gradcheck"]
