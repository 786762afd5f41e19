//! Columns that line up, and fit a terminal of 80.

use std::cell::Cell;
use std::io::{self, Write};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// A cell is not cut shorter than that.
const CELL_MIN: usize = 8;
const GAP: usize = 2;

thread_local! {
    static WIDE: Cell<bool> = const { Cell::new(false) };
}

/// From now on every column is printed, as wide as it is.
pub(super) fn set_wide(wide: bool) {
    WIDE.set(wide);
}

/// Whether every column is printed.
pub(super) fn is_wide() -> bool {
    WIDE.get()
}

/// Which edge of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a header, each column as wide as its widest cell.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn print(&self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.chain([self.columns[at].0.len()]).max().unwrap_or(0)
        };
        let mut widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        if !is_wide() {
            fit(&mut widths, &self.columns);
        }
        let header: Vec<_> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        for row in with_header.then_some(&header).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let cell = cut(cell, *width);
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Makes the widest columns of words narrower until a line fits.
fn fit(widths: &mut [usize], columns: &[(&str, Align)]) {
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    while total(widths) > WIDTH {
        let of_words = (0..widths.len()).filter(|at| columns[*at].1 == Align::Left);
        match of_words.max_by_key(|at| widths[*at]).filter(|at| widths[*at] > CELL_MIN) {
            Some(widest) => widths[widest] -= 1,
            None => return,
        }
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_a_terminal_unless_all_is_wanted() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("LISTEN", Align::Left), ("COUNT", Align::Right)]);
        table.row(["web".into(), "x".repeat(100), "1".repeat(20)]);
        let lines = |table: &Table| {
            let mut out = Vec::new();
            table.print(&mut out, true).unwrap();
            String::from_utf8(out).unwrap().lines().map(|line| line.chars().count()).collect::<Vec<_>>()
        };
        assert!(lines(&table).iter().all(|len| *len <= WIDTH), "{:?}", lines(&table));
        set_wide(true);
        assert_eq!(lines(&table)[1], 4 + 2 + 100 + 2 + 20);
        set_wide(false);
    }
}
