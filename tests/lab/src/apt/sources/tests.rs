use super::*;

const DEB822: &str = "Types: deb deb-src
# a comment
URIs: http://archive.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian-security
Suites: trixie-security
Components: main

";

#[test]
fn both_formats_give_the_same_entry() {
    let deb822 = parse_deb822(DEB822);
    let list = parse_list(
        "# comment\ndeb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://archive.example/debian trixie main contrib # x\n\n",
    );
    assert_eq!(deb822.len(), 2);
    assert_eq!(list.len(), 1);
    assert_eq!(find_archive(&deb822), find_archive(&list));
    let archive = find_archive(&list).unwrap();
    assert_eq!(archive.uris, ["http://archive.example/debian"]);
    assert_eq!(archive.signed_by.as_deref(), Some("/usr/share/keyrings/debian-archive-keyring.gpg"));
}

#[test]
fn security_and_source_and_disabled_entries_are_passed_over() {
    let off = "Enabled: no\nTypes: deb\nURIs: http://a.example/debian\nSuites: sid\nComponents: main\n";
    assert_eq!(find_archive(&parse_deb822(off)), None);
    let security = parse_list("deb http://a.example/debian-security bookworm-security main");
    assert_eq!(find_archive(&security), None);
    let source = parse_list("deb-src http://a.example/debian bookworm main");
    assert_eq!(find_archive(&source), None);
}

#[test]
fn a_third_party_that_imitates_debian_loses_against_debian() {
    let text = "deb [signed-by=/etc/keys/vendor.gpg] https://vendor.example/debian/12/prod bookworm main
deb [signed-by=/etc/keys/other.gpg] https://vendor.example/debian bookworm stable
deb http://mirror.example/pub/debian/ bookworm main";
    assert_eq!(find_archive(&parse_list(text)).unwrap().uris, ["http://mirror.example/pub/debian/"]);
}

#[test]
fn an_embedded_key_keeps_its_lines_and_a_mirror_list_is_an_address() {
    let text = "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n";
    let archive = find_archive(&parse_deb822(text)).unwrap();
    assert_eq!(archive.uris, ["mirror+file:///etc/apt/mirrors/debian.list"]);
    assert_eq!(archive.signed_by.as_deref(), Some("\n -----BEGIN\n .\n abc"));
}

#[test]
fn broken_lines_are_skipped() {
    assert_eq!(parse_list("deb\ndeb [\ndeb [a=b] \ndeb http://only.example\n"), []);
    assert_eq!(parse_deb822("no colon here\n\n\n"), []);
    assert_eq!(parse_deb822(" continued nothing\n"), []);
}
