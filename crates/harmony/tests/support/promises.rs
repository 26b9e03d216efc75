//! What the parser promises for any sequence of tokens, for the tests and the fuzz target alike.

use harmonium_harmony::{ControlTokens, Delta, Parser, Tokenizer};

/// The control tokens with their published names.
pub(crate) fn control_names(control: &ControlTokens) -> [(&'static str, u32); 8] {
    [
        ("<|start|>", control.start),
        ("<|end|>", control.end),
        ("<|message|>", control.message),
        ("<|channel|>", control.channel),
        ("<|constrain|>", control.constrain),
        ("<|return|>", control.return_),
        ("<|call|>", control.call),
        ("<|endoftext|>", control.endoftext.expect("the vocabulary has one")),
    ]
}

/// The bytes of the bodies that any reader of the format would see: from `<|message|>` to the next token
/// that ends a message or begins one.
fn bodies(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let control = tokenizer.control();
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut is_open = false;
    for &id in ids {
        if id == control.message && !is_open {
            is_open = true;
            bodies.push(Vec::new());
        } else if id == control.message || id == control.constrain {
            // Out of place in a body, and nothing outside of one.
        } else if control_names(control).iter().any(|&(_, control)| control == id) {
            is_open = false;
        } else if let Some(body) = bodies.last_mut().filter(|_| is_open) {
            body.extend_from_slice(tokenizer.decode_bytes(id).unwrap_or_default());
        }
    }
    bodies.into_iter().map(|body| String::from_utf8_lossy(&body).into_owned()).collect()
}

fn text_of(delta: &Delta) -> &str {
    match delta {
        Delta::Reasoning(text)
        | Delta::Content(text)
        | Delta::Preamble(text)
        | Delta::ToolCallArguments(text) => text,
        Delta::ToolCallStart { .. } | Delta::ToolCallEnd => "",
    }
}

/// Panics if the parser breaks a promise on these tokens.
pub(crate) fn check_promises(tokenizer: &Tokenizer, mut parser: Parser, ids: &[u32]) {
    let mut deltas = Vec::new();
    for &id in ids {
        parser.push(id, &mut deltas);
    }
    parser.finish(&mut deltas);

    let text: String = deltas.iter().map(text_of).collect();
    let mut rest = text.as_str();
    for body in bodies(tokenizer, ids) {
        let at =
            rest.find(&body).unwrap_or_else(|| panic!("{body:?} is not in {text:?} of {ids:?}"));
        rest = &rest[at + body.len()..];
    }

    // Ordinary tokens may spell a control token's name by themselves, but none is ever written by us.
    let spelled: Vec<u8> = ids
        .iter()
        .flat_map(|&id| tokenizer.decode_bytes(id).unwrap_or_default())
        .copied()
        .collect();
    let spelled = String::from_utf8_lossy(&spelled);
    for (name, _) in control_names(tokenizer.control()) {
        assert!(!text.contains(name) || spelled.contains(name), "{name} in {text:?}");
    }

    let mut is_in_call = false;
    for delta in &deltas {
        match delta {
            Delta::ToolCallStart { name } => {
                assert!(!is_in_call && !name.is_empty(), "{deltas:?}");
                is_in_call = true;
            }
            Delta::ToolCallEnd => {
                assert!(is_in_call, "{deltas:?}");
                is_in_call = false;
            }
            Delta::ToolCallArguments(text) => assert!(is_in_call && !text.is_empty(), "{deltas:?}"),
            other => assert!(!is_in_call && !text_of(other).is_empty(), "{deltas:?}"),
        }
    }
    assert!(!is_in_call, "every call is closed: {deltas:?}");

    let mut more = Vec::new();
    parser.finish(&mut more);
    assert_eq!(more, [], "nothing is left behind");
}
