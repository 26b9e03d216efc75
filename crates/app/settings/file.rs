//! Reads a configuration file into pairs of setting and value, each with its line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::value::Raw;
use super::{SECTIONS, SETTINGS, Setting};
use crate::environment::Environment;

/// The file that is read when none is named.
const LOCAL_FILE: &str = "harmonium.toml";

/// One `key = value` of a configuration file.
pub(super) struct Entry {
    /// The setting of that name.
    pub(super) setting: &'static Setting,
    /// Its value.
    pub(super) value: Raw,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// The file to read: `named`, else `HARMONIUM_CONFIG`, else `./harmonium.toml`, else the user's own, if there
/// is one. A file that was named must exist; the other two need not.
pub(super) fn find(named: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    named
        .map(Path::to_owned)
        .or_else(|| environment.get("HARMONIUM_CONFIG").map(PathBuf::from))
        .or_else(|| Some(PathBuf::from(LOCAL_FILE)).filter(|path| path.is_file()))
        .or_else(|| environment.user_config_file().filter(|path| path.is_file()))
}

/// Reads a file. Errors name it, and the line where there is one.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    parse(&text, path)
}

/// Reads the text of a file; `path` is for messages alone.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<Entry>> {
    let at = |offset: usize| format!("{}:{}", path.display(), line_of(text, offset));
    let document = match toml::de::DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            bail!("{}: {}", at(offset), error.message());
        }
    };
    let values: toml::Table =
        text.parse().with_context(|| format!("cannot read {}", path.display()))?;

    let mut entries = Vec::new();
    for (section_name, section) in document.get_ref() {
        let name = section_name.get_ref().as_ref();
        let place = at(section_name.span().start);
        if !SECTIONS.iter().any(|section| section.name == name) {
            bail!("{place}: unknown section [{name}]{}", suggestion(name, section_names()));
        }
        let Some(keys) = section.get_ref().as_table() else {
            bail!("{place}: {name} is a section: write [{name}] on a line of its own");
        };
        for key in keys.keys() {
            let offset = key.span().start;
            let key = key.get_ref().as_ref();
            let full = format!("{name}.{key}");
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name == full) else {
                let nearest = suggestion(&full, setting_names());
                bail!("{}: unknown key {full}{nearest}", at(offset));
            };
            let value = Raw::Typed(values[name][key].clone());
            entries.push(Entry { setting, value, line: line_of(text, offset) });
        }
    }
    Ok(entries)
}

/// ": did you mean X?" with the name nearest to `name`, or nothing if none is near. Only what follows the section
/// is compared: a section that both have in common says nothing.
pub(super) fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Below this similarity a suggestion would only confuse.
    const NEAR: f64 = 0.6;
    let key = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let wanted = name.rsplit('.').next().unwrap_or(name);
    known
        .map(|candidate| (strsim::jaro_winkler(wanted, key(candidate)), candidate))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| format!(": did you mean {candidate}?"))
        .unwrap_or_default()
}

fn section_names() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|section| section.name)
}

fn setting_names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(text: &str, expected: &str) {
        let error = parse(text, Path::new("h.toml")).err().map(|error| format!("{error:#}"));
        assert_eq!(error.as_deref(), Some(expected));
    }

    #[test]
    fn entries_carry_their_lines() {
        let text = "# comment\n[server]\n\nport = 9000\n[model]\nname = \"nano\"\n";
        let found: Vec<_> = parse(text, Path::new("h.toml"))
            .unwrap()
            .iter()
            .map(|entry| (entry.setting.name, entry.line))
            .collect();
        assert!(found.contains(&("server.port", 4)), "{found:?}");
        assert!(found.contains(&("model.name", 6)), "{found:?}");
    }

    #[test]
    fn unknown_names_are_errors_with_the_nearest_known_one() {
        check_error(
            "[server]\nprot = 1\n",
            "h.toml:2: unknown key server.prot: did you mean server.port?",
        );
        check_error(
            "[modle]\nname = \"x\"\n",
            "h.toml:1: unknown section [modle]: did you mean model?",
        );
        check_error("[server]\nqqqqqqqqqq = 1\n", "h.toml:2: unknown key server.qqqqqqqqqq");
        check_error("[zzzz]\n", "h.toml:1: unknown section [zzzz]");
        check_error(
            "server = 1\n",
            "h.toml:1: server is a section: write [server] on a line of its own",
        );
    }

    #[test]
    fn broken_syntax_names_file_and_line() {
        let error = parse("[server]\nport = = 1\n", Path::new("h.toml")).err().unwrap();
        assert!(error.to_string().starts_with("h.toml:2: "), "{error}");
    }
}
