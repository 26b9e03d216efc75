//! Which call each result answers.
//!
//! The local chat format knows a result by its function's name; the hosted protocols by the id of its call, and they
//! refuse a conversation in which one is missing. What is missing is found where it is clear, and refused by its field
//! where it is not: a result under the wrong call would be a wrong conversation.

use std::collections::HashSet;

use harmonium_openai::ChatMessage;

use crate::error::{Error, Result};

/// A call of the last assistant message that has no result yet.
struct Open {
    id: String,
    name: String,
}

/// Gives every call of `sent` an id, and every result that of its call. `given` has the same messages as they came.
pub(crate) fn link(sent: &mut [ChatMessage], given: &[ChatMessage]) -> Result<()> {
    let mut known: HashSet<String> = HashSet::new();
    let mut open: Vec<Open> = Vec::new();
    for (index, (sent, given)) in sent.iter_mut().zip(given).enumerate() {
        match given.role.as_str() {
            "assistant" => {
                open.clear();
                for (place, call) in sent.tool_calls.iter_mut().flatten().enumerate() {
                    if call.id.is_empty() {
                        call.id = format!("call_{index}_{place}");
                    }
                    known.insert(call.id.clone());
                    let name = call.function.as_ref().map(|function| function.name.clone());
                    open.push(Open { id: call.id.clone(), name: name.unwrap_or_default() });
                }
            }
            "tool" => {
                let given_id = given.tool_call_id.as_ref().filter(|id| known.contains(*id));
                let id = match given_id {
                    Some(id) => id.clone(),
                    None => only_open(&open, given).map_err(|problem| Error::Call {
                        param: format!("messages[{index}].tool_call_id"),
                        problem,
                    })?,
                };
                open.retain(|call| call.id != id);
                sent.tool_call_id = Some(id);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The id of the only call that the result of a named function can answer.
fn only_open(open: &[Open], result: &ChatMessage) -> std::result::Result<String, String> {
    let name = result.name.as_deref().unwrap_or_default();
    let mut candidates = open.iter().filter(|call| call.name == name);
    let id = result.tool_call_id.as_ref();
    let given = id.map_or("it is missing".to_owned(), |id| format!("{id:?} is no call's id"));
    match (candidates.next(), candidates.count()) {
        (Some(call), 0) => Ok(call.id.clone()),
        (Some(_), more) => Err(format!(
            "{given}, and {} calls of {name:?} before it have no result: it cannot be told which it answers",
            more + 1
        )),
        (None, _) => Err(format!("{given}, and no call of {name:?} right before it has no result")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn linked(messages: Value) -> Result<Vec<ChatMessage>> {
        let given: Vec<ChatMessage> = serde_json::from_value(messages).unwrap();
        let mut sent = given.clone();
        link(&mut sent, &given)?;
        Ok(sent)
    }

    /// The ids of the results.
    fn ids(messages: Value) -> Vec<String> {
        let sent = linked(messages).unwrap();
        sent.into_iter().filter_map(|message| message.tool_call_id).collect()
    }

    fn calls(calls: &[(&str, &str)]) -> Value {
        let call = |&(id, name): &(&str, &str)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        json!({"role": "assistant", "tool_calls": calls.iter().map(call).collect::<Vec<_>>()})
    }

    fn result(id: Option<&str>, name: Option<&str>) -> Value {
        json!({"role": "tool", "tool_call_id": id, "name": name, "content": "1"})
    }

    #[test]
    fn a_result_without_an_id_gets_that_of_the_only_call_it_can_answer() {
        let both = calls(&[("a", "f"), ("b", "g")]);
        let by_name = |name| result(None, Some(name));
        assert_eq!(ids(json!([both, by_name("g"), by_name("f")])), ["b", "a"]);
        // One of two calls of the same function has its result already.
        let same = calls(&[("a", "f"), ("b", "f")]);
        assert_eq!(ids(json!([same, result(Some("a"), None), by_name("f")])), ["a", "b"]);
        // Only the last turn's calls are open.
        let again = calls(&[("c", "f")]);
        assert_eq!(ids(json!([both, by_name("f"), again, by_name("f")])), ["a", "c"]);
        assert_eq!(ids(json!([both, result(Some("x"), Some("f"))])), ["a"]);
    }

    #[test]
    fn a_call_without_an_id_gets_one() {
        let sent = linked(json!([calls(&[("", "f"), ("", "g")]), result(None, Some("g"))]));
        let sent = sent.unwrap();
        let ids: Vec<_> =
            sent[0].tool_calls.iter().flatten().map(|call| call.id.as_str()).collect();
        assert_eq!(ids, ["call_0_0", "call_0_1"]);
        assert_eq!(sent[1].tool_call_id.as_deref(), Some("call_0_1"));
    }

    #[test]
    fn a_result_that_may_answer_several_calls_or_none_is_refused_by_its_field() {
        let refusal = |messages| linked(messages).unwrap_err().to_string();
        assert_eq!(
            refusal(json!([calls(&[("a", "f"), ("b", "f")]), result(None, Some("f"))])),
            "messages[1].tool_call_id: it is missing, and 2 calls of \"f\" before it have no result: it cannot be told \
             which it answers"
        );
        assert_eq!(
            refusal(json!([calls(&[("a", "f")]), result(Some("x"), Some("g"))])),
            "messages[1].tool_call_id: \"x\" is no call's id, and no call of \"g\" right before it has no result"
        );
    }
}
