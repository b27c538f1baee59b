//! The decoder: against its references, bit for bit against itself, and against bad files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod families;
mod files;
mod properties;
mod smollm2;
mod support;
