// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/io/dense_bytes.h"
#include "halftone/io/pth_tensor_impl.h"
#include "halftone/system/file.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

constexpr std::size_t kMaxPthDimensions = 64;
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildTypedTensor = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";

struct PthDtype {
  std::string_view name;  // of the dtype, or of the storage's class
  torch::ScalarType dtype;
};

constexpr std::array<PthDtype, 33> kPthDtypes = {
    {{"torch.FloatStorage", torch::kFloat},
     {"torch.HalfStorage", torch::kHalf},
     {"torch.BFloat16Storage", torch::kBFloat16},
     {"torch.DoubleStorage", torch::kDouble},
     {"torch.LongStorage", torch::kLong},
     {"torch.IntStorage", torch::kInt},
     {"torch.ShortStorage", torch::kShort},
     {"torch.CharStorage", torch::kChar},
     {"torch.ByteStorage", torch::kByte},
     {"torch.BoolStorage", torch::kBool},
     {"torch.ComplexFloatStorage", torch::kComplexFloat},
     {"torch.ComplexDoubleStorage", torch::kComplexDouble},
     {"torch.float8_e4m3fn", torch::kFloat8_e4m3fn},
     {"torch.float8_e5m2", torch::kFloat8_e5m2},
     {"torch.uint16", torch::kUInt16},
     {"torch.uint32", torch::kUInt32},
     {"torch.uint64", torch::kUInt64},
     {"torch.float32", torch::kFloat},
     {"torch.float", torch::kFloat},
     {"torch.float16", torch::kHalf},
     {"torch.half", torch::kHalf},
     {"torch.bfloat16", torch::kBFloat16},
     {"torch.float64", torch::kDouble},
     {"torch.int64", torch::kLong},
     {"torch.long", torch::kLong},
     {"torch.int32", torch::kInt},
     {"torch.int", torch::kInt},
     {"torch.int16", torch::kShort},
     {"torch.short", torch::kShort},
     {"torch.int8", torch::kChar},
     {"torch.uint8", torch::kByte},
     {"torch.bool", torch::kBool},
     {"torch.complex64", torch::kComplexFloat}}};

std::optional<torch::ScalarType> dtype_called(const PickleObject& object) {
  const auto* const known =
      std::find_if(kPthDtypes.begin(), kPthDtypes.end(), [&](const PthDtype& d) {
        return object.kind == PickleKind::kGlobal && d.name == object.text;
      });
  return known == kPthDtypes.end() ? std::nullopt : std::optional(known->dtype);
}

bool rebuilds_tensor(const PickleObject& object) {
  return object.is_call_of(kRebuildTensor) || object.is_call_of(kRebuildTypedTensor);
}

const std::vector<const PickleObject*>& arguments_of(const PickleObject& call) {
  return call.items[1]->items;
}

// The call that rebuilds the tensor of a parameter, or of a tensor.
const PickleObject* tensor_call(const PickleObject& object) {
  if (rebuilds_tensor(object)) return &object;
  if (!object.is_call_of(kRebuildParameter) || arguments_of(object).empty()) return nullptr;
  const PickleObject& data = *arguments_of(object).front();
  return rebuilds_tensor(data) ? &data : nullptr;
}

// Files of before 1.6, which are pickles one after the other, and whatever else is no archive.
[[noreturn]] void refuse_other_file(const std::string& path) {
  const File file = File::open_regular(path);
  unsigned char first = 0;
  if (file.size() > 0) file.read_at(0, &first, sizeof first);
  constexpr unsigned char kPickleProtocol = 0x80;
  if (first == kPickleProtocol)
    throw UserError(fmt::format(
        "'{0}' is a file of PyTorch before 1.6, or a bare pickle; convert it: python3 -c \"import "
        "torch; torch.save(torch.load('{0}', map_location='cpu'), '{0}')\"",
        path));
  throw UserError(
      fmt::format("'{}' is not a valid PyTorch file: expected a zip archive, as torch.save writes "
                  "it; it may be damaged or cut off",
                  path));
}

std::string archive_path(const std::filesystem::path& path) {
  if (!begins_as_zip(path)) refuse_other_file(path.string());
  return path.string();
}

}  // namespace

PthArchive::PthArchive(const std::filesystem::path& path)
    : path_(archive_path(path)), zip_(path), prefix_(find_prefix()) {
  check_byte_order();
}

void PthArchive::fail(const std::string& what) const {
  throw UserError(fmt::format("'{}' is not a valid PyTorch file: {}; it may be damaged or cut off",
                              path_, what));
}

std::string PthArchive::find_prefix() const {
  constexpr std::string_view kPickle = "/data.pkl";
  std::optional<std::string> prefix;
  for (const ZipEntry& entry : zip_.entries()) {
    const std::string_view name = entry.name;
    if (!name.ends_with(kPickle) || name.find('/') != name.size() - kPickle.size()) continue;
    if (prefix) fail("it has two entries NAME/data.pkl");
    prefix = name.substr(0, name.size() - kPickle.size() + 1);
  }
  if (!prefix) fail("it has no entry NAME/data.pkl, as torch.save writes it");
  return *prefix;
}

void PthArchive::check_byte_order() const {
  constexpr std::uint64_t kLongest = 16;
  const ZipEntry* const entry = zip_.find(prefix_ + "byteorder");
  if (entry == nullptr) return;  // older than the entry
  const std::string order = zip_.read_all(*entry, kLongest);
  if (order != "little")
    throw UserError(fmt::format(
        "'{}': its byte order is {}, expected \"little\"; save it again on a little-endian machine",
        path_, quoted_json(order)));
}

Pickle PthArchive::read_pickle() const {
  const std::string bytes = zip_.read_all(*zip_.find(prefix_ + "data.pkl"), kMaxPickleBytes);
  return halftone::read_pickle(bytes, fmt::format("'{}': its data.pkl", path_));
}

bool PthArchive::is_tensor(const PickleObject& object) { return tensor_call(object) != nullptr; }

std::vector<std::int64_t> PthArchive::integers(const PthTensor& tensor,
                                               const PickleObject& object) const {
  const PickleObject* tuple = &object;
  if (object.is_call_of("torch.Size") && !arguments_of(object).empty())
    tuple = arguments_of(object).front();
  if (tuple->kind != PickleKind::kTuple || tuple->items.size() > kMaxPthDimensions)
    fail(fmt::format("tensor {} has no valid shape and strides", quoted_json(tensor.name)));
  std::vector<std::int64_t> numbers;
  for (const PickleObject* item : tuple->items) {
    if (item->kind != PickleKind::kInteger || item->integer < 0)
      fail(fmt::format("tensor {} has no valid shape and strides", quoted_json(tensor.name)));
    numbers.push_back(item->integer);
  }
  return numbers;
}

// `dtype` is given where the storage's class does not say it.
void PthArchive::place_storage(PthTensor& tensor, const PickleObject& id,
                               const PickleObject* dtype) const {
  const std::string name = quoted_json(tensor.name);
  const bool is_id = id.kind == PickleKind::kPersistentId &&
                     id.items[0]->kind == PickleKind::kTuple && id.items[0]->items.size() == 5;
  if (!is_id) fail(fmt::format("tensor {} names no storage", name));
  const auto& fields = id.items[0]->items;  // "storage", class, key, device, elements
  if (fields[2]->kind != PickleKind::kText || fields[4]->kind != PickleKind::kInteger)
    fail(fmt::format("tensor {} names no storage", name));
  const auto known = dtype_called(dtype == nullptr ? *fields[1] : *dtype);
  if (!known)
    throw UserError(fmt::format(
        "'{}': tensor {} is of the dtype {}, which is not supported; expected one such as fp32, "
        "fp16 or bf16: convert it in PyTorch",
        path_, name, quoted_json(dtype == nullptr ? fields[1]->text : dtype->text)));
  tensor.dtype = *known;
  tensor.storage = zip_.find(prefix_ + "data/" + fields[2]->text);
  if (tensor.storage == nullptr)
    fail(fmt::format("the storage {} of tensor {} is missing", quoted_json(fields[2]->text), name));
  const std::uint64_t item = dtype == nullptr ? c10::elementSize(tensor.dtype) : 1;
  const auto elements = static_cast<std::uint64_t>(fields[4]->integer);
  if (tensor.storage->size % item != 0 || tensor.storage->size / item != elements)
    fail(fmt::format("the storage of tensor {} has {} bytes, expected {} elements of {} bytes",
                     name, tensor.storage->size, fields[4]->integer, item));
}

void PthArchive::place_elements(PthTensor& tensor, const PickleObject& offset) const {
  const std::string name = quoted_json(tensor.name);
  const auto bytes = dense_bytes(tensor.sizes, tensor.dtype);
  if (!bytes || tensor.sizes.size() != tensor.strides.size() ||
      offset.kind != PickleKind::kInteger || offset.integer < 0)
    fail(fmt::format("tensor {} has no valid shape and strides", name));
  if (*bytes == 0) return;
  std::int64_t last = offset.integer;
  bool overflow = false;
  for (std::size_t i = 0; i < tensor.sizes.size(); ++i) {
    std::int64_t step = 0;
    overflow |= __builtin_mul_overflow(tensor.sizes[i] - 1, tensor.strides[i], &step);
    overflow |= __builtin_add_overflow(last, step, &last);
    if (tensor.sizes[i] == 1) tensor.strides[i] = 1;  // any number stands there
  }
  const std::uint64_t item = c10::elementSize(tensor.dtype);
  if (overflow || static_cast<std::uint64_t>(last) >= tensor.storage->size / item)
    fail(fmt::format("tensor {} reaches beyond its storage of {} bytes", name,
                     tensor.storage->size));
  tensor.begin = static_cast<std::uint64_t>(offset.integer) * item;
  tensor.end = (static_cast<std::uint64_t>(last) + 1) * item;
  // Such a tensor asks for more memory than its file has bytes.
  if (*bytes > tensor.end - tensor.begin)
    throw UserError(fmt::format(
        "'{}': elements of tensor {} share memory (expand() makes such a tensor); save its "
        "contiguous() instead",
        path_, name));
}

PthTensor PthArchive::tensor(const std::string& name, const PickleObject& object) const {
  const PickleObject& call = *tensor_call(object);
  const bool has_dtype = call.is_call_of(kRebuildTypedTensor);
  // storage, offset, sizes, strides, requires_grad, hooks, (dtype,) metadata
  const auto& arguments = arguments_of(call);
  const std::size_t least = has_dtype ? 7 : 6;
  if (arguments.size() < least)
    fail(fmt::format("tensor {} is described by {} values, expected {}", quoted_json(name),
                     arguments.size(), least));
  // Metadata tells of numbers that are to be negated or conjugated.
  if (arguments.size() > least &&
      (arguments[least]->kind != PickleKind::kDict || !arguments[least]->items.empty()))
    throw UserError(fmt::format(
        "'{}': tensor {} is a view by conj() or with other metadata; save its clone() instead",
        path_, quoted_json(name)));
  PthTensor tensor{.name = name};
  tensor.sizes = integers(tensor, *arguments[2]);
  tensor.strides = integers(tensor, *arguments[3]);
  place_storage(tensor, *arguments[0], has_dtype ? arguments[6] : nullptr);
  place_elements(tensor, *arguments[1]);
  return tensor;
}

// A vector of uint8 that shares memory with what was read of the same bytes and is still there.
torch::Tensor PthArchive::bytes_of(const PthTensor& tensor) const {
  const c10::intrusive_ptr<c10::StorageImpl> none;
  const std::lock_guard lock(mutex_);
  auto& known =
      in_memory_.try_emplace({tensor.storage, tensor.begin, tensor.end}, none).first->second;
  const auto bytes = static_cast<std::int64_t>(tensor.end - tensor.begin);
  if (auto storage = known.lock())
    return torch::empty({0}, torch::kByte).set_(c10::Storage(std::move(storage)), 0, {bytes}, {1});
  torch::Tensor result = torch::empty({bytes}, torch::kByte);
  zip_.read(*tensor.storage, tensor.begin, result.mutable_data_ptr(), result.nbytes());
  known = result.storage().getWeakStorageImpl();
  return result;
}

torch::Tensor PthArchive::read(const PthTensor& tensor) const {
  if (tensor.end == tensor.begin) return torch::empty(tensor.sizes, torch::dtype(tensor.dtype));
  const torch::Tensor bytes = bytes_of(tensor);
  if (tensor.dtype == torch::kBool) {  // any other byte in a bool is undefined behaviour in C++
    const auto* values = bytes.const_data_ptr<std::uint8_t>();
    if (std::any_of(values, values + bytes.numel(), [](std::uint8_t byte) { return byte > 1; }))
      fail(fmt::format("tensor {} of dtype bool holds bytes other than 0 and 1",
                       quoted_json(tensor.name)));
  }
  const torch::Tensor flat = bytes.view(tensor.dtype);
  const torch::Tensor strided = flat.as_strided(tensor.sizes, tensor.strides);
  return strided.is_contiguous() ? flat.view(tensor.sizes) : strided.contiguous();
}

}  // namespace halftone
