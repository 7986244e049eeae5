"""Everything about one run on one HTML page."""

from html import escape
from pathlib import Path

from app import assemble
from app.drawing.learned import filters_of, potentials_of
from app.drawing.runs import draw_curves, parameters_of
from app.drawing.sources import chosen_images
from app.evaluation.guide import condition_of
from app.evaluation.simulation import simulation
from app.lower.solution import rounded_up
from app.models.build import Model
from app.models.facts import OF_A_RUN
from app.models.files import read_facts
from app.models.provenance import UNKNOWN
from app.problem.quality import psnr, ssim
from app.settings.options import Config, settings
from app.training import history
from figures import report as html
from figures.report import Section
from figures.style import Look, look
from regularizers import Regularizer


def report_page(run: Path, images: str, data_root: Path) -> str:
    """Return the HTML of everything about a finished run. Raises ConfigError, ModelError and ImageError."""
    model, config = assemble.load(str(run), [])
    sections = _results(model, config, images, data_root) + _figures(run, model.regularizer, look("web"))
    sections.append(Section("Settings", _settings(config)))
    facts = read_facts(run / "model.safetensors", OF_A_RUN)
    verbs = {"superres": "enlarge", "mri": "reconstruct MRI", "tomography": "reconstruct from projections"}
    verb = verbs.get(config.problem.task, config.problem.task)
    summary = (
        f"A regularizer ({config.regularizer.name}) learned to {verb} in {facts['step']} steps: "
        f"{facts['computations']} gradients and Hessian products, {facts['seconds']:.0f} s. "
        f"Written with torch {facts['versions'].get('torch', UNKNOWN)}."
        + (f" {facts['certified'].capitalize()}." if "certified" in facts else "")
    )
    return html.page(run.resolve().name, summary, sections)


def _results(model: Model, config: Config, images: str, data_root: Path) -> list[Section]:
    """Return sliders, and the certificates of what they show. No times: the same run gives the same file."""
    sliders, rows = [], []
    chosen = chosen_images(images, None, config.data.color, data_root)
    reconstruct = simulation(config, model, data_root, {i: path for i, _, path in chosen})
    reconstruct.check_images([path for _, _, path in chosen], config.data.color)
    for i, name, path in chosen:
        clean = reconstruct.read(path, config.data.color)
        y = reconstruct.measure(clean, (i,))
        solution = reconstruct(y, (i,), clean.shape[1:])
        mu, largest = reconstruct.bounds(clean.shape[1:], (i,))
        picture = reconstruct.as_image(y, (i,), clean.shape[1:])
        clean, picture, x = map(reconstruct.seen_in, (clean, picture, solution.x))
        before, after = float(psnr(picture, clean)), float(psnr(x, clean))
        caption = f"{name}: measured {before:.2f} dB, reconstructed {after:.2f} dB"
        pictures = {"measured": picture[0].cpu(), "clean": clean[0].cpu()}
        sliders.append(html.slider(name, x[0].cpu(), pictures, caption))
        certified = rounded_up(float(solution.error_bound)) if solution.converged else "not certified"
        quality = f"{before:.2f}", f"{after:.2f}", f"{float(ssim(x, clean)):.4f}".replace("nan", "-")
        bounds = f"{mu:.3g}", f"{largest:.3g}"
        rows.append([escape(name), *quality, certified, *bounds, str(int(solution.iterations))])
    head = ["image", "PSNR measured", "PSNR", "SSIM", "||x - argmin h|| ≤", "mu", "L", "gradients"]
    about = (
        f"The energy h of each image is mu-strongly convex and its gradient is L-Lipschitz, both proven, so that "
        f"||x - argmin h|| <= ||grad h(x)|| / mu for every x{condition_of(model.regularizer)}. This bound, with "
        f"what rounding may add, was to reach {config.lower.final_accuracy:g}."
    )
    certificates = Section("Certificates", html.paragraph(about) + html.table(head, rows))
    return [Section("Results", "\n".join(sliders)), certificates]


def _figures(run: Path, regularizer: Regularizer, seen: Look) -> list[Section]:
    """Return what can be drawn of this run and this regularizer."""
    past = parameters_of(run, look=seen) if history.exists(run) else None
    drawn = [
        ("Curves", draw_curves([str(run)], look=seen), "training curves"),
        ("Filters", filters_of(regularizer, seen), "learned filters, weights and smoothings"),
        ("Potentials", potentials_of(regularizer, seen), "potentials and influence functions"),
        ("Parameters", past, "weights while they were learned"),
    ]
    return [Section(title, html.plate(figure, about, seen)) for title, figure, about in drawn if figure is not None]


def _settings(config: Config) -> str:
    rows = [[f"<code>{section}.{key}</code>", f"<code>{escape(str(value))}</code>", escape(about)]
            for section, key, value, about in settings(config)]  # fmt: skip
    return f'<div class="settings">{html.table(["setting", "value", "meaning"], rows)}</div>'
