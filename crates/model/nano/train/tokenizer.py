"""Writes the nano model's tokenizer files: the first 4,096 o200k ranks and the Harmony control tokens.

    python tokenizer.py o200k_base.tiktoken OUT_FOLDER
"""
import base64
import json
import os
import sys

RANKS = 4096
CONTROL = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>"]
# Not o200k's own split: there " Henry" and "Henry" share no token, so a name can only be copied from a sentence into
# JSON by someone who knows how every token is spelled. Here a word has the same tokens wherever it stands: only a
# lower-case word that is not part of an identifier takes the space before it, and every digit stands alone.
PATTERN = "|".join([
    r" \p{Ll}+(?![\p{L}_])",
    r"[\p{Lu}\p{Lt}]?[\p{Ll}\p{Lm}\p{Lo}\p{M}]+", r"[\p{Lu}\p{Lt}]+(?!\p{Ll})", r"[\p{Lu}\p{Lt}]",
    r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def byte_letters():
    """The byte-to-character table of byte-level BPE."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, n = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in table:
            table[b], n = chr(256 + n), n + 1
    return table


def parents(token, ranks):
    """The two pieces whose merge gives this token."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 30))
        parts[best:best + 2] = [parts[best] + parts[best + 1]]
    return parts


def main(source, out):
    ranks = {}
    for line in open(source, "rb"):
        token, rank = line.split()
        if int(rank) < RANKS:
            ranks[base64.b64decode(token)] = int(rank)
    table = byte_letters()
    show = lambda t: "".join(table[b] for b in t)
    vocab = {show(t): r for t, r in sorted(ranks.items(), key=lambda x: x[1])}
    merges = [[show(p) for p in parents(t, ranks)] for t, r in sorted(ranks.items(), key=lambda x: x[1]) if len(t) > 1]
    added = [{"id": RANKS + i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, c in enumerate(CONTROL)]
    level = lambda prefix, regex, trim=True: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}
    tok = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
           "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, level(False, False)]},
           "post_processor": level(True, True, False), "decoder": level(True, True),
           "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": merges}}
    os.makedirs(out, exist_ok=True)
    names = {"bos_token": CONTROL[0], "eos_token": CONTROL[2], "pad_token": CONTROL[1]}
    decoder = {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added}
    files = {"tokenizer.json": tok, "special_tokens_map.json": names,
             "tokenizer_config.json": {"added_tokens_decoder": decoder, **names, "clean_up_tokenization_spaces": False, "extra_special_tokens": {}, "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072, "tokenizer_class": "PreTrainedTokenizerFast"}}
    for name, value in files.items():
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
