"""Magnetic resonance imaging: what is measured of an image are some of its frequencies.

    y_c = M F (S_c x) + noise,    F the orthonormal Fourier transform,    x real or complex,

M a mask, DC in its middle, and S_c the sensitivity of coil c (one coil that sees everything alike: S = 1). Images are
(B, 1, H, W) if they are known to be real, else (B, 2, H, W), real and imaginary part. y is (B, 2, H, W), or with coils
(B, 2, coils, H, W): these are the conventions of deepinv, whose MRI and MultiCoilMRI are A.

**What solvers use.** F^-1 M^2 F is the circulant of M^2, wherever DC is, so A^T (A x - y) takes one transform there and
one back for each coil, with the difference taken between spectra. Of real images it is the real part, the circulant of

    m(k) = (M(k)^2 + M(-k)^2) / 2    on the half of the frequencies that rfft2 keeps.

**Bounds.** For real images and one coil, A^T A is that circulant: min m <= A^T A <= max m, both attained. Else
||A x||^2 = sum_c ||M F S_c x||^2 lies between min M^2 min_n s(n) ||x||^2 and max M^2 max_n s(n) ||x||^2, with
s = sum_c |S_c|^2.

**Preconditioners** know the mean of A^T A over all shifts. With a(l) the mean of sum_c conj(S_c(n)) S_c(n - l) over n,
that is the circulant of the kernel F^-1(M^2) a: A^T A itself where there is one coil. On real and imaginary part, the
circulant of c(k) has the symbol [[e, i o], [-i o, e]] with e(k) = (c(k) + c(-k)) / 2 and o = c - e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from deepinv.physics import MRI, LinearPhysics, MultiCoilMRI
from torch import Tensor

from app.problem.operators import LinearOperator, OperatorError, Operators
from datasets.random import MASKS, PHASES, generator

GRID = (-2, -1)
KNOTS = 4  # of a random phase, along each side of the image


@dataclass(frozen=True, kw_only=True)
class MriOperator(LinearOperator):
    """A = M F S on real or complex images. `physics` is that of complex ones; `mri_operator` makes it."""

    mask: Tensor  # M (B or 1, 1, H, W), DC in the middle
    maps: Tensor | None  # S (coils, H, W), complex
    weights: Tensor  # m (B or 1, 1, H, W // 2 + 1) or, of complex images or several coils, M^2 (.., H, W), DC first

    @property
    def halved(self) -> bool:
        """Whether half of the frequencies tell the others."""
        return self.image_shape[0] == 1 and self.maps is None

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 or 2, H, W) -> (B, 2, [coils,] H, W)
        return self.physics.A(x if x.shape[1] == 2 else F.pad(x, (0, 0, 0, 0, 0, 1)))

    def adjoint(self, y: Tensor) -> Tensor:  # (B, 2, [coils,] H, W) -> (B, 1 or 2, H, W)
        return self.physics.A_adjoint(y)[:, : self.image_shape[0]].contiguous()

    def normal(self, x: Tensor) -> Tensor:  # (B, 1 or 2, H, W) -> (B, 1 or 2, H, W)
        return self._image(self._spectra(x).mul_(self.weights))

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:  # (B, 2, [coils,] H, W)
        measured = self._measured_spectra(y)
        return lambda x: self._image(self._spectra(x).mul_(self.weights).sub_(measured))

    def as_image(self, y: Tensor) -> Tensor:  # (B, 2, [coils,] H, W) -> (B, 1 or 2, H, W)
        """Return the image whose other frequencies are zero: of real images those that neither a measurement nor its
        mirror image tells, of several coils A^T y as long as it explains y best."""
        if not self.halved:
            return super().as_image(y)
        spectrum = self._measured_spectra(y)
        return torch.fft.irfft2(torch.where(self.weights > 0, spectrum / self.weights, 0), s=self.image_shape[1:])

    def take(self, images: Tensor) -> MriOperator:
        return self if len(self.mask) == 1 else mri_operator(self.mask[images], self.image_shape, self.maps)

    def promoted(self) -> MriOperator:
        """Return A in float64: the mask is what it is, and the squares of its numbers are computed anew."""
        return mri_operator(self.mask.double(), self.image_shape, self.maps)

    def _spectra(self, x: Tensor) -> Tensor:  # (B, 1 or 2, H, W) -> (B, coils, H, W or W // 2 + 1)
        if self.halved:
            return torch.fft.rfft2(x)
        image = x if x.shape[1] == 1 else torch.complex(x[:, :1], x[:, 1:])
        return torch.fft.fft2(image if self.maps is None else image * self.maps)

    def _image(self, spectra: Tensor) -> Tensor:  # (B, coils, H, W or W // 2 + 1) -> (B, 1 or 2, H, W)
        """Return A^T of S and of F, in place of the spectra of all coils."""
        if self.halved:
            return torch.fft.irfft2(spectra, s=self.image_shape[1:])
        x = torch.fft.ifft2(spectra)
        if self.maps is not None:
            x = (x * self.maps.conj()).sum(1, keepdim=True)
        return torch.cat((x.real, x.imag), 1) if self.image_shape[0] == 2 else x.real.contiguous()

    def _measured_spectra(self, y: Tensor) -> Tensor:  # (B, 2, [coils,] H, W) -> (B, coils, H, W or W // 2 + 1)
        """Return M y as `_spectra` orders and scales it."""
        y = y if y.ndim == 5 else y.unsqueeze(2)
        frequencies = torch.fft.ifftshift(torch.complex(y[:, 0], y[:, 1]) * self.mask, GRID)
        images = torch.fft.fftshift(torch.fft.ifft2(frequencies, norm="ortho"), GRID)
        return torch.fft.rfft2(images.real) if self.halved else torch.fft.fft2(images)


def mri_operator(mask: Tensor, image_shape: Sequence[int], maps: Tensor | None = None) -> MriOperator:
    """Return A of a mask (H, W), or of one for each image (B, 1, H, W), on images of the shape (1 or 2, H, W).

    mask: weights of the frequencies, DC in the middle, 0 where nothing is measured; its type of number is that of A.
    maps: sensitivities (coils, H, W), complex; None: one coil.  Raises OperatorError where these do not fit.
    """
    shape, mask = torch.Size(image_shape), mask if mask.ndim == 4 else mask[None, None]
    _check(mask, shape, maps)
    maps = None if maps is None else maps.to(mask.device, mask.dtype.to_complex())
    power = torch.fft.ifftshift(mask.double().square(), GRID)
    symbol, diagonal, halved = power, power.mean(GRID, keepdim=True), shape[0] == 1 and maps is None
    weights = _symmetric(power)[..., : shape[2] // 2 + 1] if halved else power
    low, high = float(weights.min()), float(weights.max())
    if maps is not None:
        s = maps.to(torch.complex128).abs().square().sum(0)
        low, high, diagonal = low * float(s.min()), high * float(s.max()), diagonal * s
        symbol = _shift_mean(power, maps)
    measured, number = (mask != 0).to(mask), mask.dtype if shape[0] == 1 else mask.dtype.to_complex()
    return MriOperator(
        physics=_physics(mask, maps), image_shape=shape, norm_squared=high, lambda_min=low, mask=mask, maps=maps,
        weights=weights.to(mask), diagonal=diagonal.to(mask), support=measured if maps is None else measured[:, None],
        symbol=_on_channels(symbol, shape[0])[..., : shape[2] // 2 + 1].to(mask.device, number),
    )  # fmt: skip


Masks = Callable[[int, torch.Size], Tensor]  # (image, (H, W)) -> M (H, W)
Maps = Callable[[torch.Size], Tensor]  # (H, W) -> S (coils, H, W)


def mri(
    masks: Masks, maps: Maps | None, *, phases: int | None, one_mask: bool, device: torch.device, dtype: torch.dtype
) -> Operators:
    """Return the operators of masks and coil maps; maps = None: one coil.

    phases: the seed of those that clean images get; None: images are real.  one_mask: all images have the same mask.
    """

    @cache
    def common(shape: torch.Size) -> MriOperator:
        return of(masks(0, shape[1:]), shape)

    def of(mask: Tensor, shape: torch.Size) -> MriOperator:
        return mri_operator(mask.to(device, dtype), shape, None if maps is None else maps(shape[1:]))

    def build(shape: torch.Size, images: tuple[int, ...]) -> MriOperator:
        shape = image_shape(shape)
        if one_mask:
            return common(shape)
        return of(torch.stack([masks(i, shape[1:]) for i in images])[:, None], shape)

    def image_shape(y: torch.Size) -> torch.Size:  # (..., H, W) -> (1 or 2, H, W)
        return torch.Size((1 if phases is None else 2, *y[-2:]))

    def lift(clean: Tensor, images: tuple[int, ...]) -> Tensor:  # (B, 1, H, W) -> (B, 2, H, W)
        angles = torch.stack([smooth_phase(clean.shape[2:], generator(phases or 0, PHASES, i)) for i in images])
        return clean * torch.stack((angles.cos(), angles.sin()), 1).to(clean)

    return Operators(build, image_shape, lift=None if phases is None else lift)


def given_mask(values: np.ndarray, name: str) -> Masks:  # (H, W), (W,) or, as of MATLAB, (1, W)
    """Return the same mask for all images. Raises OperatorError, which `name` begins, where it is none or does not
    fit."""
    if values.ndim not in (1, 2) or values.dtype.kind not in "buif":
        raise OperatorError(f"{name}: a mask is a real array (H, W) or (W,), not {values.shape} {values.dtype}")
    mask = torch.from_numpy(values.astype(np.float64))
    if not bool(mask.isfinite().all()) or not bool((mask != 0).any()):
        raise OperatorError(f"{name}: a mask must be finite, and measure something")
    low, high = float(mask.min()), float(mask.max())
    if low < 0 or high > 1:  # y is M F x: another scale of M would be one of x
        raise OperatorError(f"{name}: the numbers of a mask are from 0 to 1, not from {low:g} to {high:g}")
    if mask.ndim == 2 and len(mask) == 1:
        mask = mask[0]

    def fitting(image: int, grid: torch.Size) -> Tensor:
        if mask.shape[-1] != grid[1] or (mask.ndim == 2 and mask.shape != grid):
            size = " x ".join(str(n) for n in reversed(mask.shape)) + (" columns" if mask.ndim == 1 else "")
            raise OperatorError(f"{name}: {size} are not those of images of {grid[1]} x {grid[0]} pixels")
        return mask.expand(grid)

    return fitting


def given_maps(values: np.ndarray, name: str) -> Maps:  # (coils, H, W)
    """Return the maps of these coils. Raises OperatorError, which `name` begins, where there are none or they do not
    fit."""
    if values.ndim != 3 or values.dtype.kind != "c" or values.size == 0:
        what = f"{values.shape} {values.dtype}"
        raise OperatorError(f"{name}: coil maps are a complex array (coils, H, W), not {what}")
    maps = torch.from_numpy(values.astype(np.complex128))
    if not bool(maps.isfinite().all()) or not bool((maps != 0).any()):
        raise OperatorError(f"{name}: coil maps must be finite, and not all zero")

    def fitting(grid: torch.Size) -> Tensor:
        if maps.shape[1:] != grid:
            size, wanted = (f"{shape[1]} x {shape[0]}" for shape in (maps.shape[1:], grid))
            raise OperatorError(f"{name}: {size} is not the size of images of {wanted} pixels")
        return maps

    return fitting


def drawn_masks(kind: str, acceleration: float, centre_fraction: float, seed: int) -> Masks:
    """Return Cartesian masks like those of fastMRI (Zbontar et al., arXiv 1811.08839), which belong to (seed, image).

    Whole columns are measured: round(centre_fraction W), at least that of DC, in the middle, and of the others

        random        each with the probability that makes it W / acceleration on average
        equispaced    every a-th, from an offset that is drawn, with a the distance that makes it as many.
    """

    def draw(image: int, grid: torch.Size) -> Tensor:
        height, width = grid
        low, draws = max(1, round(centre_fraction * width)), generator(seed, MASKS, image)
        wanted = max(width / acceleration - low, 0)  # columns outside the middle
        line = torch.zeros(width)
        if kind == "random":
            line = (torch.rand(width, generator=draws) * (width - low) < wanted).float()
        elif wanted:
            distance = (width - low) / wanted
            offset = float(torch.rand((), generator=draws)) * distance
            places = (torch.arange(width) * distance + offset).floor()
            line[places[places < width].long()] = 1
        start = (width - low + 1) // 2
        line[start : start + low] = 1
        return line.expand(height, width)

    return draw


def smooth_phase(grid: torch.Size, draws: torch.Generator) -> Tensor:  # (H, W) -> (H, W)
    """Return the phase of a simulated complex image, in radians: the bicubic surface through KNOTS x KNOTS numbers with
    the standard deviation 1. A photograph has none of its own, and without one the image would be real."""
    knots = torch.randn((1, 1, KNOTS, KNOTS), generator=draws, dtype=torch.float64)
    return F.interpolate(knots, tuple(grid), mode="bicubic", align_corners=True)[0, 0]


def _check(mask: Tensor, shape: torch.Size, maps: Tensor | None) -> None:
    h, w = shape[-2:]
    if len(shape) != 3 or shape[0] not in (1, 2):
        raise OperatorError(f"MRI is of real images (1, H, W) or complex ones (2, H, W), not {tuple(shape)}")
    if not mask.is_floating_point() or mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2:] != (h, w):
        raise OperatorError(f"a mask of {_size(mask)} frequencies does not fit images of {w} x {h} pixels")
    if not bool(mask.isfinite().all()) or not bool((mask != 0).flatten(1).any(1).all()):
        raise OperatorError("a mask must be finite, and measure something")
    if maps is None:
        return
    if not maps.is_complex() or maps.ndim != 3 or maps.shape[1:] != (h, w) or len(maps) == 0:
        raise OperatorError(f"coil maps {tuple(maps.shape)} {maps.dtype} are not complex (coils, {h}, {w})")
    if not bool(maps.isfinite().all()) or not bool((maps != 0).any()):
        raise OperatorError("coil maps must be finite, and not all zero")


def _size(mask: Tensor) -> str:
    return " x ".join(str(n) for n in reversed(mask.shape[2:]))


def _physics(mask: Tensor, maps: Tensor | None) -> LinearPhysics:
    if maps is None:
        return MRI(mask=mask, device=mask.device)
    return MultiCoilMRI(mask=mask, coil_maps=maps, device=mask.device)


def _symmetric(symbol: Tensor) -> Tensor:  # (..., H, W) -> (..., H, W)
    """Return (c(k) + c(-k)) / 2, DC first: the part of a circulant that maps real images to real images."""
    return (symbol + symbol.flip(GRID).roll((1, 1), GRID)) / 2


def _on_channels(symbol: Tensor, channels: int) -> Tensor:  # (B, 1, H, W) -> (B, C, C, H, W), hermitian
    """Return the symbol of a circulant of complex images on their real and imaginary part, of real ones on x."""
    even = _symmetric(symbol)
    if channels == 1:
        return even[:, None]
    odd = 1j * (symbol - even)
    return torch.stack((torch.cat((even, odd), 1), torch.cat((-odd, even), 1)), 1)


def _shift_mean(power: Tensor, maps: Tensor) -> Tensor:  # (B, 1, H, W), (coils, H, W) -> (B, 1, H, W)
    """Return the symbol of the mean over all shifts of sum_c S_c^* F^-1 M^2 F S_c, which is >= 0."""
    spectra = torch.fft.fft2(maps.to(torch.complex128)).abs().square().sum(0)
    correlation = torch.fft.ifft2(spectra).conj() / spectra.numel()
    return torch.fft.fft2(torch.fft.ifft2(power) * correlation).real.clamp(min=0)
