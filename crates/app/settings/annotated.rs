//! The annotated configuration file: every key with its default and its documentation.
//!
//! `harmonium config --annotated` prints it and `configs/harmonium.toml` is a copy of it, which a test compares.

use std::fmt::Write;

use super::{SECTIONS, SETTINGS, Settings};

const HEADER: &str = "\
# Settings of Harmonium: every key with its default. Copy what you want to change.
#
# Read from --config FILE, else $HARMONIUM_CONFIG, else ./harmonium.toml, else
# ~/.config/harmonium/harmonium.toml. Environment variables come before the file, flags before both.
# `harmonium config` prints the values in force and where each came from.
";

/// The text of the file.
pub(crate) fn annotated() -> String {
    let defaults = Settings::default();
    let mut text = HEADER.to_owned();
    for section in SECTIONS {
        let doc = section.doc.trim();
        // Writing into a `String` cannot fail.
        let _ = write!(text, "\n# {doc}\n[{}]\n", section.name);
        for setting in SETTINGS.iter().filter(|setting| setting.section == section.name) {
            let flag = setting.flag.map(|(name, _)| format!(", --{name}")).unwrap_or_default();
            text.push('\n');
            for line in setting.doc {
                let _ = writeln!(text, "# {}", line.trim());
            }
            let _ = writeln!(text, "# Takes {}. {}{flag}", (setting.kind)(), setting.env_name());
            let _ = writeln!(text, "{} = {}", setting.key, (setting.show)(&defaults));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn committed_file_is_the_annotated_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/harmonium.toml");
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(
            committed == annotated(),
            "configs/harmonium.toml is out of date: cargo run -- config --annotated > configs/harmonium.toml"
        );
    }

    #[test]
    fn annotated_file_reads_back_as_the_defaults() {
        let text = annotated();
        let entries = super::super::file::parse(&text, Path::new("annotated")).unwrap();
        assert_eq!(entries.len(), SETTINGS.len());
        let mut settings = Settings::default();
        // Every value must be assigned, and change nothing.
        assert!(entries.iter().all(|e| (e.setting.assign)(&mut settings, &e.value)));
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn every_setting_is_documented() {
        for setting in SETTINGS {
            assert!(setting.help().len() > 10, "{} has no documentation", setting.name);
        }
    }
}
