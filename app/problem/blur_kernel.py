"""Semi-blind deblurring: the kernel of h(x) = 1/2 ||k * x - y||^2 + R(x) + ridge/2 ||x||^2 is learned with R.

    k = softmax(logits) on a square support,    (dk/dlogits)^T g = P g,    P = diag(k) - k k^T.

theta = (the regularizer's parameters, logits). The strong convexity mu is that of the present kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.problem.convolution import Convolution, convolution, misfit_by_kernel, mixed_by_kernel
from datasets.blur_kernels import KernelError
from regularizers.functional import Sensitivity
from regularizers.regularizer import Regularizer


class BlurKernel(nn.Module):
    """k(d) >= 0 with sum 1 for every value of the logits; starts as a Gaussian. size: side of the support, odd."""

    def __init__(self, size: int, width: float) -> None:
        super().__init__()
        grid = torch.arange(size) - size // 2
        self.logits = nn.Parameter(-(grid.square() + grid.square()[:, None]) / (2 * width**2))

    @property
    def size(self) -> tuple[int, int]:
        return self.logits.shape[0], self.logits.shape[1]

    def forward(self) -> Tensor:  # -> (size, size)
        return self.logits.flatten().softmax(0).view_as(self.logits)

    @torch.no_grad()
    def operator(self, grid: Sequence[int]) -> Convolution:
        """Return A at the present kernel, for images of this grid (H, W). Raises KernelError where it does not fit."""
        if self.size[0] > min(grid):
            raise KernelError(f"the {self.size} learned kernel is larger than the image, {tuple(grid)}")
        return convolution(self(), (grid[0], grid[1]))

    @torch.no_grad()
    def pull_back(self, g: Tensor) -> Tensor:  # (size, size) -> (size, size)
        """Return P g: a derivative by the logits from that by the entries."""
        k = self()
        return k * (g - (k * g).sum())

    @torch.no_grad()
    def misfit_gradient(self, x: Tensor, y: Tensor) -> Tensor:  # 2 x (B, C, H, W) -> (size, size)
        """Return d/dlogits of sum_b h_b(x_b) at fixed x."""
        return self.pull_back(misfit_by_kernel(self.operator(x.shape[2:]), x, y, self.size))


@dataclass(frozen=True)
class SemiBlind:
    """What the upper level moves (`app.upper.hypergradient.Learned`) for one batch of measurements y (B, C, H, W)."""

    regularizer: Regularizer
    kernel: BlurKernel
    y: Tensor

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.regularizer.parameters()
        yield from self.kernel.parameters()

    @torch.no_grad()
    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        by_kernel = mixed_by_kernel(self.kernel.operator(x.shape[2:]), x, self.y, q, self.kernel.size)
        return *self.regularizer.mixed(x, q), self.kernel.pull_back(by_kernel)

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:
        return *self.regularizer.slopes(x), self.kernel.misfit_gradient(x, self.y)

    @property
    def has_sensitivity(self) -> bool:
        return self.regularizer.has_sensitivity

    @torch.no_grad()
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:
        """Return the regularizer's bounds with those of the kernel, whose J is affine in x, and A^T A constant.

        J_k(x)^T q = P (<c_d, q>)_d with c_d = S_-d r + S_d A^T x, so ||J_k(x)|| <= spread(r, A^T x). Moving x by e
        moves it by (<S_-d A e + S_d A^T e, q>)_d = (<e, S_d A^T q + S_-d A q>)_d before P, at most spread(A q, A^T q)
        ||e|| after it. And ||P diag(..)||: the k-weighted variance of c_d is below its second moment, so that
        spread(A e, A^T e) <= (max k)^(1/2) 2 ||A|| ||e||.
        """
        part, operator, k = self.regularizer.sensitivity(x, q, radius), self.kernel.operator(x.shape[2:]), self.kernel()
        here = spread(operator, k, operator.forward(x) - self.y, operator.adjoint(x))
        steepest = 2 * float(k.max() * operator.norm_squared) ** 0.5
        change = spread(operator, k, operator.forward(q), operator.adjoint(q)) * radius
        return Sensitivity(
            torch.hypot(part.jacobian, here + steepest * radius),
            part.product,
            torch.hypot(part.jacobian_product, change),
        )


def spread(operator: Convolution, kernel: Tensor, a: Tensor, b: Tensor) -> Tensor:  # 2 x (B, C, H, W) -> (B,)
    """Return (sum_d k(d)^2 ||c_d - sum_e k(e) c_e||^2)^(1/2) with c_d = S_-d a + S_d b: the Frobenius norm of q ->
    P (<c_d, q>)_d."""
    mean, total = operator.adjoint(a) + operator.forward(b), a.new_zeros(len(a))
    h, w = kernel.shape
    for i, row in enumerate(kernel.tolist()):
        for j, weight in enumerate(row):
            d = (i - h // 2, j - w // 2)
            c = a.roll((-d[0], -d[1]), (2, 3)) + b.roll(d, (2, 3))
            total += weight**2 * (c - mean).square().sum((1, 2, 3))
    return total.sqrt()


def kernel_error(kernel: Tensor, true: Tensor) -> float:  # (h, w), (h', w') -> []
    """Return ||k - k_true|| / ||k_true||, pixels (h // 2, w // 2) on top of each other; no shift is searched for."""
    side = 2 * (max(*kernel.shape, *true.shape) // 2) + 1
    a, b = _framed(kernel.detach(), side), _framed(true, side)
    return float((a - b).norm() / b.norm())


def _framed(kernel: Tensor, side: int) -> Tensor:
    top, left = side // 2 - kernel.shape[0] // 2, side // 2 - kernel.shape[1] // 2
    h, w = kernel.shape
    return F.pad(kernel.cpu().double(), (left, side - w - left, top, side - h - top))
