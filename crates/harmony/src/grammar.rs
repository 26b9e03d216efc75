//! Which tokens an answer may go on with, where a request demands a format or a call.
//!
//! [`Grammars`] belongs to a tokenizer; it turns [`Rules`] into a [`Walk`], which says before each token what may come
//! and is then told what came. How an answer is framed is in `rules`; JSON schemas are enforced by llguidance, within
//! the bounds that `limits` and [`parser_limits`] set. Reasoning stays free text. Pure computation: whoever serves many
//! runs it where it stops nobody.

mod error;
mod limits;
mod rules;
mod vocabulary;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::thread;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::tokenizer::Tokenizer;
pub use error::{Culprit, GrammarError};
pub use rules::{Arguments, Body, CallRule, Rules};

/// Schemas are read recursively, as deep as `limits` lets them be.
const STACK_BYTES: usize = 64 << 20;

/// Makes grammars for one tokenizer. Cheap to clone.
#[derive(Clone)]
pub struct Grammars(Arc<Inner>);

struct Inner {
    tokenizer: Tokenizer,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Grammars {
    /// For answers in this tokenizer's ids.
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self(Arc::new(Inner { tokenizer, factory: OnceLock::new() }))
    }

    /// Reads the vocabulary now, which the first grammar would otherwise do: up to a second for the real one.
    pub fn prepare(&self) {
        let _ = self.factory();
    }

    /// The grammar of answers that follow these rules. Takes milliseconds, and for hostile schemas up to about a
    /// second.
    ///
    /// # Errors
    /// A schema is no schema, cannot be enforced, or is too large.
    pub fn compile(&self, rules: &Rules) -> Result<Walk, GrammarError> {
        let factory = self.factory().map_err(|reason| GrammarError {
            culprit: Culprit::Whole,
            reason: format!("the vocabulary has no grammars: {reason}"),
        })?;
        let compiler = Compiler { factory, tokenizer: &self.0.tokenizer };
        let work = || compiler.compile(rules);
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let thread = builder.spawn_scoped(scope, work).map_err(|error| error.to_string());
            let result =
                thread.and_then(|thread| thread.join().map_err(|_| "it panicked".to_owned()));
            result.unwrap_or_else(|reason| {
                let reason = format!("the schemas could not be read: {reason}");
                Err(GrammarError { culprit: Culprit::Whole, reason })
            })
        })
    }

    fn factory(&self) -> Result<&ParserFactory, String> {
        let build = || {
            let environment = vocabulary::environment(&self.0.tokenizer);
            let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
            factory.quiet();
            *factory.limits_mut() = parser_limits();
            Ok(factory)
        };
        self.0.factory.get_or_init(build).as_ref().map_err(Clone::clone)
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("tokenizer", &self.0.tokenizer).finish_non_exhaustive()
    }
}

/// What schemas may cost. A grammar is made in up to a second; a mask, which the other sequences of a step wait for, in
/// less than ten milliseconds, where real ones take a tenth of one.
fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 50_000,
        step_max_items: 50_000,
        // One or two kilobytes each.
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        // It looks at the whole vocabulary where the grammar is made, and is bound by no fuel.
        precompute_large_lexemes: false,
        // They would say what the answer is.
        verbose_errors: false,
    }
}

struct Compiler<'a> {
    factory: &'a ParserFactory,
    tokenizer: &'a Tokenizer,
}

impl Compiler<'_> {
    fn compile(&self, rules: &Rules) -> Result<Walk, GrammarError> {
        let Rules { message, calls } = rules;
        if let Some(Body::Json(schema)) = message {
            blame(Culprit::Message, limits::check(schema))?;
        }
        let mut schemas = Vec::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            schemas.push((call.name.as_str(), self.arguments(index, call)?));
        }
        let control = self.tokenizer.control();
        let lark = rules::lark(control, message.as_ref(), &schemas);
        blame(Culprit::Whole, limits::check_total(lark.len()))?;
        let walk = self.read(lark);
        let walk = walk.map_err(|reason| self.find_culprit(message.as_ref(), &schemas, reason))?;
        self.try_bodies(rules, &walk)?;
        Ok(walk)
    }

    /// Begins the body of every part: what is too complex, or can be fulfilled by nothing, shows here and not in the
    /// middle of an answer.
    fn try_bodies(&self, rules: &Rules, walk: &Walk) -> Result<(), GrammarError> {
        let control = self.tokenizer.control();
        let header = |text: &str| {
            let text = self.tokenizer.encode_text(text);
            [&[control.channel][..], &text, &[control.message]].concat()
        };
        let message = rules.message.as_ref().map(|_| (Culprit::Message, header("final")));
        let calls = rules.calls.iter().enumerate().map(|(index, call)| {
            (Culprit::Call(index), header(&format!("commentary to=functions.{}", call.name)))
        });
        let mut walk = walk.clone();
        for (culprit, header) in message.into_iter().chain(calls) {
            blame(culprit, walk.try_body(&header, self.brace()))?;
        }
        Ok(())
    }

    /// What JSON objects begin with: every vocabulary has a token for each byte.
    fn brace(&self) -> u32 {
        self.tokenizer.encode_text("{")[0]
    }

    /// The schema that the arguments of a call follow.
    fn arguments(&self, index: usize, call: &CallRule) -> Result<Value, GrammarError> {
        let schema = match call.arguments {
            Arguments::AnyObject => return Ok(rules::any_object()),
            Arguments::Strict | Arguments::IfPossible => call.schema(),
        };
        match (call.arguments, limits::check(&schema)) {
            (Arguments::Strict, checked) => {
                blame(Culprit::Call(index), checked)?;
                Ok(schema)
            }
            (_, Ok(())) if self.read_alone(&schema).is_ok() => Ok(schema),
            _ => Ok(rules::any_object()),
        }
    }

    /// Which part is wrong, where the whole is.
    fn find_culprit(
        &self,
        message: Option<&Body>,
        calls: &[(&str, Value)],
        reason: String,
    ) -> GrammarError {
        let message = match message {
            Some(Body::Json(schema)) => Some((Culprit::Message, schema)),
            _ => None,
        };
        let calls =
            calls.iter().enumerate().map(|(index, (_, schema))| (Culprit::Call(index), schema));
        let mut wrong = message.into_iter().chain(calls).filter_map(|(culprit, schema)| {
            let reason = self.read_alone(schema).err()?;
            Some(GrammarError { culprit, reason })
        });
        wrong.next().unwrap_or(GrammarError { culprit: Culprit::Whole, reason })
    }

    fn read_alone(&self, schema: &Value) -> Result<(), String> {
        let mut walk = self.read(format!("start: json\njson: {}", rules::json_rule(schema)))?;
        walk.try_body(&[], self.brace())
    }

    fn read(&self, lark: String) -> Result<Walk, String> {
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(lark));
        let parser = parser.map_err(|error| summary(&error.to_string()))?;
        Ok(Walk(Matcher::new(Ok(parser))))
    }
}

fn blame(culprit: Culprit, checked: Result<(), String>) -> Result<(), GrammarError> {
    checked.map_err(|reason| GrammarError { culprit, reason })
}

/// What llguidance says of a schema, without places in a grammar that the client has not written.
fn summary(message: &str) -> String {
    const MAX_LETTERS: usize = 300;
    let message = message.rsplit("failed to compile JSON schema: ").next().unwrap_or_default();
    let lines = || message.lines().map(str::trim);
    // Of a regular expression, after it has been shown whole.
    let inner = lines().find_map(|line| line.strip_prefix("error: "));
    let said = [Some(lines().next().unwrap_or_default()), inner].into_iter().flatten();
    said.collect::<Vec<_>>().join(" ").chars().take(MAX_LETTERS).collect()
}

/// What llguidance says of a walk, without its state.
fn first_line(message: &str) -> String {
    match message.lines().next().unwrap_or_default() {
        "NoExtensionBias" => "nothing fulfils it".to_owned(),
        line => line.to_owned(),
    }
}

/// One answer on its way through a grammar.
pub struct Walk(Matcher);

impl Walk {
    /// The ids that may come next: one bit each, lowest first, in words of 32. `None` when the answer is complete.
    ///
    /// # Errors
    /// The rules are too complex for what came.
    pub fn allowed(&mut self) -> Result<Option<Box<[u32]>>, String> {
        if self.is_complete() {
            return Ok(None);
        }
        let mask = self.0.compute_mask().map_err(|error| first_line(&error.to_string()))?;
        Ok(Some(mask.as_slice().into()))
    }

    /// Takes the id that came.
    ///
    /// # Errors
    /// The rules do not allow it.
    pub fn push(&mut self, id: u32) -> Result<(), String> {
        if self.is_complete() {
            return Ok(());
        }
        self.0.consume_token(id).map_err(|error| first_line(&error.to_string()))
    }

    /// Goes through a header and, if the body may begin with it, a brace; looks at what may follow, and comes back.
    fn try_body(&mut self, header: &[u32], brace: u32) -> Result<(), String> {
        let mut num_pushed = header.len();
        header.iter().try_for_each(|&id| self.push(id))?;
        if self.0.validate_tokens(&[brace]).is_ok_and(|num_valid| num_valid == 1) {
            self.push(brace)?;
            num_pushed += 1;
        }
        self.allowed()?;
        self.0.rollback(num_pushed).map_err(|error| first_line(&error.to_string()))
    }

    /// Whether the last token of an answer has come.
    pub fn is_complete(&self) -> bool {
        self.0.is_stopped() && !self.0.is_error()
    }
}

impl Clone for Walk {
    /// What both learn of the grammar on their ways they do not share, so that neither waits for the other.
    fn clone(&self) -> Self {
        Self(self.0.deep_clone())
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("is_complete", &self.is_complete()).finish_non_exhaustive()
    }
}
