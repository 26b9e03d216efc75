//! Text to token ids, long texts on several threads.
//!
//! A tokenizer of the published shape splits text into words by one regular expression and merges each word by
//! itself. For that shape the two steps are done here, over the crate's regex engine and the crate's model,
//! without the copies and offsets that the crate keeps for every byte. Any other shape goes through the crate whole.
//!
//! The next word is a function of the text and of the place where the last word ended, whatever the pattern is. So a
//! thread may begin anywhere, as long as it looks at the whole text: once a word ends where one of the words from the
//! text's start ends, all that follow are the same. Where a thread begins decides how soon that is, never what comes
//! out.

use fancy_regex::Regex;
use rayon::prelude::*;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{Model, PreTokenizerWrapper, pre_tokenizers::split::SplitPattern};

use super::byte_of;

/// Bytes that one thread takes at a time, some milliseconds of work. Texts below twice as much are not divided.
const STRETCH_LEN: usize = 64 * 1024;

/// A blank run of more bytes is cut off from the word behind it before encoding. The split pattern looks ahead
/// for its end, and the regex engine gives up, silently, on about a million blanks: without the cut, all
/// text behind them would go unsplit.
const MAX_BLANKS_LEN: usize = 4 * 1024;

pub(super) struct Encoder {
    /// Has no added vocabulary, truncation, padding or post-processor.
    whole: tokenizers::Tokenizer,
    /// Finds the words, if the tokenizer has the shape described above.
    pattern: Option<Regex>,
    /// The letter that stands for each byte in the vocabulary.
    letters: [char; 256],
}

/// What one thread made of its stretch of the text.
struct Walk {
    /// Where words began and ended, and how many ids precede that place, in ascending order.
    stops: Vec<(usize, usize)>,
    ids: Vec<u32>,
}

impl Encoder {
    pub(super) fn new(whole: tokenizers::Tokenizer) -> Self {
        let mut letters = ['\0'; 256];
        for letter in '\0'..='\u{143}' {
            if let Some(byte) = byte_of(letter) {
                letters[usize::from(byte)] = letter;
            }
        }
        Self { pattern: split_pattern(&whole), whole, letters }
    }

    /// `None` when the model cannot spell the text.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        self.encode_in_stretches(text, STRETCH_LEN)
    }

    fn encode_in_stretches(&self, text: &str, stretch_len: usize) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(cut_behind_blanks(rest).unwrap_or(rest.len()));
            let by_words =
                self.pattern.as_ref().and_then(|pattern| self.by_words(pattern, part, stretch_len));
            match by_words {
                Some(mut part_ids) => ids.append(&mut part_ids),
                None => ids.append(&mut self.by_crate(part)?),
            }
            rest = after;
        }
        Some(ids)
    }

    fn by_crate(&self, text: &str) -> Option<Vec<u32>> {
        // `encode_fast` leaves out the offsets, which nobody here reads.
        Some(self.whole.encode_fast(text, false).ok()?.get_ids().to_vec())
    }

    /// `None` when the pattern matches an empty string, which the crate treats in its own way, and when the model
    /// cannot spell the text.
    fn by_words(&self, pattern: &Regex, text: &str, stretch_len: usize) -> Option<Vec<u32>> {
        let words = Words { encoder: self, pattern, text };
        let starts = starts(text, stretch_len);
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let stretches: Vec<_> = starts.iter().copied().zip(ends).collect();
        if let [(start, end)] = stretches[..] {
            return Some(words.walk(start, end)?.ids);
        }
        let walks: Vec<Walk> = stretches
            .par_iter()
            .map(|&(start, end)| words.walk(start, end))
            .collect::<Option<_>>()?;
        let mut ids = Vec::with_capacity(walks.iter().map(|walk| walk.ids.len()).sum());
        let mut spelled = String::new();
        let mut at = 0;
        for (walk, (_, end)) in walks.into_iter().zip(stretches) {
            while at < end {
                if let Ok(stop) = walk.stops.binary_search_by_key(&at, |&(stop, _)| stop) {
                    ids.extend_from_slice(&walk.ids[walk.stops[stop].1..]);
                    at = walk.stops.last().map_or(at, |&(stop, _)| stop);
                    break;
                }
                // A word that reaches into this stretch, and those behind it up to a common stop.
                let found = words.next(at)?;
                words.encode(at, found, &mut spelled, &mut ids)?;
                at = found.1;
            }
        }
        debug_assert_eq!(
            at,
            text.len(),
            "the last stretch ends with the text, as its last word does"
        );
        Some(ids)
    }
}

/// A text and how to walk through it.
struct Words<'a> {
    encoder: &'a Encoder,
    pattern: &'a Regex,
    text: &'a str,
}

impl Words<'_> {
    /// Where the next match behind the end of another begins and ends; what it leaves out before it is a word, too.
    /// `None` when it is empty.
    fn next(&self, at: usize) -> Option<(usize, usize)> {
        match self.pattern.find_from_pos(self.text, at) {
            Ok(Some(found)) if at <= found.start() && found.start() < found.end() => {
                Some((found.start(), found.end()))
            }
            Ok(Some(_)) => None,
            // Where the engine finds nothing or gives up, the crate leaves the rest unsplit.
            Ok(None) | Err(_) => Some((self.text.len(), self.text.len())),
        }
    }

    /// Encodes a match and what it leaves out before it.
    fn encode(
        &self,
        at: usize,
        (start, end): (usize, usize),
        spelled: &mut String,
        ids: &mut Vec<u32>,
    ) -> Option<()> {
        for word in [&self.text[at..start], &self.text[start..end]] {
            if !word.is_empty() {
                spelled.clear();
                spelled.extend(word.bytes().map(|byte| self.encoder.letters[usize::from(byte)]));
                let tokens = self.encoder.whole.get_model().tokenize(spelled).ok()?;
                ids.extend(tokens.into_iter().map(|token| token.id));
            }
        }
        Some(())
    }

    /// Encodes the words from `start` on that end by `end`.
    fn walk(&self, start: usize, end: usize) -> Option<Walk> {
        let mut walk = Walk { stops: vec![(start, 0)], ids: Vec::with_capacity((end - start) / 4) };
        let mut spelled = String::new();
        let mut at = start;
        while at < end {
            let found = self.next(at)?;
            // Left to whoever knows that a word begins here, since it may be long.
            if found.1 > end {
                break;
            }
            self.encode(at, found, &mut spelled, &mut walk.ids)?;
            at = found.1;
            walk.stops.push((at, walk.ids.len()));
        }
        Some(walk)
    }
}

/// Where threads begin, the text's start first: about every `stretch_len` bytes, before what stands in front of a
/// letter. Usual patterns begin a word nearby. None is within a run of one kind, which may be one word of megabytes
/// that every thread that begins in it would search to its end.
fn starts(text: &str, stretch_len: usize) -> Vec<usize> {
    let mut starts = vec![0];
    let mut from = stretch_len;
    while from + stretch_len <= text.len() {
        let begin = text.ceil_char_boundary(from);
        let letters = text[begin..].char_indices();
        let pairs = letters.clone().zip(letters.skip(1));
        let found = pairs.into_iter().find(|&((_, before), (_, letter))| {
            letter.is_alphabetic()
                && (before.is_whitespace()
                    || before.is_ascii_punctuation()
                    || matches!(before, '、' | '。' | '，'))
        });
        let Some(((offset, _), _)) = found else { break };
        starts.push(begin + offset);
        from = begin + offset + stretch_len;
    }
    starts
}

/// The pattern of a tokenizer that isolates its matches, encodes their bytes, and does nothing else to a text.
fn split_pattern(tokenizer: &tokenizers::Tokenizer) -> Option<Regex> {
    let Some(PreTokenizerWrapper::Sequence(steps)) = tokenizer.get_pre_tokenizer() else {
        return None;
    };
    let [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)] = steps.as_ref()
    else {
        return None;
    };
    let isolates = matches!(split.behavior, SplitDelimiterBehavior::Isolated) && !split.invert;
    let only_spells = !bytes.use_regex && !bytes.add_prefix_space;
    match &split.pattern {
        SplitPattern::Regex(pattern)
            if isolates && only_spells && tokenizer.get_normalizer().is_none() =>
        {
            Regex::new(pattern).ok()
        }
        _ => None,
    }
}

/// Where to cut a text that has a long run of blanks with more behind it: before the run's last blank, which
/// the pattern leaves to the next word. A run that ends in a newline is matched without looking ahead.
fn cut_behind_blanks(text: &str) -> Option<usize> {
    let mut run_start = 0;
    let mut last_blank = (0, ' ');
    for (at, letter) in text.char_indices() {
        if letter.is_whitespace() {
            last_blank = (at, letter);
            continue;
        }
        if at - run_start > MAX_BLANKS_LEN && !matches!(last_blank.1, '\n' | '\r') {
            return Some(last_blank.0);
        }
        run_start = at + letter.len_utf8();
    }
    None
}

#[cfg(test)]
#[path = "../../tests/support/o200k.rs"]
mod o200k;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};
    use serde_json::{Value, json};
    use tokenizers::AddedVocabulary;

    use super::*;

    /// The split of the nano model: lookaheads, no word takes punctuation with it.
    const NANO: &str = concat!(
        r" \p{Ll}+(?![\p{L}_])|[\p{Lu}\p{Lt}]?[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[\p{Lu}\p{Lt}]+(?!\p{Ll})|[\p{Lu}\p{Lt}]",
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    /// Patterns that make it hard to begin anywhere.
    const ODD: [&str; 6] = [
        // Two walks that begin in different places may never meet.
        r"(?s).{1,3}",
        // Looks back, looks far ahead, and leaves text between its matches.
        r"(?<=a)b+|\p{L}+(?=[^x]*x)|(?<! )\d\b",
        // Words of a few letters, to be counted from the start of a line.
        r"\G\w{2}|(?m)^\s+|$",
        // Matches that are empty, sometimes and always.
        r"[a-z]*",
        r"",
        // Never matches.
        r"[^\s\S]",
    ];

    struct Case {
        encoder: Encoder,
        /// The same tokenizer through the crate.
        by_crate: Encoder,
    }

    impl Case {
        fn new(json: &Value) -> Self {
            let mut whole = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
            whole.with_added_vocabulary(AddedVocabulary::new());
            let by_crate = Encoder { pattern: None, ..Encoder::new(whole.clone()) };
            Self { encoder: Encoder::new(whole), by_crate }
        }

        fn check(&self, text: &str, stretch_len: usize) {
            let expected = self.by_crate.encode(text).unwrap();
            let ids = self.encoder.encode_in_stretches(text, stretch_len).unwrap();
            assert_eq!(ids, expected, "{:?}, {stretch_len}, {text:?}", self.encoder.pattern);
        }
    }

    fn real() -> Value {
        serde_json::from_slice(&o200k::TOKENIZER_JSON).unwrap()
    }

    /// A vocabulary of 4,096 tokens with another pattern.
    fn small(pattern: &str) -> Value {
        let mut json = real();
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|_, id| id.as_u64().unwrap() < 4096);
        let vocab = vocab.clone();
        json["model"]["merges"].as_array_mut().unwrap().retain(|merge| {
            let [left, right] = [0, 1].map(|side| merge[side].as_str().unwrap());
            [left, right, &format!("{left}{right}")].iter().all(|&token| vocab.contains_key(token))
        });
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
        json
    }

    fn cases(cases: u32) -> Config {
        let rng_seed = RngSeed::Fixed(5);
        Config { cases, rng_seed, failure_persistence: None, ..Config::default() }
    }

    /// Code, prose, other scripts, marks, blanks, digits, long words, anything.
    fn text() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "fn main() {\n    let x: Vec<u8> = vec![0; 1 << 20];\n\t// tabs\n}\n\n\n",
            "if(a['b']==null){return\"c-d_e\"+f.g}else{h()}",
            "It's a plain sentence, isn't it? They'LL say: \"no.\"  Well (perhaps)...",
            "你好，世界。今天天气怎么样？我们去吃饭吧。こんにちは、カタカナ",
            "🙂👩‍👩‍👧‍👦🇫🇷 🏳️‍🌈",
            "Привет, как дела? שלום مرحبا नमस्ते ภาษาไทย",
            "e\u{301}\u{302} \u{301}a \u{93e}\u{200d}\n\u{301}",
            "ǅ ß Ⅷ ½ ٣٤٥ camelCaseWORDSInARow snake_case_name",
            "https://example.com/a/b?c=d&e=%20#f //// ../..\r\n",
            "a\u{a0}\u{2003}b \u{3000}c\u{85}d",
        ]);
        let run = (
            prop::sample::select(vec![" ", "\n", " \n", "\r\n", "\t", "7", "x", "=", "你"]),
            0..200_usize,
        )
            .prop_map(|(unit, times)| unit.repeat(times));
        let piece = prop_oneof![
            4 => known.prop_map(str::to_owned),
            2 => run,
            1 => "[ \t\r\na1'=/x]{0,30}",
            1 => "[a-zA-Z]{100,300}",
            1 => ".{0,20}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn stretches_give_the_ids_of_the_crate() {
        let real = Case::new(&real());
        let small = [o200k_pattern().as_str(), NANO].map(|pattern| Case::new(&small(pattern)));
        assert!(small.iter().chain([&real]).all(|case| case.encoder.pattern.is_some()));
        proptest!(cases(400), |(text in text(), stretch_len in 1..60_usize)| {
            for case in small.iter().chain([&real]) {
                case.check(&text, stretch_len);
                case.check(&text, usize::MAX / 2);
            }
        });
    }

    #[test]
    fn stretches_give_the_ids_of_the_crate_whatever_the_pattern() {
        let odd = ODD.map(|pattern| Case::new(&small(pattern)));
        assert!(odd.iter().all(|case| case.encoder.pattern.is_some()));
        proptest!(cases(100), |(text in text(), stretch_len in 1..60_usize)| {
            for case in &odd {
                case.check(&text, stretch_len);
            }
        });
    }

    #[test]
    fn other_shapes_go_through_the_crate() {
        let steps = small("x")["pre_tokenizer"]["pretokenizers"].clone();
        let changed = |path: &str, value: Value| {
            let mut steps = steps.clone();
            *steps.pointer_mut(path).unwrap() = value;
            json!({"type": "Sequence", "pretokenizers": steps})
        };
        for pre_tokenizer in [
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
            changed("/0/invert", json!(true)),
            changed("/0/behavior", json!("MergedWithNext")),
            changed("/0/pattern", json!({"String": " "})),
            changed("/1/use_regex", json!(true)),
        ] {
            let mut json = small("x");
            json["pre_tokenizer"] = pre_tokenizer;
            let case = Case::new(&json);
            assert!(case.encoder.pattern.is_none(), "{}", json["pre_tokenizer"]);
            case.check("a text x that is  split in some\n way", 1);
        }
    }

    #[test]
    fn a_word_is_never_begun_within() {
        for (text, starts_at) in [
            ("one two three", vec![0, 3, 7]),
            ("你好，世界", vec![0, 6]),
            ("aaaaaaaaaaaaaaaa", vec![0]),
            ("a                ", vec![0]),
            ("a=/=/=/=/=/=/=1234", vec![0]),
            ("", vec![0]),
        ] {
            assert_eq!(starts(text, 2), starts_at, "{text:?}");
        }
    }

    fn o200k_pattern() -> String {
        real()["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap().to_owned()
    }
}
