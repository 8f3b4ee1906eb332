// SPDX-License-Identifier: Apache-2.0
// libhalftone_operators.so has no code of its own: the operators in it register themselves when a
// program loads it.
