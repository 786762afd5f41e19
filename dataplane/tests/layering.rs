//! Who may use whom: crates among each other, and modules inside the dataplane.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The dataplane's modules from bottom to top; those of one line may use each other's line below.
const LAYERS: &[&[&str]] = &[
    &[
        "ids",
        "flow",
        "hash",
        "cookie",
        "network",
        "frame",
        "clock",
        "drop",
        "hugepages",
        "prefetch",
        "prefixes",
        "simd",
    ],
    &["wire"],
    &["stats", "port", "steering"],
    &["session", "scheduler"],
    &["snapshot"],
    &["director"],
    &["worker"],
    &["dpdk"],
];

/// The control side's modules, likewise. Modules of one line know nothing of each other, but for those of the ground.
const CONTROL_LAYERS: &[&[&str]] = &[
    &[
        "attacks",
        "devices",
        "dns",
        "files",
        "http",
        "journal",
        "last_second",
        "lists",
        "pci",
        "registry",
        "remedies",
        "state",
        "tls",
        "users",
    ],
    &["config"],
    &["exposure", "topology", "steering", "desired", "discovery", "admin", "links"],
    &["kernel", "cli"],
    &["health"],
    &["servers"],
    &["compile", "metrics", "names", "view"],
    &["web"],
    &["control"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn layer(layers: &[&[&str]], module: &str) -> usize {
    layers
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("module {module} has no layer"))
}

/// The names after `marker` in a file, comments aside.
fn mentions(text: &str, marker: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let end = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    code.split(marker).skip(1).map(|rest| rest.split(end).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_module_uses_only_what_stands_below_it() {
    hold(LAYERS, &root().join("dataplane/src"));
    hold(CONTROL_LAYERS, &root().join("ctrl/src"));
}

fn hold(layers: &[&[&str]], source: &Path) {
    let mut seen = BTreeSet::new();
    for path in sources(source) {
        let module =
            path.strip_prefix(source).unwrap().iter().next().unwrap().to_string_lossy().replace(".rs", "");
        if module == "lib" || module == "bin" {
            continue;
        }
        for used in mentions(&fs::read_to_string(&path).unwrap(), "crate::") {
            let (own, other) = (layer(layers, &module), layer(layers, &used));
            assert!(
                used == module || other < own || other == own && own == 0,
                "{}: {module} must not use {used}",
                path.display()
            );
        }
        seen.insert(module);
    }
    let all: BTreeSet<_> =
        layers.iter().flat_map(|layer| layer.iter().map(|name| (*name).to_owned())).collect();
    assert_eq!(seen, all);
}

#[test]
fn dpdk_is_touched_in_one_module_only() {
    for path in sources(&root().join("dataplane/src")).into_iter().chain(sources(&root().join("ctrl"))) {
        let text = fs::read_to_string(&path).unwrap();
        let inside = path.components().any(|part| part.as_os_str() == "dpdk");
        assert!(inside || !text.contains("dpdk_sys"), "{} names dpdk_sys", path.display());
    }
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let rooms = [
        "dataplane/src/dpdk/",
        "dataplane/src/prefetch.rs",
        "dataplane/src/simd.rs",
        "dataplane/src/hash.rs",
        "dataplane/src/hugepages.rs",
        "dataplane/src/session/index.rs",
        "dataplane/src/session/tags.rs",
        "dataplane/src/wire/lanes.rs",
    ];
    for folder in ["dataplane/src", "ctrl", "pktgen-tests/src"] {
        for path in sources(&root().join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.display().to_string();
            let allowed = rooms.iter().any(|room| name.contains(room));
            assert!(allowed || !mentions(&text, "unsafe").contains(""), "{name} has unsafe code");
        }
    }
}

#[test]
fn crates_depend_downwards() {
    let depends = |manifest: &str, on: &str| {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        let own = text.split("[dependencies]").nth(1).unwrap_or_default();
        let own = own.split("\n[").next().unwrap_or_default();
        own.lines().any(|line| line.starts_with(on))
    };
    for (manifest, forbidden) in [
        ("dpdk-sys/Cargo.toml", ["dataplane", "ctrl"]),
        ("dataplane/Cargo.toml", ["ctrl", "pktgen-tests"]),
        ("ctrl/Cargo.toml", ["dpdk-sys", "pktgen-tests"]),
        ("pktgen-tests/Cargo.toml", ["dataplane", "ctrl"]),
    ] {
        for name in forbidden {
            assert!(!depends(manifest, name), "{manifest} must not depend on {name}");
        }
    }
    assert!(depends("ctrl/Cargo.toml", "dataplane"));
}

#[test]
fn the_developers_page_names_files_that_exist() {
    let page = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let paths: Vec<_> = quoted.filter(|word| word.contains('/') && !word.contains(' ')).collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        assert!(path.starts_with("target/") || root().join(path).exists(), "CONTRIBUTING.md names {path}");
    }
}

#[test]
fn links_of_pages_lead_somewhere() {
    let mut pages: Vec<_> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                None => folders.push(path),
                Some(extension) if extension == "md" => pages.push(path),
                Some(_) => {}
            }
        }
    }
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                links += 1;
                assert!(page.parent().unwrap().join(path).exists(), "{} links to {link}", page.display());
            }
        }
    }
    assert!(links > 40, "{links}");
}
