//! What an answer must follow: a format of the final message, strict functions, or a call that is demanded.
//!
//! Without any of them there are no rules, and the model is as free as it was trained to be.

use harmonium_harmony::{Arguments, Body, CallRule, Culprit, GrammarError, ResponseFormat, Rules};

use super::tools::{Declared, Demand, Tools};
use crate::error::{Error, FieldCode};

/// Rules and where the request states them.
#[derive(Debug)]
pub(crate) struct AnswerRules {
    pub(crate) rules: Rules,
    /// For each call, the field of its schema.
    fields: Vec<String>,
}

impl AnswerRules {
    /// The refusal of rules that cannot be enforced.
    pub(crate) fn refusal(&self, error: &GrammarError) -> Error {
        let field = match error.culprit {
            Culprit::Message => "response_format.json_schema.schema",
            Culprit::Call(index) => self.fields.get(index).map_or("tools", String::as_str),
            Culprit::Whole if self.fields.is_empty() => "response_format",
            Culprit::Whole => "tools",
        };
        Error::field(field, FieldCode::Schema, format!("cannot be enforced: {}", error.reason))
    }
}

/// The rules of an answer; `None` if it may be anything.
pub(super) fn rules(tools: &Tools, format: Option<&ResponseFormat>) -> Option<AnswerRules> {
    let Tools { functions, demand } = tools;
    let is_bound = format.is_some() || functions.iter().any(|declared| declared.is_strict);
    let (message, loose) = match demand {
        Demand::Nothing if !is_bound => return None,
        Demand::Nothing => {
            let body = format.map_or(Body::Text, |format| Body::Json(format.schema.clone()));
            (Some(body), Arguments::AnyObject)
        }
        Demand::Any | Demand::One(_) => (None, Arguments::IfPossible),
    };
    let may_be_called = |declared: &&Declared| match demand {
        Demand::One(name) => declared.function.name == *name,
        Demand::Nothing | Demand::Any => true,
    };
    let callable: Vec<&Declared> = functions.iter().filter(may_be_called).collect();
    let call = |declared: &&Declared| CallRule {
        name: declared.function.name.clone(),
        parameters: declared.function.parameters.clone(),
        arguments: if declared.is_strict { Arguments::Strict } else { loose },
    };
    Some(AnswerRules {
        rules: Rules { message, calls: callable.iter().map(call).collect() },
        fields: callable.iter().map(|declared| declared.field.clone()).collect(),
    })
}
