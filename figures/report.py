"""A report as one HTML file: no network, every image inside, readable without a mouse."""

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from figures.images import as_shown
from figures.style import Look, encoded


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    body: str  # HTML


def page(title: str, summary: str, sections: list[Section]) -> str:
    """Return the whole page as HTML."""
    anchors = [section.title.lower().replace(" ", "-") for section in sections]
    parts = [(a, escape(s.title), s.body) for a, s in zip(anchors, sections, strict=True)]
    links = "\n".join(f'<a href="#{a}">{head}</a>' for a, head, _ in parts)
    bodies = "\n".join(f'<section>\n<h2 id="{a}">{head}</h2>\n{body}\n</section>' for a, head, body in parts)
    template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), summary=escape(summary), links=links, sections=bodies)


def paragraph(text: str) -> str:
    """Return a text as an HTML paragraph."""
    return f"<p>{escape(text)}</p>"


def plate(figure: Figure, description: str, look: Look) -> str:
    """Return a figure as SVG inside HTML, on white whatever the page's colours."""
    source = _data("svg+xml", encoded(figure, ".svg", look))
    return f'<div class="plate"><img alt="{escape(description)}" src="{source}"></div>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table whose cells are HTML and whose head is text."""
    cells = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    return f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{cells}\n</tbody>\n</table></div>'


def slider(name: str, result: Tensor, before: dict[str, Tensor], caption: str) -> str:
    """Return a reconstruction (C, H, W) behind a curtain that shows one of the images `before` (C, H, W)."""
    h, w = result.shape[1:]
    size, shown = f'width="{w}" height="{h}"', escape(name)
    layers = [f'<img alt="{shown}: reconstruction" src="{png(result)}" {size}>']
    choices = []
    for i, (kind, image) in enumerate(before.items()):
        hidden, checked = (" hidden", "") if i else ("", " checked")
        layers.append(f'<img class="left" data-name="{kind}" alt="{shown}: {kind}" src="{png(image)}" {size}{hidden}>')
        choices.append(f'<label><input type="radio" name="left-{shown}" value="{kind}"{checked}> {kind}</label>')
    stage, radios = "\n".join(layers), "\n".join(choices)
    return f"""<figure class="pair">
<div class="stage">
{stage}
</div>
<input type="range" min="0" max="100" value="50" aria-label="{shown}: how much of the left image is shown">
<figcaption>{escape(caption)}<br>left of the line:
{radios}</figcaption>
</figure>"""


def png(image: Tensor) -> str:
    """Return an image (1 or 3, H, W) on the true grey scale, rounded to 8 bit, as a data URI."""
    file = io.BytesIO()
    Image.fromarray(as_shown(image)).convert("L" if len(image) == 1 else "RGB").save(file, "PNG", optimize=True)
    return _data("png", file.getvalue())


def _data(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
