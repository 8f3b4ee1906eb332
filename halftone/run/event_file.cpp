// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/event_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <protozero/pbf_builder.hpp>
#include <string_view>
#include <system_error>

#include "halftone/core/text.h"
#include "halftone/run/event_record.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

// The messages of TensorBoard's event.proto and summary.proto, as far as they are written here.
enum class Event : protozero::pbf_tag_type {
  kWallTime = 1,
  kStep = 2,
  kFileVersion = 3,
  kSummary = 5,
  kSessionLog = 7
};
enum class SessionLog : protozero::pbf_tag_type { kStatus = 1 };
enum class Summary : protozero::pbf_tag_type { kValue = 1 };
enum class Value : protozero::pbf_tag_type {
  kTag = 1,
  kSimpleValue = 2,
  kHistogram = 5,
  kTensor = 8,
  kMetadata = 9
};
enum class Histogram : protozero::pbf_tag_type {
  kMin = 1,
  kMax = 2,
  kNum = 3,
  kSum = 4,
  kSumOfSquares = 5,
  kBucketLimit = 6,
  kBucket = 7
};
enum class Metadata : protozero::pbf_tag_type { kPluginData = 1 };
enum class PluginData : protozero::pbf_tag_type { kPluginName = 1 };
enum class Tensor : protozero::pbf_tag_type { kDtype = 1, kShape = 2, kStringValue = 8 };

constexpr std::int32_t kSessionStart = 1;
constexpr std::int32_t kStringDtype = 7;
constexpr std::string_view kFormat = "brain.Event:2";
constexpr std::string_view kNameStart = "events.out.tfevents.";

using protozero::pbf_builder;

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

pbf_builder<Event> event_at(std::string& bytes, std::int64_t step) {
  pbf_builder<Event> event(bytes);
  event.add_double(Event::kWallTime, unix_time());
  event.add_int64(Event::kStep, step);
  return event;
}

pbf_builder<Value> value_called(pbf_builder<Summary>& summary, const std::string& name) {
  pbf_builder<Value> value(summary, Summary::kValue);
  value.add_string(Value::kTag, replace_invalid_utf8(name));
  return value;
}

// The seconds in the name of an event file; 0 for another file.
std::int64_t seconds_in(std::string_view name) {
  std::int64_t seconds = 0;
  if (!name.starts_with(kNameStart)) return 0;
  name.remove_prefix(kNameStart.size());
  std::from_chars(name.data(), name.data() + name.size(), seconds);
  return seconds;
}

// TensorBoard sorts by name and never goes back: two files of one second, or of a clock that was
// set back, would stand in the wrong order.
std::int64_t seconds_for_new_file(const fs::path& folder) {
  auto seconds = static_cast<std::int64_t>(unix_time());
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    seconds = std::max(seconds, seconds_in(entry.path().filename().string()) + 1);
  if (error) throw_file_error("read", folder, error.value());
  return seconds;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0' ? name.data()
                                                                             : "localhost";
}

fs::path new_path_in(const fs::path& folder) {
  static std::atomic<int> files_of_process = 0;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_file_error("create", folder, error.value());
  return folder / fmt::format("{}{:010}.{}.{}.{}", kNameStart, seconds_for_new_file(folder),
                              host_name(), ::getpid(), files_of_process++);
}

}  // namespace

EventFile::EventFile(const fs::path& folder, std::int64_t last_step)
    : path_(new_path_in(folder)), file_(path_, O_WRONLY | O_CREAT | O_EXCL | O_APPEND) {
  std::string version;
  event_at(version, 0).add_string(Event::kFileVersion, kFormat.data(), kFormat.size());
  write(version);
  // TensorBoard takes the first one of a run for its beginning, and from each later one on forgets
  // the steps from the event's own on.
  std::string start;
  {
    pbf_builder<Event> event = event_at(start, last_step + 1);
    pbf_builder<SessionLog>(event, Event::kSessionLog).add_enum(SessionLog::kStatus, kSessionStart);
  }
  write(start);
}

void EventFile::add_scalars(std::int64_t step, const std::map<std::string, double>& values) {
  std::string bytes;
  {
    pbf_builder<Event> event = event_at(bytes, step);
    pbf_builder<Summary> summary(event, Event::kSummary);
    for (const auto& [name, value] : values)
      value_called(summary, name).add_float(Value::kSimpleValue, static_cast<float>(value));
  }
  write(bytes);
}

void EventFile::add_histogram(std::int64_t step, const std::string& name,
                              const Distribution& values) {
  std::string bytes;
  {
    pbf_builder<Event> event = event_at(bytes, step);
    pbf_builder<Summary> summary(event, Event::kSummary);
    pbf_builder<Value> value = value_called(summary, name);
    pbf_builder<Histogram> histogram(value, Value::kHistogram);
    histogram.add_double(Histogram::kMin, values.least);
    histogram.add_double(Histogram::kMax, values.most);
    histogram.add_double(Histogram::kNum, values.count);
    histogram.add_double(Histogram::kSum, values.sum);
    histogram.add_double(Histogram::kSumOfSquares, values.sum_of_squares);
    histogram.add_packed_double(Histogram::kBucketLimit, values.ends.begin(), values.ends.end());
    histogram.add_packed_double(Histogram::kBucket, values.counts.begin(), values.counts.end());
  }
  write(bytes);
}

void EventFile::add_text(std::int64_t step, const std::string& name, const std::string& text) {
  std::string bytes;
  {
    pbf_builder<Event> event = event_at(bytes, step);
    pbf_builder<Summary> summary(event, Event::kSummary);
    pbf_builder<Value> value = value_called(summary, name);
    {
      pbf_builder<Tensor> tensor(value, Value::kTensor);
      tensor.add_enum(Tensor::kDtype, kStringDtype);
      tensor.add_message(Tensor::kShape, "", 0);  // no dimension: a single text
      tensor.add_bytes(Tensor::kStringValue, replace_invalid_utf8(text));
    }
    pbf_builder<Metadata> metadata(value, Value::kMetadata);
    pbf_builder<PluginData>(metadata, Metadata::kPluginData)
        .add_string(PluginData::kPluginName, "text");
  }
  write(bytes);
}

void EventFile::write(const std::string& event) {
  const std::string record = event_record(event);
  file_.write(record.data(), record.size());
}

}  // namespace halftone
