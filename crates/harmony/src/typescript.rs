//! JSON schemas as TypeScript types, the way the model has seen functions declared.
//!
//! The text is that of the reference library (openai-harmony 0.0.8) byte for byte, its oddities included,
//! because the model was trained on it: an object's description appears twice, only the first line of a
//! description is a comment, enums of arrays have no parentheses, and what it does not know is `any`.
//! Order is the schema's own. Every schema renders; a wrong one renders as something wrong.

use std::collections::HashSet;

use serde_json::Value;

/// Further in on each level of properties, and of variants.
const PROPERTY_INDENT: &str = "    ";
const VARIANT_INDENT: &str = "   ";

/// Appends the type of a schema whose first line is already indented.
pub(crate) fn write_type(schema: &Value, indent: &str, out: &mut String) {
    if let Some(variants) = list(schema, "oneOf") {
        for variant in variants {
            out.extend(["\n", indent, " | "]);
            write_variant(variant, indent, out);
            let default = schema_default(variant, Quotes::Always);
            write_trailing_comment(text(variant, "description"), default, out);
        }
        return;
    }
    let named: Vec<&str> =
        list(schema, "type").unwrap_or_default().iter().filter_map(Value::as_str).collect();
    if !named.is_empty() {
        let names = named.iter().map(|name| if *name == "integer" { "number" } else { name });
        out.push_str(&names.collect::<Vec<_>>().join(" | "));
        return;
    }
    match text(schema, "type") {
        Some("object") => write_object(schema, indent, out),
        Some("array") => match schema.get("items") {
            Some(items) => {
                write_type(items, indent, out);
                out.push_str("[]");
            }
            None => out.push_str("Array<any>"),
        },
        Some("string") => {
            let options = list(schema, "enum").unwrap_or_default().iter().filter_map(Value::as_str);
            let quoted: Vec<String> = options.map(|option| format!("\"{option}\"")).collect();
            out.push_str(if quoted.is_empty() { "string" } else { "" });
            out.push_str(&quoted.join(" | "));
        }
        Some("number" | "integer") => out.push_str("number"),
        Some("boolean") => out.push_str("boolean"),
        _ => out.push_str("any"),
    }
}

fn write_object(schema: &Value, indent: &str, out: &mut String) {
    if let Some(description) = text(schema, "description") {
        out.extend([indent, "// ", description, "\n"]);
    }
    out.push_str("{\n");
    let required: HashSet<&str> =
        list(schema, "required").unwrap_or_default().iter().filter_map(Value::as_str).collect();
    for (name, property) in
        schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let mark = if required.contains(name.as_str()) { ":" } else { "?:" };
        write_property(name, mark, property, indent, out);
    }
    out.extend([indent, "}"]);
}

fn write_property(name: &str, mark: &str, property: &Value, indent: &str, out: &mut String) {
    let has_variants = property.get("oneOf").is_some();
    if let Some(title) = text(property, "title") {
        out.extend([indent, "// ", title, "\n", indent, "//\n"]);
    }
    if let Some(description) = text(property, "description").filter(|_| !has_variants) {
        out.extend([indent, "// ", description, "\n"]);
    }
    if let Some(examples) = list(property, "examples").filter(|examples| !examples.is_empty()) {
        out.extend([indent, "// Examples:\n"]);
        for example in examples.iter().filter_map(Value::as_str) {
            out.extend([indent, "// - \"", example, "\"\n"]);
        }
    }
    if let Some(variants) = list(property, "oneOf") {
        write_variants(name, mark, property, variants, indent, out);
        return;
    }
    out.extend([indent, name, mark, " "]);
    write_nullable(property, &format!("{indent}{PROPERTY_INDENT}"), out);
    out.push(',');
    if let Some(default) = schema_default(property, Quotes::UnlessEnum).filter(|_| !has_variants) {
        out.extend([" // ", &default]);
    }
    out.push('\n');
}

/// A property with `oneOf`: one line a variant. Its description stands above, but for one that only
/// repeats the first variant's; then neither shows it.
fn write_variants(
    name: &str,
    mark: &str,
    property: &Value,
    variants: &[Value],
    indent: &str,
    out: &mut String,
) {
    let description = text(property, "description");
    let first_description = variants.first().and_then(|variant| text(variant, "description"));
    let above = description.filter(|_| description != first_description);
    if let Some(description) = above {
        out.extend([indent, "// ", description, "\n"]);
    }
    if let Some(default) = schema_default(property, Quotes::UnlessEnum) {
        out.extend([indent, "// ", &default, "\n"]);
    }
    out.extend([indent, name, mark, "\n"]);
    for (index, variant) in variants.iter().enumerate() {
        out.extend([indent, " | "]);
        write_variant(variant, indent, out);
        let own = text(variant, "description")
            .filter(|own| Some(*own) != description && !(index == 0 && above.is_some()));
        write_trailing_comment(own, schema_default(variant, Quotes::UnlessEnum), out);
        out.push('\n');
    }
    out.extend([indent, ",\n"]);
}

fn write_variant(variant: &Value, indent: &str, out: &mut String) {
    write_nullable(variant, &format!("{indent}{VARIANT_INDENT}"), out);
}

fn write_nullable(schema: &Value, indent: &str, out: &mut String) {
    let start = out.len();
    write_type(schema, indent, out);
    let is_nullable = schema.get("nullable").and_then(Value::as_bool) == Some(true);
    if is_nullable && !out[start..].contains("null") {
        out.push_str(" | null");
    }
}

fn write_trailing_comment(description: Option<&str>, default: Option<String>, out: &mut String) {
    let comments: Vec<&str> = description.into_iter().chain(default.as_deref()).collect();
    if !comments.is_empty() {
        out.extend([" // ", &comments.join(" ")]);
    }
}

/// How a default that is an option of an enum is written; other strings are always in bare quotes.
#[derive(PartialEq)]
enum Quotes {
    /// As JSON.
    Always,
    /// As it is.
    UnlessEnum,
}

fn schema_default(schema: &Value, quotes: Quotes) -> Option<String> {
    let default = schema.get("default")?;
    let is_enum = list(schema, "enum").is_some_and(|options| !options.is_empty());
    Some(match default.as_str() {
        Some(text) if !is_enum => format!("default: \"{text}\""),
        Some(text) if quotes == Quotes::UnlessEnum => format!("default: {text}"),
        _ => format!("default: {default}"),
    })
}

fn list<'a>(schema: &'a Value, key: &str) -> Option<&'a [Value]> {
    schema.get(key)?.as_array().map(Vec::as_slice)
}

fn text<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema.get(key)?.as_str()
}
