"""Formats of pictures: which are decoded, and which suffixes people give them."""

# Those that Pillow decodes itself: no EPS or WMF, which other programs would draw, and no films or containers.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "PCX", "PSD", "QOI", "SGI",
    "SUN", "DDS", "DIB", "XBM", "XPM", "ICNS", "CUR", "DCX", "MSP", "IM", "FITS", "SPIDER", "PIXAR", "BLP", "FTEX",
    "GBR", "FLI", "PCD", "IMT", "MCIDAS", "XVTHUMB",
)  # fmt: skip
# Files that are meant as pictures, decodable or not; others are looked into.
PICTURE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
        ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".svg", ".tga", ".tif", ".tiff",
        ".webp",
    }
)  # fmt: skip
