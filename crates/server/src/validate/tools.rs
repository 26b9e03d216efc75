//! Tools, the choice among them, and the answer's format, as they were declared.
//!
//! The prompt shows them; what of them the answer must follow is in `rules`. A choice that demands a call (`required`,
//! a named function) is rendered like `auto`, so that it shares the prefix of the conversation's other prompts.

use harmonium_harmony::{FunctionTool, ResponseFormat};
use harmonium_openai::chat::{self, NamedChoice, Tool, ToolChoice};
use serde_json::{Value, json};

use super::name;
use crate::error::{Error, FieldCode, Result};

const MAX_TOOLS: usize = 128;

/// The functions that the model is shown, and which of them it must call.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Those declared, less those the choice leaves out.
    pub(super) functions: Vec<Declared>,
    pub(super) demand: Demand,
}

/// A function as the request declares it.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) function: FunctionTool,
    /// Whether its arguments must follow its schema.
    pub(super) is_strict: bool,
    /// The field of its schema.
    pub(super) field: String,
}

/// Which call the answer must be.
#[derive(Debug, Default)]
pub(super) enum Demand {
    /// None.
    #[default]
    Nothing,
    /// Of any of the functions.
    Any,
    /// Of the one with this name.
    One(String),
}

/// Checks the declarations and the choice among them.
pub(super) fn declared(tools: Option<Vec<Tool>>, choice: Option<ToolChoice>) -> Result<Tools> {
    let tools = tools.unwrap_or_default();
    if tools.len() > MAX_TOOLS {
        let problem = format!("{} tools are more than {MAX_TOOLS}", tools.len());
        return Err(Error::field("tools", FieldCode::Value, problem));
    }
    let mut functions: Vec<Declared> = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let declared = function(&format!("tools[{index}]"), tool)?;
        let name = &declared.function.name;
        if functions.iter().any(|other| other.function.name == *name) {
            let problem = format!("{name:?} is declared twice");
            let param = format!("tools[{index}].function.name");
            return Err(Error::field(param, FieldCode::Value, problem));
        }
        functions.push(declared);
    }
    let demand = match choice {
        None => Demand::Nothing,
        Some(ToolChoice::Mode(mode)) => choose_mode(&mode, &mut functions)?,
        Some(ToolChoice::Named(choice)) => choose_named(choice, &mut functions)?,
    };
    Ok(Tools { functions, demand })
}

fn function(param: &str, tool: Tool) -> Result<Declared> {
    if tool.kind != "function" {
        return Err(unsupported_kind(format!("{param}.type"), &tool.kind));
    }
    let Some(function) = tool.function else {
        return Err(Error::field(
            format!("{param}.function"),
            FieldCode::Missing,
            "a function tool needs its declaration",
        ));
    };
    let field = format!("{param}.function.parameters");
    if !matches!(function.parameters, None | Some(Value::Object(_))) {
        return Err(Error::field(field, FieldCode::Type, "not a JSON schema object"));
    }
    Ok(Declared {
        is_strict: function.strict.unwrap_or(false),
        field,
        function: FunctionTool {
            name: name(format!("{param}.function.name"), function.name)?,
            description: function.description.filter(|text| !text.is_empty()),
            parameters: function.parameters,
        },
    })
}

fn choose_mode(mode: &str, functions: &mut Vec<Declared>) -> Result<Demand> {
    match mode {
        "auto" => Ok(Demand::Nothing),
        "none" => {
            functions.clear();
            Ok(Demand::Nothing)
        }
        "required" if functions.is_empty() => Err(Error::field(
            "tool_choice",
            FieldCode::Value,
            "\"required\" needs tools to choose from",
        )),
        "required" => Ok(Demand::Any),
        other => Err(Error::field(
            "tool_choice",
            FieldCode::UnsupportedValue,
            format!("{other:?} is none of none, auto, required"),
        )),
    }
}

fn choose_named(choice: NamedChoice, functions: &mut Vec<Declared>) -> Result<Demand> {
    match (choice.kind.as_str(), choice.function, choice.allowed_tools) {
        ("function", Some(function), _) => {
            find(functions, "tool_choice.function.name", &function.name)?;
            Ok(Demand::One(function.name))
        }
        ("allowed_tools", _, Some(allowed)) => {
            let mut names = Vec::with_capacity(allowed.tools.len());
            for (index, tool) in allowed.tools.into_iter().enumerate() {
                let param = format!("tool_choice.allowed_tools.tools[{index}]");
                let (true, Some(function)) = (tool.kind == "function", tool.function) else {
                    return Err(unsupported_kind(format!("{param}.type"), &tool.kind));
                };
                find(functions, &format!("{param}.function.name"), &function.name)?;
                names.push(function.name);
            }
            functions.retain(|declared| names.contains(&declared.function.name));
            choose_mode(&allowed.mode, functions)
        }
        (kind @ ("function" | "allowed_tools"), _, _) => Err(Error::field(
            format!("tool_choice.{kind}"),
            FieldCode::Missing,
            format!("a choice of type {kind:?} needs it"),
        )),
        (kind, _, _) => Err(unsupported_kind("tool_choice.type".to_owned(), kind)),
    }
}

fn find(functions: &[Declared], param: &str, name: &str) -> Result<()> {
    if functions.iter().any(|declared| declared.function.name == name) {
        return Ok(());
    }
    Err(Error::field(param, FieldCode::Value, format!("{name:?} is not among the tools")))
}

pub(super) fn unsupported_kind(param: String, kind: &str) -> Error {
    let problem = format!("{kind:?} is not supported, only \"function\" is");
    Error::field(param, FieldCode::UnsupportedValue, problem)
}

/// The schema that a final message must follow; `None` for plain text.
pub(super) fn response_format(
    format: Option<chat::ResponseFormat>,
) -> Result<Option<ResponseFormat>> {
    let any_object = || json!({"type": "object"});
    let Some(format) = format else { return Ok(None) };
    match (format.kind.as_str(), format.json_schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(ResponseFormat {
            name: "json_object".to_owned(),
            description: None,
            schema: any_object(),
        })),
        ("json_schema", Some(format)) => {
            let schema = format.schema.unwrap_or_else(any_object);
            if !schema.is_object() {
                let param = "response_format.json_schema.schema";
                return Err(Error::field(param, FieldCode::Type, "not a JSON schema object"));
            }
            Ok(Some(ResponseFormat {
                name: name("response_format.json_schema.name".to_owned(), format.name)?,
                description: format.description.filter(|text| !text.is_empty()),
                schema,
            }))
        }
        ("json_schema", None) => Err(Error::field(
            "response_format.json_schema",
            FieldCode::Missing,
            "a format of type \"json_schema\" needs it",
        )),
        (other, _) => Err(Error::field(
            "response_format.type",
            FieldCode::UnsupportedValue,
            format!("{other:?} is none of text, json_object, json_schema"),
        )),
    }
}
