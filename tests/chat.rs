//! Whole answers: what the embedded model says, and what surrounds it.

use serde_json::{Value, json};

use crate::support::{Server, ask, content, with};

#[tokio::test(flavor = "multi_thread")]
async fn capital_of_france_is_paris_at_every_effort() {
    let server = Server::start(&[]);
    let mut reasoning_lens = Vec::new();
    for effort in ["low", "medium", "high"] {
        let request =
            with(ask("What is the capital of France?"), json!({"reasoning_effort": effort}));
        let answer = server.chat(&request).await;
        assert!(content(&answer).contains("Paris"), "{answer}");
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["message"]["reasoning"], choice["message"]["reasoning_content"]);
        let details = &answer["usage"]["completion_tokens_details"];
        reasoning_lens.push(details["reasoning_tokens"].as_u64().unwrap());
    }
    assert!(reasoning_lens.is_sorted_by(|a, b| a < b), "{reasoning_lens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_every_token_and_the_cached_ones() {
    let server = Server::start(&[]);
    let request = ask("What is the capital of Japan? Please answer in one short sentence.");
    let first = server.chat(&request).await;
    let second = server.chat(&request).await;
    let usage = |answer: &Value, key: &str| answer["usage"][key].as_u64().unwrap();
    assert_eq!(
        usage(&first, "total_tokens"),
        usage(&first, "prompt_tokens") + usage(&first, "completion_tokens")
    );
    assert_eq!(usage(&first, "prompt_tokens"), usage(&second, "prompt_tokens"));
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached > 0, "{second}");
    assert_eq!(content(&first), content(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_round_trip_uses_the_result() {
    let server = Server::start(&[]);
    let tools = json!([{"type": "function", "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    }}]);
    let request = with(ask("What is the weather in Oslo?"), json!({"tools": tools}));
    let answer = server.chat(&request).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Oslo"}));

    let mut request = request;
    let messages = request["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({
        "role": "tool",
        "tool_call_id": call["id"],
        "content": r#"{"city": "Oslo", "temperature": 17, "sky": "sunny"}"#,
    }));
    let answer = server.chat(&request).await;
    assert!(content(&answer).contains("17"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_turns_are_one_conversation() {
    let server = Server::start(&[]);
    let mut request = ask("What is the capital of France?");
    let first = server.chat(&request).await;
    let messages = request["messages"].as_array_mut().unwrap();
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "What is the capital of Italy?"}));
    let second = server.chat(&request).await;
    assert!(content(&second).contains("Rome"), "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_status_and_all_four_keys() {
    let server = Server::start(&["--context", "4096"]);
    for (request, status, code, param) in [
        (with(ask("hi"), json!({"model": "gpt-9"})), 404, "model_not_found", "model"),
        (with(ask("hi"), json!({"temperature": 9})), 400, "", "temperature"),
        (ask(&"word ".repeat(5_000)), 400, "context_length_exceeded", "messages"),
    ] {
        let response = server.post(&request).await;
        assert_eq!(response.status(), status);
        assert!(response.headers().contains_key("x-request-id"));
        let body: Value = response.json().await.unwrap();
        let error = body["error"].as_object().unwrap();
        for key in ["message", "type", "param", "code"] {
            assert!(error.contains_key(key), "{key} is missing in {body}");
        }
        assert!(code.is_empty() || error["code"] == code, "{body}");
        assert_eq!(error["param"], param, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_well_formed_harmony() {
    let server = Server::start(&[]);
    for text in ["What is 12 + 30?", "Who are you?", "Write a poem about the sea.", "Hello!"] {
        let answer = server.chat(&ask(text)).await;
        assert!(!content(&answer).is_empty(), "{answer}");
    }
    assert_eq!(server.metric("harmonium_parser_recoveries_total", "").await, 0.0);
}
