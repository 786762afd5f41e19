//! The rings between workers under loom: every order in which a writer's and a reader's steps can meet.
//!
//! What goes through the ring are numbers of cells, and loom watches the cells: a reader that could see
//! a number before its cell was written, or a writer that could take a place before its reader was done
//! with it, is a failure. `run.sh` builds this with rtrb's own source, its atomics replaced by loom's.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use rtrb::RingBuffer;

/// More packets than the ring has places, so that places are used again.
const PACKETS: usize = 4;
const PLACES: usize = 2;

#[test]
fn a_packet_is_whole_when_its_owner_gets_it_and_its_place_is_free_when_it_is_used_again() {
    loom::model(|| {
        let cells: Arc<[UnsafeCell<usize>; PLACES]> = Arc::new([UnsafeCell::new(0), UnsafeCell::new(0)]);
        let (mut writer, mut reader) = RingBuffer::new(PLACES);
        let written = Arc::clone(&cells);
        let sender = thread::spawn(move || {
            let mut next = 0;
            while next < PACKETS {
                let room = writer.slots().min(PACKETS - next);
                if room == 0 {
                    thread::yield_now();
                    continue;
                }
                for number in next..next + room {
                    written[number % PLACES].with_mut(|cell| unsafe { *cell = number });
                }
                let chunk = writer.write_chunk_uninit(room).expect("the places were there");
                chunk.fill_from_iter(next..next + room);
                next += room;
            }
        });
        let mut expected = 0;
        while expected < PACKETS {
            let count = reader.slots();
            if count == 0 {
                thread::yield_now();
                continue;
            }
            let chunk = reader.read_chunk(count).expect("the packets were there");
            let (first, second) = chunk.as_slices();
            for number in first.iter().chain(second) {
                assert_eq!(*number, expected, "in order, each once");
                let cell = cells[*number % PLACES].with(|cell| unsafe { *cell });
                assert_eq!(cell, expected);
                expected += 1;
            }
            chunk.commit_all();
        }
        sender.join().expect("the sender ends");
    });
}
