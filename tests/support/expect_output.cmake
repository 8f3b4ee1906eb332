# SPDX-License-Identifier: Apache-2.0
# Runs a command that must end with 0 and print what is expected. ctest's own PASS_REGULAR_EXPRESSION looks at the
# output alone: a program that prints the right words and then fails would pass.
#   cmake -D PATTERN=REGEX [-D ABSENT=REGEX] -P expect_output.cmake -- COMMAND [ARGUMENT...]
set(command "")
set(begun OFF)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(begun)
    string(REPLACE ";" "\\;" argument "${CMAKE_ARGV${i}}")
    list(APPEND command "${argument}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(begun ON)
  endif()
endforeach()
if(NOT command OR NOT DEFINED PATTERN)
  message(FATAL_ERROR "expected -D PATTERN=REGEX, and a command after --")
endif()
execute_process(COMMAND ${command} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output ECHO_OUTPUT_VARIABLE
                ECHO_ERROR_VARIABLE)
if(NOT code STREQUAL "0")
  message(FATAL_ERROR "expected exit code 0, got ${code}")
endif()
if(NOT output MATCHES "${PATTERN}")
  message(FATAL_ERROR "expected output that matches: ${PATTERN}")
endif()
if(DEFINED ABSENT AND output MATCHES "${ABSENT}")
  message(FATAL_ERROR "expected no output that matches: ${ABSENT}")
endif()
