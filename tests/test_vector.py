"""`Vector` against the same arithmetic on one long tensor."""

from __future__ import annotations

import math

import pytest
import torch

from flatminima import Vector

SHAPES = [(3, 4), (5,), (), (2, 1, 3)]


def vector(seed: int = 0, dtype=torch.float64) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    return Vector([torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES])


def long(v: Vector) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in v.tensors])


U, V = vector(0), vector(1)
TENTH = torch.tensor(0.1, dtype=torch.float64)
COMBINATIONS = {
    "sum": (U + V, long(U) + long(V)),
    "difference": (U - V, long(U) - long(V)),
    "negative": (-U, -long(U)),
    "multiple": (3 * U, 3 * long(U)),
    "multiple from the right": (U * 3.5, 3.5 * long(U)),
    "multiple by a tensor": (TENTH * U, 0.1 * long(U)),
    "multiple of a multiple": (2 * (torch.tensor(0.5) * (3 * U)), 3 * long(U)),
    "quotient": (U / 4, long(U) / 4),
    "quotient by a tensor": (U / torch.tensor(4.0), long(U) / 4),
    "product of coordinates": (U * V, long(U) * long(V)),
    "quotient of coordinates": (U / V, long(U) / long(V)),
    "multiple added": (U + 0.1 * V, long(U) + 0.1 * long(V)),
    "multiple subtracted": (U - 0.1 * V, long(U) - 0.1 * long(V)),
    "tensor's multiple added": (U + TENTH * V, long(U) + 0.1 * long(V)),
    "tensor's multiple subtracted": (U - TENTH * V, long(U) - 0.1 * long(V)),
    "multiples combined": (2 * U - 3 * V, 2 * long(U) - 3 * long(V)),
    "formula": (
        U - 0.4 * (V - V.onto(U)),
        long(U) - 0.4 * (long(V) - (long(V) @ long(U)) / (long(U) @ long(U)) * long(U)),
    ),
    "map": (U.map(torch.atan2, V), torch.atan2(long(U), long(V))),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_arithmetic_is_that_of_one_long_tensor(name) -> None:
    result, expected = COMBINATIONS[name]
    torch.testing.assert_close(long(result), expected, rtol=1e-14, atol=1e-15)
    assert [part.shape for part in result.tensors] == [torch.Size(shape) for shape in SHAPES]


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize("scale", [1, -0.1, -TENTH])
def test_norms_are_over_all_coordinates_together(p, scale) -> None:
    expected = torch.linalg.vector_norm(scale * long(U), p)
    torch.testing.assert_close((scale * U).norm(p), expected, rtol=1e-14, atol=0)


def test_inner_products_are_over_all_coordinates_together() -> None:
    torch.testing.assert_close(U.dot(V), long(U) @ long(V), rtol=1e-14, atol=0)
    torch.testing.assert_close(U.dot(U), long(U) @ long(U), rtol=1e-14, atol=0)
    torch.testing.assert_close((2 * U).dot(V), 2 * long(U) @ long(V), rtol=1e-14, atol=0)


def test_a_number_keeps_its_digits_whatever_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float32)  # the fixture puts it back
    torch.testing.assert_close((0.1 * U).norm(), 0.1 * U.norm(), rtol=1e-15, atol=0)
    torch.testing.assert_close(long(0.1 * U), 0.1 * long(U), rtol=1e-15, atol=0)
    assert (0.1 * vector(dtype=torch.float32)).norm().dtype == torch.float32


def test_the_projection_on_zero_is_zero() -> None:
    assert not long(U.onto(U.zeros_like())).any()


def test_absent_parts_are_zeros() -> None:
    a = Vector([torch.tensor([1.0, 2.0]), None, torch.tensor([3.0]), None])
    b = Vector([None, torch.tensor([5.0]), torch.tensor([7.0]), None])
    for result, expected in [
        (a + b, ([1.0, 2.0], [5.0], [10.0], None)),
        (a - 2 * b, ([1.0, 2.0], [-10.0], [-11.0], None)),
        (a - torch.tensor(2.0) * b, ([1.0, 2.0], [-10.0], [-11.0], None)),
        (a * b, (None, None, [21.0], None)),
        (a.map(torch.sub, b), ([1.0, 2.0], [-5.0], [-4.0], None)),
        (2 * a, ([2.0, 4.0], None, [6.0], None)),
        (a.only([False, True, True, True]), (None, None, [3.0], None)),
    ]:
        assert [None if part is None else part.tolist() for part in result] == list(expected)
    assert a.dot(b) == 21
    assert a.norm() == math.sqrt(14)
    assert Vector([None]).norm() == 0
    assert Vector([None]).dot(Vector([None])) == 0
    assert len(a) == 4 and len(a.tensors) == 2


@pytest.mark.parametrize("zero", [0, 0.0, torch.tensor(0.0)], ids=["int", "float", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_multiple_by_zero_is_zero_even_of_what_is_not_finite(zero, dtype) -> None:
    bad = Vector([torch.tensor([math.nan, math.inf, -math.inf, 1.0], dtype=dtype)])
    good = Vector([torch.ones(4, dtype=dtype)])
    for result, expected in [
        ((zero * bad).parts[0], [0.0] * 4),
        ((good + zero * bad).parts[0], [1.0] * 4),
        ((good - zero * bad).parts[0], [1.0] * 4),
        ((Vector([None]) + zero * bad).parts[0], [0.0] * 4),
        (2.0 * (zero * bad).norm(), 0.0),
    ]:
        assert result.tolist() == expected
        assert result.dtype == dtype or result.dim() == 0


def test_what_is_not_finite_is_passed_on() -> None:
    bad = Vector([torch.tensor([1.0]), torch.tensor([math.nan])])
    assert bad.norm().isnan() and bad.dot(bad).isnan() and (U.norm() * bad).parts[1].isnan().all()
    assert (bad + bad).parts[0] == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_half_precision_neither_overflow_nor_stall(dtype) -> None:
    v = Vector([torch.full((4096,), 16.0, dtype=dtype), torch.full((4096,), 16.0, dtype=dtype)])
    assert v.dot(Vector(v.parts)) == 8192 * 256  # above float16's largest number
    torch.testing.assert_close(v.dot(v), torch.tensor(8192 * 256.0).float(), rtol=1e-6, atol=0)
    ones = Vector([torch.ones(2**14, dtype=dtype)])
    assert ones.dot(Vector(ones.parts)) == 2**14  # in bfloat16 the sum would stop at 256
    assert ones.norm() == 2**7
    assert ones.norm().dtype == ones.dot(Vector(ones.parts)).dtype == torch.float32
    tiny = torch.tensor(1e-6, dtype=torch.float32)
    scaled = (tiny * Vector([torch.full((2,), 1000.0, dtype=dtype)])).parts[0]
    assert scaled.dtype == dtype
    torch.testing.assert_close(scaled.float(), torch.full((2,), 1e-3).float(), rtol=1e-2, atol=0)


def test_a_multiple_allocates_nothing_until_it_is_read() -> None:
    part = torch.ones(3)
    twice = 2 * Vector([part])
    part.add_(1)  # the multiple sees it, so it made no copy
    assert twice.parts[0].tolist() == [4.0] * 3
    assert part.tolist() == [2.0] * 3


def test_operations_change_no_operand() -> None:
    u, v = vector(0), vector(1)
    before = long(u).clone(), long(v).clone()
    _ = [u + v, u - 2 * v, u * v, u / v, -u, u.onto(v), u.dot(v), u.norm(), u.map(torch.add, v)]
    assert torch.equal(long(u), before[0]) and torch.equal(long(v), before[1])


def test_a_clone_is_apart_and_a_detached_vector_is_not() -> None:
    part = torch.ones(2, requires_grad=True)
    v = Vector([part, None])
    assert not v.detach().parts[0].requires_grad
    assert v.detach().parts[0].data_ptr() == part.data_ptr()
    assert v.clone().parts[0].data_ptr() != part.data_ptr()
    assert v.clone().parts[1] is None and v.zeros_like().parts[1] is None
    assert v.zeros_like().parts[0].tolist() == [0.0, 0.0]


def test_random_vectors_repeat_with_their_generator() -> None:
    def draw(dtype):
        like = Vector([torch.zeros(1000, dtype=dtype), None])
        return like.randn_like(torch.Generator().manual_seed(3))

    first = draw(torch.float64)
    assert torch.equal(first.parts[0], draw(torch.float64).parts[0])
    assert first.parts[1] is None
    assert abs(first.parts[0].mean()) < 0.1 and abs(first.parts[0].std() - 1) < 0.1
    assert draw(torch.bfloat16).parts[0].dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [0.0, -0.3, float("nan"), float("inf")])
@pytest.mark.parametrize("absent", [False, True])
def test_one_call_for_all_parts_adds_what_one_for_each_does(scale: float, absent: bool) -> None:
    a = Vector([torch.randn(3, 2), torch.randn(4)])
    b = Vector([torch.randn(3, 2), None if absent else torch.randn(4)])
    together, each = b * torch.tensor(scale), b * (torch.tensor(scale), scale)
    for ours, theirs in zip((a + together).parts, (a + each).parts, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    for ours, theirs in zip((a - together).parts, (a - each).parts, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    ends = [[part.clone() for part in a.tensors] for _ in range(2)]
    for end, vector in zip(ends, (together, each), strict=True):
        vector.add_to(end)
    torch.testing.assert_close(*ends, equal_nan=True)


def test_derivatives_pass_through_the_arithmetic() -> None:
    def function(a, b):
        u, v = Vector([a]), Vector([b])
        return (u - 0.4 * v.onto(u) + u.norm() * v).dot(u * v) + u.dot(u)

    inputs = [torch.randn(3, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_the_square_of_a_vector_has_its_second_derivative_at_zero() -> None:
    def itself(x):
        v = Vector([x])
        return v.dot(v)

    torch.testing.assert_close(
        torch.autograd.functional.hessian(itself, torch.zeros(2)), 2 * torch.eye(2)
    )


def test_a_vector_says_how_large_it_is() -> None:
    v = Vector([torch.zeros(1000, 2), None, torch.zeros(3, dtype=torch.float16)])
    assert repr(v) == "Vector(3 parts, 2,003 coordinates, 1 absent; float16, cpu, float64, cpu)"
    assert repr(Vector([])) == "Vector(0 parts, 0 coordinates; empty)"


def test_a_part_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match="parts must be tensors or None, got float"):
        Vector([1.0])


@pytest.mark.parametrize(
    "meet",
    [Vector.__add__, Vector.__sub__, Vector.__mul__, Vector.__truediv__, Vector.dot, Vector.onto],
)
def test_vectors_that_meet_must_have_as_many_parts(meet) -> None:
    with pytest.raises(ValueError, match=r"other must have 4 parts like this vector, got 1"):
        meet(U, Vector([torch.ones(1)]))


@pytest.mark.parametrize("scale", [0.3, 0.0, -2.0])
@pytest.mark.parametrize("chunk", [1, 5, 2**21])
def test_the_kernels_for_all_parts_do_what_one_does_for_each(
    scale: float, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    """What a device runs that the host does not look at."""
    parts = [torch.randn(3), None, torch.randn(2, 2), torch.tensor([torch.inf, torch.nan])]
    parts = parts if scale == 0.0 else [*parts[:3], torch.randn(2)]
    targets = [torch.randn(size) for size in ((3,), (1,), (2, 2), (2,))]
    wanted = [target.clone() for target in targets]
    (torch.tensor(scale) * Vector(parts)).add_to(wanted)
    multiples = (torch.tensor(scale) * Vector(parts)).parts
    monkeypatch.setattr("flatminima.vector._on_host", lambda part, scale: False)
    monkeypatch.setattr("flatminima.vector.CHUNK", chunk)
    found = (torch.tensor(scale) * Vector(parts)).parts
    (torch.tensor(scale) * Vector(parts)).add_to(targets)
    assert [part is None for part in found] == [False, True, False, False]
    for one, two in zip([*found, *targets], [*multiples, *wanted], strict=True):
        torch.testing.assert_close(one, two)
