"""What other programs read of the site: the picture beside a shared link, and the list of its pages."""

from pathlib import Path

from mkdocs.exceptions import PluginError
from PIL import Image, ImageDraw, ImageFont  # Pillow comes with matplotlib

CARD = "assets/card.png"
FIGURE = Path(__file__).parents[1] / "assets" / "pair.png"
SIZE = (1200, 630)  # what networks show beside a link without cutting it
MARGIN, TITLE = 40, 90


def write_card(target: Path, title: str) -> None:
    """Write the picture of a shared link: the figure of `lab run`, on white paper, below the course's name.

    Raises:
        PluginError: the figure is not there.
    """
    try:
        picture = Image.open(FIGURE).convert("RGBA")
    except OSError as error:
        raise PluginError(f"the picture for shared links cannot be made: {error}") from None
    card = Image.new("RGB", SIZE, "white")
    picture.thumbnail((SIZE[0] - 2 * MARGIN, SIZE[1] - TITLE - 2 * MARGIN))
    card.paste(picture, ((SIZE[0] - picture.width) // 2, TITLE + MARGIN), picture)
    pen = ImageDraw.Draw(card)
    pen.text((SIZE[0] / 2, MARGIN), title, fill="#1a237e", font=ImageFont.load_default(48), anchor="mt")
    target.parent.mkdir(parents=True, exist_ok=True)
    card.save(target, optimize=True)
