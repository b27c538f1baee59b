//! The decoder on an NVIDIA Hopper: against the CPU, bit for bit against itself, and behind the scheduler. Needs the
//! feature `cuda` and a card; without one every test here fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod attention;
mod families;
mod properties;
mod serving;
mod support;
