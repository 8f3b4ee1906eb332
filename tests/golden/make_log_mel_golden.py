# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms by transformers' WhisperFeatureExtractor, for tests/nn/log_mel_spectrogram_test.cpp.

    python3 tests/golden/make_log_mel_golden.py        # needs numpy, transformers, safetensors

The clips are formulas of sines, so that the golden holds them as well and nothing depends on a sound file.
"""
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file
from transformers import WhisperFeatureExtractor

SAMPLES = 2400  # 0.15 seconds
ODD_SAMPLES = 1637  # no multiple of the hop
FILTERS = [0, 40, 79]  # of 80


def clip(count: int, seed: int) -> np.ndarray:
    """A rising tone, a hum and noise, with silence in the middle."""
    time = np.arange(count) / 16000
    sound = 0.5 * np.sin(2 * np.pi * (200 + 6000 * time) * time) + 0.1 * np.sin(2 * np.pi * 60 * time)
    sound += 0.01 * np.random.default_rng(seed).standard_normal(count)
    sound[count // 3 : count // 2] = 0
    return sound.astype(np.float32)


def main() -> None:
    extractor = WhisperFeatureExtractor(feature_size=80)
    clips = np.stack([clip(SAMPLES, 1), 0.01 * clip(SAMPLES, 2)])
    odd = clip(ODD_SAMPLES, 3)[None]
    features = [extractor._np_extract_fbank_features(clip[None], "cpu")[0] for clip in clips]
    save_file(
        {
            "clips": clips,
            "features": np.stack(features).astype(np.float32),
            "odd_clip": odd,
            "odd_features": extractor._np_extract_fbank_features(odd, "cpu").astype(np.float32),
            "filters": np.ascontiguousarray(extractor.mel_filters.T[FILTERS]).astype(np.float32),
        },
        pathlib.Path(__file__).parent / "log_mel.safetensors",
        metadata={"config": json.dumps({"n_mels": 80})},
    )


if __name__ == "__main__":
    main()
