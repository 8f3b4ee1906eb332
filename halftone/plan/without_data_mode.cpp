// SPDX-License-Identifier: Apache-2.0
// A kernel of LibTorch's dispatcher in front of all others: of the key that is there for making
// modules without their data, which nothing in LibTorch uses itself.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "halftone/autocast/cast_kernel_impl.h"
#include "halftone/autocast/cast_policy.h"
#include "halftone/core/error.h"
#include "halftone/inspect/operation_work_impl.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/inspect/wider_operation_impl.h"
#include "halftone/plan/without_data_mode_impl.h"
#include "halftone/plan/work_tally_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::jit::Stack;

constexpr c10::DispatchKey kKey = c10::DispatchKey::DeferredInit;

thread_local bool is_on = false;
/// Where the data lies that was made since.
thread_local std::unordered_set<const c10::StorageImpl*> made_places;

bool ends_in_any(std::string_view name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

/// Computed from numbers alone: code may look at them, and LibTorch's own does.
bool is_table(std::string_view name) {
  return ends_in_any(name, {"::arange", "::range", "::linspace", "::logspace", "::eye", "_window",
                            "::scalar_tensor", "_indices", "::fft_fftfreq", "::fft_rfftfreq"});
}

/// Gives memory, and computes nothing.
bool only_allocates(std::string_view name) {
  return name.find("::empty") != std::string_view::npos ||
         ends_in_any(name, {"::new_empty", "::new_empty_strided", "::resize_", "::set_",
                            "::_local_scalar_dense", "::is_same_size", "::detach_"});
}

/// Reads as much of its first argument as it gives.
bool looks_up(std::string_view name) {
  return ends_in_any(name, {"::embedding", "::index_select", "::index", "::gather"});
}

/// Writes to its first argument without reading it.
bool overwrites(std::string_view name) {
  return ends_in_any(name, {"::copy_", "::fill_", "::zero_", "::normal_", "::uniform_",
                            "::bernoulli_", "::random_", "::exponential_"});
}

/// Computes exp() or its like for each number that it gives.
bool computes_functions(std::string_view name) {
  constexpr std::array<std::string_view, 27> kNames = {"gelu",         "gelu_backward",
                                                       "silu",         "silu_backward",
                                                       "mish",         "mish_backward",
                                                       "exp",          "expm1",
                                                       "log",          "log10",
                                                       "log2",         "tanh",
                                                       "sigmoid",      "sin",
                                                       "cos",          "erf",
                                                       "erfinv",       "pow",
                                                       "normal_",      "_softmax",
                                                       "_log_softmax", "softplus",
                                                       "swiglu",       "swiglu_gradient",
                                                       "elu",          "row_cross_entropy",
                                                       "logsumexp"};
  const std::size_t colons = name.find("::");
  if (colons == std::string_view::npos) return false;
  std::string_view plain = name.substr(colons + 2);
  if (plain != "normal_" && plain.ends_with('_')) plain.remove_suffix(1);  // in place
  return std::find(kNames.begin(), kNames.end(), plain) != kNames.end();
}

/// What the schema of an operation says.
struct OperationNote {
  std::string name;
  std::size_t arguments = 0;
  std::size_t results = 0;
  std::optional<std::size_t> device;  // the argument that names one
  bool is_table = false;
  bool is_own = false;
  bool multiplies = false;
  bool is_uncounted = false;
  bool looks_up = false;
  bool computes_functions = false;
  bool overwrites = false;
  bool is_view = false;
  std::vector<bool> is_written;  // by argument
  bool is_random = false;
  std::optional<CastPolicy> cast;  // under autocast
};

bool is_alias(const c10::Argument& result) {
  return result.alias_info() != nullptr && !result.alias_info()->isWrite();
}

OperationNote note_of(const c10::FunctionSchema& schema) {
  const std::string& name = schema.name();
  OperationNote note{.name = name,
                     .arguments = schema.arguments().size(),
                     .results = schema.returns().size(),
                     .is_table = is_table(name),
                     .is_own = is_own_operation(name),
                     .multiplies = multiplies(name),
                     .is_uncounted = only_allocates(name),
                     .looks_up = looks_up(name),
                     .computes_functions = computes_functions(name),
                     .overwrites = overwrites(name)};
  for (std::size_t i = 0; i < note.arguments; ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    if (argument.name() == "device" && !name.ends_with("::from_file")) note.device = i;
    note.is_written.push_back(argument.alias_info() != nullptr && argument.alias_info()->isWrite());
  }
  note.is_view = !schema.returns().empty() &&
                 std::all_of(schema.returns().begin(), schema.returns().end(), is_alias);
  note.is_random = std::any_of(schema.arguments().begin(), schema.arguments().end(),
                               [](const c10::Argument& one) { return one.name() == "generator"; });
  return note;
}

/// Gives as much as the numbers of its arguments say, or a number.
bool depends_on_numbers(const c10::FunctionSchema& schema) {
  if (ends_in_any(schema.name(),
                  {"::nonzero", "::masked_select", "::_unique", "::_unique2", "::unique_dim",
                   "::unique_consecutive", "::unique_dim_consecutive", "::bincount"}) ||
      (schema.name() == "aten::repeat_interleave" && schema.overload_name() == "Tensor"))
    return true;
  return !std::all_of(schema.returns().begin(), schema.returns().end(), [](const auto& result) {
    return is_of_kind(result, c10::TypeKind::TensorType) ||
           result.type()->isSubtypeOf(*c10::ListType::ofTensors());
  });
}

/// Neither a kernel for meta nor one for every device.
bool needs_numbers(const c10::OperatorHandle& op) {
  using Key = c10::DispatchKey;
  if (!op.hasKernelForDispatchKey(Key::CPU) || depends_on_numbers(op.schema())) return false;
  for (const Key key : {Key::Meta, Key::CompositeImplicitAutograd, Key::CompositeExplicitAutograd,
                        Key::CompositeExplicitAutogradNonFunctional})
    if (op.hasKernelForDispatchKey(key)) return false;
  return true;
}

void register_by_numbers(const c10::OperatorHandle& op);

/// Of autocast on the CPU, by operation. First called outside the mode.
const std::map<std::string, CastPolicy>& cast_policies() {
  static const std::map<std::string, CastPolicy> policies = [] {
    std::map<std::string, CastPolicy> all;
    for (const AutocastEntry& entry : autocast_policy(torch::kCPU)) all[entry.op] = entry.policy;
    return all;
  }();
  return policies;
}

/// Kept by the address of the schema, which lives as long as its operation.
const OperationNote& note_of(const c10::OperatorHandle& op) {
  thread_local std::unordered_map<const c10::FunctionSchema*, OperationNote> notes;
  const c10::FunctionSchema& schema = op.schema();
  const auto known = notes.find(&schema);
  if (known != notes.end() && known->second.name == schema.name()) return known->second;
  OperationNote note = note_of(schema);
  if (note.name.starts_with("aten::") && needs_numbers(op)) register_by_numbers(op);
  const std::string& overload = schema.overload_name();
  const auto cast = cast_policies().find(note.name + (overload.empty() ? "" : "." + overload));
  if (cast != cast_policies().end() && !note.is_own) note.cast = cast->second;
  return notes[&schema] = std::move(note);
}

/// Calls `visit(tensor)` for each of an argument's tensors, those of lists as well.
template <class Visit>
void for_each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef())
      if (item.isTensor() && item.toTensor().defined()) visit(item.toTensor());
  }
}

Tensor without_data(const Tensor& x) {
  return at::empty_strided(x.sizes(), x.strides(), x.options().device(torch::kMeta));
}

bool has_plain_data(const Tensor& x) {
  return x.is_cpu() && x.layout() == torch::kStrided && !x.requires_grad();
}

template <class Item>
c10::IValue list_without_data(const c10::IValue& value) {
  c10::List<Item> list;
  for (const c10::IValue& item : value.toListRef()) {
    const bool has_data =
        item.isTensor() && item.toTensor().defined() && has_plain_data(item.toTensor());
    list.push_back(has_data ? Item(without_data(item.toTensor())) : item.to<Item>());
  }
  return list;
}

/// A scalar may have data among tensors without, except where an operation wants all on one device.
c10::IValue without_data(const c10::IValue& value, bool scalars_too) {
  if (value.isTensor()) {
    const Tensor& x = value.toTensor();
    return x.defined() && has_plain_data(x) && (x.dim() > 0 || scalars_too)
               ? c10::IValue(without_data(x))
               : value;
  }
  if (value.isTensorList()) return list_without_data<Tensor>(value);
  if (value.isOptionalTensorList()) return list_without_data<std::optional<Tensor>>(value);
  return value;
}

using Arguments = c10::ArrayRef<c10::IValue>;

// ---- operations without shape functions

/// Zeros that take no memory, unless they are written to.
Tensor zeros_of(const Tensor& x, bool is_written) {
  const auto options = x.options().device(torch::kCPU);
  if (is_written) return at::zeros(x.sizes(), options);
  return at::zeros(std::vector<std::int64_t>(static_cast<std::size_t>(x.dim()), 1), options)
      .expand(x.sizes());
}

bool is_without_data(const c10::IValue& item) {
  return item.isTensor() && item.toTensor().defined() && item.toTensor().is_meta();
}

template <class Item>
c10::IValue list_of_zeros(const c10::IValue& value, bool is_written) {
  c10::List<Item> list;
  for (const c10::IValue& item : value.toListRef())
    list.push_back(is_without_data(item) ? Item(zeros_of(item.toTensor(), is_written))
                                         : item.to<Item>());
  return list;
}

c10::IValue with_zeros(const c10::IValue& value, bool is_written) {
  if (is_without_data(value)) return zeros_of(value.toTensor(), is_written);
  if (value.isTensorList()) return list_of_zeros<Tensor>(value, is_written);
  if (value.isOptionalTensorList()) return list_of_zeros<std::optional<Tensor>>(value, is_written);
  if (value.isDevice() && value.toDevice().is_meta()) return c10::Device(torch::kCPU);
  return value;
}

c10::IValue result_without_data(const c10::IValue& value) {
  const auto taken = [](const Tensor& x) {
    return x.defined() && x.is_cpu() ? without_data(x) : x;
  };
  if (value.isTensor()) return taken(value.toTensor());
  if (!value.isTensorList()) return value;
  c10::List<Tensor> list;
  for (const c10::IValue& item : value.toListRef()) list.push_back(taken(item.toTensor()));
  return list;
}

/// The default generator of the CPU is where it was, afterwards.
class GeneratorKept {
 public:
  GeneratorKept() : state_(generator().get_state()) {}
  ~GeneratorKept() { generator().set_state(state_); }
  GeneratorKept(const GeneratorKept&) = delete;
  GeneratorKept& operator=(const GeneratorKept&) = delete;

 private:
  static at::Generator generator() { return at::detail::getDefaultCPUGenerator(); }
  Tensor state_;
};

/// The argument that a result is, where the operation writes to it.
std::optional<std::size_t> argument_of(const c10::FunctionSchema& schema, std::size_t result) {
  const c10::AliasInfo* const alias = schema.returns()[result].alias_info();
  if (alias == nullptr || !alias->isWrite()) return {};
  for (std::size_t i = 0; i < schema.arguments().size(); ++i) {
    const c10::AliasInfo* const other = schema.arguments()[i].alias_info();
    if (other != nullptr && other->beforeSets() == alias->beforeSets()) return i;
  }
  return {};
}

/// A kernel for the device meta that computes on zeros.
void by_numbers(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, Stack* stack) {
  HALFTONE_CHECK(is_on, "[without_data_mode] ", op.schema().name(),
                 " has no kernel for tensors without data (meta)");
  const OperationNote& note = note_of(op);
  const c10::impl::ExcludeDispatchKeyGuard as_always(kKey);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::optional<GeneratorKept> kept;
  if (note.is_random) kept.emplace();
  const std::vector<c10::IValue> given = torch::jit::pop(*stack, note.arguments);
  std::vector<c10::IValue> numbers;
  for (std::size_t i = 0; i < given.size(); ++i) {
    numbers.push_back(with_zeros(given[i], note.is_written[i]));
    stack->push_back(numbers.back());
  }
  op.callBoxed(stack);
  for (std::size_t i = 0; i < given.size(); ++i)
    if (note.is_written[i] && is_without_data(given[i]) &&
        given[i].toTensor().sizes() != numbers[i].toTensor().sizes())
      given[i].toTensor().resize_(numbers[i].toTensor().sizes());
  for (std::size_t i = 0; i < note.results; ++i) {
    c10::IValue& result = (*stack)[stack->size() - note.results + i];
    const std::optional<std::size_t> written = argument_of(op.schema(), i);
    result = written ? given[*written] : result_without_data(result);
  }
}

/// Never destroyed: nothing of it may be called when the process ends.
torch::Library& kernels_of_meta() {
  static torch::Library& library =
      *new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
  return library;
}

void register_by_numbers(const c10::OperatorHandle& op) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!needs_numbers(op)) return;  // another thread was here
  const std::string& overload = op.schema().overload_name();
  const std::string name =
      op.schema().name().substr(6) + (overload.empty() ? "" : "." + overload);  // behind "aten::"
  kernels_of_meta().impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&by_numbers>());
}

bool any_without_data(const Arguments& arguments) {
  bool found = false;
  for (const c10::IValue& value : arguments)
    for_each_tensor(value, [&](const Tensor& x) { found = found || x.is_meta(); });
  return found;
}

bool any_with_data(const Arguments& arguments) {
  bool found = false;
  for (const c10::IValue& value : arguments)
    for_each_tensor(value, [&](const Tensor& x) { found = found || x.is_cpu(); });
  return found;
}

bool has_tensor(const Arguments& arguments) {
  bool found = false;
  for (const c10::IValue& value : arguments)
    for_each_tensor(value, [&](const Tensor& /*x*/) { found = true; });
  return found;
}

/// Of a view, those of the elements; of a broadcast one, those of what lies there.
double bytes_of(const Tensor& x) {
  const auto all = static_cast<double>(x.numel()) * static_cast<double>(x.element_size());
  return x.has_storage() ? std::min(all, static_cast<double>(x.storage().nbytes())) : all;
}

/// LibTorch's fused attention for the CPU takes the call, as scaled_dot_product_attention(query,
/// key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa) has it.
bool takes_fused_attention(const Arguments& call) {
  const Tensor &query = call[0].toTensor(), &key = call[1].toTensor(), &value = call[2].toTensor();
  const auto fits = [](const Tensor& x) {
    return x.dim() == 4 && x.numel() > 0 && x.is_floating_point() && x.stride(-1) == 1;
  };
  const bool learns_mask = call[3].isTensor() && call[3].toTensor().requires_grad();
  return fits(query) && fits(key) && fits(value) && query.size(3) == value.size(3) &&
         call[4].toDouble() == 0.0 && !learns_mask;
}

/// The mask as it is added to the scores.
std::optional<Tensor> added_mask(const c10::IValue& mask, const Tensor& query) {
  if (!mask.isTensor() || !mask.toTensor().defined()) return std::nullopt;
  const Tensor& given = mask.toTensor();
  return given.scalar_type() == torch::kBool ? given.to(query.scalar_type()) : given;
}

void attend(Stack& stack, std::size_t arguments) {
  const Arguments call(stack.data() + stack.size() - arguments, arguments);
  const Tensor query = call[0].toTensor();
  const std::optional<double> scale = call[6].toOptional<double>();
  Tensor out = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      query, call[1].toTensor(), call[2].toTensor(), 0.0, call[5].toBool(),
      added_mask(call[3], query), scale));
  torch::jit::drop(stack, arguments);
  stack.emplace_back(std::move(out));
}

// ---- autocast, which LibTorch has for no tensor of meta

bool is_cast(const c10::IValue& item) {
  return is_without_data(item) && item.toTensor().is_floating_point() &&
         item.toTensor().scalar_type() != torch::kDouble;
}

template <class Visit>
void for_each_cast(const Arguments& arguments, const Visit& visit) {
  for (const c10::IValue& value : arguments) {
    if (is_cast(value)) visit(value.toTensor());
    if (value.isTensorList())
      for (const c10::IValue& item : value.toListRef())
        if (is_cast(item)) visit(item.toTensor());
  }
}

c10::IValue cast_to(torch::ScalarType dtype, const c10::IValue& value) {
  if (is_cast(value)) return value.toTensor().to(dtype);
  if (!value.isTensorList()) return value;
  c10::List<Tensor> list;
  for (const c10::IValue& item : value.toListRef())
    list.push_back(is_cast(item) ? item.toTensor().to(dtype) : item.toTensor());
  return list;
}

/// As LibTorch's kernels under autocast do it, but that a weight which is used twice is cast twice.
void cast_arguments(const c10::OperatorHandle& op, const OperationNote& note, Stack& stack) {
  const bool is_kept = takes_kept_tensor(op, stack);
  const CastPolicy policy = is_kept ? CastPolicy::kFp32 : *note.cast;
  const std::size_t first = stack.size() - note.arguments;
  if (policy == CastPolicy::kRefused) return;
  if (policy == CastPolicy::kFp32Dtype) {
    const std::optional<int> dtype = op.schema().argumentIndexWithName("dtype");
    c10::IValue& asked = stack[first + static_cast<std::size_t>(*dtype)];
    if (asked.isNone() && is_cast(stack[first])) asked = torch::kFloat;
    return;
  }
  torch::ScalarType dtype = at::autocast::get_autocast_dtype(torch::kCPU);
  if (policy == CastPolicy::kFp32) dtype = torch::kFloat;
  if (policy == CastPolicy::kWidest)
    for_each_cast(Arguments(stack.data() + first, note.arguments), [&](const Tensor& x) {
      if (x.scalar_type() == torch::kFloat) dtype = torch::kFloat;
    });
  for (std::size_t i = first; i < stack.size(); ++i) stack[i] = cast_to(dtype, stack[i]);
}

bool is_autocast_here() {
  return at::autocast::is_autocast_enabled(torch::kCPU) &&
         !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU);
}

/// One operation: what is known of it before it runs and is needed when it has.
class ObservedCall {
 public:
  ObservedCall(WorkTally& tally, const OperationNote& note, const Arguments& arguments)
      : tally_(tally), note_(note), count_(tally.count()), own_count_(tally.own_count()) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      const bool is_read = !(i == 0 && note.overwrites);
      for_each_tensor(arguments[i], [&](const Tensor& x) {
        const double bytes = bytes_of(x);
        if (is_read) (i == 0 ? first_ : others_) += bytes;
        if (note.is_written[i]) {
          written_ += bytes;
          written_numbers_ += static_cast<double>(x.numel());
        }
        if (x.has_storage()) places_.push_back(x.storage().unsafeGetStorageImpl());
      });
    }
    if (!note.multiplies) return;
    call_.name = note.name;
    for (const c10::IValue& value : arguments) {
      call_.arguments.push_back(value);
      call_.inputs.push_back({.tensors = tensors_in(value), .is_list = value.isList()});
    }
  }

  void end(const Arguments& results) {
    double made = 0, numbers = written_numbers_;
    bool is_new = false;
    for (const c10::IValue& value : results)
      for_each_tensor(value, [&](const Tensor& x) {
        const bool is_known =
            x.has_storage() && std::find(places_.begin(), places_.end(),
                                         x.storage().unsafeGetStorageImpl()) != places_.end();
        if (is_known) return;
        is_new = true;
        made += bytes_of(x);
        numbers += static_cast<double>(x.numel());
      });
    if (note_.is_view || (!is_new && written_ == 0) || is_made_of_counted()) return;
    if (note_.multiplies)
      for (const c10::IValue& value : results)
        call_.outputs.push_back({.tensors = tensors_in(value), .is_list = value.isList()});
    else
      call_.name = note_.name;
    const double read = note_.looks_up ? std::min(first_, made) : first_;
    tally_.add_operation(call_, read + others_ + made + written_,
                         note_.computes_functions ? numbers : 0);
  }

 private:
  /// What one of this library's operations does is its own affair, unless that is a matmul.
  bool is_made_of_counted() const {
    return note_.is_own ? tally_.own_count() != own_count_ : tally_.count() != count_;
  }

  WorkTally& tally_;
  const OperationNote& note_;
  std::int64_t count_;
  std::int64_t own_count_;
  double first_ = 0, others_ = 0, written_ = 0, written_numbers_ = 0;
  std::vector<const c10::StorageImpl*> places_;
  OperationCall call_;
};

const c10::StorageImpl* place_of(const Tensor& x) {
  return x.has_storage() ? x.storage().unsafeGetStorageImpl() : nullptr;
}

void note_made_places(const Arguments& results, const std::vector<const c10::StorageImpl*>& known) {
  for (const c10::IValue& value : results)
    for_each_tensor(value, [&](const Tensor& x) {
      const c10::StorageImpl* const place = place_of(x);
      if (x.is_cpu() && std::find(known.begin(), known.end(), place) == known.end())
        made_places.insert(place);
    });
}

/// Nobody may ask for the memory of what is new among `results`, where nothing is. Whoever only
/// compares addresses (const_data_ptr()) may.
void guard_memory(const Arguments& results, const std::vector<const c10::StorageImpl*>& known) {
  for (const c10::IValue& value : results)
    for_each_tensor(value, [&](const Tensor& x) {
      const c10::StorageImpl* const place = place_of(x);
      const bool is_new = std::find(known.begin(), known.end(), place) == known.end();
      if (x.is_meta() && place != nullptr && is_new)
        x.storage().unsafeGetStorageImpl()->set_throw_on_mutable_data_ptr();
    });
}

/// The result of a factory that has no data is made on meta, and a table where it has.
/// A large table has none: a plan takes no memory that grows with the batch.
c10::Device device_of_made(const c10::OperatorHandle& op, const OperationNote& note,
                           c10::DispatchKeySet below, const Arguments& arguments) {
  constexpr std::int64_t kLargestTable = std::int64_t{1} << 20U;
  if (!note.is_table) return torch::kMeta;
  Stack call(arguments.begin(), arguments.end());
  call[*note.device] = c10::Device(torch::kMeta);
  std::optional<WorkTally::Part> uncounted;
  if (WorkTally* const tally = WorkTally::current()) uncounted.emplace(*tally);
  op.redispatchBoxed(below, &call);
  return call.front().toTensor().numel() <= kLargestTable ? torch::kCPU : torch::kMeta;
}

void run(const c10::OperatorHandle& op, c10::DispatchKeySet below, Stack* stack) {
  const OperationNote& note = note_of(op);
  const auto arguments = [&] {
    return Arguments(stack->data() + stack->size() - note.arguments, note.arguments);
  };
  const std::size_t first = stack->size() - note.arguments;
  bool is_made_here = false;
  if (note.device && (*stack)[first + *note.device].isNone() && !has_tensor(arguments())) {
    const c10::Device device = device_of_made(op, note, below, arguments());
    (*stack)[first + *note.device] = device;
    is_made_here = device.is_meta();
  }
  const bool has_none = any_without_data(arguments());
  if (has_none && any_with_data(arguments()))
    for (std::size_t i = 0; i < note.arguments; ++i)
      (*stack)[first + i] = without_data((*stack)[first + i], note.is_own);
  std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast;
  if (has_none && note.cast && is_autocast_here()) {
    no_autocast.emplace(c10::DispatchKey::AutocastCPU);
    cast_arguments(op, note, *stack);
  }
  if (has_none && note.name == "aten::scaled_dot_product_attention" &&
      takes_fused_attention(arguments()))
    return attend(*stack, note.arguments);
  WorkTally* const tally = WorkTally::current();
  const bool is_counted =
      tally != nullptr && (has_none || is_made_here) && !note.is_uncounted && !tally->is_in_part();
  std::optional<ObservedCall> seen;
  if (is_counted) seen.emplace(*tally, note, arguments());
  std::vector<const c10::StorageImpl*> places;  // of arguments
  for (const c10::IValue& value : arguments())
    for_each_tensor(value, [&](const Tensor& x) { places.push_back(place_of(x)); });
  op.redispatchBoxed(below, stack);
  const Arguments results(stack->data() + stack->size() - note.results, note.results);
  if (!has_none) note_made_places(results, places);
  if (seen) seen->end(results);
  if (has_none || is_made_here) guard_memory(results, places);
}

void before_all_kernels(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const c10::DispatchKeySet below =
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey);
  if (is_on)
    run(op, below, stack);
  else
    op.redispatchBoxed(below, stack);
}

void install_kernel() {
  // Never destroyed: nothing of it may be called when the process ends.
  static torch::Library& library =
      *new torch::Library(torch::Library::IMPL, "_", kKey, __FILE__, __LINE__);
  [[maybe_unused]] static const bool once = [] {
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&before_all_kernels>());
    cast_policies();
    return true;
  }();
}

}  // namespace

WithoutDataMode::WithoutDataMode()
    : included_([] {
        install_kernel();
        return kKey;
      }()) {
  HALFTONE_CHECK(!halftone::is_on, "[without_data_mode] expected one at a time in a thread");
  halftone::is_on = true;
}

WithoutDataMode::~WithoutDataMode() {
  halftone::is_on = false;
  made_places.clear();
}

bool WithoutDataMode::take_data_of(const Tensor& x) {
  if (!x.is_cpu() || !made_places.contains(place_of(x))) return false;
  const c10::impl::ExcludeDispatchKeyGuard as_always(kKey);
  // set_data() refuses another device than one that has data.
  x.unsafeGetTensorImpl()->shallow_copy_from(without_data(x).getIntrusivePtr());
  return true;
}

bool WithoutDataMode::is_on() { return halftone::is_on; }

}  // namespace halftone
