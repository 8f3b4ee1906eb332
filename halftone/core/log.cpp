// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <mutex>
#include <set>

namespace halftone {
namespace {

using Sink = std::function<void(LogLevel, const std::string&)>;

std::mutex& sink_mutex() {
  static std::mutex mutex;
  return mutex;
}

Sink& current_sink() {
  static Sink sink;
  return sink;
}

spdlog::logger& stderr_logger() {
  static spdlog::logger logger = [] {
    spdlog::logger created("halftone", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    created.set_pattern("halftone: %v");
    created.flush_on(spdlog::level::info);
    return created;
  }();
  return logger;
}

std::atomic<LogLevel>& least_level() {
  static std::atomic<LogLevel> least{LogLevel::kNote};
  return least;
}

void log(LogLevel level, const std::string& message) {
  if (level < least_level()) return;
  Sink sink;
  {
    const std::lock_guard lock(sink_mutex());
    sink = current_sink();
  }
  if (sink) {
    sink(level, message);
  } else if (level == LogLevel::kWarning) {
    stderr_logger().warn("warning: {}", message);
  } else {
    stderr_logger().info("note: {}", message);
  }
}

}  // namespace

void set_log_level(LogLevel least) { least_level() = least; }

void log_note(const std::string& message) { log(LogLevel::kNote, message); }

void log_warning(const std::string& message) { log(LogLevel::kWarning, message); }

void log_warning_once(const std::string& message) {
  static std::mutex mutex;
  static std::set<std::string> said;
  {
    const std::lock_guard lock(mutex);
    if (!said.insert(message).second) return;
  }
  log_warning(message);
}

void set_log_sink(Sink sink) {
  const std::lock_guard lock(sink_mutex());
  current_sink() = std::move(sink);
}

}  // namespace halftone
