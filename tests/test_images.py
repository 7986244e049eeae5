"""What Pillow and tifffile users expect of a reader of images: upright, positive, in full depth, or refused by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps

from datasets.encode import encode_image, encode_like
from datasets.held_out import of_bsd68
from datasets.image_sets import find_images, names_of
from datasets.images import ImageError, read_all, read_image, read_picture

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (6, 9), dtype=np.uint16)
DEEP_RGB = RANDOM.integers(0, 65536, (6, 9, 3), dtype=np.uint16)


def pixels_of(file, peak: int) -> np.ndarray:
    """The levels that were read, (H, W) or (H, W, 3)."""
    return (read_image(file, None) * peak).round().permute(1, 2, 0).squeeze(-1).numpy()


def png(pixels: np.ndarray, kind: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG with chunks that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    h, w = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*e) for e in extra) + rest


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "deep png", "deep tif"])
def test_images_are_read_upright(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{kind.split()[-1]}"
    if kind == "deep png":
        file.write_bytes(png(DEEP_RGB, 2, (b"eXIf", exif.tobytes()[6:])))
    elif kind == "deep tif":
        tifffile.imwrite(file, DEEP_RGB, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        Image.fromarray(GREY).save(file, exif=exif, **({"quality": 100} if kind == "jpg" else {}))
    stored = Image.fromarray((DEEP_RGB >> 8).astype(np.uint8) if "deep" in kind else GREY)
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_allclose(pixels_of(file, 255), expected, atol=3 if kind == "jpg" else 1)


def saved(file, image: Image.Image, **options):
    image.save(file, **options)


GREY_FILES = {
    "min is white": lambda f: tifffile.imwrite(f, 255 - GREY, photometric="miniswhite"),
    "lzw": lambda f: saved(f, Image.fromarray(GREY), compression="tiff_lzw"),
    "packbits": lambda f: saved(f, Image.fromarray(GREY), compression="packbits"),
    "deflate, predictor": lambda f: tifffile.imwrite(f, GREY, compression="zlib", predictor=True),
    "tiles": lambda f: tifffile.imwrite(f, GREY, tile=(16, 16)),
    "png in a .tif": lambda f: saved(f, Image.fromarray(GREY), format="PNG"),
    "palette": lambda f: saved(f, Image.fromarray(GREY).convert("P")),
    "thumbnail page": lambda f: _with_thumbnail(f, GREY),
}
DEEP_FILES = {
    "big endian": lambda f: tifffile.imwrite(f, DEEP, byteorder=">"),
    "min is white": lambda f: tifffile.imwrite(f, 65535 - DEEP, photometric="miniswhite"),
    "min is white, big endian": lambda f: tifffile.imwrite(f, 65535 - DEEP, photometric="miniswhite", byteorder=">"),
    "lzw": lambda f: saved(f, Image.fromarray(DEEP), compression="tiff_lzw"),
    "zstd": lambda f: saved(f, Image.fromarray(DEEP), compression="zstd"),
    "bigtiff": lambda f: tifffile.imwrite(f, DEEP, bigtiff=True),
}
RGB_FILES = {
    "planar": lambda f: tifffile.imwrite(f, np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"),
    "lzw": lambda f: saved(f, Image.fromarray(RGB), compression="tiff_lzw"),
    "unspecified channel": lambda f: tifffile.imwrite(
        f, np.dstack([RGB, GREY]), photometric="rgb", extrasamples=["unspecified"]
    ),
}
DEEP_RGB_FILES = {
    "planar": lambda f: tifffile.imwrite(f, np.moveaxis(DEEP_RGB, -1, 0), photometric="rgb", planarconfig="separate"),
    "deflate": lambda f: tifffile.imwrite(f, DEEP_RGB, photometric="rgb", compression="zlib", predictor=True),
    "unspecified channel": lambda f: tifffile.imwrite(
        f, np.dstack([DEEP_RGB, DEEP]), photometric="rgb", extrasamples=["unspecified"]
    ),
}


def _with_thumbnail(file, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(file) as writer:
        writer.write(pixels)
        writer.write(pixels[::2, ::2], subfiletype=1)


@pytest.mark.parametrize(
    ("write", "pixels"),
    [
        pytest.param(write, pixels, id=f"{name} {pixels.dtype} {pixels.ndim}")
        for files, pixels in ((GREY_FILES, GREY), (DEEP_FILES, DEEP), (RGB_FILES, RGB), (DEEP_RGB_FILES, DEEP_RGB))
        for name, write in files.items()
    ],
)
def test_every_ordinary_tiff_shows_its_picture(tmp_path, write, pixels):
    write(tmp_path / "a.tif")
    found = pixels_of(tmp_path / "a.tif", np.iinfo(pixels.dtype).max)
    np.testing.assert_array_equal(found if found.ndim == pixels.ndim else found[..., 0], pixels)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("1", {"format": "TIFF"}), ("1", {"format": "TIFF", "compression": "group4"}), ("CMYK", {"format": "TIFF"}),
        ("CMYK", {"format": "JPEG", "quality": 100}), ("YCbCr", {"format": "TIFF"}), ("P", {"format": "BMP"}),
        ("RGB", {"format": "TIFF", "compression": "jpeg", "quality": 100}), ("P", {"format": "PNG", "bits": 2}),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(map(str, v.values())),
)  # fmt: skip
def test_other_colours_are_what_pillow_makes_of_them(tmp_path, mode, options):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.png", **options)
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("L" if mode == "1" else "RGB"))
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png", 255), expected)


def test_a_photograph_is_read_whatever_else_a_camera_put_into_its_file(tmp_path):
    """A second picture, as phones store, and metadata that is damaged."""
    photograph, other = Image.new("L", (9, 6), 200), Image.new("L", (9, 6), 50)
    photograph.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[other])
    photograph.save(tmp_path / "bad.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    for name in ("two", "bad"):
        np.testing.assert_allclose(pixels_of(tmp_path / f"{name}.jpg", 255), 200, atol=3)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: tifffile.imwrite(f, np.stack([GREY] * 5)), "several images"),
        (lambda f: tifffile.imwrite(f, np.stack([DEEP] * 5), imagej=True), "several images"),
        (lambda f: tifffile.imwrite(f, np.dstack([DEEP, DEEP]), photometric="minisblack", planarconfig="contig"),
         "2 channels that are no colours"),
        (lambda f: tifffile.imwrite(f, np.dstack([DEEP_RGB, DEEP]), photometric="separated"), "16-bit SEPARATED"),
        (lambda f: tifffile.imwrite(f, np.dstack([DEEP_RGB, DEEP]), photometric="rgb", extrasamples=["assocalpha"]),
         "premultiplied alpha"),
        (lambda f: f.write_bytes(_twelve_bits()), "12-bit"),
        (lambda f: tifffile.imwrite(f, GREY.astype(np.int8)), "int8.*--range"),
        (lambda f: tifffile.imwrite(f, DEEP.astype(np.int16)), "int16.*--range"),
        (lambda f: tifffile.imwrite(f, DEEP.astype(np.float32)), "float32.*--range"),
        (lambda f: tifffile.imwrite(f, DEEP.astype(np.complex64)), "complex64"),
        (lambda f: Image.fromarray(RGB).convert("LAB").save(f), "LAB colours"),
        (lambda f: Image.new("1", (16000, 12000)).save(f, "PNG"), "pixels are not read"),
        (lambda f: Image.new("1", (13000, 11000)).save(f, "PNG"), "13000 x 11000 pixels"),
        (lambda f: Image.fromarray(GREY).save(f, "PNG", save_all=True, append_images=[Image.fromarray(GREY[::-1])]),
         "animated"),
        (lambda f: f.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n"), "not a readable image"),
        (lambda f: Image.fromarray(RGB).save(f, "GIF"), "not a readable image"),
        (lambda f: os.mkfifo(f), "not a regular file"),
        (lambda f: os.symlink("/dev/zero", f), "not a regular file"),
        (lambda f: os.symlink("nothing", f), "No such file"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_one_line_that_names_the_file(tmp_path, write, message, capfd):
    write(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=rf"a\.tif.*{message}") as refused:
        read_image(tmp_path / "a.tif", None)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def _twelve_bits() -> bytes:
    """A TIFF whose header tells of 12 bits in each value."""
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP[:, :8], metadata=None)
    data, tag = file.getvalue(), struct.pack("<HHI", 258, 3, 1)
    return data.replace(tag + struct.pack("<H", 16), tag + struct.pack("<H", 12))


def test_damage_is_told_in_one_line_also_by_the_libraries_that_write_to_the_terminal(tmp_path, capfd):
    files = {"lzw.tif": {"compression": "tiff_lzw"}, "jpeg.tif": {"compression": "jpeg"}, "raw.tif": {}}
    images = {name: (Image.fromarray(np.tile(RGB, (9, 9, 1))), options) for name, options in files.items()}
    for name, (image, options) in images.items():
        image.save(tmp_path / name, **options)
    (tmp_path / "deep.png").write_bytes(png(DEEP_RGB, 2))
    tifffile.imwrite(tmp_path / "deep.tif", DEEP_RGB, photometric="rgb")
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        flipped = bytes(b ^ 255 if i % 97 == 90 else b for i, b in enumerate(whole))
        for damaged in (whole[: len(whole) // 2], whole[:9], flipped):
            file.write_bytes(damaged)
            try:
                read_image(file, None)
            except ImageError as error:
                assert file.name in str(error) and "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


def test_a_transparent_value_of_a_png_is_white(tmp_path):
    for name, pixels, kind in (("grey", DEEP, 0), ("rgb", DEEP_RGB, 2)):
        key = pixels[2:3, 3].astype(">u2").tobytes()
        (tmp_path / f"{name}.png").write_bytes(png(pixels, kind, (b"tRNS", key)))
        expected = pixels.copy()
        expected[2, 3] = 65535
        np.testing.assert_array_equal(pixels_of(tmp_path / f"{name}.png", 65535), expected)
    Image.fromarray(GREY).save(tmp_path / "a.png", transparency=int(GREY[0, 0]))
    assert pixels_of(tmp_path / "a.png", 255)[0, 0] == 255


def test_the_depth_of_an_image_is_kept(tmp_path):
    for name, pixels, depth in (("a", GREY, 8), ("b", DEEP, 16), ("c", DEEP_RGB, 16), ("d", RGB, 8)):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
        picture = read_picture(tmp_path / f"{name}.tif", None)
        assert (picture.suffix, picture.depth) == (".png", depth)
        (tmp_path / f"{name}.png").write_bytes(encode_like(picture, picture.image))
        np.testing.assert_array_equal(pixels_of(tmp_path / f"{name}.png", 2**depth - 1), pixels)
    assert Image.open(io.BytesIO(encode_image(torch.rand(3, 4, 5), ".png", 16))).size == (5, 4)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_floats_keep_their_scale_and_are_not_clipped(tmp_path, suffix, shape):
    values = RANDOM.normal(100, 50, shape)
    file = tmp_path / f"a{suffix}"
    kind = "rgb" if shape[2:] else "minisblack"
    np.save(file, values) if suffix == ".npy" else tifffile.imwrite(file, values, photometric=kind)
    with pytest.raises(ImageError, match=r"--range BLACK WHITE"):
        read_picture(file, None)
    picture = read_picture(file, None, (-20.0, 180.0))
    stored = values if shape[2:] else values[..., None]
    torch.testing.assert_close(picture.image, torch.from_numpy((stored + 20) / 200).permute(2, 0, 1).float())
    file.write_bytes(encode_like(picture, picture.image))
    np.testing.assert_allclose(np.load(file) if suffix == ".npy" else tifffile.imread(file), values, atol=1e-4)
    values[0, 0] = np.nan
    np.save(tmp_path / "nan.npy", values)
    with pytest.raises(ImageError, match="NaN"):
        read_picture(tmp_path / "nan.npy", None, (0, 1))


def test_arrays_are_never_unpickled_nor_allocated_before_they_are_known_to_be_there(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "huge.npy", np.zeros((3, 3)))
    data = (tmp_path / "huge.npy").read_bytes()
    (tmp_path / "huge.npy").write_bytes(data.replace(b"(3, 3), }" + b" " * 10, b"(300000000000, 3), }"[:19]))
    for name in ("object", "huge"):
        with pytest.raises(ImageError, match=f"{name}.npy"):
            read_picture(tmp_path / f"{name}.npy", None, (0, 1))


def test_hidden_files_are_no_images(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    for name in ("._a.png", ".b.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"resource fork")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find_images(str(tmp_path), tmp_path, False).paths] == ["a.png"]


def test_all_bad_images_are_told_at_once_and_their_names_do_no_harm(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "b\n\x1b[31m.png").write_bytes(b"no image")
    (tmp_path / "c.png").write_bytes(b"")
    os.mkfifo(tmp_path / "d.png")
    paths = find_images(str(tmp_path), tmp_path, False).paths
    assert of_bsd68(paths) == []
    with pytest.raises(ImageError) as refused:
        read_all(paths, lambda path: read_image(path, None))
    lines = str(refused.value).splitlines()
    assert lines[0] == "3 of 4 images cannot be used:"
    assert [any(name in line for line in lines[1:]) for name in (r"b\n\x1b[31m.png", "c.png", "d.png")] == [True] * 3


@pytest.mark.parametrize("spec", ["~nosuchuser/a.png", "~nosuchuser/folder", "a\0.png", "/dev/zero", "/" + "x" * 300])
def test_names_that_are_no_files_are_refused(tmp_path, spec):
    with pytest.raises(ImageError):
        find_images(spec, tmp_path, False)


def test_images_are_told_apart_by_their_path_from_the_folder_that_holds_them(tmp_path):
    paths = [tmp_path / "a" / "s.png", tmp_path / "a" / "s.tif", tmp_path / "b" / "s.png"]
    assert names_of(paths[:2]) == ["s.png", "s.tif"]
    assert names_of(paths) == ["a/s.png", "a/s.tif", "b/s.png"]
    assert names_of(paths[2:]) == ["s.png"]


def test_no_other_plugin_of_pillow_is_asked(tmp_path, monkeypatch):
    """The one for EPS would start Ghostscript."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: started.append("gs"))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match=r"x\.png"):
        read_image(tmp_path / "x.png", None)
    assert not started
