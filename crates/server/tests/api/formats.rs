//! Formats and calls that an answer must follow, whatever the model would rather say.

use harmonium_engine::fake::{FakeExecutor, spec};
use serde_json::{Value, json};

use crate::support::{Fixture, content, hi, says};

/// Answers with text, and then with letters that spell nothing.
const PROSE: &str = "<|channel|>final<|message|>It is sunny in Paris.<|return|>";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "sunny": {"type": "boolean"}},
        "required": ["city", "sunny"],
        "additionalProperties": false,
    })
}

fn format(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "weather", "strict": true, "schema": schema}})
}

fn tool(name: &str, fields: Value) -> Value {
    let mut function = json!({"name": name, "parameters": schema()});
    function.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"type": "function", "function": function})
}

fn assert_follows(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    let members = value.as_object().unwrap();
    assert_eq!(members.len(), 2, "{text}");
    assert!(["Paris", "Rome"].contains(&members["city"].as_str().unwrap()), "{text}");
    assert!(members["sunny"].is_boolean(), "{text}");
}

#[tokio::test]
async fn a_format_holds_against_the_model() {
    let fixture = Fixture::new(says(PROSE));
    let free = fixture.hi(json!({})).await;
    assert_eq!(free.message()["content"], "It is sunny in Paris.");
    for stream in [false, true] {
        let fields = json!({"response_format": format(schema())});
        let text = match stream {
            false => fixture.hi(fields).await.message()["content"].as_str().unwrap().to_owned(),
            true => content(&fixture.stream_hi(fields).await, 0),
        };
        assert_follows(&text);
    }
    let answer = fixture.hi(json!({"response_format": format(schema())})).await;
    assert_eq!(answer.body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn reasoning_stays_free_text_outside_of_the_json() {
    let fixture = Fixture::new(says(
        "<|channel|>analysis<|message|>Is it {\"x\"?<|end|><|start|>assistant\
         <|channel|>final <|constrain|>json<|message|>{\"city\": \"Rome\", \"sunny\": true}<|return|>",
    ));
    let answer = fixture.hi(json!({"response_format": format(schema())})).await;
    assert_eq!(answer.message()["reasoning"], "Is it {\"x\"?");
    assert_eq!(answer.message()["content"], "{\"city\": \"Rome\", \"sunny\": true}");
}

#[tokio::test]
async fn each_of_several_answers_follows_by_itself() {
    // Without a script each seed has an answer of its own; a limit keeps the free ones short.
    let fixture = Fixture::new(FakeExecutor::new(spec()));
    let fields =
        json!({"response_format": format(schema()), "n": 4, "max_tokens": 3000, "seed": 3});
    let answer = fixture.hi(fields).await;
    let choices = answer.body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    let finished: Vec<_> =
        choices.iter().filter(|choice| choice["finish_reason"] == "stop").collect();
    assert!(!finished.is_empty(), "{}", answer.body);
    for choice in finished {
        assert_follows(choice["message"]["content"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_demanded_call_is_made() {
    let fixture = Fixture::new(says(PROSE));
    let tools = json!([tool("first", json!({})), tool("second", json!({}))]);
    let second = json!({"type": "function", "function": {"name": "second"}});
    let allowed = json!({"type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [second]}});
    for (choice, names) in [
        (json!("required"), &["first", "second"][..]),
        (second, &["second"]),
        (allowed, &["second"]),
    ] {
        let answer = fixture.hi(json!({"tools": tools, "tool_choice": choice})).await;
        assert_eq!(answer.body["choices"][0]["finish_reason"], "tool_calls", "{}", answer.body);
        let calls = answer.message()["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        assert!(names.contains(&calls[0]["function"]["name"].as_str().unwrap()), "{calls:?}");
        assert_follows(calls[0]["function"]["arguments"].as_str().unwrap());
        assert_eq!(answer.message()["content"], Value::Null);
    }
}

#[tokio::test]
async fn a_strict_function_binds_arguments_and_leaves_the_message_free() {
    let tools = json!([tool("f", json!({"strict": true})), tool("g", json!({}))]);
    let prose = Fixture::new(says(PROSE)).hi(json!({"tools": tools})).await;
    assert_eq!(prose.message()["content"], "It is sunny in Paris.");
    let call = |name: &str| {
        format!(
            "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{\"x\": 1}}<|call|>"
        )
    };
    let arguments = async |name: &str, tools: &Value| {
        let answer = Fixture::new(says(&call(name))).hi(json!({"tools": tools})).await;
        let call = &answer.message()["tool_calls"][0]["function"];
        assert_eq!(call["name"], name, "{}", answer.body);
        call["arguments"].as_str().unwrap().to_owned()
    };
    assert_follows(&arguments("f", &tools).await);
    assert_eq!(arguments("g", &tools).await, "{\"x\": 1}");
    // Without a strict one nothing is bound.
    assert_eq!(arguments("f", &json!([tool("f", json!({}))])).await, "{\"x\": 1}");
}

#[tokio::test]
async fn a_limit_cuts_a_format_as_it_cuts_text() {
    let fixture = Fixture::new(says(PROSE));
    let answer = fixture.hi(json!({"response_format": format(schema()), "max_tokens": 12})).await;
    assert_eq!(answer.body["choices"][0]["finish_reason"], "length");
    assert_eq!(answer.body["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn a_schema_that_cannot_be_enforced_is_refused_by_its_field() {
    let fixture = Fixture::new(says(PROSE));
    let unsupported = json!({"type": "object", "not": {"required": ["x"]}});
    let loose = tool("g", json!({"parameters": unsupported}));
    let strict = tool("f", json!({"strict": true, "parameters": unsupported}));
    let named = json!({"type": "function", "function": {"name": "f"}});
    for (fields, field) in [
        (
            json!({"response_format": format(unsupported.clone())}),
            "response_format.json_schema.schema",
        ),
        (json!({"tools": [loose, strict]}), "tools[1].function.parameters"),
        (json!({"tools": [loose, strict], "tool_choice": named}), "tools[1].function.parameters"),
    ] {
        let answer = fixture.hi(fields.clone()).await;
        let error = &answer.body["error"];
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(field), &json!("unsupported_schema"))
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(field) && message.contains("\"not\""), "{message}");
        // Who only asks for the route makes no grammar.
        let route = axum::http::Request::post("/v1/route").body(hi(fields).to_string().into());
        assert_eq!(fixture.ask(route.unwrap()).await.status, 200);
    }
    // Functions that only shape the prompt, or are called as well as possible, are taken.
    for choice in ["auto", "required"] {
        let answer = fixture.hi(json!({"tools": [loose], "tool_choice": choice})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let metrics = fixture.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("type=\"unsupported_schema\"} 3"), "{metrics}");
}
