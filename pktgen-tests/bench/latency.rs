//! The time a packet needs through a forwarder and back: this process sends on a vhost-user device
//! at a steady rate from one core, the forwarder answers on virtio-user from the other.
//!
//! Each frame carries the time at which it was sent, so its way there and back is known when it
//! returns. UDP checksums are zero ("none", RFC 768), because the time is written late.

use crate::device::{Hardware, Plan};
use crate::pcap;
use crate::world::Way;
use dataplane::clock::Instant;
use dataplane::dpdk::{Clock, Queue};
use dataplane::port::{Buffer, Burst, Port};
use dataplane::wire::Mac;
use serde_json::json;
use std::time::Duration;

/// Station address of the forwarder's device.
pub(crate) const FORWARDER: Mac = [2, 0, 0, 0, 0, 0x0f];
const FLOWS: u32 = 1_000;
/// Where the time stands: in the payload, before the flow's number.
const TIME_AT: usize = 44;
/// Packets sent at once at most; a generator that falls behind does not make a burst of it.
const AT_ONCE: u64 = 16;

/// Times by their logarithm: 64 steps for each doubling, so 1 % wide.
struct Histogram(Vec<u64>);

impl Histogram {
    fn add(&mut self, nanos: u64) {
        let at = ((nanos.max(1) as f64).log2() * 64.0) as usize;
        self.0[at.min(2_047)] += 1;
    }

    /// The time that a share of all packets did not exceed, in microseconds.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * share) as u64;
        let mut passed = 0;
        let at = self.0.iter().position(|count| {
            passed += count;
            passed > wanted
        });
        at.map_or(f64::NAN, |at| ((at + 1) as f64 / 64.0).exp2() / 1_000.0)
    }
}

/// Sends and measures as standard input says: a rate in packets per second, and seconds.
pub(crate) fn serve(plan: &Plan) -> Result<(), String> {
    let mut hardware = Hardware::start(plan)?;
    let mut queue = hardware.device.take_queue().ok_or("the device has no queue")?;
    let clock = hardware.clock;
    println!("{}", json!({ "ready": true }));
    let work = move || {
        let frames: Vec<_> = (0..FLOWS).map(frame).collect();
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let words: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [rate, seconds] = words[..] else { continue };
            println!("{}", load(&mut queue, clock, &frames, rate, Duration::from_secs_f64(seconds)));
        }
    };
    hardware.run(vec![work]).map(|_| ())
}

fn frame(flow: u32) -> Vec<u8> {
    let mut frame = pcap::frame(Way::FULLNAT, "udp", flow, 0, FORWARDER);
    frame[40..42].fill(0);
    frame
}

fn load(queue: &mut Queue, clock: Clock, frames: &[Vec<u8>], rate: f64, time: Duration) -> serde_json::Value {
    let mut histogram = Histogram(vec![0; 2_048]);
    let (mut sent, mut received, mut refused) = (0u64, 0u64, 0u64);
    let begin = clock.now();
    let warm = begin + time / 10;
    loop {
        let now = clock.now();
        let elapsed = now.since(begin);
        // Afterwards, a while for the last ones to return.
        if elapsed >= time + Duration::from_millis(50) {
            break;
        }
        if elapsed < time {
            let due = (elapsed.as_secs_f64() * rate) as u64 - (sent + refused);
            // What is overdue beyond a burst is given up, not sent late.
            refused += due.saturating_sub(AT_ONCE);
            let mut burst = Burst::new();
            for _ in 0..due.min(AT_ONCE) {
                let flow = (sent + burst.len() as u64) % frames.len() as u64;
                let Some(mut buffer) = queue.buffer_from(&frames[flow as usize]) else { break };
                let stamp = now.nanos().to_be_bytes();
                buffer.frame().bytes_mut()[TIME_AT..TIME_AT + 8].copy_from_slice(&stamp);
                burst.push(buffer);
            }
            let waiting = burst.len();
            queue.tx(&mut burst);
            sent += (waiting - burst.len()) as u64;
            refused += burst.len() as u64;
            queue.discard(&mut burst);
        }
        let mut burst = Burst::new();
        queue.rx(&mut burst);
        if !burst.is_empty() {
            let now = clock.now();
            for buffer in &mut burst {
                received += 1;
                let frame = buffer.frame();
                let Some(stamp) = frame.bytes().get(TIME_AT..TIME_AT + 8) else { continue };
                let sent_at =
                    Instant::from_nanos(stamp.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
                if sent_at >= warm {
                    histogram.add(now.since(sent_at).as_nanos() as u64);
                }
            }
            queue.discard(&mut burst);
        }
    }
    json!({
        "sent": sent, "received": received, "refused": refused, "seconds": time.as_secs_f64(),
        "p50_us": histogram.quantile(0.5), "p99_us": histogram.quantile(0.99),
    })
}
