"""Linear operators A: any deepinv physics, its exact adjoint, and bounds lambda_min <= A^T A <= ||A||^2.

    y = A x + noise,    the noise in the range of A: where no image can reach a measurement, there is none.

y need not be an image. A certificate ||x - argmin h|| <= ||grad h(x)|| / mu needs mu alone, and with it lambda_min;
lambda_min = 0 is true of every A. ||A||^2 steers step sizes: it may be an estimate, and `norm_proven` tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar

import torch
from deepinv.physics import (
    MRI,
    BlurFFT,
    Denoising,
    GaussianNoise,
    Inpainting,
    LinearPhysics,
    MultiCoilMRI,
    Tomography,
    ZeroNoise,
)
from deepinv.physics.forward import StackedLinearPhysics
from torch import Tensor

from app.problem.convolution import misfit_gradient
from app.problem.quality import magnitude
from app.problem.stacked import Joined
from app.problem.tomography import RaySums, ray_sums
from regularizers.conversion import converted

MARGIN = 1.05  # over a norm that a power iteration has estimated from below
POWER_ITERATIONS = 30
SAME = 1e-4  # relative difference of A x, of which 3e-5 is deepinv's rounding where an image is turned in float32
EXACT = (BlurFFT, Denoising, Inpainting, MRI, MultiCoilMRI)  # in every precision, their adjoint is that of A
MOST_COLOURS = 4  # of an image whose channels come last

T = TypeVar("T")


class OperatorError(ValueError):
    """A physics cannot serve as an operator, or does not fit the images; the message says why."""


@dataclass(frozen=True, kw_only=True)
class LinearOperator:
    """A on a batch of images of one shape. `wrap` makes one of a deepinv physics and checks it.

    symbol, diagonal: what preconditioners know of A^T A: the symbol of a circulant that resembles it, on the
    frequencies of rfft2 (broadcast to (B, 1, 1, H, W // 2 + 1)), and its diagonal (broadcast to (B, C, H, W)).
    support: 1 where an image can reach a measurement and 0 elsewhere, None where all are reached.
    """

    physics: LinearPhysics
    image_shape: torch.Size  # (C, H, W)
    norm_squared: float
    lambda_min: float = 0.0
    norm_proven: bool = True
    by_autograd: bool = False  # whether A^T is the vector-Jacobian product of A
    fused_normal: bool = False  # whether the physics' own A^T A is used, which may cost less than A and then A^T
    symbol: Tensor | float | None = None
    diagonal: Tensor | float | None = None
    support: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, ...)
        return self.physics.A(x)

    def adjoint(self, y: Tensor) -> Tensor:  # (B, ...) -> (B, C, H, W)
        return self._transpose(y) if self.by_autograd else self.physics.A_adjoint(y)

    def normal(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """A^T A x."""
        return self.physics.A_adjoint_A(x) if self.fused_normal else self.adjoint(self.forward(x))

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:  # (B, ...)
        """Return x -> A^T (A x - y)."""
        return lambda x: self.adjoint(self.forward(x) - y)

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float] | None:
        """(symbol, diagonal), or None where nothing is known."""
        return None if self.symbol is None or self.diagonal is None else (self.symbol, self.diagonal)

    def measure(self, clean: Tensor, noise_level: float, draws: Sequence[torch.Generator]) -> Tensor:
        """Return y = A clean + noise for (B, C, H, W); the noise of an image is drawn from its own generator.

        noise_level: standard deviation of every real number of y (of complex y, of both parts).
        """
        y = self.forward(clean)
        shape = torch.view_as_real(y).shape[1:] if y.is_complex() else y.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(clean)
        noise = noise_level * (torch.view_as_complex(noise) if y.is_complex() else noise)
        return y + (noise if self.support is None else noise * self.support)

    def as_image(self, y: Tensor) -> Tensor:  # (B, ...) -> (B, C, H, W)
        """Return what can be shown of a measurement: itself where it has the shape of the image, a filtered
        back-projection in tomography, and A^T y, as long as it explains y best, elsewhere."""
        if y.shape[1:] == self.image_shape and not isinstance(self.physics, MRI):
            return y
        if isinstance(self.physics, Tomography):
            return self.physics.fbp(y)
        x = self.adjoint(y)
        power, explained = x.square().flatten(1).sum(1), self.forward(x).abs().square().flatten(1).sum(1)
        return x * (power / explained.clamp(min=torch.finfo(x.dtype).tiny)).view(-1, 1, 1, 1)

    def take(self, images: Tensor) -> LinearOperator:
        """Return the operator of these images of the batch."""
        return self

    def promoted(self) -> LinearOperator:
        """Return A in float64: its numbers stay what they are. Raises OperatorError where its physics cannot."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {
            n: v.to(torch.promote_types(v.dtype, torch.float64)) for n, v in own.items() if isinstance(v, Tensor)
        }
        parts = {name: value.promoted() for name, value in own.items() if isinstance(value, LinearOperator)}
        operator = replace(self, physics=_converted(self.physics, torch.float64), **tensors, **parts)
        if type(self.physics) in EXACT:
            return operator
        device = str(next(iter([*tensors.values(), *self.physics.buffers()]), torch.empty(0)).device)
        _, x, y = _probed(operator.physics, self.image_shape, torch.float64, device)
        return _with_exact_adjoint(operator, x, y)

    def _transpose(self, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.zeros(len(y), *self.image_shape, dtype=y.real.dtype, device=y.device, requires_grad=True)
            (result,) = torch.autograd.grad(self.physics.A(x), x, y)
        return result


@dataclass(frozen=True, kw_only=True)
class BlurOperator(LinearOperator):
    """A circular blur, whose `physics` is a BlurFFT."""

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        blur: Any = self.physics
        return misfit_gradient(blur.mask[..., 0] * blur.angle, y)


@dataclass(frozen=True, kw_only=True)
class TomographyOperator(LinearOperator):
    """Sums along parallel rays, which `physics` does not compute: it says what noise there is."""

    rays: RaySums

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, D, N)
        return self.rays.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:  # (B, C, D, N) -> (B, C, H, W)
        return self.rays.adjoint(y)

    def as_image(self, y: Tensor) -> Tensor:  # (B, C, D, N) -> (B, C, H, W)
        """Return the filtered back-projection."""
        return self.rays.filtered_back_projection(y)

    def promoted(self) -> TomographyOperator:
        tensors = {f.name: t.double() for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}
        return replace(self, rays=self.rays.double(), **tensors)


def tomography_operator(rays: RaySums, physics: LinearPhysics, shape: torch.Size) -> TomographyOperator:
    """Return the operator of ray sums of images (C, H, W)."""
    return TomographyOperator(
        physics=physics, image_shape=shape, norm_squared=rays.norm_squared, rays=rays,
        support=rays.reached,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class IdentityOperator(LinearOperator):
    """A = scale I, which costs nothing for scale = 1."""

    scale: float = 1.0
    norm_squared: float = field(init=False)
    lambda_min: float = field(init=False)

    def __post_init__(self) -> None:
        for name in ("norm_squared", "lambda_min", "symbol", "diagonal"):
            object.__setattr__(self, name, self.scale**2)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.scale == 1 else self.scale * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def normal(self, x: Tensor) -> Tensor:
        return x if self.scale == 1 else self.scale**2 * x


@dataclass(frozen=True, kw_only=True)
class StackedOperator:
    """One operator for each image of a batch; the bounds hold for all of them."""

    parts: tuple[LinearOperator, ...]
    norm_squared: float = field(init=False)
    lambda_min: float = field(init=False)
    norm_proven: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm_squared", max(part.norm_squared for part in self.parts))
        object.__setattr__(self, "lambda_min", min(part.lambda_min for part in self.parts))
        object.__setattr__(self, "norm_proven", all(part.norm_proven for part in self.parts))

    def forward(self, x: Tensor) -> Tensor:
        return self._each(lambda part, i: part.forward(x[i : i + 1]))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._each(lambda part, i: part.adjoint(y[i : i + 1]))

    def normal(self, x: Tensor) -> Tensor:
        return self._each(lambda part, i: part.normal(x[i : i + 1]))

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        gradients = [part.misfit_gradient(y[i : i + 1]) for i, part in enumerate(self.parts)]
        return lambda x: self._each(lambda part, i: gradients[i](x[i : i + 1]))

    @property
    def normal_model(self) -> None:
        """Nothing is known that would hold for all images."""
        return None

    def measure(self, clean: Tensor, noise_level: float, draws: Sequence[torch.Generator]) -> Tensor:
        return self._each(lambda part, i: part.measure(clean[i : i + 1], noise_level, draws[i : i + 1]))

    def as_image(self, y: Tensor) -> Tensor:
        return self._each(lambda part, i: part.as_image(y[i : i + 1]))

    def take(self, images: Tensor) -> StackedOperator:
        return StackedOperator(parts=tuple(self.parts[i] for i in images.tolist()))

    def promoted(self) -> StackedOperator:
        return StackedOperator(parts=tuple(part.promoted() for part in self.parts))

    def _each(self, apply: Callable[[LinearOperator, int], Tensor]) -> Tensor:
        results = [apply(part, i) for i, part in enumerate(self.parts)]
        if len({r.shape for r in results}) > 1:
            raise OperatorError("the physics of these images give measurements of different shapes: use batches of one")
        return torch.cat(results)


Operator = LinearOperator | StackedOperator


@dataclass(frozen=True)
class Operators:
    """The operators of a problem: (shape (C, H, W), positions of the images in their set) -> that of the batch.

    image_shape: the shape of the image that has measurements of a shape.  multiple: sides of images are cut to it.
    seen: rows and columns of images that have been measured; the others are unknown even without noise.
    lift: (clean images (B, 1, H, W), their positions) -> complex ones (B, 2, H, W), which A measures; None: A measures
    images as they are.
    """

    build: Callable[[torch.Size, tuple[int, ...]], Operator]
    image_shape: Callable[[torch.Size], torch.Size] = torch.Size
    multiple: int = 1
    seen: tuple[slice, ...] | None = None  # None: all of them
    lift: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None

    def seen_in(self, x: Tensor) -> Tensor:  # (..., H, W) -> (..., h, w)
        """Return the part of images that has been measured, of complex images its magnitude."""
        x = x if self.lift is None else magnitude(x)
        return x if self.seen is None else x[(..., *self.seen)]

    def lifted(self, clean: Tensor, images: tuple[int, ...]) -> Tensor:  # (B, C, H, W) -> (B, C or 2, H, W)
        """Return what A measures of clean images."""
        return clean if self.lift is None else self.lift(clean, images)

    def __call__(self, shape: torch.Size, images: tuple[int, ...]) -> Operator:
        return self.build(torch.Size(shape), images)


def within(operator: Operator, lambda_min: float, norm_squared: float) -> Operator:
    """Return the operator of some images with bounds that hold for more of them, too."""
    if (operator.lambda_min, operator.norm_squared) == (lambda_min, norm_squared):
        return operator
    wider = copy(operator)
    object.__setattr__(wider, "lambda_min", lambda_min)
    object.__setattr__(wider, "norm_squared", norm_squared)
    return wider


def operators_of(
    physics: LinearPhysics | Sequence[LinearPhysics], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Operators:
    """Return the operators of one deepinv physics for all images, or of one physics for each. Raises OperatorError."""
    several = None if isinstance(physics, LinearPhysics) or not isinstance(physics, Sequence) else tuple(physics)

    @cache
    def one(shape: torch.Size, image: int) -> LinearOperator:
        own = physics if several is None else several[image]
        return wrap(own, shape, dtype=dtype, device=device)  # type: ignore[arg-type]

    def build(shape: torch.Size, images: tuple[int, ...]) -> Operator:
        if several is None:
            return one(shape, 0)
        if max(images) >= len(several):
            raise OperatorError(f"there are {len(several)} physics, and none for image {max(images)}")
        parts = tuple(one(shape, i) for i in images)
        return parts[0] if len(parts) == 1 else StackedOperator(parts=parts)

    return Operators(build)


def wrap(
    physics: LinearPhysics, image_shape: Sequence[int], *, norm_squared: float | None = None,
    lambda_min: float | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> LinearOperator:  # fmt: skip
    """Return the operator of a deepinv physics on images of shape (C, H, W), checked once.

    A must be linear and finite, and <A x, y> = <x, A^T y> (inner products in float64). Where the physics brings an
    approximate adjoint, A^T is taken from autograd instead, with a warning.

    norm_squared, lambda_min: bounds that you can prove. Without them, they are those of the identity, of masks and of
    sums along parallel rays, else an estimate of ||A||^2 and lambda_min = 0.  Raises OperatorError.
    """
    shape = torch.Size(image_shape)
    require_linear(physics)
    if len(shape) != 3 or 0 in shape:
        raise OperatorError(f"images have the shape (C, H, W) in batches (B, C, H, W), not {tuple(shape)}")
    if shape[2] <= MOST_COLOURS < min(shape[:2]):
        raise OperatorError(f"images have the shape (C, H, W), and {tuple(shape)} looks like (H, W, C): permute it")
    if type(physics) is Denoising:
        return IdentityOperator(physics=physics, image_shape=shape)
    physics = Joined(physics) if isinstance(physics, StackedLinearPhysics) else physics
    physics, x, y = _probed(_differentiable(physics), shape, dtype, device)
    if (rays := _ray_sums(physics, x, y)) is not None:
        operator = tomography_operator(rays, physics, shape)
        return replace(
            operator, norm_squared=norm_squared or operator.norm_squared, lambda_min=lambda_min or operator.lambda_min
        )
    reached = None if bool((y != 0).all()) else (y != 0).to(dtype)
    kind = BlurOperator if type(physics) is BlurFFT else LinearOperator
    operator = kind(physics=physics, image_shape=shape, norm_squared=1.0, support=reached)
    operator = _with_exact_adjoint(operator, x, y)
    largest, least = _known_bounds(physics)
    largest, least = norm_squared or largest, least if lambda_min is None else lambda_min
    if largest is None:
        estimate = MARGIN * _estimated_norm_squared(operator, x)
        return replace(operator, norm_squared=estimate, norm_proven=False, lambda_min=least)
    return replace(operator, norm_squared=largest, lambda_min=least)


def require_linear(physics: object) -> None:
    """Raise OperatorError where this is no linear deepinv physics."""
    if isinstance(physics, type):
        raise OperatorError(f"{physics.__name__} is a class: give a physics, such as {physics.__name__}(...)")
    if not isinstance(physics, LinearPhysics):
        raise OperatorError(f"{type(physics).__name__} is not a linear deepinv physics")


def check_measurements(y: object) -> None:
    """Raise OperatorError where y (B, ...) is nothing that a reconstruction can begin with."""
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
        what = f"{y.dtype} of the shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise OperatorError(f"measurements must be a finite float or complex tensor (B, ...), not {what}")
    if bad := int((~y.isfinite()).sum()):
        raise OperatorError(f"{bad} of the {y.numel()} measurements are NaN or infinite")
    if y.ndim < 2 or not y.numel():
        raise OperatorError(f"measurements are a batch (B, ...) of at least one, not {tuple(y.shape)}")


def wrapped(physics: LinearPhysics, y: Tensor, image_shape: Sequence[int] | None = None) -> LinearOperator:
    """Return the operator of a deepinv physics that has measured y (B, ...). image_shape: (C, H, W); None: that of
    A^T y, where the physics has an adjoint. Raises OperatorError."""
    check_measurements(y)
    require_linear(physics)
    dtype = y.real.dtype if y.is_complex() else y.dtype
    shape = _image_shape(physics, y, dtype) if image_shape is None else image_shape
    operator = wrap(physics, shape, dtype=dtype, device=str(y.device))
    expected = operator.forward(torch.zeros(1, *shape, dtype=dtype, device=y.device)).shape[1:]
    if y.shape[1:] != expected:
        raise OperatorError(f"measurements of shape {tuple(y.shape[1:])}, but A x has {tuple(expected)}")
    return operator


def _image_shape(physics: LinearPhysics, y: Tensor, dtype: torch.dtype) -> torch.Size:
    """The shape (C, H, W) of A^T y."""
    what = f"measurements of shape {tuple(y.shape)}"
    try:
        image = _working(physics, dtype, what, lambda p: p.A_adjoint(y[:1]))[1]
    except OperatorError as error:
        raise OperatorError(f"{error}. If it has no adjoint, say image_shape = (C, H, W)") from None
    if image.is_complex():
        raise OperatorError(f"{type(physics).__name__} gives complex images; real and imaginary part must be channels")
    return image.shape[1:]


def _working(
    physics: LinearPhysics, dtype: torch.dtype, what: str, use: Callable[[LinearPhysics], T]
) -> tuple[LinearPhysics, T]:
    """The physics, or else its copy in this precision, and what `use` finds. Raises OperatorError where both fail."""
    reason = ""
    for candidate in (lambda: physics, lambda: _converted(physics, dtype)):
        try:
            return (working := candidate()), use(working)
        except Exception as error:  # a physics may raise anything
            reason = reason or " ".join(str(error).split())
    raise OperatorError(f"{type(physics).__name__} does not take {what}: {reason}")


def noise_level_of(physics: object) -> float:
    """Return the standard deviation of the Gaussian noise of a deepinv physics, 0 where it has no noise. Raises
    OperatorError for other noises, and for stacked physics with different ones."""
    if isinstance(physics, StackedLinearPhysics | Joined):
        levels = set(map(noise_level_of, physics.parts if isinstance(physics, Joined) else physics.physics_list))
        if len(levels) > 1:
            raise OperatorError(f"the stacked physics have {len(levels)} noise levels: give one, or scale them alike")
        return levels.pop()
    noise = getattr(physics, "noise_model", None)
    if noise is None or isinstance(noise, ZeroNoise):
        return 0.0
    if not isinstance(noise, GaussianNoise):
        raise OperatorError(f"{type(noise).__name__} of the physics has no Gaussian noise level: say noise_level")
    sigma = noise.sigma
    values = torch.as_tensor(sigma).flatten()
    if len(values.unique()) > 1:
        raise OperatorError("the noise level of the physics differs from image to image: give one")
    return float(values[0]) if len(values) else 0.0


def _probed(
    physics: LinearPhysics, shape: torch.Size, dtype: torch.dtype, device: str
) -> tuple[LinearPhysics, Tensor, Tensor]:
    """The physics in this precision, an image (1, C, H, W) and A of it, after a check that A is linear and finite."""
    draw, name = torch.Generator().manual_seed(0), type(physics).__name__
    x, z = (torch.randn(1, *shape, generator=draw, dtype=torch.float64).to(device, dtype) for _ in range(2))
    what = f"images of shape {tuple(shape)} in {str(dtype).removeprefix('torch.')}"
    with torch.no_grad():
        used, (y, other, both) = _working(physics, dtype, what, lambda p: [p.A(t) for t in (x, z, x - 2 * z)])
    if not isinstance(y, Tensor) or len(y) != 1:
        raise OperatorError(f"{name} does not measure one image at a time: give one physics per image")
    if not bool(y.isfinite().all()):
        raise OperatorError(f"{name}: A x is not finite")
    error, size = float((both - y + 2 * other).abs().max()), float((y.abs() + other.abs()).max())
    if error > 1e3 * torch.finfo(dtype).eps * size:
        raise OperatorError(f"{name} is not linear: A (x - 2 z) differs from A x - 2 A z by {error:.2g}")
    return used, x, y


def _differentiable(physics: LinearPhysics) -> LinearPhysics:
    """Tomography with an approximate adjoint also tells autograd the approximate one: here it is the exact one."""
    if isinstance(physics, Tomography) and not (physics.fan_beam or physics.adjoint_via_backprop):
        warnings.warn("Tomography brings an approximate adjoint: here A^T is the exact one", stacklevel=4)
        physics = deepcopy(physics)
        physics.adjoint_via_backprop = True
    return physics


def _ray_sums(physics: LinearPhysics, x: Tensor, y: Tensor) -> RaySums | None:  # (1, C, H, W), (1, ...)
    """A as a sparse matrix, where the physics is tomography with parallel rays and y its A x; None elsewhere."""
    if type(physics) is not Tomography or physics.fan_beam:
        return None
    turns: Any = physics.radon.theta
    turns = turns * 4 * torch.ones_like(turns[:1]).atan() / 180  # in its own precision, as deepinv computes it
    directions = tuple(zip(turns.cos().tolist(), turns.sin().tolist(), strict=True))
    scale = 1 / float(physics.operator_norm) if physics.normalize else 1.0  # type: ignore[arg-type]
    rays = ray_sums(tuple(x.shape[2:]), directions, scale, physics.radon.circle, x.dtype).to(x.device)
    found = rays.forward(x)
    same = found.shape == y.shape and float((found - y).norm()) <= SAME * float(y.norm())
    return rays if same else None


def _converted(physics: LinearPhysics, dtype: torch.dtype) -> LinearPhysics:
    """A copy in another precision. What defines A stays as it is; the spectrum of a kernel is computed anew."""
    copy = converted(physics, dtype)
    for part in copy.modules():
        if isinstance(part, Tomography):
            part.dtype = dtype
        if isinstance(part, BlurFFT) and isinstance(part.filter, Tensor):
            part.update_parameters(filter=part.filter)
    return copy


def _with_exact_adjoint(operator: LinearOperator, x: Tensor, y: Tensor) -> LinearOperator:
    """The operator with the adjoint of its physics where that is one, else with the one of autograd."""
    name = type(operator.physics).__name__
    error = _adjoint_error(operator, x, y)
    if error is not None and error <= _tolerance(x):
        return replace(operator, fused_normal=_has_own_normal(operator, x))
    exact = replace(operator, by_autograd=True)
    left = _adjoint_error(exact, x, y)
    if left is None or left > _tolerance(x):
        raise OperatorError(f"{name} has no exact adjoint, and autograd finds none: <A x, y> != <x, A^T y>")
    brings = "has no adjoint" if error is None else f"brings an adjoint with a relative error of {error:.1g}"
    if not isinstance(operator.physics, Joined):
        warnings.warn(f"{name} {brings}: A^T is taken from autograd, which is exact", stacklevel=4)
    return exact


@torch.no_grad()
def _has_own_normal(operator: LinearOperator, x: Tensor) -> bool:
    """Whether the physics' own A^T A is A^T of A."""
    ours = operator.normal(x)
    try:
        theirs = replace(operator, fused_normal=True).normal(x)
    except Exception:  # a physics may raise anything
        return False
    return theirs.shape == ours.shape and float((theirs - ours).norm()) <= _tolerance(x) * float(ours.norm())


def _tolerance(x: Tensor) -> float:
    """What rounding may change of <A x, y> / (||A x|| ||y||)."""
    return 200 * torch.finfo(x.dtype).eps


def _adjoint_error(operator: LinearOperator, x: Tensor, y: Tensor) -> float | None:
    """|<A x, v> - <x, A^T v>| / (||A x|| ||v||) for a random v, in float64; None where A^T fails."""
    parts = torch.view_as_real(y) if y.is_complex() else y
    v = torch.randn(parts.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(parts)
    v = torch.view_as_complex(v) if y.is_complex() else v
    try:
        with torch.no_grad():
            back = operator.adjoint(v)
    except Exception:  # a physics may raise anything
        return None
    if back.shape != x.shape or not bool(back.isfinite().all()):
        return None
    left, right = ((torch.view_as_real(t) if t.is_complex() else t).double() for t in (y, v))
    forth, size = (left * right).sum(), left.norm() * right.norm()
    return float((forth - (x.double() * back.double()).sum()).abs() / size.clamp(min=1e-300))


def _known_bounds(physics: Any) -> tuple[float | None, float]:
    """(||A||^2, lambda_min) where the kind of physics proves them: the identity, a mask on pixels or orthonormal
    frequencies, or several of these; None and 0 where it does not."""
    if type(physics) is Denoising:
        return 1.0, 1.0
    if isinstance(physics, Joined):
        norms, least = zip(*map(_known_bounds, physics.parts), strict=True)
        return None if None in norms else sum(norms), sum(least)
    if type(physics) not in (Inpainting, MRI):
        return None, 0.0
    mask = torch.as_tensor(physics.mask)
    mask = mask.float() if mask.dtype == torch.bool else mask.abs()
    return float(mask.max()) ** 2, float(mask.min()) ** 2


def _estimated_norm_squared(operator: LinearOperator, x: Tensor) -> float:
    """Largest ||A^T A x|| / ||x|| that a power iteration meets: never above ||A||^2, apart from rounding."""
    found = 0.0
    with torch.no_grad():
        for _ in range(POWER_ITERATIONS):
            x = x / x.norm()
            x = operator.normal(x)
            found = max(found, float(x.norm()))
    if not 0 < found < float("inf"):
        raise OperatorError(f"{type(operator.physics).__name__}: A^T A x is zero or not finite")
    return found
