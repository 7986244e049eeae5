"""Classical methods to compare with, as others wrote them: y (1, C, H, W) -> x (1, C, H, W)."""

import importlib
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from skimage import restoration
from torch import Tensor

# What each undoes, and what the user reads about it.
TASKS = {"tv": "denoise", "wavelet": "denoise", "nlm": "denoise", "bm3d": "denoise", "wiener": "deblur"}
ABOUT = {
    "tv": "scikit-image's denoise_tv_chambolle", "wavelet": "scikit-image's denoise_wavelet, BayesShrink",
    "nlm": "scikit-image's denoise_nl_means, h = 0.8 sigma, patches of 5 x 5 within 6 pixels, fast mode",
    "bm3d": "the package bm3d", "wiener": "scikit-image's wiener, known kernel, Laplacian regularization",
}  # fmt: skip
PACKAGES = {"wavelet": "pywt", "bm3d": "bm3d"}  # what is not among the program's own dependencies


def total_variation(y: Tensor, weight: float) -> Tensor:
    """Minimise 1/2 ||x - y||^2 + weight TV(x) over x, isotropic, channel by channel (Chambolle, JMIV 2004)."""
    return _through(lambda image, axis: restoration.denoise_tv_chambolle(image, weight, channel_axis=axis), y)


def wavelet(y: Tensor, sigma: float) -> Tensor:
    """Apply soft thresholds, chosen per subband (Chang, Yu, Vetterli, TIP 2000), in YCbCr, and clip the result."""
    method = partial(restoration.denoise_wavelet, sigma=sigma, method="BayesShrink", mode="soft")
    return _through(lambda image, axis: method(image, convert2ycbcr=axis is not None, channel_axis=axis), y)


def nonlocal_means(y: Tensor, sigma: float) -> Tensor:
    """Return means over pixels with similar patches (Buades, Coll, Morel, CVPR 2005)."""
    method = partial(restoration.denoise_nl_means, patch_size=5, patch_distance=6, h=0.8 * sigma, fast_mode=True)
    return _through(lambda image, axis: method(image, channel_axis=axis), y)


def bm3d(y: Tensor, sigma: float) -> Tensor:
    """Return the collaborative filtering of similar patches (Dabov et al., TIP 2007); colour in an opponent space."""
    package = importlib.import_module("bm3d")
    return _through(lambda image, axis: (package.bm3d if axis is None else package.bm3d_rgb)(image, sigma), y)


def wiener(y: Tensor, kernel: Tensor, balance: float) -> Tensor:  # kernel (h, w)
    """Minimise ||k * x - y||^2 + balance ||Laplacian x||^2, circular, channel by channel."""
    psf = kernel.cpu().numpy()
    channels = [np.asarray(restoration.wiener(c, psf, balance, clip=False)) for c in y[0].cpu().numpy()]
    return torch.from_numpy(np.stack(channels)).to(y)[None]


def golden_section(f: Callable[[float], float], low: float, high: float, precision: float = 0.05) -> float:
    """Return the maximizer of a unimodal f on [low, high] up to the factor 1 + precision. By golden section of the
    logarithm (Kiefer, 1953): one evaluation of f shortens the interval by (sqrt 5 - 1)/2."""
    ratio = (math.sqrt(5) - 1) / 2
    a, d = math.log(low), math.log(high)
    b, c = d - ratio * (d - a), a + ratio * (d - a)
    at_b, at_c = f(math.exp(b)), f(math.exp(c))
    while d - a > 2 * math.log1p(precision):
        if at_b > at_c:
            c, d, at_c = b, c, at_b
            b = d - ratio * (d - a)
            at_b = f(math.exp(b))
        else:
            a, b, at_b = b, c, at_c
            c = a + ratio * (d - a)
            at_c = f(math.exp(c))
    return math.exp((a + d) / 2)


def _through(method: Callable[[np.ndarray, int | None], np.ndarray], y: Tensor) -> Tensor:
    """`method(image, channel_axis)` on an image (H, W) or (H, W, 3), as image libraries want it."""
    image = y[0].permute(1, 2, 0).cpu().numpy()
    x = method(image, -1) if image.shape[2] > 1 else method(image[..., 0], None)[..., None]
    return torch.from_numpy(np.ascontiguousarray(x)).to(y).permute(2, 0, 1)[None]
