// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/zip_archive.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

constexpr std::uint64_t kMaxDirectoryBytes = 100'000'000;  // a million entries of a hundred bytes
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kEntrySignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kLocator64Signature = 0x07064b50;
constexpr std::size_t kLocalBytes = 30;  // each without what follows it
constexpr std::size_t kEntryBytes = 46;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kEnd64Bytes = 56;
constexpr std::size_t kLocator64Bytes = 20;
constexpr std::size_t kMaxComment = 0xFFFF;
constexpr std::uint32_t kIn64 = 0xFFFFFFFF;  // the number is in a zip64 field instead
constexpr std::uint16_t kCountIn64 = 0xFFFF;
constexpr std::uint16_t kExtra64 = 0x0001;
constexpr std::uint16_t kEncrypted = 0x2041;  // by any of three ways

[[noreturn]] void fail_zip(const std::string& path, const std::string& what) {
  throw UserError(
      fmt::format("'{}' is not a valid zip archive: {}; it may be damaged or cut off", path, what));
}

// A little-endian number at a place of a record. REQUIRES that it lies within.
template <class T>
T number_at(std::string_view record, std::size_t at) {
  HALFTONE_CHECK(at + sizeof(T) <= record.size(), "[zip_archive] read beyond a record");
  T value = 0;
  std::memcpy(&value, record.data() + at, sizeof value);
  return value;
}

// Where the directory lies, by the record at the end of the file.
struct DirectoryPlace {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t entries = 0;
};

// An entry, and where its local header begins.
struct PlacedEntry {
  ZipEntry entry;
  std::uint64_t header = 0;
};

// Reads one archive's directory. Every complaint names the file.
class ZipDirectoryReader {
 public:
  ZipDirectoryReader(const std::string& path, const File& file)
      : path_(path), file_(file), file_bytes_(file.size()) {}

  std::vector<ZipEntry> read();

 private:
  const std::string& path_;
  const File& file_;
  std::uint64_t file_bytes_;
  DirectoryPlace place_;

  [[noreturn]] void fail(const std::string& what) const { fail_zip(path_, what); }
  std::string bytes_at(std::uint64_t offset, std::uint64_t count, const char* what) const;
  void find_directory();
  DirectoryPlace place64(std::uint64_t end_offset) const;
  PlacedEntry parse_entry(std::string_view directory, std::size_t& at) const;
  static void apply_extra64(PlacedEntry& placed, std::string_view fixed, std::string_view extra);
  void place_data(PlacedEntry& placed) const;
  void check_apart(std::vector<PlacedEntry>& all) const;
  std::vector<ZipEntry> sorted(std::vector<PlacedEntry> all) const;
};

std::string ZipDirectoryReader::bytes_at(std::uint64_t offset, std::uint64_t count,
                                         const char* what) const {
  if (offset > file_bytes_ || count > file_bytes_ - offset)
    fail(fmt::format("{} should lie at bytes [{}, {}), but the file ends at byte {}", what, offset,
                     offset + count, file_bytes_));
  std::string bytes(count, '\0');
  file_.read_at(offset, bytes.data(), bytes.size());
  return bytes;
}

void ZipDirectoryReader::find_directory() {
  const std::uint64_t tail = std::min<std::uint64_t>(file_bytes_, kEndBytes + kMaxComment);
  const std::string bytes = bytes_at(file_bytes_ - tail, tail, "its end");
  for (std::size_t back = kEndBytes; back <= bytes.size(); ++back) {
    const auto end = std::string_view(bytes).substr(bytes.size() - back);
    if (number_at<std::uint32_t>(end, 0) != kEndSignature ||
        number_at<std::uint16_t>(end, 20) != back - kEndBytes)
      continue;
    place_ = {.offset = number_at<std::uint32_t>(end, 16),
              .bytes = number_at<std::uint32_t>(end, 12),
              .entries = number_at<std::uint16_t>(end, 10)};
    const bool is_in_64 =
        place_.offset == kIn64 || place_.bytes == kIn64 || place_.entries == kCountIn64;
    if (!is_in_64 && (number_at<std::uint32_t>(end, 4) != 0 ||
                      number_at<std::uint16_t>(end, 8) != place_.entries))
      fail("it is one of several files");
    if (is_in_64) place_ = place64(file_bytes_ - back);
    return;
  }
  fail("it has no directory at its end");
}

DirectoryPlace ZipDirectoryReader::place64(std::uint64_t end_offset) const {
  if (end_offset < kLocator64Bytes) fail("its zip64 directory is missing");
  const std::string locator =
      bytes_at(end_offset - kLocator64Bytes, kLocator64Bytes, "its zip64 locator");
  if (number_at<std::uint32_t>(locator, 0) != kLocator64Signature)
    fail("its zip64 directory is missing");
  const std::string end =
      bytes_at(number_at<std::uint64_t>(locator, 8), kEnd64Bytes, "its zip64 end record");
  if (number_at<std::uint32_t>(end, 0) != kEnd64Signature)
    fail("its zip64 locator leads to something else");
  const DirectoryPlace place{.offset = number_at<std::uint64_t>(end, 48),
                             .bytes = number_at<std::uint64_t>(end, 40),
                             .entries = number_at<std::uint64_t>(end, 32)};
  if (number_at<std::uint64_t>(end, 16) != 0 || number_at<std::uint64_t>(end, 24) != place.entries)
    fail("it is one of several files");
  return place;
}

// Sizes and place that do not fit 32 bits follow in the extra field, in this order.
void ZipDirectoryReader::apply_extra64(PlacedEntry& placed, std::string_view fixed,
                                       std::string_view extra) {
  while (extra.size() >= 4) {
    const std::size_t bytes =
        std::min<std::size_t>(number_at<std::uint16_t>(extra, 2), extra.size() - 4);
    if (number_at<std::uint16_t>(extra, 0) == kExtra64) {
      std::string_view field = extra.substr(4, bytes);
      const auto take = [&](std::size_t at, std::uint64_t& number) {
        if (number_at<std::uint32_t>(fixed, at) != kIn64 || field.size() < sizeof number) return;
        number = number_at<std::uint64_t>(field, 0);
        field.remove_prefix(sizeof number);
      };
      std::uint64_t stored = 0;
      take(24, placed.entry.size);
      take(20, stored);
      take(42, placed.header);
    }
    extra.remove_prefix(4 + bytes);
  }
}

PlacedEntry ZipDirectoryReader::parse_entry(std::string_view directory, std::size_t& at) const {
  if (directory.size() - at < kEntryBytes ||
      number_at<std::uint32_t>(directory, at) != kEntrySignature)
    fail(fmt::format("its directory of {} entries is cut off or damaged", place_.entries));
  const std::string_view fixed = directory.substr(at, kEntryBytes);
  const std::size_t name = number_at<std::uint16_t>(fixed, 28);
  const std::size_t extra = number_at<std::uint16_t>(fixed, 30);
  const std::size_t comment = number_at<std::uint16_t>(fixed, 32);
  const std::string_view rest = directory.substr(at + kEntryBytes);
  if (name + extra + comment > rest.size())
    fail(fmt::format("its directory of {} entries is cut off or damaged", place_.entries));
  at += kEntryBytes + name + extra + comment;

  PlacedEntry placed{.entry = {.name = std::string(rest.substr(0, name)),
                               .size = number_at<std::uint32_t>(fixed, 24),
                               .crc32 = number_at<std::uint32_t>(fixed, 16)},
                     .header = number_at<std::uint32_t>(fixed, 42)};
  if ((number_at<std::uint16_t>(fixed, 8) & kEncrypted) != 0)
    throw UserError(fmt::format("'{}': its entry {} is encrypted; expected a file of torch.save",
                                path_, quoted_json(placed.entry.name)));
  if (number_at<std::uint16_t>(fixed, 10) != 0)
    throw UserError(fmt::format(
        "'{}': its entry {} is compressed, expected stored bytes as torch.save writes them; "
        "unpack it and pack it with 'zip -0 -r'",
        path_, quoted_json(placed.entry.name)));
  if (number_at<std::uint32_t>(fixed, 20) != number_at<std::uint32_t>(fixed, 24))
    fail(fmt::format("entry {} is stored in another size than its own",
                     quoted_json(placed.entry.name)));
  apply_extra64(placed, fixed, rest.substr(name, extra));
  return placed;
}

void ZipDirectoryReader::place_data(PlacedEntry& placed) const {
  ZipEntry& entry = placed.entry;
  const std::string header =
      bytes_at(placed.header, kLocalBytes + entry.name.size(), "an entry's header");
  if (number_at<std::uint32_t>(header, 0) != kLocalSignature ||
      number_at<std::uint16_t>(header, 26) != entry.name.size() ||
      header.compare(kLocalBytes, std::string::npos, entry.name) != 0)
    fail(fmt::format("entry {} is not at byte {}, where the directory has it",
                     quoted_json(entry.name), placed.header));
  entry.begin = placed.header + header.size() + number_at<std::uint16_t>(header, 28);
  if (entry.begin > place_.offset || entry.size > place_.offset - entry.begin)
    fail(fmt::format("entry {} of {} bytes at byte {} reaches beyond the entries' end at byte {}",
                     quoted_json(entry.name), entry.size, entry.begin, place_.offset));
}

void ZipDirectoryReader::check_apart(std::vector<PlacedEntry>& all) const {
  std::sort(all.begin(), all.end(),
            [](const PlacedEntry& a, const PlacedEntry& b) { return a.header < b.header; });
  for (std::size_t i = 1; i < all.size(); ++i)
    if (all[i].header < all[i - 1].entry.begin + all[i - 1].entry.size)
      fail(fmt::format("entries {} and {} overlap", quoted_json(all[i - 1].entry.name),
                       quoted_json(all[i].entry.name)));
}

std::vector<ZipEntry> ZipDirectoryReader::sorted(std::vector<PlacedEntry> all) const {
  std::vector<ZipEntry> entries;
  entries.reserve(all.size());
  for (PlacedEntry& placed : all) entries.push_back(std::move(placed.entry));
  const auto before = [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; };
  std::sort(entries.begin(), entries.end(), before);
  const auto twice =
      std::adjacent_find(entries.begin(), entries.end(),
                         [](const ZipEntry& a, const ZipEntry& b) { return a.name == b.name; });
  if (twice != entries.end())
    fail(fmt::format("entry {} is there twice", quoted_json(twice->name)));
  return entries;
}

std::vector<ZipEntry> ZipDirectoryReader::read() {
  find_directory();
  if (place_.bytes > kMaxDirectoryBytes)
    fail(fmt::format("its directory has {}, more than the {} allowed", format_bytes(place_.bytes),
                     format_bytes(kMaxDirectoryBytes)));
  const std::string directory = bytes_at(place_.offset, place_.bytes, "its directory");
  if (place_.entries > directory.size() / kEntryBytes)
    fail(fmt::format("its directory of {} entries is cut off or damaged", place_.entries));
  std::vector<PlacedEntry> all;
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < place_.entries; ++i) all.push_back(parse_entry(directory, at));
  for (PlacedEntry& placed : all) place_data(placed);
  check_apart(all);
  return sorted(std::move(all));
}

std::uint32_t add_to_crc(std::uint32_t crc, const void* data, std::size_t bytes) {
  return static_cast<std::uint32_t>(::crc32_z(crc, static_cast<const Bytef*>(data), bytes));
}

}  // namespace

ZipArchive::ZipArchive(const std::filesystem::path& path)
    : path_(path.string()),
      file_(File::open_regular(path)),
      entries_(ZipDirectoryReader(path_, file_).read()),
      verified_(std::make_unique<std::atomic<bool>[]>(entries_.size())) {}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = std::lower_bound(
      entries_.begin(), entries_.end(), name,
      [](const ZipEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

void ZipArchive::require_checksum(const ZipEntry& entry, std::uint32_t computed) const {
  if (entry.crc32 != 0 && computed != entry.crc32)
    throw UserError(
        fmt::format("'{}': the checksum of its entry {} is {:08x}, expected {:08x}; the file is "
                    "damaged, copy it anew",
                    path_, quoted_json(entry.name), computed, entry.crc32));
  verified_[static_cast<std::size_t>(&entry - entries_.data())] = true;
}

void ZipArchive::verify(const ZipEntry& entry) const {
  if (verified_[static_cast<std::size_t>(&entry - entries_.data())]) return;
  std::vector<char> piece(std::size_t{1} << 20U);
  std::uint32_t crc = 0;
  for (std::uint64_t at = 0; entry.crc32 != 0 && at < entry.size;) {
    const auto bytes =
        static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), entry.size - at));
    file_.read_at(entry.begin + at, piece.data(), bytes);
    crc = add_to_crc(crc, piece.data(), bytes);
    at += bytes;
  }
  require_checksum(entry, crc);
}

void ZipArchive::read(const ZipEntry& entry, std::uint64_t offset, void* data,
                      std::size_t bytes) const {
  HALFTONE_CHECK(offset <= entry.size && bytes <= entry.size - offset,
                 "[ZipArchive] read beyond the entry '", entry.name, "'");
  const bool is_whole = bytes == entry.size;
  if (!is_whole) verify(entry);
  file_.read_at(entry.begin + offset, data, bytes);
  if (is_whole) require_checksum(entry, add_to_crc(0, data, bytes));
}

std::string ZipArchive::read_all(const ZipEntry& entry, std::uint64_t max_bytes) const {
  if (entry.size > max_bytes)
    throw UserError(fmt::format("'{}': its entry {} has {}, expected at most {}", path_,
                                quoted_json(entry.name), format_bytes(entry.size),
                                format_bytes(max_bytes)));
  std::string bytes(entry.size, '\0');
  read(entry, 0, bytes.data(), bytes.size());
  return bytes;
}

bool begins_as_zip(const std::filesystem::path& path) {
  const File file = File::open_regular(path);
  std::uint32_t signature = 0;
  if (file.size() < sizeof signature) return false;
  file.read_at(0, &signature, sizeof signature);
  return signature == kLocalSignature;
}

}  // namespace halftone
