"""One sheet of many pictures, with heads of rows and columns."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..prompt.prompt_table import SPLIT
from .pictures import as_image, paste_centred
from .sheets import GAP, INK, PAPER, cut_to


def labelled_grid(
    images: Sequence[Tensor], labels: Sequence[str], cell: int, title: str = "", columns: int = 0
) -> Tensor:
    """One sheet of all pictures -> [1, H, W, 3].

    images: batches [B, H, W, 3], one for each label, or one batch of as many pictures; labels:
    "row + column", else plain captions, which flow in `columns` (0: about as many as rows).
    Raises ValueError where the counts differ.
    """
    if len(images) == 1 and len(images[0]) == len(labels) > 1:
        images = list(images[0].split(1))
    if len(images) != len(labels):
        raise ValueError(
            f"There are {len(images)} images but {len(labels)} labels. Wire the labels of the very "
            "Prompt Grid whose conditioning made these images."
        )
    places = [label.rpartition(SPLIT)[0::2] for label in labels]
    if not all(row for row, _ in places) or len({column for _, column in places}) < 2:
        cells = [(x, p) for x, batch in zip(labels, images, strict=True) for p in batch]
        wide = columns or max(1, round(len(cells) ** 0.5 + 0.49))
        return under_title(_flow_sheet(cells, cell, wide), title, cell)
    table: dict[tuple[str, str], list[Tensor]] = {}
    for place, batch in zip(places, images, strict=True):
        table.setdefault((place[0], place[1]), []).extend(batch)
    return under_title(_table_sheet(table, cell), title, cell)


def _table_sheet(table: Mapping[tuple[str, str], Sequence[Tensor]], cell: int) -> Tensor:
    """Pictures by (row, column), heads left and above -> [1, H, W, 3]."""
    rows = list(dict.fromkeys(row for row, _ in table))
    columns = list(dict.fromkeys(column for _, column in table))
    spans = [max(len(table.get((row, column), ())) for row in rows) for column in columns]
    starts = [sum(spans[:i]) for i in range(len(spans))]
    height = cell_height([p for ps in table.values() for p in ps], cell)
    font = ImageFont.load_default(font_size(cell))
    head, top = round(0.75 * cell), 2 * font_size(cell) + GAP
    size = (head + sum(spans) * (cell + GAP) + GAP, top + len(rows) * (height + GAP))
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    for column, start, span in zip(columns, starts, spans, strict=True):
        left, width = head + GAP + start * (cell + GAP), span * (cell + GAP) - GAP
        text = wrapped(column, font, width, lines=1)
        pen.text((left + width / 2, top / 2), text, INK, font=font, anchor="mm")
    for y, row in enumerate(rows):
        upper = top + y * (height + GAP)
        text = wrapped(row, font, head - 2 * GAP, lines=max(1, height // (font_size(cell) + 6)))
        pen.multiline_text((GAP, upper + height / 2), text, INK, font=font, anchor="lm", spacing=4)
        for column, start in zip(columns, starts, strict=True):
            for x, picture in enumerate(table.get((row, column), ()), start=start):
                left = head + GAP + x * (cell + GAP)
                paste_centred(page, picture, (left, upper, cell, height))
    return as_image(page)[None]


def _flow_sheet(cells: Sequence[tuple[str, Tensor]], cell: int, columns: int) -> Tensor:
    """Pictures under captions of up to two lines, `columns` in a row -> [1, H, W, 3]."""
    size, height = font_size(cell), cell_height([picture for _, picture in cells], cell)
    font, caption = ImageFont.load_default(size), 3 * size
    texts = [wrapped(text, font, cell - 4, lines=2) for text, _ in cells]
    if not any("\n" in text for text in texts):
        caption = round(1.7 * size)
    columns = min(columns, len(cells))
    step = caption + height + GAP
    page_size = (columns * (cell + GAP) + GAP, -(-len(cells) // columns) * step + GAP)
    page = Image.new("RGB", page_size, PAPER)
    pen = ImageDraw.Draw(page)
    for i, (text, (_, picture)) in enumerate(zip(texts, cells, strict=True)):
        left, top = GAP + i % columns * (cell + GAP), GAP + i // columns * step
        pen.multiline_text((left + 2, top + caption - 6), text, INK, font, anchor="ld", spacing=3)
        paste_centred(page, picture, (left, top + caption, cell, height))
    return as_image(page)[None]


def under_title(page: Tensor, title: str, cell: int) -> Tensor:
    """The sheet [1, H, W, 3] with a line of text above it, where there is one."""
    if not title.strip():
        return page
    size = round(1.3 * font_size(cell))
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (page.shape[2], 2 * size + GAP), PAPER)
    text = wrapped(title, font, page.shape[2] - 4 * GAP, lines=1)
    ImageDraw.Draw(strip).text((2 * GAP, strip.height / 2), text, INK, font=font, anchor="lm")
    return torch.cat([as_image(strip)[None], page], dim=1)


def cell_height(pictures: Sequence[Tensor], width: int) -> int:
    """The height that the tallest of the pictures [H, W, 3] needs at this width."""
    return round(width * max(picture.shape[0] / picture.shape[1] for picture in pictures))


def font_size(cell: int) -> int:
    return max(13, cell // 16)


def wrapped(text: str, font, width: float, lines: int) -> str:
    """`text` in at most `lines` lines of `width` pixels; the last ends in … where it is cut."""
    done, line = [], ""
    words = text.split()
    for i, word in enumerate(words):
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            if len(done) == lines - 1:
                line = " ".join([line, *words[i:]])
                break
            done.append(line)
            longer = word
        line = longer
    return "\n".join([*done, cut_to(line, font, width)])
