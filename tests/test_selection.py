"""The K largest votes and their sum: the compiled kernel and PyTorch's operators against the formula."""

import multiprocessing
import os
import stat
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
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


CASES = {
    "normal": lambda *shape: torch.randn(shape),
    "after relu": lambda *shape: torch.randn(shape).relu(),
    "nearly all zero": lambda *shape: torch.randn(shape).sub(2).relu(),
    "negative": lambda *shape: -torch.rand(shape),
    "few values": lambda *shape: torch.randint(-1, 2, shape).float(),  # ties everywhere, also of 0.0 and -0.0
    "all equal": lambda *shape: torch.full(shape, -1.5),
    "zeros": lambda *shape: torch.zeros(shape).copysign(torch.randn(shape)),
    "denormal": lambda *shape: torch.randint(-3, 4, shape) * 2.0**-149,
    "tiny": lambda *shape: torch.randn(shape) * 2.0**-70,  # products are denormal
    "huge": lambda *shape: torch.randn(shape) * 2.0**127,  # products are infinite
    "all scales": lambda *shape: torch.randn(shape) * 2.0 ** torch.randint(-60, 60, shape),
    "neighbours": lambda *shape: 1 + torch.randint(0, 3, shape) * 2.0**-23,  # differ in the last bit only
    "infinite": lambda *shape: torch.where(torch.rand(shape) < 0.1, torch.randn(shape) / 0, torch.randn(shape)),
    "not a number": lambda *shape: torch.where(torch.rand(shape) < 0.1, torch.nan, torch.randn(shape).relu()),
}


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
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_kernel_equals_formula(case, data):
    torch.manual_seed(data.draw(st.integers(0, 1 << 20), label="seed"))
    batch, classes = data.draw(st.sampled_from([0, 1, 3, 20])), data.draw(st.sampled_from([1, 5, 33, 70]))
    inputs = data.draw(st.one_of(st.integers(1, 80), st.sampled_from([128, 255, 512, 600])), label="N")
    topk = data.draw(st.one_of(st.integers(1, inputs), st.integers(1, min(6, inputs)), st.just(inputs)), label="K")
    of_weights = data.draw(st.sampled_from(["normal", "few values", case]))
    check(CASES[case](batch, inputs), CASES[of_weights](classes, inputs), topk)


@needs_kernel
def test_every_k():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 70).relu(), torch.randn(4, 70)
    for topk in range(1, 71):
        check(x, weight, topk)


@needs_kernel
@pytest.mark.parametrize("inputs", [1280, 32768, 32769])
def test_many_inputs(inputs):
    """Positions up to 32767 are stored in two bytes, others in four."""
    torch.manual_seed(0)
    x, weight = torch.rand(2, inputs), torch.rand(3, inputs)
    x[:, -1] = weight[:, -1] = 2
    for topk in (1, 5, 300):
        check(x, weight, topk)
        assert (of_kernel(x, weight, topk)[1] == inputs - 1).any(1).all()


@needs_kernel
@pytest.mark.parametrize("topk", [1, 2, 5, 13, 20, 32])
@pytest.mark.parametrize("classes", [3, 16, 33, 200])
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
def test_is_a_proper_operator():
    x, weight = torch.randn(4, 30, requires_grad=True), torch.randn(5, 30, requires_grad=True)
    torch.library.opcheck(torch.ops.dynamic_k.sum_of_largest.default, (x, weight, 3))


@pytest.mark.parametrize("topk", [1, 3, 20])
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
from test_selection import CASES
torch.manual_seed(0)
for name, case in CASES.items():
    for batch, classes, inputs, topk in ((3, 5, 70, 1), (2, 17, 70, 7), (2, 3, 16, 16), (0, 3, 16, 2), (1, 2, 130, 20)):
        x, weight = case(batch, inputs), case(classes, inputs)
        votes = x[:, None] * weight
        chosen = choose_votes(x, weight, topk).transpose(1, 2)
        assert (chosen.sort(2)[0].diff(dim=2) > 0).all(), name
        values = votes.gather(2, chosen)
        assert torch.equal(values.nan_to_num(7e37), votes.topk(topk, 2)[0].nan_to_num(7e37)), name
"""


def test_triton_kernel_in_the_interpreter():
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


# --- processes, compilers, caches ---------------------------------------------------------------------------------


def layer_in_a_process(queue):
    torch.manual_seed(0)
    layer, x = DynamicKLinear(128, 70, topk=5), torch.randn(130, 128, requires_grad=True)
    layer(x).square().sum().backward()
    queue.put((kernel.available(), layer.weight.grad.sum().item()))


@needs_kernel
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_other_processes(method):
    """Also where the parent has threads, which a fork does not copy."""
    context = multiprocessing.get_context(method)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        queue = context.Queue()
        of_kernel(torch.randn(130, 128), torch.randn(70, 128), 5)
        process = context.Process(target=layer_in_a_process, args=(queue,))
        process.start()
        there, total = queue.get(timeout=100)
        process.join()
        own = context.Queue()
        layer_in_a_process(own)
        assert (there, total) == own.get(timeout=10)
    finally:
        torch.set_num_threads(threads)


PROGRAM = """
import torch
from models import kernel
from models.dynamic_k import DynamicKLinear
torch.manual_seed(0)
layer = DynamicKLinear(64, 40, topk=5)
x = torch.randn(30, 64)
for _ in range(2):
    out = layer(x)
print(kernel.available(), out.double().sum().item(), layer.weight.sum().item())
"""


def start(cache, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.split()[0] == "True", out.split()[1:], err


def test_without_a_compiler(tmp_path):
    there, results, err = finish(start(tmp_path, PATH="", CXX=""))
    assert not there
    assert err == (
        "DKA head: no compiled kernel (no C++ compiler found); PyTorch's operators choose the votes, more slowly\n"
    )
    assert finish(start(tmp_path, DKA_KERNEL="0")) == (False, results, "")
    if kernel.available():
        assert finish(start(tmp_path / "other")) == (True, results, "")


def test_with_a_compiler_that_fails(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no such processor" >&2\nexit 1\n')
    compiler.chmod(0o755)
    there, _, err = finish(start(tmp_path / "cache", CXX=str(compiler)))
    assert not there
    assert err.splitlines() == [
        f"DKA head: no compiled kernel ({compiler} failed: no such processor); "
        "PyTorch's operators choose the votes, more slowly"
    ]
    assert not list((tmp_path / "cache" / "dynamic_k").iterdir())


@needs_kernel
def test_processes_that_compile_at_once(tmp_path):
    processes = [start(tmp_path) for _ in range(3)]
    results = [finish(process) for process in processes]
    assert results[0][0] and all(result == results[0] for result in results)
    (library,) = (tmp_path / "dynamic_k").iterdir()
    # A cached library is used, a damaged one is replaced.
    before = library.stat().st_mtime_ns
    assert finish(start(tmp_path)) == results[0]
    assert library.stat().st_mtime_ns == before
    library.write_bytes(b"damaged")
    assert finish(start(tmp_path)) == results[0]
    assert library.stat().st_size > 10_000


@needs_kernel
def test_a_cache_that_others_can_write_to_is_not_used(tmp_path):
    folder = tmp_path / "dynamic_k"
    folder.mkdir()
    folder.chmod(0o777)
    assert finish(start(tmp_path))[0]
    assert not list(folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777


@needs_kernel
def test_without_a_place_for_a_cache(tmp_path):
    (tmp_path / "file").write_text("")
    assert finish(start(tmp_path / "file"))[0]
