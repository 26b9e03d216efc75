//! Bytes to text where one character may arrive in several tokens.

/// Holds an unfinished character (at most three bytes) until the rest of it arrives.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// Appends to `text` what is complete; bytes that can never become a character are U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.held.extend_from_slice(bytes);
        let mut rest = self.held.as_slice();
        while let Err(error) = str::from_utf8(rest) {
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(str::from_utf8(valid).expect("valid up to here"));
            rest = after;
            let Some(len) = error.error_len() else { break };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[len..];
        }
        if let Ok(valid) = str::from_utf8(rest) {
            text.push_str(valid);
            rest = &[];
        }
        let kept = rest.len();
        self.held.drain(..self.held.len() - kept);
    }

    /// Nothing more will come: an unfinished character is one U+FFFD.
    pub(super) fn finish(&mut self, text: &mut String) {
        if !self.held.is_empty() {
            self.held.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Whether no unfinished character stands at the end.
pub(super) fn ends_whole(bytes: &[u8]) -> bool {
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    str::from_utf8(tail).err().is_none_or(|error| error.error_len().is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_cut_gives_the_text_of_the_whole(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(0xf0), Just(0x9f), Just(0x99), Just(0x82), Just(b'a')],
                0..40,
            ),
            cuts in prop::collection::vec(1usize..5, 40),
        ) {
            let (mut utf8, mut text, mut rest) = (Utf8::default(), String::new(), bytes.as_slice());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                utf8.push(piece, &mut text);
                prop_assert!(utf8.held.len() < 4);
                rest = after;
                let seen = &bytes[..bytes.len() - rest.len()];
                prop_assert_eq!(ends_whole(seen), utf8.held.is_empty());
            }
            utf8.finish(&mut text);
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
