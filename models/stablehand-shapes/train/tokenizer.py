"""Learns the tokenizer from the caption grammar and writes it in CLIP's format: `python tokenizer.py`.

As CLIP's: the 256 byte symbols, the same with `</w>`, the merges, and the two special tokens at the end.
"""

import collections
import json
import re

import numpy as np
from transformers import CLIPTokenizer

import captions
from common import MODEL_DIR

MERGES = 500
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    """CLIP's (GPT-2's) printable stand-in for each byte, in CLIP's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(word_counts, count):
    """Byte-pair encoding: repeatedly joins the most frequent neighbours (ties: the smaller pair)."""
    words = {tuple(word[:-1]) + (word[-1] + "</w>",): n for word, n in word_counts.items()}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for symbols, n in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        joined = {}
        for symbols, n in words.items():
            out, i = [], 0
            while i < len(symbols):
                if symbols[i : i + 2] == best:
                    out.append(symbols[i] + symbols[i + 1])
                    i += 2
                else:
                    out.append(symbols[i])
                    i += 1
            joined[tuple(out)] = joined.get(tuple(out), 0) + n
        words = joined
    return merges


def write(directory):
    """Writes the tokenizer's four files."""
    rng = np.random.default_rng(0)
    counts = collections.Counter()
    for _ in range(30_000):
        counts.update(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", captions.random_example(rng)[1].lower()))
    merges = learn_merges(counts, MERGES)
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + [START, END]
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))

    def special(token, normalized):
        return dict(content=token, lstrip=False, normalized=normalized, rstrip=False, single_word=False)

    config = dict(
        add_prefix_space=False,
        bos_token=dict(__type="AddedToken", **special(START, True)),
        do_lower_case=True,
        eos_token=dict(__type="AddedToken", **special(END, True)),
        errors="replace",
        model_max_length=77,
        pad_token=END,
        tokenizer_class="CLIPTokenizer",
        unk_token=dict(__type="AddedToken", **special(END, True)),
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    specials = dict(bos_token=special(START, True), eos_token=special(END, True), pad_token=END, unk_token=special(END, True))
    (directory / "special_tokens_map.json").write_text(json.dumps(specials, indent=2) + "\n")


def load(directory=MODEL_DIR / "tokenizer"):
    """The tokenizer as transformers reads it."""
    return CLIPTokenizer.from_pretrained(directory)


def encode(tokenizer, texts):
    """Token ids of the texts, each padded or cut to 77."""
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


if __name__ == "__main__":
    write(MODEL_DIR / "tokenizer")
    print(f"{len(load())} tokens in {MODEL_DIR / 'tokenizer'}")
