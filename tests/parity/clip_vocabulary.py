"""The real CLIP vocabulary as `vocab.json` and `merges.txt`, from a published wheel that carries it (open_clip_torch, MIT).

The project does not carry the vocabulary. Needs Python, pip and PyPI, nothing else:

    python tests/parity/clip_vocabulary.py --out DIR [--source bpe_simple_vocab_16e6.txt.gz]
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

WHEEL = "open_clip_torch==3.3.0"
MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 49152 - 256 - 2


def byte_symbols():
    """The 256 symbols of byte-level BPE in the order of their ids: printable Latin-1 bytes as themselves, others moved up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary(merges):
    """Token to id as CLIP numbers them: symbols, symbols that end a word, merges in order, the two special tokens."""
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m.split(" ")) for m in merges]
    return {t: i for i, t in enumerate(tokens + ["<|startoftext|>", "<|endoftext|>"])}


def write(out, merges):
    """Writes both files as the tokenizers of published checkpoints have them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocabulary(merges), ensure_ascii=False), encoding="utf-8")
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def from_wheel():
    """The vocabulary's bytes out of the pinned wheel, which is downloaded and not installed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary=:all:", "--dest", folder, WHEEL], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        return zipfile.ZipFile(wheel).read(MEMBER)


def real_merges(source=None):
    """CLIP's merges, from a local copy of the published file or from the wheel."""
    packed = pathlib.Path(source).read_bytes() if source else from_wheel()
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise SystemExit(f"the vocabulary has sha256 {found}, expected {SHA256}")
    return gzip.decompress(packed).decode("utf-8").split("\n")[1 : MERGES + 1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--source")
    args = parser.parse_args()
    write(args.out, real_merges(args.source))
