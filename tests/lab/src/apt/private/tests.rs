use super::*;

const SHOW: &str = "Package: linux-image-cloud-amd64
Version: 6.12.95-1~bpo12+1
Depends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)

Package: linux-image-cloud-amd64
Version: 6.1.176-1
Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)
";

#[test]
fn a_series_is_not_mistaken_for_a_longer_one() {
    let old = newest_dependency(SHOW, "6.1").unwrap();
    assert_eq!((old.name.as_str(), old.version.as_str()), ("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"));
    let new = newest_dependency(SHOW, "6.12").unwrap();
    assert_eq!(new.name, "linux-image-6.12.95+deb12-cloud-amd64");
    assert_eq!(newest_dependency(SHOW, "6.13"), None);
}

#[test]
fn complaints_become_one_clear_error() {
    let explained = |text: &str| explain(text, "exit status: 100", Path::new("/lab"));
    let offline = "W: Failed to fetch http://a.example/x  Temporary failure resolving 'a.example'\nE: Some index files failed";
    assert!(matches!(explained(offline), Error::Network { detail } if detail.starts_with("Failed to fetch")));
    assert!(matches!(explained("E: You don't have enough free space in /lab."), Error::DiskFull { .. }));
    assert!(matches!(
        explained("E: Write error - write (28: No space left on device)"),
        Error::DiskFull { .. }
    ));
    assert!(
        matches!(explained("E: Unable to locate package x"), Error::Program { detail, .. } if detail.starts_with("Unable"))
    );
    assert!(matches!(explained(""), Error::Program { .. }));
}

#[test]
fn progress_lines_are_read_and_others_are_not() {
    assert_eq!(download_percent("dlstatus:12:78.2488:Retrieving file 12 of 91"), Some(78.2488));
    assert_eq!(download_percent("Get:1 file"), None);
    assert_eq!(download_percent("dlstatus:12"), None);
}

#[test]
fn the_source_list_keeps_the_signature_requirement() {
    let archive = Archive { uris: vec!["http://a.example/debian".into()], signed_by: Some("/k.gpg".into()) };
    let text = source_list(&archive);
    assert!(text.contains("Signed-By: /k.gpg\n"), "{text}");
    let sources = super::super::parse_deb822(&text);
    assert_eq!(sources.len(), 1);
    assert_eq!(
        sources[0].suites,
        ["bookworm", "bookworm-updates", "trixie", "trixie-updates", "trixie-backports"]
    );
}
