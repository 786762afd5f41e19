//! Where mbufs come from.

use super::{Mbuf, error_text};
use dpdk_sys as sys;
use std::ffi::CString;
use std::ptr::NonNull;

/// A pool of mbufs. It lives as long as the process (contract 2), so it can be copied.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    pool: NonNull<sys::rte_mempool>,
    size: u32,
}

// SAFETY: contract 2; mempools are made to be used by several lcores at a time.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// Mbufs that each lcore keeps at hand.
const CACHE: u32 = 256;

impl Pool {
    /// A pool of `size` mbufs with `room` bytes each, headroom included.
    ///
    /// # Errors
    /// With DPDK's reason, usually that memory is short.
    pub fn create(name: &str, size: u32, room: u16, socket: i32) -> Result<Self, String> {
        let name = CString::new(name).map_err(|_| "a pool's name contains a NUL byte".to_owned())?;
        // SAFETY: contract 1; the name is terminated and copied.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), size, CACHE, 0, room, socket) };
        match NonNull::new(pool) {
            Some(pool) => Ok(Self { pool, size }),
            // SAFETY: reads a thread-local number.
            None => Err(error_text(unsafe { sys::sluice_errno() })),
        }
    }

    /// How many mbufs there are.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many mbufs are now held by queues, sessions' waiting packets and bursts.
    pub fn in_use(&self) -> u32 {
        // SAFETY: contract 2; only reads.
        unsafe { sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }

    /// A mbuf that holds a copy of `bytes`; `None` when the pool is empty or they do not fit.
    pub(super) fn mbuf_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut mbuf: Option<Mbuf> = None;
        // SAFETY: contracts 2 and 3 — `Option<Mbuf>` is a nullable pointer, and on success the
        // pool wrote one buffer there that nobody else owns.
        let result = unsafe { sys::sluice_mbuf_alloc_bulk(self.pool.as_ptr(), (&raw mut mbuf).cast(), 1) };
        if result != 0 {
            // A failed call leaves the slot as it was; do not look at it again.
            std::mem::forget(mbuf);
            return None;
        }
        let mut mbuf = mbuf?;
        mbuf.fill(bytes).then_some(mbuf)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }
}
