// SPDX-License-Identifier: Apache-2.0
// fuzz_seeds FOLDER writes FOLDER/safetensors, FOLDER/pth and FOLDER/pickle: small files with every
// part of the formats, which the fuzzers change.
#include <filesystem>
#include <fstream>
#include <iostream>

#include "halftone/io/safetensors.h"
#include "support/torch_file.h"

namespace {

namespace fs = std::filesystem;
namespace pickle = halftone::test::pickle;
using halftone::test::torch_file;
using halftone::test::torch_file_of;
using halftone::test::ZipPart;

void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::map<std::string, torch::Tensor> small_tensors() {
  return {{"w", torch::arange(6.0).reshape({2, 3})},
          {"诗", torch::ones({}, torch::kHalf)},
          {"v", torch::ones({2}, torch::kBFloat16)}};
}

void write_safetensors(const fs::path& folder) {
  halftone::save_safetensors(folder / "floats", small_tensors(), {{"format", "pt"}});
  std::map<std::string, torch::Tensor> kinds;
  for (const torch::ScalarType dtype :
       {torch::kDouble, torch::kLong, torch::kInt, torch::kShort, torch::kChar, torch::kByte,
        torch::kBool, torch::kFloat8_e4m3fn, torch::kFloat8_e5m2})
    kinds[c10::toString(dtype)] = torch::zeros({1, 0, 2}, dtype);
  kinds["bool"] = torch::ones({3}, torch::kBool);
  halftone::save_safetensors(folder / "kinds", kinds);
  halftone::save_safetensors(folder / "none", {});
}

const std::vector<ZipPart> kStorages = {{"0", std::string(24, '\1')}, {"1", std::string(8, '\0')}};

std::map<std::string, std::string> objects() {
  const std::string view =
      pickle::rebuilt({.elements = 6, .offset = 1, .sizes = {2, 2}, .strides = {1, 2}});
  const std::string fp16 = pickle::rebuilt(
      {.storage = "HalfStorage", .key = "1", .elements = 4, .sizes = {4}, .strides = {1}});
  const std::string parameter = pickle::call(pickle::global("torch._utils", "_rebuild_parameter"),
                                             {view, "\x88", pickle::ordered_dict({})});
  const std::string fp8 = pickle::call(
      pickle::global("torch._utils", "_rebuild_tensor_v3"),
      {pickle::tuple({pickle::text("storage"), pickle::global("torch.storage", "UntypedStorage"),
                      pickle::text("1"), pickle::text("cpu"), pickle::integer(8)}) +
           "Q",
       "K\1", "K\2\x85", "K\1\x85", "\x89", pickle::ordered_dict({}),
       pickle::global("torch", "float8_e4m3fn")});
  const std::string weights =
      pickle::ordered_dict({pickle::text("w"), view, pickle::text("h"), fp16, pickle::text("p"),
                            parameter, pickle::text("f"), fp8});
  return {{"plain", pickle::dict({pickle::text("w"), view})},
          {"metadata", weights + "}" + pickle::text("_metadata") + pickle::ordered_dict({}) + "sb"},
          {"resume", pickle::dict({pickle::text("model"), weights, pickle::text("epoch"), "K\3",
                                   pickle::text("step"), "\x8a\2\xff\1", pickle::text("none"), "N",
                                   pickle::text("lr"), "G?\xf0" + std::string(6, '\0'),
                                   pickle::text("list"), "](K\1M\1\1J\1\1\1\1e"})}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: fuzz_seeds FOLDER\n";
    return 2;
  }
  const fs::path folder = argv[1];
  for (const char* target : {"safetensors", "pth", "pickle"})
    fs::create_directories(folder / target);
  write_safetensors(folder / "safetensors");
  for (const auto& [name, object] : objects()) {
    write(folder / "pickle" / name, pickle::program(object));
    write(folder / "pth" / name, torch_file(object, kStorages, {.has_checksums = false}));
  }
  write(folder / "pth/zip64", torch_file(objects()["plain"], kStorages, {.is_zip64 = true}));
  write(folder / "pth/small", torch_file_of(small_tensors()));
}
