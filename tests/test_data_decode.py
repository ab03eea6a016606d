"""One picture: every kind that Pillow gives comes out as a person sees it."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from made_files import encoded, pixels
from nabi.data import decode as decoding
from nabi.data.decode import checked_size, decode, decode_and_fit, fit, grey
from nabi.data.jpeg import has_pixels_only, plain_jpeg
from nabi.errors import PictureError, SettingError


def shown(image, kind="PNG", **options):
    return decode(encoded(image, kind, **options), "picture")


def test_colours_are_as_they_are():
    picture = pixels(1)
    result = shown(picture)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, picture)


def test_grey_has_three_equal_channels():
    picture = pixels(2, channels=1)
    np.testing.assert_array_equal(shown(picture), picture.repeat(3, axis=2))


def test_one_bit():
    picture = np.array([[0, 255], [255, 255], [0, 0]], np.uint8)[..., None]
    np.testing.assert_array_equal(shown(Image.fromarray(picture[..., 0]).convert("1")), picture.repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16", "CMYK", "turned"])
@pytest.mark.parametrize("size", [(8, 8), (20, 30), (40, 13)])
def test_at_a_size_as_fitted_afterwards(mode, size):
    picture = pixels(3, 20, 30)
    if mode == "I;16":
        image = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(picture).convert("RGB" if mode == "turned" else mode)
    options = {}
    if mode == "turned":
        options["exif"] = Image.Exif()
        options["exif"][274] = 6
    content = encoded(image, "JPEG" if mode in ("CMYK", "turned") else "PNG", **options)
    whole, fitted = decode(content, "x"), decode(content, "x", size)
    np.testing.assert_array_equal(fitted, fit(whole, size))
    asked = []
    both = decode_and_fit(content, "x", lambda native: asked.append(native) or size)
    assert asked == [whole.shape[:2]]
    np.testing.assert_array_equal(both[0], whole)
    np.testing.assert_array_equal(both[1], fitted)


def test_transparency_lies_over_white():
    rgba = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]], np.uint8)
    expected = np.array([[[255, 255, 255], [200, 100, 0], [244, 224, 204]]], int)  # 255 + (x - 255) * alpha / 255
    assert np.abs(shown(Image.fromarray(rgba)).astype(int) - expected).max() <= 1


def test_grey_with_transparency():
    picture = np.array([[[10, 255], [10, 0]]], np.uint8)
    np.testing.assert_array_equal(shown(Image.fromarray(picture, "LA"))[0, :, 0], [10, 255])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(kind):
    image = Image.new("P", (3, 1))
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
    image.putdata([0, 1, 2])
    result = shown(image, kind, transparency=1)
    np.testing.assert_array_equal(result, [[[250, 0, 0], [255, 255, 255], [0, 0, 250]]])


def test_palette_with_an_alpha_for_each_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.putdata([0, 1])
    np.testing.assert_array_equal(shown(image, transparency=bytes([0, 255])), [[[255, 255, 255], [0, 250, 0]]])


def test_colours_with_a_transparent_one():
    picture = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    np.testing.assert_array_equal(shown(picture, transparency=(1, 2, 3)), [[[255, 255, 255], [4, 5, 6]]])


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    result = decode(encoded(image, "JPEG", quality=95), "cyan")
    assert np.abs(result.astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    result = shown(Image.fromarray(values), kind)
    np.testing.assert_array_equal(result[0, :, 0], [0, 0, 1, 1, 128, 255])


def test_sixteen_bits_with_a_transparent_value():
    image = Image.fromarray(np.array([[1000, 65535, 2000]], np.uint16))
    np.testing.assert_array_equal(shown(image, transparency=1000)[0, :, 0], [255, 255, 8])


@given(value=st.integers(0, 65535))
def test_sixteen_bits_round_to_the_nearest(value):
    result = shown(Image.fromarray(np.full((1, 1), value, np.uint16)))
    assert abs(int(result[0, 0, 0]) - value / 257) <= 0.5


@pytest.mark.parametrize("values", [np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70000, np.int32)])
def test_values_without_a_known_range_are_refused(values):
    with pytest.raises(PictureError, match=r"^odd: "):
        decode(encoded(Image.fromarray(values), "TIFF"), "odd")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    # what the sensor saw, by the EXIF standard: row 0 and column 0 of it lie at these sides of the upright picture
    seen = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    for kind, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {}), ("TIFF", {})):
        result = shown(np.ascontiguousarray(seen), kind, exif=exif, **options)
        assert result.shape == upright.shape
        assert np.abs(result.astype(int) - upright).max() <= 3, kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_may_stand_in_xmp(orientation):
    picture, exif = pixels(5, 16, 24), Image.Exif()
    exif[274] = orientation
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{orientation}"/>'.encode()
    np.testing.assert_array_equal(shown(picture, "JPEG", xmp=xmp), shown(picture, "JPEG", exif=exif))


def by_pillow(content):
    """A JPEG file's pixels; None where Pillow refuses it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None


jpegs = st.builds(
    lambda picture, grey, options: encoded(picture[..., :1] if grey else picture, "JPEG", **options),
    st.builds(pixels, st.integers(0, 9), st.integers(1, 70), st.integers(1, 70)),
    st.booleans(),
    st.fixed_dictionaries(
        {"quality": st.integers(1, 100), "subsampling": st.integers(0, 2)},
        optional={
            "progressive": st.just(True),
            "optimize": st.just(True),
            "restart_marker_blocks": st.integers(1, 9),
        },
    ),
) | st.builds(lambda seed: encoded(pixels(seed), "JPEG", keep_rgb=True, subsampling=0), st.integers(0, 9))


@given(jpegs)
def test_ordinary_jpegs_are_as_pillow_has_them(content):
    np.testing.assert_array_equal(plain_jpeg(content, 4900), by_pillow(content))


@given(jpegs, st.data())
def test_damaged_jpegs_are_as_pillow_has_them_or_left_to_it(content, data):
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(3, len(content) - 1))] = data.draw(st.integers(0, 255))
    quick, expected = plain_jpeg(bytes(changed), 1 << 20), by_pillow(bytes(changed))
    if quick is not None and expected is not None:
        np.testing.assert_array_equal(quick, expected)


@given(jpegs, st.data())
def test_jpegs_that_were_cut_short_are_left_to_pillow(content, data):
    cut = content[: data.draw(st.integers(0, len(content) - 3))]  # libjpeg-turbo supplies the last marker itself
    assert plain_jpeg(cut, 4900) is None


def test_what_is_no_ordinary_jpeg_is_left_to_pillow():
    picture = pixels(6, 8, 9)
    assert plain_jpeg(encoded(picture, "JPEG"), 72) is not None
    assert plain_jpeg(encoded(picture, "JPEG"), 71) is None
    assert plain_jpeg(encoded(picture, "PNG"), 72) is None
    assert plain_jpeg(encoded(Image.fromarray(picture).convert("CMYK"), "JPEG"), 72) is None


JFIF = 2, 20
"""From where to where the first segment of what Pillow writes goes."""


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize(
    "segments",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xEE, b"Adobe"),
        b"\xff" + segment(0xE2, b"ICC_PROFILE\0"),  # with a byte that fills up
    ],
)
def test_what_pillow_refuses_for_its_header_is_refused(segments):
    content = encoded(pixels(7, 16, 16), "JPEG")
    content = content[: JFIF[0]] + segments + content[JFIF[1] :]
    assert plain_jpeg(content, 256) is not None
    assert by_pillow(content) is None
    with pytest.raises(PictureError, match=r"^odd: "):
        decode(content, "odd")


def test_pixels_of_fewer_bits_are_refused():
    """A white pixel of 4 bits, coded without loss (T.81, annex H), comes out of libjpeg-turbo as 15 of 255."""
    content = bytes.fromhex(
        "ffd8 ffee000e41646f626500640000000000 ffc30011040001000103521100471100421100"
        "ffc40014000100000000000000000000000000000003 ffda000c03520047004200010000 777f ffd9"
    )
    assert plain_jpeg(content, 1).tolist() == [[[15, 15, 15]]]
    with pytest.raises(PictureError, match="a JPEG, but is damaged or of a kind that is not read"):
        decode(content, "of four bits")


@given(jpegs)
def test_a_plain_header_has_nothing_that_pillow_would_look_at(content):
    assert has_pixels_only(content) == content.startswith(b"JFIF\0", 6)
    for extra in (segment(0xE1, b"Exif\0\0"), segment(0xE2, b"MPF\0"), segment(0xEE, bytes(12)), b"\xff"):
        assert not has_pixels_only(content[:2] + extra + content[2:])
    for end in range(2, content.index(b"\xff\xda") + 2):
        assert not has_pixels_only(content[:end])


def test_damaged_exif_leaves_the_pixels():
    content = encoded(pixels(3, 16, 16), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(content, "picture").shape == (16, 16, 3)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(content, "animation")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF", "PNG"])
def test_lossless_formats(kind):
    np.testing.assert_array_equal(shown(pixels(4), kind), pixels(4))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n", b"GIF89a"],
)
def test_what_is_no_picture_is_refused_by_name(content):
    with pytest.raises(PictureError, match=r"^pets/x\.png: [^\n]+$"):
        decode(content, "pets/x.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_picture_cut_short_is_refused(kind):
    content = encoded(pixels(5, 64, 64), kind)
    with pytest.raises(PictureError, match="half"):
        decode(content[: len(content) // 2], "half")


def bomb(width, height):
    """A PNG of a few hundred bytes that claims to be large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "sides", [(4_000, 4_001), (20_000, 5_001), (12_000, 12_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_bomb_is_refused_without_a_warning(sides):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(PictureError, match="bomb"):
            decode(bomb(*sides), "bomb")
    assert seen == []


def test_a_flat_picture_of_16_million_pixels_is_honest():
    assert shown(Image.new("L", (4_000, 4_000))).shape == (4_000, 4_000, 3)


def test_formats_that_start_programs_are_not_opened():
    assert "EPS" not in decoding.formats()
    assert {"JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"} <= set(decoding.formats())


def test_fit_leaves_the_right_size_alone():
    picture = pixels(6, 5, 9)
    np.testing.assert_array_equal(fit(picture, (5, 9)), picture)


def test_fit_crops_the_centre():
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 200
    assert (fit(picture, (10, 10)) == 200).all()
    assert (fit(picture.transpose(1, 0, 2), (10, 10)) == 200).all()


def test_fit_averages_what_it_makes_smaller():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit(stripes, (8, 8)).astype(int) - 128).max() <= 12  # without antialiasing: 0 or 255


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_fit_always_gives_the_size(height, width, to_height, to_width):
    flat = np.full((height, width, 3), 77, np.uint8)
    result = fit(flat, (to_height, to_width))
    assert result.shape == (to_height, to_width, 3)
    assert (result == 77).all()


def test_grey_of_grey_is_exact_and_of_colours_is_their_luma():
    exact = pixels(7, channels=1)
    np.testing.assert_array_equal(grey(exact.repeat(3, axis=2)), exact)
    luma = pixels(8) @ np.array([0.299, 0.587, 0.114])
    assert grey(pixels(8)).shape == (6, 7, 1)
    assert np.abs(grey(pixels(8))[..., 0] - luma).max() <= 1


def test_checked_size():
    assert checked_size(None) is None
    assert checked_size(np.int64(5)) == (5, 5)
    assert checked_size((4, 6)) == (4, 6)


@pytest.mark.parametrize("size", [0, -1, 1.5, "32", (1, 2, 3), (0, 4), True, 10**6, [3, 3]])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(SettingError, match="size is"):
        checked_size(size)
