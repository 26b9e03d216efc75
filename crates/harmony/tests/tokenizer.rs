//! The tokenizer against tiktoken-rs, which shares neither code nor data format with it.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use harmonium_harmony::{Error, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::cases;
use crate::support::o200k::{NUM_RANKS, TOKENIZER_JSON, special_tokens};

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_bytes(&TOKENIZER_JSON).expect("the real vocabulary loads"));

/// The real vocabulary, loaded once.
pub(crate) fn o200k() -> &'static Tokenizer {
    &TOKENIZER
}

const SAMPLES: [&str; 14] = [
    "",
    " ",
    "Hello, world! It's 12345 o'clock; they'LL say 'twas FINE.",
    "fn main() {\n    let x: Vec<u8> = vec![0; 1 << 20];\n\t// tabs\n}\n\n\n",
    "def f(a, *, b=None):\r\n    return {**a, 'b': b}  \r\n\r\n",
    "https://example.com/a/b?c=d&e=%20#f //// ../..",
    "你好，世界。今天天气怎么样？我们去吃饭吧。",
    "こんにちは。カタカナと漢字のテスト",
    "🙂👩‍👩‍👧‍👦🇫🇷 🏳️‍🌈 e\u{301} é \u{200b}\u{feff}\u{200d}",
    "Привет, как дела? Γειά σου. שלום مرحبا नमस्ते ภาษาไทย",
    "        x\n   \n \n\t\t \u{a0}\u{2003}y   ",
    "ＦＵＬＬ ｗｉｄｔｈ ①②③ Ⅷ ½ ٣٤٥ ǅ ß ŉ ʼn",
    "\u{0}\u{1}\u{7f}\u{fffd}\u{10ffff}\u{e000}",
    "{\"a\":[1,2.5e-3,null,true],\"b\":{\"c\":\"\\n\"}}",
];

/// Equality with tiktoken-rs, and back to the same text.
fn check(text: &str) {
    let ids = o200k().encode_text(text);
    let expected = tiktoken_rs::o200k_harmony_singleton().encode_ordinary(text);
    assert_eq!(ids, expected, "{text:?}");
    assert_eq!(decode(&ids), text.as_bytes(), "{text:?}");
}

fn decode(ids: &[u32]) -> Vec<u8> {
    ids.iter()
        .flat_map(|&id| o200k().decode_bytes(id).expect("an ordinary token"))
        .copied()
        .collect()
}

#[test]
fn control_tokens_have_their_published_ids() {
    let control = o200k().control();
    assert_eq!((control.start, control.end, control.message), (200_006, 200_007, 200_008));
    assert_eq!((control.channel, control.constrain), (200_005, 200_003));
    assert_eq!((control.return_, control.call), (200_002, 200_012));
    assert_eq!(control.endoftext, Some(199_999));
    assert_eq!(o200k().vocab_size(), 200_019);
}

#[test]
fn varied_text_equals_tiktoken() {
    SAMPLES.into_iter().for_each(check);
    check(&SAMPLES.join(" "));
    // Broken UTF-8 as it arrives: replaced, cut in the middle of characters.
    let bytes = SAMPLES.concat().into_bytes();
    for start in (0..bytes.len()).step_by(7) {
        let end = (start + 40).min(bytes.len());
        check(&String::from_utf8_lossy(&bytes[start..end]));
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn random_text_equals_tiktoken(text in ".{0,60}", spaces in "[ \t\r\na1'=/]{0,40}") {
        check(&text);
        check(&spaces);
        check(&format!("{text}{spaces}{text}"));
    }

    #[test]
    fn a_text_has_at_least_its_min_tokens(text in ".{0,60}", words in "[a-z ,.\n你好🙂1=]{0,80}") {
        for text in [&text, &words, &format!("{words}{text}{words}")] {
            prop_assert!(o200k().min_tokens(text) <= o200k().encode_text(text).len());
        }
    }
}

#[test]
fn min_tokens_is_near_the_truth_on_ordinary_text() {
    assert_eq!(o200k().min_tokens(""), 0);
    for text in SAMPLES.into_iter().chain([include_str!("tokenizer.rs")]) {
        let (least, num_tokens) = (o200k().min_tokens(text), o200k().encode_text(text).len());
        assert!(least <= num_tokens, "{text:?}");
        // Worst on scripts of which the vocabulary spells most letters in parts.
        assert!(least * 10 >= num_tokens * 4, "{least} of {num_tokens} for {text:?}");
    }
}

#[test]
fn text_for_several_threads_equals_tiktoken() {
    // Some megabytes in all, nowhere the same for long.
    let text: String = (0..6_000).map(|n| format!("{n} {}\n", SAMPLES[n * n % 14])).collect();
    check(&text);
    // Words that reach over what a thread takes.
    check(&format!("{text}{}{text}", "letters".repeat(40_000)));
}

#[test]
fn every_ordinary_id_decodes_to_its_bytes_and_no_other_id_does() {
    let tiktoken = tiktoken_rs::o200k_harmony_singleton();
    for id in 0..NUM_RANKS {
        let expected = tiktoken.decode_bytes(&[id]).expect("every rank has bytes");
        assert_eq!(o200k().decode_bytes(id), Some(expected.as_slice()));
    }
    for id in (NUM_RANKS..201_088 + 8).chain([u32::MAX - 1, u32::MAX]) {
        assert_eq!(o200k().decode_bytes(id), None);
    }
}

#[test]
fn no_special_token_comes_out_of_text() {
    for (_, name) in special_tokens() {
        for text in
            [name.clone(), format!(" {name}"), format!("x{name}{name}y"), format!("\n{name}\n")]
        {
            let ids = o200k().encode_text(&text);
            assert!(ids.iter().all(|&id| id < NUM_RANKS), "{text:?} became {ids:?}");
            check(&text);
        }
    }
}

#[test]
fn long_monotonous_text_takes_linear_time() {
    // One match of the split pattern takes all of it, and a merge has as many candidates as letters.
    let hostile = |piece: &str, len: usize| piece.repeat(len / piece.len());
    for text in [
        hostile(" ", 1_000_000),
        hostile("=", 200_000),
        hostile("\n", 200_000),
        format!("{}x", hostile(" \n", 200_000)),
        hostile("a", 200_000),
        hostile("aB", 200_000),
        hostile("你", 300_000),
        hostile("e\u{301}", 300_000),
    ] {
        let start = Instant::now();
        let ids = o200k().encode_text(&text);
        // A loose bound: quadratic time would be minutes.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?} for {:?}...", text.chars().next());
        assert_eq!(decode(&ids), text.as_bytes());
    }
}

#[test]
fn text_behind_a_million_blanks_is_split_as_ever() {
    // The regex engine gives up within the run; tiktoken panics. The last blank belongs to the word.
    let text = " don't stop at 1234567 things!\n\n  y";
    let ids = o200k().encode_text(&format!("{}{text}", " ".repeat(1_000_001)));
    assert!(ids.ends_with(&o200k().encode_text(text)));
    assert_eq!(
        ids.len(),
        o200k().encode_text(&" ".repeat(1_000_001)).len() + o200k().encode_text(text).len()
    );
}

#[test]
fn long_runs_equal_tiktoken() {
    for run in [" ", "\t ", "\u{2003}", "\n", " \n", "\n ", "=", "a", "aB", "你", "1", "/"] {
        for end in ["", "x", " ", "\n", "\tx", " \n x", "12", "/=\n", "\u{301}e"] {
            check(&format!("a={}{end}", run.repeat(5_000)));
        }
    }
}

/// A byte-level tokenizer with no merges, to be damaged.
fn small() -> Value {
    let mut json: Value = serde_json::from_slice(&TOKENIZER_JSON).expect("valid JSON");
    json["model"]["merges"] = json!([]);
    json["model"]["vocab"]
        .as_object_mut()
        .expect("an object")
        .retain(|token, _| token.chars().count() == 1);
    json
}

fn error_of(json: &Value) -> Error {
    Tokenizer::from_bytes(json.to_string().as_bytes()).expect_err("damaged")
}

#[test]
fn damaged_files_are_refused_with_the_cause() {
    assert!(Tokenizer::from_bytes(small().to_string().as_bytes()).is_ok());
    assert!(matches!(Tokenizer::from_bytes(b"{"), Err(Error::Unreadable { .. })));

    let mut json = small();
    json["added_tokens"]
        .as_array_mut()
        .expect("a list")
        .retain(|token| token["content"] != "<|call|>");
    assert_eq!(error_of(&json).to_string(), "tokenizer.json declares no control token <|call|>");

    let mut json = small();
    json["model"]["vocab"]["<|start|>"] = json!(200_006);
    assert!(matches!(error_of(&json), Error::SpecialTokenIsText { id: 200_006, .. }));

    let mut json = small();
    json["model"]["vocab"]["你"] = json!(7_777);
    assert!(matches!(error_of(&json), Error::NotByteLevel { id: 7_777, .. }));

    let mut json = small();
    json["model"]["vocab"].as_object_mut().expect("an object").remove("Ġ");
    assert!(matches!(error_of(&json), Error::MissingByte { byte: 0x20 }));

    let mut json = small();
    json["model"]["vocab"]["zz"] = json!(u32::MAX);
    assert!(matches!(error_of(&json), Error::IdTooLarge { id: u32::MAX, .. }));

    let mut json = small();
    json["normalizer"] = json!({"type": "Lowercase"});
    assert!(matches!(error_of(&json), Error::Unfaithful));
}

#[test]
fn control_ids_are_those_of_the_file_where_the_vocabulary_has_gaps() {
    let tokenizer = Tokenizer::from_bytes(small().to_string().as_bytes()).expect("loads");
    assert_eq!(tokenizer.control(), o200k().control());
    assert_eq!(tokenizer.decode_bytes(300), None);
}

#[test]
fn truncation_and_padding_in_the_file_are_ignored() {
    let mut json = small();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 200_006, "pad_type_id": 0, "pad_token": "<|start|>",
    });
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).expect("loads");
    assert_eq!(tokenizer.encode_text("abc").len(), 3);
}
