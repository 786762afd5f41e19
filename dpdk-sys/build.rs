//! Generates the bindings from the DPDK headers that are installed, compiles
//! the shim, and tells dependents how to link.
//!
//! Every word of `pkg-config --cflags libdpdk` goes to clang and to cc: DPDK's
//! headers need `-march` and `-include rte_config.h`, which the `pkg-config`
//! crate would drop.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// What Rust calls. Everything else of DPDK stays undeclared.
const FUNCTIONS: &[&str] = &[
    "sluice_.*",
    "rte_eal_(init|cleanup|remote_launch|wait_lcore)",
    "rte_eth_dev_(start|stop|close|info_get|get_mtu|set_mtu|get_port_by_name|socket_id)",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_rx_queue_info_get",
    "rte_eth_dev_vlan_filter",
    "rte_eth_(macaddr_get|promiscuous_enable|allmulticast_enable|stats_get)",
    "rte_pktmbuf_pool_create",
    "rte_mempool_in_use_count",
    "rte_get_tsc_hz",
    "rte_lcore_to_socket_id",
    "rte_strerror",
    "rte_version",
];
const CONSTANTS: &[&str] = &["SLUICE_.*"];
/// Only ever seen behind a pointer; opaque, so no release's layout is assumed.
const OPAQUE: &[&str] =
    &["rte_mbuf", "rte_mempool", "rte_device", "rte_eth_dev_portconf", "rte_eth_rxseg_capa"];

fn main() {
    println!("cargo:rerun-if-changed=shim/shim.h");
    println!("cargo:rerun-if-changed=shim/shim.c");
    println!("cargo:rerun-if-changed=shim/thash.c");
    for variable in ["PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");

    let cflags = pkg_config(&["--cflags"]);
    let libs = pkg_config(&["--libs"]);
    let version = pkg_config(&["--modversion"]).concat();
    require_libclang();

    let mut shim = cc::Build::new();
    shim.file("shim/shim.c").opt_level(3).warnings(true);
    if env::var_os("CARGO_FEATURE_THASH").is_some() {
        shim.file("shim/thash.c").define("ALLOW_EXPERIMENTAL_API", None);
    }
    for flag in &cflags {
        // DPDK's own headers are not ours to warn about.
        match flag.strip_prefix("-I") {
            Some(dir) => shim.flag("-isystem").flag(dir),
            None => shim.flag(flag),
        };
    }
    shim.compile("sluice_dpdk_shim");

    let mut builder = bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(&cflags)
        .derive_debug(false)
        .generate_comments(false)
        .layout_tests(true)
        .prepend_enum_name(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::None);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name).allowlist_type("sluice_.*");
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    match builder.generate() {
        Ok(bindings) => bindings.write_to_file(out).expect("OUT_DIR is writable"),
        Err(error) => fail(&format!("bindgen could not read DPDK {version}'s headers: {error}")),
    }

    for word in &libs {
        if let Some(name) = word.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={name}");
        } else if let Some(dir) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={dir}");
        }
    }
    println!("cargo:version={version}");
    // Words that only the final binary's link line can carry (rpath and the like).
    let rest: Vec<_> =
        libs.iter().filter(|w| !w.starts_with("-l") && !w.starts_with("-L")).cloned().collect();
    println!("cargo:link_args={}", rest.join(" "));
}

/// The words that `pkg-config ARGS libdpdk` prints.
fn pkg_config(args: &[&str]) -> Vec<String> {
    let output = match Command::new("pkg-config").args(args).arg("libdpdk").output() {
        Ok(output) => output,
        Err(_) => fail("pkg-config is not installed: run `apt-get install pkg-config`"),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
        fail(&format!(
            "DPDK (libdpdk) is not installed: run `apt-get install libdpdk-dev` (pkg-config says: {said})"
        ));
    }
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

/// Ends with one clear line when bindgen would panic for want of libclang.
fn require_libclang() {
    let mut folders: Vec<PathBuf> = env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    folders.extend(
        [
            "/usr/lib",
            "/usr/lib64",
            "/usr/local/lib",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
        ]
        .map(PathBuf::from),
    );
    for parent in ["/usr/lib"] {
        for entry in Path::new(parent).read_dir().into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("llvm") {
                folders.push(entry.path().join("lib"));
            }
        }
    }
    let holds_libclang = |folder: &PathBuf| {
        folder.read_dir().into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Not libclang-cpp, which other packages bring along.
            let versioned = name
                .strip_prefix("libclang-")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            name.starts_with("libclang.so") || versioned && name.contains(".so")
        })
    };
    if !folders.iter().any(holds_libclang) {
        fail("libclang is not installed: run `apt-get install libclang-dev` (or set LIBCLANG_PATH)");
    }
}

fn fail(message: &str) -> ! {
    eprintln!("\n    sluice: {message}\n");
    exit(1)
}
