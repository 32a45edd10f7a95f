use super::report::{Report, row};
use drystone_vcpu::cpuid::{Comparison, FeatureBit, suggest};
use std::io::{self, Write};

/// Says how two reports differ, and what both hosts could be. Returns whether guests see the same.
pub(super) fn text(
    first: &Report,
    second: &Report,
    (a, b): (&str, &str),
    out: &mut impl Write,
) -> io::Result<bool> {
    let comparison = Comparison::of(&first.guest, &second.guest);
    let models = [first, second].map(|r| format!("{} {}", r.model, r.features).trim_end().to_owned());
    writeln!(out, "a: {a}, as {}", models.first().map_or("", String::as_str))?;
    writeln!(out, "b: {b}, as {}", models.last().map_or("", String::as_str))?;
    for (label, features) in [("a lacks", &comparison.only_second), ("b lacks", &comparison.only_first)] {
        if !features.is_empty() {
            row(out, label, &names(features))?;
        }
    }
    for (what, on_a, on_b) in &comparison.other {
        row(out, "differs", &format!("{what}: a {on_a}, b {on_b}"))?;
    }
    for (what, on_a, on_b) in &comparison.notes {
        row(out, "note", &format!("{what}: a {on_a}, b {on_b}"))?;
    }
    if comparison.is_equal() {
        writeln!(out, "equal: a guest can move between them")?;
        return Ok(true);
    }
    match suggest(&first.host, &second.host) {
        Some(suggestion) => {
            let bits = suggestion.physical_bits.map(|bits| format!(" --cpu-physical-bits {bits}"));
            let bits = bits.unwrap_or_default();
            let features = match suggestion.features.is_empty() {
                true => String::new(),
                false => format!(" --cpu-features={}", suggestion.features),
            };
            writeln!(out, "both can be: --cpu-model {}{bits}{features}", suggestion.baseline)?;
        }
        None => writeln!(out, "there is no model that hides this from a guest")?,
    }
    Ok(false)
}

fn names(features: &[FeatureBit]) -> String {
    let mut names: Vec<_> = features.iter().map(ToString::to_string).collect();
    names.sort();
    names.join(" ")
}
