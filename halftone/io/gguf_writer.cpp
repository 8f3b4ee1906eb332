// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <type_traits>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/io/gguf.h"
#include "halftone/io/gguf_impl.h"
#include "halftone/io/q8_0.h"
#include "halftone/system/atomic_file.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Writes the pieces that a file is made of. Their bytes are counted by the file.
class GgufWriter {
 public:
  explicit GgufWriter(const std::filesystem::path& path) : file_(path) {}

  void header(const GgufMetadata& metadata, const std::map<std::string, GgufTensor>& tensors);
  void data(const GgufTensor& tensor);
  void commit() { file_.commit(); }

  void set_alignment(std::uint64_t alignment) { alignment_ = alignment; }

 private:
  AtomicFile file_;
  std::uint64_t alignment_ = gguf::kDefaultAlignment;

  template <class T>
  void put(T number) {
    static_assert(std::is_arithmetic_v<T>);
    file_.write(&number, sizeof number);
  }
  void put_text(const std::string& text) {
    put<std::uint64_t>(text.size());
    file_.write(text);
  }
  void put_value(const GgufValue& value);
  void put_array(const GgufArray& array);
  void pad() {
    const std::string zeros(gguf::aligned(file_.bytes(), alignment_) - file_.bytes(), '\0');
    file_.write(zeros);
  }
};

void GgufWriter::put_array(const GgufArray& array) {
  put(static_cast<std::uint32_t>(array.index()));
  std::visit(
      [&](const auto& values) {
        using T = std::decay_t<decltype(values)>;
        if constexpr (!std::is_same_v<T, std::monostate>) {
          put<std::uint64_t>(values.size());
          for (const auto& value : values) {
            if constexpr (std::is_same_v<T, std::vector<std::string>>)
              put_text(value);
            else
              put(static_cast<typename T::value_type>(value));
          }
        }
      },
      array);
}

void GgufWriter::put_value(const GgufValue& value) {
  put(static_cast<std::uint32_t>(value.index()));
  std::visit(
      [&](const auto& one) {
        using T = std::decay_t<decltype(one)>;
        if constexpr (std::is_same_v<T, std::string>)
          put_text(one);
        else if constexpr (std::is_same_v<T, GgufArray>)
          put_array(one);
        else
          put(one);
      },
      value);
}

void check_gguf_tensor(const std::string& name, const Tensor& values) {
  HALFTONE_CHECK(!name.empty() && name.size() <= gguf::kMaxNameBytes && !find_invalid_utf8(name),
                 "[save_gguf] a tensor can't be called '", name, "'");
  HALFTONE_CHECK(values.defined() && values.layout() == torch::kStrided &&
                     values.is_floating_point() && !values.is_meta(),
                 "[save_gguf] expected a dense floating-point tensor with values as '", name, "'");
  HALFTONE_CHECK(values.dim() <= static_cast<std::int64_t>(gguf::kMaxDimensions), "[save_gguf] '",
                 name, "' has ", values.dim(), " dimensions, the format has ",
                 gguf::kMaxDimensions);
}

void GgufWriter::header(const GgufMetadata& metadata,
                        const std::map<std::string, GgufTensor>& tensors) {
  file_.write(gguf::kMagic, sizeof gguf::kMagic);
  put(gguf::kVersion);
  put<std::uint64_t>(tensors.size());
  put<std::uint64_t>(metadata.values().size());
  for (const auto& [key, value] : metadata.values()) {
    put_text(key);
    put_value(value);
  }
  std::uint64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    check_gguf_tensor(name, tensor.values);
    put_text(name);
    std::vector<std::int64_t> sizes = tensor.values.sizes().vec();
    std::reverse(sizes.begin(), sizes.end());
    put(static_cast<std::uint32_t>(sizes.size()));
    for (const std::int64_t size : sizes) put(static_cast<std::uint64_t>(size));
    put(static_cast<std::uint32_t>(tensor.type));
    put(at);
    at += gguf::aligned(gguf_bytes(tensor.type, static_cast<std::uint64_t>(tensor.values.numel())),
                        alignment_);
  }
  pad();
}

Tensor gguf_data(const GgufTensor& tensor) {
  if (tensor.type == GgufType::kQ8_0) return quantize_q8_0(tensor.values);
  const auto dtype = tensor.type == GgufType::kF32   ? torch::kFloat
                     : tensor.type == GgufType::kF16 ? torch::kHalf
                                                     : torch::kBFloat16;
  return tensor.values.detach().to(torch::kCPU, dtype).contiguous();
}

void GgufWriter::data(const GgufTensor& tensor) {
  const Tensor dense = gguf_data(tensor);
  file_.write(dense.const_data_ptr(), dense.nbytes());
  pad();
}

std::uint64_t alignment_in(const GgufMetadata& metadata) {
  if (!metadata.contains(gguf::kAlignmentKey)) return gguf::kDefaultAlignment;
  const std::int64_t alignment = metadata.integer(gguf::kAlignmentKey);
  HALFTONE_CHECK(alignment >= 8 && (alignment & (alignment - 1)) == 0,
                 "[save_gguf] expected a power of two of 8 or more as alignment, got ", alignment);
  return static_cast<std::uint64_t>(alignment);
}

}  // namespace

void save_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
               const std::map<std::string, GgufTensor>& tensors) {
  GgufWriter writer(path);
  writer.set_alignment(alignment_in(metadata));
  writer.header(metadata, tensors);
  for (const auto& [name, tensor] : tensors) writer.data(tensor);
  writer.commit();
}

}  // namespace halftone
