//! Formats and calls that answers must follow, at a temperature where the embedded model by itself would stray.

use serde_json::{Value, json};

use crate::support::{Server, ask, content, with};

const NUM_SEEDS: u64 = 12;

/// So hot that sentences lose their sense. An answer that has not ended by then is cut, and says nothing here.
fn hot(request: Value, seed: u64) -> Value {
    with(request, json!({"temperature": 1.2, "seed": seed, "max_tokens": 1000}))
}

fn recipe() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "minutes": {"type": "integer", "minimum": 1, "maximum": 240},
            "course": {"enum": ["starter", "main", "dessert"]},
            "ingredients": {"type": "array", "minItems": 1, "maxItems": 4, "items": {
                "type": "object",
                "properties": {"what": {"type": "string", "maxLength": 20}, "grams": {"type": "integer", "minimum": 1, "maximum": 5000}},
                "required": ["what", "grams"],
                "additionalProperties": false,
            }},
        },
        "required": ["name", "minutes", "course", "ingredients"],
        "additionalProperties": false,
    })
}

fn assert_recipe(text: &str) {
    let recipe: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(recipe.as_object().unwrap().len(), 4, "{text}");
    assert!(recipe["name"].as_str().unwrap().chars().count() <= 40, "{text}");
    assert!((1..=240).contains(&recipe["minutes"].as_i64().unwrap()), "{text}");
    assert!(["starter", "main", "dessert"].contains(&recipe["course"].as_str().unwrap()), "{text}");
    let ingredients = recipe["ingredients"].as_array().unwrap();
    assert!((1..=4).contains(&ingredients.len()), "{text}");
    for ingredient in ingredients {
        assert_eq!(ingredient.as_object().unwrap().len(), 2, "{text}");
        assert!(ingredient["what"].is_string() && ingredient["grams"].is_i64(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_schema_is_followed_at_any_temperature() {
    let server = Server::start(&[]);
    let format = |schema: Value| {
        let schema = json!({"name": "answer", "strict": true, "schema": schema});
        json!({"response_format": {"type": "json_schema", "json_schema": schema}})
    };
    let person = json!({"type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}});
    let request = with(ask("Extract as JSON: Anna is 31 years old."), format(person));
    let answer = server.chat(&request).await;
    let person: Value = serde_json::from_str(content(&answer)).unwrap();
    assert_eq!(person, json!({"name": "Anna", "age": 31}));

    let request = with(ask("Give me a recipe for soup as JSON."), format(recipe()));
    let mut num_ended = 0;
    for seed in 0..NUM_SEEDS {
        let answer = server.chat(&hot(request.clone(), seed)).await;
        if answer["choices"][0]["finish_reason"] == "stop" {
            assert_recipe(content(&answer));
            num_ended += 1;
        }
    }
    assert!(num_ended >= NUM_SEEDS / 2, "{num_ended} of {NUM_SEEDS} ended");
    assert_eq!(server.metric("harmonium_parser_recoveries_total", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_call_is_made_at_any_temperature() {
    let server = Server::start(&[]);
    let tool = |name: &str, properties: Value| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        let parameters = json!({"type": "object", "required": required, "properties": properties,
            "additionalProperties": false});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let tools = json!([
        tool("get_weather", json!({"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}})),
        tool("set_timer", json!({"minutes": {"type": "integer", "minimum": 1, "maximum": 99}})),
    ]);
    // Nothing that the functions would help with.
    let demand = json!({"tools": tools, "tool_choice": "required"});
    let request = with(ask("What is the capital of France?"), demand);
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "set_timer"}}});
    let named = with(request.clone(), named);
    let mut num_ended = 0;
    for seed in 0..NUM_SEEDS {
        for (request, may_be_weather) in [(&request, true), (&named, false)] {
            let answer = server.chat(&hot(request.clone(), seed)).await;
            let choice = &answer["choices"][0];
            if choice["finish_reason"] == "length" {
                continue;
            }
            num_ended += 1;
            assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
            let function = &choice["message"]["tool_calls"][0]["function"];
            let arguments: Value =
                serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
            let num_arguments = arguments.as_object().unwrap().len();
            match function["name"].as_str().unwrap() {
                "get_weather" if may_be_weather => {
                    let unit = arguments["unit"].as_str().unwrap();
                    assert!(arguments["city"].is_string() && ["C", "F"].contains(&unit));
                    assert_eq!(num_arguments, 2);
                }
                "set_timer" => {
                    assert!((1..=99).contains(&arguments["minutes"].as_i64().unwrap()));
                    assert_eq!(num_arguments, 1);
                }
                other => panic!("{other} is not to be called"),
            }
        }
    }
    assert!(num_ended >= NUM_SEEDS, "{num_ended} of {} ended", 2 * NUM_SEEDS);
    assert_eq!(server.metric("harmonium_parser_recoveries_total", "").await, 0.0);
}
