//! Running a worker on an EAL lcore.

use super::{Eal, error_text};
use dpdk_sys as sys;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

/// A function that runs on an lcore until it returns by itself.
#[derive(Debug)]
pub struct Lcore<'eal> {
    lcore: u32,
    eal: PhantomData<&'eal Eal>,
}

/// Runs `work` on lcore `lcore` (1 is the first worker's).
///
/// # Errors
/// When EAL has no such lcore or it is busy.
pub fn launch<'eal, F>(_: &'eal Eal, lcore: u32, work: F) -> Result<Lcore<'eal>, String>
where
    F: FnOnce() + Send + 'static,
{
    let context = Box::into_raw(Box::new(work));
    // SAFETY: contract 1; `run::<F>` takes the box that `context` came from, once.
    let result = unsafe { sys::rte_eal_remote_launch(Some(run::<F>), context.cast(), lcore) };
    if result != 0 {
        // SAFETY: EAL did not take it, so the box is still ours.
        drop(unsafe { Box::from_raw(context) });
        return Err(format!("lcore {lcore} cannot be used ({})", error_text(result)));
    }
    Ok(Lcore { lcore, eal: PhantomData })
}

/// The NUMA node of an lcore.
pub fn socket_of(_: &Eal, lcore: u32) -> u32 {
    // SAFETY: contract 1; asks a number.
    unsafe { sys::rte_lcore_to_socket_id(lcore) }
}

impl Lcore<'_> {
    /// Waits until the work has returned.
    pub fn join(self) {
        // SAFETY: contract 1.
        unsafe { sys::rte_eal_wait_lcore(self.lcore) };
    }
}

extern "C" fn run<F: FnOnce()>(context: *mut c_void) -> c_int {
    // SAFETY: `launch` made the box for this call alone.
    let work = unsafe { Box::from_raw(context.cast::<F>()) };
    work();
    0
}
