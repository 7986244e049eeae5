"""Cards of models as text: one line each, or all of one."""

from app.models.card import Assessment, Card, blur_text
from app.models.provenance import UNKNOWN
from app.settings.families import FieldOptions, FoeOptions, RegularizerOptions, RidgeOptions
from figures.table import pipes

REPORTED = "bsds500:bsd68"  # the set on which results are reported
HEADS = ("model", "measured", "size", "PSNR ± SE", "proven", "mu", "grads", "s/img", "training")
ABOUT = (
    "size: numbers that were ever learned for it, those of a guide or a base that stays as it is included.\n"
    "PSNR: mean over BSD68 and its standard error, in dB. proven: images with a certified error.\n"
    "*: over other images, which `models show NAME` names, as it tells the rest. grads: gradients of h per image."
)


def overview(cards: list[Card]) -> str:
    """Write one line for each way in which a model was assessed on BSD68, or on whatever it was assessed."""
    return f"{aligned([HEADS, *_lines(cards)], left=2)}\n{ABOUT}"


def markdown(cards: list[Card]) -> str:
    """Write the overview as a page in Markdown."""
    command = "python -m app models list --markdown > regularizers/pretrained/README.md"
    table = pipes(HEADS, _lines(cards))
    return f"# Shipped models\n\nThis page was written by `{command}`.\n\n{table}\n{ABOUT}\n\n{PROTOCOL}"


PROTOCOL = """The images are grey unless the name says `color`. Noise is not clipped. PSNR is that of the
reconstruction clipped to [0, 1], averaged over the images, beside the standard error of that mean (a
spread over images that all methods share). `proven` counts the images whose distance to the minimiser of
the learned energy is proven to be at most 0.1. Seconds are those of the machine that `models show NAME`
names, which other work often shared. Training times hold those of the model that a training began with.

A MODEL of any command is a run folder, a `.safetensors` file or one of these names. `python -m app models ship RUN`
makes such a file from a run: it evaluates the run once on val32 and once on BSD68, and writes the card."""


def _lines(cards: list[Card]) -> list[tuple[str, ...]]:
    lines = []
    for card in cards:
        seconds = card.training_seconds
        training = UNKNOWN if seconds is None else duration(seconds)
        reported = [a for a in card.assessments if a.images == REPORTED] or list(card.assessments)
        size = str(card.size)
        for a in reported:
            quality, proven = f"{a.psnr:.2f} ± {a.psnr_error:.2f}", f"{a.certified}/{a.count}"
            proven += "" if a.images == REPORTED else "*"
            cost = f"{a.mu:.2g}", f"{a.iterations:.0f}", f"{a.seconds:.2f}"
            lines.append((card.name, measured(a.task, a.kernel, a.noise_level), size, quality, proven, *cost, training))
        if not reported:
            problem = card.config.problem
            known = measured(problem.task, blur_text(problem), problem.level)
            lines.append((card.name, known, size, UNKNOWN, "", "", "", "", training))
    return lines


def describe(card: Card) -> str:
    """Write everything that the file of a model says."""
    config, facts = card.config, card.facts
    data, regularizer, problem = config.data, config.regularizer, config.problem
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    seconds = f"{duration(facts['seconds'])}, " if "seconds" in facts else ""
    before = facts.get("seconds_before", 0.0)
    origin = f", after {duration(before)} for the model it began with" if before else ""
    count = f" ({data.count} of them)" if data.count else ""
    lines = [
        ("file", str(card.file)),
        ("regularizer", f"{_kind(regularizer)}; {_size(card)}"),
        ("task", f"{problem.task} {'colour' if data.color else 'grey'} images, "
                 f"{measured(problem.task, blur_text(problem), problem.level)}"),
        ("trained on", f"{data.images}{count}, validated on {data.validation}"),
        *(("command", command) for command in facts.get("commands", [UNKNOWN])),
        ("seed", str(config.run.seed)),
        ("training", f"{seconds}{facts.get('step', '?')} steps, {facts.get('computations', '?')} computations{origin}"),
        ("hardware", "; ".join(facts.get("hardware", [UNKNOWN]))),
        ("date", facts.get("date", UNKNOWN)),
        ("versions", versions or UNKNOWN),
    ]  # fmt: skip
    text = "\n".join([card.name, *(f"  {head:12}{value}" for head, value in lines)])
    return f"{text}\n\n{_assessed(card.assessments)}"


def _size(card: Card) -> str:
    """'1226 parameters, 2 of them learned last', where the others are of the model that the training began with."""
    last = f", {card.learned} of them learned last" if card.learned != card.size else ""
    return f"{card.size} parameters{last}"


def _kind(r: RegularizerOptions) -> str:
    kind = r.name
    if isinstance(r, FoeOptions):
        kind += f", {r.potential}" + (f" of groups of {r.group_size}, {r.group_norm}" if r.group_size > 1 else "")
    if isinstance(r, RidgeOptions):
        kind += f", {len(r.hidden_channels) + 1} layers of {r.layer_size} x {r.layer_size}"
    if isinstance(r, FieldOptions):
        kind += f", {r.filters} filters of {r.side} x {r.side}, {r.boundary}"
        if r.contrasts:
            kind += f", contrasts{' and masks' * r.masks} from {r.contrasts} channels, guide {r.start}"
    return kind


def _assessed(assessments: tuple[Assessment, ...]) -> str:
    if not assessments:
        return "not assessed yet: `models ship` or `evaluate`"
    heads = ("images", "measured", "degraded", "PSNR ± SE", "SSIM ± SE", "certified", "mu", "L", "gradients", "s/image")
    rows = [
        (
            a.images, measured(a.task, a.kernel, a.noise_level), f"{a.psnr_degraded:.2f}",
            f"{a.psnr:.2f} ± {a.psnr_error:.2f}", f"{a.ssim:.4f} ± {a.ssim_error:.4f}", f"{a.certified}/{a.count}",
            f"{a.mu:.3g}", f"{a.largest:.3g}", f"{a.iterations:.1f}", f"{a.seconds:.2f}",
        )
        for a in assessments
    ]  # fmt: skip
    accuracies = ", ".join(f"{accuracy:g}" for accuracy in sorted({a.accuracy for a in assessments}))
    machines = "; ".join(dict.fromkeys(a.hardware for a in assessments))
    about = f"SE: standard error of the mean. Certified: ||x - argmin h|| <= {accuracies}. Seconds on {machines}."
    return f"{aligned([heads, *rows], left=2)}\n{about}"


def measured(task: str, blur: str, noise_level: float) -> str:
    """Write in which way images were measured: 'levin:all 2.55/255', or '25/255' where nothing is blurred."""
    noise = f"{255 * noise_level:g}/255"
    return f"{blur} {noise}" if task == "deblur" else noise


def duration(seconds: float) -> str:
    """Write a time in one unit: '13 s', '4.1 min' or '2.0 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def aligned(rows: list[tuple[str, ...]], left: int) -> str:
    """Write columns as wide as they must be, the first `left` of them flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[f"{c:{'<' if i < left else '>'}{widths[i]}}" for i, c in enumerate(row)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)
