//! HTTP/1.1: single requests, and listeners whose guests cost nothing but themselves.

mod client;
pub(crate) mod guests;
pub(crate) mod site;

pub(crate) use client::exchange;
