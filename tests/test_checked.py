"""The checks of annotations that all other tests run with: they find what is wrong, and nothing else."""

import ast

import checked
import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

import lab

CODE = """
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "n m"]

def plain(x: int) -> str:
    return "a" if x else x

def turned(x: Matrix, y: "Float[Tensor, 'm n'] | None" = None) -> Float[Tensor, "m n"]:
    return x if y is None else y

def outer(x: Matrix) -> Matrix:
    def inner(y: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return y
    inner(x[0])
    inner(x)
    return x

def each(x: Matrix) -> Iterator[int]:
    yield from range(len(x))

@dataclass(frozen=True)
class Pair:
    first: Float[Tensor, "n"]
    second: Float[Tensor, "n"]

    def __post_init__(self) -> None:
        self.first.sum()

    @classmethod
    def of(cls, x: Matrix) -> "tuple[Matrix]":
        return (x,)

    @property
    def size(self) -> int:
        return "large"
"""


@pytest.fixture(scope="module")
def code():
    tree = ast.fix_missing_locations(checked._Decorated().visit(ast.parse(CODE)))
    names = {"__name__": "example"}
    exec(compile(tree, "example.py", "exec"), names)
    return names


ROW, OTHER, SQUARE, WIDE = torch.zeros(2), torch.zeros(3), torch.zeros(2, 2), torch.zeros(2, 3)
WRONG = {
    "an argument": lambda code: code["plain"]("a"),
    "what is returned": lambda code: code["plain"](0),
    "a number of axes": lambda code: code["turned"](ROW),
    "an axis of two sizes in two arguments": lambda code: code["turned"](WIDE, WIDE),
    "an axis of two sizes in argument and result": lambda code: code["turned"](WIDE),
    "a function in a function": lambda code: code["outer"](SQUARE),
    "a type of numbers": lambda code: code["turned"](SQUARE.long()),
    "an argument of a generator": lambda code: code["each"](ROW),
    "fields of a record": lambda code: code["Pair"](ROW, OTHER),
    "an argument of a class method": lambda code: code["Pair"].of(ROW),
    "a property": lambda code: code["Pair"](ROW, ROW).size,
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_its_annotation_is_refused(case, code):
    with pytest.raises((BeartypeCallHintViolation, TypeCheckError)):
        WRONG[case](code)


def test_what_fits_passes_and_each_call_has_axes_of_its_own(code):
    for x in (SQUARE, torch.zeros(3, 3)):
        assert code["turned"](x) is x
    assert code["turned"](WIDE, WIDE.T).shape == (3, 2)
    assert code["plain"](1) == "a"
    assert list(code["each"](WIDE)) == [0, 1]
    assert code["Pair"].of(WIDE)[0] is WIDE
    assert code["Pair"](ROW, second=ROW).second is ROW


@pytest.mark.usefixtures("unchecked")
def test_switched_off_nothing_is_refused(code):
    assert code["plain"](0) == 0
    assert code["turned"](WIDE) is WIDE
    assert code["Pair"](ROW, OTHER).second is OTHER


def test_the_lab_is_checked():
    assert not jaxtyping.config.jaxtyping_disable
    with pytest.raises(BeartypeCallHintViolation):
        lab.invariance_error(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(BeartypeCallHintViolation):
        lab.Split(torch.zeros(2, 1, 28, 28), torch.zeros(3, dtype=torch.long))
