//! What the page must never do, and what it must show.

use harmonium_hosted::Cost;
use harmonium_openai::chat::FunctionCall;
use serde_json::json;

use super::*;
use crate::compare::models::Models;
use crate::compare::report::Tokens;

/// Breaks out of text, of attributes and of the style sheet, if anything does.
const EVIL: &str = "</style><script>alert(1)</script><img src=x onerror='a'>\"&";

fn evil() -> String {
    EVIL.to_owned()
}

fn evil_call() -> ToolCall {
    let function = Some(FunctionCall { name: evil(), arguments: evil() });
    ToolCall { id: evil(), kind: evil(), function }
}

/// A report about two models, the first of them called `name`.
fn report(name: &str, prompts: Vec<PromptReport>) -> Report {
    let list = json!({"object": "list", "data": [
        {"id": name, "object": "model", "backend": name},
        {"id": "b", "object": "model", "pricing": {"input": 0.4, "cached_input": 0.1, "output": 1.6}},
    ]});
    let names = [name, "b"].map(str::to_owned);
    let models = Models::choose(serde_json::from_value(list).unwrap(), &names).unwrap();
    Report::new(name.to_owned(), &models, prompts, false, 100_000)
}

#[test]
fn no_text_of_others_is_markup() {
    let history = ChatMessage {
        tool_calls: Some(vec![evil_call(), ToolCall { function: None, ..evil_call() }]),
        ..ChatMessage::text(EVIL, EVIL)
    };
    let parts: Content =
        serde_json::from_value(json!([{"type": "text", "text": EVIL}, {"type": EVIL}])).unwrap();
    let request = ChatRequest {
        messages: vec![history, ChatMessage { content: Some(parts), ..ChatMessage::user("") }],
        user: Some(json!(EVIL)),
        ..ChatRequest::default()
    };
    let answer = |is_elsewhere| Answer {
        model: "a".to_owned(),
        answered_by: Some(evil()),
        is_elsewhere,
        dropped: Some(evil()),
        content: Some(evil()),
        reasoning: Some(evil()),
        refusal: Some(evil()),
        tool_calls: vec![evil_call()],
        error: Some(evil()),
        ..Answer::default()
    };
    let answers = vec![answer(true), answer(false)];
    let page = page(&report(EVIL, vec![PromptReport { id: evil(), request, answers }]));
    assert!(page.matches("&lt;script&gt;alert(1)").count() > 20, "{page}");
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert_eq!(page.matches("</style>").count(), 1, "{page}");
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = page(&report("a", Vec::new()));
    for sign in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(sign), "{sign} in {page}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn an_answer_shows_who_gave_it_how_fast_and_for_how_much() {
    let answer = Answer {
        model: "a".to_owned(),
        answered_by: Some("big-model".to_owned()),
        is_elsewhere: true,
        content: Some("Paris".to_owned()),
        finish_reason: Some(harmonium_openai::FinishReason::ToolCalls),
        ttft_ms: Some(123.4),
        total_ms: 12_000.0,
        tokens_per_s: Some(42.0),
        usage: Some(Tokens { prompt: 10, cached: 4, completion: 3, reasoning: 2 }),
        cost: Some(Cost::from_usd(0.001).unwrap()),
        ..Answer::default()
    };
    let request = ChatRequest { seed: Some(7), ..ChatRequest::default() };
    let prompts = vec![PromptReport { id: "1".to_owned(), request, answers: vec![answer] }];
    let page = page(&report("a", prompts));
    for expected in [
        "answered by big-model",
        "Paris",
        "tool_calls · TTFT 123 ms · total 12.0 s · 42.0 tok/s · 10 tokens in (4 cached), 3 out (2 reasoning) · \
         0.001000 USD",
        "&quot;seed&quot;: 7",
        "not asked",
        "Interrupted",
        "USD per million tokens: 0.40 input, 0.10 cached, 1.60 output",
    ] {
        assert!(page.contains(expected), "no {expected} in {page}");
    }
}
