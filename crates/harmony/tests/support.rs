//! What the tests share.

pub(crate) mod o200k;
pub(crate) mod promises;

use harmonium_harmony::{Delta, Parser, Tokenizer};

use promises::control_names;
use proptest::test_runner::{Config, RngSeed};

/// So many cases, the same ones on every run.
pub(crate) fn cases(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(5), failure_persistence: None, ..Config::default() }
}

/// Encodes text in which the names of control tokens stand for these tokens.
pub(crate) fn encode_markup(tokenizer: &Tokenizer, markup: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = markup;
    while !rest.is_empty() {
        let names = control_names(tokenizer.control());
        let next = names.iter().filter_map(|(name, id)| rest.find(name).map(|at| (at, name, id)));
        let Some((at, name, id)) = next.min() else { break };
        ids.extend(tokenizer.encode_text(&rest[..at]));
        ids.push(*id);
        rest = &rest[at + name.len()..];
    }
    ids.extend(tokenizer.encode_text(rest));
    ids
}

/// The whole answer, with pieces of the same kind joined.
pub(crate) fn parse(parser: &mut Parser, ids: &[u32]) -> Vec<Delta> {
    let mut deltas = Vec::new();
    for &id in ids {
        parser.push(id, &mut deltas);
    }
    parser.finish(&mut deltas);
    join(deltas)
}

fn join(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut joined: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (joined.last_mut(), delta) {
            (Some(Delta::Reasoning(all)), Delta::Reasoning(more))
            | (Some(Delta::Content(all)), Delta::Content(more))
            | (Some(Delta::Preamble(all)), Delta::Preamble(more))
            | (Some(Delta::ToolCallArguments(all)), Delta::ToolCallArguments(more)) => {
                all.push_str(&more);
            }
            (_, delta) => joined.push(delta),
        }
    }
    joined
}
