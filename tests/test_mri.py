"""MRI: deepinv's operator, exact bounds, masks, images channel by channel, and the whole solve."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from deepinv.physics import MRI, MultiCoilMRI

from app.evaluation.guide import lower_problem
from app.evaluation.reconstructor import reconstruct
from app.lower import lbfgs
from app.lower.preconditioner import preconditioner
from app.problem.mri import drawn_masks, given_maps, given_mask, mri, mri_operator, smooth_phase
from app.problem.operators import OperatorError
from app.problem.problem import Problem
from app.problem.quality import magnitude, psnr
from app.settings.options import ConfigError
from app.settings.toml import parse
from app.training.fit import hypergradient
from datasets.arrays import ArrayError, read_array
from regularizers import CHARBONNIER, Channelwise, FieldOfExperts, TotalVariation, for_channels
from tests.problems import dense, perturbed, regularizer_named

CPU = torch.device("cpu")
SIZES = [(16, 16), (9, 7)]
KINDS = [(1, 0), (2, 0), (1, 3), (2, 3)]  # channels, coils


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def setting(channels, coils, size, dtype=torch.float64, batch=2):
    """A with one mask of weights per image, and deepinv's physics of the same mask and maps."""
    mask = (torch.rand(batch, 1, *size, generator=draws()) < 0.5).to(dtype) * torch.tensor([1.0, 0.5]).to(dtype)[
        :batch, None, None, None
    ]
    maps = torch.randn(coils, *size, dtype=dtype.to_complex(), generator=draws(1)) if coils else None
    theirs = MRI(mask=mask) if maps is None else MultiCoilMRI(mask=mask, coil_maps=maps)
    return mri_operator(mask, (channels, *size), maps), theirs


def images(channels, size, dtype=torch.float64, batch=2):
    return torch.randn(batch, channels, *size, dtype=dtype, generator=draws(2))


def problem_of(channels, mask="random", **values):
    """Three images of 16 x 16 pixels, real or complex."""
    phases = None if channels == 1 else 0
    operators = mri(drawn_masks(mask, 2, 0.2, 0), None, phases=phases, one_mask=False, device=CPU, dtype=torch.float64)
    clean = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=draws(3)).repeat_interleave(4, 2)
    values = {"noise_level": 0.05, "ridge": 0.05, "dtype": torch.float64} | values
    return Problem(operators, clean=clean.repeat_interleave(4, 3), **values)


@pytest.mark.parametrize(("channels", "coils"), KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_deepinvs_operator_and_solvers_see_the_same(size, dtype, tolerance, channels, coils):
    a, theirs = setting(channels, coils, size, dtype)
    x = images(channels, size, dtype)
    both = x if channels == 2 else torch.cat((x, torch.zeros_like(x)), 1)
    y = theirs.A(both)
    v = torch.randn(y.shape, dtype=dtype, generator=draws(4))
    gradient = theirs.A_adjoint(y - v)[:, :channels]

    def error(found, expected):
        return float((found - expected).norm() / expected.norm())

    assert error(a.forward(x), y) <= tolerance
    assert error(a.adjoint(v), theirs.A_adjoint(v)[:, :channels]) <= tolerance
    assert error(a.normal(x), theirs.A_adjoint(y)[:, :channels]) <= tolerance
    assert error(a.misfit_gradient(v)(x), gradient) <= tolerance
    assert abs(float((y * v).sum() - (x * a.adjoint(v)).sum())) <= tolerance * float(y.norm() * v.norm())


@pytest.mark.parametrize(("channels", "coils"), KINDS)
@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_bounds_hold_and_the_model_is_the_nearest_circulant(size, channels, coils):
    a, _ = setting(channels, coils, size)
    shape = (channels, *size)
    for i in range(2):
        own = a.take(torch.tensor([i]))
        matrix = dense(lambda e, own=own: torch.cat([own.normal(v[None]) for v in e]), shape)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        assert own.lambda_min <= float(eigenvalues[0]) + 1e-12
        assert own.norm_squared >= float(eigenvalues[-1]) - 1e-12
        if not coils:
            assert own.norm_squared == pytest.approx(float(eigenvalues[-1]))
            assert own.lambda_min == pytest.approx(float(eigenvalues[0]), abs=1e-12)
        symbol, diagonal = own.normal_model
        torch.testing.assert_close(matrix.diag().view(shape), diagonal.expand(1, *shape)[0])
        blocks = matrix.view(*shape, *shape)
        for c, d in product(range(channels), repeat=2):
            lags = torch.zeros(size, dtype=torch.float64)  # mean over all shifts
            for row in range(size[0]):
                for column in range(size[1]):
                    block = blocks[c, row, column, d]
                    lags += block.flip((0, 1)).roll((row + 1, column + 1), (0, 1)) / lags.numel()
            found = symbol[0, c, d].to(torch.complex128)
            torch.testing.assert_close(torch.fft.rfft2(lags), found, atol=1e-12, rtol=1e-9)


def test_all_frequencies_measured_are_a_proven_strong_convexity():
    assert mri_operator(torch.full((8, 8), 2.0), (2, 8, 8)).lambda_min == 4
    half = torch.ones(8, 8)
    half[:, 1:4] = 0  # columns -3 to -1, whose mirror images are measured
    assert mri_operator(half, (1, 8, 8)).lambda_min == 0.5
    assert mri_operator(half, (2, 8, 8)).lambda_min == 0
    half[:, 0] = 0  # column -4, which is its own mirror image
    assert mri_operator(half, (1, 8, 8)).lambda_min == 0


@pytest.mark.parametrize(("channels", "coils"), KINDS)
def test_promoted_is_the_same_operator_in_float64(channels, coils):
    a, _ = setting(channels, coils, (16, 16), torch.float32)
    exact, x = a.promoted(), images(channels, (16, 16), torch.float32)
    theirs = setting(channels, coils, (16, 16), torch.float32)[1].double()
    both = x.double() if channels == 2 else torch.cat((x, torch.zeros_like(x)), 1).double()
    expected = exact.physics.A(both)
    torch.testing.assert_close(exact.forward(x.double()), expected)
    assert exact.normal(x.double()).dtype == torch.float64
    expected_normal = exact.adjoint(exact.forward(x.double()))
    torch.testing.assert_close(exact.normal(x.double()), expected_normal, rtol=1e-12, atol=1e-15)
    if not coils:
        torch.testing.assert_close(expected, theirs.A(both))
    assert (exact.norm_squared, exact.lambda_min) == (a.norm_squared, a.lambda_min)


@pytest.mark.parametrize(("channels", "coils"), KINDS)
def test_noise_lies_where_something_is_measured_and_has_its_level(channels, coils):
    mask = (torch.rand(64, 64, generator=draws()) < 0.5).float()
    maps = torch.ones(coils, 64, 64, dtype=torch.complex64) if coils else None
    a = mri_operator(mask, (channels, 64, 64), maps)
    y = a.measure(torch.zeros(1, channels, 64, 64), 0.1, [draws(8)])
    assert y.shape == ((1, 2, coils, 64, 64) if coils else (1, 2, 64, 64))
    assert float(y[..., mask > 0].std()) == pytest.approx(0.1, rel=0.05)
    assert float(y[..., mask == 0].abs().max()) == 0


@pytest.mark.parametrize(("channels", "coils"), KINDS)
def test_as_image_is_the_image_where_all_is_measured(channels, coils):
    x = images(channels, (9, 8))
    maps = torch.full((coils, 9, 8), 2.0, dtype=torch.complex128) if coils else None
    a = mri_operator(torch.ones(9, 8, dtype=torch.float64), (channels, 9, 8), maps)
    torch.testing.assert_close(a.as_image(a.forward(x)), x)


def test_as_image_of_real_images_knows_the_mirror_images_of_frequencies():
    rows = torch.ones(9, 9, dtype=torch.float64)
    rows[:, :4] = 0
    a, x = mri_operator(rows, (1, 9, 9)), images(1, (9, 9))
    torch.testing.assert_close(a.as_image(a.forward(x)), x)


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize("acceleration", [3, 4, 8])
def test_masks_measure_the_centre_and_one_column_in_so_many(kind, acceleration):
    masks = drawn_masks(kind, acceleration, 0.08, 0)
    drawn = torch.stack([masks(i, torch.Size((8, 100))) for i in range(400)])
    assert set(drawn.unique().tolist()) == {0, 1}
    assert torch.equal(drawn, drawn[:, :1].expand_as(drawn))  # whole columns
    assert bool((drawn[:, :, 46:54] == 1).all())  # round(0.08 * 100) columns around DC, which is the 50th
    assert float(drawn.mean()) == pytest.approx(1 / acceleration, rel=0.05)
    assert torch.equal(masks(7, torch.Size((8, 100))), drawn[7])  # it belongs to its image
    assert not torch.equal(drawn[0], drawn[1])
    if kind == "equispaced":
        gaps = drawn[0, 0, 54:].nonzero().flatten().diff()
        assert int(gaps.max() - gaps.min()) <= 1
    assert torch.equal(drawn_masks(kind, 1, 0.08, 0)(0, torch.Size((4, 20))), torch.ones(4, 20))


def test_a_phase_is_smooth_belongs_to_its_image_and_leaves_the_magnitude():
    problem = problem_of(2)
    a, b = problem.sample(0), problem.sample(0)
    assert torch.equal(a.target, b.target)
    clean = torch.stack([problem.patches.image(i).double() for i in a.images])
    clean = clean / (255 if problem.patches.image(0).dtype == torch.uint8 else 1)
    torch.testing.assert_close(magnitude(a.target), clean)
    assert float(psnr(a.target, -a.target).min()) > 200  # quality is that of magnitudes
    phase = smooth_phase(torch.Size((64, 64)), draws())
    assert float(phase.std()) > 0.2
    assert float(phase.diff(dim=1).abs().max()) < 0.3


@pytest.mark.parametrize("name", ["tv isotropic", "foe charbonnier valid rescaled", "foe mcp circular", "icnn"])
def test_a_grey_regularizer_is_summed_over_the_channels(name):
    base = regularizer_named(name).double()
    r, x, q = for_channels(base, 2), images(2, (8, 7)), torch.randn(2, 2, 8, 7, generator=draws(5)).double()
    assert isinstance(r, Channelwise)
    f, parts, moved = r.frozen(), x.split(1, 1), q.split(1, 1)
    one = base.frozen()
    torch.testing.assert_close(f.value(x), sum(one.value(p) for p in parts))
    torch.testing.assert_close(f.gradient(x), torch.cat([one.gradient(p) for p in parts], 1))
    torch.testing.assert_close(
        f.hessian(x)(q), torch.cat([one.hessian(p)(v) for p, v in zip(parts, moved, strict=True)], 1)
    )
    torch.testing.assert_close(f.take(torch.tensor([1])).value(x[1:]), f.value(x)[1:])
    for found, *each in zip(r.mixed(x, q), *(base.mixed(p, v) for p, v in zip(parts, moved, strict=True)), strict=True):
        torch.testing.assert_close(found, sum(each))
    for found, *each in zip(r.slopes(x), *(base.slopes(p) for p in parts), strict=True):
        torch.testing.assert_close(found, sum(each))
    assert r.curvature() == base.curvature()
    assert list(r.parameters()) == list(base.parameters())
    assert r.promoted().frozen().value(x).dtype == torch.float64


def test_the_sensitivity_of_channels_bounds_changes_nearby():
    base = perturbed(FieldOfExperts(1, 3, 3, CHARBONNIER, weight=0.4, smoothing=0.3).double())
    r, x = Channelwise(base, 2), images(2, (6, 6))
    q, radius = torch.randn(2, 2, 6, 6, generator=draws(6)).double(), torch.tensor([0.1, 0.2]).double()
    bound = r.sensitivity(x, q, radius)
    for seed in range(5):
        step = torch.randn(x.shape, generator=draws(seed)).double()
        near = x + radius.view(-1, 1, 1, 1) * step / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        for i in range(2):
            a, b, v = x[i : i + 1], near[i : i + 1], q[i : i + 1]
            product = r.frozen().hessian(b)(v) - r.frozen().hessian(a)(v)
            change = torch.cat([(m - n).flatten() for m, n in zip(r.mixed(b, v), r.mixed(a, v), strict=True)])
            there = torch.cat([m.flatten() for m in r.mixed(b, v)])
            assert float(product.norm()) <= float(bound.product[i])
            assert float(change.norm()) <= float(bound.jacobian_product[i])
            assert float(there.norm() / v.norm()) <= float(bound.jacobian[i])


def test_regularizers_that_know_the_channels_stay_as_they_are():
    for r in (TotalVariation(2), FieldOfExperts(2, 3, 3), Channelwise(TotalVariation(1), 2)):
        assert for_channels(r, 2) is r
    assert for_channels(FieldOfExperts(1, 3, 3), 1).arguments["channels"] == 1


@pytest.mark.parametrize("channels", [1, 2])
def test_the_hypergradient_is_the_derivative_through_the_whole_solve(channels):
    problem = problem_of(channels)
    r = perturbed(FieldOfExperts(1, 3, 3, CHARBONNIER, weight=0.1, smoothing=0.2).double(), size=0.1)
    found = hypergradient(r, problem, accuracy=1e-9)
    sample, parameters = problem.sample(0), list(r.parameters())

    def loss():
        regularizer = for_channels(r, channels)
        lower = lower_problem(regularizer, sample.operator, sample.y, problem.ridge, lbfgs.solve)
        energy = lower.energy()
        return float(sample.loss.value(lbfgs.solve(energy, energy.start, 1e-10).x).mean())

    moves = [torch.randn(p.shape, generator=draws(7)).double() for p in parameters]
    values, t = [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            for p, m in zip(parameters, moves, strict=True):
                p += sign * t * m
            values.append(loss())
            for p, m in zip(parameters, moves, strict=True):
                p -= sign * t * m
    expected = sum(float((g * m).sum()) for g, m in zip(found.gradient, moves, strict=True))
    assert (values[0] - values[1]) / (2 * t) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("channels", "coils"), KINDS)
def test_a_certificate_holds_against_a_tighter_solve_in_float64(channels, coils):
    a, _ = setting(channels, coils, (16, 16), torch.float32)
    x = images(channels, (16, 16), torch.float32)
    r, y = FieldOfExperts(1, 4, 3, CHARBONNIER, weight=0.05, smoothing=0.05), a.measure(x, 0.05, [draws(), draws(1)])
    found = reconstruct(r, y, a, ridge=1e-2, accuracy=0.1)
    exact = reconstruct(r.double(), y.double(), a.promoted(), ridge=1e-2, accuracy=1e-4)
    distance = (found.x.double() - exact.x).flatten(1).norm(dim=1)
    assert bool(found.converged.all())
    assert bool(exact.converged.all())
    assert bool((distance <= found.error_bound + exact.error_bound).all())


@pytest.mark.parametrize("channels", [1, 2])
def test_no_image_depends_on_its_batch(channels):
    a, _ = setting(channels, 0, (16, 16))
    y = a.measure(images(channels, (16, 16)), 0.05, [draws(), draws(1)])
    r = FieldOfExperts(1, 4, 3, CHARBONNIER, weight=0.05, smoothing=0.05).double()
    together = reconstruct(r, y, a, ridge=1e-2, accuracy=1e-6).x
    alone = reconstruct(r, y[1:], a.take(torch.tensor([1])), ridge=1e-2, accuracy=1e-6).x
    torch.testing.assert_close(together[1:], alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("channels", "coils"), KINDS)
def test_the_preconditioner_is_symmetric_and_positive_definite(channels, coils):
    a, _ = setting(channels, coils, (6, 5))
    a, x = a.take(torch.tensor([0])), images(channels, (6, 5), batch=1)
    r = for_channels(FieldOfExperts(1, 4, 3, CHARBONNIER, weight=0.05, smoothing=0.05).double(), channels)
    inverse = preconditioner(lower_problem(r, a, a.forward(x), 1e-3, lbfgs.solve).energy(), x)
    matrix = dense(lambda e: torch.cat([inverse(v[None]) for v in e]), (channels, 6, 5))
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix)[0] > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": torch.ones(8, 9)}, "9 x 8 frequencies does not fit images of 8 x 8"),
        ({"mask": torch.zeros(8, 8)}, "must be finite, and measure something"),
        ({"mask": torch.full((8, 8), math.nan)}, "must be finite"),
        ({"mask": torch.ones(8, 8, dtype=torch.complex64)}, "does not fit"),
        ({"image_shape": (3, 8, 8)}, "real images .1, H, W. or complex ones"),
        ({"maps": torch.ones(2, 8, 8)}, "are not complex"),
        ({"maps": torch.ones(2, 8, 9, dtype=torch.complex64)}, "are not complex .coils, 8, 8."),
        ({"maps": torch.zeros(2, 8, 8, dtype=torch.complex64)}, "not all zero"),
    ],
)
def test_masks_and_maps_that_do_not_fit_are_refused(values, message):
    with pytest.raises(OperatorError, match=message):
        mri_operator(**{"mask": torch.ones(8, 8), "image_shape": (2, 8, 8), **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((8, 8), complex), "FILE: a mask is a real array"),
        (np.ones((1, 8, 8)), "FILE: a mask is a real array"),
        (np.zeros(8), "FILE: a mask must be finite"),
        (np.array([1, np.nan]), "FILE: a mask must be finite"),
        (np.ones(9), "FILE: 9 columns are not those of images of 8 x 4"),
        (np.ones((8, 8)), "FILE: 8 x 8 are not those of images of 8 x 4"),
    ],
)
def test_files_of_masks_that_do_not_fit_are_refused(values, message):
    with pytest.raises(OperatorError, match=message):
        given_mask(values, "FILE")(0, torch.Size((4, 8)))


def test_files_of_maps_that_do_not_fit_are_refused():
    for values in (np.ones((2, 4, 8)), np.ones((4, 8), complex), np.full((2, 4, 8), np.nan + 0j)):
        with pytest.raises(OperatorError, match="FILE: coil maps"):
            given_maps(values, "FILE")
    with pytest.raises(OperatorError, match="FILE: 8 x 4 is not the size of images of 8 x 8"):
        given_maps(np.ones((2, 4, 8), complex), "FILE")(torch.Size((8, 8)))


def test_a_line_of_columns_is_a_mask_of_all_rows():
    line = np.array([0, 1, 1, 0.5])
    assert given_mask(line, "FILE")(3, torch.Size((2, 4))).tolist() == [line.tolist()] * 2


def test_arrays_are_read_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.ones(3), two=np.arange(4))
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    assert read_array(f"{tmp_path}/a.npz:two").tolist() == [0, 1, 2, 3]
    for name in ("a.npz", "a.npz:three", "objects.npy", "words.npy", "none.npy"):
        with pytest.raises(ArrayError):
            read_array(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("problem", "data", "message"),
    [
        ({"mask": "mask.npy", "acceleration": 8}, {}, "problem.acceleration = 8.0 is not read here"),
        ({"mask": "mask.npy", "centre_fraction": 0.2}, {}, "problem.centre_fraction = 0.2 is not read here"),
        ({"acceleration": 4, "centre_fraction": 0.3}, {}, "problem.centre_fraction = 0.3 alone measures more"),
        ({}, {"color": True}, "data.color = true is not read here: it is for any problem.task but mri"),
        ({"image": "imaginary"}, {}, "problem.image"),
        ({"keep": 0.5}, {}, "problem.keep = 0.5 is not read by mri"),
    ],
)
def test_settings_that_nothing_reads_are_errors(problem, data, message):
    with pytest.raises(ConfigError, match=message):
        parse({"problem": {"task": "mri", **problem}, "data": data})


@pytest.mark.parametrize(("channels", "coils"), KINDS)
def test_in_float64_it_is_the_operator_of_the_float32_mask(channels, coils):
    """The squares of weights that are not 0 or 1 are rounded in float32: they belong to another A."""
    mask = 0.05 + 0.95 * torch.rand(16, 12, generator=draws())
    maps = torch.randn(coils, 16, 12, dtype=torch.complex64, generator=draws(1)) if coils else None
    a = mri_operator(mask, (channels, 16, 12), maps).promoted()
    x = images(channels, (16, 12))
    y = a.forward(x) + 0.1
    torch.testing.assert_close(a.misfit_gradient(y)(x), a.adjoint(a.forward(x) - y), rtol=0, atol=1e-13)
    torch.testing.assert_close(a.normal(x), a.adjoint(a.forward(x)), rtol=0, atol=1e-13)
