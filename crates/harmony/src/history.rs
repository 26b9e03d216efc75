//! Which reasoning of the past the model sees again.
//!
//! Reasoning belongs to a turn in progress: it is kept while the calls of the turn go on, so that the model
//! does not plan anew after each result, and dropped as soon as the turn has its answer or the user has
//! spoken again. It was trained so, and the prompt stays short.
//!
//! The reference library (openai-harmony 0.0.8) drops only what lies before the first final answer of the whole
//! conversation, and nothing while a call is pending; its documentation and the reference servers do as we do.

use crate::conversation::Message;

/// For each message, whether its reasoning is rendered.
pub(crate) fn keeps_reasoning(messages: &[Message]) -> Vec<bool> {
    let mut is_turn_open = true;
    let mut keeps = vec![false; messages.len()];
    for (message, keep) in messages.iter().zip(&mut keeps).rev() {
        match message {
            Message::User { .. } => break,
            Message::Assistant { tool_calls, content, .. } => {
                *keep = is_turn_open && !tool_calls.is_empty();
                is_turn_open &= !tool_calls.is_empty() || content.is_none();
            }
            Message::Developer { .. } | Message::ToolResult { .. } => {}
        }
    }
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::ToolCall;

    /// `u` user, `c` call, `r` result, `a` answer, `d` developer; upper case where the reasoning is kept.
    fn check(expected: &str) {
        let text = || "x".to_owned();
        let messages: Vec<Message> = expected
            .to_lowercase()
            .chars()
            .map(|kind| match kind {
                'u' => Message::User { text: text() },
                'd' => Message::Developer { text: text() },
                'r' => Message::ToolResult { name: text(), content: text() },
                'c' => Message::Assistant {
                    reasoning: Some(text()),
                    content: None,
                    tool_calls: vec![ToolCall { name: text(), arguments: text() }],
                },
                _ => Message::Assistant {
                    reasoning: Some(text()),
                    content: Some(text()),
                    tool_calls: vec![],
                },
            })
            .collect();
        let kept: Vec<bool> = expected.chars().map(char::is_uppercase).collect();
        assert_eq!(keeps_reasoning(&messages), kept, "{expected}");
    }

    #[test]
    fn reasoning_is_kept_while_the_calls_of_the_last_turn_go_on() {
        for case in [
            "", "u", "ua", "uau", "uCr", "uCrCr", "uCrdCr", "ucra", "ucrau", "ucru", "uauCr",
            "uacra", "uaCr",
        ] {
            check(case);
        }
    }
}
