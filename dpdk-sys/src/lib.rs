//! What DPDK declares: bindings generated from the installed headers, and the
//! shim of `shim/shim.h` for what only C can reach.
//!
//! Nothing here is safe and nothing here decides. `dataplane::dpdk` is the only
//! module that may use this crate; it turns these calls into owned types.

#![allow(unsafe_code, reason = "raw bindings; the safe side is dataplane::dpdk")]
#![allow(missing_docs, reason = "DPDK's own documentation describes its API")]
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case, reason = "C names")]
#![allow(dead_code, clippy::all, clippy::undocumented_unsafe_blocks, reason = "generated code")]
#![allow(unsafe_op_in_unsafe_fn, unreachable_pub, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

// What dataplane::dpdk reads through offsets, checked against the ABI that every
// supported release (22.11 to 25.11) shares.
const _: () = {
    assert!(SLUICE_MBUF_SIZE == 128);
    assert!(SLUICE_MBUF_BUF_ADDR == 0);
    assert!(SLUICE_MBUF_DATA_OFF == 16);
    assert!(SLUICE_MBUF_REFCNT == 18);
    assert!(SLUICE_MBUF_NB_SEGS == 20);
    assert!(SLUICE_MBUF_OL_FLAGS == 24);
    assert!(SLUICE_MBUF_PKT_LEN == 36);
    assert!(SLUICE_MBUF_DATA_LEN == 40);
    assert!(SLUICE_MBUF_BUF_LEN == 54);
    assert!(SLUICE_MBUF_HEADROOM >= 128);
};
