"""Mistakes of the user: one line on stderr instead of a traceback."""

from app.lower.solution import CurvatureError, NonFiniteError, NotProvableError, NotStronglyConvexError
from app.models.files import ModelError
from app.problem.operators import OperatorError
from app.problem.problem import ProblemError
from app.processes import ProcessError
from app.settings.options import ConfigError
from app.training.checkpoint import RunError
from datasets.arrays import ArrayError
from datasets.blur_kernels import KernelError
from datasets.fetch import FetchError
from datasets.images import ImageError
from datasets.masks import MaskError
from figures.style import FigureError
from regularizers import ImageTooSmallError, RegularizerError

USER_ERRORS = (
    ArrayError, ConfigError, CurvatureError, FetchError, FigureError, ImageError, ImageTooSmallError, KernelError,
    MaskError, ModelError, NonFiniteError, NotProvableError, NotStronglyConvexError, OperatorError, ProblemError,
    ProcessError, RegularizerError, RunError,
)  # fmt: skip
