"""The DKA layer against the plain formula and against answers worked by hand."""

import pytest
import torch
from torch.testing import assert_close

from models.dynamic_k import DynamicKLinear
from models.selection import choose_votes


@pytest.fixture(autouse=True)
def _compile_afresh():
    torch.compiler.reset()  # or a function compiled for many shapes in turn reaches the limit of recompilations


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
def test_matches_the_plain_formula(topk, batch):
    torch.manual_seed(topk)
    layer = DynamicKLinear(40, 11, topk=topk)
    x = torch.randn(*batch, 40, requires_grad=True)
    out, expected = layer(x), plain(x, layer.weight, layer.bias, topk)
    assert out.shape == (*batch, 11)
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(grads(layer, out, x), grads(layer, expected, x), strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# (N, K): one group of inputs or many, K on both sides of every limit, N with few divisors
SHAPES = [(12, 5), (31, 4), (48, 13), (256, 1)]
MORE_SHAPES = [(1, 1), (3, 2), (7, 6), (8, 1), (48, 12), (64, 5), (97, 20), (100, 32), (100, 33), (128, 127)]

CASES = {
    "normal": lambda *shape: torch.randn(shape),
    "after relu": lambda *shape: torch.randn(shape).sub(0.5).relu(),
    "few values": lambda *shape: torch.randint(-1, 2, shape).float(),  # ties everywhere, also of 0.0 and -0.0
    "all equal": lambda *shape: torch.full(shape, -1.5),
    "negative zeros": lambda *shape: torch.zeros(shape).copysign(torch.randn(shape)),
    "denormal": lambda *shape: torch.randint(-3, 4, shape) * 2.0**-149,
    "huge": lambda *shape: torch.randn(shape) * 2.0**127,  # +inf and -inf among the votes
    "neighbours": lambda *shape: 1 + torch.randint(0, 3, shape) * 2.0**-23,  # differ in the last bit only
}


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_chooses_the_k_largest_votes(case, mode):
    choose = (
        choose_votes
        if mode == "eager"
        else torch.compile(choose_votes, fullgraph=True, dynamic=False, backend="aot_eager")
    )
    for inputs, topk in SHAPES + MORE_SHAPES * (mode == "eager"):
        torch.manual_seed(inputs)
        x, weight = CASES[case](6, inputs), CASES["few values" if case == "denormal" else case](5, inputs)
        votes = x[:, None] * weight  # (B, C, N)
        chosen = choose(x, weight, topk).transpose(1, 2)  # (B, C, K)
        assert (chosen.sort(2)[0].diff(dim=2) > 0).all(), (inputs, topk)
        values = votes.gather(2, chosen).sort(2, descending=True)[0]
        assert torch.equal(values, votes.topk(topk, 2)[0]), (inputs, topk)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("topk", [1, 5, 20, 40])
def test_nan_propagates_as_in_the_plain_formula(topk, mode):
    """Whatever the sign of the NaN; all other outputs are unchanged."""
    torch.manual_seed(topk)
    layer = DynamicKLinear(96, 7, topk=topk)
    x = torch.randn(4, 96)
    x[1, 50], x[2, 70] = torch.nan, -torch.nan
    with torch.no_grad():
        layer.weight[3, 11] = torch.nan
    forward = layer if mode == "eager" else torch.compile(layer, backend="aot_eager")
    assert_close(forward(x), plain(x, layer.weight, layer.bias, topk), rtol=1e-5, atol=1e-5, equal_nan=True)


def test_k_different_votes_with_denormals_flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("not supported by this processor")
    try:
        chosen = choose_votes(torch.zeros(2, 64), torch.ones(3, 64), 5)
    finally:
        torch.set_flush_denormal(False)
    assert (chosen.sort(1)[0].diff(dim=1) > 0).all()


def test_blocks_make_no_difference(monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(6, 30), torch.randn(13, 30)
    for topk in (4, 20):
        whole = choose_votes(x, weight, topk)
        for elements in (1, 400):  # a row at a time; all rows and two classes, the last block smaller
            monkeypatch.setattr("models.selection.BLOCK_ELEMENTS", elements)
            monkeypatch.setattr("models.selection.CACHED_ELEMENTS", elements // 4)
            assert torch.equal(choose_votes(x, weight, topk), whole)
        monkeypatch.undo()


def test_all_votes_make_a_linear_layer():
    layer = DynamicKLinear(9, 4, topk=9)
    linear = torch.nn.Linear(9, 4)
    linear.load_state_dict(layer.state_dict())
    x = torch.randn(5, 9)
    assert torch.equal(layer(x), linear(x))


def test_gradient_is_exact_in_float64():
    torch.manual_seed(1)
    layer = DynamicKLinear(6, 3, topk=2, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def formula(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(formula, (x, layer.weight, layer.bias))


def test_ties_choose_exactly_k():
    """All votes are equal zeros: K inputs get the class's gradient, however the tie is broken."""
    layer = DynamicKLinear(8, 3, topk=2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    x = torch.zeros(5, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.sum(1).tolist() == [6.0] * 5  # 3 classes, each through 2 votes of weight 1


def test_zero_votes_after_relu():
    """Post-ReLU features with negative weights: the zero votes are the largest ones and are chosen."""
    torch.manual_seed(2)
    layer = DynamicKLinear(32, 6, topk=5)
    x = torch.relu(torch.randn(10, 32) - 1)
    assert_close(layer(x), plain(x, layer.weight, layer.bias, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topk", [0, -1, 10, 2.0, True, None])
def test_rejects_topk_out_of_range(topk):
    with pytest.raises(ValueError, match="topk must be an integer from 1 to in_features = 9"):
        DynamicKLinear(9, 4, topk=topk)


def test_rejects_an_input_of_another_width():
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 9\), got \(2, 8\)"):
        DynamicKLinear(9, 4, topk=3)(torch.randn(2, 8))


def test_repr_shows_k_and_bias_is_optional():
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


@pytest.mark.parametrize("topk", [1, 3, 20, 32])  # passes, in blocks, a linear layer
def test_compiles_without_graph_breaks(topk):
    torch.manual_seed(4)
    layer = DynamicKLinear(32, 7, topk=topk)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (6, 3, 1):
        x = torch.randn(batch, 32, requires_grad=True)
        out, expected = compiled(x), layer(x)
        assert_close(out, expected)
        for ours, theirs in zip(grads(layer, out, x), grads(layer, expected, x), strict=True):
            assert_close(ours, theirs)
        with torch.no_grad():
            assert_close(compiled(x), expected)


def test_needs_a_tenth_of_the_plain_formulas_memory():
    """At 33.6 million votes a tenth is 27 MB; the plain formula's votes alone are 134 MB."""
    layer = DynamicKLinear(512, 256, topk=5)
    x = torch.randn(256, 512, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        layer(x).sum().backward()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak < 27e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_matches_cpu():
    torch.manual_seed(5)
    layer = DynamicKLinear(64, 20, topk=5)
    x = torch.randn(16, 64, requires_grad=True)
    expected, expected_grads = layer(x), grads(layer, layer(x), x)
    layer.cuda()
    y = x.detach().cuda().requires_grad_()
    assert_close(layer(y).cpu(), expected)
    for ours, theirs in zip(grads(layer, layer(y), y), expected_grads, strict=True):
        assert_close(ours.cpu(), theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("topk", [5, 40])
def test_never_stores_all_votes_on_a_gpu(topk):
    layer = DynamicKLinear(512, 512, topk=topk).cuda()
    x = torch.randn(256, 512, device="cuda", requires_grad=True)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    layer(x).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 4 * 256 * 512 * 512  # bytes of all votes
