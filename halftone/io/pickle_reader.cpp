// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/pickle_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>

#include "halftone/core/error.h"
#include "halftone/io/pickle_globals_impl.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {

namespace {

constexpr std::size_t kMaxPickleObjects = 4'000'000;
constexpr std::size_t kMaxPickleDepth = 200;  // of tuples, lists and dicts being built

enum Opcode : unsigned char {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kBinaryFloat = 'G',
  kBinaryInt = 'J',
  kBinaryInt1 = 'K',
  kBinaryInt2 = 'M',
  kNone = 'N',
  kBinaryPersistentId = 'Q',
  kReduce = 'R',
  kBinaryString = 'T',
  kShortBinaryString = 'U',
  kBinaryUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobalName = 'c',
  kAppends = 'e',
  kBinaryGet = 'h',
  kLongBinaryGet = 'j',
  kBinaryPut = 'q',
  kLongBinaryPut = 'r',
  kSetItem = 's',
  kTupleOfMark = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kProtocol = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kTrue = 0x88,
  kFalse = 0x89,
  kLong1 = 0x8a,
};

}  // namespace

const PickleObject* PickleObject::find(std::string_view key) const {
  if (kind != PickleKind::kDict) return nullptr;
  for (std::size_t i = items.size(); i >= 2; i -= 2)
    if (items[i - 2]->kind == PickleKind::kText && items[i - 2]->text == key) return items[i - 1];
  return nullptr;
}

bool PickleObject::is_call_of(std::string_view global) const {
  return kind == PickleKind::kCall && items.front()->text == global;
}

/// Follows the program of one pickle. Every complaint names the source and the place.
class PickleReader {
 public:
  PickleReader(std::string_view bytes, const std::string& source)
      : bytes_(bytes), source_(source) {}

  Pickle read();

 private:
  std::string_view bytes_;
  const std::string& source_;
  std::size_t at_ = 0;
  std::size_t opcode_at_ = 0;
  Pickle result_;
  std::vector<PickleObject*> stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::unordered_map<std::uint32_t, PickleObject*> memo_;
  std::array<PickleObject*, 4> shared_{};  // None, False, True, (): many, and never changed

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format("{} is not valid at byte {}: {}; it may be damaged or cut off",
                                source_, opcode_at_, what));
  }

  std::string_view take(std::size_t count);
  template <class T>
  T take_number();
  std::string_view take_line();

  PickleObject* make(PickleObject object);
  PickleObject* shared(std::size_t which, const PickleObject& object);
  void push(PickleObject* object) { stack_.push_back(object); }
  PickleObject* pop();
  PickleObject* top();
  std::vector<PickleObject*> pop_to_mark();

  bool step();
  bool step_number(unsigned char opcode);
  bool step_container(unsigned char opcode);
  bool step_memo(unsigned char opcode);
  void push_integer(std::int64_t value) {
    push(make({.kind = PickleKind::kInteger, .integer = value}));
  }
  void push_long();
  void push_float();
  void push_text(std::size_t bytes);
  void push_tuple(std::vector<PickleObject*> items);
  void push_global();
  void push_call();
  void push_memo(std::uint32_t index);
  void append(const std::vector<PickleObject*>& items);
  void set_items(const std::vector<PickleObject*>& items);
  void build();
};

std::string_view PickleReader::take(std::size_t count) {
  if (count > bytes_.size() - at_)
    fail(fmt::format("{} bytes are missing", count - (bytes_.size() - at_)));
  const std::string_view taken = bytes_.substr(at_, count);
  at_ += count;
  return taken;
}

template <class T>
T PickleReader::take_number() {
  T value{};
  take(sizeof value).copy(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

std::string_view PickleReader::take_line() {
  const std::size_t end = bytes_.find('\n', at_);
  if (end == std::string_view::npos) fail("a name has no end");
  const std::string_view line = take(end - at_);
  ++at_;
  return line;
}

PickleObject* PickleReader::make(PickleObject object) {
  if (result_.objects_.size() >= kMaxPickleObjects)
    fail(fmt::format("it has more than {} objects", kMaxPickleObjects));
  return &result_.objects_.emplace_back(std::move(object));
}

PickleObject* PickleReader::shared(std::size_t which, const PickleObject& object) {
  if (shared_.at(which) == nullptr) shared_.at(which) = make(object);
  return shared_.at(which);
}

PickleObject* PickleReader::top() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("an object is missing");
  return stack_.back();
}

PickleObject* PickleReader::pop() {
  PickleObject* const object = top();
  stack_.pop_back();
  return object;
}

std::vector<PickleObject*> PickleReader::pop_to_mark() {
  if (marks_.empty()) fail("a mark is missing");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleObject*> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

void PickleReader::push_long() {
  const std::string_view digits = take(take_number<std::uint8_t>());
  if (digits.size() > sizeof(std::int64_t)) fail("it holds an integer of more than 64 bits");
  const bool is_negative = !digits.empty() && (static_cast<unsigned char>(digits.back()) & 0x80U);
  std::uint64_t value = is_negative ? ~std::uint64_t{0} : 0;
  for (std::size_t i = digits.size(); i > 0; --i)
    value = value << 8U | static_cast<unsigned char>(digits[i - 1]);
  push_integer(static_cast<std::int64_t>(value));
}

void PickleReader::push_float() {
  std::uint64_t bits = 0;
  for (const char digit : take(sizeof bits)) bits = bits << 8U | static_cast<unsigned char>(digit);
  push(make({.kind = PickleKind::kFloat, .number = std::bit_cast<double>(bits)}));
}

void PickleReader::push_text(std::size_t bytes) {
  push(make({.kind = PickleKind::kText, .text = std::string(take(bytes))}));
}

void PickleReader::push_tuple(std::vector<PickleObject*> items) {
  push(make({.kind = PickleKind::kTuple, .items = {items.begin(), items.end()}}));
}

void PickleReader::push_global() {
  const std::string_view module = take_line();
  const std::string_view name = take_line();
  std::string full = fmt::format("{}.{}", module, name);
  if (!is_allowed_global(module, name))
    throw UserError(
        fmt::format("{} names {} at byte {}, which is not read since that would run code; expected "
                    "tensors by name: save them alone in PyTorch by "
                    "torch.save(model.state_dict(), 'weights.pth')",
                    source_, quoted_json(full), opcode_at_));
  push(make({.kind = PickleKind::kGlobal, .text = std::move(full)}));
}

void PickleReader::push_call() {
  PickleObject* const arguments = pop();
  PickleObject* const function = pop();
  if (function->kind != PickleKind::kGlobal || arguments->kind != PickleKind::kTuple)
    fail("it calls what is no function");
  if (function->text == "collections.OrderedDict" && arguments->items.empty())
    push(make({.kind = PickleKind::kDict}));  // what is set in it follows
  else
    push(make({.kind = PickleKind::kCall, .items = {function, arguments}}));
}

void PickleReader::push_memo(std::uint32_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) fail(fmt::format("it asks for object {} before it is there", index));
  push(found->second);
}

void PickleReader::append(const std::vector<PickleObject*>& items) {
  PickleObject* const list = top();
  if (list->kind != PickleKind::kList) fail("it appends to what is no list");
  list->items.insert(list->items.end(), items.begin(), items.end());
}

void PickleReader::set_items(const std::vector<PickleObject*>& items) {
  PickleObject* const dict = top();
  if (dict->kind != PickleKind::kDict) fail("it sets an item of what is no dict");
  if (items.size() % 2 != 0) fail("a key has no value");
  dict->items.insert(dict->items.end(), items.begin(), items.end());
}

// The attributes of an OrderedDict, such as the _metadata of a state dict, change no weights.
void PickleReader::build() {
  pop();
  if (top()->kind != PickleKind::kDict) fail("it sets attributes of what has none");
}

bool PickleReader::step_number(unsigned char opcode) {
  switch (opcode) {
    case kBinaryInt:
      push_integer(take_number<std::int32_t>());
      return true;
    case kBinaryInt1:
      push_integer(take_number<std::uint8_t>());
      return true;
    case kBinaryInt2:
      push_integer(take_number<std::uint16_t>());
      return true;
    case kLong1:
      push_long();
      return true;
    case kBinaryFloat:
      push_float();
      return true;
    case kBinaryUnicode:
    case kBinaryString:
      push_text(take_number<std::uint32_t>());
      return true;
    case kShortBinaryString:
      push_text(take_number<std::uint8_t>());
      return true;
    case kNone:
      push(shared(0, {}));
      return true;
    case kFalse:
      push(shared(1, {.kind = PickleKind::kBool}));
      return true;
    case kTrue:
      push(shared(2, {.kind = PickleKind::kBool, .integer = 1}));
      return true;
    default:
      return false;
  }
}

bool PickleReader::step_container(unsigned char opcode) {
  switch (opcode) {
    case kMark:
      if (marks_.size() >= kMaxPickleDepth)
        fail(fmt::format("its objects are nested more than {} deep", kMaxPickleDepth));
      marks_.push_back(stack_.size());
      return true;
    case kEmptyTuple:
      push(shared(3, {.kind = PickleKind::kTuple}));
      return true;
    case kTuple1:
    case kTuple2:
    case kTuple3: {
      std::vector<PickleObject*> items(opcode - kTuple1 + 1U);
      for (auto item = items.rbegin(); item != items.rend(); ++item) *item = pop();
      push_tuple(std::move(items));
      return true;
    }
    case kTupleOfMark:
      push_tuple(pop_to_mark());
      return true;
    case kEmptyList:
      push(make({.kind = PickleKind::kList}));
      return true;
    case kAppend:
      append({pop()});
      return true;
    case kAppends:
      append(pop_to_mark());
      return true;
    case kEmptyDict:
      push(make({.kind = PickleKind::kDict}));
      return true;
    case kSetItem: {
      PickleObject* const value = pop();
      set_items({pop(), value});
      return true;
    }
    case kSetItems:
      set_items(pop_to_mark());
      return true;
    default:
      return false;
  }
}

bool PickleReader::step_memo(unsigned char opcode) {
  switch (opcode) {
    case kBinaryPut:
      memo_[take_number<std::uint8_t>()] = top();
      return true;
    case kLongBinaryPut:
      memo_[take_number<std::uint32_t>()] = top();
      return true;
    case kBinaryGet:
      push_memo(take_number<std::uint8_t>());
      return true;
    case kLongBinaryGet:
      push_memo(take_number<std::uint32_t>());
      return true;
    default:
      return false;
  }
}

// One opcode; false at the end of the program.
bool PickleReader::step() {
  opcode_at_ = at_;
  const auto opcode = take_number<unsigned char>();
  if (step_number(opcode) || step_container(opcode) || step_memo(opcode)) return true;
  switch (opcode) {
    case kProtocol:
      if (const int protocol = take_number<std::uint8_t>(); protocol != 2)
        throw UserError(
            fmt::format("{} is of pickle protocol {}, expected 2; save it again in PyTorch without "
                        "pickle_protocol",
                        source_, protocol));
      return true;
    case kPop:
      pop();
      return true;
    case kPopMark:
      pop_to_mark();
      return true;
    case kGlobalName:
      push_global();
      return true;
    case kReduce:
      push_call();
      return true;
    case kBuild:
      build();
      return true;
    case kBinaryPersistentId: {
      PickleObject* const id = pop();
      push(make({.kind = PickleKind::kPersistentId, .items = {id}}));
      return true;
    }
    case kStop:
      return false;
    default:
      fail(fmt::format("it has the opcode 0x{:02x}, which torch.save does not write", opcode));
  }
}

Pickle PickleReader::read() {
  while (step()) {
  }
  result_.root_ = pop();
  if (!stack_.empty() || !marks_.empty()) fail("it ends within an object");
  if (at_ != bytes_.size()) fail(fmt::format("{} bytes follow its end", bytes_.size() - at_));
  return std::move(result_);
}

Pickle read_pickle(std::string_view bytes, const std::string& source) {
  return PickleReader(bytes, source).read();
}

}  // namespace halftone
