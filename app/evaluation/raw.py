"""Raw measurements: k-space and sinograms in arrays, and reconstructions on the scale of the user.

    MRI           y = k / w,            k complex ([slices,] [coils,] H, W), DC in the middle, orthonormal transform
    tomography    y = s / (N^(1/2) w),  s real ([slices,] detectors, N), sums along N directions of rays, in pixels

Rays turn about the middle of the image, which in an image of an even number of pixels lies between two of them, and the
middle of the detector looks at it. `skimage.transform.radon` turns about the pixel behind the middle: of an even
number of pixels its sinograms belong to an image that is moved by half a pixel, and do not fit.

w is the value that is white, 1 for the regularizer. Without the user's word it is the value below which 99.9 % of the
image lies that the data give without a regularizer: zero-filled, or back-projected.
"""

import io
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from app.problem.quality import magnitude
from app.settings.tasks import Mri, Problem, Tomography
from datasets.encode import encode_image
from datasets.images import ImageError, Range

BRIGHT = 0.999  # part of the pixels that are at most white


def axes(problem: Problem) -> int:
    """Return how many axes one measurement has in a file; one axis more is of slices."""
    return 3 if isinstance(problem, Mri) and problem.coil_maps else 2


def measurement(values: np.ndarray, n: int, problem: Problem, limits: Range | None) -> Tensor:  # -> (1, ...)
    """Return slice n of an array as y for w = 1, in float64. Raises ImageError, without the name of a file."""
    shape, dtype = values.shape, values.dtype
    if values.ndim not in (axes(problem), axes(problem) + 1):
        raise ImageError(f"{shape} is not the shape of {_form(problem)}")
    if isinstance(problem, Mri) and dtype.kind != "c":
        raise ImageError(f"k-space is complex, and these are numbers of {dtype}")
    if isinstance(problem, Tomography) and dtype.kind == "c":
        raise ImageError("sums along rays are real, and these are complex")
    if dtype.kind in "bui" and limits is None:
        raise ImageError(f"{dtype} numbers have no scale of their own: say with --range 0 WHITE what is white")
    one = torch.from_numpy(values[n : n + 1] if values.ndim > axes(problem) else values[None])
    if isinstance(problem, Mri):
        return torch.view_as_real(one.to(torch.complex128)).movedim(-1, 1)
    return one.double()[:, None] / shape[-1] ** 0.5


def count(values: np.ndarray, problem: Problem) -> int:
    """Return how many slices an array has."""
    return len(values) if values.ndim > axes(problem) else 1


def _form(problem: Problem) -> str:
    if isinstance(problem, Mri):
        coils = "coils, " if problem.coil_maps else ""
        hint = "" if coils else "; of several coils, name their sensitivities: problem.coil_maps"
        return f"k-space ([slices,] {coils}H, W){hint}"
    return "a sinogram ([slices,] detectors, angles)"


def white_of(slices: Iterable[Tensor], as_image: Callable[[Tensor, int], Tensor]) -> float:  # (1, ...) each
    """Return w of all slices together. Raises ImageError where they give a black image."""
    pixels = [magnitude(as_image(y, i)).flatten() for i, y in enumerate(slices)]
    white = float(np.quantile(torch.cat(pixels).numpy(force=True), BRIGHT))
    if not white > 0:
        raise ImageError("it gives an image that is black")
    return white


def encoded(x: Tensor, white: float, form: str) -> list[bytes]:  # (1, C, H, W)
    """Return a file of 16 bits of |x|, and a .npy file of white x, complex where x has two channels."""
    picture, file = encode_image(magnitude(x)[0], form, 16), io.BytesIO()
    values = white * x[0].detach().cpu().double()
    stored = torch.complex(*values).to(torch.complex64) if len(values) == 2 else values[0].float()
    np.save(file, stored.numpy())
    return [picture, file.getvalue()]


def is_shifted(y: Tensor) -> bool:  # (1, 2, ..., H, W)
    """Tell whether DC seems to be in a corner of k-space: its largest number is nearer to one than to the middle."""
    power = y.square().flatten(1, -3).sum(1)[0]
    places = divmod(int(power.argmax()), power.shape[1])
    return all(abs(place - n // 2) > n / 4 for place, n in zip(places, power.shape, strict=True))
