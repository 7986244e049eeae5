"""Truncated hypergradients: dense closed forms -> rates and proven bounds -> known optima -> whole runs."""

import csv
import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from app.cli import main
from app.drawing.runs import draw_curves
from app.lower import lbfgs
from app.lower.energy import Energy
from app.lower.solution import LowerSolution, NonFiniteError, norm
from app.problem.losses import SquaredError
from app.training import checkpoint
from app.upper import direction, schedules
from app.upper.bound import error_bound
from app.upper.descent import Descent
from app.upper.hypergradient import hypergradient
from app.upper.linear import LinearSolution
from app.upper.method import Batch
from app.upper.methods.amigo import Amigo, adjoint_steps
from app.upper.methods.jfb import Jfb
from app.upper.methods.stocbio import Stocbio, gradient_steps, neumann_series
from app.upper.methods.unroll import Unroll, backward, coefficients, forward
from app.upper.state import restore, tensors
from figures.style import encoded
from regularizers import TotalVariation
from tests.problems import Identity, regularizer_named
from tests.test_hypergradient import Tikhonov, problem

NAMES = ["stocbio", "amigo", "jfb", "unroll"]
SOME = ["tv isotropic", "foe charbonnier reflect", "foe mcp circular"]


def methods(descent: Descent, accuracy: float = 0.0) -> dict:
    return {
        "stocbio": Stocbio(descent=descent, lower_steps=6, series_terms=5),
        "amigo": Amigo(descent=descent, lower_steps=6, adjoint_steps=5),
        "jfb": Jfb(descent=descent, accuracy=accuracy),
        "unroll": Unroll(descent=descent, iterations=7),
    }


@dataclass
class Spy:
    """A direction that notes the hypergradient and stays where it is."""

    z: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __call__(self, gradient, state):
        self.z = torch.cat([g.flatten() for g in gradient])
        return tuple(torch.zeros_like(g) for g in gradient)


def batch_of(regularizer, operator, y, clean, ridge=0.0, images=None) -> Batch:
    images = tuple(range(len(y))) if images is None else images
    part = torch.tensor(images)
    energy = Energy(operator.take(part), regularizer.frozen(), y[part], ridge)
    return Batch(regularizer, lambda: energy, SquaredError(clean[part]), images)


def estimate(name: str, batch: Batch, state=None, **changes) -> Tensor:
    """The hypergradient z of one step."""
    spy = Spy()
    method = replace(methods(Descent(spy, step_size=1.0), 1e-10)[name], **changes)
    method.step(0, batch, state or method.begin(finite_sum=True))
    return spy.z


def exact(batch: Batch) -> Tensor:
    energy = batch.energy()
    z = hypergradient(batch.learned, energy, batch.loss, lbfgs.solve, energy.backprojection, accuracy=1e-11)
    return torch.cat([g.flatten() for g in z.gradient])


def foe_batch(name: str = "foe charbonnier valid", task: str = "denoise") -> Batch:
    operator, y, clean, ridge = problem(task, 1)
    return batch_of(regularizer_named(name), operator, y, clean, ridge)


@dataclass(frozen=True)
class Dense:
    """grad h, H and J^T q of each image by autograd of the values, one image after another."""

    batch: Batch

    def gradient(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return torch.autograd.grad(self.batch.energy().value(x).sum(), x)[0]

    def hessians(self, x: Tensor) -> Tensor:  # (B, N, N)
        result = []
        for b in range(len(x)):
            part = self.batch.energy().take(torch.tensor([b]))
            value = lambda flat, part=part, b=b: part.value(flat.view_as(x[b : b + 1])).sum()  # noqa: E731
            result.append(torch.autograd.functional.hessian(value, x[b].flatten()))
        return torch.stack(result)

    def pulled_back(self, x: Tensor, q: Tensor) -> list[Tensor]:
        """- J^T q, mean over the batch."""
        learned = self.batch.learned
        point = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(learned.fn(point).sum(), point, create_graph=True)
        return [-p / len(x) for p in torch.autograd.grad((g * q).sum(), tuple(learned.parameters()))]


def times(matrices: Tensor, v: Tensor) -> Tensor:
    return (matrices @ v.flatten(1).unsqueeze(-1)).view_as(v)


def by_autograd(batch: Batch, start: Tensor, iterations: int, differentiated: int) -> tuple[Tensor, ...]:
    """Back-propagation of torch through the last steps of the same iteration."""
    energy = batch.energy()
    tau, beta = coefficients(energy)
    x = z = start
    for t in range(iterations):
        functional = batch.learned.functional() if t >= iterations - differentiated else energy.functional
        x_next = z - tau * Energy(energy.operator, functional, energy.y, energy.ridge).gradient(z)
        x, z = x_next, x_next + beta * (x_next - x)
    return torch.autograd.grad(batch.loss.value(x).mean(), tuple(batch.learned.parameters()))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("task", ["denoise", "blur", "inpaint"])
@pytest.mark.parametrize("name", SOME)
def test_a_step_of_every_method_is_that_of_dense_linear_algebra(name, task):
    generator = torch.Generator().manual_seed(1)
    for method_name in NAMES:
        batch = foe_batch(name, task)
        reference, energy = Dense(batch), batch.energy()
        x0, q0 = (torch.randn(energy.y.shape, generator=generator) for _ in range(2))
        method = methods(Descent(direction.plain, step_size=0.3), 1e-11)[method_name]
        state = method.begin(finite_sum=True)
        state.x.remember(batch.images, x0)
        if method_name == "amigo":
            state.q.remember(batch.images, q0)
        tau = 2 / sum(energy.bounds)
        x = x0
        for _ in range(6):
            x = x - tau * reference.gradient(x)
        if method_name == "jfb":
            x = lbfgs.solve(energy, x, 1e-11).x
        h, b = reference.hessians(x), x - batch.loss.target
        power, solved = torch.linalg.matrix_power(torch.eye(h.shape[1]) - tau * h, 5), times(torch.linalg.inv(h), b)
        q = {"stocbio": solved - times(power, solved), "amigo": solved + times(power, q0 - solved), "jfb": tau * b}
        unrolled = method_name == "unroll"
        z = by_autograd(batch, x0, 7, 7) if unrolled else reference.pulled_back(x, q[method_name])
        before = [p.detach().clone() for p in batch.learned.parameters()]
        method.step(0, batch, state)
        for p, start, g in zip(batch.learned.parameters(), before, z, strict=True):
            torch.testing.assert_close(p.detach(), start - 0.3 * g, atol=1e-8, rtol=1e-8)


@pytest.mark.usefixtures("double")
def test_the_neumann_series_is_its_closed_form_and_its_bias_decays_at_the_proven_rate():
    batch = foe_batch()
    energy = batch.energy()
    (mu, largest), x = energy.bounds, energy.y
    tau, h, b = 2 / (mu + largest), Dense(batch).hessians(x), batch.loss.gradient(x)
    solved = times(torch.linalg.inv(h), b)
    for terms in (1, 2, 5, 20, 80):
        q = neumann_series(energy.hessian(x), b, tau, terms)
        power = torch.linalg.matrix_power(torch.eye(h.shape[1]) - tau * h, terms)
        torch.testing.assert_close(q, solved - times(power, solved))
        assert (norm(q - solved) <= (1 - tau * mu) ** terms * norm(b) / mu).all()
    eigenvalues, vectors = torch.linalg.eigh(h[0])  # along the flattest direction nothing decays faster
    flat = vectors[:, 0].view_as(b[:1])
    for terms in (1, 10, 40):
        q = neumann_series(lambda v: times(h[:1], v), flat, tau, terms)
        torch.testing.assert_close(1 - eigenvalues[:1] * norm(q), (1 - tau * eigenvalues[:1]) ** terms)


@pytest.mark.usefixtures("double")
def test_gradient_steps_from_zero_on_the_quadratic_are_the_terms_of_the_series():
    batch = foe_batch()
    energy = batch.energy()
    h, b = energy.hessian(energy.y), batch.loss.gradient(energy.y)
    for count in (1, 4):
        torch.testing.assert_close(
            adjoint_steps(h, b, torch.zeros_like(b), 0.1, count), neumann_series(h, b, 0.1, count)
        )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", SOME)
def test_the_bounds_after_truncated_solves_hold_without_another_gradient(name):
    energy = foe_batch(name).energy()
    mu, largest = energy.bounds
    solution = lbfgs.solve(energy, energy.y, 1e-11).x
    for count in (1, 3, 30):
        found = [gradient_steps(energy, energy.y, tau, count) for tau in (0.5 / largest, 2 / (mu + largest))]
        path = forward(energy, energy.y, count, 1)
        for x, bound in (*found, (path.x, path.error_bound)):
            assert (norm(x - solution) <= bound).all()
            assert (bound < norm(energy.gradient(energy.y)) / mu).all()


@pytest.mark.usefixtures("double")
def test_amigo_tracks_the_solutions_of_a_theta_that_rests():
    batch, state = foe_batch(), Amigo().begin(finite_sum=True)
    z = exact(batch)
    errors = torch.tensor([float((estimate("amigo", batch, state) - z).norm() / z.norm()) for _ in range(60)])
    mu, largest = batch.energy().bounds
    gamma = (largest - mu) / (largest + mu)
    visits = torch.arange(1, 61)
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-7
    # The error of x (6 steps a visit) feeds that of q (5 steps a visit), hence the factor that counts the visits.
    assert (errors - 1e-9 <= 5 * visits * errors[0] * gamma ** (5.0 * (visits - 1))).all()
    fresh = Amigo().begin(finite_sum=False)
    assert torch.equal(estimate("amigo", batch, fresh), estimate("amigo", batch, fresh)), "no noise is averaged away"
    torch.testing.assert_close(estimate("amigo", batch, fresh), estimate("stocbio", batch))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", NAMES)
def test_mini_batches_of_images_are_unbiased_for_the_full_batch(method):
    """The mean over all pairs of images is the z of all images: the hypergradient, where the solves are exact."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randn(4, 1, 8, 8, generator=generator)
    y, r = clean + 0.3 * torch.randn(clean.shape, generator=generator), regularizer_named("foe charbonnier valid")
    full = batch_of(r, Identity(), y, clean)
    pairs = [batch_of(r, Identity(), y, clean, images=p) for p in itertools.combinations(range(4), 2)]
    many = {
        "stocbio": {"lower_steps": 400, "series_terms": 400},
        "amigo": {"lower_steps": 400, "adjoint_steps": 400},
        "jfb": {},
        "unroll": {"iterations": 400},
    }[method]
    for settings in ({}, many):
        mean = torch.stack([estimate(method, p, **settings) for p in pairs]).mean(0)
        torch.testing.assert_close(mean, estimate(method, full, **settings), atol=1e-9, rtol=1e-7)
    if method != "jfb":
        torch.testing.assert_close(estimate(method, full, **many), exact(full), atol=1e-8, rtol=1e-7)
    bias = (estimate(method, full) - exact(full)).norm() / exact(full).norm()
    assert 1e-3 < bias < 1


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["tv isotropic", "foe charbonnier valid"])
def test_the_bias_of_truncated_solves_is_below_the_proven_bound(name):
    batch = foe_batch(name)
    energy = batch.energy()
    tau, z = 2 / sum(energy.bounds), exact(batch)
    for steps in (1, 5, 50):
        x, bound = gradient_steps(energy, energy.y, tau, steps)
        b, h = batch.loss.gradient(x), energy.hessian(x)
        q = neumann_series(h, b, tau, steps)
        reached = torch.ones(2, dtype=torch.bool)
        lower = LowerSolution(x=x, error_bound=bound, converged=reached, iterations=reached)
        residual = norm(h(q) - b)
        linear = LinearSolution(
            q=q, residual=residual, converged=reached, iterations=reached, least=residual, largest=residual
        )
        omega = error_bound(batch.learned, energy, 1.0, lower, linear).mean()
        found = estimate("stocbio", batch, lower_steps=steps, series_terms=steps)
        assert 1e-12 < (found - z).norm() <= omega


@pytest.mark.usefixtures("double")
def test_jfb_is_exact_where_the_hessian_is_a_multiple_of_the_identity():
    batch = batch_of(Tikhonov(0.4), Identity(), torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4))
    torch.testing.assert_close(estimate("jfb", batch), exact(batch))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", SOME)
def test_jfb_descends_elsewhere_but_its_direction_is_another(name):
    batch = foe_batch(name)
    z, found = exact(batch), estimate("jfb", batch)
    cosine = z @ found / (z.norm() * found.norm())
    assert 0.1 < cosine < 0.9999
    energy = batch.energy()
    x, (mu, largest) = lbfgs.solve(energy, energy.y, 1e-11).x, energy.bounds
    b = batch.loss.gradient(x)
    solved = times(torch.linalg.inv(Dense(batch).hessians(x)), b)
    left_out = norm(2 / (mu + largest) * b - solved)
    assert (left_out <= (largest - mu) / (largest + mu) * norm(solved)).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("task", ["denoise", "blur", "inpaint"])
@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("kept", [1, 3, 12])
def test_unrolling_in_closed_form_is_what_torch_propagates_back(name, task, kept):
    batch = foe_batch(name, task)
    energy = batch.energy()
    path = forward(energy, energy.backprojection, 12, kept)
    ours = backward(batch.learned, energy, path, batch.loss.gradient(path.x))
    theirs = by_autograd(batch, energy.backprojection, 12, kept)
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, e, atol=1e-8, rtol=1e-8)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", SOME)
def test_unrolling_approaches_the_implicit_hypergradient_at_the_rate_of_acceleration(name):
    """By 1 - sqrt(mu / L) per iteration, up to a polynomial: the slowest mode is a double root."""
    batch = foe_batch(name)
    mu, largest = batch.energy().bounds
    z, rate = exact(batch), 1 - (mu / largest) ** 0.5
    unit = math.ceil(2 / -math.log(rate))
    errors = [float((estimate("unroll", batch, iterations=n * unit) - z).norm()) for n in (1, 2, 4)]
    assert errors[1] <= 4 * rate**unit * errors[0] + 1e-9
    assert errors[2] <= 16 * rate ** (3 * unit) * errors[0] + 1e-9
    truncated = [
        float((estimate("unroll", batch, iterations=20 * unit, backward_steps=n * unit) - z).norm()) for n in (1, 4)
    ]
    assert truncated[1] <= 16 * rate ** (3 * unit) * truncated[0] + 1e-8


@dataclass(frozen=True)
class Counted:
    """A functional whose gradients and products are counted, once per image."""

    functional: object
    calls: list[int]

    def __getattr__(self, name):
        return getattr(self.functional, name)

    def gradient(self, x):
        self.calls.append(len(x))
        return self.functional.gradient(x)  # type: ignore[attr-defined]

    def hessian(self, x):
        product = self.functional.hessian(x)  # type: ignore[attr-defined]
        return lambda v: self.calls.append(len(v)) or product(v)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("method", "step_size"), [("stocbio", 0.1), ("amigo", 0.1), ("unroll", 0.1), ("unroll", 0.0)])
def test_every_gradient_and_product_is_counted_those_of_trials_too(method, step_size):
    operator, y, clean, _ = problem("denoise", 1)
    r, calls = regularizer_named("tv isotropic"), []
    batch = Batch(r, lambda: Energy(operator, Counted(r.frozen(), calls), y), SquaredError(clean), (0, 1))  # type: ignore[arg-type]
    chosen = methods(Descent(direction.plain, step_size=step_size))[method]
    step = chosen.step(0, batch, chosen.begin(finite_sum=True))
    assert step.computations == sum(calls)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("kind", [direction.plain, direction.adam])
def test_all_reach_the_known_optimum_without_tuning(method, kind):
    """R = e^t / 2 ||x||^2 is best where 1 / (1 + e^t) = <y, clean> / ||y||^2."""
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(3, 1, 4, 4, generator=generator)
    y, r = clean + 0.7 * torch.randn(clean.shape, generator=generator), Tikhonov(-3.0)
    batch = Batch(r, lambda: Energy(Identity(), r.frozen(), y), SquaredError(clean), (0, 1, 2))
    steps = 2000 if kind is direction.adam and method in ("stocbio", "amigo") else 400  # they take a share of its steps
    chosen = methods(Descent(kind, schedules.one_cycle(steps)), 1e-6)[method]
    state = chosen.begin(finite_sum=True)
    for k in range(steps):
        chosen.step(k, batch, state)
    assert 1 / (1 + float(r.t.detach().exp())) == pytest.approx(float((y * clean).sum() / y.square().sum()), abs=2e-3)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("kind", [direction.plain, direction.momentum, direction.adam])
def test_all_learn_total_variation_without_tuning(method, kind):
    """AmIGO too, whose warm-started x and q lag behind theta: undamped, it diverges here with plain steps."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    y, r = clean + 0.1 * torch.randn(clean.shape, generator=generator), TotalVariation(1, weight=0.02, smoothing=0.01)
    batch = Batch(r, lambda: Energy(Identity(), r.frozen(), y), SquaredError(clean), (0, 1, 2, 3))

    def loss() -> float:
        return float(batch.loss.value(lbfgs.solve(batch.energy(), y, 1e-3).x).mean())

    before, chosen = loss(), methods(Descent(kind))[method]
    state = chosen.begin(finite_sum=True)
    for k in range(200):
        chosen.step(k, batch, state)
    assert loss() < 0.5 * before


@pytest.mark.parametrize("method", NAMES)
def test_a_non_finite_loss_stops_before_the_parameters_move(method):
    operator, y, clean, _ = problem("denoise", 1)
    r = regularizer_named("tv isotropic")
    before, chosen = [p.detach().clone() for p in r.parameters()], methods(Descent(step_size=1.0), 1e-2)[method]
    batch, state = batch_of(r, operator, y, clean * torch.nan), chosen.begin(finite_sum=True)
    with pytest.raises(NonFiniteError):
        chosen.step(0, batch, state)
    assert all(torch.equal(p, b) for p, b in zip(r.parameters(), before, strict=True))
    assert not state.x.tensors


@pytest.mark.parametrize("method", NAMES)
def test_a_state_read_back_continues_bit_by_bit(method, tmp_path):
    chosen = methods(Descent())[method]

    def run(steps: range, r, state) -> None:
        operator, y, clean, ridge = problem("denoise", 1)
        for k in steps:
            chosen.step(k, batch_of(r, operator, y.float(), clean.float(), ridge), state)

    r, state = TotalVariation(1), chosen.begin(finite_sum=True)
    run(range(3), r, state)
    checkpoint.save(tmp_path / "state", tensors(state), {})
    read, other = chosen.begin(finite_sum=True), TotalVariation(1)
    restore(read, checkpoint.load(tmp_path / "state")[0], torch.device("cpu"))
    other.load_state_dict(r.state_dict())
    run(range(3, 6), r, state)
    run(range(3, 6), other, read)
    assert tensors(state).keys() == tensors(read).keys()
    assert all(torch.equal(t, tensors(read)[n]) for n, t in tensors(state).items())
    assert all(torch.equal(a, b) for a, b in zip(r.parameters(), other.parameters(), strict=True))


ARGUMENTS = [
    "--set", "data.images=builtin:train", "--set", "data.validation=builtin:test", "--set", "data.patch_size=16",
    "--set", "upper.batch_size=4", "--set", "regularizer.filters=2", "--set", "regularizer.filter_size=3",
    "--set", "data.validation_crop=16", "--set", "upper.schedule=constant", "--quiet",
]  # fmt: skip


@pytest.mark.parametrize(("method", "noise"), [*((name, "fixed") for name in NAMES), ("amigo", "fresh")])
def test_a_run_that_is_resumed_is_the_run(method, noise, tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.train.draw_run", lambda *_: [])

    def rows(folder: Path) -> list[dict[str, str]]:  # but for the time, and for the validation at the end of each run
        read = csv.DictReader((folder / "metrics.csv").open())
        return [{k: v for k, v in row.items() if k not in ("seconds", "validation_psnr")} for row in read]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    chosen = [*ARGUMENTS, "--set", f"upper.algorithm={method}", "--set", f"data.noise={noise}"]
    assert main(["train", "foe-denoise", "--out", str(cut), *chosen, "--set", "run.steps=3"]) == 0
    assert main(["resume", str(cut), "--quiet", "--set", "run.steps=6"]) == 0
    assert main(["train", "foe-denoise", "--out", str(whole), *chosen, "--set", "run.steps=6"]) == 0
    assert rows(cut) == rows(whole)
    a, b = (load_file(f / "model.safetensors") for f in (cut, whole))
    assert all(torch.equal(a[k], b[k]) for k in a)
    certified = {float(r["certified"]) for r in rows(cut)}
    assert certified == ({1.0} if method == "jfb" else {0.0}), "no accuracy was asked for, none was reached"
    assert all(math.isfinite(float(r["error_bound"])) for r in rows(cut))


def test_a_run_without_an_accuracy_has_curves_to_draw(tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.train.draw_run", lambda *_: [])
    arguments = [*ARGUMENTS, "--set", "upper.algorithm=stocbio", "--set", "run.steps=2"]
    assert main(["train", "foe-denoise", "--out", str(tmp_path / "run"), *arguments]) == 0
    assert encoded(draw_curves([str(tmp_path / "run")]), ".png")
