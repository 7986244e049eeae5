"""Cards of models as text: one line each, or all of one."""

from app.models.card import Assessment, Card, blur_text
from app.models.provenance import UNKNOWN
from app.settings.families import FieldOptions, FoeOptions, RegularizerOptions, RidgeOptions

REPORTED = "bsds500:bsd68"  # the set on which results are reported


def overview(cards: list[Card]) -> str:
    """Write one line for each way in which a model was assessed on BSD68, or on whatever it was assessed."""
    lines = [("model", "measured", "size", "PSNR ± SE", "proven", "mu", "grads", "s/image", "training")]
    for card in cards:
        seconds = card.facts.get("seconds")
        training = UNKNOWN if seconds is None else duration(seconds + card.facts.get("seconds_before", 0.0))
        reported = [a for a in card.assessments if a.images == REPORTED] or list(card.assessments)
        size = str(card.parameters)
        for a in reported:
            quality = f"{a.psnr:.2f} ± {a.psnr_error:.2f}"
            certified, cost = f"{a.certified}/{a.count}", (f"{a.iterations:.0f}", f"{a.seconds:.2f}")
            lines.append(
                (
                    card.name,
                    _measured(a),
                    size,
                    quality,
                    certified,
                    f"{a.mu:.2g}",
                    *cost,
                    training,
                )
            )
        if not reported:
            problem = card.config.problem
            known = measured(problem.task, blur_text(problem), problem.level)
            lines.append((card.name, known, size, UNKNOWN, "", "", "", "", training))
    about = (
        "PSNR: mean over BSD68 and its standard error, in dB. proven: images with a certified error.\n"
        "grads: gradients of h per image. `models show NAME` tells the rest."
    )
    return f"{aligned(lines, left=2)}\n{about}"


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
        ("regularizer", f"{_kind(regularizer)}; {card.parameters} parameters"),
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


def _kind(r: RegularizerOptions) -> str:
    kind = r.name
    if isinstance(r, FoeOptions):
        kind += f", {r.potential}"
    if isinstance(r, RidgeOptions):
        kind += f", {len(r.hidden_channels) + 1} layers of {r.layer_size} x {r.layer_size}"
    if isinstance(r, FieldOptions):
        kind += f", {r.filters} filters of {r.side} x {r.side}, {r.boundary}"
    return kind + (f", contrasts from {r.contrasts} channels, guide {r.start}" if r.contrasts else "")


def _assessed(assessments: tuple[Assessment, ...]) -> str:
    if not assessments:
        return "not assessed yet: `models ship` or `evaluate`"
    heads = ("images", "measured", "degraded", "PSNR ± SE", "SSIM ± SE", "certified", "mu", "L", "gradients", "s/image")
    rows = [
        (
            a.images, _measured(a), f"{a.psnr_degraded:.2f}", f"{a.psnr:.2f} ± {a.psnr_error:.2f}",
            f"{a.ssim:.4f} ± {a.ssim_error:.4f}", f"{a.certified}/{a.count}", f"{a.mu:.3g}", f"{a.largest:.3g}",
            f"{a.iterations:.1f}", f"{a.seconds:.2f}",
        )
        for a in assessments
    ]  # fmt: skip
    accuracies = ", ".join(f"{accuracy:g}" for accuracy in sorted({a.accuracy for a in assessments}))
    machines = "; ".join(dict.fromkeys(a.hardware for a in assessments))
    about = f"SE: standard error of the mean. Certified: ||x - argmin h|| <= {accuracies}. Seconds on {machines}."
    return f"{aligned([heads, *rows], left=2)}\n{about}"


def _measured(a: Assessment) -> str:
    return measured(a.task, a.kernel, a.noise_level)


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
