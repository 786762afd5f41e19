//! How a device spreads packets over its queues: set, read back, and checked.

#[cfg(feature = "thash")]
use super::Eal;
use super::device::check;
use super::error_text;
use crate::flow::Protocol;
use crate::ids::WorkerId;
use crate::steering::ladder::{Fields, Rss};
use crate::steering::{TABLE_MAX, Toeplitz};
use dpdk_sys as sys;
use std::ffi::{CStr, c_char};
use std::net::IpAddr;

/// Configures queue pairs, and several of them to be spread over by `key`, or, where the driver
/// refuses that, by its own key, or by nothing. Returns DPDK's code.
pub(super) fn configure(device: u16, queues: u16, mtu: u16, vlans: bool, key: &[u8]) -> i32 {
    let configure = |spread: bool, key: &mut [u8]| {
        // SAFETY: contract 1; the key outlives the call, which copies it.
        unsafe {
            let key_len = key.len() as u8;
            sys::sluice_configure(device, queues, mtu, vlans.into(), spread.into(), key.as_mut_ptr(), key_len)
        }
    };
    if queues == 1 {
        return configure(false, &mut []);
    }
    let (_, key_len) = sizes(device);
    let mut key = key[..key.len().min(usize::from(key_len))].to_vec();
    [configure(true, &mut key)]
        .into_iter()
        .find(|code| *code == 0)
        .or_else(|| Some(configure(true, &mut [])).filter(|code| *code == 0))
        .unwrap_or_else(|| configure(false, &mut []))
}

/// Entries of the indirection table, and bytes of the key.
fn sizes(device: u16) -> (u16, u8) {
    let (mut table, mut key) = (0, 0);
    // SAFETY: contract 1; both are written before the call returns.
    unsafe { sys::sluice_rss_sizes(device, &mut table, &mut key) };
    (table, key)
}

/// Spreads the table evenly, and reads what then holds.
pub(super) fn read(device: u16, queues: u16) -> Result<Rss, String> {
    let (entries, key_len) = sizes(device);
    if entries == 0 {
        return Err("the driver has no indirection table".into());
    }
    if usize::from(entries) > TABLE_MAX {
        return Err(format!("its indirection table has {entries} entries, more than {TABLE_MAX}"));
    }
    // A driver that does not let its table be written may still tell what is in it.
    // SAFETY: contract 1.
    unsafe { sys::sluice_table_set(device, entries, queues) };
    let mut table = vec![0; usize::from(entries)];
    // SAFETY: contract 1; the call writes `entries` entries.
    let result = unsafe { sys::sluice_table_get(device, entries, table.as_mut_ptr()) };
    check("its indirection table cannot be read", result)?;
    // Drivers that do not say how long their key is have the specification's.
    let mut key = vec![0; if key_len == 0 { 40 } else { usize::from(key_len) }];
    let mut fields = [0; 4];
    // SAFETY: contract 1; the call writes at most the key's length.
    let result =
        unsafe { sys::sluice_rss_get(device, key.as_mut_ptr(), key.len() as u8, fields.as_mut_ptr()) };
    check("its key cannot be read", result)?;
    if key.iter().all(|byte| *byte == 0) {
        return Err("it does not tell its key".into());
    }
    let [tcp, udp, tcp6, udp6] = fields.map(|code| match code as u32 {
        sys::SLUICE_FIELDS_PORTS => Fields::Ports,
        sys::SLUICE_FIELDS_ADDRESSES => Fields::Addresses,
        _ => Fields::Nothing,
    });
    Ok(Rss { key, table, fields: [[tcp, udp], [tcp6, udp6]] })
}

/// Whether the driver hashes TCP and UDP over IPv4 at all.
pub(super) fn hashes(device: u16) -> bool {
    let mut fields = [0; 4];
    // SAFETY: contract 1; without room for a key only the kinds of packets are asked for.
    let result = unsafe { sys::sluice_rss_get(device, std::ptr::null_mut(), 0, fields.as_mut_ptr()) };
    let nothing = sys::SLUICE_FIELDS_NOTHING as i32;
    result == 0 && fields[..2].iter().all(|code| *code != nothing)
}

/// Makes a rule for each address, protocol and value of the port's low bits.
pub(super) fn add_rules(device: u16, addresses: &[IpAddr], table: &[WorkerId]) -> Result<(), String> {
    let mask = (table.len() - 1) as u16;
    for address in addresses {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (bits, queue) in table.iter().enumerate() {
                let mut words: [c_char; 128] = [0; 128];
                // SAFETY: contract 1; the call reads the address and writes a terminated string into `words`.
                let result = unsafe {
                    sys::sluice_rule_add(
                        device,
                        bytes.as_ptr(),
                        bytes.len(),
                        protocol as u8,
                        bits as u16,
                        mask,
                        queue.0,
                        words.as_mut_ptr(),
                        words.len(),
                    )
                };
                if result != 0 {
                    flush_rules(device);
                    // SAFETY: terminated by the call above.
                    let words = unsafe { CStr::from_ptr(words.as_ptr()) }.to_string_lossy();
                    let reason = if words.is_empty() { error_text(result) } else { words.into_owned() };
                    return Err(format!("it takes no rule for local ports ({reason})"));
                }
            }
        }
    }
    Ok(())
}

/// Takes every rule out of the device.
pub(super) fn flush_rules(device: u16) {
    // SAFETY: contract 1.
    unsafe { sys::sluice_rules_flush(device) };
}

/// Whether [`Toeplitz`] and DPDK's own hash agree under `key` on `count` tuples, made from `seed`.
pub fn agrees_with_dpdk(key: &[u8], count: usize, seed: u64) -> bool {
    let Some(toeplitz) = Toeplitz::new(key) else { return false };
    let mut random = numbers(seed);
    (0..count).all(|at| {
        let mut words: [u32; 9] = std::array::from_fn(|_| random());
        let used = [2, 3, 8, 9][at % 4];
        let bytes: Vec<u8> = words[..used].iter().flat_map(|word| word.to_be_bytes()).collect();
        // SAFETY: reads `used` words and the key's bytes up to `used` words and four bytes, which
        // `Toeplitz::new` made sure of.
        let theirs = unsafe { sys::sluice_softrss(words.as_mut_ptr(), used as u32, key.as_ptr()) };
        toeplitz.hash(&bytes) == theirs
    })
}

/// Whether a tuple whose last two bytes DPDK's `rte_thash` chose for a hash has that hash by
/// [`Toeplitz`] too, on `count` tuples of IPv4 and IPv6 with ports, made from `seed`.
///
/// # Errors
/// When `rte_thash` refuses a tuple, or the hash differs.
#[cfg(feature = "thash")]
pub fn agrees_with_thash(_: &Eal, key: &[u8], count: usize, seed: u64) -> Result<(), String> {
    const BITS: u32 = 7;
    let mut random = numbers(seed);
    for at in 0..count {
        let mut key = key.to_vec();
        let desired = random() & ((1 << BITS) - 1);
        let mut tuple: Vec<u8> = (0..[12, 36][at % 2] / 4).flat_map(|_| random().to_be_bytes()).collect();
        // SAFETY: contract 1; the call writes within the key and the tuple.
        let result = unsafe {
            sys::sluice_thash_adjust(
                key.as_mut_ptr(),
                key.len() as u8,
                BITS,
                tuple.as_mut_ptr(),
                tuple.len() as u32,
                desired,
            )
        };
        check("rte_thash", result)?;
        let hash = Toeplitz::new(&key).ok_or("the key is too short")?.hash(&tuple);
        if hash & ((1 << BITS) - 1) != desired {
            return Err(format!("rte_thash says {desired:#x} of {tuple:02x?}, its hash is {hash:#x}"));
        }
    }
    Ok(())
}

/// Numbers that differ (Marsaglia's xorshift).
fn numbers(mut state: u64) -> impl FnMut() -> u32 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u32
    }
}
