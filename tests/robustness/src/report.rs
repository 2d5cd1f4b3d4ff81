//! The table of a run: each fault, how often, the longest time without an acknowledged write, and writes lost.

use crate::faults::Fault;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

#[derive(Clone, Copy, Default)]
pub struct Row {
    pub times: u32,
    /// Milliseconds.
    pub longest_gap: u64,
    /// Milliseconds from the end of the fault until the members had come to rest.
    pub longest_rest: u64,
    pub lost: usize,
    pub failed: u32,
}

#[derive(Default)]
pub struct Table(pub BTreeMap<Fault, Row>);

/// Where the table stands in the document that keeps it.
const BEGIN: &str = "<!-- robustness: begin -->";
const END: &str = "<!-- robustness: end -->";

impl Table {
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| fault | times | longest write gap, ms | members at rest after, ms | writes lost | failed |\n|---|---|---|---|---|---|\n",
        );
        for (fault, row) in &self.0 {
            let name = fault.name();
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} |",
                row.times, row.longest_gap, row.longest_rest, row.lost, row.failed
            );
        }
        text
    }

    /// Puts the table, and a line of figures, into a document between its two marks.
    pub fn keep(&self, document: &Path, figures: &str) -> Result<(), String> {
        let at = document.display();
        let text = std::fs::read_to_string(document).map_err(|e| format!("{at}: {e}"))?;
        let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
            return Err(format!("{at} has no place for the table"));
        };
        let whole = format!("{}\n{figures}\n\n{}{}", &text[..begin + BEGIN.len()], self.markdown(), &text[end..]);
        std::fs::write(document, whole).map_err(|e| format!("{at}: {e}"))
    }
}
