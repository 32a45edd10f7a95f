//! Which fields are saved, found in the source.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use syn::{Fields, File, GenericArgument, Item, PathArguments, Type};

/// Saved, and of no `Schema`: what the container of a snapshot writes, and the machine's configuration in it.
const MORE_ROOTS: &[&str] = &["Manifest", "MemoryMap", "Config"];
/// Types of others that have a default; of arrays, those of the standard library up to 32.
const DEFAULTS: &[&str] = &[
    "bool",
    "char",
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i8",
    "i16",
    "i32",
    "i64",
    "isize",
    "String",
    "PathBuf",
    "Vec",
    "Option",
    "BTreeMap",
    "kvm_mp_state",
    "kvm_regs",
    "kvm_sregs",
];

/// A source file of a package.
pub struct Source {
    /// The package.
    pub package: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// A named field of a struct that is saved.
pub struct Field {
    /// The packages whose tests should notice: that of the struct, then those of the states that it is part of.
    pub packages: Vec<String>,
    /// The struct's name.
    pub of: String,
    /// Its own name.
    pub name: String,
    /// The file that it is in.
    pub path: PathBuf,
    /// The line that it is on, from 0.
    pub line: usize,
    /// How many attributes and lines of documentation it has, each on a line before it.
    pub attributes: usize,
    /// Its type has a default.
    pub has_default: bool,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.packages.first().map_or("", String::as_str), self.of, self.name)
    }
}

struct Struct {
    package: String,
    path: PathBuf,
    has_default: bool,
    /// Name, line, attributes and type.
    fields: Vec<(String, usize, usize, Type)>,
}

/// All fields of `sources`' states, and of the structs that these are made of.
pub fn find(sources: Vec<Source>) -> Result<Vec<Field>, Box<dyn Error>> {
    let (mut structs, mut roots) = (BTreeMap::new(), Vec::new());
    for source in sources {
        let file: File =
            syn::parse_str(&source.text).map_err(|e| format!("{}: {e}", source.path.display()))?;
        for item in file.items {
            look(item, &source, &mut structs, &mut roots);
        }
    }
    let owner = |name: &str| structs.get(name).map(|s: &Struct| s.package.clone());
    roots.extend(MORE_ROOTS.iter().filter_map(|name| Some((owner(name)?, (*name).to_owned()))));

    let mut packages: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (package, root) in &roots {
        reach(root, package, &structs, &mut packages);
    }
    let mut fields = Vec::new();
    for (name, by) in packages {
        let Some(of) = structs.get(name) else { continue };
        let others = by.into_iter().filter(|package| *package != of.package).map(str::to_owned);
        let packages: Vec<_> = std::iter::once(of.package.clone()).chain(others).collect();
        fields.extend(of.fields.iter().map(|(field, line, attributes, of_type)| Field {
            packages: packages.clone(),
            of: name.to_owned(),
            name: field.clone(),
            path: of.path.clone(),
            line: *line,
            attributes: *attributes,
            has_default: has_default(of_type, &structs),
        }));
    }
    Ok(fields)
}

/// Notes the structs that can be saved, and the types that are a state.
fn look(
    item: Item,
    source: &Source,
    structs: &mut BTreeMap<String, Struct>,
    roots: &mut Vec<(String, String)>,
) {
    match item {
        Item::Struct(item) if derives(&item.attrs, "Serialize") => {
            let Fields::Named(named) = item.fields else { return };
            let field = |f: syn::Field| {
                let ident = f.ident?;
                Some((ident.to_string(), ident.span().start().line - 1, f.attrs.len(), f.ty))
            };
            let (package, path) = (source.package.clone(), source.path.clone());
            let has_default = derives(&item.attrs, "Default");
            let fields = named.named.into_iter().filter_map(field).collect();
            structs.insert(item.ident.to_string(), Struct { package, path, has_default, fields });
        }
        Item::Impl(item) => {
            let schema = item
                .trait_
                .is_some_and(|(_, path, _)| path.segments.last().is_some_and(|s| s.ident == "Schema"));
            if let (true, Some(name)) = (schema, names(&item.self_ty).pop()) {
                roots.push((source.package.clone(), name));
            }
        }
        _ => {}
    }
}

fn derives(attributes: &[syn::Attribute], name: &str) -> bool {
    attributes.iter().filter(|a| a.path().is_ident("derive")).any(|a| {
        let mut found = false;
        let _ = a.parse_nested_meta(|meta| {
            found |= meta.path.is_ident(name);
            Ok(())
        });
        found
    })
}

fn reach<'a>(
    name: &'a str,
    package: &'a str,
    structs: &'a BTreeMap<String, Struct>,
    packages: &mut BTreeMap<&'a str, BTreeSet<&'a str>>,
) {
    let Some((name, of)) = structs.get_key_value(name) else { return };
    if !packages.entry(name).or_default().insert(package) {
        return;
    }
    for inner in of.fields.iter().flat_map(|(_, _, _, of_type)| names(of_type)) {
        if let Some((inner, _)) = structs.get_key_value(&inner) {
            reach(inner, package, structs, packages);
        }
    }
}

/// The names in a type: of `Option<Vec<T>>` those of all three.
fn names(of_type: &Type) -> Vec<String> {
    match of_type {
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return Vec::new() };
            let mut all = Vec::new();
            if let PathArguments::AngleBracketed(arguments) = &last.arguments {
                for argument in &arguments.args {
                    if let GenericArgument::Type(inner) = argument {
                        all.extend(names(inner));
                    }
                }
            }
            all.push(last.ident.to_string());
            all
        }
        Type::Tuple(tuple) => tuple.elems.iter().flat_map(names).collect(),
        Type::Array(array) => names(&array.elem),
        _ => Vec::new(),
    }
}

fn has_default(of_type: &Type, structs: &BTreeMap<String, Struct>) -> bool {
    match of_type {
        Type::Array(array) => has_default(&array.elem, structs),
        Type::Path(_) => names(of_type).pop().is_some_and(|name| {
            DEFAULTS.contains(&name.as_str()) || structs.get(&name).is_some_and(|inner| inner.has_default)
        }),
        _ => false,
    }
}
