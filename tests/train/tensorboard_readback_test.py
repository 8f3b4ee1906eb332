# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard itself reads in the event files of a run that was killed and resumed.

  tensorboard_readback_test.py WRITER

WRITER is the program tensorboard_writer. Exit status 77, with the reason, where Python has no package tensorboard;
HALFTONE_PYTHON names another Python.
"""

import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from other_python import run_in_named_python, skip

run_in_named_python()
WRITER = sys.argv[1]
try:
    import numpy
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
    from tensorboard.util import tensor_util
except ImportError as error:
    skip(f"{sys.executable} cannot import TensorBoard ({error}); HALFTONE_PYTHON names another Python")

VALUES = numpy.arange(-50, 51) / 7
BUCKETS = 64


def reloaded(kind, folder):
    accumulator = kind.EventAccumulator(folder, kind.STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    return accumulator


class Readback(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        subprocess.run([WRITER, cls.folder.name], check=True, stderr=subprocess.PIPE)
        events = str(pathlib.Path(cls.folder.name, "tensorboard"))
        cls.files = sorted(path.name for path in pathlib.Path(events).iterdir())
        cls.events = reloaded(event_accumulator, events)
        cls.as_shown = reloaded(plugin_event_accumulator, events)  # what TensorBoard's pages are made of

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def texts(self, tag):
        return [(event.step, tensor_util.make_ndarray(event.tensor_proto).item().decode())
                for event in self.as_shown.Tensors(tag)]

    def buckets(self, tag):
        (event,) = self.as_shown.Tensors(tag)
        self.assertEqual(event.step, 5)
        return tensor_util.make_ndarray(event.tensor_proto)

    def test_each_process_has_a_file(self):
        self.assertEqual(len(self.files), 2)
        for name in self.files:
            self.assertRegex(name, r"^events\.out\.tfevents\.\d{10}\..+\.\d+\.\d+$")

    def test_scalars_of_steps_after_the_checkpoint_are_discarded(self):
        scalars = {event.step: event.value for event in self.events.Scalars("loss")}
        self.assertEqual(list(scalars), [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertTrue(math.isnan(scalars.pop(4)))
        for step, value in scalars.items():
            self.assertEqual(value, numpy.float32(1 / step if step <= 6 else 100 + step))
        shown = [event.step for event in self.as_shown.Tensors("loss")]
        self.assertEqual(shown, [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertEqual({event.value for event in self.events.Scalars("lr/group 0")}, {0.5})

    def test_tags_belong_to_their_plugins(self):
        for plugin, tags in {"scalars": {"loss", "lr/group 0"}, "histograms": {"weights", "constant", "broken"},
                             "text": {"note", "hyper_parameters"}}.items():
            self.assertEqual(set(self.as_shown.PluginTagToContent(plugin)), tags)

    def test_histograms_have_the_buckets_of_numpy(self):
        counts, edges = numpy.histogram(VALUES, BUCKETS)
        for tag in ("weights", "broken"):
            (event,) = self.events.Histograms(tag)
            histogram = event.histogram_value
            self.assertEqual(event.step, 5)
            self.assertEqual((histogram.min, histogram.max, histogram.num), (VALUES.min(), VALUES.max(), VALUES.size))
            self.assertAlmostEqual(histogram.sum, VALUES.sum(), 9)
            self.assertAlmostEqual(histogram.sum_squares, (VALUES**2).sum(), 9)
            numpy.testing.assert_allclose(histogram.bucket_limit, edges[1:], atol=1e-12)
            numpy.testing.assert_array_equal(histogram.bucket, counts)
            shown = self.buckets(tag)
            self.assertEqual(shown.shape, (BUCKETS, 3))
            self.assertEqual(shown[:, 2].sum(), VALUES.size)

    def test_equal_values_are_one_bucket(self):
        numpy.testing.assert_array_equal(self.buckets("constant"), [[2.5, 2.5, 6]])

    def test_texts(self):
        expected = [(step, f"at **{step}**") for step in range(1, 7)] + [(7, "again")]
        self.assertEqual(self.texts("note"), expected)

    def test_hyper_parameters_are_a_table(self):
        ((step, text),) = self.texts("hyper_parameters")
        self.assertEqual(step, 0)
        self.assertEqual(text.splitlines(), ["| name | value |", "|---|---|", r"| batch\|size | 32 |", "| lr | 0.25 |",
                                             "| mixed | true |", "| name | two lines \ufffd |"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
