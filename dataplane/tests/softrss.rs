//! Our Toeplitz hash against DPDK's own, on a million tuples.
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
