# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own operator and module samples, computed without and with libhalftone_cpu_gemm.so.

  operator_samples.py LIBRARY [--paths CHOICE ...] [--only REGEX] [--all]

Each sample of an operator or module that calls a kernel of the library runs forward, backward, with out=, in place and
under autocast, in bf16 and fp16; convolutions, attention and products of more shapes and layouts join them. With the
library, shapes, dtypes, strides and exceptions must be those without it. On the path native the bits must be, too. On
the path upcast no product may be farther from fp64 than without the library by more than one rounding. What rounds
several times on its way, such as a gradient or a module, must be no farther on the average of its samples. Exit status
77, with the reason, where Python has no PyTorch of the release that the library was built with; HALFTONE_PYTHON names
another Python.
"""

import argparse
import collections
import math
import os
import pathlib
import re
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "support"))
from other_python import SKIPPED, run_in_named_python, skip

SAMPLES = 32  # of an operator or module and dtype, at most, evenly chosen
# Every backward product of its own path: gradients by input and by weight part there.
PATHS = ("native,blas", "upcast,blas", "native,blas," + ",".join(
    f"{dtype}.{product}=upcast" for dtype in ("bf16", "fp16")
    for product in ("input_gradient", "attention", "convolution_weight_gradient")))

run_in_named_python()
warnings.simplefilter("ignore")
try:
    import torch
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db
except ImportError as error:
    skip(f"{sys.executable} cannot import PyTorch and its samples ({error}); HALFTONE_PYTHON names another Python")

import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

HALVES = (torch.bfloat16, torch.float16)
REPLACED = re.compile(
    r"aten::(mm|addmm_?|bmm|baddbmm_?|_addmm_activation|convolution|convolution_backward|mkldnn_rnn_layer|"
    r"_scaled_dot_product_flash_attention_for_cpu|_scaled_dot_product_flash_attention_for_cpu_backward)(\.out)?")
# One product, rounded once: element by element it can be no worse. The rest rounds in between, at the whim of chance.
ONE_PRODUCT = re.compile(
    r"(mm|bmm|addmm|baddbmm|matmul|nn_functional_linear|nn_functional_conv\w+|products?|convolution) .*"
    r"(forward|out.*|in place.*)")
NO_INSTRUCTIONS = "could not create a primitive descriptor"


# ---- calls, and what comes of them

def is_tensor(value):
    return isinstance(value, torch.Tensor)


def is_half(value):
    return is_tensor(value) and value.dtype in HALVES


def tensors_in(value):
    return [leaf for leaf in tree_flatten(value)[0] if is_tensor(leaf)]


def twin(value):
    """The same tensor in memory of its own, strides and overlaps included."""
    if not is_tensor(value):
        return value
    if value.layout != torch.strided or type(value) not in (torch.Tensor, torch.nn.Parameter):
        return value.detach().clone().requires_grad_(value.requires_grad)
    other = torch.empty(0, dtype=value.dtype)
    other.set_(value.untyped_storage().clone(), value.storage_offset(), value.size(), value.stride())
    return other.requires_grad_(value.requires_grad)


def exact_twin(value):
    """The same numbers in fp64."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value in HALVES else value
    # Dense: LibTorch's attention reads beside a transposed query.
    return value.detach().double().contiguous().requires_grad_(value.requires_grad) if is_half(value) else twin(value)


class Outcome:
    """The tensors of a call, or the exception that it threw."""

    def __init__(self, call):
        torch.manual_seed(7)
        self.error, self.tensors = None, []
        try:
            self.tensors = [tensor.detach() for tensor in call()]
        except Exception as thrown:  # the exception is the outcome
            self.error = f"{type(thrown).__name__}: {str(thrown).split(chr(10))[0]}"

    def form(self):
        """What must be the same on every path."""
        return self.error or [(tuple(t.shape), t.dtype, t.stride() if t.layout == torch.strided else t.layout)
                              for t in self.tensors]


class Case:
    """A call that can be made again: `run` takes the arguments, which are copied for each call."""

    def __init__(self, name, run, args, kwargs=None):
        self.name, self.run, self.args, self.kwargs = name, run, args, kwargs or {}

    def outcome(self, copied=twin):
        args, kwargs = tree_map(copied, (self.args, self.kwargs))
        return Outcome(lambda: self.run(args, kwargs))


def gradients_of(results, leaves):
    """Those of a sum of the results with weights that are small whole numbers, the same in every format."""
    roots = [r for r in results if r.requires_grad]
    if not roots or not leaves:
        return []
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randint(-2, 3, r.shape, generator=generator).to(r.dtype) for r in roots]
    found = torch.autograd.grad(roots, leaves, weights, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def with_gradients(function):
    def run(args, kwargs):
        leaves = [t for t in tensors_in((args, kwargs)) if t.requires_grad]
        results = tensors_in(function(*args, **kwargs))
        return results + gradients_of(results, leaves)
    return run


def plainly(function):
    return lambda args, kwargs: tensors_in(function(*args, **kwargs))


def into_out(function):
    def run(args, kwargs):
        returned = function(*args, **kwargs)
        assert returned is kwargs["out"]
        return [returned]
    return run


# ---- the samples of torch.testing

def expanded(tensor):
    """Of the same shape, with every row the first one."""
    return tensor[:1].expand(tensor.shape) if tensor.dim() else tensor


def transposed(tensor):
    order = tuple(reversed(range(tensor.dim())))
    return torch.empty(tensor.shape[::-1], dtype=tensor.dtype).permute(order)


def outs_like(result):
    """Tensors that a caller may hand over as out=."""
    yield "empty", torch.empty(0, dtype=result.dtype)
    yield "of its shape", torch.full_like(result, float("nan"))
    yield "transposed", transposed(result)
    yield "expanded", expanded(torch.zeros_like(result))
    yield "of another dtype", torch.zeros_like(result, dtype=torch.float32)
    yield "of another shape", torch.zeros((2, *result.shape), dtype=result.dtype)


def detached(value):
    return value.detach() if is_tensor(value) else value


def some_of(samples, everything):
    samples = list(samples)
    count = len(samples) if everything else min(SAMPLES, len(samples))
    return [(i * len(samples) // count, samples[i * len(samples) // count]) for i in range(count)]


def cases_of(name, function, args, kwargs, in_place=None, has_out=False):
    """The ways to call an operator on one sample."""
    yield Case(f"{name} forward", plainly(function), *tree_map(detached, (args, kwargs)))
    if any(t.requires_grad for t in tensors_in((args, kwargs))):
        yield Case(f"{name} backward", with_gradients(function), args, kwargs)
    args, kwargs = tree_map(detached, (args, kwargs))
    if in_place is not None and is_half(args[0]):
        yield Case(f"{name} in place", plainly(in_place), args, kwargs)
        yield Case(f"{name} in place expanded", plainly(in_place), (expanded(args[0]), *args[1:]), kwargs)
    if not has_out:
        return
    results = Outcome(lambda: tensors_in(function(*args, **kwargs))).tensors
    if len(results) == 1 and is_half(results[0]):
        for form, out in outs_like(results[0]):
            yield Case(f"{name} out {form}", into_out(function), args, {**kwargs, "out": out})


def operator_cases(op, dtype, everything):
    if dtype not in op.supported_dtypes("cpu"):
        return
    torch.manual_seed(5)
    samples = op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd)
    for number, sample in some_of(samples, everything):
        yield from cases_of(f"{op.formatted_name} {dtype} #{number}", op.op, (sample.input, *sample.args),
                            sample.kwargs, op.inplace_variant, op.supports_out)


def in_fp32(value):
    return value.detach().float().requires_grad_(value.requires_grad) if is_half(value) else value


def module_run(info, sample, mode):
    """`mode` is train, eval or autocast; the argument is the dtype, fp64 for the exact numbers."""
    def run(args, kwargs):
        dtype, exact = args[0], args[0] == torch.float64
        under_autocast = mode == "autocast" and not exact
        module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        module = module.to(torch.float32 if under_autocast else dtype).train(mode != "eval")
        inputs, named = tree_map(exact_twin if exact else twin,
                                 (sample.forward_input.args, sample.forward_input.kwargs))
        if under_autocast:
            inputs, named = tree_map(in_fp32, (inputs, named))
        with torch.autocast("cpu", dtype=dtype if under_autocast else torch.bfloat16, enabled=under_autocast):
            with torch.set_grad_enabled(mode != "eval"):
                results = tensors_in(module(*inputs, **named))
        leaves = [t for t in tensors_in((inputs, named)) if t.requires_grad] + list(module.parameters())
        return results + gradients_of(results, leaves)
    return run


def module_cases(info, dtype, everything):
    torch.manual_seed(5)
    samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
    samples = [sample for sample in samples if sample.forward_input is not None]
    for number, sample in some_of(samples, everything):
        for mode in ("train", "eval", "autocast"):
            yield Case(f"{info.formatted_name} {dtype} #{number} {mode}", module_run(info, sample, mode), (dtype,))


# ---- samples of our own: larger, odd and in other layouts

def numbers(dtype, *shape):
    return torch.randn(shape).to(dtype).requires_grad_()


def product_cases(dtype):
    a, b, bias = numbers(dtype, 33, 40), numbers(dtype, 40, 21), numbers(dtype, 21)
    batch, other, sums = numbers(dtype, 3, 17, 40), numbers(dtype, 3, 40, 19), numbers(dtype, 3, 17, 19)
    square = numbers(dtype, 33, 21)
    for name, function, args, in_place in (
            ("mm", torch.mm, (a, b), None), ("bmm", torch.bmm, (batch, other), None),
            ("addmm", torch.addmm, (square, a, b), torch.Tensor.addmm_),
            ("addmm with a row", torch.addmm, (bias, a, b), torch.Tensor.addmm_),
            ("baddbmm", torch.baddbmm, (sums, batch, other), torch.Tensor.baddbmm_)):
        yield from cases_of(f"product {name} {dtype}", function, args, {}, in_place, has_out=True)


def convolution_cases(dtype):
    sizes = {1: (13,), 2: (9, 11), 3: (5, 6, 7)}
    settings = ({}, {"stride": 2}, {"padding": 1, "dilation": 2}, {"groups": 2, "padding": 1},
                {"groups": 6, "padding": 1, "stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1})
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    for dims, size in sizes.items():
        for number, (flip, setting, last) in enumerate(
                (f, s, l) for f in (False, True) for s in settings for l in (None, "input", "weight")):
            if (last and dims == 1) or ("output_padding" in setting and not flip):
                continue
            groups = setting.get("groups", 1)
            channels = (6, 8 // groups) if flip else (12, 6 // groups)
            for batch in (2, 1, 0):
                x, w = numbers(dtype, batch, 6, *size), numbers(dtype, *channels, *([3] * dims))
                if last == "input":
                    x = x.detach().contiguous(memory_format=layouts[dims]).requires_grad_()
                if last == "weight":
                    w = w.detach().contiguous(memory_format=layouts[dims]).requires_grad_()
                bias = numbers(dtype, 8 // groups * groups if flip else 12) if number % 2 else None
                function = getattr(F, f"conv{'_transpose' if flip else ''}{dims}d")
                yield from cases_of(f"convolution {dtype} {dims}d {number} batch {batch}", function, (x, w, bias),
                                    setting)
    x, w = numbers(dtype, 1, 6, 9, 9), numbers(dtype, 8, 6, 3, 3)
    special = x.detach().clone()
    special[0, 0, 4, 4], special[0, 1, 1, 1] = float("inf"), float("nan")
    for name, args, setting in (
            ("with infinities", (special.requires_grad_(), w), {}), ("without a batch", (x[0], w), {}),
            ("of other dtypes", (x, w.float()), {}), ("of other channels", (x[:, :5], w), {}),
            ("larger than its input", (x[..., :2], w), {}), ("with a bias of another dtype", (x, w, w[:, 0, 0, 0].float()), {}),
            ("of one by one", (x, w[..., :1, :1]), {}), ("padded to the same size", (x, w), {"padding": "same"}),
            ("of every second column", (x[..., ::2], w), {})):
        yield from cases_of(f"convolution {dtype} {name}", F.conv2d, args, setting)


def attention_cases(dtype):
    def across(tensor):
        return tensor.detach().transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
    q, k, v = (numbers(dtype, 2, 3, 16, 8) for _ in range(3))
    mask = torch.randn(16, 16)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    for name, args in (("dense", (q, k, v)), ("transposed query", (across(q), k, v)),
                       ("transposed key and value", (q, across(k), across(v))),
                       ("heads inside", tuple(t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)))):
        yield from cases_of(f"attention {name} {dtype}", lambda *a: fused(*a)[0], args, {})
        yield from cases_of(f"attention {name} {dtype} causal", F.scaled_dot_product_attention, args,
                            {"is_causal": True})
    for kind in (torch.float32, torch.float16, torch.bfloat16, torch.bool):
        for function in (F.scaled_dot_product_attention, lambda *a, attn_mask: fused(*a, attn_mask=attn_mask)[0]):
            yield from cases_of(f"attention with a mask of {kind} {dtype}", function, (q, k, v),
                                {"attn_mask": mask.to(kind)})


def own_cases(dtype):
    torch.manual_seed(11)
    yield from product_cases(dtype)
    yield from convolution_cases(dtype)
    yield from attention_cases(dtype)


# ---- which samples

class Calls(TorchDispatchMode):
    """Notes whether a kernel of the library would be called."""

    replaced = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.replaced |= REPLACED.fullmatch(function.name()) is not None
        return function(*args, **(kwargs or {}))


def calls_the_library(cases):
    """Whether a forward pass does; the passes of one dtype tell."""
    with Calls() as calls:
        for case in cases:
            if case.name.endswith(("forward", "eval")):
                case.outcome()
                if calls.replaced:
                    return True
    return False


def collect(only, everything):
    """All cases, operator by operator; discovers the operators that matter by what they call."""
    cases = []
    for database, cases_in in ((op_db, operator_cases), (module_db, module_cases)):
        for info in database:
            if only and not re.search(only, info.formatted_name):
                continue
            both = [list(cases_in(info, dtype, everything)) for dtype in HALVES]
            if any(calls_the_library(some) for some in both):
                cases += both[0] + both[1]
    return cases + [case for dtype in HALVES for case in own_cases(dtype) if not only or re.search(only, case.name)]


# ---- the comparison

def rounding(exact, dtype):
    """The distance between neighbours of `dtype` at `exact`."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(exact.abs().clamp(min=info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(exact, info.eps), exponent)


def same_bits(a, b):
    return a.layout != torch.strided or (
        torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))


def finite_where_exact_is(ours, theirs, exact):
    """Whether no number is lost that LibTorch's own kernel finds and the format holds."""
    lost = ~ours.isfinite() & theirs.isfinite() & (exact.abs() < 0.99 * torch.finfo(ours.dtype).max)
    return not lost.any()


def fp32_noise(exact):
    """What the order of fp32 sums may change where terms cancel."""
    finite = exact[exact.isfinite()]
    return 2e-6 * float(finite.abs().max()) if finite.numel() else 0.0


def elements_farther(ours, theirs, exact):
    """How many elements are farther from `exact` than LibTorch's by more than one rounding."""
    limit = torch.finfo(ours.dtype).max
    settled = (ours == theirs) | (ours.isnan() & theirs.isnan())
    settled |= exact.isnan() & ours.isnan() | (exact.abs() >= limit) & (ours.abs() >= limit)
    error, before = ((t.double() - exact).abs() for t in (ours, theirs))
    allowed = before.nan_to_num(nan=limit, posinf=limit) + rounding(exact, ours.dtype) + fp32_noise(exact)
    return int((~(error <= allowed) & ~settled).sum())


def error_ratio(ours, theirs, exact, eps):
    """The error of `ours` over that of `theirs`, where neither is below the roundings of the format."""
    numbers = exact.isfinite() & ours.isfinite() & theirs.isfinite()
    ours, theirs, exact = ours.double()[numbers], theirs.double()[numbers], exact[numbers]
    floor = 0.25 * eps * float(exact.norm()) + fp32_noise(exact) * math.sqrt(exact.numel()) + 1e-30
    return (float((ours - exact).norm()) + floor) / (float((theirs - exact).norm()) + floor)


class Errors:
    """Ratios of errors, by operator, form and dtype."""

    def __init__(self):
        self.logarithms = collections.defaultdict(list)

    def add(self, case, ratio):
        self.logarithms[re.sub(r" #\d+| batch \d+|(?<=[123]d) \d+", "", case.name)].append(math.log(ratio))

    def worse(self):
        """Groups whose geometric mean is above 1 by more than chance makes it."""
        for name, logarithms in self.logarithms.items():
            mean = sum(logarithms) / len(logarithms)
            if mean > math.log(1.1) + 2 / math.sqrt(len(logarithms)):
                yield f"{name}: errors are {math.exp(mean):.2f} times as large, {len(logarithms)} results"


def is_cured(ours, theirs):
    """A layer for which the CPU has no instructions in this dtype."""
    return ours.error is None and theirs.error is not None and NO_INSTRUCTIONS in theirs.error


def difference(case, ours, theirs, exact, path, errors):
    """In words, how the outcomes differ in what they must not; ratios of errors go to `errors`."""
    if is_cured(ours, theirs):
        # As exact as if the exact result had been rounded.
        theirs = Outcome(lambda: [e.to(o.dtype) for o, e in zip(ours.tensors, exact.tensors)])
        cured_form = [(o.shape, is_half(o)) for o in ours.tensors[:3]] == [(e.shape, True) for e in exact.tensors[:3]]
        return None if cured_form else f"the cured layer returns {ours.form()}"
    if ours.form() != theirs.form():
        return f"\n    with    {ours.form()}\n    without {theirs.form()}"
    for number, (a, b) in enumerate(zip(ours.tensors, theirs.tensors)):
        if same_bits(a, b):
            continue
        if exact.error or number >= len(exact.tensors) or not a.is_floating_point():
            return f"result {number} has other bits, and fp64 does not tell which are right"
        wanted = exact.tensors[number].double()
        if path == PATHS[0] and not is_chance(b, wanted):
            return f"result {number} has other bits"
        if not finite_where_exact_is(a, b, wanted):
            return f"result {number} has lost numbers"
        if ONE_PRODUCT.fullmatch(case.name) and number == 0:
            count = elements_farther(a, b, wanted)
            if count:
                return f"result {number}: {count} of {a.numel()} elements are farther from fp64"
        else:
            eps = torch.finfo(a.dtype if is_half(a) else torch.float16).eps
            errors.add(case, error_ratio(a, b, wanted, eps))
    return None


def is_chance(theirs, exact):
    """LibTorch's attention reads beside a transposed query: what is there is chance."""
    error = (theirs.double() - exact).norm()
    return not error < 0.5 * exact.norm()


def check(cases, references, library, path):
    os.environ["HALFTONE_MATMUL"] = path
    os.environ["HALFTONE_CPU_GEMM"] = "all"
    torch.ops.load_library(library)
    if not hasattr(torch.ops.halftone, "cpu_gemm_paths"):
        return SKIPPED
    failures, errors = [], Errors()
    for case, (theirs, exact) in zip(cases, references):
        text = difference(case, case.outcome(), theirs, exact, path, errors)
        if text:
            failures.append(f"{case.name}: {text}")
    failures += errors.worse()
    for text in failures:
        print(f"[{path}] {text}")
    print(f"[{path}] {len(cases)} calls, {len(failures)} differ", flush=True)
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library")
    parser.add_argument("--paths", nargs="+", default=PATHS)
    parser.add_argument("--only", help="a regular expression for the names of operators, modules and own cases")
    parser.add_argument("--all", action="store_true", help=f"not only {SAMPLES} samples of an operator")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process that has threads cannot fork
    cases = collect(arguments.only, arguments.all)
    references = [(case.outcome(), case.outcome(exact_twin)) for case in cases]
    sys.stdout.flush()
    children = {}
    for path in arguments.paths:
        child = os.fork()
        if child == 0:
            os._exit(check(cases, references, arguments.library, path))
        children[path] = child
    codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children.values()}
    if SKIPPED in codes:
        skip(f"the library was not built with PyTorch {torch.__version__}")
    sys.exit(max(abs(code) for code in codes))


if __name__ == "__main__":
    main()
