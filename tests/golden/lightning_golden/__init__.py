# SPDX-License-Identifier: Apache-2.0
"""The cases of make_lightning_golden.py."""
