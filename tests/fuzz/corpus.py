"""Images to start from: every image of the Pillow source distribution, fetched as a package, and photographs of our own
in every form that is accepted."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import PIL
from PIL import Image, ImageCms

from engines.golden import golden_pixels

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
LEAST_IMAGES = 1000  # of Pillow's; fewer is another distribution than the one meant


def pillow_images() -> dict[str, bytes]:
    """Name and bytes of each image of Pillow's own tests, in the release that is installed."""
    with tarfile.open(_source_distribution()) as archive:
        found = dict(_members(archive))
    if len(found) < LEAST_IMAGES:
        raise SystemExit(f"Pillow's source distribution has {len(found)} images, at least {LEAST_IMAGES} were expected")
    return found


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if member.isfile() and "/Tests/images/" in member.name and (content := archive.extractfile(member)) is not None:
            yield member.name.partition("/Tests/images/")[2], content.read()


def _source_distribution() -> Path:
    path = CACHE / f"pillow-{PIL.__version__}.tar.gz"
    if not path.exists():
        if os.environ.get("OFFLINE") == "1":
            raise SystemExit(f"{path} is missing and OFFLINE=1 fetches nothing")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--no-binary", "pillow", f"pillow=={PIL.__version__}", "--dest", str(CACHE)]
        subprocess.run([*download, *wanted], check=True)
    return path


def own_images() -> dict[str, bytes]:
    """Photographs in each form that is accepted, small enough to be mutated by the thousand."""
    photo = Image.fromarray(golden_pixels(160)[0])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "baseline.jpg": _encoded(photo, "JPEG"),
        "restarts.jpg": _encoded(photo, "JPEG", restart_marker_blocks=4),
        "progressive.jpg": _encoded(photo, "JPEG", progressive=True),
        "grey.jpg": _encoded(photo.convert("L"), "JPEG"),
        "cmyk.jpg": _encoded(photo.convert("CMYK"), "JPEG"),
        "profile.jpg": _encoded(photo, "JPEG", icc_profile=profile),
        "turned.jpg": _encoded(photo, "JPEG", exif=exif.tobytes()),
        "plain.png": _encoded(photo, "PNG"),
        "alpha.png": _encoded(photo.convert("RGBA"), "PNG"),
        "palette.png": _encoded(photo.convert("P"), "PNG"),
        "lossy.webp": _encoded(photo, "WEBP"),
        "lossless.webp": _encoded(photo, "WEBP", lossless=True),
        "alpha.webp": _encoded(photo.convert("RGBA"), "WEBP"),
    }


def _encoded(photo: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    photo.save(out, kind, **options)
    return out.getvalue()
