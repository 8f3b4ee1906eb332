# SPDX-License-Identifier: Apache-2.0
"""The checks of scripts/ find what they are there for."""
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import check_includes
import check_sources

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"


class Tree(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


class Includes(Tree):
    def complaints(self, name, *includes):
        self.write(name, "".join(f"#include {include}\n" for include in includes))
        return check_includes.check_tree(self.root)

    def assert_caught(self, reason, name, *includes):
        lines = self.complaints(name, *includes)
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(reason, lines[0])
        self.assertTrue(lines[0].startswith(f"{name}:"), lines[0])

    def test_downward_and_own_folder_are_fine(self):
        self.write("halftone/optim/adamw.h", "#include <torch/types.h>\n")
        clean = ['"halftone/optim/adamw.h"', "<fmt/format.h>", '"halftone/core/error.h"', '"halftone/kernels/optimizer/adamw.h"']
        self.assertEqual(self.complaints("halftone/optim/adamw.cpp", *clean), [])

    def test_upward(self):
        self.assert_caught("core may include only itself", "halftone/core/x.h", '"halftone/kernels/y.h"')

    def test_sideways(self):
        self.assert_caught("data may include only core", "halftone/data/x.cpp", '"halftone/io/y.h"')

    def test_model_does_not_know_precision(self):
        self.assert_caught("models may include only autocast, core, kernels/attention", "halftone/models/x.h", '"halftone/precision/y.h"')

    def test_training_framework_knows_no_model(self):
        for room in ("models", "tokenizer", "pretrain", "plan"):
            self.assert_caught("train may include only", "halftone/train/x.h", f'"halftone/{room}/y.h"')

    def test_third_level_is_a_room_of_its_own(self):
        self.assert_caught("kernels/gemm may include only", "halftone/kernels/gemm/x.h", '"halftone/kernels/linear/y.h"')

    def test_includes_reach_all_rooms_below(self):
        self.assertEqual(self.complaints("halftone/models/x.h", '"halftone/kernels/gemm/y.h"'), [])

    def test_table_without_cycle(self):
        for room in check_includes.LAYERS:
            self.assertNotIn(room, check_includes.rooms_below(room))

    def test_umbrella_inside_the_library(self):
        self.assert_caught("umbrella", "halftone/train/x.cpp", '"halftone/halftone.h"')

    def test_folder_without_a_layer(self):
        self.assert_caught("not in the table", "halftone/misc/x.h", '"halftone/core/error.h"')

    def test_private_library_in_a_public_header(self):
        for header in ("fmt/format.h", "spdlog/spdlog.h", "nlohmann/json.hpp", "toml++/toml.h", "unicode/uchar.h", "hwy/highway.h"):
            self.assert_caught("public header", "halftone/io/x.h", f"<{header}>")

    def test_private_library_in_a_private_header_is_fine(self):
        self.assertEqual(self.complaints("halftone/io/x_impl.h", "<nlohmann/json.hpp>"), [])

    def test_all_of_libtorch_in_a_header(self):
        self.assert_caught("parts of LibTorch", "halftone/nn/x.h", "<torch/torch.h>")

    def test_own_header_not_first(self):
        self.write("halftone/core/x.h", "")
        self.assert_caught("comes first", "halftone/core/x.cpp", "<vector>", '"halftone/core/x.h"')

    def test_relative_path(self):
        self.assert_caught("path from the root", "halftone/core/x.cpp", '"y.h"')

    def test_objects_that_differ_in_debug_builds(self):
        self.assert_caught("may touch at::RecordFunction", "halftone/nn/x.cpp", "<ATen/record_function.h>")

    def test_command_line_in_the_library(self):
        self.assert_caught("only cli", "halftone/train/x.cpp", "<CLI/CLI.hpp>")

    def test_program_stays_out_of_private_headers(self):
        self.assert_caught("private to the library", "cli/x.cpp", '"halftone/io/x_impl.h"')


class Sources(Tree):
    def test_license_line_may_follow_a_shebang(self):
        path = self.write("x.sh", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n")
        self.assertEqual(check_sources.check_file(self.root, path), [])

    def test_missing_license_line(self):
        path = self.write("x.cpp", "int x;\n" + SPDX)
        self.assertEqual(len(check_sources.check_file(self.root, path)), 1)

    def test_too_long(self):
        longest = self.write("x.cpp", SPDX + "\n" * (check_sources.MAX_LINES - 1))
        self.assertEqual(check_sources.check_file(self.root, longest), [])
        longer = self.write("y.cpp", SPDX + "\n" * check_sources.MAX_LINES)
        self.assertIn("split it", check_sources.check_file(self.root, longer)[0])

    def test_a_test_without_its_namespace(self):
        named = self.write("tests/x_test.cpp", SPDX + "\nnamespace halftone::x_test {\n}\n")
        self.assertEqual(check_sources.check_file(self.root, named), [])
        unnamed = self.write("tests/y_test.cpp", SPDX + "\nnamespace halftone {\n}\n")
        self.assertIn("halftone::y_test", check_sources.check_file(self.root, unnamed)[0])

    def test_build_folders_are_not_sources(self):
        self.write("build/x.cpp", "")
        kept = self.write("halftone/x.cpp", SPDX)
        self.assertEqual(check_sources.source_files(self.root), [kept])


if __name__ == "__main__":
    unittest.main()
