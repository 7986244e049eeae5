"""Any linear deepinv physics as an operator: its adjoint, its bounds, its noise; and what cannot be one."""

import deepinv.physics as physics
import pytest
import torch

from app.problem.operators import OperatorError, StackedOperator, noise_level_of, operators_of, wrap, wrapped
from app.problem.problem import Problem, ProblemError
from tests.problems import dense

KERNEL = torch.tensor([[0.0, 0.1, 0.0], [0.4, 0.2, 0.1], [0.0, 0.2, 0.0]])[None, None]
MASK = (torch.arange(8) % 3 != 0).float().expand(8, 8)


class Approximate(physics.LinearPhysics):
    """x -> 2 x with an adjoint that is not one."""

    def A(self, x, **kwargs):
        return 2 * x

    def A_adjoint(self, y, **kwargs):
        return y.flip(2)


class Curved(physics.LinearPhysics):
    def A(self, x, **kwargs):
        return x.square()

    def A_adjoint(self, y, **kwargs):
        return y


class Blind(physics.LinearPhysics):
    def A(self, x, **kwargs):
        return x / 0

    def A_adjoint(self, y, **kwargs):
        return y


WRAPPED = {
    "mri": (physics.MRI(mask=MASK), (2, 8, 8)),
    "tomography": (physics.Tomography(angles=7, img_width=8, normalize=True), (1, 8, 8)),
    "valid blur": (physics.Blur(filter=KERNEL, padding="valid"), (1, 8, 8)),
    "sensing": (physics.CompressedSensing(m=20, img_size=(1, 8, 8)), (1, 8, 8)),
    "inpainting": (physics.Inpainting((1, 8, 8), mask=MASK), (1, 8, 8)),
    "denoising": (physics.Denoising(), (3, 8, 8)),
    "approximate": (Approximate(), (1, 8, 8)),
}


@pytest.mark.filterwarnings("ignore:.*adjoint")
@pytest.mark.parametrize("name", WRAPPED)
def test_the_adjoint_and_the_bounds_are_those_of_the_dense_matrix(name):
    operator = wrap(*WRAPPED[name], dtype=torch.float64)
    shape = tuple(operator.image_shape)
    matrix = dense(lambda v: torch.cat([operator.forward(e[None]).flatten(1) for e in v]), shape)
    normal = dense(lambda v: torch.cat([operator.normal(e[None]).flatten(1) for e in v]), shape)
    torch.testing.assert_close(normal, matrix.T @ matrix, atol=1e-6, rtol=0)
    y = operator.forward(torch.rand(2, *shape, dtype=torch.float64))
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ matrix, atol=1e-6, rtol=0)
    eigenvalues = torch.linalg.eigvalsh(matrix.T @ matrix)
    assert operator.lambda_min <= float(eigenvalues[0]) + 1e-6
    if operator.norm_proven:
        assert operator.norm_squared >= float(eigenvalues[-1]) - 1e-6
    assert 0.9 < operator.norm_squared / float(eigenvalues[-1]) < 1.1


def test_bounds_are_proven_only_where_the_physics_proves_them():
    assert {name: wrap(*args).norm_proven for name, args in WRAPPED.items() if name != "approximate"} == {
        "mri": True, "tomography": True, "valid blur": False, "sensing": False, "inpainting": True, "denoising": True,
    }  # fmt: skip
    given = wrap(physics.Blur(filter=KERNEL, padding="valid"), (1, 8, 8), norm_squared=1.0)
    assert (given.norm_proven, given.norm_squared, given.lambda_min) == (True, 1.0, 0.0)


def test_an_approximate_adjoint_is_replaced_and_the_program_says_so():
    with pytest.warns(UserWarning, match="Approximate brings an adjoint with a relative error"):
        operator = wrap(Approximate(), (1, 4, 4))
    y = torch.rand(1, 1, 4, 4)
    assert torch.equal(operator.adjoint(y), 2 * y)
    tomography = physics.Tomography(angles=7, img_width=8, normalize=True, adjoint_via_backprop=False)
    with pytest.warns(UserWarning, match="Tomography brings an approximate adjoint"):
        operator = wrap(tomography, (1, 8, 8))
    x = torch.rand(1, 1, 8, 8)
    y = torch.rand_like(operator.forward(x))
    torch.testing.assert_close((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("name", ["mri", "inpainting", "tomography"])
def test_noise_stays_in_the_range_of_A_and_belongs_to_the_image(name):
    operator = wrap(*WRAPPED[name])
    clean = torch.zeros(2, *operator.image_shape)

    def draws(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    y = operator.measure(clean, 0.1, draws(3, 4))
    reached = operator.forward(torch.randn_like(clean)) != 0
    assert bool((y[~reached] == 0).all())
    assert float(y[reached].std()) == pytest.approx(0.1, rel=0.2)
    torch.testing.assert_close(operator.measure(clean[:1], 0.1, draws(4))[0], y[1])


def test_one_physics_for_each_image():
    several = [physics.Inpainting((1, 8, 8), mask=(torch.arange(8) % n != 0).float().expand(8, 8)) for n in (2, 3, 4)]
    operator = operators_of(several)(torch.Size((1, 8, 8)), (2, 0))
    assert isinstance(operator, StackedOperator)
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(operator.forward(x), torch.cat([several[2].A(x[:1]), several[0].A(x[1:])]))
    torch.testing.assert_close(operator.take(torch.tensor([1])).normal(x[1:]), operator.normal(x)[1:])
    with pytest.raises(OperatorError, match="there are 3 physics, and none for image 3"):
        operators_of(several)(torch.Size((1, 8, 8)), (3,))


@pytest.mark.parametrize(
    ("broken", "shape", "message"),
    [
        (physics.Haze(), (3, 8, 8), "not a linear deepinv physics"),
        (Curved(), (1, 8, 8), "is not linear"),
        (Blind(), (1, 8, 8), "not finite"),
        (WRAPPED["tomography"][0], (1, 9, 9), "does not take images of shape"),
        (physics.Denoising(), (8, 8), "images have the shape"),
        (physics.MRI(mask=torch.stack([MASK.expand(2, 8, 8), MASK.T.expand(2, 8, 8)])), (2, 8, 8), "one image at a"),
    ],
)
def test_what_is_no_operator_is_refused(broken, shape, message):
    with pytest.raises(OperatorError, match=message):
        wrap(broken, shape)


def test_measurements_that_do_not_fit_are_refused():
    mri, blur = WRAPPED["mri"][0], WRAPPED["valid blur"][0]
    for y, message in (
        (torch.full((1, 2, 8, 8), float("nan")), "finite"),
        (torch.ones(1, 2, 8, 8, dtype=torch.int64), "float or complex"),
        (torch.rand(1, 2, 9, 8), "does not take measurements of shape"),
    ):
        with pytest.raises(OperatorError, match=message):
            wrapped(mri, y)
    with pytest.raises(OperatorError, match="but A x has"):
        wrapped(blur, torch.rand(1, 1, 5, 5), (1, 8, 8))
    assert noise_level_of(physics.Denoising(physics.GaussianNoise(0.2))) == pytest.approx(0.2)
    with pytest.raises(OperatorError, match="differs from image to image"):
        noise_level_of(physics.Denoising(physics.GaussianNoise(torch.tensor([0.1, 0.2]))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clean": torch.rand(2, 8, 8)}, "float tensor"),
        ({"clean": torch.ones(2, 1, 8, 8, dtype=torch.uint8)}, "float tensor"),
        ({"clean": torch.full((2, 1, 8, 8), float("inf"))}, "NaN or infinite"),
        ({"clean": []}, "no images"),
        ({"noise_level": -1.0}, "noise_level"),
        ({"noise_level": (0.2, 0.1)}, "noise_level"),
        ({"noise_level": "25/255"}, "noise_level = '25/255' must be a number"),
        ({"noise_level": [0.1]}, "noise_level"),
        ({"noise_level": (0.0, 0.1)}, "a pair of numbers > 0 in order"),
        ({"ridge": -1.0}, "ridge"),
        ({"measurements": torch.rand(1, 1, 8, 8)}, "each whole image must have one"),
        ({"noisy": True, "physics": physics.Blur(filter=KERNEL, padding="circular")}, "is for denoising"),
    ],
)
def test_a_problem_says_what_does_not_fit(values, message):
    values = {"physics": physics.Denoising(), "clean": torch.rand(2, 1, 8, 8), **values}
    with pytest.raises(ProblemError, match=message):
        Problem(values.pop("physics"), **values)
    with pytest.raises(ProblemError, match="but A x has"):
        Problem(physics.Denoising(), clean=torch.rand(2, 1, 8, 8), measurements=torch.rand(2, 1, 9, 8)).sample(0)


def test_clean_images_of_another_scale_are_told():
    with pytest.warns(UserWarning, match="its brightest pixel is 255 times white"):
        Problem(physics.Denoising(), clean=torch.full((1, 1, 8, 8), 255.0))
    assert Problem(physics.Denoising(), clean=torch.zeros(1, 1, 8, 8), noise_level=[0.1, 0.2]).noise_levels.high == 0.2


def test_noise_that_has_no_level_is_not_taken_for_none():
    clean = torch.rand(2, 1, 8, 8)
    for noise in (physics.PoissonNoise(0.1), physics.UniformNoise(0.1)):
        with pytest.raises(OperatorError, match="Noise of the physics has no Gaussian noise level: say noise_level"):
            Problem(physics.Denoising(noise), clean=clean)
        assert Problem(physics.Denoising(noise), clean=clean, noise_level=0.1).noise_levels.high == 0.1


def test_one_physics_for_each_image_has_its_noise():
    clean = torch.rand(2, 1, 8, 8)
    several = [physics.Denoising(physics.GaussianNoise(0.2)) for _ in range(2)]
    assert Problem(several, clean=clean).noise_levels.high == pytest.approx(0.2)
    with pytest.raises(ProblemError, match="2 noise levels"):
        Problem([several[0], physics.Denoising(physics.GaussianNoise(0.1))], clean=clean)


def test_noisy_images_without_noise_teach_nothing():
    with pytest.raises(ProblemError, match="noise_level must be above 0"):
        Problem(physics.Denoising(physics.GaussianNoise(0.0)), clean=torch.rand(2, 1, 8, 8), noisy=True)
