//! The declared functions: which one a recipient in a header means.

use std::collections::HashSet;

/// The namespace of functions in the prompt.
const NAMESPACE: &str = "functions.";

/// Words of a header that models glue to a name.
const GLUED: [&str; 5] = ["commentary", "analysis", "final", "json", "code"];

/// The names that the request declared, without namespace.
#[derive(Debug)]
pub(super) struct Tools {
    names: HashSet<String>,
    longest: usize,
}

/// What a recipient means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recipient {
    /// A function, by its declared name.
    Function(String),
    /// A function that was not declared, or a name with something glued to it: called all the same.
    Guess(String),
    /// Nobody in particular: `assistant`, `user`, `all`.
    Everyone,
    /// Something that is no function.
    Unknown,
}

impl Tools {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: HashSet<String> = names.into_iter().collect();
        let longest = names.iter().map(String::len).max().unwrap_or(0);
        Self { names, longest }
    }

    /// Length in bytes of the longest declared name.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Whether this is a declared function, with or without namespace.
    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.names.contains(name)
            || name.strip_prefix(NAMESPACE).is_some_and(|name| self.names.contains(name))
    }

    /// Whether this says of itself that it is a function.
    pub(super) fn is_qualified(name: &str) -> bool {
        name.starts_with(NAMESPACE)
    }

    /// Decides what a recipient means. The namespace may be missing.
    pub(super) fn resolve(&self, recipient: &str) -> Recipient {
        let bare = recipient.strip_prefix(NAMESPACE).unwrap_or(recipient);
        // A function may have any name, even one that contains the namespace.
        for name in [recipient, bare] {
            if self.names.contains(name) {
                return Recipient::Function(name.to_owned());
            }
        }
        if matches!(recipient, "assistant" | "user" | "all" | "") {
            return Recipient::Everyone;
        }
        for glued in GLUED {
            if let Some(name) = bare.strip_suffix(glued)
                && self.names.contains(name)
            {
                return Recipient::Guess(name.to_owned());
            }
        }
        if Self::is_qualified(recipient) && !bare.is_empty() {
            return Recipient::Guess(bare.to_owned());
        }
        Recipient::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_is_a_function_by_declaration_or_namespace() {
        let tools = Tools::new(["get_weather".to_owned(), "functions.odd".to_owned()]);
        let function = |name: &str| Recipient::Function(name.to_owned());
        let guess = |name: &str| Recipient::Guess(name.to_owned());
        for (recipient, expected) in [
            ("functions.get_weather", function("get_weather")),
            ("get_weather", function("get_weather")),
            ("functions.odd", function("functions.odd")),
            ("functions.get_weatherjson", guess("get_weather")),
            ("get_weathercommentary", guess("get_weather")),
            ("functions.other", guess("other")),
            ("functions.", Recipient::Unknown),
            ("assistant", Recipient::Everyone),
            ("browser.search", Recipient::Unknown),
        ] {
            assert_eq!(tools.resolve(recipient), expected, "{recipient}");
        }
    }
}
