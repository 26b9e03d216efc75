//! Any sequence of tokens through the Harmony parser: it keeps the promises that the tests know.
//!
//! Each input byte is a token of a small vocabulary: the bytes below 0x80 are one byte of text each, the
//! others control tokens, words of headers, broken UTF-8, and ids beyond the vocabulary.
#![no_main]

#[path = "../../crates/harmony/tests/support/promises.rs"]
mod promises;

use std::sync::LazyLock;

use harmonium_harmony::{Parser, Tokenizer};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const CONTROL: [&str; 8] =
    ["start", "end", "message", "channel", "constrain", "return", "call", "endoftext"];
const WORDS: [&str; 20] = [
    "assistant",
    "user",
    "analysis",
    "comment",
    "ary",
    "final",
    " to",
    "=",
    "functions",
    ".",
    "get",
    "_weather",
    " json",
    "json",
    " code",
    " assistant",
    "??",
    "{\"a\":1}",
    " text of some length",
    "\n",
];
const FIRST_CONTROL: u32 = 256;
const FIRST_WORD: u32 = FIRST_CONTROL + CONTROL.len() as u32;
const FIRST_UNKNOWN: u32 = FIRST_WORD + WORDS.len() as u32;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::from_bytes(tokenizer_json().to_string().as_bytes()).expect("byte-level")
});

fuzz_target!(|input: &[u8]| {
    let ids: Vec<u32> = input.iter().map(|&byte| id(byte)).collect();
    let parser = Parser::new(TOKENIZER.clone(), ["get_weather".to_owned(), "json".to_owned()]);
    promises::check_promises(&TOKENIZER, parser, &ids);
});

fn id(byte: u8) -> u32 {
    match u32::from(byte) {
        byte @ 0x00..0x80 => byte,
        byte @ 0x80..0xc0 => FIRST_CONTROL + (byte - 0x80) % (FIRST_UNKNOWN + 1 - FIRST_CONTROL),
        byte => byte,
    }
}

fn tokenizer_json() -> Value {
    let mut others = '\u{100}'..;
    let letters: Vec<char> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => others.next().expect("the range does not end"),
        })
        .collect();
    let spell =
        |text: &str| -> String { text.bytes().map(|byte| letters[usize::from(byte)]).collect() };
    let mut vocab: serde_json::Map<String, Value> =
        letters.iter().zip(0u32..).map(|(letter, id)| (letter.to_string(), json!(id))).collect();
    // "=", "." and the newline are bytes, too; an id of theirs that no word has decodes to nothing.
    for (word, id) in WORDS.iter().zip(FIRST_WORD..) {
        vocab.entry(spell(word)).or_insert(json!(id));
    }
    let added: Vec<Value> = CONTROL
        .iter()
        .zip(FIRST_CONTROL..)
        .map(|(name, id)| {
            json!({
                "id": id, "content": format!("<|{name}|>"), "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "post_processor": null, "decoder": null, "added_tokens": added,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
        },
        "model": {"type": "BPE", "ignore_merges": false, "vocab": vocab, "merges": []},
    })
}
