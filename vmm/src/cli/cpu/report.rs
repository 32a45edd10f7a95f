use super::CpuError;
use crate::config::Config;
use drystone_hypervisor::Cpuid;
use drystone_vcpu::cpuid::{Class, CpuSummary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

/// What a guest sees on a host, and all that the host offers: what `--json` prints and other hosts compare with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Of this format.
    pub version: u32,
    pub model: String,
    /// As `--cpu-features` takes them.
    pub features: String,
    pub topology: Shape,
    /// For readers; not read back.
    #[serde(skip_deserializing)]
    pub summary: Summary,
    /// As the first vCPU sees it.
    pub guest: Cpuid,
    pub host: Cpuid,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shape {
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    vendor: String,
    family: u32,
    model: u32,
    stepping: u32,
    brand: String,
    physical_address_bits: u32,
    linear_address_bits: u32,
    xsave_bytes: u32,
    xsave_components: Vec<u32>,
    hypervisor: Option<String>,
    features: BTreeMap<&'static str, Vec<String>>,
    not_given: Vec<String>,
}

const VERSION: u32 = 1;
/// A longer file is none of ours, and neither is a table with more answers.
const MAX_FILE: u64 = 1 << 20;
const MAX_ENTRIES: usize = 1024;

const GROUPS: [(&str, Option<Class>); 7] = [
    ("instructions", Some(Class::Instructions)),
    ("system", Some(Class::System)),
    ("protection", Some(Class::Protection)),
    ("paravirtual", Some(Class::Paravirtual)),
    ("topology", Some(Class::Topology)),
    ("nested", Some(Class::Nested)),
    ("unnamed", None),
];

impl Report {
    pub fn new(config: &Config, host: &Cpuid) -> Result<Self, CpuError> {
        let topology = config.cpus.topology()?;
        let (model, _) = config.cpu.resolve(topology)?;
        let guest = model.on(host)?.for_vcpu(0);
        Ok(Self {
            version: VERSION,
            model: model.baseline.to_string(),
            features: model.features.to_string(),
            topology: Shape {
                sockets: topology.sockets(),
                cores: topology.cores_per_socket(),
                threads: topology.threads_per_core(),
            },
            summary: Summary::new(&guest, host),
            guest,
            host: host.clone(),
        })
    }

    /// Reads what `--json` printed, perhaps on another host.
    pub fn read(path: &Path) -> Result<Self, CpuError> {
        let bad = |what: String| CpuError::File { path: path.into(), what };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| bad(format!("cannot open: {e}")))?;
        let read = file
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(|e| bad(format!("cannot read: {e}")))?;
        if read as u64 > MAX_FILE {
            return Err(bad("larger than 1 MiB: not from drystone cpu --json".into()));
        }
        let report: Self =
            serde_json::from_str(&text).map_err(|e| bad(format!("not from drystone cpu --json: {e}")))?;
        if report.version != VERSION {
            return Err(bad(format!("format {}: this drystone reads format {VERSION}", report.version)));
        }
        if report.guest.0.len().max(report.host.0.len()) > MAX_ENTRIES {
            return Err(bad(format!("more than {MAX_ENTRIES} answers")));
        }
        Ok(report)
    }

    pub fn json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self).map_err(io::Error::from)?;
        writeln!(out)
    }

    /// One answer a line, as the first vCPU gets it.
    pub fn raw(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:10} {:>7}  {:10} {:10} {:10} {:10}", "leaf", "subleaf", "eax", "ebx", "ecx", "edx")?;
        let mut entries = self.guest.0.clone();
        entries.sort_by_key(|e| (e.leaf, e.subleaf));
        for e in entries {
            let subleaf = e.subleaf.map_or("-".into(), |n| n.to_string());
            let [eax, ebx, ecx, edx] = [e.eax, e.ebx, e.ecx, e.edx];
            writeln!(out, "{:#010x} {subleaf:>7}  {eax:#010x} {ebx:#010x} {ecx:#010x} {edx:#010x}", e.leaf)?;
        }
        Ok(())
    }

    pub fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let Summary { vendor, family, model, stepping, brand, .. } = &self.summary;
        let Shape { sockets, cores, threads } = &self.topology;
        let of = |n: &u32, what: &str| format!("{n} {what}{}", if *n == 1 { "" } else { "s" });
        row(
            out,
            "processor",
            &format!("{vendor} family {family} model {model} stepping {stepping} {brand}"),
        )?;
        row(out, "model", &format!("{} {}", self.model, self.features))?;
        let (sockets, cores, threads) = (of(sockets, "socket"), of(cores, "core"), of(threads, "thread"));
        row(out, "vcpus", &format!("{sockets}, {cores} in each, {threads} on each"))?;
        let (physical, linear) = (self.summary.physical_address_bits, self.summary.linear_address_bits);
        row(out, "addresses", &format!("{physical} bits physical, {linear} bits linear"))?;
        let components: Vec<_> = self.summary.xsave_components.iter().map(u32::to_string).collect();
        row(
            out,
            "xsave",
            &format!("{} bytes, components {}", self.summary.xsave_bytes, components.join(" ")),
        )?;
        row(out, "hypervisor", self.summary.hypervisor.as_deref().unwrap_or("none"))?;
        for (name, _) in GROUPS {
            if let Some(features) = self.summary.features.get(name) {
                row(out, name, &features.join(" "))?;
            }
        }
        let not_given = self.summary.not_given.join(" ");
        row(out, "not given", if not_given.is_empty() { "nothing that the host offers" } else { &not_given })
    }
}

impl Summary {
    fn new(guest: &Cpuid, host: &Cpuid) -> Self {
        let (seen, offered) = (CpuSummary::of(guest), CpuSummary::of(host));
        let groups = GROUPS.iter().map(|(name, class)| (*name, seen.in_class(*class)));
        let mut not_given: Vec<_> =
            offered.features.difference(&seen.features).map(ToString::to_string).collect();
        not_given.sort();
        Self {
            features: groups.filter(|(_, features)| !features.is_empty()).collect(),
            vendor: seen.vendor,
            family: seen.family,
            model: seen.model,
            stepping: seen.stepping,
            brand: seen.brand,
            physical_address_bits: seen.physical_bits,
            linear_address_bits: seen.linear_bits,
            xsave_bytes: seen.xsave_bytes,
            xsave_components: seen.xsave_components,
            hypervisor: seen.hypervisor,
            not_given,
        }
    }
}

const LABEL: usize = 14;
const WIDTH: usize = 100;

/// A label, and words behind it that are broken into lines.
pub(super) fn row(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    let mut line = format!("{label:LABEL$}");
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.len() + 1 + word.len() > WIDTH {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(LABEL);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    writeln!(out, "{}", line.trim_end())
}
