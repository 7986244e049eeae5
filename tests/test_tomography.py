"""Sums along parallel rays: as deepinv computes them, as a dense matrix, through a whole solve, and for the user."""

import numpy as np
import pytest
import torch
from deepinv.physics import Tomography
from PIL import Image

from app import assemble
from app.__main__ import main
from app.evaluation.guide import lower_problem
from app.evaluation.simulation import simulation
from app.lower import lbfgs
from app.models.build import build_model
from app.problem.operators import OperatorError, TomographyOperator, wrap
from app.problem.problem import Problem
from app.problem.tasks import tomography
from app.problem.tomography import directions_at, ray_sums
from app.settings.options import ConfigError
from app.settings.toml import parse
from app.upper.hypergradient import hypergradient
from datasets.angles import read_angles
from datasets.arrays import ArrayError
from regularizers import TotalVariation
from tests.problems import dense

CPU, DOUBLE = torch.device("cpu"), torch.float64
ANGLES = [3 + 25.0 * n for n in range(7)]


def operator(shape=(1, 16, 16), angles=ANGLES, dtype=DOUBLE) -> TomographyOperator:
    made = tomography(angles, CPU, dtype)(torch.Size(shape), (0,))
    assert isinstance(made, TomographyOperator)
    return made


def deepinvs(side: int, dtype: torch.dtype, **more) -> Tomography:
    return Tomography(torch.tensor(ANGLES, dtype=dtype), side, dtype=dtype, **({"normalize": False} | more))


@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (DOUBLE, 1e-12)])
def test_the_matrix_is_the_operator_of_deepinv(side, circle, dtype, error):
    rays = ray_sums((side, side), directions_at(ANGLES), 1.0, circle, dtype)
    x, physics = torch.rand(2, 1, side, side, dtype=dtype), deepinvs(side, dtype, circle=circle)
    torch.testing.assert_close(rays.forward(x), physics.A(x), rtol=error, atol=error * side)
    y = torch.rand_like(physics.A(x))
    torch.testing.assert_close(rays.adjoint(y), physics.A_adjoint(y), rtol=error, atol=error * side)
    expected = physics.fbp(y)
    torch.testing.assert_close(rays.filtered_back_projection(y), expected, rtol=error, atol=10 * error)


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 9, 14), (3, 8, 5)])
def test_adjoint_and_bounds_are_those_of_the_dense_matrix(shape):
    a = operator(shape)
    matrix = dense(lambda v: torch.cat([a.forward(e[None]).flatten(1) for e in v]), shape)
    y = a.forward(torch.rand(2, *shape, dtype=DOUBLE))
    torch.testing.assert_close(a.adjoint(y).flatten(1), y.flatten(1) @ matrix)
    largest = float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1])
    assert largest <= a.norm_squared <= 1.02 * largest
    assert (a.lambda_min, a.norm_proven) == (0.0, True)
    assert a.support is not None
    assert bool((a.support.expand_as(y)[0].flatten() == (matrix != 0).any(1)).all())


def test_a_rectangular_image_is_measured_as_its_square_of_zeros():
    x = torch.rand(1, 1, 9, 14, dtype=DOUBLE)
    square = torch.zeros(1, 1, 14, 14, dtype=DOUBLE)
    square[:, :, 3:12] = x
    torch.testing.assert_close(operator((1, 9, 14)).forward(x), operator((1, 14, 14)).forward(square))


def test_in_float64_the_numbers_of_the_matrix_stay_what_they_are():
    a = operator(dtype=torch.float32)
    exact, x = a.promoted(), torch.rand(1, 1, 16, 16)
    assert torch.equal(exact.rays.matrix.values(), a.rays.matrix.values().double())
    assert torch.equal(exact.rays.transpose.to_dense(), exact.rays.matrix.to_dense().T)
    assert exact.norm_squared == a.norm_squared
    torch.testing.assert_close(exact.forward(x.double()).float(), a.forward(x))


def test_the_symbol_is_one_over_pi_f_for_every_size_and_number_of_directions():
    """The quotient ||A w||^2 / ||w||^2 of a wave in a smooth window, over many directions."""
    for side, count in ((64, 100), (96, 150)):
        a = operator((1, side, side), [180 * n / count for n in range(count)])
        n = torch.arange(side, dtype=DOUBLE) - side / 2
        window = torch.exp(-(n.square() + n.square()[:, None]) / (2 * (side / 7) ** 2))
        for f in (0.1, 0.15):
            wave = (window * torch.cos(2 * torch.pi * f * n))[None, None]
            quotient = float(a.forward(wave).square().sum() / wave.square().sum())
            assert quotient * torch.pi * f == pytest.approx(float(torch.sinc(torch.tensor(f)) ** 2.5), rel=0.06)


def test_filtered_back_projection_finds_the_image_where_there_are_many_directions():
    side = 48
    n = torch.arange(side, dtype=DOUBLE) - side / 2
    disc = torch.sigmoid(14 - torch.hypot(n, n[:, None]))[None, None]
    a = operator((1, side, side), [180 * k / 100 for k in range(100)])
    assert float((a.as_image(a.forward(disc)) - disc).norm() / disc.norm()) < 0.05


def test_directions_that_are_not_covered_are_not_seen():
    n = torch.arange(32, dtype=DOUBLE)
    wave = torch.cos(2 * torch.pi * 0.2 * n).expand(1, 1, 32, 32)  # columns change: seen from 0 degrees alone
    config = parse({"problem": {"task": "tomography", "angles": 9, "angular_range": 60}})
    angles = assemble.angles_of(config.problem)  # type: ignore[arg-type]
    assert angles[:2] == pytest.approx([0, 60 / 9])
    seen, unseen = (operator((1, 32, 32), angles).forward(w).square().sum() for w in (wave, wave.mT))
    assert float(seen) > 20 * float(unseen)


@pytest.mark.filterwarnings("ignore:.*adjoint")
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("backprop", [False, True])
def test_the_tomography_of_deepinv_is_wrapped_as_a_matrix_with_its_scale(normalize, circle, backprop):
    physics = deepinvs(16, torch.float32, normalize=normalize, circle=circle, adjoint_via_backprop=backprop)
    a = wrap(physics, (1, 16, 16))
    assert isinstance(a, TomographyOperator)
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(a.forward(x), physics.A(x), rtol=1e-4, atol=1e-5)
    if normalize:
        assert 0.98 < a.norm_squared < 1.1
    given = wrap(physics, (1, 16, 16), norm_squared=500.0, lambda_min=0.0)
    assert (given.norm_squared, given.lambda_min) == (500.0, 0.0)


def test_another_geometry_is_left_to_deepinv():
    physics = deepinvs(16, torch.float32)
    physics.radon.all_grids = physics.radon.all_grids.flip(3)
    assert not isinstance(wrap(physics, (1, 16, 16)), TomographyOperator)
    fan = Tomography(5, 16, fan_beam=True, normalize=False)
    assert not isinstance(wrap(fan, (1, 16, 16)), TomographyOperator)


def test_the_hypergradient_is_that_of_the_whole_solve():
    r = TotalVariation(1, weight=0.05, smoothing=0.1).double()
    problem = Problem(
        tomography(ANGLES, CPU, DOUBLE),
        clean=torch.rand(2, 1, 8, 10).double(),
        noise_level=0.05,
        ridge=0.1,
        dtype=DOUBLE,
    )
    sample = problem.sample(0)

    def loss() -> float:
        h = lower_problem(r, sample.operator, sample.y, 0.3, lbfgs.solve).energy()
        return float(sample.loss.value(lbfgs.solve(h, h.start, 1e-8).x).mean())

    h = lower_problem(r, sample.operator, sample.y, 0.3, lbfgs.solve).energy()
    z = hypergradient(r, h, sample.loss, lbfgs.solve, h.start, accuracy=1e-8)
    for p, g in zip(r.parameters(), z.gradient, strict=True):
        with torch.no_grad():
            p += 1e-5
            above = loss()
            p -= 2e-5
            below = loss()
            p += 1e-5
        assert (above - below) / 2e-5 == pytest.approx(float(g.sum()), rel=1e-4, abs=1e-8)


def test_a_certificate_in_float32_holds_in_float64():
    a, r = operator((1, 24, 24), dtype=torch.float32), TotalVariation(1, weight=0.02, smoothing=0.05)
    y = a.measure(torch.rand(1, 1, 24, 24), 0.05, [torch.Generator().manual_seed(0)])
    problem = lower_problem(r, a, y, 0.03, lbfgs.solve)
    found, exact = problem.solve(lbfgs.solve, 0.1), problem.exact()
    assert bool(found.converged)
    matrix = a.rays.matrix.to_dense().double()
    misfit = matrix.T @ (matrix @ found.x.double().flatten() - y.transpose(2, 3).flatten().double())
    gradient = misfit.view(1, 1, 24, 24) + exact.functional.gradient(found.x.double()) + 0.03 * found.x.double()
    assert float(gradient.norm()) / 0.03 <= float(found.error_bound)
    nearer = lbfgs.solve(exact, found.x.double(), 1e-6).x
    assert float((nearer - found.x).norm()) <= float(found.error_bound) + 1e-6


def test_the_directions_of_a_file_take_the_place_of_those_that_are_spaced(tmp_path):
    np.save(tmp_path / "a.npy", np.array([0, 10, 40], dtype=np.int16))
    np.savez(tmp_path / "b.npz", one=np.array([1.5]), two=np.array([2.0, 3.0]))
    config = parse({"problem": {"task": "tomography", "angle_file": str(tmp_path / "a.npy")}})
    a = assemble.operators(config, tmp_path)(torch.Size((1, 16, 16)), (0,))
    assert a.forward(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 23, 3)
    assert read_angles(f"{tmp_path}/b.npz:two") == [2.0, 3.0]
    with pytest.raises(ConfigError, match=r"problem.angles = 7 is not read here: it is for problem.angle_file"):
        parse({"problem": {"task": "tomography", "angle_file": "a.npy", "angles": 7}})


BAD = {
    "empty": (np.array([]), "is empty"),
    "nan": (np.array([0, np.nan]), "NaN or infinite"),
    "text": (np.array(["a"]), "no array of numbers"),
    "table": (np.zeros((2, 2)), "a list of 1 to 4096 angles"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_of_angles_that_is_none_is_refused(name, tmp_path):
    values, message = BAD[name]
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ArrayError, match=message):
        read_angles(str(tmp_path / "a.npy"))


def test_files_without_an_array_are_named(tmp_path):
    (tmp_path / "broken.npy").write_bytes(b"no array")
    np.savez(tmp_path / "b.npz", one=np.array([1.5]), two=np.array([2.0]))
    for name in ("missing.npy", "broken.npy", "b.npz", "b.npz:three"):
        with pytest.raises(ArrayError, match=name):
            read_angles(f"{tmp_path}/{name}")


def test_a_sinogram_that_does_not_fit_is_refused():
    operators = tomography(ANGLES, CPU, torch.float32)
    assert operators.image_shape(torch.Size((1, 23, 7))) == (1, 16, 16)
    for shape in ((1, 23, 8), (1, 24, 7), (1, 0, 7)):
        with pytest.raises(OperatorError, match="a sinogram of"):
            operators.image_shape(torch.Size(shape))


def test_colour_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"data.color = true is not read here: .* any problem.task but mri"):
        parse({"problem": {"task": "tomography"}, "data": {"color": True}})


def test_a_rectangular_photograph_goes_through_the_commands(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    task = ["--task", "tomography", "--set", "problem.ridge=0.1", "--set", "problem.angles=8", "--quiet"]
    evaluated = ["evaluate", "tv-denoise-grey-25", "--images", str(tmp_path / "p.png"), *task]
    assert main(evaluated) == 0
    assert "degraded: filtered back-projection" in capsys.readouterr().out
    out = tmp_path / "out"
    assert (
        main(["reconstruct", "tv-denoise-grey-25", str(tmp_path / "p.png"), "--degrade", "--out", str(out), *task]) == 0
    )
    with Image.open(out / "p.png") as image:
        assert image.size == (28, 20)
    capsys.readouterr()
    wrong = ["reconstruct", "tv-denoise-grey-25", str(tmp_path / "p.png"), "--out", str(tmp_path / "no"), *task]
    assert main(wrong) == 2
    assert "it is an image, and tomography measures none" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main([*evaluated, "--set", f"problem.angle_file={tmp_path / 'none.npy'}"]) == 2


def test_a_simulation_knows_the_shape_of_a_rectangular_image(tmp_path):
    config = parse({"problem": {"task": "tomography", "angles": 5, "ridge": 0.1}, "regularizer": {"name": "tv"}})
    s = simulation(config, build_model(config), tmp_path)
    clean = torch.rand(1, 1, 12, 16)
    y = s.measure(clean, (0,))
    assert s(y, (0,), clean.shape[1:]).x.shape == s.as_image(y, (0,), clean.shape[1:]).shape == clean.shape
    assert s(y, (0,)).x.shape == (1, 1, 16, 16)


def test_the_norm_of_one_shape_is_proven_once():
    operators = tomography((0.0, 30.0, 60.0), torch.device("cpu"), torch.float32)
    shape = torch.Size((1, 12, 12))
    assert operators(shape, (0, 1)) is operators(shape, (2,))
