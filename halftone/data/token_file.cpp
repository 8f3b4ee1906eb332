// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/token_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/system/file.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "htTokens";
constexpr std::uint32_t kVersion = 2;
constexpr std::size_t kBufferBytes = std::size_t{256} << 10U;

struct Header {
  std::array<char, 8> magic{};
  std::uint32_t version = kVersion;
  std::uint32_t id_bytes = 0;
  std::uint64_t tokens = 0;
  std::uint64_t samples = 0;
  std::uint64_t text_bytes = 0;
  std::uint64_t special_tokens = 0;
  std::uint64_t key = 0;
  std::uint64_t content_hash = 0;
  std::uint64_t header_hash = 0;

  std::string_view bytes() const { return {reinterpret_cast<const char*>(this), sizeof(*this)}; }
  std::uint64_t hash() const { return hash_bytes(bytes().substr(0, 64)); }
};
static_assert(sizeof(Header) == 72);

std::uint64_t padding_after(std::uint64_t bytes) { return (8 - bytes % 8) % 8; }

[[noreturn]] void fail_damaged(const fs::path& path, std::string_view what) {
  throw UserError(fmt::format("{} is not a valid token file: {}; delete it and it is built again",
                              path.string(), what));
}

/// Whatever keeps the tokens from being written is the machine's fault: the user named no such
/// file.
template <class Work>
auto writing(Work&& work) {
  try {
    return work();
  } catch (const std::runtime_error& error) {
    throw SystemError(fmt::format(
        "{}; the token cache needs free space there; set XDG_CACHE_HOME to move it", error.what()));
  }
}

// Checks that counts and sizes fit each other without overflow.
bool sizes_agree(const Header& header, std::uint64_t file_bytes) {
  if (header.id_bytes != 2 && header.id_bytes != 4) return false;
  if (header.tokens > file_bytes || header.samples > file_bytes) return false;
  const std::uint64_t ids = header.tokens * header.id_bytes;
  return sizeof(Header) + ids + padding_after(ids) + (header.samples + 1) * 8 == file_bytes;
}

template <class Id>
void widen(std::string_view bytes, std::span<std::int64_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Id id = 0;
    std::memcpy(&id, bytes.data() + i * sizeof(Id), sizeof(Id));
    out[i] = id;
  }
}

}  // namespace

TokenFile::TokenFile(const fs::path& path) : file_(path) { load_header(path); }

void TokenFile::load_header(const fs::path& path) {
  const std::uint64_t file_bytes = file_.size();
  if (file_bytes < sizeof(Header)) fail_damaged(path, "it is too short");
  Header header;
  std::memcpy(&header, bytes(0, sizeof(header)).data(), sizeof(header));
  if (std::string_view(header.magic.data(), header.magic.size()) != kMagic)
    fail_damaged(path, "it does not start as one");
  if (header.version != kVersion)
    fail_damaged(path, fmt::format("its version is {}, expected {}", header.version, kVersion));
  if (header.header_hash != header.hash() || !sizes_agree(header, file_bytes))
    fail_damaged(path, "its header is damaged");
  Hasher hasher;
  for (std::uint64_t at = sizeof(Header); at < file_bytes; at += kBufferBytes)
    hasher.update(bytes(at, std::min<std::uint64_t>(kBufferBytes, file_bytes - at)));
  file_.release();
  if (hasher.digest() != header.content_hash) fail_damaged(path, "its content is damaged");
  id_bytes_ = header.id_bytes;
  tokens_ = header.tokens;
  samples_ = header.samples;
  text_bytes_ = header.text_bytes;
  special_tokens_ = header.special_tokens;
  key_ = header.key;
}

std::string_view TokenFile::bytes(std::uint64_t offset, std::uint64_t count) const {
  // A page brings its neighbours with it, up to this many bytes.
  constexpr std::uint64_t kNeighbours = std::uint64_t{64} << 10U;
  constexpr std::uint64_t kMost = std::uint64_t{8} << 20U;
  if (read_.fetch_add(count + kNeighbours) > kMost) {
    read_ = 0;
    file_.release();
  }
  try {
    return file_.bytes(offset, count);
  } catch (const UserError& error) {  // the file was whole when it was opened
    throw SystemError(fmt::format("reading the cached tokens failed: {}", error.what()));
  }
}

std::pair<std::uint64_t, std::uint64_t> TokenFile::sample_range(std::uint64_t sample) const {
  HALFTONE_CHECK(sample < samples_, "[token_file] expected a sample below ", samples_, ", got ",
                 sample);
  const std::uint64_t id_bytes = tokens_ * id_bytes_;
  const std::uint64_t at = sizeof(Header) + id_bytes + padding_after(id_bytes) + 8 * sample;
  std::array<std::uint64_t, 2> range{};
  std::memcpy(range.data(), bytes(at, sizeof(range)).data(), sizeof(range));
  return {range[0], range[1]};
}

void TokenFile::copy(std::uint64_t begin, std::span<std::int64_t> out) const {
  HALFTONE_CHECK(begin <= tokens_ && out.size() <= tokens_ - begin,
                 "[token_file] expected ids of 0..", tokens_, ", got ", out.size(), " from ",
                 begin);
  const std::string_view ids = bytes(sizeof(Header) + begin * id_bytes_, out.size() * id_bytes_);
  if (id_bytes_ == 2)
    widen<std::uint16_t>(ids, out);
  else
    widen<std::uint32_t>(ids, out);
}

/// The indexes of the samples gather in a second file, since their number is not known before.
struct TokenFileWriter::State {
  explicit State(const fs::path& target)
      : path(target),
        part(fs::path(target) += fmt::format(".part-{}", getpid())),
        index_part(fs::path(part) += "-index"),
        file(writing([&] { return File(part, O_RDWR | O_CREAT | O_TRUNC, path); })),
        index_file(writing([&] { return File(index_part, O_RDWR | O_CREAT | O_TRUNC, path); })) {
    pending.assign(sizeof(Header), '\0');
  }
  ~State() {
    std::error_code ignored;
    fs::remove(part, ignored);
    fs::remove(index_part, ignored);
  }

  static void flush(std::string& buffer, File& to) {
    writing([&] { to.write(buffer.data(), buffer.size()); });
    buffer.clear();
  }

  void append(std::string_view bytes) {
    hasher.update(bytes);
    pending += bytes;
    if (pending.size() >= kBufferBytes) flush(pending, file);
  }

  void append_index(std::uint64_t value) {
    pending_index.append(reinterpret_cast<const char*>(&value), sizeof(value));
    if (pending_index.size() >= kBufferBytes) flush(pending_index, index_file);
  }

  void append_index_file() {
    flush(pending_index, index_file);
    const std::uint64_t size = index_file.size();
    std::string buffer;
    for (std::uint64_t at = 0; at < size; at += buffer.size()) {
      buffer.resize(std::min<std::uint64_t>(kBufferBytes, size - at));
      writing([&] { index_file.read_at(at, buffer.data(), buffer.size()); });
      append(buffer);
    }
  }

  // The header can be written only now, before all the rest.
  void complete() {
    flush(pending, file);
    if (::lseek(file.descriptor(), 0, SEEK_SET) < 0) throw_file_error("write", path, errno);
    file.write(header.bytes().data(), header.bytes().size());
    file.sync();
    if (::rename(part.c_str(), path.c_str()) != 0) throw_file_error("write", path, errno);
  }

  fs::path path;
  fs::path part;
  fs::path index_part;
  File file;
  File index_file;
  Header header;
  std::int64_t vocab_size = 0;
  Hasher hasher;
  std::string pending;
  std::string pending_index;
};

TokenFileWriter::TokenFileWriter(const fs::path& path, std::int64_t vocab_size, std::uint64_t key)
    : state_(std::make_unique<State>(path)) {
  state_->vocab_size = vocab_size;
  state_->header.id_bytes = vocab_size <= 65536 ? 2 : 4;
  state_->header.key = key;
}

TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::begin_sample() {
  state_->append_index(state_->header.tokens);
  ++state_->header.samples;
}

void TokenFileWriter::add(std::span<const std::int32_t> ids, std::uint64_t text_bytes) {
  std::string bytes;
  bytes.reserve(ids.size() * state_->header.id_bytes);
  for (const std::int32_t id : ids) {
    HALFTONE_CHECK(id >= 0 && id < state_->vocab_size, "[token_file] expected ids below ",
                   state_->vocab_size, ", got ", id);
    bytes.append(reinterpret_cast<const char*>(&id), state_->header.id_bytes);
  }
  state_->append(bytes);
  state_->header.tokens += ids.size();
  state_->header.text_bytes += text_bytes;
}

void TokenFileWriter::count_special_tokens(std::uint64_t more) {
  state_->header.special_tokens += more;
}

void TokenFileWriter::finish() {
  State& state = *state_;
  state.append(std::string(padding_after(state.header.tokens * state.header.id_bytes), '\0'));
  state.append_index(state.header.tokens);
  state.append_index_file();
  std::copy(kMagic.begin(), kMagic.end(), state.header.magic.begin());
  state.header.content_hash = state.hasher.digest();
  state.header.header_hash = state.header.hash();
  writing([&] { state.complete(); });
}

}  // namespace halftone
