//! A table for people: the first column on the left, all others to the right under their headings.

use std::io::{self, Write};

/// Rows of text, the headings first.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with headings and nothing below them.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Appends a row, which has a cell for each heading.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes it and an empty line, unless there is nothing below the headings.
    pub(crate) fn write_unless_empty(&self, out: &mut impl Write) -> io::Result<()> {
        if self.rows.len() == 1 {
            return Ok(());
        }
        self.write(out)?;
        writeln!(out)
    }

    /// Writes it with two spaces between columns.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let num_columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..num_columns).map(width).collect();
        for row in &self.rows {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(out, "{cell:width$}")?,
                    _ => write!(out, "  {cell:>width$}")?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Dollars with two decimals, or as many as it takes to show a price in full.
pub(crate) fn price(usd: f64) -> String {
    let text = usd.to_string();
    match text.split_once('.') {
        Some((_, decimals)) if decimals.len() > 2 => text,
        _ => format!("{usd:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["model", "n"]);
        table.row(vec!["ä".into(), "1".into()]);
        table.row(vec!["longest".into(), "1000".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "model       n\nä           1\nlongest  1000\n");
    }

    #[test]
    fn prices_are_shown_in_full() {
        let shown = [0.4, 2.0, 0.0375, 1.6].map(price);
        assert_eq!(shown, ["0.40", "2.00", "0.0375", "1.60"]);
    }
}
