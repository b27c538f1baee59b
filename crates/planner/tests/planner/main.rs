//! The planner on a scripted model and a real collection: routing, budgets, composition, answers, citations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answering;
mod budgets;
mod conversation;
mod escalation;
mod fixture;
mod injection;
mod learning;
mod reading;
mod routing;
mod tree;
