//! Function calls, there and back.

use serde_json::{Value, json};

use crate::support::{Fixture, content, remembers, replies, says};

const CALL: &str = "<|channel|>analysis<|message|>Look.<|end|>\
    <|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>\
    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>\
    {\"city\":\"Paris\"}<|call|>";

fn tools() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}
    }}])
}

#[tokio::test]
async fn a_call_is_returned_with_id_name_and_arguments() {
    let fixture = Fixture::new(says(CALL));
    let answer = fixture.hi(json!({"tools": tools()})).await;
    let message = answer.message();
    assert_eq!(message["content"], "One moment.");
    assert_eq!(message["reasoning"], "Look.");
    let call = &message["tool_calls"][0];
    assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");
    assert_eq!(call["type"], "function");
    assert_eq!(
        call["function"],
        json!({"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"})
    );
    assert_eq!(answer.body["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_streamed_call_names_itself_once() {
    let fixture = Fixture::new(says(CALL));
    let frames = fixture.stream_hi(json!({"tools": tools()})).await;
    let fragments: Vec<&Value> = frames
        .iter()
        .map(|frame| &frame["choices"][0]["delta"]["tool_calls"][0])
        .filter(|fragment| !fragment.is_null())
        .collect();
    let mut first = fragments[0].clone();
    assert!(first["id"].take().as_str().unwrap().starts_with("call_"));
    assert_eq!(
        first.to_string(),
        json!({"index": 0, "id": null, "type": "function",
            "function": {"name": "get_weather", "arguments": ""}})
        .to_string()
    );
    let mut arguments = String::new();
    for fragment in &fragments[1..] {
        let text = fragment["function"]["arguments"].as_str().unwrap();
        assert_eq!(**fragment, json!({"index": 0, "function": {"arguments": text}}));
        arguments.push_str(text);
    }
    assert_eq!(arguments, "{\"city\":\"Paris\"}");
    assert_eq!(content(&frames, 0), "One moment.");
    assert_eq!(frames[frames.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_message_that_only_calls_has_null_content() {
    let fixture = Fixture::new(says(
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>",
    ));
    let answer = fixture.hi(json!({"tools": tools()})).await;
    assert_eq!(answer.message()["content"], Value::Null);
    assert!(answer.message().as_object().unwrap().contains_key("content"));
}

#[tokio::test]
async fn a_call_cut_by_the_limit_is_returned_as_it_is() {
    let fixture = Fixture::new(says(CALL));
    let whole = fixture.hi(json!({"tools": tools()})).await;
    let num_tokens = whole.body["usage"]["completion_tokens"].as_u64().unwrap();
    let cut = fixture.hi(json!({"tools": tools(), "max_tokens": num_tokens - 4})).await;
    assert_eq!(cut.body["choices"][0]["finish_reason"], "length");
    let arguments = &cut.message()["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, "{\"city\":\"Pari");
}

#[tokio::test]
async fn a_result_goes_back_to_the_model() {
    let fixture = Fixture::new(replies(|prompt| {
        if prompt.contains("functions.get_weather to=assistant") {
            "<|channel|>final<|message|>Sunny.<|return|>"
        } else {
            CALL
        }
    }));
    let first = fixture.hi(json!({"tools": tools()})).await;
    let message = first.message().clone();
    let id = message["tool_calls"][0]["id"].clone();
    let answer = fixture
        .chat(&json!({"tools": tools(), "messages": [
            {"role": "user", "content": "hi"},
            message,
            {"role": "tool", "tool_call_id": id, "content": "{\"sky\":\"clear\"}"}
        ]}))
        .await;
    assert_eq!(answer.message()["content"], "Sunny.", "{}", answer.body);
}

#[tokio::test]
async fn tools_are_shown_to_the_model_unless_the_choice_is_none() {
    let (model, prompt) = remembers("<|channel|>final<|message|>ok<|return|>");
    let fixture = Fixture::new(model);
    fixture.hi(json!({"tools": tools()})).await;
    assert!(prompt.lock().unwrap().contains("type get_weather = (_: {"));
    fixture.hi(json!({"tools": tools(), "tool_choice": "none"})).await;
    assert!(!prompt.lock().unwrap().contains("get_weather"));
}

#[tokio::test]
async fn several_calls_are_numbered() {
    let fixture = Fixture::new(says(
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"A\"}<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>\
         {\"city\":\"B\"}<|call|>",
    ));
    let answer = fixture.hi(json!({"tools": tools()})).await;
    let calls = answer.message()["tool_calls"].as_array().unwrap().clone();
    let arguments = |index: usize| calls[index]["function"]["arguments"].as_str().unwrap();
    assert_eq!((arguments(0), arguments(1)), ("{\"city\":\"A\"}", "{\"city\":\"B\"}"));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}
