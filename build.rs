//! How the daemon is linked against DPDK, and its version stamp. Nothing else.

use std::env;
use std::process::Command;

fn main() {
    // Link arguments are not inherited from a library, so they are passed on here.
    println!("cargo:rerun-if-env-changed=DEP_DPDK_LINK_ARGS");
    for word in env::var("DEP_DPDK_LINK_ARGS").unwrap_or_default().split_whitespace() {
        println!("cargo:rustc-link-arg-bins={word}");
    }

    // Each commit writes a line there.
    if std::path::Path::new(".git/logs/HEAD").exists() {
        println!("cargo:rerun-if-changed=.git/logs/HEAD");
    }
    println!("cargo:rerun-if-changed=.git/HEAD");
    let describe = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = match describe {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    };
    let package = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    println!("cargo:rustc-env=SLUICE_VERSION={package} ({commit})");
}
