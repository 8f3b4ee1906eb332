# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/tokenizer/*.json: what Hugging Face's `tokenizers` package learns from the
texts below, and how it encodes and decodes.

    pip install tokenizers==0.23.3
    python3 tests/golden/make_tokenizer_golden.py
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).parent / "tokenizer"
SPECIAL = ["<unk>", "<s>", "</s>"]

POEMS = [  # Tang dynasty
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",
    "红豆生南国，春来发几枝。愿君多采撷，此物最相思。",
    "空山不见人，但闻人语响。返景入深林，复照青苔上。",
    "向晚意不适，驱车登古原。夕阳无限好，只是近黄昏。",
    "松下问童子，言师采药去。只在此山中，云深不知处。",
]
PROSE = [
    "The quick brown fox jumps over the lazy dog. It's what foxes do, and they'll do it again!",
    "We've trained on 16-bit numbers; I'm sure you'd like 32, but he didn't. DON'T SHOUT: it'S RUDE.",
    "for (int i = 0; i < 10; ++i) {\n\tsum += values[i];\n}\n\n\n    return sum;  // done\r\n",
    "Café, naïve, façade; Straße; Ελληνικά, русский язык, العربية, हिन्दी, ภาษาไทย, 한국어, 日本語のテキスト。",
]
SPACES = ["\t", "\n", "\x0b", "\x0c", "\r", "\x1c", "\x1d", "\x1e", "\x1f", " ", "\x85", "\xa0", "\u1680",
          "\u180e", "\u2000", "\u2007", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060",
          "\u3000", "\ufeff"]
CASES = POEMS[:2] + PROSE + [
    "", " ", "  ", "a", " a", "a ", "   a   b", "\n", "\n\n", "a\n\nb", "a\r\nb", "a \n b", "\t\tx",
    "'s", "''s", "'S", "it's we're I've I'm he'll she'd don't", "'re'll've", "x'", "' s", " 's", "o'clock",
    "<s>床前明月光</s>", "<s><s></s>", "<s", "< s>", "<unk>x<unk>", "<s>system\nhi</s>\n", "</s", "<<s>>",
    "1234567890 3.14 ١٢٣ ५६७ ½ ² Ⅷ ① 〇 一二三", "a1b2 c3", "1st 2nd",
    "e\u0301 cafe\u0301 a\u0308o", "👍🏽 👩‍👩‍👧 🇨🇳", "𝒳𝓎 𠀀𠀁", "a\x00b", "\u202eabc", "\ufffd",
    "----====", "!!! ??? ...", "，。！？", "＋１２３ａｂｃ", "x_y __init__", "100%", "$5.00",
    "word" * 60, "，" * 150, "床前明月光" * 40,
] + [f"a{s}b {s}c{s}{s}d{s}" for s in SPACES]


def new_tokenizer(texts, **options):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(special_tokens=SPECIAL, show_progress=False,
                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options))
    return tokenizer


def write(name, items):
    """A JSON array with one item a line."""
    lines = ",\n".join(json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items)
    (FOLDER / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def random_texts(rng):
    """Words of few letters: many ties, and tokens that several pairs spell."""
    return [" ".join("".join(rng.choice("ab") for _ in range(rng.randint(1, 14))) for _ in range(60))
            for _ in range(3)]


def trainings():
    rng = random.Random(1)
    kinds = [(POEMS + PROSE, {"vocab_size": 700}),
             (POEMS + PROSE, {"vocab_size": 6400}),  # more than there is to learn
             (POEMS + PROSE, {"vocab_size": 600, "min_frequency": 3}),
             (["aaaa aaaaaaa aaaaaaaaaaaa aaaaa"], {"vocab_size": 270})]
    kinds += [(random_texts(rng), {"vocab_size": 330}) for _ in range(3)]
    for texts, options in kinds:
        model = json.loads(new_tokenizer(texts, **options).to_str())["model"]
        yield {"texts": texts, "vocab_size": options["vocab_size"],
               "min_frequency": options.get("min_frequency", 0),
               "tokens": len(model["vocab"]), "merges": model["merges"]}


def encodings(tokenizer, cases):
    return [{"text": text, "ids": tokenizer.encode(text).ids} for text in cases]


def with_added_tokens(document):
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_tokens([AddedToken("明月", special=False, normalized=True),
                          AddedToken("前明", special=False, normalized=False),
                          AddedToken("<s>s", special=True, normalized=False)])
    return json.loads(tokenizer.to_str())["added_tokens"]


def merge_patch(document, patch):
    """RFC 7396."""
    for key, value in patch.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(document.get(key), dict):
                document[key] = {}
            merge_patch(document[key], value)
        else:
            document[key] = value


def regex_of(numbers):
    """Of Qwen2 (one number a word) and of Llama 3 (up to three)."""
    return (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers +
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


NUMBERS = {"qwen2": r"\p{N}", "llama3": r"\p{N}{1,3}"}


def split_first(numbers):
    return {"type": "Sequence", "add_prefix_space": None, "trim_offsets": None, "use_regex": None,
            "pretokenizers": [{"type": "Split", "pattern": {"Regex": regex_of(numbers)}, "behavior": "Isolated", "invert": False},
                              {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                               "use_regex": False}]}


def random_lines(count):
    """What the rules of lines, numbers and contractions can tell apart."""
    rng = random.Random(3)
    parts = ["a", "Zb", "é", "e\u0301", "明月", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "1", "23", "½", "'",
             "'s", "'S", "'LL", "'rE", "'\u017f", "(", "((", "!?", "，", "_", "👍", "\u2028", "\x85"]
    return ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 16))) for _ in range(count)]


def variants(tokenizer):
    """The same vocabulary with other settings, each as a patch of tokenizer.json."""
    document = json.loads(tokenizer.to_str())
    merges = document["model"]["merges"]
    patches = {
        "add_prefix_space": {"pre_tokenizer": {"add_prefix_space": True}},
        "no_regex": {"pre_tokenizer": {"use_regex": False}},
        "ignore_merges": {"model": {"ignore_merges": True, "merges": merges[:40]}},
        "string_merges": {"model": {"merges": [" ".join(pair) for pair in merges]}},
        "added_tokens": {"added_tokens": with_added_tokens(document)},
        "qwen2": {"normalizer": {"type": "NFC"}, "pre_tokenizer": split_first(NUMBERS["qwen2"])},
        "llama3": {"pre_tokenizer": split_first(NUMBERS["llama3"]), "model": {"ignore_merges": True},
                   "post_processor": {"type": "Sequence", "processors": [document["decoder"]]}},
    }
    for name, patch in patches.items():
        changed = json.loads(json.dumps(document))
        merge_patch(changed, patch)
        yield {"name": name, "patch": patch, "cases": encodings(Tokenizer.from_str(json.dumps(changed)), CASES)}


def words():
    """How the rules cut lines into words."""
    for name, numbers in NUMBERS.items():
        split = pre_tokenizers.Split(Regex(regex_of(numbers)), "isolated")
        for text in random_lines(400):
            yield {"rule": name, "text": text, "words": [word for word, _ in split.pre_tokenize_str(text)]}


def decodings(tokenizer):
    rng = random.Random(2)
    size = tokenizer.get_vocab_size()
    for length in (0, 1, 1, 2, 3, 5, 8, 20, 50):
        ids = [rng.randrange(size if rng.random() < 0.3 else 259) for _ in range(length)]
        for skip in (False, True):
            yield {"ids": ids, "skip": skip, "text": tokenizer.decode(ids, skip_special_tokens=skip)}


def main():
    FOLDER.mkdir(exist_ok=True)
    tokenizer = new_tokenizer(POEMS + PROSE, vocab_size=700)
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    write("trainings.json", trainings())
    write("encodings.json", encodings(tokenizer, CASES))
    write("variants.json", variants(tokenizer))
    write("words.json", words())
    write("decodings.json", decodings(tokenizer))


if __name__ == "__main__":
    main()
