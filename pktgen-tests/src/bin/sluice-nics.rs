//! `sluice-nics` tries sluiced on every NIC that QEMU emulates and that DPDK drives, says what was seen, and puts the
//! table into docs/NICS.md. `sluice-nics NAME...` tries those whose names begin so, and leaves the page alone.

use pktgen_tests::netns;
use pktgen_tests::nics::image::Image;
use pktgen_tests::nics::report::{Walk, put, table, walk};
use pktgen_tests::nics::steps::{NICS, STEPS};
use pktgen_tests::process::Folder;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    netns::remove_orphans();
    match walk_all() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("sluice-nics: {failures} steps failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sluice-nics: {error}");
            ExitCode::FAILURE
        }
    }
}

fn walk_all() -> Result<usize, String> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let folder = Folder::new("image")?;
    let image = Image::build(folder.path())?;
    let mut walks = Vec::new();
    for (nic, workers) in &NICS {
        if wanted.is_empty() || wanted.iter().any(|name| nic.name.starts_with(name.as_str())) {
            walks.push(walk(&image, nic, *workers, STEPS)?);
        }
    }
    if wanted.is_empty() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/NICS.md");
        put(&page, &table(&walks, STEPS, &image.release))?;
    }
    Ok(walks.iter().map(Walk::failures).sum())
}
