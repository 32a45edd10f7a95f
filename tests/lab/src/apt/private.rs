//! A private apt: its own lists, cache and idea of what is installed (nothing).

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::sources::{Archive, find_archive, read_all};
use crate::error::{Context, Error};
use crate::progress::Progress;
use crate::spawn::{Before, spawn};
use crate::store::Store;

/// The newest suite comes last; it wins, so that QEMU and all that belongs to it are of one kind.
const SUITES: &str = "bookworm bookworm-updates trixie trixie-updates trixie-backports";
const PREFERRED: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a configuration, lists and a cache of its own below the lab's directory.
#[derive(Debug)]
pub(crate) struct Apt {
    config: PathBuf,
    archives: PathBuf,
}

impl Apt {
    /// Writes the private configuration.
    pub(crate) fn new(store: &Store) -> Result<Self, Error> {
        for (program, missing) in
            [("apt-get", "apt-get"), ("apt-cache", "apt-cache"), ("dpkg-deb", "dpkg-deb")]
        {
            if !installed(program) {
                return Err(Error::NotDebian { missing });
            }
        }
        let archive = archive()?;
        let dir = store.dir("apt")?;
        for name in ["state/lists/partial", "cache/archives/partial", "log", "sources"] {
            store.dir(dir.join(name))?;
        }
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).at("write", dir.join(name));
        // Nothing is installed as far as this apt knows: dependencies are always complete.
        write("status", "")?;
        write("sources/archive.sources", &source_list(&archive))?;
        write("apt.conf", &configuration(&dir))?;
        Ok(Self { config: dir.join("apt.conf"), archives: dir.join("cache/archives") })
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self, progress: &Progress) -> Result<(), Error> {
        self.get(&["update"], "package lists", progress)
    }

    /// Downloads packages with all that they depend on; gives the files. What is there already is not fetched again.
    pub(crate) fn download_closure(
        &self,
        packages: &[&str],
        progress: &Progress,
    ) -> Result<Vec<PathBuf>, Error> {
        // What an interrupted attempt left is used again, unless the archive has moved on since.
        self.get(&["autoclean"], "package cache", progress)?;
        let mut arguments = vec!["install", "--download-only", "-t", PREFERRED];
        arguments.extend(packages);
        let what = packages.first().copied().unwrap_or_default();
        self.get(&arguments, &format!("{what} and the libraries it needs: downloading"), progress)?;
        self.downloaded(|name| !name.starts_with("linux-image"))
    }

    /// Downloads one package without what it depends on.
    pub(crate) fn download(&self, package: &Package, progress: &Progress) -> Result<PathBuf, Error> {
        let what = format!("kernel {}: downloading", package.version);
        self.get(&["download", &format!("{}={}", package.name, package.version)], &what, progress)?;
        let prefix = format!("{}_", package.name);
        let found = self.downloaded(|name| name.starts_with(&prefix))?;
        found.into_iter().next_back().ok_or_else(|| Error::NoPackage { what: package.name.clone() })
    }

    /// The package of the newest cloud kernel of a series such as "6.12".
    pub(crate) fn cloud_kernel(&self, series: &str) -> Result<Package, Error> {
        let output = self.command("apt-cache").args(["show", "linux-image-cloud-amd64"]).output();
        let output = output.at("start", "apt-cache")?;
        let missing = || Error::NoPackage { what: format!("cloud kernel {series}") };
        newest_dependency(&String::from_utf8_lossy(&output.stdout), series).ok_or_else(missing)
    }

    /// Removes what was downloaded and unpacked: it is not needed again.
    pub(crate) fn forget_downloads(&self) -> Result<(), Error> {
        for path in self.downloaded(|_| true)? {
            fs::remove_file(&path).at("remove", &path)?;
        }
        Ok(())
    }

    fn downloaded(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(&self.archives).at("list", &self.archives)?;
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
            .collect();
        files.sort();
        Ok(files)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(&self.config)
            .env("LC_ALL", "C")
            .current_dir(&self.archives)
            .stdin(Stdio::null());
        command
    }

    /// Runs apt-get, shows its progress, and turns its complaints into one error.
    fn get(&self, arguments: &[&str], what: &str, progress: &Progress) -> Result<(), Error> {
        progress.step(what);
        let mut command = self.command("apt-get");
        command.args(["-qq", "-y"]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command, Before::default()).at("start", "apt-get")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.map(|stderr| stderr.take(1 << 20).read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        for line in stdout.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            if let Some(percent) = download_percent(&line) {
                progress.percent(what, percent);
            }
        }
        let status = child.wait().at("wait for", "apt-get")?;
        let complaints = complaints.join().unwrap_or_default();
        if status.success() { Ok(()) } else { Err(explain(&complaints, &status.to_string(), &self.archives)) }
    }
}

/// A package and its exact version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
}

fn archive() -> Result<Archive, Error> {
    let keyring = || Path::new(KEYRING).exists().then(|| KEYRING.to_string());
    if let Some(uri) = std::env::var("DRYSTONE_LAB_ARCHIVE").ok().filter(|uri| !uri.is_empty()) {
        return Ok(Archive { uris: vec![uri], signed_by: keyring() });
    }
    let mut archive = find_archive(&read_all(Path::new("/etc/apt"))).ok_or(Error::NoArchive)?;
    archive.signed_by = archive.signed_by.or_else(keyring);
    Ok(archive)
}

fn source_list(archive: &Archive) -> String {
    let signed = archive.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
    let uris = archive.uris.join(" ");
    format!(
        "Types: deb\nURIs: {uris}\nSuites: {SUITES}\nComponents: main\nArchitectures: amd64\nTargets: Packages\n{signed}"
    )
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    // What the system wants done after its own updates is none of this apt's business.
    let hooks: String = ["Pre-Invoke", "Post-Invoke", "Post-Invoke-Success", "Post-Invoke-Stats"]
        .iter()
        .map(|hook| format!("#clear APT::Update::{hook};\n"))
        .collect();
    format!(
        r#"{hooks}#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Status-Fd "1";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{dir}/state";
Dir::State::lists "lists";
Dir::State::status "{dir}/status";
Dir::State::extended_states "{dir}/state/extended_states";
Dir::Cache "{dir}/cache";
Dir::Cache::archives "archives";
Dir::Log "{dir}/log";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"#
    )
}

/// Reads apt's machine-readable progress, `dlstatus:number:percent:text`.
fn download_percent(line: &str) -> Option<f64> {
    let mut fields = line.split(':');
    (fields.next()? == "dlstatus").then_some(())?;
    fields.nth(1)?.parse().ok()
}

/// Finds the version of a series in the output of `apt-cache show` of a package that depends on the real kernel.
fn newest_dependency(text: &str, series: &str) -> Option<Package> {
    let prefix = format!("{series}.");
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let version = field("Version:")?;
        version.starts_with(&prefix).then_some(())?;
        let name = field("Depends:")?.split([' ', ',']).find(|word| word.starts_with("linux-image-"))?;
        Some(Package { name: name.to_string(), version: version.to_string() })
    })
}

/// Turns the complaints of a failed apt-get into an error that says what to do.
fn explain(complaints: &str, status: &str, dir: &Path) -> Error {
    let has = |words: &[&str]| words.iter().any(|word| complaints.contains(word));
    if has(&["No space left", "enough free space", "Disk quota"]) {
        return Error::DiskFull { attempt: "download packages to", path: dir.to_path_buf() };
    }
    let of_interest = |line: &&str| line.starts_with("E:") || line.starts_with("W:");
    let detail = complaints.lines().find(of_interest).or(complaints.lines().next()).unwrap_or("no message");
    let detail = detail.trim_start_matches("E: ").trim_start_matches("W: ").trim().to_string();
    let unreachable =
        ["resolv", "onnect", "unreachable", "timed out", "Failed to fetch", "No route", "proxy"];
    if has(&unreachable) {
        return Error::Network { detail };
    }
    Error::Program { program: "apt-get".into(), status: status.into(), detail }
}

pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests;
