//! Every example file is one that the daemon would accept.

use std::path::Path;

#[test]
fn every_example_configuration_passes_the_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut checked = 0;
    let entries = ["config", "pktgen-tests/bench/nic"].map(|folder| root.join(folder).read_dir().unwrap());
    for entry in entries.into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            if let Err(error) = ctrl::config::load(&path) {
                let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
                panic!("{}", problems.join("\n"));
            }
            checked += 1;
        }
    }
    assert!(checked >= 4);
}
