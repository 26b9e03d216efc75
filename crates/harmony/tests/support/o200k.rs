//! The real o200k_harmony vocabulary as a `tokenizer.json`, from the ranks in the crate tiktoken-rs.
//!
//! Needs the crates `serde_json` and `tiktoken-rs`, nothing else: another crate's tests can take this file
//! in by `#[path]`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

/// Ids below are ordinary tokens.
pub(crate) const NUM_RANKS: u32 = 199_998;

/// What the published file splits text with before merging.
const PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The bytes of a `tokenizer.json`, made once.
pub(crate) static TOKENIZER_JSON: LazyLock<Vec<u8>> =
    LazyLock::new(|| serde_json::to_vec(&tokenizer_json()).expect("a value is always JSON"));

/// The added tokens of the published file.
pub(crate) fn special_tokens() -> Vec<(u32, String)> {
    let named = HashMap::from([
        (199_998, "startoftext"),
        (199_999, "endoftext"),
        (200_002, "return"),
        (200_003, "constrain"),
        (200_005, "channel"),
        (200_006, "start"),
        (200_007, "end"),
        (200_008, "message"),
        (200_012, "call"),
        (200_018, "endofprompt"),
    ]);
    (NUM_RANKS..=200_018)
        .map(|id| match named.get(&id) {
            Some(name) => (id, format!("<|{name}|>")),
            None => (id, format!("<|reserved_{id}|>")),
        })
        .collect()
}

fn tokenizer_json() -> Value {
    let bpe = tiktoken_rs::o200k_harmony_singleton();
    let tokens: Vec<Vec<u8>> =
        (0..NUM_RANKS).map(|id| bpe.decode_bytes(&[id]).expect("every rank has bytes")).collect();
    let letters = byte_letters();
    let spell =
        |token: &[u8]| -> String { token.iter().map(|&b| letters[usize::from(b)]).collect() };
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().zip(0u32..).map(|(token, id)| (spell(token), id.into())).collect();
    let merges: Vec<[String; 2]> = merges(&tokens)
        .into_iter()
        .map(|(left, right)| [spell(&tokens[left as usize]), spell(&tokens[right as usize])])
        .collect();
    let added: Vec<Value> = special_tokens()
        .into_iter()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// Every way to make a token of two, by rank of the token, then of its left and right part.
fn merges(tokens: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let ranks: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut merges = Vec::new();
    for token in tokens {
        let first = merges.len();
        merges.extend((1..token.len()).filter_map(|cut| {
            let (left, right) = token.split_at(cut);
            Some((*ranks.get(left)?, *ranks.get(right)?))
        }));
        merges[first..].sort_unstable();
    }
    merges
}

/// The letter that stands for each byte in byte-level BPE.
fn byte_letters() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match u8::try_from(byte).expect("256 letters") {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => others.next().expect("the range does not end"),
    })
}
