"""Square pictures put together from others, for the thumbnails of the workflows."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

SIDE, GAP = 512, 8
PAPER, ARROW = (24, 26, 30), (122, 178, 255)


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """The first four pictures, two by two."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    cell = (SIDE - GAP) // 2
    for i, picture in enumerate(pictures[:4]):
        place = (i % 2 * (cell + GAP), i // 2 * (cell + GAP))
        page.paste(picture.resize((cell, cell), Image.Resampling.BICUBIC), place)
    return page


def pairs(*columns: Sequence[Image.Image]) -> Image.Image:
    """The first two pictures of two lists, side by side."""
    return grid([column[row] for row in range(2) for column in columns])


def before_and_after(photos: Sequence[Image.Image], painted: Sequence[Image.Image]) -> Image.Image:
    """Photos above, an arrow, pictures below."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    cell = (SIDE - 5 * GAP) // 4
    big = (SIDE - 3 * GAP) // 2
    for i, photo in enumerate(photos[:4]):
        page.paste(photo.resize((cell, cell)), (GAP + i * (cell + GAP), GAP))
    draw_arrow(ImageDraw.Draw(page), SIDE // 2, cell + 3 * GAP, SIDE - big - 3 * GAP)
    for i, picture in enumerate(painted[:2]):
        picture = picture.resize((big, big), Image.Resampling.BICUBIC)
        page.paste(picture, (GAP + i * (big + GAP), SIDE - big - GAP))
    return page


def draw_arrow(pen: ImageDraw.ImageDraw, x: int, top: int, bottom: int) -> None:
    pen.line((x, top, x, bottom - 10), fill=ARROW, width=10)
    pen.polygon([(x - 26, bottom - 30), (x + 26, bottom - 30), (x, bottom)], fill=ARROW)


def folded(sheets: Sequence[Image.Image]) -> Image.Image:
    """The first sheet, twice as wide as it should be: its right half below its left one."""
    (sheet, *_), middle = sheets, sheets[0].width // 2
    halves = [sheet.crop((left, 0, left + middle, sheet.height)) for left in (0, middle)]
    return first_of_each(*[[half] for half in halves])


def first_of_each(*lists: Sequence[Image.Image]) -> Image.Image:
    """One below the other, each as wide as the page or as high as its share of it."""
    pictures = [pictures[0] for pictures in lists]
    page = Image.new("RGB", (SIDE, SIDE), pictures[0].getpixel((0, 0)))
    share = (SIDE - (len(pictures) + 1) * GAP) // len(pictures)
    for i, picture in enumerate(pictures):
        scale = min((SIDE - 2 * GAP) / picture.width, share / picture.height)
        size = round(picture.width * scale), round(picture.height * scale)
        top = GAP + i * (share + GAP) + (share - size[1]) // 2
        page.paste(picture.resize(size, Image.Resampling.LANCZOS), ((SIDE - size[0]) // 2, top))
    return page
