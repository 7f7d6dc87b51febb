"""Decoding on demand: pixels, orientation, modes, draft mode, and files damaged in every way."""

import io
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cupynn.data import CentreCrop, FileDataset, HorizontalFlip, RandomResizedCrop, ShorterEdgeCrop, Whole, batches
from cupynn.data.image_files import ORIENTATION, read_image, require_pillow

NONE = np.zeros(0)


def smooth(width, height):
    """A photograph without edges, so that JPEG keeps it and filters agree: red across, green down, blue both."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([40 + 170 * x, 60 + 140 * y, 90 + 50 * x + 60 * y], axis=2).astype(np.uint8)


def saved(folder, pixels, name="image.png", **options):
    file = folder / name
    Image.fromarray(pixels).save(file, **options)
    return str(file)


def files_in(folder, files, framing):
    labels = np.arange(len(files), dtype=np.int64) % 2
    return FileDataset(str(folder), tuple(files), labels, ("a", "b"), "made train", framing)


def test_whole_image_is_the_files_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    result = read_image(saved(tmp_path, pixels), Whole(6), NONE)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (400, 300)])
def test_centre_crop_equals_resizing_then_cropping(size, tmp_path):
    """One pass gives Pillow's two: the same weights up to the rounding of Pillow's fixed point, 1 of 255."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    edge = min(size)
    resized = Image.fromarray(pixels).resize((size[0] * 48 // edge, size[1] * 48 // edge), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 40) / 2), round((resized.height - 40) / 2)
    expected = np.asarray(resized.crop((left, top, left + 40, top + 40))).astype(int)
    result = read_image(saved(tmp_path, pixels), CentreCrop(40, 48), NONE)
    assert np.abs(result - expected).max() <= 1


def test_random_crop_by_hand(tmp_path):
    """No resizing where the crop has the size that is asked for: whole pixels, counted from left and top."""
    pixels = np.random.default_rng(2).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    result = read_image(saved(tmp_path, pixels), ShorterEdgeCrop(6, 8), np.array([0.5, 0.99]))
    np.testing.assert_array_equal(result, pixels[2:8, 3:9])  # the fourth of seven places across, the last of three


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_crops_at_the_far_edge(suffix, tmp_path):
    """Sizes whose quotients are no floats: the rectangle ends at the photograph's edge, not a rounding beyond it."""
    generator = np.random.default_rng(4)
    for width, height in generator.integers(1, 200, (60, 2)).tolist():
        file = saved(tmp_path, smooth(width, height), f"edge.{suffix}")
        for framing in (ShorterEdgeCrop(7, 7), ShorterEdgeCrop(5, 11), RandomResizedCrop(6)):
            image = read_image(file, framing, np.full(framing.uniforms, 1 - 2.0**-33))
            assert image.shape == (framing.size, framing.size, 3)


def test_scale_and_ratio_crop_by_hand(tmp_path):
    """Two halves, red and blue; the crop of a tenth of the area lies wholly in the one that `left` says."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, :40, 0], pixels[:, 40:, 2] = 200, 100
    framing = RandomResizedCrop(8, scale=(0.1, 0.1))
    numbers = np.full(22, 0.5)
    for left, colour in ((0.0, (200, 0, 0)), (0.999, (0, 0, 100))):
        numbers[20] = left
        result = read_image(saved(tmp_path, pixels), framing, numbers)
        assert (result == colour).all() and result.shape == (8, 8, 3)


def test_modes_become_rgb(tmp_path):
    """Tiny ImageNet holds grey JPEGs, ImageNet CMYK ones and a PNG under a JPEG's name."""
    pixels = smooth(16, 16)
    rgb = Image.fromarray(pixels)
    rgb.convert("L").save(tmp_path / "grey.jpg", quality=95)
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    rgb.convert("RGBA").save(tmp_path / "alpha.png")
    rgb.convert("P").save(tmp_path / "palette.png")
    rgb.save(tmp_path / "named.JPEG", format="PNG")
    Image.fromarray(np.eye(16, dtype=bool)).save(tmp_path / "bits.png")
    read = {file.name: read_image(str(file), Whole(16), NONE) for file in tmp_path.iterdir()}
    assert all(image.shape == (16, 16, 3) and image.dtype == np.uint8 for image in read.values())
    grey = np.asarray(rgb.convert("L")).astype(int)[..., None]
    assert np.abs(read["grey.jpg"] - grey).max() <= 6  # JPEG's loss at quality 95
    assert np.abs(read["cmyk.jpg"].astype(int) - pixels).max() <= 12  # four lossy channels
    np.testing.assert_array_equal(read["alpha.png"], pixels)
    np.testing.assert_array_equal(read["named.JPEG"], pixels)
    np.testing.assert_array_equal(read["palette.png"], np.asarray(rgb.convert("P").convert("RGB")))
    np.testing.assert_array_equal(read["bits.png"], 255 * np.eye(16, dtype=np.uint8)[..., None].repeat(3, axis=2))


# How the stored pixels come from the upright ones [Exif 2.32, tag Orientation].
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x),  # a viewer turns it clockwise
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation, suffix, tmp_path):
    """A crop off the middle of an oblong photograph, so that a wrong turn or a swapped side shows."""
    upright = smooth(96, 64)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    file = saved(tmp_path, stored, f"turned.{suffix}", exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    framing, numbers = ShorterEdgeCrop(8, 16), np.array([0.9, 0.1])
    expected = read_image(saved(tmp_path, upright, "upright.png"), framing, numbers).astype(int)
    # a JPEG loses some, and draft mode shrinks it by averages of blocks
    assert np.abs(read_image(file, framing, numbers) - expected).max() <= (4 if suffix == "jpg" else 0)
    assert np.ptp(expected, axis=(0, 1)).min() > 10


@pytest.mark.parametrize(
    ("width", "height", "size", "shrink"), [(512, 512, 64, 8), (500, 375, 90, 4), (129, 129, 64, 2), (100, 64, 64, 1)]
)
def test_draft_mode_decodes_no_more_than_is_needed(width, height, size, shrink, tmp_path, monkeypatch):
    """libjpeg decodes at 1/shrink of the size, never below the crop's, and the picture stays the same."""
    from PIL import JpegImagePlugin

    pixels = smooth(width, height)
    jpeg = saved(tmp_path, pixels, "large.jpg", quality=95)
    decoded = []
    load = JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda self: (decoded.append(self.size), load(self))[1])
    framing = CentreCrop(size, size)
    result = read_image(jpeg, framing, NONE).astype(int)
    assert set(decoded) == {(-(-width // shrink), -(-height // shrink))}
    exact = read_image(saved(tmp_path, pixels), framing, NONE)
    assert np.abs(result - exact).max() <= 4


def test_set_of_files(tmp_path):
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    names = [f"{number}.png" for number in range(5)]
    for name, image in zip(names, pixels, strict=True):
        saved(tmp_path, image, name)
    dataset = files_in(tmp_path, names, Whole(4))
    assert len(dataset) == 5 and dataset.image_shape == (3, 4, 4)
    np.testing.assert_array_equal(
        dataset.read(np.array([3, 0]), np.zeros((2, 0))), pixels[[3, 0]].transpose(0, 3, 1, 2)
    )
    (images, labels), *_ = batches(dataset, 5)
    mean, std = np.array(dataset.mean), np.array(dataset.std)
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, expected, atol=4 * np.finfo(np.float32).eps / std.min())
    assert labels.tolist() == [0, 1, 0, 1, 0]
    other = dataset.framed(CentreCrop(2, 3))
    assert other.image_shape == (3, 2, 2) and other.files is dataset.files and dataset.framing == Whole(4)


def test_same_stream_of_files_for_any_workers_and_batch_size(tmp_path):
    names = []
    for number, side in enumerate(range(20, 43)):
        names.append(f"{number}.jpg")
        saved(tmp_path, smooth(side, 60 - side), names[-1])
    dataset = files_in(tmp_path, names, RandomResizedCrop(12))
    options = {"shuffle": True, "seed": 1, "epoch": 4, "transform": [HorizontalFlip()]}
    results = {}
    for workers in (0, 1, 4):
        for batch_size in (1, 5, 23):
            epoch = list(batches(dataset, batch_size, workers=workers, **options))
            results[workers, batch_size] = np.concatenate([images for images, _ in epoch]).tobytes()
    assert len(set(results.values())) == 1
    # and the middle of the epoch is read without its beginning
    tail = np.concatenate([images for images, _ in batches(dataset, 5, workers=2, start=3, **options)])
    assert results[0, 5].endswith(tail.tobytes()) and len(tail) == 8
    another = np.concatenate([images for images, _ in batches(dataset, 5, **{**options, "epoch": 5})])
    assert another.tobytes() != results[0, 5]


def jpeg_bytes(**options):
    stream = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, **{"format": "JPEG", "quality": 95, **options})
    return stream.getvalue()


JPEG, PNG = jpeg_bytes(), jpeg_bytes(format="PNG")
SIXTEEN_BITS = io.BytesIO()
Image.fromarray(np.full((64, 64), 4000, dtype=np.uint16)).save(SIXTEEN_BITS, format="PNG")


def png_that_says(width, height):
    """The PNG's 64 x 64 pixels under a header of another size, with the checksum that it needs."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + PNG[24:29]
    return PNG[:12] + header + zlib.crc32(header).to_bytes(4, "big") + PNG[33:]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
BROKEN = {
    "empty": b"",
    "text": b"404 Not Found",
    "noise": np.random.default_rng(6).bytes(5000),
    "postscript": POSTSCRIPT,
    "gif": jpeg_bytes(format="GIF", quality=None),
    "jpeg's first bytes": JPEG[:4],
    "jpeg's header": JPEG[:300],
    "half a jpeg": JPEG[: len(JPEG) // 2],
    "nine tenths of a jpeg": JPEG[: len(JPEG) * 9 // 10],
    "progressive jpeg cut": jpeg_bytes(progressive=True)[:2000],
    "half a png": PNG[: len(PNG) // 2],
    "png's header": PNG[:20],
    "png of another size inside": png_that_says(65, 64),
    "png with a flipped bit": PNG[:500] + bytes([PNG[500] ^ 1]) + PNG[501:],
    "16 bits": SIXTEEN_BITS.getvalue(),
    "decompression bomb": png_that_says(65536, 65536),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_file_is_named(content, workers, tmp_path):
    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "bad.jpg").write_bytes(content)
    dataset = files_in(tmp_path, ["good.jpg"] * 4 + ["bad.jpg"], RandomResizedCrop(16))
    seen = 0
    with pytest.raises(ValueError) as caught:
        for _ in batches(dataset, 1, workers=workers):
            seen += 1
    assert seen == 4
    assert str(caught.value).startswith(f"made train: {tmp_path / 'bad.jpg'}: reading the image failed: ")
    assert caught.value.__cause__ is not None


def test_good_files_of_the_tests_above_are_read(tmp_path):
    assert png_that_says(64, 64) == PNG
    for name, content in (("a.jpg", JPEG), ("b.png", PNG), ("c.jpg", jpeg_bytes(progressive=True))):
        (tmp_path / name).write_bytes(content)
        assert read_image(str(tmp_path / name), CentreCrop(16, 16), NONE).shape == (16, 16, 3)


def test_missing_file_and_wrong_size_are_named(tmp_path):
    dataset = files_in(tmp_path, ["gone.jpg"], Whole(64))
    with pytest.raises(ValueError, match=r"gone\.jpg: reading the image failed: FileNotFoundError"):
        dataset.read(np.array([0]), np.zeros((1, 0)))
    saved(tmp_path, smooth(63, 64), "gone.jpg")
    with pytest.raises(ValueError, match=r"gone\.jpg: .*expected 64 x 64 pixels; found 63 x 64"):
        dataset.read(np.array([0]), np.zeros((1, 0)))


def test_missing_pillow_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ModuleNotFoundError, match=r"imagefolder: needs the package pillow.*cupynn\[data\]"):
        require_pillow("imagefolder")


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros(2, dtype=np.int32), TypeError, "labels must be int64; they are int32"),
        (np.zeros(3, dtype=np.int64), ValueError, r"2 files, so labels must have shape \(2,\); they have shape \(3,\)"),
        (np.array([0, 2]), ValueError, r"labels must lie in 0\.\.1; they lie in 0\.\.2"),
    ],
)
def test_set_errors(labels, error, message):
    with pytest.raises(error, match=f"made train: .*{message}"):
        FileDataset("x", ("a", "b"), labels, ("a", "b"), "made train", Whole(4))
