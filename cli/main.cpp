// SPDX-License-Identifier: Apache-2.0
#include "halftone/halftone.h"

int main() { return 0; }
