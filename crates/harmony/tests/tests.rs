//! What Harmony promises, with the real o200k_harmony vocabulary.

mod golden;
mod grammar;
mod injection;
mod parser;
mod parser_properties;
mod support;
mod tokenizer;
