// SPDX-License-Identifier: Apache-2.0
// Precompiled for the tests: what the library precompiles, and GoogleTest.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/pch.h"
