//! Whole answers.

use serde_json::{Value, json};

use crate::support::{FINAL, Fixture, PARIS, babbles, config, remembers, replies, says, tokens};
use harmonium_server::ServerConfig;

#[tokio::test]
async fn a_whole_answer_has_every_key_of_the_protocol() {
    let fixture = Fixture::new(says(PARIS));
    let mut body = fixture.hi(json!({})).await.body;
    let id = body["id"].take();
    assert!(id.as_str().unwrap().starts_with("chatcmpl-"), "{id}");
    assert!(body["created"].take().as_i64().unwrap() > 1_700_000_000);
    let num_prompt = body["usage"]["prompt_tokens"].take().as_u64().unwrap();
    let total = body["usage"]["total_tokens"].take().as_u64().unwrap();
    assert!(num_prompt > 100);
    assert_eq!(total, num_prompt + 40);
    assert_eq!(
        body.to_string(),
        json!({
            "id": null, "object": "chat.completion", "created": null, "model": "openai/gpt-oss-test",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "Paris.", "refusal": null,
                    "reasoning": "Easy.", "reasoning_content": "Easy."},
                "finish_reason": "stop",
                "logprobs": null
            }],
            "usage": {"prompt_tokens": null, "completion_tokens": 40, "total_tokens": null,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 5}}
        })
        .to_string()
    );
}

#[tokio::test]
async fn the_second_of_equal_prompts_reports_cached_tokens() {
    let fixture = Fixture::new(says(PARIS));
    let first = fixture.hi(json!({})).await.body;
    let second = fixture.hi(json!({})).await.body;
    let cached = &second["usage"]["prompt_tokens_details"]["cached_tokens"];
    let num_prompt = second["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(first["usage"]["prompt_tokens"].as_u64().unwrap(), num_prompt);
    assert!(cached.as_u64().unwrap() > num_prompt - 32, "{cached} of {num_prompt}");
}

#[tokio::test]
async fn reasoning_goes_out_under_the_names_that_are_wanted() {
    let fixture =
        Fixture::configured(says(PARIS), ServerConfig { reasoning_content: false, ..config() });
    let message = fixture.hi(json!({})).await.message().clone();
    assert_eq!(
        (&message["reasoning"], &message["reasoning_content"]),
        (&json!("Easy."), &Value::Null)
    );
    let answer = fixture.hi(json!({"include_reasoning": false})).await;
    assert_eq!(answer.message()["reasoning"], Value::Null);
    assert_eq!(answer.body["usage"]["completion_tokens_details"]["reasoning_tokens"], 5);
}

#[tokio::test]
async fn the_request_shapes_the_prompt() {
    let (model, prompt) = remembers(PARIS);
    let fixture = Fixture::new(model);
    let body = json!({
        "reasoning_effort": "xhigh",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Is <|end|> text?"}]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Sure?"}
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply",
            "schema": {"type": "object", "properties": {"sure": {"type": "boolean"}}}}}
    });
    assert_eq!(fixture.chat(&body).await.status, 200);
    let prompt = prompt.lock().unwrap().clone();
    for part in [
        "Current date: 2026-01-02",
        "Reasoning: high",
        "Be brief.",
        "Is <|end|> text?",
        "Yes.",
        "Sure?",
        "# Response Formats",
        "## reply",
    ] {
        assert!(prompt.contains(part), "{part:?} is not in {prompt}");
    }
}

#[tokio::test]
async fn the_model_may_be_called_by_any_of_its_names_or_none() {
    let fixture = Fixture::new(says(PARIS));
    for model in [json!("test"), json!("openai/gpt-oss-test"), Value::Null] {
        let answer = fixture.hi(json!({ "model": model })).await;
        assert_eq!(answer.status, 200, "{model}");
        assert_eq!(answer.body["model"], "openai/gpt-oss-test");
    }
}

#[tokio::test]
async fn any_content_type_is_taken_for_json() {
    let fixture = Fixture::new(says(PARIS));
    for content_type in ["application/x-www-form-urlencoded", "text/plain", "application/json"] {
        let mut request = crate::support::post(crate::support::hi(json!({})).to_string());
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        assert_eq!(fixture.ask(request).await.status, 200, "{content_type}");
    }
}

#[tokio::test]
async fn an_answer_ends_at_its_token_limit() {
    let limits = ServerConfig { default_max_tokens: 30, ..config() };
    let fixture = Fixture::configured(babbles(), limits);
    for (fields, num_tokens) in [
        (json!({}), 30),
        (json!({"max_tokens": 40}), 40),
        (json!({"max_completion_tokens": 20, "max_tokens": 40}), 20),
    ] {
        let answer = fixture.hi(fields).await;
        assert_eq!(answer.body["choices"][0]["finish_reason"], "length");
        assert_eq!(answer.body["usage"]["completion_tokens"], num_tokens);
        let content = answer.message()["content"].as_str().unwrap();
        assert_eq!(content.len(), num_tokens - tokens(FINAL).len(), "{content}");
    }
}

#[tokio::test]
async fn a_limit_beyond_the_context_is_cut_to_what_fits() {
    let fixture = Fixture::new(babbles());
    let answer = fixture.hi(json!({"max_tokens": 1_000_000})).await;
    assert_eq!(answer.body["choices"][0]["finish_reason"], "length");
    assert_eq!(answer.body["usage"]["total_tokens"], 4096);
}

#[tokio::test]
async fn a_stop_text_split_over_tokens_ends_the_answer() {
    let fixture = Fixture::new(says(
        "<|channel|>analysis<|message|>STOP is no answer<|end|>\
         <|start|>assistant<|channel|>final<|message|>one STOP two<|return|>",
    ));
    let answer = fixture.hi(json!({"stop": ["three", "STOP"]})).await;
    assert_eq!(answer.message()["content"], "one ");
    assert_eq!(answer.message()["reasoning"], "STOP is no answer");
    assert_eq!(answer.body["choices"][0]["finish_reason"], "stop");
    fixture.idle().await;
}

#[tokio::test]
async fn a_stop_text_begun_but_not_finished_is_text() {
    let fixture = Fixture::new(says(PARIS));
    let answer = fixture.hi(json!({"stop": "s. Or not"})).await;
    assert_eq!(answer.message()["content"], "Paris.");
}

#[tokio::test]
async fn several_answers_have_their_own_seeds_and_one_prompt() {
    let fixture = Fixture::new(says(PARIS));
    let one = fixture.hi(json!({})).await.body;
    let two = fixture.hi(json!({"n": 2, "seed": 7})).await.body;
    let choices = two["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["message"]["content"], "Paris.");
    }
    assert_eq!(two["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    assert_eq!(two["usage"]["completion_tokens"], 80);
    assert_eq!(two["usage"]["completion_tokens_details"]["reasoning_tokens"], 10);
}

#[tokio::test]
async fn the_seed_decides_the_answer() {
    let unscripted = harmonium_engine::fake::FakeExecutor::new(harmonium_engine::fake::spec());
    let fixture = Fixture::new(unscripted);
    let ask = async |seed: i64, n: u32| {
        let answer = fixture.hi(json!({"seed": seed, "n": n, "max_tokens": 50})).await;
        assert_eq!(answer.status, 200);
        let choices = answer.body["choices"].as_array().unwrap().clone();
        choices.into_iter().map(|choice| choice["message"].to_string()).collect::<Vec<_>>()
    };
    let two = ask(5, 2).await;
    assert_ne!(two[0], two[1]);
    assert_eq!(ask(5, 1).await[0], two[0]);
    assert_eq!(ask(6, 1).await[0], two[1]);
}

#[tokio::test]
async fn logprobs_cover_the_content_and_nothing_else() {
    let fixture = Fixture::new(says(
        "<|channel|>analysis<|message|>Hm.<|end|>\
         <|start|>assistant<|channel|>final<|message|>okk!<|return|>",
    ));
    let body = fixture.hi(json!({"logprobs": true, "top_logprobs": 2})).await.body;
    let number = |value: f32| serde_json::from_str::<Value>(&value.to_string()).unwrap();
    let (half, quarter) = (number(0.5_f32.ln()), number(0.25_f32.ln()));
    assert_eq!(
        body["choices"][0]["logprobs"]["content"][1],
        json!({"token": "k", "logprob": half, "bytes": [107], "top_logprobs": [
            {"token": "k", "logprob": half, "bytes": [107]},
            {"token": "l", "logprob": quarter, "bytes": [108]}]})
    );
    assert_eq!(body["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 4);
    assert_eq!(body["choices"][0]["logprobs"]["refusal"], Value::Null);

    let stopped = fixture.hi(json!({"logprobs": true, "stop": "k!"})).await.body;
    let entries = stopped["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    // The second k is hidden with the stop text, and its entry with it.
    assert_eq!(entries.len(), 2);
    assert_eq!((&entries[1]["token"], &entries[1]["top_logprobs"]), (&json!("k"), &json!([])));
}

#[tokio::test]
async fn malformed_output_is_returned_as_text_and_counted() {
    let fixture = Fixture::new(replies(|_| "I cannot help with that.<|return|>"));
    let answer = fixture.hi(json!({})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.message()["content"], "I cannot help with that.");
    assert_eq!(answer.body["choices"][0]["finish_reason"], "stop");
    let metrics = fixture.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    assert!(!metrics.contains("harmonium_parser_recoveries_total 0"), "{metrics}");
}

#[tokio::test]
async fn ignoring_the_end_generates_all_tokens() {
    let fixture = Fixture::new(says(PARIS));
    let answer = fixture.hi(json!({"ignore_eos": true, "max_tokens": 90})).await;
    assert_eq!(answer.body["usage"]["completion_tokens"], 90);
    assert_eq!(answer.body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_large_prompt_is_prepared_beside_the_streams() {
    let (model, prompt) = remembers(PARIS);
    let fixture = Fixture::new(model);
    let large = json!({"metadata": {"x": "y".repeat(20_000)}});
    assert_eq!(fixture.hi(large).await.message()["content"], "Paris.");
    assert!(prompt.lock().unwrap().contains("hi"));
}
