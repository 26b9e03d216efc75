//! `harmonium config`: the settings in force and where each came from.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::ConfigArgs;
use crate::environment::Environment;
use crate::settings::{Origin, Resolved, annotated};

/// Prints a table of key, value and origin, or the annotated defaults.
pub(crate) fn run(args: &ConfigArgs, environment: &Environment) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    if args.annotated {
        out.write_all(annotated().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let resolved = Resolved::read(&args.settings, environment)?;
    match &resolved.file {
        Some(path) => writeln!(out, "# configuration file: {}", path.display())?,
        None => writeln!(out, "# configuration file: none")?,
    }
    for warning in &resolved.warnings {
        writeln!(out, "# warning: {warning}")?;
    }
    let rows: Vec<(&str, String, &Origin)> =
        resolved.rows().map(|(setting, value, origin)| (setting.name, value, origin)).collect();
    let key_width = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value, _)| value.len()).max().unwrap_or(0);
    for (key, value, origin) in rows {
        writeln!(out, "{key:key_width$}  {value:value_width$}  {origin}")?;
    }
    Ok(ExitCode::SUCCESS)
}
