# SPDX-License-Identifier: Apache-2.0
"""halftone's operators as a Python program finds them: values, gradients, dtypes under autocast, names in a profile.

  operators_in_python.py LIBRARY RELEASE

LIBRARY is libhalftone_operators.so, RELEASE the LibTorch that it was built with. Exit status 77, with the reason, where
Python has no PyTorch of that release; HALFTONE_PYTHON names another Python.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "support"))
from other_python import run_in_named_python, skip

run_in_named_python()
LIBRARY, RELEASE = sys.argv[1:]
try:
    import torch
except ImportError as error:
    skip(f"{sys.executable} cannot import PyTorch ({error}); HALFTONE_PYTHON names another Python")
if torch.__version__.partition("+")[0] != RELEASE:
    skip(f"PyTorch {torch.__version__} is not the release that the library was built with, {RELEASE}")

import unittest

import torch.nn.functional as F

torch.ops.load_library(LIBRARY)
halftone = torch.ops.halftone


def leaves(*shapes):
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


class OperatorsInPython(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def assert_agree(self, ours, definition, inputs):
        torch.testing.assert_close(ours, definition)
        weights = torch.randn_like(definition)
        for mine, exact in zip(torch.autograd.grad((ours * weights).sum(), inputs),
                               torch.autograd.grad((definition * weights).sum(), inputs)):
            torch.testing.assert_close(mine, exact)

    def test_swiglu(self):
        inputs = leaves((3, 4, 16))
        gate, up = inputs[0].chunk(2, -1)
        self.assert_agree(halftone.swiglu(*inputs), F.silu(gate) * up, inputs)

    def test_rms_norm_joins_a_branch(self):
        x, branch, weight = leaves((5, 24), (5, 24), (24,))
        total, normed, _ = halftone.rms_norm(x, branch, weight, 1e-6, torch.float32)
        torch.testing.assert_close(total, x + branch)
        self.assert_agree(normed, F.rms_norm(x + branch, (24,), weight, 1e-6), [x, branch, weight])

    def test_linear_puts_layers_side_by_side(self):
        x, first, second = leaves((2, 7, 16), (8, 16), (5, 16))
        definition = torch.cat([F.linear(x, first), F.linear(x, second)], -1)
        self.assert_agree(halftone.linear(x, [first, second]), definition, [x, first, second])

    def test_linear_under_autocast(self):
        x, weight = leaves((4, 16), (8, 16))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = halftone.linear(x, [weight])
        self.assertEqual(out.dtype, torch.bfloat16)
        out.float().sum().backward()
        self.assertEqual(weight.grad.dtype, torch.float32)

    def test_embedding(self):
        inputs = leaves((11, 6))
        ids = torch.tensor([[3, 0, 3], [10, 3, 1]])
        self.assert_agree(halftone.embedding(*inputs, ids), F.embedding(ids, *inputs), inputs)

    def test_linear_cross_entropy(self):
        hidden, weight = leaves((9, 16), (32, 16))
        targets, mask = torch.randint(32, (9,)), torch.ones(9)
        ours = halftone.linear_cross_entropy(hidden, weight, targets, mask)
        definition = F.cross_entropy(F.linear(hidden, weight), targets)
        torch.testing.assert_close(ours, definition)
        for mine, exact in zip(torch.autograd.grad(ours, [hidden, weight]),
                               torch.autograd.grad(definition, [hidden, weight])):
            torch.testing.assert_close(mine, exact)

    def test_bad_input_is_refused(self):
        with self.assertRaisesRegex(RuntimeError, r"\[swiglu\] expected \(\.\.\., 2 h\), got \[3, 5\]"):
            halftone.swiglu(torch.zeros(3, 5))
        with self.assertRaisesRegex(RuntimeError, r"expected ids in 0 \.\. 3, got 4"):
            halftone.embedding(torch.zeros(4, 2), torch.tensor([4]))

    def test_shapes_without_data(self):
        x = torch.empty(3, 16, device="meta", requires_grad=True)
        halftone.swiglu(x).sum().backward()
        self.assertEqual(x.grad.shape, x.shape)

    def test_names_in_a_profile(self):
        (x,) = leaves((3, 16))
        with torch.profiler.profile(record_shapes=True) as profile:
            halftone.swiglu(x).sum().backward()
        events = {event.name: event.input_shapes for event in profile.events()}
        self.assertEqual(events["halftone::swiglu"], [[3, 16]])
        self.assertEqual(events["halftone::swiglu_gradient"][:2], [[3, 8], [3, 16]])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
