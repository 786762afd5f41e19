//! Files that a pcap device plays for ever: it keeps each frame in a buffer of its own from its start on.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Frames that the device of this text keeps (`net_pcap0,rx_pcap=FILE,infinite_rx=1`); none if it plays its files once, or
/// they are none that can be counted.
pub(crate) fn frames_kept(device: &str) -> u32 {
    let mut words = device.split(',');
    if !words.next().is_some_and(|name| name.starts_with("net_pcap")) || !device.contains("infinite_rx=1") {
        return 0;
    }
    let files = words.filter_map(|word| word.strip_prefix("rx_pcap="));
    files.map(|file| count(Path::new(file)).unwrap_or(0)).sum()
}

/// The frames of a file in libpcap's format.
fn count(path: &Path) -> std::io::Result<u32> {
    const HEADER: usize = 24;
    const RECORD: usize = 16;
    let file = File::open(path)?;
    // Nothing else ends.
    if !file.metadata()?.is_file() {
        return Ok(0);
    }
    let mut reader = BufReader::new(file);
    let mut header = [0; HEADER];
    reader.read_exact(&mut header)?;
    // Microseconds or nanoseconds, in the writer's order of bytes.
    let number = match header[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => u32::from_be_bytes,
        _ => return Ok(0),
    };
    let mut frames = 0;
    let mut record = [0; RECORD];
    while reader.read_exact(&mut record).is_ok() {
        let len = number([record[8], record[9], record[10], record[11]]);
        reader.seek_relative(i64::from(len))?;
        frames += 1;
    }
    Ok(frames)
}
