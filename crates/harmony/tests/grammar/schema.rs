//! Random schemas, and whether a value follows one. Only for the keywords that are generated here.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

pub(super) fn schemas() -> impl Strategy<Value = Value> {
    let number =
        (-50_i64..50, 0_i64..100, any::<bool>()).prop_map(|(minimum, span, is_integer)| {
            let kind = if is_integer { "integer" } else { "number" };
            json!({"type": kind, "minimum": minimum, "maximum": minimum + span})
        });
    let string = (0_u64..3, 0_u64..6).prop_map(
        |(min, span)| json!({"type": "string", "minLength": min, "maxLength": min + span}),
    );
    let choice = prop::collection::vec("[a-zé\"\\\\ ]{0,6}", 1..4)
        .prop_map(|options| json!({"type": "string", "enum": options}));
    let leaf = prop_oneof![
        number,
        string,
        choice,
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let array = (inner.clone(), 0_u64..3, 0_u64..3).prop_map(|(items, min, span)| {
            json!({"type": "array", "items": items, "minItems": min, "maxItems": min + span})
        });
        let union =
            prop::collection::vec(inner.clone(), 1..3).prop_map(|any| json!({"anyOf": any}));
        prop_oneof![array, union, objects(inner)]
    })
}

/// Objects of some of the properties that they know.
pub(super) fn objects(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec(("[a-z_ é]{1,8}", inner, any::<bool>()), 0..4).prop_map(|members| {
        let required: Vec<_> =
            members.iter().filter(|member| member.2).map(|member| member.0.clone()).collect();
        let properties: Map<String, Value> =
            members.into_iter().map(|(name, schema, _)| (name, schema)).collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    })
}

pub(super) fn follows(value: &Value, schema: &Value) -> bool {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| follows(value, option));
    }
    let is_within = |number: f64, min: &str, max: &str| {
        schema[min].as_f64().is_none_or(|min| number >= min)
            && schema[max].as_f64().is_none_or(|max| number <= max)
    };
    match schema["type"].as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some(kind @ ("integer" | "number")) => value.as_f64().is_some_and(|number| {
            (kind == "number" || number.fract() == 0.0) && is_within(number, "minimum", "maximum")
        }),
        Some("string") => value.as_str().is_some_and(|text| {
            schema["enum"].as_array().is_none_or(|options| options.contains(value))
                && is_within(text.chars().count() as f64, "minLength", "maxLength")
        }),
        Some("array") => value.as_array().is_some_and(|items| {
            is_within(items.len() as f64, "minItems", "maxItems")
                && items.iter().all(|item| follows(item, &schema["items"]))
        }),
        Some("object") => value.as_object().is_some_and(|members| {
            let required = schema["required"].as_array().into_iter().flatten();
            required.filter_map(Value::as_str).all(|name| members.contains_key(name))
                && members.iter().all(|(name, member)| {
                    schema["properties"].get(name).is_some_and(|schema| follows(member, schema))
                })
        }),
        other => panic!("{other:?} is not generated"),
    }
}
