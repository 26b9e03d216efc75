//! Requests as JSON, and what becomes of them.

use harmonium_engine::SamplingParams;
use harmonium_harmony::{Arguments, Body, Effort, Message, ToolCall};
use serde_json::{Value, json};

use super::{Bounds, Images, Turn, UsageMode, validate};
use crate::error::Error;

/// A request with one user message and these fields on top.
fn with(fields: Value) -> Result<Turn, Error> {
    let mut request = json!({"messages": [{"role": "user", "content": "hi"}]});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let defaults = SamplingParams { top_k: 40, temperature: 0.5, ..SamplingParams::default() };
    let bounds = Bounds { max_n: 4, vocab_size: Some(300), defaults: &defaults };
    validate(serde_json::from_value(request).unwrap(), &bounds)
}

fn messages(messages: Value) -> Result<Turn, Error> {
    with(json!({ "messages": messages }))
}

/// The parameter, the code and the message of the refusal.
fn refusal(result: Result<Turn, Error>) -> (String, String, String) {
    let error = result.expect_err("the request is wrong").body().error;
    (error.param.unwrap(), error.code.unwrap(), error.message)
}

#[test]
fn silence_means_the_models_defaults() {
    let turn = with(json!({})).unwrap();
    assert_eq!((turn.sampling.top_k, turn.sampling.temperature), (40, 0.5));
    assert_eq!((turn.n, turn.max_tokens, turn.seed), (1, None, None));
    assert_eq!(turn.conversation.effort, Effort::Medium);
    assert!(turn.include_reasoning && turn.stream.is_none());
}

#[test]
fn null_is_silence() {
    let turn = with(json!({"temperature": null, "stop": null, "tools": null, "tool_choice": null,
        "response_format": null, "n": null, "logit_bias": null, "stream_options": null,
        "reasoning_effort": null, "functions": null}))
    .unwrap();
    assert_eq!(turn.sampling.temperature, 0.5);
}

#[test]
fn values_at_their_bounds_are_taken() {
    let turn = with(json!({"temperature": 2, "top_p": 1, "top_k": -1, "min_p": 1.0, "n": 4,
        "frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 2, "seed": -1,
        "logit_bias": {"299": -100}, "logprobs": true, "top_logprobs": 20, "max_tokens": 7,
        "max_completion_tokens": 5, "stop": ["a", "b", "c", "d"], "ignore_eos": true}))
    .unwrap();
    assert_eq!(turn.sampling.top_k, 0);
    assert_eq!(turn.sampling.logit_bias, [(299, -100.0)]);
    assert_eq!(turn.sampling.logprobs, Some(20));
    assert_eq!((turn.seed, turn.max_tokens, turn.stops.len()), (Some(u64::MAX), Some(5), 4));
    assert!(turn.ignore_stop_tokens);
}

#[test]
fn a_value_out_of_range_is_refused_by_name_and_value() {
    for (field, value, shown) in [
        ("temperature", json!(2.1), "2.1"),
        ("temperature", json!(-0.1), "-0.1"),
        ("top_p", json!(0), "0"),
        ("top_p", json!(1e-60), "0.0"),
        ("top_k", json!(-2), "-2"),
        ("min_p", json!(1.5), "1.5"),
        ("frequency_penalty", json!(-3), "-3"),
        ("presence_penalty", json!(2.5), "2.5"),
        ("repetition_penalty", json!(0), "0"),
        ("n", json!(0), "0"),
        ("n", json!(5), "5"),
        ("max_tokens", json!(0), "0"),
        ("max_tokens", json!(-1), "-1"),
        ("max_completion_tokens", json!(5_000_000_000i64), "5000000000"),
        ("top_logprobs", json!(21), "21"),
        ("top_logprobs", json!(2), "logprobs"),
        ("stop", json!(""), "empty"),
        ("stop", json!(["a", "b", "c", "d", "e"]), "5"),
        ("stop", json!("x".repeat(1025)), "1025"),
        ("logit_bias", json!({"x": 1}), "\"x\""),
        ("logit_bias", json!({"300": 1}), "\"300\""),
        ("logit_bias", json!({"-1": 1}), "\"-1\""),
        ("stream_options", json!({"include_usage": true}), "stream"),
    ] {
        let (param, code, message) = refusal(with(json!({ field: value })));
        assert_eq!((param.as_str(), code.as_str()), (field, "invalid_value"), "{message}");
        assert!(message.starts_with(field) && message.contains(shown), "{message}");
    }
    let (param, ..) = refusal(with(json!({"logit_bias": {"3": 101}})));
    assert_eq!(param, "logit_bias.3");
}

#[test]
fn what_this_server_cannot_do_is_refused() {
    for (fields, param, code) in [
        (json!({"functions": []}), "functions", "unsupported_parameter"),
        (json!({"function_call": "auto"}), "function_call", "unsupported_parameter"),
        (json!({"web_search_options": {}}), "web_search_options", "unsupported_parameter"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "unsupported_value"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort", "unsupported_value"),
        (json!({"reasoning": {"effort": "x"}}), "reasoning.effort", "unsupported_value"),
        (json!({"tools": [{"type": "custom"}]}), "tools[0].type", "unsupported_value"),
        (
            json!({"tools": [{"type": "function"}]}),
            "tools[0].function",
            "missing_required_parameter",
        ),
        (json!({"tool_choice": "some"}), "tool_choice", "unsupported_value"),
        (json!({"tool_choice": "required"}), "tool_choice", "invalid_value"),
        (json!({"tool_choice": {"type": "custom"}}), "tool_choice.type", "unsupported_value"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}),
            "tool_choice.function.name",
            "invalid_value",
        ),
        (
            json!({"tool_choice": {"type": "function"}}),
            "tool_choice.function",
            "missing_required_parameter",
        ),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", "unsupported_value"),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}),
            "response_format.json_schema.name",
            "invalid_value",
        ),
    ] {
        let (got_param, got_code, message) = refusal(with(fields));
        assert_eq!((got_param.as_str(), got_code.as_str()), (param, code), "{message}");
    }
}

#[test]
fn seven_efforts_become_three() {
    for (given, effort) in [
        ("none", Effort::Low),
        ("minimal", Effort::Low),
        ("low", Effort::Low),
        ("medium", Effort::Medium),
        ("high", Effort::High),
        ("xhigh", Effort::High),
        ("max", Effort::High),
    ] {
        for fields in [
            json!({"reasoning_effort": given}),
            json!({"reasoning": {"effort": given}}),
            json!({"chat_template_kwargs": {"reasoning_effort": given, "x": 1}}),
        ] {
            assert_eq!(with(fields).unwrap().conversation.effort, effort, "{given}");
        }
    }
}

#[test]
fn a_stream_reports_usage_as_asked() {
    let mode = |options: Value| {
        with(json!({"stream": true, "stream_options": options})).unwrap().stream.unwrap()
    };
    assert_eq!(mode(json!(null)), UsageMode::Never);
    assert_eq!(mode(json!({})), UsageMode::Never);
    assert_eq!(mode(json!({"include_usage": true})), UsageMode::AtEnd);
    assert_eq!(
        mode(json!({"include_usage": true, "continuous_usage_stats": true})),
        UsageMode::Continuous
    );
    assert_eq!(mode(json!({"continuous_usage_stats": true})), UsageMode::Never);
}

#[test]
fn leading_instructions_are_joined_and_later_ones_stay_in_place() {
    let turn = messages(json!([
        {"role": "system", "content": "one"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "system", "content": "three"}
    ]))
    .unwrap();
    assert_eq!(turn.conversation.instructions.as_deref(), Some("one\n\ntwo"));
    assert_eq!(
        turn.conversation.messages,
        [Message::User { text: "a\nb".into() }, Message::Developer { text: "three".into() }]
    );
}

#[test]
fn an_answer_with_calls_comes_back_whole() {
    let call = json!({"id": "call_1", "type": "function",
        "function": {"name": "f", "arguments": "{}"}});
    let turn = messages(json!([
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "reasoning_content": "why", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "tool", "tool_call_id": "lost", "name": "g", "content": "43"},
        {"role": "function", "name": "h", "content": "44"},
        {"role": "assistant", "content": [
            {"type": "reasoning", "text": "so"},
            {"type": "text", "text": "it "},
            {"type": "output_text", "text": "is"}]},
        {"role": "assistant", "content": null, "refusal": "no"},
        {"role": "assistant", "content": null}
    ]))
    .unwrap();
    let result = |name: &str, content: &str| Message::ToolResult {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    let assistant = |reasoning: Option<&str>, content: Option<&str>| Message::Assistant {
        reasoning: reasoning.map(str::to_owned),
        content: content.map(str::to_owned),
        tool_calls: vec![],
    };
    assert_eq!(
        turn.conversation.messages[1..],
        [
            Message::Assistant {
                reasoning: Some("why".into()),
                content: None,
                tool_calls: vec![ToolCall { name: "f".into(), arguments: "{}".into() }],
            },
            result("f", "42"),
            result("g", "43"),
            result("h", "44"),
            assistant(Some("so"), Some("it is")),
            assistant(None, Some("no")),
            assistant(None, None),
        ]
    );
}

#[test]
fn a_wrong_message_is_refused_by_its_place() {
    let user = json!({"role": "user", "content": "q"});
    for (message, param, shown) in [
        (json!({"role": "narrator", "content": "x"}), "messages[1].role", "narrator"),
        (json!({"role": "user", "content": null}), "messages[1].content", "user"),
        (
            json!({"role": "user", "content": [{"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}),
            "messages[1].content[1].image_url.url",
            "https://",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url",
                "image_url": {"url": "https://x/y.png", "detail": "huge"}}]}),
            "messages[1].content[0].image_url.detail",
            "huge",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url"}]}),
            "messages[1].content[0]",
            "image_url",
        ),
        (
            json!({"role": "tool", "name": "f", "content": [{"type": "image_url",
                "image_url": {"url": "https://x/y.png"}}]}),
            "messages[1].content[0]",
            "text only",
        ),
        (json!({"role": "user", "content": [{"type": "text"}]}), "messages[1].content[0]", "text"),
        (
            json!({"role": "tool", "tool_call_id": "call_9", "content": "x"}),
            "messages[1].tool_call_id",
            "call_9",
        ),
        (json!({"role": "tool", "content": "x"}), "messages[1].tool_call_id", "id"),
        (json!({"role": "function", "content": "x"}), "messages[1].name", "name"),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "a", "type": "function",
                "function": {"name": "a b"}}]}),
            "messages[1].tool_calls[0].function.name",
            "a b",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]}),
            "messages[1].tool_calls[0].type",
            "custom",
        ),
    ] {
        let (got_param, _, text) = refusal(messages(json!([user, message])));
        assert_eq!(got_param, param, "{text}");
        assert!(text.contains(shown), "{text}");
    }
    assert_eq!(refusal(messages(json!([]))).0, "messages");
}

#[test]
fn the_choice_decides_which_tools_are_shown() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let tools = |choice: Value| {
        let fields = json!({"tools": [tool("f"), tool("g")], "tool_choice": choice});
        let tools = with(fields).unwrap().conversation.tools;
        tools.into_iter().map(|tool| tool.name).collect::<Vec<_>>()
    };
    assert_eq!(tools(json!("auto")), ["f", "g"]);
    assert_eq!(tools(json!("required")), ["f", "g"]);
    assert_eq!(tools(json!("none")), [""; 0]);
    assert_eq!(tools(tool("g")), ["f", "g"]);
    let allowed = json!({"type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [tool("g")]}});
    assert_eq!(tools(allowed), ["g"]);
}

#[test]
fn a_wrong_declaration_is_refused_by_its_place() {
    let tool = |function: Value| json!({"type": "function", "function": function});
    let fine = tool(json!({"name": "f"}));
    for (second, param) in [
        (tool(json!({"name": ""})), "tools[1].function.name"),
        (tool(json!({"name": "a.b"})), "tools[1].function.name"),
        (tool(json!({"name": "x".repeat(65)})), "tools[1].function.name"),
        (tool(json!({"name": "f"})), "tools[1].function.name"),
        (tool(json!({"name": "g", "parameters": "{}"})), "tools[1].function.parameters"),
    ] {
        let (got_param, _, text) = refusal(with(json!({"tools": [fine, second]})));
        assert_eq!(got_param, param, "{text}");
    }
}

#[test]
fn formats_become_schemas() {
    let format = |format: Value| {
        with(json!({ "response_format": format })).unwrap().conversation.response_format
    };
    assert_eq!(format(json!({"type": "text"})), None);
    let object = format(json!({"type": "json_object"})).unwrap();
    assert_eq!((object.name.as_str(), object.schema), ("json_object", json!({"type": "object"})));
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let named = format(json!({"type": "json_schema",
        "json_schema": {"name": "n", "schema": schema, "strict": true}}))
    .unwrap();
    assert_eq!((named.name.as_str(), named.schema), ("n", schema));
}

#[test]
fn images_are_counted_and_not_rendered() {
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}});
    let text = json!({"type": "text", "text": "q"});
    let user = |parts| json!({"role": "user", "content": parts});
    let turn = messages(json!([user(json!([text, image])), user(json!([image]))])).unwrap();
    let images = Images { count: 2, first: "messages[0].content[1]".to_owned() };
    assert_eq!(turn.images, Some(images));
    let texts = ["q", ""].map(|text| Message::User { text: text.to_owned() });
    assert_eq!(turn.conversation.messages, texts);
    assert_eq!(messages(json!([user(json!([text]))])).unwrap().images, None);
}

/// What a final message may be, if there may be one, and which functions with which arguments may be called.
type Choices = (Option<Body>, Vec<(String, Arguments)>);

fn rules(fields: Value) -> Option<Choices> {
    let rules = with(fields).unwrap().rules?.rules;
    let calls = rules.calls.into_iter().map(|call| (call.name, call.arguments));
    Some((rules.message, calls.collect()))
}

#[test]
fn an_answer_is_bound_by_formats_strict_functions_and_demanded_calls() {
    let tool = |name: &str, strict: Value| {
        let parameters = json!({"type": "object"});
        json!({"type": "function", "function": {"name": name, "strict": strict, "parameters": parameters}})
    };
    let loose = json!([tool("f", Value::Null), tool("g", json!(false))]);
    let strict = json!([tool("f", json!(true)), tool("g", Value::Null)]);
    let named = json!({"type": "function", "function": {"name": "g"}});
    let allowed = |mode: &str| {
        let tools = json!([{"type": "function", "function": {"name": "g"}}]);
        json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
    };
    let object = json!({"type": "object"});
    let json_object = json!({"type": "json_object"});
    let both = |f, g| vec![("f".to_owned(), f), ("g".to_owned(), g)];
    let only_g = |g| vec![("g".to_owned(), g)];
    use Arguments::{AnyObject, IfPossible, Strict};

    for fields in [
        json!({}),
        json!({"tools": loose}),
        json!({"tools": loose, "tool_choice": "auto"}),
        json!({"tools": loose, "tool_choice": allowed("auto")}),
        json!({"tools": strict, "tool_choice": "none"}),
        json!({"tools": strict, "tool_choice": allowed("auto")}),
        json!({"tools": loose, "response_format": {"type": "text"}}),
    ] {
        assert_eq!(rules(fields.clone()), None, "{fields}");
    }
    for (fields, message, calls) in [
        (json!({"response_format": json_object}), Some(Body::Json(object.clone())), vec![]),
        (
            json!({"response_format": json_object, "tools": loose}),
            Some(Body::Json(object)),
            both(AnyObject, AnyObject),
        ),
        (json!({"tools": strict}), Some(Body::Text), both(Strict, AnyObject)),
        (json!({"tools": loose, "tool_choice": "required"}), None, both(IfPossible, IfPossible)),
        (json!({"tools": strict, "tool_choice": "required"}), None, both(Strict, IfPossible)),
        (json!({"tools": strict, "tool_choice": named}), None, only_g(IfPossible)),
        (
            json!({"tools": strict, "tool_choice": allowed("required"), "response_format": json_object}),
            None,
            only_g(IfPossible),
        ),
    ] {
        assert_eq!(rules(fields.clone()), Some((message, calls)), "{fields}");
    }
}
