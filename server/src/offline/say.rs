//! Say: how the offline commands print.
//!
//! In: rows of words. Out: columns that line up, without spaces at the ends of lines.

/// The words of one line.
pub type Row = Vec<String>;

/// Lines up rows of the same number of columns; each ends a line.
pub fn table(rows: &[Row]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|w| w.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(word, width)| format!("{word:<width$}")).collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".to_string(), "LONG".into(), "".into()], vec!["word".into(), "x".into(), "".into()]];
        assert_eq!(table(&rows), "A     LONG\nword  x\n");
    }
}
