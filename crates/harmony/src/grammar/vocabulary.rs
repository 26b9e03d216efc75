//! The vocabulary as llguidance walks it: a trie of the tokens' bytes.

use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::tokenizer::Tokenizer;

/// Begins the name of a control token in the trie. It is in no UTF-8, so no text can be one.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// The trie of a tokenizer's ordinary tokens and of the control tokens that an answer is made of. Other ids, those of a
/// padded vocabulary among them, have no place in it and are never allowed.
///
/// Tokens are not forced to be the ones that the tokenizer would choose for a text: the model chooses.
pub(super) fn environment(tokenizer: &Tokenizer) -> TokEnv {
    let num_ids = u32::try_from(tokenizer.vocab_size()).expect("ids are u32");
    let mut words: Vec<Vec<u8>> = (0..num_ids)
        .map(|id| {
            let text = tokenizer.decode_bytes(id).filter(|bytes| !bytes.contains(&MARKER));
            text.unwrap_or_default().to_vec()
        })
        .collect();
    let control = tokenizer.control();
    let ends = [control.return_, control.call, control.end];
    for id in
        ends.into_iter().chain([control.start, control.message, control.channel, control.constrain])
    {
        words[id as usize] = [&[MARKER][..], format!("<|{id}|>").as_bytes()].concat();
    }
    // llguidance wants a token that ends everything. Ours are in the grammar, so this one is beyond all ids.
    words.push([&[MARKER][..], b"<|over|>"].concat());
    let info = TokRxInfo::new(num_ids + 1, num_ids);
    std::sync::Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)))
}
