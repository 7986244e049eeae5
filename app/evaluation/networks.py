"""Networks that others trained, as deepinv loads them: y -> x, nothing of them certified.

    x = D(y, sigma)                    a denoiser
    x = M(y, A)                        a reconstructor, which knows the operator
    x_k+1 = D(argmin_z ||A z - y||^2 + ||z - x_k||^2 / tau_k, s_k)    DPIR: a denoiser within half-quadratic splitting

Weights are files that deepinv downloads, or files of the same names in a folder. Nothing of them is part of this
repository. Levels are those that the weights were trained at, as their papers or deepinv say.
"""

import contextlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from deepinv import models
from deepinv.optim import DPIR
from deepinv.physics import LinearPhysics
from deepinv.utils.io import DownloadError
from torch import Tensor, nn

from app.problem.operators import BlurOperator, LinearOperator
from app.problem.tasks import MaskOperator
from app.scale import between
from app.settings.options import ConfigError
from datasets.files import printable

DOWNLOAD = "download"
LEVELS = (15 / 255, 25 / 255, 50 / 255)
SOLVED_EXACTLY = (BlurOperator, MaskOperator)  # whose physics is A itself, and knows its proximal map in closed form
REASON = 160  # characters of what deepinv says about a file

Denoiser = Callable[[Tensor, LinearOperator], Tensor]  # y (1, ...), A -> x (1, C, H, W)


@dataclass(frozen=True, kw_only=True)
class Network:
    """One architecture with its weights.

    build: (channels, file or DOWNLOAD, noise level) -> the network.  files: names of the weights by channels; {level}
    stands for 255 sigma.  low, high: noise levels that the weights are for, or `levels` where these are single ones.
    blind: it is not told the level.  multiple: sides of images are padded to it.  knows_operator: it takes a physics.
    """

    about: str
    build: Callable[[int, str, float], nn.Module]
    files: dict[int, str]
    low: float = 0.0
    high: float = 50 / 255
    levels: tuple[float, ...] = ()
    blind: bool = False
    multiple: int = 1
    tasks: tuple[str, ...] = ("denoise",)
    knows_operator: bool = False

    def fault(self, channels: int, level: float) -> str:
        """Return why the weights are not for such images; "" where they are."""
        if channels not in self.files:
            kinds = " and ".join({1: "grey", 3: "colour"}[c] for c in self.files)
            return f"has weights for {kinds} images, not for {'colour' if channels == 3 else 'grey'} ones"
        ranges = [(s, s) for s in self.levels] or [(self.low, self.high)]
        if any(between(level, low, high) for low, high in ranges):
            return ""
        known = self.levels or (self.low, self.high)
        shown = (" or " if self.levels else " to ").join(f"{255 * s:.4g}/255" for s in known)
        return f"has weights for noise level {shown}, and the noise level here is {255 * level:.4g}/255"

    def file(self, channels: int, level: float) -> str:
        """Return the name of the weights. Of single levels the nearest is meant."""
        nearest = min(self.levels, key=lambda s: abs(s - level), default=level)
        return self.files[channels].format(level=round(255 * nearest))


def _drunet(channels: int, weights: str, level: float) -> nn.Module:
    return models.DRUNet(channels, channels, pretrained=weights)


def _gsdrunet(channels: int, weights: str, level: float) -> nn.Module:
    return models.GSDRUNet(in_channels=channels, out_channels=channels, pretrained=weights)


def _ffdnet(channels: int, weights: str, level: float) -> nn.Module:
    depth, width = {1: (15, 64), 3: (12, 96)}[channels]
    return models.FFDNet(depth, width, channels, pretrained=weights)


def _swinir(channels: int, weights: str, level: float) -> nn.Module:
    trained = min(LEVELS, key=lambda s: abs(s - level))
    return models.SwinIR(in_chans=channels, pretrained=weights, pretrained_noise_level=round(255 * trained))


def _restormer(channels: int, weights: str, level: float) -> nn.Module:
    pretrained = "denoising" if weights == DOWNLOAD else weights
    return models.Restormer(channels, channels, LayerNorm_type="BiasFree", pretrained=pretrained)


def _deal(channels: int, weights: str, level: float) -> nn.Module:
    return models.DEAL(sigma_denoiser=level, color=channels == 3, pretrained=weights)


def _ram(channels: int, weights: str, level: float) -> nn.Module:
    return models.RAM(pretrained=True if weights == DOWNLOAD else weights).eval()


def _dpir(channels: int, weights: str, level: float) -> nn.Module:
    return DPIR(sigma=level, denoiser=_drunet(channels, weights, level))  # type: ignore[arg-type]


DRUNET = {1: "drunet_deepinv_gray_finetune_26k.pth", 3: "drunet_deepinv_color_finetune_22k.pth"}
NETWORKS = {
    "drunet": Network(about="DRUNet (2008.13751)", build=_drunet, files=DRUNET),
    "gsdrunet": Network(
        about="GSDRUNet (2110.03220)", build=_gsdrunet, multiple=8,
        files={1: "GSDRUNet_grayscale_torch.ckpt", 3: "GSDRUNet_torch.ckpt"},
    ),
    "ffdnet": Network(
        about="FFDNet (1710.04026)", build=_ffdnet, files={1: "ffdnet_gray.pth", 3: "ffdnet_color.pth"},
        high=75 / 255, multiple=2,
    ),
    "dncnn": Network(
        about="DnCNN without batch normalization (1608.03981)", levels=(2 / 255,), blind=True,
        build=lambda c, weights, level: models.DnCNN(c, c, pretrained=weights),
        files={1: "dncnn_sigma2_gray.pth", 3: "dncnn_sigma2_color.pth"},
    ),
    "scunet": Network(
        about="SCUNet for real photographs (2203.13278)", blind=True, files={3: "scunet_color_real_psnr.pth"},
        build=lambda c, weights, level: models.SCUNet(pretrained=weights),
    ),
    "swinir": Network(
        about="SwinIR (2108.10257)", build=_swinir, levels=LEVELS, blind=True,
        files={1: "004_grayDN_DFWB_s128w8_SwinIR-M_noise{level}.pth",
               3: "005_colorDN_DFWB_s128w8_SwinIR-M_noise{level}.pth"},
    ),
    "restormer": Network(
        about="Restormer, one for all levels (2111.09881)", build=_restormer, blind=True,
        files={1: "gaussian_gray_denoising_blind.pth", 3: "gaussian_color_denoising_blind.pth"},
    ),
    "deal": Network(about="DEAL (2411.15535)", build=_deal, files={1: "deal_gray.pth", 3: "deal_color.pth"}),
    "ram": Network(
        about="RAM, one for all tasks (2503.08915)", build=_ram, files={1: "ram.pth.tar", 3: "ram.pth.tar"},
        high=0.2, tasks=("denoise", "deblur", "inpaint", "superres"), knows_operator=True,
    ),
    "dpir": Network(
        about="DPIR with DRUNet (2008.13751), 8 iterations", build=_dpir, files=DRUNET,
        tasks=("deblur", "inpaint", "superres"), knows_operator=True,
    ),
}  # fmt: skip


def load(name: str, channels: int, level: float, weights: Path | None) -> nn.Module:
    """Return a network in evaluation mode. weights: a folder of files of deepinv's names; None: they are downloaded.
    Raises ConfigError where they cannot be had, or are none of this network."""
    network = NETWORKS[name]
    file = network.file(channels, level)
    source = DOWNLOAD if weights is None else str(weights / file)
    if weights is not None and not Path(source).is_file():
        raise ConfigError(f"--baselines {name}: there is no file {printable(source)} (--weights)")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tables are printed there
            return network.build(channels, source, level).eval()
    except DownloadError as error:
        elsewhere = f"fetch {file} elsewhere, and name its folder with --weights FOLDER"
        raise ConfigError(
            f"--baselines {name}: its weights cannot be downloaded ({_short(error)}): {elsewhere}"
        ) from None
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        where = printable(source) if weights else f"the file {file} that deepinv downloaded (TORCH_HOME)"
        raise ConfigError(f"--baselines {name}: {where} does not hold its weights: {_short(error)}") from None


def _short(error: Exception) -> str:
    """Return what an error of several lines says, in one that is not long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= REASON else f"{text[:REASON]} ..."


def applied(name: str, model: Any, level: float) -> Denoiser:
    """Return y, A -> x of a network. It computes in float32, and x has the precision of y."""
    network = NETWORKS[name]

    @torch.no_grad()
    def apply(y: Tensor, operator: LinearOperator) -> Tensor:  # (1, ...) -> (1, C, H, W)
        if network.knows_operator:
            more = {"sigma": level} if name == "ram" else {}
            return model(y.float(), physics=physics_of(operator), **more).to(y)
        given, size = y.float(), y.shape[2:]
        more = [-size[1] % network.multiple, -size[0] % network.multiple]
        given = F.pad(given, [0, more[0], 0, more[1]], mode="replicate")
        x = model(given) if network.blind else model(given, level)
        return x[..., : size[0], : size[1]].to(y)

    return apply


def physics_of(operator: LinearOperator) -> LinearPhysics:
    """Return A as a physics in float32: deepinv's own where that is A, else one that knows A and A^T alone."""
    if isinstance(operator, SOLVED_EXACTLY):
        return operator.physics
    dtype = torch.float32

    def forward(x: Tensor, **kwargs: Any) -> Tensor:
        return operator.forward(x).to(dtype)

    def adjoint(y: Tensor, **kwargs: Any) -> Tensor:
        return operator.adjoint(y).to(dtype)

    return LinearPhysics(A=forward, A_adjoint=adjoint, img_size=tuple(operator.image_shape))
