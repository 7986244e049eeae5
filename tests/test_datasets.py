"""Image files, sets, patches, kernels and downloads."""

import functools
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from deepinv.physics import Denoising
from PIL import Image

from app.problem.problem import Problem
from datasets.blur_kernels import KernelError, gaussian_kernel, read_kernel
from datasets.encode import encode_image
from datasets.fetch import FetchError, check_folder, fetch_bsds500, read_manifest
from datasets.image_sets import ImageSet, bsd68_ids, find_images, subset
from datasets.images import ImageError, read_image
from datasets.patches import Patches, centre_crop
from datasets.temporary import locked

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bit_colour_is_read_exactly(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    expected = torch.from_numpy(RGB.transpose(2, 0, 1) / 255).float()
    torch.testing.assert_close(read_image(tmp_path / f"a.{suffix}", color=True), expected)


def test_grey_is_rounded_to_eight_bit_with_the_published_weights(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    grey = 255 * read_image(tmp_path / "a.png", color=False)
    expected = np.round(RGB @ np.array([0.298936, 0.587043, 0.114021]))
    np.testing.assert_allclose(grey[0].numpy(), expected, atol=1e-4)


def _png(pixels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_colour_keeps_its_depth(tmp_path, suffix):
    deep = np.random.default_rng(0).integers(0, 65536, (9, 10, 3), dtype=np.uint16)
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(_png(deep)) if suffix == "png" else tifffile.imwrite(file, deep)
    np.testing.assert_allclose(read_image(file, True).numpy(), deep.transpose(2, 0, 1) / 65535, atol=1e-7)


def test_sixteen_bit_grey_and_alpha(tmp_path):
    deep = np.arange(0, 60000, 100, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png", False)[0].numpy(), deep / 65535, atol=1e-7)
    half = np.concatenate([np.zeros_like(RGB), np.full((20, 30, 1), 51, np.uint8)], 2)
    Image.fromarray(half).save(tmp_path / "alpha.png")
    torch.testing.assert_close(read_image(tmp_path / "alpha.png", True), torch.full((3, 20, 30), 0.8))


def test_damaged_and_unsuitable_images_are_named(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp"):
        Image.fromarray(RGB).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match=name):
            read_image(tmp_path / name, color=True)
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(ImageError, match=r"grey\.png is grey"):
        read_image(tmp_path / "grey.png", color=True)
    with pytest.raises(ImageError, match="none"):
        read_image(tmp_path / "none.png", color=True)


def test_written_images_are_clipped_and_rounded(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_image(torch.tensor([[[-0.5, 0.2501, 1.5]]]), ".png", 8))
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 64, 255]]


def test_builtin_needs_no_download():
    train, test = (find_images(f"builtin:{split}", None, False).paths for split in ("train", "test"))
    assert len(train) >= 8
    assert not set(train) & set(test)
    for path in find_images("builtin", None, color=True).paths:
        assert read_image(path, color=True).shape[0] == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:x", "unknown split 'x'"),
        ("bsds500:bsd86", "unknown split"),
        ("nothing", "unknown image set"),
        ("/no/such/folder", "no image folder"),
        ("bsds500", "data fetch bsds500"),
    ],
)
def test_unknown_sets_are_refused(tmp_path, spec, message):
    with pytest.raises(ImageError, match=message):
        find_images(spec, tmp_path, False)


def test_no_training_or_validation_image_is_in_bsd68(data_root):
    sets = {s: {p.name for p in find_images(f"bsds500:{s}", data_root, False).paths} for s in ("bsd68", "val32")}
    train = {p.name for p in find_images("bsds500:train+test", data_root, False).paths}
    assert (len(sets["bsd68"]), len(sets["val32"]), len(train)) == (68, 32, 400)
    assert not sets["bsd68"] & (train | sets["val32"])
    assert not sets["val32"] & train


def test_default_lists_name_no_bsd68_image_by_content(data_root):
    """Also under another name: no two images of the set are the same file."""
    digests = [hashlib.sha256(p.read_bytes()).digest() for p in find_images("bsds500", data_root, False).paths]
    assert len(set(digests)) == 500
    assert len(set(bsd68_ids())) == 68


def test_the_data_on_this_machine_is_the_published_set(data_root):
    assert check_folder(data_root / "BSDS500") == []


def test_public_archive_layout_is_found(tmp_path):
    for split in ("train", "test", "val"):
        folder = tmp_path / "BSDS500" / "data" / "images" / split
        folder.mkdir(parents=True)
        Image.fromarray(RGB).save(folder / "1.jpg")
    assert len(find_images("bsds500:train+val", tmp_path, True).paths) == 2


def _patches(tmp_path, **changes) -> Patches:
    for i in range(5):
        Image.fromarray(np.roll(RGB, i, 0)).save(tmp_path / f"{i}.png")
    values = {"color": True, "size": 8, "seed": 1, "fixed": False, "augment": True} | changes
    return Patches(source=find_images(str(tmp_path), None, True).paths, **values)


def test_every_image_is_visited_once_per_epoch(tmp_path):
    patches = _patches(tmp_path)
    seen = [i for k in range(5) for i in patches.batch(k, 2).images]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:]


def test_a_batch_depends_on_its_step_alone(tmp_path):
    a, b = _patches(tmp_path), _patches(tmp_path)
    b.batch(3, 2)
    assert torch.equal(a.batch(7, 2).clean, b.batch(7, 2).clean)
    assert not torch.equal(a.batch(7, 2).clean, _patches(tmp_path, seed=2).batch(7, 2).clean)


def test_fixed_noise_belongs_to_the_image_and_fresh_noise_to_the_visit(tmp_path):
    for fixed in (True, False):
        patches = _patches(tmp_path, fixed=fixed)
        problem = Problem(Denoising(), clean=patches, noise_level=0.1)
        first, second = problem.sample(0, 5), problem.sample(1, 5)
        where = [second.images.index(i) for i in first.images]
        assert torch.equal(first.y - first.target, (second.y - second.target)[where]) == fixed
        assert torch.equal(first.target, second.target[where]) == fixed


def test_an_image_that_is_made_noisy_is_so_once(tmp_path):
    """Two crops of one image show the same noise where they overlap: the whole image was made noisy."""
    clean, noisy = (_patches(tmp_path, size=None, augment=False, noise_level=level) for level in (0.0, 0.1))
    difference = noisy.batch(0, 5).clean - clean.batch(0, 5).clean
    assert float(difference.std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(
        noisy.batch(0, 5).clean, _patches(tmp_path, size=None, augment=False, noise_level=0.1).batch(0, 5).clean
    )
    crop = _patches(tmp_path, size=8, augment=False, noise_level=0.1).batch(0, 1)
    whole = noisy.image(crop.images[0])
    assert any(torch.equal(crop.clean[0], whole[:, r : r + 8, c : c + 8]) for r in range(13) for c in range(23)), (
        "a crop of the noisy image"
    )


def test_patches_are_unscaled_turned_crops(tmp_path):
    batch = _patches(tmp_path).batch(0, 5)
    known = {tuple(v) for v in RGB.reshape(-1, 3).tolist()}
    assert {tuple(v) for v in (batch.clean * 255).round().int().movedim(1, 3).reshape(-1, 3).tolist()} <= known


def test_images_smaller_than_the_patch_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"0\.png is 30 x 20, smaller than data.patch_size = 21"):
        _patches(tmp_path, size=21).check()


def test_centre_crop():
    image = torch.arange(30.0).view(1, 5, 6)
    assert torch.equal(centre_crop(image, 3), image[:, 1:4, 1:4])
    assert centre_crop(image, 50).shape == (1, 5, 6)


def test_kernels(tmp_path):
    kernel = gaussian_kernel(9, 1.5)
    assert float(kernel.sum()) == pytest.approx(1)
    assert float(kernel[4, 5] / kernel[4, 4]) == pytest.approx(np.exp(-1 / 4.5))
    np.savez(tmp_path / "k.npz", a=np.ones((3, 5)), bad=-np.ones((3, 3)), pickled=np.array([{}], dtype=object))
    torch.testing.assert_close(read_kernel(f"{tmp_path}/k.npz:a", tmp_path), torch.full((3, 5), 1 / 15).double())
    Image.fromarray(np.eye(5, dtype=np.uint8) * 255).save(tmp_path / "k.png")
    torch.testing.assert_close(read_kernel(f"{tmp_path}/k.png", tmp_path), torch.eye(5).double() / 5)
    for spec in ("k.npz:b", "k.npz:bad", "k.npz:pickled", "none.npz:a"):
        with pytest.raises(KernelError):
            read_kernel(f"{tmp_path}/{spec}", tmp_path)


def test_levin_kernels(data_root):
    sizes = [read_kernel(f"levin:{i}", data_root).shape[0] for i in range(1, 9)]
    assert sizes == [19, 17, 15, 27, 13, 21, 23, 23]


@pytest.fixture
def server(tmp_path):
    """A web server on this machine with an archive laid out like the public one."""
    folder = tmp_path / "www"
    folder.mkdir()
    contents = {f"{split}/{i}.jpg": f"{split}{i}".encode() for split in ("train", "test", "val") for i in range(2)}
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, data in contents.items():
            archive.writestr(f"BSDS500-master/BSDS500/data/images/{name}", data)
        archive.writestr("BSDS500-master/README.md", "hello")
    (folder / "cut.zip").write_bytes((folder / "set.zip").read_bytes()[:300])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        yield f"http://127.0.0.1:{http_server.server_port}", manifest
        http_server.shutdown()


def test_fetch_downloads_verifies_and_installs(server, tmp_path):
    url, manifest = server
    root = tmp_path / "data"
    folder = fetch_bsds500(root, f"{url}/set.zip", manifest, quiet=True)
    assert check_folder(folder, manifest) == []
    assert [p.name for p in root.iterdir()] == ["BSDS500"]
    with pytest.raises(FetchError, match="exists already"):
        fetch_bsds500(root, f"{url}/set.zip", manifest, quiet=True)
    (folder / "val" / "1.jpg").write_bytes(b"altered")
    (folder / "val" / "0.jpg").unlink()
    assert len(check_folder(folder, manifest)) == 2


def test_fetch_removes_what_a_killed_one_left_and_not_what_another_one_loads(server, tmp_path):
    url, manifest = server
    left, busy = tmp_path / "data" / ".fetch-k_x01abc", tmp_path / "data" / ".fetch-other"
    for folder in (left, busy):
        folder.mkdir(parents=True)
        (folder / "archive.zip").write_text("half")
    with locked(busy):
        fetch_bsds500(tmp_path / "data", f"{url}/set.zip", manifest, quiet=True)
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"BSDS500", busy.name}


@pytest.mark.parametrize("file", ["cut.zip", "none.zip"])
def test_a_broken_download_leaves_nothing(server, tmp_path, file):
    url, manifest = server
    with pytest.raises(FetchError):
        fetch_bsds500(tmp_path / "data", f"{url}/{file}", manifest, quiet=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_with_altered_images_leaves_nothing(server, tmp_path):
    url, manifest = server
    with pytest.raises(FetchError, match="not the published set"):
        fetch_bsds500(tmp_path / "data", f"{url}/set.zip", manifest | {"val/0.jpg": "0" * 64}, quiet=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_the_manifest_lists_500_images():
    assert len(read_manifest()) == 500


def test_smaller_subsets_lie_within_larger_ones():
    whole = ImageSet("all", tuple(Path(f"{i}.png") for i in range(20)))
    chosen = [set(subset(whole, n).paths) for n in (3, 7, 20)]
    assert [len(c) for c in chosen] == [3, 7, 20]
    assert chosen[0] < chosen[1] < chosen[2]
    assert subset(whole, 7) == subset(whole, 7)
    assert subset(whole, 0) == whole
    with pytest.raises(ImageError, match="has 20 images"):
        subset(whole, 21)
