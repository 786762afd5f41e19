//! The only module that touches DPDK. It turns DPDK's calls into owned types, and
//! every `unsafe` block in it cites the contract in `docs/SAFETY.md`:
//!
//! 1. One EAL per process.
//! 2. Pools live as long as the process.
//! 3. An [`Mbuf`] is the unique owner of a single-segment buffer with reference count one.
//! 4. Each (device, queue) exists once, and on one thread.
//! 5. A pointer given to transmit is given away.

#![allow(unsafe_code, reason = "the room for unsafe; see docs/SAFETY.md")]

mod device;
mod eal;
mod lcore;
mod mbuf;
mod pool;
mod queue;
mod spread;

pub use device::{Device, DeviceSettings, DeviceStats};
pub use eal::{Eal, EalError, EalSettings, Mark, Memory, version};
pub use lcore::{Lcore, launch, socket_of};
pub use mbuf::Mbuf;
pub use pool::Pool;
pub use queue::Queue;
pub use spread::agrees_with_dpdk;
#[cfg(feature = "thash")]
pub use spread::agrees_with_thash;

use crate::clock::Instant;

/// A clock for workers: the time-stamp counter, which costs some 20 cycles to read.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    /// Nanoseconds per tick, as a fixed-point number with 32 fractional bits.
    scale: u64,
}

impl Clock {
    /// A clock that is at zero now. EAL must be initialised.
    pub fn start(_: &Eal) -> Self {
        // SAFETY: both only read; contract 1 (EAL has calibrated the counter).
        let (start, hertz) = unsafe { (dpdk_sys::sluice_tsc(), dpdk_sys::rte_get_tsc_hz()) };
        Self { start, scale: ((1_000_000_000u128 << 32) / u128::from(hertz.max(1))) as u64 }
    }

    /// The time since the start.
    #[inline]
    pub fn now(&self) -> Instant {
        // SAFETY: reads a counter.
        let ticks = unsafe { dpdk_sys::sluice_tsc() }.wrapping_sub(self.start);
        Instant::from_nanos(((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64)
    }
}

/// Lets no file, socket or device of this process be inherited by programs that it starts: some of DPDK's would keep a
/// device busy after the daemon's end.
pub fn close_on_exec() {
    // SAFETY: sets a flag on descriptors. A kernel before 5.11 refuses, and then they are inherited.
    let _ = unsafe { dpdk_sys::sluice_close_on_exec() };
}

/// The text of a negative return value or of an errno.
fn error_text(code: i32) -> String {
    // SAFETY: rte_strerror returns a terminated string in thread-local or static memory.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_strerror(code.abs())) }.to_string_lossy().into_owned()
}
