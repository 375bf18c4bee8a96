"""What is a picture and what is a mask, by the name of its file."""

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .gif .bmp .tif .tiff .heic .heif .avif .jxl".split()
)  # what Pillow does not know here is refused by name
MASK_ENDINGS = (".mask", "_mask", "-mask")  # dog.jpg has its mask in dog.mask.png, dog_mask.jpg...
