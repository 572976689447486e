"""The DKA layer against the plain formula and against answers worked by hand."""

import pytest
import torch
from torch.testing import assert_close

from models.dynamic_k import DynamicKLinear


def plain(x, weight, bias, topk):
    """The formula as the paper writes it, with the whole (..., C, N) vote tensor."""
    return (x[..., None, :] * weight).topk(topk, -1)[0].sum(-1) + bias


def grads(layer, out, x):
    return torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])


def test_worked_by_hand():
    layer = DynamicKLinear(3, 2, topk=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0, 2.0], [-3.0, -1.0, -2.0]]))
        layer.bias.copy_(torch.tensor([0.5, -0.5]))
    x = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 2.0]], requires_grad=True)
    # votes of example 0: class 0 (1, -2, 6), class 1 (-3, -2, -6); of example 1: (-1, 0, 4), (3, 0, -4)
    out = layer(x)
    assert_close(out, torch.tensor([[7.5, -5.5], [4.5, 2.5]]))
    out.sum().backward()
    # chosen: example 0: class 0 {0, 2}, class 1 {0, 1}; example 1: class 0 {1, 2}, class 1 {0, 1}
    assert_close(x.grad, torch.tensor([[1.0 - 3.0, -1.0, 2.0], [-3.0, -1.0 - 1.0, 2.0]]))
    assert_close(layer.weight.grad, torch.tensor([[1.0, 0.0, 3.0 + 2.0], [1.0 - 1.0, 2.0 + 0.0, 0.0]]))
    assert_close(layer.bias.grad, torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("topk", [1, 2, 5, 17, 40])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3), (0,)])
def test_equals_plain_formula(topk, batch):
    torch.manual_seed(topk)
    layer = DynamicKLinear(40, 11, topk=topk)
    x = torch.randn(*batch, 40, requires_grad=True)
    out, expected = layer(x), plain(x, layer.weight, layer.bias, topk)
    assert out.shape == (*batch, 11)
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(grads(layer, out, x), grads(layer, expected, x), strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_blocks_make_no_difference(monkeypatch):
    torch.manual_seed(0)
    layer = DynamicKLinear(30, 13, topk=4)
    x = torch.randn(6, 30, requires_grad=True)
    whole = layer(x)
    expected = grads(layer, whole, x)
    monkeypatch.setattr("models.dynamic_k.BLOCK_ELEMENTS", 400)  # two outputs at a time, the last block shorter
    assert_close(layer(x), whole)
    for ours, theirs in zip(grads(layer, layer(x), x), expected, strict=True):
        assert_close(ours, theirs)


def test_all_votes_are_a_linear_layer():
    layer = DynamicKLinear(9, 4, topk=9)
    linear = torch.nn.Linear(9, 4)
    linear.load_state_dict(layer.state_dict())
    x = torch.randn(5, 9)
    assert torch.equal(layer(x), linear(x))


def test_gradient_is_exact_in_float64():
    torch.manual_seed(1)
    layer = DynamicKLinear(6, 3, topk=2, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,)),
                                    (x, layer.weight, layer.bias))  # fmt: skip


def test_ties_choose_exactly_k():
    """All votes are equal zeros: K inputs get the class's gradient, however the tie is broken."""
    layer = DynamicKLinear(8, 3, topk=2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    x = torch.zeros(5, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.sum(1).tolist() == [6.0] * 5  # 3 classes, each through 2 votes of weight 1


def test_relu_zeros():
    """Post-ReLU features with negative weights: the zero votes are the largest ones and are chosen."""
    torch.manual_seed(2)
    layer = DynamicKLinear(32, 6, topk=5)
    x = torch.relu(torch.randn(10, 32) - 1)
    assert_close(layer(x), plain(x, layer.weight, layer.bias, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topk", [0, -1, 10, 2.0, True, None])
def test_topk_out_of_range(topk):
    with pytest.raises(ValueError, match="topk must be an integer from 1 to in_features = 9"):
        DynamicKLinear(9, 4, topk=topk)


def test_input_of_another_width():
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 9\), got \(2, 8\)"):
        DynamicKLinear(9, 4, topk=3)(torch.randn(2, 8))


def test_shows_k_and_can_do_without_bias():
    layer = DynamicKLinear(9, 4, bias=False, topk=3)
    assert repr(layer) == "DynamicKLinear(in_features=9, out_features=4, bias=False, topk=3)"
    x = torch.randn(2, 9)
    assert_close(layer(x), plain(x, layer.weight, 0.0, 3))


def test_autocast_votes_in_float32():
    torch.manual_seed(3)
    layer = DynamicKLinear(64, 5, topk=3)
    x = torch.randn(8, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32
    assert_close(out, plain(x.float(), layer.weight, layer.bias, 3), rtol=1e-5, atol=1e-5)


def test_compiles_without_graph_breaks():
    torch.manual_seed(4)
    layer = DynamicKLinear(32, 7, topk=3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 32, requires_grad=True)
    out = compiled(x)
    assert_close(out, layer(x))
    for ours, theirs in zip(grads(layer, out, x), grads(layer, layer(x), x), strict=True):
        assert_close(ours, theirs)


def test_no_tensor_as_large_as_all_votes():
    """B x C x N = 8.4 million votes; nothing that training allocates comes near it."""
    layer = DynamicKLinear(256, 256, topk=2)
    x = torch.randn(128, 256, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        layer(x).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events() if event.name.startswith("aten::"))
    assert 0 < largest < 0.25 * 4 * 128 * 256 * 256


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu():
    torch.manual_seed(5)
    layer = DynamicKLinear(64, 20, topk=5)
    x = torch.randn(16, 64, requires_grad=True)
    expected, expected_grads = layer(x), grads(layer, layer(x), x)
    layer.cuda()
    y = x.detach().cuda().requires_grad_()
    assert_close(layer(y).cpu(), expected)
    for ours, theirs in zip(grads(layer, layer(y), y), expected_grads, strict=True):
        assert_close(ours.cpu(), theirs)
