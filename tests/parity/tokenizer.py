"""Goldens of the CLIP tokenizer: hard strings and the ids that transformers' CLIPTokenizer makes of them.

Writes `tokenizer/real.json` (the real CLIP vocabulary; ids only, the vocabulary itself comes from a wheel when the test
runs) and `tokenizer/small/` (a made vocabulary of a few hundred merges, in every way that a checkpoint can describe its
special tokens). Ids are as diffusers' pipelines ask for them: padded to and truncated at `model_max_length`.

    python tests/parity/tokenizer.py --out tests/goldens [--source bpe_simple_vocab_16e6.txt.gz]
    python tests/parity/tokenizer.py --out DIR --exhaustive    # every Unicode scalar value as well (STABLEHAND_GOLDENS=DIR)
"""

import argparse
import collections
import json
import pathlib
import random
import tempfile
import unicodedata

from transformers import CLIPTokenizer

import clip_vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"

WORDS = """a an the of on in at with and photo painting portrait astronaut riding horse mars hd dramatic lighting 4k 8k highly
detailed trending artstation greg rutkowski octane render unreal engine cinematic oil canvas watercolor castle forest ocean
sunset cyberpunk city neon rain cat dog dragon wizard knight robot spaceship galaxy nebula beautiful intricate elegant sharp
focus digital illustration concept art smooth by artgerm alphonse mucha studio ghibli anime manga sketch pencil charcoal bokeh
macro wide-angle lens f/1.8 35mm iso100 (masterpiece:1.2) [worst quality] red circle white background blue square""".split()

FIXED = [
    "", " ", "   ", "\n", "\t\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u2028\u2029", "\u0085", "\u001c\u001d\u001e\u001f",
    "a", "A", "!", "!!", "!!!", "wow!", "hello !", "! ! !", "hello!world", "?!?!", "...", "…", "--", "—", "'", "''", "\"",
    "it's", "IT'S", "don't can't won't", "we've they're I'm you'll he'd", "it’s", "'s", "'S", "x's's", "rock 'n' roll", "o'clock",
    "a\u0301", "\u00e1", "e\u0301le\u0300ve", "\u212b \u00c5 A\u030a", "ﬁne ﬂow ﬃ", "\u1e9b\u0323", "q\u0307\u0323", "\u0344",
    "İstanbul", "I\u0307", "ſtraße STRASSE ẞ", "ΣΊΣΥΦΟΣ ΟΔΥΣΣΕΥΣ", "ǅungla Ǆ", "naïve café résumé", "Ångström", "Đặng Thị Ngọc",
    "北京の朝、霧。", "東京タワー", "한국어 텍스트", "한국어", "カタカナ ﾊﾝｶｸ ひらがな", "龍が空を飛ぶ", "你好，世界！", "𠮷野家", "ｆｕｌｌｗｉｄｔｈ　ｔｅｘｔ",
    "Привет, мир", "Ёлка", "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "السَّلَامُ", "नमस्ते दुनिया", "สวัสดีชาวโลก", "ありがとう😀", "ไทย1๒3",
    "😀", "😀😀😀", "👨‍👩‍👧‍👦 family", "👍🏽 ok", "🇫🇷🇩🇪", "☺️", "❤️‍🔥", "a😀b", "🏴\U000e0067\U000e0062\U000e007f", "½ cup ⅓ Ⅳ ① ²³", "٣٤٥", "१२३",
    "12345", "3.14159", "1,000,000", "2x4", "v1.5", "512x512", "1st 2nd", "0x1F", "x²+y²=z²", "50% off", "$5 €5 £5 ¥5", "C++ C#",
    "&amp;", "&lt;b&gt;", "&amp;amp;", "&quot;quoted&quot;", "&#39;", "&nbsp;", "&eacute;", "&notanentity;", "<b>bold</b>", "<!-- c -->",
    START, END, START + END, END * 3, f"{START} a cat {END}", f"a{END}b", f"{END}{END} cat", START.upper(), END.upper(), "<|StartOfText|>",
    "<|endoftext", "endoftext|>", "<| endoftext |>", "<|endoftext|>s", "a<|startoftext|>'s", "<\u200b|endoftext|>", "<|ｅndoftext|>", "<|endofte\u0078t|>",
    "<|END\u212aOFTEXT|>", "<|pad|>", "</w>", "a</w>b", "Ġ", "Ġhello", "\u0120\u0100", "<unk>", "[MASK]", "##ing",
    "\x00", "a\x00b", "\x01\x02\x03", "\x7f", "bell\x07", "esc\x1b[31m", "\x08", "a\u200bb", "a\u200db", "a\u00adb", "\u202eevil\u202c", "\ufffd",
    "\ufffe", "\uffff", "\U0010ffff", "\ue000 private", "\U000e0001", "\u2060", "\u180e", "a\u180eb", "a\u0085b", "a\u2003b", "a\x0bb\x0cc", "a\x1fb", "a \x1c b",
    "  leading", "trailing  ", "two  spaces", "tab\tbetween", "line\nbreak", "cr\r\nlf", " \u00a0 mixed \u3000 ", "a\u2009b\u202fc", "\n\n\na\n\n\n",
    "CamelCaseWords", "snake_case_words", "kebab-case-words", "UPPER lower MiXeD", "http://example.com/?q=a&b=c#d", "user@example.com", "#hashtag @mention",
    "C:\\path\\file.png", "a/b\\c|d", "(parens)[brackets]{braces}", "(((deep)))", "((word:1.3))", "a, b; c: d.", "a,b;c:d.", "~`^_=+*", "¿qué? ¡sí!",
    "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaft", "llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
    "an astronaut riding a horse on mars, hd, dramatic lighting", "a vision of paradise. unreal engine",
]  # fmt: skip

LONG = [("a ", 74), ("a ", 75), ("a ", 76), ("a ", 80), ("a ", 5000), ("a", 5000), ("ab ", 100), ("😀", 400), ("龍", 3000), ("!", 200), ("! ", 200)]
LONG += [(" ", 5000), (END, 100), (END + " ", 100), ("'s", 100), ("1", 100), ("12 ", 60), ("x\u0301", 300), ("photo of a cat, ", 40), ("\n", 300), ("é", 200)]

BLOCKS = [(0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF)]
BLOCKS += [(0xE00, 0xEFF), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF), (0x3400, 0x9FFF)]
BLOCKS += [(0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFFEF), (0x10000, 0x10FFF), (0x1D400, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF)]


def scalar(rng, low, high):
    while 0xD800 <= (c := rng.randint(low, high)) <= 0xDFFF:
        pass
    return chr(c)


def hard_strings(count, seed):
    """Fixed traps first, then strings made of words, of one script, of marks, of everything, and of all spliced together."""
    rng = random.Random(seed)
    strings = list(FIXED)
    specials = [START, END, "!", "'s", "&amp;", "\u0301", "\u200d", "  ", "\n", "\x00", "</w>", "<|", "|>", "’", "...", "İ"]

    def words():
        chosen = [rng.choice(WORDS) for _ in range(rng.randint(1, 24))]
        chosen = [rng.choice([str.lower, str.lower, str.upper, str.title])(w) for w in chosen]
        return rng.choice([" ", " ", ", ", "  ", "-", ""]).join(chosen)

    def script():
        low, high = rng.choice(BLOCKS)
        return "".join(scalar(rng, low, high) + rng.choice(["", "", "", " "]) for _ in range(rng.randint(1, 16)))

    def anything():
        return "".join(scalar(rng, *rng.choice([(0, 0x7F), (0, 0xFFFF), (0, 0x10FFFF)])) for _ in range(rng.randint(1, 12)))

    def marks():
        base = [rng.choice("aeiouAEIOUnscyzßΩя가ก") + "".join(scalar(rng, 0x300, 0x36F) for _ in range(rng.randint(0, 3))) for _ in range(8)]
        return unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC", "NFKD"]), "".join(base))

    def ascii_noise():
        return "".join(rng.choice("abcXYZ019 '!,.<|>&;#_-\t") for _ in range(rng.randint(1, 40)))

    def spliced():
        parts = [rng.choice([words, script, anything, marks, ascii_noise])()[:20] for _ in range(3)]
        return rng.choice(specials).join(parts) + rng.choice(["", rng.choice(specials)])

    kinds = [words, words, script, script, anything, marks, ascii_noise, spliced, spliced]
    while len(strings) < count:
        strings.append(kinds[len(strings) % len(kinds)]())
    return strings[:count]


def trained_merges(count):
    """Byte-pair merges learned from the words above: a small vocabulary of CLIP's form."""
    encode = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], clip_vocabulary.byte_symbols()))
    corpus = [w.lower() for w in WORDS] + ["café", "naïve", "über", "привет", "北京", "龍", "😀😀"] * 3
    missing = iter(clip_vocabulary.byte_symbols()[len(encode) :])
    encode |= {b: next(missing) for b in range(256) if b not in encode}
    pieces = collections.Counter()
    for word in corpus:
        symbols = [encode[b] for b in word.encode()]
        pieces[tuple(symbols[:-1] + [symbols[-1] + "</w>"])] += 1
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for symbols, n in pieces.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(" ".join(best))
        merged = collections.Counter()
        for symbols, n in pieces.items():
            out, i = [], 0
            while i < len(symbols):
                pair = symbols[i : i + 2]
                out.append("".join(pair) if pair == best else symbols[i])
                i += 2 if pair == best else 1
            merged[tuple(out)] += n
        pieces = merged
    return merges


def token(content, **changes):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | changes


def typed(content, **changes):
    return {"__type": "AddedToken"} | token(content, **changes)


# How published checkpoints, and some that could be, describe their special tokens: files other than the vocabulary.
SD1 = {
    "tokenizer_config.json": {"model_max_length": 77, "bos_token": typed(START), "eos_token": typed(END), "unk_token": typed(END), "pad_token": END},
    "special_tokens_map.json": {"bos_token": token(START), "eos_token": token(END), "unk_token": token(END), "pad_token": END},
}
SD2 = {
    "tokenizer_config.json": {"model_max_length": 77, "bos_token": typed(START), "eos_token": typed(END), "unk_token": typed(END), "pad_token": END},
    "special_tokens_map.json": {"bos_token": token(START), "eos_token": token(END), "unk_token": token(END), "pad_token": "!"},
}
VARIANTS = {
    "sd1": SD1,
    "sd2": SD2,
    "decoder": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "0": token("!", normalized=False, special=True),
                "49406": token(START, special=True),
                "49407": token(END, special=True),
            },
            "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!", "model_max_length": 77,
        },
    },
    "plain": {"tokenizer_config.json": {"model_max_length": 77, "pad_token": END}, "special_tokens_map.json": {"bos_token": START, "eos_token": END}},
    "stripping": {
        "tokenizer_config.json": {"model_max_length": 40},
        "special_tokens_map.json": {
            "eos_token": token(END, normalized=False), "unk_token": token(END), "pad_token": token("!", lstrip=True, rstrip=True, single_word=True),
            "additional_special_tokens": ["<new>", "Photo"],
        },
    },
    "tokenizer_json": {"tokenizer_config.json": {"model_max_length": 77, "pad_token": "!"}, "tokenizer.json": None},
    "bare": {"tokenizer_config.json": {"model_max_length": 77}},
}  # fmt: skip
EXTRA = ["a <new> one", "<new><new>", "<NEW>", "photo Photo PHOTO photos", "a ! b", "a!b", " ! ", "!  !  x", "cat ! <|endoftext|> !"]


def build(folder, merges, files):
    """A tokenizer directory with these files, opened as transformers opens it."""
    folder.mkdir(parents=True, exist_ok=True)
    clip_vocabulary.write(folder, merges)
    for name, contents in files.items():
        if contents is not None:
            (folder / name).write_text(json.dumps(contents, indent=1), encoding="utf-8")
    if "tokenizer.json" in files:
        CLIPTokenizer.from_pretrained(folder)._tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    return CLIPTokenizer.from_pretrained(folder)


def ids(tokenizer, texts):
    """As diffusers' `encode_prompt` calls the tokenizer; the trailing padding is left out."""
    length = tokenizer.model_max_length
    rows = tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids
    for row in rows:
        assert len(row) == length
        while row and row[-1] == tokenizer.pad_token_id:
            row.pop()
    return {"length": length, "pad": tokenizer.pad_token_id, "ids": rows}


def write(path, golden):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--source", help="a local bpe_simple_vocab_16e6.txt.gz instead of the wheel")
    parser.add_argument("--exhaustive", action="store_true", help="also every Unicode scalar value, between letters and digits")
    args = parser.parse_args()

    texts = hard_strings(2400, 1)
    long = [text * times for text, times in LONG]
    real = clip_vocabulary.real_merges(args.source)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        one = build(folder / "sd1", real, SD1)
        two = build(folder / "sd2", real, SD2)
        some = hard_strings(400, 1)
        golden = {"texts": texts, "long": LONG, "models": {"sd1": {"files": SD1, **ids(one, texts + long)}, "sd2": {"files": SD2, **ids(two, some)}}}
        write(args.out / "tokenizer/real.json", golden)
        if args.exhaustive:
            every = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
            rows = ids(one, [f"a{chr(c)}b 1{chr(c)}" for c in every])["ids"]
            write(args.out / "tokenizer/exhaustive.json", {"codes": every, "ids": rows})

    texts = hard_strings(300, 2)[: len(FIXED)] + EXTRA + hard_strings(420, 2)[len(FIXED) :]
    merges = trained_merges(400)
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, files in VARIANTS.items():
            tokenizer = build(pathlib.Path(folder) / name, merges, files)
            if "tokenizer.json" in files:
                files["tokenizer.json"] = json.loads((pathlib.Path(folder) / name / "tokenizer.json").read_text())
            models[name] = {"files": files, **ids(tokenizer, texts + long)}
    write(args.out / "tokenizer/small.json", {"texts": texts, "long": LONG, "models": models})
    clip_vocabulary.write(args.out / "tokenizer/small", merges)


if __name__ == "__main__":
    main()
