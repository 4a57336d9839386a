from __future__ import annotations

import pytest
import torch

from spikeformers.energy.counting import operations


@pytest.mark.parametrize(
    "name",
    ["mm", "addmm", "bmm", "baddbmm", "matmul", "mv", "dot", "linear", "convolution", "einsum",
     "_scaled_dot_product_flash_attention_for_cpu", "_int_mm", "_scaled_mm", "mkldnn_linear"],
)  # fmt: skip
def test_products_are_known_by_name(name: str) -> None:
    assert operations.is_product(name)


@pytest.mark.parametrize(
    "name", ["cummax", "mul", "_to_copy", "_softmax", "convert", "addcmul", "remainder", "linspace"]
)
def test_other_operations_are_no_products(name: str) -> None:
    assert not operations.is_product(name)


def test_macs() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    assert operations.macs_of("mm", (a, b), a @ b) == 2 * 3 * 5
    assert operations.macs_of("addmm", (torch.zeros(5), a, b), a @ b) == 2 * 3 * 5
    a, b = torch.zeros(4, 2, 3), torch.zeros(4, 3, 5)
    assert operations.macs_of("bmm", (a, b), torch.bmm(a, b)) == 4 * 2 * 3 * 5
    q, k = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4)
    assert operations.macs_of("_scaled_dot_product_x", (q, k, k), q) == 2 * 3 * 5 * (4 + 4)
    x, w = torch.zeros(1, 3, 8, 8), torch.zeros(6, 3, 3, 3)
    out = torch.nn.functional.conv2d(x, w)
    assert operations.macs_of("convolution", (x, w), out) == 6 * 6 * 6 * 27
    assert operations.macs_of("addbmm", (x, *map(torch.zeros_like, (a, b))), a) == 4 * 2 * 3 * 5


def test_elementwise() -> None:
    x = torch.ones(2, 3)

    def of(name: str, *args: object, out: torch.Tensor = x, **kwargs: object) -> dict[str, int]:
        return operations.elementwise(name, args, kwargs, out)

    assert of("add", x, x) == {"add": 6}
    assert of("mul", x, x) == {"mult": 6}
    assert of("div", x, 2.0) == {"mult": 6}
    assert of("div", x, x) == {"function": 6}
    assert of("pow", x, 3.0) == {"mult": 12}
    assert of("pow", x, 0.5) == {"function": 6}
    assert of("sum", x, out=x.sum()) == {"add": 5, "mult": 0}
    assert of("mean", x, out=x.mean()) == {"add": 5, "mult": 1}
    assert of("gelu", x) == {"mult": 18, "add": 6, "function": 6}
    assert of("_softmax", x) == {"compare": 6, "function": 12, "add": 6}
    assert of("view", x) == {}
    assert of("add", x.long(), out=x.long()) == {}
