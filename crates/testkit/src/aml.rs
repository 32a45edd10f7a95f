//! AML as ACPICA's compiler reads it.

use acpi_tables::Aml;
use acpi_tables::sdt::Sdt;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

/// What `parts` say as the content of a DSDT, as ASL without white space and comments. `None`, said aloud, where iasl is
/// not installed.
///
/// # Panics
/// If iasl cannot take it apart, or finds anything to complain about when it puts it together again.
pub fn disassemble(parts: &[&dyn Aml]) -> Option<String> {
    let mut aml = Vec::new();
    parts.iter().for_each(|part| part.to_aml_bytes(&mut aml));
    let mut table = Sdt::new(*b"DSDT", 36, 2, *b"DRYSTN", *b"DRYSTONE", 1);
    table.append_slice(&aml);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("dsdt.aml"), table.as_slice()).expect("the table is written");
    iasl(folder.path(), &["-d", "dsdt.aml"])?;
    let asl = std::fs::read_to_string(folder.path().join("dsdt.dsl")).expect("what iasl wrote");
    let said = iasl(folder.path(), &["-f", "dsdt.dsl"])?;
    assert!(said.contains("0 Errors, 0 Warnings"), "{said}\n{asl}");
    Some(bare(&asl))
}

fn iasl(folder: &Path, args: &[&str]) -> Option<String> {
    let output = match Command::new("iasl").args(args).current_dir(folder).output() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // Past libtest, which keeps what a passing test prints to itself.
            let said = b"AML: NOT TESTED, iasl is not installed (Debian: acpica-tools)\n";
            std::io::stderr().write_all(said).expect("standard error");
            return None;
        }
        output => output.expect("iasl starts"),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "iasl {args:?} said:\n{said}");
    Some(said)
}

/// Without white space, and without comments, which are iasl's own.
fn bare(asl: &str) -> String {
    let mut text: String = asl.lines().map(|l| l.split("//").next().unwrap_or(l)).collect();
    while let Some((before, rest)) = text.split_once("/*") {
        text = format!("{before}{}", rest.split_once("*/").expect("a comment ends").1);
    }
    text.replace([' ', '\t'], "")
}
