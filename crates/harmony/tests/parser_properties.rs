//! What holds for any sequence of tokens, well-formed or not.

use harmonium_harmony::Parser;
use proptest::prelude::*;

use crate::support::promises::{check_promises, control_names};
use crate::support::{cases, encode_markup};
use crate::tokenizer::o200k;

/// The names that a request might declare, among them the awkward ones.
fn parser() -> Parser {
    Parser::new(o200k().clone(), ["f", "get_weather", "json", "final"].map(str::to_owned))
}

/// Tokens as a confused model would choose them: control tokens, words of headers, text, anything.
fn token() -> impl Strategy<Value = u32> {
    let control: Vec<u32> = control_names(o200k().control()).map(|(_, id)| id).to_vec();
    let words = "assistant analysis commentary final to=functions.f to=assistant json user ?? {}";
    prop_oneof![
        6 => prop::sample::select(control),
        4 => prop::sample::select(o200k().encode_text(words)),
        3 => prop::sample::select(o200k().encode_text("Some text, with 🙂 and 你好.\n  \u{1f9d1}\u{200d}\u{1f680}")),
        2 => 0u32..256,
        1 => any::<u32>(),
        1 => 0u32..201_100,
    ]
}

fn check(ids: &[u32]) {
    check_promises(o200k(), parser(), ids);
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn any_tokens_keep_the_promises(ids in prop::collection::vec(token(), 0..60)) {
        check(&ids);
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_long_header_of_any_tokens_is_bounded(ids in prop::collection::vec(token(), 300..600)) {
        let message = o200k().control().message;
        let ids: Vec<u32> = ids.into_iter().filter(|&id| id != message).collect();
        check(&ids);
    }

    /// A good answer with one token removed, doubled or replaced.
    #[test]
    fn one_wrong_token_loses_no_body(at in 0usize..40, wrong in token(), how in 0..3) {
        let mut ids = encode_markup(o200k(), "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant\
            <|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Paris\"}<|call|>\
            <|start|>assistant<|channel|>final<|message|>It is sunny.<|return|>");
        let at = at.min(ids.len() - 1);
        match how {
            0 => { ids.remove(at); }
            1 => ids.insert(at, wrong),
            _ => ids[at] = wrong,
        }
        check(&ids);
    }
}
