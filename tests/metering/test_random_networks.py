"""Networks drawn at random: what the meter says of each layer and shift, against f(T x) and T f(x) written out.

50 in the suite; `LAB_NETWORKS=1000` takes as many.
"""

import contextlib
import functools
import math
import os
import random

import pytest
import torch
from random_networks import random_network
from twins import judged, moved, outputs, relative

import lab
from lab.errors import InputError

NETWORKS = int(os.environ.get("LAB_NETWORKS", "50"))
TOGETHER = 10  # networks in one test


def shifts_of(network, rng):
    """Along one axis, both, to either side; and one that the period divides, if it leaves anything in the image."""

    def pixels():
        return rng.choice([1, 2, 3, 4, 6, 8]) * rng.choice([1, -1])

    shifts = [(pixels(), 0), (0, pixels()), (pixels(), pixels())]
    fits = all(2 * period < n for period, n in zip(network.period, network.size, strict=True))
    return [*shifts, (network.period[0], -network.period[1])] if fits else shifts


class NothingMovesError(Exception):
    """No layer keeps positions."""


def metered(network, images, shifts, mode):
    try:
        return lab.meter(network.model, images, shifts, mode=mode, quantities=["equivariance", "invariance"])
    except InputError as error:
        if "no layer keeps positions" in str(error):
            raise NothingMovesError from error
        raise


def report_of(seed):
    """A network, its images, whether the shifts are circular, and the report; None if there is nothing to measure."""
    network, rng = random_network(seed), random.Random(seed)
    wrap, images, shifts = rng.random() < 0.5, network.images(2), shifts_of(network, rng)
    with contextlib.suppress(NothingMovesError):
        report = metered(network, images, shifts, "wrap" if wrap else "background")
        return network, images, wrap, report
    return network, images, wrap, None


@functools.cache
def judgements(seed):
    network, images, wrap, report = report_of(seed)
    return judged(report, network.model, images, wrap=wrap) if report else []


@pytest.mark.parametrize("first", range(0, NETWORKS, TOGETHER))
def test_theory_is_what_is_observed(first):
    for seed in range(first, min(first + TOGETHER, NETWORKS)):
        for one in judgements(seed):
            assert not one.complaint, f"{one}, network {seed}: {random_network(seed).made}"


def test_what_is_not_guaranteed_is_mostly_inexact():
    """Not always: a crop may leave what goes round the image whole, and weights may happen not to see a stride."""
    said = [one for seed in range(NETWORKS) for one in judgements(seed) if one.row.theory == "broken" and one.shows]
    exact = [one for one in said if one.exact or (one.error is None and one.row.observed == "exact")]
    assert len(said) > NETWORKS
    assert len(exact) < 0.1 * len(said)


def larger(images, margins, seed):
    """The images amid others."""
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w = images.shape
    (top, left), size = margins, (n, c, h + 2 * margins[0], w + 2 * margins[1])
    around = torch.rand(size, generator=generator, dtype=images.dtype) + 0.1
    around[:, :, top : top + h, left : left + w] = images
    return around


def free_of_the_border(network, layer, images):
    """True where an output is the same, whatever lies outside the image: by brute force, in a larger image."""
    margins = tuple(period * math.ceil(12 / period) for period in network.period)
    before = [int(margin / step) for margin, step in zip(margins, network.step, strict=True)]
    fx = outputs(network.model, images)[layer]
    same = torch.ones(fx.shape[-2:], dtype=torch.bool)
    for seed in range(3):
        amid = outputs(network.model, larger(images, margins, seed))[layer]
        amid = amid[..., before[0] : before[0] + fx.shape[-2], before[1] : before[1] + fx.shape[-1]]
        same &= (amid - fx).abs().amax((0, 1)) <= 1e-9 * fx.abs().max()
    return same


def test_the_interior_is_where_nothing_outside_the_image_is_seen():
    equal = total = 0
    for seed in range(NETWORKS):
        network, images = random_network(seed), random_network(seed).images(3)
        found = lab.trace(network.model, images[:1]) if network.local and network.made else {}
        last = list(found.values())[-1:]
        for layer in last if last and last[0].grid and last[0].grid.step else ():
            grid = layer.grid
            assert grid.step == network.step, (seed, network.made)
            assert "shuffle" in str(network.made) or grid.period == network.period, (seed, network.made)
            truly = free_of_the_border(network, (layer.layer.module, layer.layer.call, layer.layer.place), images)
            claimed = torch.zeros_like(truly)
            claimed[grid.y.interior.start : grid.y.interior.stop, grid.x.interior.start : grid.x.interior.stop] = True
            assert not (claimed & ~truly).any(), (seed, network.made)
            total, equal = total + 1, equal + int(truly.sum() == claimed.sum())
    assert equal >= 0.8 * total, (equal, total)  # not where what is outside happens not to matter, as in a maximum


@pytest.mark.parametrize("first", range(0, NETWORKS, TOGETHER))
def test_no_smaller_shift_than_the_period_is_exact(first):
    for seed in range(first, min(first + TOGETHER, NETWORKS)):
        network = random_network(seed)
        if not network.smallest:
            continue
        images = network.images(2)
        found = list(lab.trace(network.model, images[:1]).values())[-1]
        for axis in (0, 1) if found.grid and found.grid.step else ():
            part = (found.grid.y, found.grid.x)[axis]
            for prime in (p for p in (2, 3) if part.period % p == 0):
                t = part.period // prime
                move = t / part.step
                if move.denominator == 1 and len(part.interior) > int(move) + 1:
                    shift = (t, 0) if axis == 0 else (0, t)
                    layer = found.layer.module, found.layer.call, found.layer.place
                    fx, ftx = (outputs(network.model, x)[layer] for x in (images, moved(images, shift, wrap=False)))
                    inside = list(part.interior)[int(move) :]
                    here = ftx.index_select(2 + axis, torch.tensor(inside))
                    there = fx.index_select(2 + axis, torch.tensor(inside) - int(move))
                    assert relative(there, here) > 1e-6, (seed, axis, network.made)
