//! Our Toeplitz hash against DPDK's own, on a million tuples, and against the tuples that `rte_thash` chooses.
#![cfg(feature = "dpdk")]

use dataplane::dpdk::agrees_with_dpdk;

#[test]
fn a_million_tuples_hash_as_dpdk_s_rte_softrss_hashes_them() {
    const KEYS: u64 = 50;
    for seed in 1..=KEYS {
        let key: Vec<u8> = (0..52u64)
            .map(|at| ((at + 1).wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        assert!(agrees_with_dpdk(&key, 1_000_000 / KEYS as usize, seed), "key {key:02x?}");
    }
}

#[cfg(feature = "thash")]
#[test]
fn tuples_that_rte_thash_chose_for_a_hash_have_it() {
    use dataplane::dpdk::{Eal, EalSettings, Memory, agrees_with_thash};
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let eal = Eal::start(&EalSettings {
        worker_cores: Vec::new(),
        control_cores: (0..cores).collect(),
        memory: Memory::Pages { megabytes: 64 },
        pci: Vec::new(),
        vdevs: Vec::new(),
    });
    let eal = eal.map_err(|error| error.to_string()).unwrap();
    let key: Vec<u8> =
        (0..52u64).map(|at| ((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    agrees_with_thash(&eal, &key, 10_000, 0x9e37_79b9_7f4a_7c15).unwrap();
}
