// SPDX-License-Identifier: Apache-2.0
// Messages for people, on stderr: "halftone: note: ..." and "halftone: warning: ...". Results never
// go here.
#pragma once

#include <functional>
#include <string>

namespace halftone {

void log_note(const std::string& message);
void log_warning(const std::string& message);
/// Says `message` the first time it is asked to in this process, then never again.
void log_warning_once(const std::string& message);

enum class LogLevel { kNote, kWarning };
/// Says nothing below `least` from now on: of several processes, one has the notes.
void set_log_level(LogLevel least);
/// Sends messages to `sink` instead of stderr (a host program's own log, a test); an empty one
/// restores stderr.
void set_log_sink(std::function<void(LogLevel, const std::string&)> sink);

}  // namespace halftone
