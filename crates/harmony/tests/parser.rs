//! What the parser makes of well-formed answers and of each malformation seen in practice.

use harmonium_harmony::{Delta, Parser, TokenKind};

use crate::support::{encode_markup, parse};
use crate::tokenizer::o200k;

fn reasoning(text: &str) -> Delta {
    Delta::Reasoning(text.to_owned())
}

fn content(text: &str) -> Delta {
    Delta::Content(text.to_owned())
}

fn preamble(text: &str) -> Delta {
    Delta::Preamble(text.to_owned())
}

fn call(name: &str, arguments: &str) -> Vec<Delta> {
    let mut deltas = vec![Delta::ToolCallStart { name: name.to_owned() }];
    if !arguments.is_empty() {
        deltas.push(Delta::ToolCallArguments(arguments.to_owned()));
    }
    deltas.push(Delta::ToolCallEnd);
    deltas
}

fn parser() -> Parser {
    Parser::new(o200k().clone(), ["get_weather".to_owned(), "my-tool".to_owned()])
}

/// The answer, written with control tokens by name, must give these deltas and this many recoveries.
#[track_caller]
fn check(markup: &str, expected: &[Delta], recoveries: u32) {
    let mut parser = parser();
    let deltas = parse(&mut parser, &encode_markup(o200k(), markup));
    assert_eq!(deltas, expected, "{markup}");
    assert_eq!(parser.recoveries(), recoveries, "recoveries in {markup}");
}

#[track_caller]
fn check_call(markup: &str, recoveries: u32) {
    check(markup, &call("get_weather", "{}"), recoveries);
}

#[test]
fn well_formed_answers() {
    check("<|channel|>final<|message|>Hello.<|return|>", &[content("Hello.")], 0);
    check(
        "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant<|channel|>final<|message|> Hi 🙂<|return|>",
        &[reasoning("Hm.\n"), content(" Hi 🙂")],
        0,
    );
    let mut expected = vec![reasoning("A"), preamble("B")];
    expected.extend(call("get_weather", "{\"city\": \"Paris\"}"));
    check(
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>commentary<|message|>B<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>\
         {\"city\": \"Paris\"}<|call|>",
        &expected,
        0,
    );
    check("", &[], 0);
}

#[test]
fn every_legal_place_of_the_recipient() {
    for header in [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        "<|channel|>commentary to=functions.get_weather json",
        "<|channel|>commentary to=functions.get_weather",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary json",
        " to=functions.get_weather<|channel|>analysis code",
        " to=get_weather<|channel|>commentary <|constrain|>json",
    ] {
        check_call(&format!("{header}<|message|>{{}}<|call|>"), 0);
    }
}

#[test]
fn several_calls_are_kept_apart() {
    let one = "<|channel|>commentary to=functions.get_weather<|message|>{}<|call|>";
    let other = "<|channel|>commentary to=functions.my-tool<|message|>[]<|call|>";
    let expected = [call("get_weather", "{}"), call("my-tool", "[]")].concat();
    check(&format!("{one}<|start|>assistant{other}"), &expected, 0);
}

#[test]
fn a_header_without_message_token_is_followed_by_text() {
    check("<|channel|>final Hello there<|return|>", &[content("Hello there")], 1);
    check("<|channel|>final\nHello  there", &[content("Hello  there")], 1);
    check("<|channel|>analysis Hm, yes<|end|>", &[reasoning("Hm, yes")], 1);
    check_call("<|channel|>commentary to=functions.get_weather <|constrain|>json{}<|call|>", 1);
    check_call(" to=functions.get_weather<|channel|>commentary json {}<|call|>", 1);
    check("<|channel|>commentary to=functions.get_weather<|call|>", &call("get_weather", ""), 1);
}

#[test]
fn control_tokens_behind_the_end_change_nothing() {
    let answer = "<|channel|>final<|message|>Hi<|end|>";
    for (rest, recoveries) in [
        ("<|return|>", 1),
        ("<|end|><|end|>", 2),
        ("<|endoftext|>", 1),
        ("<|start|>assistant", 0),
        ("<|start|>", 0),
        ("<|start|>assistant<|channel|>", 0),
        ("<|start|>assistant<|channel|>comm", 0),
        ("\n", 0),
        (" to=", 0),
        (" to=functions", 0),
        (" to=functions.get_wea", 0),
    ] {
        check(&format!("{answer}{rest}"), &[content("Hi")], recoveries);
    }
}

#[test]
fn stray_and_repeated_starts_are_passed_over() {
    let rest = "<|channel|>final<|message|>Hi<|return|>";
    for (before, recoveries) in [
        ("assistant", 1),
        ("assistantassistant", 1),
        ("<|start|>assistant", 1),
        ("<|start|><|start|>assistant", 2),
        ("assistant<|start|>assistant", 1),
        ("<|start|>assistantassistant", 2),
        ("<|end|>", 2),
        ("<|end|><|start|>assistant", 1),
    ] {
        check(&format!("{before}{rest}"), &[content("Hi")], recoveries);
    }
    check(
        "<|channel|>analysis<|message|>Hm<|end|>stray<|start|>assistant<|channel|>final<|message|>Hi<|return|>",
        &[reasoning("Hm"), content("strayHi")],
        1,
    );
}

#[test]
fn a_missing_start_or_end_does_not_lose_the_message() {
    let expected = &[reasoning("Hm"), content("Hi")];
    for between in ["<|end|><|channel|>", "<|end|>assistant<|channel|>"] {
        let markup =
            format!("<|channel|>analysis<|message|>Hm{between}final<|message|>Hi<|return|>");
        check(&markup, expected, 1);
    }
    check(
        "<|channel|>analysis<|message|>Hm<|start|>assistant<|channel|>final<|message|>Hi",
        expected,
        1,
    );
    // The end and the start are missing: two places.
    check("<|channel|>analysis<|message|>Hm<|channel|>final<|message|>Hi", expected, 2);
}

#[test]
fn a_channel_without_name_is_the_answer() {
    check("<|channel|><|message|>Hi<|return|>", &[content("Hi")], 1);
    check("<|message|>Hi<|return|>", &[content("Hi")], 1);
    check("<|start|>assistant<|message|>Hi<|return|>", &[content("Hi")], 2);
}

#[test]
fn misspelled_channels_are_matched() {
    for (name, expected) in [
        ("finalx", content("Hi")),
        ("Final", content("Hi")),
        ("final answer", content("Hi")),
        ("final<|channel|>final", content("Hi")),
        ("commentary?", preamble("Hi")),
        ("comment", preamble("Hi")),
        ("analyses", reasoning("Hi")),
        ("analysisassistant", reasoning("Hi")),
    ] {
        check(&format!("<|channel|>{name}<|message|>Hi<|return|>"), &[expected], 1);
    }
}

#[test]
fn an_unreadable_channel_is_reasoning_if_more_follows_and_else_the_answer() {
    for name in ["??", "thinking", "I will now say it"] {
        let message = format!("<|channel|>{name}<|message|>Hm");
        check(&format!("{message}<|return|>"), &[content("Hm")], 1);
        check(&format!("{message}<|end|>"), &[content("Hm")], 1);
        check(&message, &[content("Hm")], 1);
        check(
            &format!("{message}<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>"),
            &[reasoning("Hm"), content("Hi")],
            1,
        );
    }
    check("<|channel|>I think it is so<|return|>", &[content("I think it is so")], 1);
}

#[test]
fn tokens_of_an_unreadable_channel_are_counted_once_it_is_decided() {
    let mut parser = parser();
    let mut deltas = Vec::new();
    for id in encode_markup(
        o200k(),
        "<|channel|>??<|message|>one two three<|end|><|start|>assistant<|channel|>final",
    ) {
        parser.push(id, &mut deltas);
    }
    assert_eq!((deltas.as_slice(), parser.reasoning_tokens()), ([].as_slice(), 0));
    parser.push(o200k().control().message, &mut deltas);
    assert_eq!(
        (deltas.as_slice(), parser.reasoning_tokens()),
        ([reasoning("one two three")].as_slice(), 3)
    );
}

#[test]
fn what_is_held_back_has_a_bound() {
    let mut parser = parser();
    let mut deltas = Vec::new();
    for id in encode_markup(o200k(), "<|channel|>??<|message|>") {
        parser.push(id, &mut deltas);
    }
    let word = o200k().encode_text(" word")[0];
    let first_shown = (0..20_000).find(|_| {
        parser.push(word, &mut deltas);
        !deltas.is_empty()
    });
    assert_eq!(first_shown, Some(64 * 1024 / 5), "held up to the bound, then shown");
    assert_eq!(parser.push(word, &mut deltas), TokenKind::Content);
}

#[test]
fn the_last_of_two_channels_counts() {
    check(
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm<|end|>",
        &[reasoning("Hm")],
        1,
    );
    check("<|channel|>analysis<|channel|><|message|>Hm<|end|>", &[reasoning("Hm")], 0);
}

#[test]
fn calls_are_told_by_their_recipient() {
    for (header, recoveries) in [
        (" to=functions.get_weather<|channel|>analysis", 0),
        ("<|channel|>final to=functions.get_weather code", 0),
        ("<|channel|>commentary to=get_weather", 0),
        ("<|channel|>commentaryto=functions.get_weather", 1),
        ("<|channel|>to=functions.get_weather", 1),
        ("<|channel|>commentary get_weather <|constrain|>json", 1),
        ("<|channel|>commentary functions.get_weather json", 1),
        ("<|start|>functions.get_weather<|channel|>commentary", 2),
        ("<|channel|>commentary to= functions.get_weather", 0),
        (" to=<|channel|>commentary functions.get_weather", 1),
    ] {
        check_call(&format!("{header}<|message|>{{}}<|call|>"), recoveries);
    }
    check(
        "<|channel|>analysis to=functions.my-tool code<|message|>x<|call|>",
        &call("my-tool", "x"),
        0,
    );
}

#[test]
fn junk_on_a_name_is_taken_off() {
    let markup = |name: &str| format!("<|channel|>commentary to={name}<|message|>{{}}<|call|>");
    check_call(&markup("functions.get_weathercommentary"), 1);
    check_call(&markup("functions.get_weatherjson"), 1);
    check_call(&markup("functions.get_weather<|channel|>commentary"), 1);
    check_call(&markup("functions.get_weather??"), 1);
    // The control token's name typed as text.
    let mut ids = encode_markup(o200k(), "<|channel|>commentary to=functions.get_weather");
    ids.extend(o200k().encode_text("<|channel|>commentary"));
    ids.extend(encode_markup(o200k(), "<|message|>{}<|call|>"));
    assert_eq!(parse(&mut parser(), &ids), call("get_weather", "{}"));
}

#[test]
fn extra_words_in_a_header_are_dropped() {
    check_call("<|channel|>commentary to=functions.get_weather word json<|message|>{}<|call|>", 1);
    check_call(" word to=functions.get_weather<|channel|>commentary<|message|>{}<|call|>", 1);
    check("<|channel|>final so to speak<|message|>Hi<|return|>", &[content("Hi")], 1);
}

#[test]
fn unknown_recipients_lose_nothing() {
    check("<|channel|>commentary to=functions.other<|message|>{}<|call|>", &call("other", "{}"), 1);
    check("<|channel|>analysis to=python code<|message|>1+1<|call|>", &[reasoning("1+1")], 1);
    check("<|channel|>commentary to=browser.search<|message|>x<|call|>", &[preamble("x")], 1);
    check("<|channel|>final to=user<|message|>x<|return|>", &[content("x")], 0);
}

#[test]
fn text_without_any_header_is_the_answer() {
    check("I can't help with that.", &[content("I can't help with that.")], 1);
    check("{\"a\": 1}<|return|>", &[content("{\"a\": 1}")], 1);
    check(" \nHello<|return|>", &[content(" \nHello")], 1);
    check("assistant is a word<|return|>", &[content("assistant is a word")], 1);
    check("functions.get_weather is a tool", &[content("functions.get_weather is a tool")], 1);
    check("to=5<|return|>", &[content("to=5")], 1);
    let long = "A long answer without any markup. ".repeat(40);
    check(&format!("{long}<|return|>"), &[content(&long)], 1);
    check(&format!("{long}<|message|>{long}"), &[content(&format!("{long}{long}"))], 2);
    // Words before a message token, without channel or recipient, are kept too.
    check("Hello you<|message|>there<|return|>", &[content("Hello youthere")], 1);
}

#[test]
fn long_text_without_header_is_not_cut_within_a_character() {
    for len in 250..270 {
        let text = format!("{}{}", "x".repeat(len), "🧑\u{200d}🚀".repeat(20));
        check(&text, &[content(&text)], 1);
    }
}

#[test]
fn long_text_without_header_streams() {
    let mut parser = parser();
    let mut deltas = Vec::new();
    let ids = o200k().encode_text(&"word ".repeat(200));
    let first_shown = ids.iter().position(|&id| {
        parser.push(id, &mut deltas);
        !deltas.is_empty()
    });
    assert!(first_shown.is_some_and(|index| index < 80), "{first_shown:?}");
}

#[test]
fn a_format_is_not_a_recipient() {
    check("<|channel|>final <|constrain|>json<|message|>{}<|return|>", &[content("{}")], 0);
    check("<|channel|>final json<|message|>{}<|return|>", &[content("{}")], 0);
    check("<|channel|>analysis code<|message|>{}<|return|>", &[reasoning("{}")], 0);
    let mut parser = Parser::new(o200k().clone(), ["json".to_owned()]);
    let ids = encode_markup(o200k(), "<|channel|>final <|constrain|>json<|message|>{}<|return|>");
    assert_eq!(parse(&mut parser, &ids), [content("{}")]);
}

#[test]
fn arguments_pass_as_they_are() {
    for arguments in
        ["not json", "{\"a\": 1} trailing", "{\"a\": ", "print('x')\n", "{\"a\":1}{\"a\":1}"]
    {
        let head = "<|channel|>commentary to=functions.get_weather<|message|>";
        check(&format!("{head}{arguments}<|call|>"), &call("get_weather", arguments), 0);
        check(&format!("{head}{arguments}<|end|>"), &call("get_weather", arguments), 0);
        check(&format!("{head}{arguments}"), &call("get_weather", arguments), 0);
    }
}

#[test]
fn another_speakers_words_are_reasoning() {
    let answer = "<|channel|>final<|message|>Hi<|end|>";
    for header in ["user", "functions.get_weather to=assistant<|channel|>commentary", "system"] {
        check(
            &format!("{answer}<|start|>{header}<|message|>x<|end|>"),
            &[content("Hi"), reasoning("x")],
            1,
        );
    }
}

#[test]
fn control_tokens_within_a_body_leave_no_text() {
    check("<|channel|>final<|message|>a<|message|>b<|constrain|>c<|return|>", &[content("abc")], 2);
    let mut ids = encode_markup(o200k(), "<|channel|>final<|message|>a");
    ids.extend([200_000, 200_018, 201_087, u32::MAX]);
    ids.extend(encode_markup(o200k(), "b<|return|>"));
    let mut parser = parser();
    assert_eq!(parse(&mut parser, &ids), [content("ab")]);
    assert_eq!(parser.recoveries(), 4);
}

#[test]
fn a_character_in_several_tokens_is_held_until_it_is_whole() {
    let mut parser = parser();
    let mut deltas = Vec::new();
    for id in encode_markup(o200k(), "<|channel|>final<|message|>") {
        parser.push(id, &mut deltas);
    }
    // One token a byte: ids of single bytes.
    let byte_id = |byte: u8| {
        (0..256)
            .find(|&id| o200k().decode_bytes(id) == Some(&[byte]))
            .expect("every byte has a token")
    };
    let mut shown = Vec::new();
    for &byte in "é🙂".as_bytes() {
        assert_eq!(parser.push(byte_id(byte), &mut deltas), TokenKind::Content);
        shown.push(deltas.len());
    }
    assert_eq!(shown, [0, 1, 1, 1, 1, 2]);
    assert_eq!(deltas, [content("é"), content("🙂")]);

    // A character that never becomes whole, by another byte and by the end.
    deltas.clear();
    for byte in [0xf0, 0x9f, b'a', 0xff, 0xe2] {
        parser.push(byte_id(byte), &mut deltas);
    }
    parser.push(o200k().control().end, &mut deltas);
    assert_eq!(deltas, [content("\u{fffd}a"), content("\u{fffd}"), content("\u{fffd}")]);
}

#[test]
fn tokens_are_counted_where_they_belong() {
    let mut parser = parser();
    let markup = "<|channel|>analysis<|message|>one two<|end|>\
                  <|start|>assistant<|channel|>commentary<|message|>pre<|end|>\
                  <|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{}<|call|>\
                  <|start|>assistant<|channel|>final<|message|>Hi<|return|>";
    let kinds: Vec<TokenKind> = encode_markup(o200k(), markup)
        .into_iter()
        .map(|id| parser.push(id, &mut Vec::new()))
        .filter(|kind| *kind != TokenKind::Control)
        .collect();
    use TokenKind::{Content, Preamble, Reasoning, ToolCall};
    assert_eq!(kinds, [Reasoning, Reasoning, Preamble, ToolCall, Content]);
    assert_eq!(parser.reasoning_tokens(), 2);
}

#[test]
fn calls_of_undeclared_functions_are_told_from_malformed_ones() {
    for (header, undeclared) in [
        ("<|channel|>commentary to=functions.count <|constrain|>json", 1),
        (" to=functions.count<|channel|>commentary", 1),
        ("<|channel|>commentaryto=functions.count", 0),
        ("<|channel|>commentary to=functions.get_weather <|constrain|>json", 0),
    ] {
        let mut parser = parser();
        let markup = format!("{header}<|message|>{{}}<|call|>");
        parse(&mut parser, &encode_markup(o200k(), &markup));
        assert_eq!(parser.undeclared_calls(), undeclared, "{markup}");
        assert!(parser.recoveries() >= undeclared, "{markup}");
    }
}
