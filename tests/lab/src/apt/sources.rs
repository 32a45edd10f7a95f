//! Finding the Debian archive among a machine's apt sources.

use std::fs;
use std::path::Path;

/// One entry of an apt source list, in either of its two formats (sources.list(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// "deb", "deb-src".
    pub types: Vec<String>,
    /// Where the archive is; any transport that apt knows.
    pub uris: Vec<String>,
    /// "bookworm", "stable", "bookworm-updates" and so on.
    pub suites: Vec<String>,
    /// "main" and so on.
    pub components: Vec<String>,
    /// A keyring file, a key's fingerprint, or a whole key: as apt takes it, line breaks included.
    pub signed_by: Option<String>,
    /// False for an entry that is switched off.
    pub enabled: bool,
}

/// Debian's main archive, as this machine reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Its addresses.
    pub uris: Vec<String>,
    /// What its signature is checked against; `None` leaves that to apt.
    pub signed_by: Option<String>,
}

/// Parses a `.sources` file: stanzas of `Field: value` lines, parted by empty lines.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut stanzas: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(stanza) = stanzas.last_mut() else { continue };
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.push((field.trim().to_ascii_lowercase(), value.trim().to_string()));
        }
    }
    stanzas.iter().filter(|stanza| !stanza.is_empty()).map(|stanza| from_fields(stanza)).collect()
}

fn from_fields(fields: &[(String, String)]) -> Source {
    let get = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let words = |name: &str| get(name).unwrap_or("").split_whitespace().map(String::from).collect();
    Source {
        types: words("types"),
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: get("signed-by").map(String::from),
        enabled: !matches!(get("enabled"), Some("no" | "false" | "0" | "off" | "without" | "disable")),
    }
}

/// Parses a `.list` file: lines of `deb [options] uri suite components…`.
pub(crate) fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(String::from);
    Some(Source {
        types: vec![kind.to_string()],
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(String::from),
        enabled: true,
    })
}

/// Suites that only Debian itself has under exactly these names.
const SUITES: [&str; 12] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "bookworm-updates",
];

/// Picks the entry that is most likely Debian's main archive.
///
/// An entry qualifies with a binary type, a Debian suite and the component `main`; among those, an address that ends in
/// `debian` and Debian's own keyring speak for an entry.
pub(crate) fn find_archive(sources: &[Source]) -> Option<Archive> {
    let mut best: Option<(u32, &Source)> = None;
    for source in sources.iter().filter(|source| qualifies(source)) {
        let score = score(source);
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, source));
        }
    }
    best.map(|(_, source)| Archive { uris: source.uris.clone(), signed_by: source.signed_by.clone() })
}

fn qualifies(source: &Source) -> bool {
    let has = |words: &[String], wanted: &str| words.iter().any(|word| word == wanted);
    source.enabled
        && has(&source.types, "deb")
        && has(&source.components, "main")
        && !source.uris.is_empty()
        && source.suites.iter().any(|suite| SUITES.contains(&suite.as_str()))
}

fn score(source: &Source) -> u32 {
    let last =
        |uri: &String| uri.trim_end_matches('/').rsplit('/').next().map(String::from).unwrap_or_default();
    let named = source.uris.iter().any(|uri| matches!(last(uri).as_str(), "debian" | "debian.list"));
    let keyring = source.signed_by.as_deref().is_none_or(|key| key.contains("debian-archive-keyring"));
    u32::from(named) * 2 + u32::from(keyring)
}

/// Reads every source list below an apt configuration directory, usually `/etc/apt`; unreadable files count as empty.
pub(crate) fn read_all(directory: &Path) -> Vec<Source> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut sources = parse_list(&read(&directory.join("sources.list")));
    let entries = fs::read_dir(directory.join("sources.list.d")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&read(&path))),
            Some("list") => sources.extend(parse_list(&read(&path))),
            _ => {}
        }
    }
    sources
}

#[cfg(test)]
mod tests;
