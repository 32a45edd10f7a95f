//! Shows for every field of every saved state that some test notices its absence: `cargo saved-fields`.
//!
//! A copy of the workspace below `target/saved-fields` gets a switch at each such field: the field is left out of what is saved, and comes
//! back as its type's default, or not at all where the type has none. The copy is built once; then each field is switched off by itself
//! while the tests of the crates run that save it. A field whose tests pass without it survives: nothing tests it.
//!
//! `cargo saved-fields Serial` is for the fields whose names, as `package Struct.field`, contain that. Fields of the KVM back end need a
//! `/dev/kvm`.
#![allow(clippy::print_stdout)]

mod fields;
mod suites;
mod tree;

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let tree = tree::Tree::of_workspace()?;
    let fields = fields::find(tree.sources()?)?;
    tree.write(&fields)?;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let chosen: Vec<_> =
        fields.iter().enumerate().filter(|(_, field)| is_wanted(&field.to_string())).collect();
    println!("{} of the {} fields that are saved", chosen.len(), fields.len());

    let mut suites = suites::Suites::default();
    for package in chosen.iter().flat_map(|(_, field)| &field.packages).collect::<BTreeSet<_>>() {
        suites.add(&tree, package)?;
    }
    let mut survivors = Vec::new();
    for (number, field) in chosen {
        match suites.noticing(&field.packages, number)? {
            Some(test) => println!("noticed   {field}: {test}"),
            None => {
                println!("SURVIVES  {field}");
                survivors.push(field.to_string());
            }
        }
    }
    if survivors.is_empty() {
        println!("the absence of every one is noticed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("nobody notices the absence of:\n  {}", survivors.join("\n  "));
    Ok(ExitCode::FAILURE)
}
