//! `make bench`: what a packet, a session and a connection cost.

mod cases;
mod source;
mod world;

fn main() {
    cases::try_out();
}
