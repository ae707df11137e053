"""Normal noise of torch's CPU generator, as digests and first values.

    python tests/parity/noise.py --out tests/goldens

Writes noise.json: for each seed, successive draws from one generator, each with the SHA-256 of its little-endian f32
bytes and the bits of its first values. Needs an x86 processor with AVX2 (torch's scalar fallback differs in last digits).
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch

SEEDS = [0, 1, 42, 1337, 2**31 - 1, 2**32 - 1, 2**32 + 5, 2**63, 2**64 - 1]
DRAWS = [
    [1, 5, 15, 16, 17, 100],
    [16384],
    [16384, 16384, 3, 16384, 2],
    [4 * 4 * 96 * 96, 4 * 64 * 48],
    [1, 1, 1, 16, 1, 33, 15, 2],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    capability = torch.backends.cpu.get_cpu_capability()
    assert capability.startswith("AVX"), f"needs AVX2, this is {capability}"
    cases = []
    for seed in SEEDS:
        for counts in DRAWS:
            generator = torch.Generator("cpu").manual_seed(seed)
            draws = []
            for count in counts:
                values = torch.randn(count, generator=generator).numpy()
                digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
                draws.append({"count": count, "head": values[:3].view("<u4").tolist(), "sha256": digest})
            cases.append({"seed": str(seed), "draws": draws})
    out.mkdir(parents=True, exist_ok=True)
    golden = {"torch": torch.__version__, "capability": capability, "cases": cases}
    (out / "noise.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
