"""The K largest votes and their sum: the compiled kernel and PyTorch's operators against the formula."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import CASES
from torch.testing import assert_close

from models import kernel
from models.dynamic_k import DynamicKLinear
from models.selection import choose_votes, sum_of_largest

needs_kernel = pytest.mark.skipif(not kernel.available(), reason="needs a C++ compiler")
TOLERANCE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture(params=[pytest.param("kernel", marks=needs_kernel), "operators"])
def way(request, monkeypatch):
    if request.param == "operators":
        monkeypatch.setattr(kernel, "available", lambda: False)
    torch.compiler.reset()
    return request.param


def formula(x, weight, topk):
    """As the paper writes it, with the whole (B, C, N) vote tensor."""
    return (x[:, None] * weight).topk(topk, 2)[0].sum(2)


def of_kernel(x, weight, topk):
    """Sums (B, C) and chosen inputs (B, K, C)."""
    out, chosen = torch.ops.dynamic_k.sum_of_largest(x, weight, topk)
    return out, chosen.long()


def check(x, weight, topk):
    """The kernel against the formula: what it chose, the sums, the gradients."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out, chosen = of_kernel(x, weight, topk)
    votes = (x[:, None] * weight).detach()  # (B, C, N)
    assert chosen.shape == (len(x), topk, len(weight))
    assert (chosen.sort(1)[0].diff(dim=1) > 0).all()
    assert ((chosen >= 0) & (chosen < x.shape[1])).all()
    values = votes.gather(2, chosen.transpose(1, 2)).sort(2, descending=True)[0]  # (B, C, K)
    assert torch.equal(values.nan_to_num(nan=7e37), votes.topk(topk, 2)[0].nan_to_num(nan=7e37))
    again = kernel.sum_of_chosen(x, weight, chosen)
    scale = values.double().nan_to_num(0, 0, 0).abs().sum(2)
    same = ((out - again).abs() <= 1e-6 * scale) | (out == again) | (out.isnan() & again.isnan())
    assert (same | (scale > 1e38)).all()  # above, the order of additions decides whether a sum overflows
    grad = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(each, (x, weight), grad) for each in (out, again))
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their, equal_nan=True, **TOLERANCE)


@needs_kernel
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_kernel_equals_formula(data):
    case = data.draw(st.sampled_from(list(CASES)))
    torch.manual_seed(data.draw(st.integers(0, 1 << 20), label="seed"))
    batch, classes = data.draw(st.sampled_from([0, 1, 3, 20])), data.draw(st.sampled_from([1, 5, 33, 70]))
    inputs = data.draw(st.one_of(st.integers(1, 80), st.sampled_from([128, 255, 512, 600])), label="N")
    topk = data.draw(st.one_of(st.integers(1, inputs), st.integers(1, min(6, inputs)), st.just(inputs)), label="K")
    of_weights = data.draw(st.sampled_from(["normal", "few values", case]))
    check(CASES[case](batch, inputs), CASES[of_weights](classes, inputs), topk)


@needs_kernel
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_input(case):
    torch.manual_seed(0)
    for batch, classes, inputs, topk in ((3, 40, 200, 1), (20, 5, 100, 5), (4, 33, 512, 20), (2, 7, 300, 70)):
        check(CASES[case](batch, inputs), CASES[case](classes, inputs), topk)
        check(CASES[case](batch, inputs), CASES["normal"](classes, inputs), topk)


@needs_kernel
@pytest.mark.parametrize("positive", [0, 3, 8, 30])  # of 512 inputs: none, fewer than K, as many, more
@pytest.mark.parametrize("topk", [1, 8, 40])
def test_zeros_follow_the_positive_votes_in_order(positive, topk):
    torch.manual_seed(positive)
    x, weight = torch.zeros(3, 512), torch.rand(5, 512)
    places = torch.randperm(512)[:positive]
    x[:, places] = torch.rand(3, positive)
    x[:, -1] = -1  # a negative vote, which comes last
    expected = (x[:, None] * weight).sort(dim=2, descending=True, stable=True)[1][..., :topk]  # (B, C, K)
    chosen = of_kernel(x, weight, topk)[1].transpose(1, 2)
    assert torch.equal(chosen.sort(2)[0], expected.sort(2)[0])
    check(x, weight, topk)


@needs_kernel
@pytest.mark.parametrize("case", ["few values", "nearly all zero", "all equal", "zeros"])
def test_the_first_of_equal_votes_are_chosen(case):
    """As `DynamicKLinear.chosen` says, which explanations go by."""
    torch.manual_seed(0)
    for inputs, topk in ((70, 1), (70, 9), (300, 5), (300, 50)):
        layer = DynamicKLinear(inputs, 6, topk=topk)
        x = CASES[case](4, inputs)
        with torch.no_grad():
            layer.weight.copy_(CASES["few values"](6, inputs))
        chosen = of_kernel(x, layer.weight, topk)[1].transpose(1, 2)  # (B, C, K)
        for c in range(6):
            expected = layer.chosen(x, torch.full((4,), c))
            assert torch.equal(torch.zeros_like(expected).scatter_(1, chosen[:, c], True), expected)


@needs_kernel
def test_every_k():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 70).relu(), torch.randn(4, 70)
    for topk in range(1, 71):
        check(x, weight, topk)
        check(x[:1], weight[:1, :], topk)


@needs_kernel
@pytest.mark.parametrize("inputs", [32768, 32769])
def test_many_inputs(inputs):
    """Positions up to 32767 are stored in two bytes, others in four."""
    torch.manual_seed(0)
    x, weight = torch.rand(1, inputs), torch.rand(2, inputs)
    x[:, -1] = weight[:, -1] = 2
    for topk in (1, 300):
        check(x, weight, topk)
        assert (of_kernel(x, weight, topk)[1] == inputs - 1).any(1).all()


@needs_kernel
@pytest.mark.parametrize("topk", [1, 5, 13, 20, 32])
@pytest.mark.parametrize("classes", [3, 16, 33, 70])
def test_with_and_without_kernel_to_the_bit(topk, classes):
    """So that a machine without a compiler trains the same network."""
    if "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("torch.sum adds in another order on this processor")
    torch.manual_seed(topk)
    x, weight = torch.randn(40, 64, requires_grad=True), torch.randn(classes, 64, requires_grad=True)
    grad = torch.randn(40, classes)
    out = of_kernel(x, weight, topk)[0]
    reference = kernel.sum_of_chosen(x, weight, choose_votes(x.detach(), weight.detach(), topk))
    assert torch.equal(out, reference)
    ours, theirs = (torch.autograd.grad(each, (x, weight), grad) for each in (out, reference))
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))


@needs_kernel
def test_threads_make_no_difference():
    torch.manual_seed(0)
    x, weight = torch.randn(130, 128, requires_grad=True), torch.randn(70, 128, requires_grad=True)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = of_kernel(x, weight, 5)[0]
            results.append([out, *torch.autograd.grad(out.square().sum(), (x, weight))])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


def test_not_contiguous(way):
    torch.manual_seed(0)
    x = torch.randn(48, 12).t().requires_grad_()
    weight = torch.randn(7, 96)[:, ::2].requires_grad_()
    out, expected = sum_of_largest(x, weight, 5), formula(x, weight, 5)
    assert_close(out, expected, **TOLERANCE)
    expanded = torch.randn(1, 48).expand(12, 48)
    assert_close(sum_of_largest(expanded, weight, 5), formula(expanded, weight, 5), **TOLERANCE)
    for grad in (torch.ones(()).expand(12, 7), torch.randn(7, 12).t()):
        ours, theirs = (torch.autograd.grad(each, (x, weight), grad, retain_graph=True) for each in (out, expected))
        for our, their in zip(ours, theirs, strict=True):
            assert_close(our, their, **TOLERANCE)


def test_gradient_of_one_only(way):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 30), torch.randn(5, 30)
    both = torch.autograd.grad(
        sum_of_largest(x.requires_grad_(), weight.requires_grad_(), 3).square().sum(), (x, weight)
    )
    for index, one in enumerate((x, weight)):
        other = weight if one is x else x
        other.requires_grad_(False)
        (alone,) = torch.autograd.grad(sum_of_largest(x, weight, 3).square().sum(), one)
        assert torch.equal(alone, both[index])
        other.requires_grad_()


def test_second_derivatives(way):
    """Gradient penalties need them."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 30, requires_grad=True), torch.randn(5, 30, requires_grad=True)

    def penalty(function):
        grads = torch.autograd.grad(function(x, weight, 3).pow(3).sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), (x, weight))

    for ours, theirs in zip(penalty(sum_of_largest), penalty(formula), strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradient_is_exact_in_float64():
    torch.manual_seed(1)
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (2, 8)))
    for topk in (1, 3, 8):
        assert torch.autograd.gradcheck(lambda x, w, k=topk: sum_of_largest(x, w, k), (x, weight))


@needs_kernel
def test_are_proper_operators():
    x, weight = torch.randn(4, 30, requires_grad=True), torch.randn(5, 30, requires_grad=True)
    torch.library.opcheck(torch.ops.dynamic_k.sum_of_largest.default, (x, weight, 3))
    grad, chosen = torch.randn(4, 5, requires_grad=True), torch.ops.dynamic_k.sum_of_largest(x, weight, 3)[1]
    backward = torch.ops.dynamic_k.sum_of_largest_backward.default
    for needs in ((True, True), (True, False)):
        torch.library.opcheck(backward, (grad, chosen, x, weight, *needs), test_utils="test_schema")
        torch.library.opcheck(backward, (grad, chosen, x, weight, *needs), test_utils="test_faketensor")


@needs_kernel
@pytest.mark.parametrize(
    ("x", "weight", "topk"),
    [
        (torch.ones(2, 4), torch.ones(3, 4), 0),
        (torch.ones(2, 4), torch.ones(3, 4), 5),
        (torch.ones(2, 4), torch.ones(3, 5), 1),
        (torch.ones(4), torch.ones(3, 4), 1),
        (torch.ones(2, 0), torch.ones(3, 0), 1),
        (torch.ones(2, 4).double(), torch.ones(3, 4), 1),
        (torch.ones(2, 4), torch.ones(3, 4).half(), 1),
    ],
)
def test_refuses_what_does_not_fit(x, weight, topk):
    """Past the end of a tensor is whatever memory holds."""
    with pytest.raises(ValueError, match="expected"):
        kernel.sum_of_largest(x, weight, topk)


@needs_kernel
def test_backward_refuses_what_does_not_fit():
    x, weight = torch.ones(2, 4), torch.ones(3, 4)
    out, chosen = torch.ops.dynamic_k.sum_of_largest(x, weight, 2)
    for grad in (out[:1], out.double(), torch.ones(2, 4)):
        with pytest.raises(ValueError, match="grad is"):
            torch.ops.dynamic_k.sum_of_largest_backward(grad, chosen, x, weight, True, True)


@pytest.mark.parametrize("topk", [3, 20])
def test_compiles_without_graph_breaks(way, topk):
    torch.manual_seed(0)
    layer = DynamicKLinear(32, 7, topk=topk)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (6, 3):
        x = torch.randn(batch, 32, requires_grad=True)
        out, expected = compiled(x), layer(x)
        assert_close(out, expected)
        ours, theirs = (torch.autograd.grad(each.square().sum(), [x, *layer.parameters()]) for each in (out, expected))
        for our, their in zip(ours, theirs, strict=True):
            assert_close(our, their)


def formula_with_bias(layer, x):
    return formula(x, layer.weight, layer.topk) + layer.bias


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transformed_by_torch_func_and_differentiated_forward(way):
    """Where neither has a rule for the kernel, nothing is silently zero."""
    torch.manual_seed(0)
    layer, x, direction = DynamicKLinear(30, 7, topk=3), torch.randn(4, 30), torch.randn(4, 30)
    expected = torch.func.jvp(lambda x: formula_with_bias(layer, x), (x,), (direction,))
    for ours, theirs in zip(torch.func.jvp(layer, (x,), (direction,)), expected, strict=True):
        assert_close(ours, theirs)
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, direction))
        assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected[1])
    assert_close(torch.func.vmap(layer)(x), layer(x))
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    whole = torch.func.grad(loss)(parameters, x)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)  # per example
    loss(parameters, x).backward()
    for name, parameter in parameters.items():
        assert_close(whole[name], parameter.grad)
        assert_close(each[name].sum(0), parameter.grad)
    assert_close(torch.func.jacrev(layer)(x[0]), torch.func.jacfwd(layer)(x[0]))


def test_an_exported_program_needs_no_operator_of_ours(way):
    layer, x = DynamicKLinear(30, 7, topk=3), torch.randn(4, 30)
    program = torch.export.export(layer, (x,))
    assert not [node for node in program.graph.nodes if "dynamic_k" in str(node.target)]
    assert_close(program.module()(x), layer(x))


def test_inference_mode_and_autocast(way):
    torch.manual_seed(0)
    layer, x = DynamicKLinear(64, 5, topk=3), torch.randn(8, 64)
    expected = layer(x)
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        assert_close(layer(x.bfloat16()), formula_with_bias(layer, x.bfloat16().float()), **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_votes_in_float32(way, dtype):
    torch.manual_seed(0)
    layer = DynamicKLinear(64, 5, topk=3).to(dtype)
    x = torch.randn(8, 64, dtype=dtype, requires_grad=True)
    out = layer(x)
    expected = formula(x.float(), layer.weight.float(), 3) + layer.bias
    assert out.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    out.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_flushing_denormals_makes_no_difference(way):
    if not torch.set_flush_denormal(True):
        pytest.skip("not supported by this processor")
    try:
        out = sum_of_largest(torch.full((2, 64), 2.0**-100), torch.full((3, 64), 2.0**-40), 5)
    finally:
        torch.set_flush_denormal(False)
    assert (out == 0).all()


@needs_kernel
@pytest.mark.parametrize("topk", [1, 5, 20, 50])
def test_adds_little_memory(topk):
    """At most 2 % of the formula's, whose votes alone are 134 MB; it holds them three times."""
    layer = DynamicKLinear(512, 256, topk=topk)
    x = torch.randn(256, 512, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        layer(x).sum().backward()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak <= 0.02 * 3 * 4 * 256 * 256 * 512


# --- Triton -------------------------------------------------------------------------------------------------------

INTERPRETED = """
import sys
import torch
from models.triton_kernel import choose_votes
sys.path.insert(0, "tests")
from kinds import CASES
torch.manual_seed(0)
for name, case in CASES.items():
    for batch, classes, inputs, topk in ((1, 17, 70, 3), (2, 2, 5, 5), (0, 3, 16, 2)):
        x, weight = case(batch, inputs), case(classes, inputs)
        votes = x[:, None] * weight
        chosen = choose_votes(x, weight, topk).transpose(1, 2)
        expected = votes.nan_to_num(nan=torch.inf).sort(dim=2, descending=True, stable=True)[1][..., :topk]
        if "infinite" in name or "not a number" in name or name == "huge":
            votes, chosen, expected = votes.nan_to_num(nan=7e37), votes.gather(2, chosen), votes.topk(topk, 2)[0]
            chosen, expected = chosen.nan_to_num(nan=7e37), expected.nan_to_num(nan=7e37)
        assert torch.equal(chosen, expected), name
"""


def test_triton_kernel_in_the_interpreter():
    """Which it chooses, and in which order: descending, the first of equal votes first."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_triton_kernel_on_a_gpu(case):
    from models import triton_kernel

    torch.manual_seed(0)
    for topk in (1, 5, 20):
        x, weight = CASES[case](40, 300).cuda(), CASES[case](33, 300).cuda()
        votes = x[:, None] * weight
        chosen = triton_kernel.choose_votes(x, weight, topk).transpose(1, 2)
        assert (chosen.sort(2)[0].diff(dim=2) > 0).all()
        values = votes.gather(2, chosen)
        assert torch.equal(values.nan_to_num(7e37), votes.topk(topk, 2)[0].nan_to_num(7e37))
