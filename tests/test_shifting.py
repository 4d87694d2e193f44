from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab.data import BACKGROUND
from lab.errors import InputError

SMALL = st.integers(-4, 4)
MODES = pytest.mark.parametrize("mode", ["background", "wrap"])


def arrows() -> torch.Tensor:
    return torch.arange(1.0, 51.0).view(2, 1, 5, 5)


def slow_shift(images, dy, dx, mode, background):
    """The definition, pixel by pixel: (T x)[i, j] = x[i - dy, j - dx]."""
    moved = torch.full_like(images, background)
    h, w = images.shape[-2:]
    for i in range(h):
        for j in range(w):
            y, x = i - dy, j - dx
            if mode == "wrap":
                moved[..., i, j] = images[..., y % h, x % w]
            elif 0 <= y < h and 0 <= x < w:
                moved[..., i, j] = images[..., y, x]
    return moved


@MODES
@given(dy=SMALL, dx=SMALL)
def test_shift_is_its_definition(mode, dy, dx):
    assert torch.equal(lab.shift(arrows(), dy, dx, mode=mode), slow_shift(arrows(), dy, dx, mode, 0.0))


@MODES
@given(offsets=st.lists(st.tuples(SMALL, SMALL), min_size=2, max_size=2))
def test_a_shift_for_each_image_is_the_shift_of_each_image(mode, offsets):
    dy, dx = torch.tensor(offsets).unbind(1)
    together = lab.shift(arrows(), dy, dx, mode=mode, background=-1.0)
    apart = [
        lab.shift(image, y, x, mode=mode, background=-1.0) for image, (y, x) in zip(arrows(), offsets, strict=True)
    ]
    assert torch.equal(together, torch.stack(apart))


def test_positive_dy_is_down_and_positive_dx_is_right():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 1, 1] = 1.0
    assert lab.shift(image, 2, 1)[0, 0, 3, 2] == 1.0


@given(a=SMALL, b=SMALL, c=SMALL, d=SMALL)
def test_wrapped_shifts_compose_and_invert(a, b, c, d):
    x = torch.arange(81.0).view(1, 1, 9, 9)
    both = lab.shift(lab.shift(x, a, b, mode="wrap"), c, d, mode="wrap")
    assert torch.equal(both, lab.shift(x, a + c, b + d, mode="wrap"))
    assert torch.equal(lab.shift(lab.shift(x, a, b, mode="wrap"), -a, -b, mode="wrap"), x)


@given(a=SMALL, b=SMALL)
def test_background_shifts_invert_inside_the_margin_and_not_at_the_frame(a, b):
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1.0
    assert torch.equal(lab.shift(lab.shift(image, a, b), -a, -b), image)
    if (a, b) != (0, 0):
        assert not torch.equal(lab.shift(lab.shift(arrows(), a, b), -a, -b), arrows())


def test_normalise_after_the_shift_or_fill_with_the_normalised_background(digits):
    x = digits.images[:20]
    right = lab.normalize(lab.shift(x, 3, -2))
    assert torch.equal(lab.shift(lab.normalize(x), 3, -2, background=float(lab.normalize(torch.zeros(1, 1)))), right)
    wrong = lab.shift(lab.normalize(x), 3, -2)  # the published mistake: a band of 0 on a background of -0.42
    assert (wrong - right).abs().max().item() == pytest.approx(-BACKGROUND)


@MODES
@pytest.mark.parametrize("shape", [(5, 5), (1, 5, 5), (2, 3, 5, 7), (2, 2, 2, 5, 7)])
def test_shift_takes_any_leading_dimensions_and_leaves_its_input_alone(mode, shape):
    x = torch.rand(shape)
    before = x.clone()
    assert lab.shift(x, 1, -1, mode=mode).shape == shape
    assert torch.equal(x, before)


@MODES
@pytest.mark.parametrize(("dy", "dx", "said"), [(28, 0, r"\|dy\|=28, h=28"), (0, -30, r"\|dx\|=30, w=28")])
def test_a_shift_beyond_the_image_is_refused(mode, dy, dx, said):
    with pytest.raises(InputError, match=f"shift must be smaller than the image: {said}"):
        lab.shift(torch.zeros(2, 1, 28, 28), dy, dx, mode=mode)
    with pytest.raises(InputError, match=said):
        lab.shift(torch.zeros(2, 1, 28, 28), torch.tensor([0, dy]), torch.tensor([dx, 0]), mode=mode)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (torch.zeros(5), {}, r"images must be floating point, ... h w: torch.float32, shape \(5,\)"),
        (torch.zeros(5, 5, dtype=torch.uint8), {}, "images must be floating point"),
        (torch.zeros(0, 1, 5, 5), {}, "at least one image"),
        (torch.zeros(1, 1, 5, 0), {}, "at least one image and one pixel"),
        (torch.tensor([[1.0, torch.nan]]), {}, "images must be finite: 1 of 2"),
        (torch.tensor([[1.0, torch.inf]]), {}, "images must be finite: 1 of 2"),
        (torch.zeros(1, 5, 5), {"mode": "mirror"}, "mode must be one of background, wrap: 'mirror'"),
        (torch.zeros(2, 5, 5), {"dy": torch.tensor([1, 2, 3])}, r"dy must be a number of pixels, or one for each of 2"),
        (torch.zeros(2, 5, 5), {"dx": 1.5}, "only mode='wrap' takes fractions of a pixel: dx=1.5, mode='background'"),
        (torch.zeros(2, 5, 5), {"dx": torch.tensor([1.0, 2.5])}, "only mode='wrap' takes fractions of a pixel: dx="),
        (
            torch.zeros(2, 5, 5),
            {"dx": torch.zeros(2, dtype=torch.long, device="meta")},
            "dx must be a number of pixels",
        ),
        (torch.zeros(2, 5, 5), {"dx": torch.tensor(1, device="meta")}, "dx must be a number"),
        (torch.zeros(1, 5, 5, device="meta"), {}, "images must hold values: a tensor on the meta device has none"),
        (torch.zeros(2, 5, 5), {"dy": torch.tensor([0, -(2**63)])}, r"\|dy\|=9223372036854775808, h=5"),
        (torch.zeros(2, 5, 5), {"dx": torch.tensor([0, -128], dtype=torch.int8)}, r"\|dx\|=128, w=5"),
        (
            torch.zeros(5, 5),
            {"dx": torch.tensor([1, 2, 3, 4, 0])},
            "dx must be a number of pixels, or one for each of 1",
        ),
        (torch.zeros(5, 5), {"dx": 2**70}, "shift must be smaller than the image"),
    ],
    ids=[
        *["vector", "uint8", "empty", "no pixels", "nan", "inf", "mode", "3 for 2", "fraction", "float tensor"],
        *["meta offsets", "meta offset", "meta images", "int64 minimum", "int8 minimum", "no batch", "enormous"],
    ],
)
def test_what_is_no_batch_of_images_is_refused(images, options, said):
    with pytest.raises(InputError, match=said):
        lab.shift(images, **{"dy": 0, "dx": 0, **options})


def test_a_sum_that_overflows_is_not_taken_for_an_infinite_pixel():
    huge = torch.full((1, 2, 2), torch.finfo(torch.float32).max)
    assert torch.equal(lab.shift(huge, 0, 0), huge)


@pytest.mark.usefixtures("unchecked")
def test_a_shift_can_be_any_kind_of_whole_number():
    x = arrows()
    for one in (np.int64(1), torch.tensor(1), True):
        assert torch.equal(lab.shift(x, one, 0), lab.shift(x, 1, 0))


def test_the_least_number_of_a_small_type_shifts_as_far_as_it_says():
    x = torch.rand(2, 1, 200, 1)
    dy = torch.tensor([-128, 100], dtype=torch.int8)
    assert torch.equal(lab.shift(x, dy, 0), lab.shift(x, dy.long(), 0))
    assert torch.equal(lab.shift(x, dy, 0)[0, :, :72], x[0, :, 128:])


# Ink


def test_margins_are_how_far_the_ink_can_move(digits):
    margins = lab.ink_margins(digits.images)
    ink = digits.images.sum((1, 2, 3))
    for side, (y, x) in {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}.items():
        room = getattr(margins, side)
        kept = lab.shift(digits.images, y * room, x * room).sum((1, 2, 3))
        lost = lab.shift(digits.images, y * (room + 1), x * (room + 1)).sum((1, 2, 3))
        assert torch.allclose(kept, ink)  # the same pixels summed in another order
        assert (lost < ink - 1e-3).all()  # 1 / 255, the faintest ink, is 4e-3


def test_margins_of_an_image_without_ink_are_all_that_a_shift_can_do():
    margins = lab.ink_margins(torch.full((1, 1, 5, 7), -0.4), background=-0.4)
    assert [int(m) for m in (margins.up, margins.down, margins.left, margins.right)] == [4, 4, 6, 6]


def test_a_digit_fits_where_its_margins_say_so(digits):
    margins = lab.ink_margins(digits.images)
    fits = margins.fits(4, 0)
    assert torch.equal(fits, margins.down >= 4)
    assert 0.3 < fits.float().mean() < 0.7  # at 4 px down, about half of the digits lose ink
    assert torch.equal(
        margins.fits(-2, 3, margin=1),
        (margins.up >= 3) & (margins.right >= 4) & (margins.down >= -1) & (margins.left >= -2),
    )


@pytest.mark.parametrize(("dy", "dx"), [(3, 0), (-3, 0), (0, 3), (0, -3)], ids=["down", "up", "right", "left"])
def test_the_margin_is_kept_on_every_side(dy, dx):
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1.0
    margins = lab.ink_margins(image)  # 4 on every side
    assert [bool(margins.fits(dy, dx, margin=margin)) for margin in (0, 1, 2)] == [True, True, False]


def test_ink_of_any_channel_counts():
    image = torch.zeros(1, 3, 9, 9)
    image[0, 0, 4, 4] = image[0, 1, 0, 8] = image[0, 2, 5, 2] = 1.0
    margins = lab.ink_margins(image)
    assert [int(m) for m in (margins.up, margins.down, margins.left, margins.right)] == [0, 3, 2, 0]


def test_pairs_of_colour_images_keep_the_ink_of_all_channels():
    images = torch.zeros(200, 3, 9, 9)
    images[:, 0, 4, 4] = images[:, 1, 1, 4] = images[:, 2, 4, 7] = 1.0
    pairs = lab.translated_pairs(lab.Split(images, torch.zeros(200, dtype=torch.long)), max_shift=2, seed=0)
    assert len(pairs) == 200
    assert (pairs.first.sum((2, 3)) == 1).all()
    assert (pairs.second.sum((2, 3)) == 1).all()
    assert torch.equal(lab.shift(pairs.first, pairs.dy, pairs.dx), pairs.second)


# Pairs


@pytest.fixture(scope="module")
def pairs(digits):
    return lab.translated_pairs(digits, max_shift=4, seed=0)


def test_the_second_image_is_the_first_one_shifted_bit_for_bit(pairs):
    assert torch.equal(lab.shift(pairs.first, pairs.dy, pairs.dx), pairs.second)


def test_the_first_image_is_the_second_one_shifted_back(pairs):
    assert torch.equal(lab.shift(pairs.second, -pairs.dy, -pairs.dx), pairs.first)


def test_both_images_hold_all_the_ink_and_labels_stay_with_their_digits(digits, pairs):
    assert torch.equal(pairs.labels, digits.labels)
    for images in (pairs.first, pairs.second):
        for pixels, original in zip(images.flatten(1), digits.images.flatten(1), strict=True):
            assert torch.equal(pixels.sort().values, original.sort().values)


def test_every_displacement_but_zero_comes_up_and_equally_often(mnist):
    pairs = lab.translated_pairs(mnist.test, max_shift=4, seed=3, margin=2)
    assert len(pairs) == len(mnist.test), "max_shift + 2 * margin <= 8 leaves no digit out"
    _, counts = torch.stack([pairs.dy, pairs.dx]).unique(dim=1, return_counts=True)
    assert len(counts) == 9 * 9 - 1
    assert counts.max() - counts.min() <= 1


def test_directions_are_balanced_although_the_digits_have_more_room_above_than_below(mnist):
    margins = lab.ink_margins(mnist.test.images)
    assert margins.up.double().mean() > margins.down.double().mean() + 1
    pairs = lab.translated_pairs(mnist.test, max_shift=4, seed=0)
    first = lab.ink_margins(pairs.first)
    for before, after, step in ((first.up, first.down, pairs.dy), (first.left, first.right, pairs.dx)):
        low, high = (-step).clamp(min=0), before + after - step.clamp(min=0)  # where the ink can first be
        free = high > low
        place = ((before - low) / (high - low))[free].double()
        # even on [0, 1], so mean 1/2 and standard deviation at most 1/2 (two places): 4 standard errors
        assert abs(place.mean().item() - 0.5) < 4 * 0.5 / len(place) ** 0.5
        assert place.min() == 0
        assert place.max() == 1


def test_no_pair_is_twice_the_same_image(pairs):
    assert not ((pairs.dy == 0) & (pairs.dx == 0)).any()


def test_the_margin_is_kept_in_both_images(digits):
    pairs = lab.translated_pairs(digits, max_shift=4, seed=0, margin=2)
    for images in (pairs.first, pairs.second):
        assert lab.ink_margins(images).fits(0, 0, margin=2).all()


def test_pairs_depend_on_the_seed_alone(digits, pairs):
    torch.manual_seed(99)
    again, other = (lab.translated_pairs(digits, max_shift=4, seed=s) for s in (0, 1))
    assert torch.equal(pairs.first, again.first)
    assert not torch.equal(pairs.dy, other.dy)


def test_where_a_digit_has_no_room_its_pair_is_left_out(digits):
    pairs = lab.translated_pairs(digits, max_shift=20, seed=0)
    assert 0 < len(pairs) < len(digits)
    assert torch.equal(lab.shift(pairs.first, pairs.dy, pairs.dx), pairs.second)
    totals = {round(t, 2) for t in digits.images.sum((1, 2, 3)).tolist()}
    assert {round(t, 2) for t in pairs.second.sum((1, 2, 3)).tolist()} <= totals, "no pair lost ink"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_shift": 0}, "max_shift must be at least 1 and smaller than the image: max_shift=0"),
        ({"max_shift": 28}, "max_shift must be at least 1 and smaller than the image: max_shift=28, margin=0, h=28"),
        ({"max_shift": 1, "margin": -1}, "margin must not be negative: -1"),
        ({"max_shift": 4, "margin": 13}, "no image has room for its displacement: max_shift=4, margin=13"),
    ],
    ids=["zero", "image size", "negative margin", "no room"],
)
def test_impossible_pairs_are_refused(digits, options, said):
    with pytest.raises(InputError, match=said):
        lab.translated_pairs(digits, seed=0, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [-1, 0.5, True, None, 2**64], ids=repr)
def test_pairs_need_a_seed(digits, seed):
    with pytest.raises(InputError, match="seed must be at least 0 and below"):
        lab.translated_pairs(digits, max_shift=1, seed=seed)


def test_pairs_of_no_images_or_of_nan_are_refused(digits):
    with pytest.raises(InputError, match="at least one image"):
        lab.translated_pairs(lab.Split(digits.images[:0], digits.labels[:0]), max_shift=1, seed=0)
    with pytest.raises(InputError, match="finite"):
        lab.translated_pairs(lab.Split(digits.images * torch.nan, digits.labels), max_shift=1, seed=0)


# Fractions of a pixel

SIZES = st.integers(2, 9)
FRACTIONS = st.fractions(-1, 1, max_denominator=8)
ROUNDING = {"rtol": 0, "atol": 1e-12}  # float64: sums of up to 9 terms of about 1


def noise(h, w, seed=0):
    return torch.randn(2, 1, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_phase(images, dy, dx):
    """The twin, in frequencies: each turns by its phase; the Nyquist component is scaled by the cosine."""
    for dim, move in ((-2, dy), (-1, dx)):
        n = images.shape[dim]
        k = torch.fft.fftfreq(n, dtype=torch.float64)
        phase = torch.exp(-2j * torch.pi * k * float(move))
        phase = torch.where(k == -0.5, phase.real + 0j, phase)
        images = torch.fft.ifft(torch.fft.fft(images, dim=dim).movedim(dim, -1) * phase, dim=-1).movedim(-1, dim).real
    return images


@given(SIZES, SIZES, FRACTIONS, FRACTIONS)
def test_a_fraction_turns_each_frequency_by_its_phase(h, w, dy, dx):
    images = noise(h, w)
    torch.testing.assert_close(lab.shift(images, dy, dx, mode="wrap"), by_phase(images, dy, dx), **ROUNDING)


@given(st.integers(0, 3), st.integers(0, 3), FRACTIONS, FRACTIONS)
def test_a_band_limited_image_is_moved_as_the_function_that_it_samples(ky, kx, dy, dx):
    def sampled(dy, dx):
        y, x = torch.arange(8.0, dtype=torch.float64)[:, None] - dy, torch.arange(7.0, dtype=torch.float64) - dx
        return torch.cos(2 * torch.pi * (ky * y / 8 + kx * x / 7) + 1)  # below 4/8 and 3.5/7: the Nyquist frequency

    moved = lab.shift(sampled(0, 0), dy, dx, mode="wrap")
    torch.testing.assert_close(moved, sampled(float(dy), float(dx)), **ROUNDING)
    if ky and dy.denominator > 1:
        assert (moved - sampled(round(dy), float(dx))).abs().max() > 1e-2, "the control: no whole move does it"


@given(FRACTIONS, FRACTIONS)
def test_fractions_add_up_and_can_be_undone_where_there_is_no_nyquist_component(a, b):
    images = noise(5, 7)
    both = lab.shift(lab.shift(images, a, b, mode="wrap"), b, a, mode="wrap")
    torch.testing.assert_close(both, lab.shift(images, a + b, a + b, mode="wrap"), **ROUNDING)


def test_two_moves_by_half_a_pixel_make_a_whole_one_but_for_the_nyquist_component():
    even = noise(8, 8)
    nyquist = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4) * torch.ones(1, 1, 8, 1, dtype=torch.float64)
    assert lab.shift(nyquist, 0, 0.5, mode="wrap").abs().max() < 1e-12, "cos(π / 2)"
    rest = even - (even * nyquist).mean(-1, keepdim=True) * nyquist
    for images, same in ((rest, True), (even, False)):
        twice = lab.shift(lab.shift(images, 0, 0.5, mode="wrap"), 0, 0.5, mode="wrap")
        assert (twice - lab.shift(images, 0, 1, mode="wrap")).abs().max().item() < 1e-12 or not same
    assert (twice - lab.shift(even, 0, 1, mode="wrap")).abs().max() > 0.1


@pytest.mark.parametrize(
    "two", [2.0, Fraction(2), np.float32(2), torch.tensor(2.0), torch.tensor([2.0, 2.0])], ids=repr
)
@pytest.mark.usefixtures("unchecked")
@MODES
def test_a_whole_number_of_any_type_moves_bit_for_bit(two, mode):
    assert torch.equal(lab.shift(arrows(), two, 1, mode=mode), lab.shift(arrows(), 2, 1, mode=mode))


def test_each_image_has_a_fraction_of_its_own_and_its_type_stays():
    images, dy = arrows(), torch.tensor([0.5, -1.25])
    moved = lab.shift(images, dy, 1, mode="wrap")
    one_by_one = [lab.shift(images[i], d, 1, mode="wrap") for i, d in enumerate(dy.tolist())]
    assert torch.equal(moved, torch.stack(one_by_one))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert lab.shift(images.to(dtype), 0.5, 0, mode="wrap").dtype == dtype


@pytest.mark.parametrize("pixels", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_shift(pixels):
    with pytest.raises(InputError, match="dy must be a number of pixels"):
        lab.shift(arrows(), pixels, 0, mode="wrap")
