//! Figures of several runs, and ratios between programs that took turns.

use std::fmt;

/// Values of one figure, one a run, in the order of the runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// The value in the middle; between two, their mean. Zero for no values.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let at = |i: usize| sorted.get(i).copied().unwrap_or_default();
        if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 }
    }

    /// The least value.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The greatest value.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The median of this program's value over the other's in the same turn: what the host did to both cancels out.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect()).median()
    }
}

impl fmt::Display for Series {
    /// `median (min - max)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2} ({:.2} - {:.2})", self.median(), self.min(), self.max());
        f.pad(&text)
    }
}

/// A table in Markdown: a row for each program, a column for each figure, and behind each the ratio of the first
/// program to this one.
pub fn table(figures: &[&str], rows: &[(String, Vec<Series>)]) -> String {
    let mut text = format!("| program | {} |\n|---|{}\n", figures.join(" | "), "---|".repeat(figures.len()));
    let Some((_, first)) = rows.first() else { return text };
    for (name, series) in rows {
        let cells = series.iter().zip(first).map(|(own, first)| {
            if own.0.is_empty() {
                return "-".into();
            }
            format!("{own}, ratio {:.2}", first.ratio_to(own))
        });
        text.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let series = |v: &[f64]| Series(v.to_vec());
        assert_eq!(series(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(series(&[]).median(), 0.0);
        // Turn by turn, not median by median.
        assert_eq!(series(&[1.0, 10.0, 3.0]).ratio_to(&series(&[2.0, 20.0, 6.0])), 0.5);
        let rows = [
            ("a".into(), vec![series(&[1.0])]),
            ("b".into(), vec![series(&[4.0])]),
            ("c".into(), vec![series(&[])]),
        ];
        let table = table(&["x"], &rows);
        assert!(
            table.contains("| b | 4.00 (4.00 - 4.00), ratio 0.25 |") && table.contains("| c | - |"),
            "{table}"
        );
    }
}
