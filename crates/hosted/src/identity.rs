//! Who asks and in which conversation, as names that tell nothing to those who see them.

use std::fmt::Write;

use harmonium_openai::{ChatRequest, Content, ContentPart};
use ring::{digest, hmac};

use crate::ledger::Conversation;

/// What the client says of its own user, by whatever name.
pub(crate) fn user(request: &ChatRequest) -> String {
    let said = request.safety_identifier.as_ref().or(request.user.as_ref());
    said.map(ToString::to_string).unwrap_or_default()
}

/// A name that stays the same for the same parts, and from which nobody without `key` can tell them.
pub(crate) fn pseudonym(key: &[u8], parts: &[&str]) -> String {
    const NUM_BYTES: usize = 16;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let mut name = String::new();
    for byte in &context.sign().as_ref()[..NUM_BYTES] {
        // Writing into a `String` cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// What a caller's conversation is known by: its first message of the user, which every later request of it
/// repeats. Instructions are not part of it: many have the time in them.
pub fn conversation(caller_key: Option<&str>, request: &ChatRequest) -> Conversation {
    let first = request.messages.iter().find(|message| message.role == "user");
    let mut context = digest::Context::new(&digest::SHA256);
    let caller = caller_key.unwrap_or_default();
    context.update(&(caller.len() as u64).to_le_bytes());
    context.update(caller.as_bytes());
    for text in first.and_then(|message| message.content.as_ref()).into_iter().flat_map(texts) {
        context.update(text.as_bytes());
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn texts(content: &Content) -> Vec<&str> {
    match content {
        Content::Text(text) => vec![text],
        Content::Parts(parts) => parts.iter().filter_map(words).collect(),
    }
}

/// A part's text, or where its image is.
fn words(part: &ContentPart) -> Option<&str> {
    let image = part.image_url.as_ref().map(|image| image.url.as_str());
    part.text.as_deref().or(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_conversation_is_known_by_its_callers_first_words() {
        let of = |caller, messages| {
            let request = serde_json::from_value(json!({"messages": messages})).unwrap();
            conversation(caller, &request)
        };
        let first = of(Some("k"), json!([{"role": "user", "content": "hi"}]));
        let later = json!([
            {"role": "system", "content": "It is noon."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "more"},
        ]);
        assert_eq!(of(Some("k"), later.clone()), first);
        assert_ne!(of(Some("l"), later), first);
        assert_ne!(of(Some("k"), json!([{"role": "user", "content": "ho"}])), first);
    }

    #[test]
    fn pseudonyms_depend_on_every_part_and_on_the_key() {
        let name = pseudonym(b"key", &["a", "b"]);
        assert_eq!(name.len(), 32);
        assert_eq!(name, pseudonym(b"key", &["a", "b"]));
        for other in [
            pseudonym(b"kez", &["a", "b"]),
            pseudonym(b"key", &["ab", ""]),
            pseudonym(b"key", &["a"]),
            pseudonym(b"key", &["b", "a"]),
        ] {
            assert_ne!(name, other);
        }
    }
}
