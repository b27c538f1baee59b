//! Pairs of a statement and a quote that the bars of `support` are set by.
//!
//! The cosines are those of all-MiniLM-L6-v2, computed in double precision. The pairs were written by hand before the
//! bars were set:
//! paraphrases of facts on one side; on the other, statements about the same subject that the quote does not make.

use super::{
    support::{self, Bar, Passage, Statement},
    tests::sources,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The quote says so.
    Supports,
    /// It does, in other words: only a claim of the model makes it count.
    ClaimOnly,
    /// It does not.
    Differs,
    /// It does not, and the comparison does not notice: the right words in a wrong relation.
    Missed,
}
use Verdict::{ClaimOnly, Differs, Missed, Supports};

#[rustfmt::skip]
const PAIRS: &[(Verdict, f32, &str, &str)] = &[
    (Supports, 0.77, "The port was established by Brandt in 1742.", "The harbour was founded in 1742 by Elsa Brandt."),
    (Supports, 0.82, "Elsa Brandt founded it in 1742.", "The harbour was founded in 1742 by Elsa Brandt."),
    (Supports, 0.56, "It was founded in 1742.", "The harbour was founded in 1742 by Elsa Brandt."),
    (Supports, 0.9, "The first pier was destroyed by a storm in 1803.", "A storm destroyed the first pier in 1803, and it was rebuilt in stone."),
    (Supports, 0.78, "After the storm, the pier was built again using stone.", "A storm destroyed the first pier in 1803, and it was rebuilt in stone."),
    (Supports, 0.93, "Ferries to the islands depart every 40 minutes.", "Today ferries leave for the islands every 40 minutes."),
    (Supports, 0.88, "Rust guarantees memory safety without a garbage collector.", "Ownership enables Rust to make memory safety guarantees without needing a garbage collector."),
    (Supports, 1.0, "Ownership is a set of rules that govern how a Rust program manages memory.", "Ownership is a set of rules that govern how a Rust program manages memory."),
    (ClaimOnly, 0.73, "Each value has exactly one owner at a time.", "There can only be one owner at a time."),
    (Supports, 0.98, "When the owner goes out of scope, the value is dropped.", "When the owner goes out of scope, the value will be dropped."),
    (Supports, 0.68, "You can create a new project with cargo new.", "Let's create a new project using Cargo and look at how it differs from our original \"Hello, world!\" project: $ cargo new hello_cargo"),
    (Supports, 0.74, "The panic! macro makes the program print a failure message, unwind and quit.", "By default, these panics will print a failure message, unwind, clean up the stack, and quit."),
    (Supports, 0.73, "Traits define shared behaviour.", "A trait defines the functionality a particular type has and can share with other types."),
    (Supports, 0.94, "Slices let you reference a contiguous sequence of elements.", "Slices let you reference a contiguous sequence of elements in a collection."),
    (Supports, 0.94, "A queen can lay as many as 2000 eggs each day.", "The queen lays up to 2000 eggs per day."),
    (Supports, 0.68, "Honey is ready once it contains less than 18 percent water.", "Nectar becomes honey when its water content falls below 18 percent."),
    (Supports, 0.96, "The loaf should be baked for 45 minutes at 240 degrees.", "Bake the loaf at 240 degrees for 45 minutes."),
    (Supports, 0.88, "The steam makes the crust thin.", "Steam in the first minutes gives a thin crust."),
    (Supports, 0.96, "Variables are immutable by default.", "As mentioned in the section, by default, variables are immutable."),
    (Supports, 0.63, "By default variables cannot be changed.", "As mentioned in the section, by default, variables are immutable."),
    (Supports, 0.91, "Strings are stored on the heap as a collection of bytes.", "A String is stored as a vector of bytes on the heap."),
    (Supports, 0.68, "The borrow checker compares scopes to decide if borrows are valid.", "The Rust compiler has a borrow checker that compares scopes to determine whether all borrows are valid."),
    (Differs, 0.52, "The harbour was founded by robots.", "The harbour was founded in 1742 by Elsa Brandt."),
    (Missed, 0.77, "The harbour was closed by Elsa Brandt.", "The harbour was founded in 1742 by Elsa Brandt."),
    (Missed, 0.73, "The lighthouse was destroyed by a storm in 1803.", "A storm destroyed the first pier in 1803, and it was rebuilt in stone."),
    (Differs, 0.52, "Ferries to the mainland are free of charge.", "Today ferries leave for the islands every 40 minutes."),
    (Differs, 0.82, "Rust uses a garbage collector to manage memory.", "Ownership enables Rust to make memory safety guarantees without needing a garbage collector."),
    (Differs, 0.51, "Rust is a popular programming language for web development.", "Ownership is a set of rules that govern how a Rust program manages memory."),
    (Differs, 0.48, "The queen eats honey every day.", "The queen lays up to 2000 eggs per day."),
    (Differs, 0.55, "Honey is harvested from the hives in spring.", "Nectar becomes honey when its water content falls below 18 percent."),
    (Differs, 0.59, "Bake the bread until the crust is dark.", "Bake the loaf at 240 degrees for 45 minutes."),
    (Differs, 0.31, "Sourdough bread is easier to digest.", "Feed the starter with equal weights of flour and water."),
    (Differs, 0.47, "The borrow checker makes programs faster.", "The Rust compiler has a borrow checker that compares scopes to determine whether all borrows are valid."),
    (Differs, 0.72, "Variables are mutable by default.", "As mentioned in the section, by default, variables are immutable."),
    (Differs, 0.82, "A trait is a kind of struct.", "A trait defines the functionality a particular type has and can share with other types."),
    (Missed, 0.77, "Slices own the elements of a collection.", "Slices let you reference a contiguous sequence of elements in a collection."),
    (Differs, 0.68, "The program will restart after a panic.", "By default, these panics will print a failure message, unwind, clean up the stack, and quit."),
    (Differs, 0.53, "The telescope mirror is made of glass.", "The main mirror has a diameter of 3.6 metres and is polished to 20 nanometres."),
    (Differs, 0.57, "Cargo can be installed with a package manager.", "Let's create a new project using Cargo and look at how it differs from our original project."),
    (Differs, 0.79, "I hope this helps you understand ownership in Rust.", "Ownership is a set of rules that govern how a Rust program manages memory."),
    (ClaimOnly, 0.78, "Ownership is a key concept in Rust.", "Ownership enables Rust to make memory safety guarantees without needing a garbage collector."),
];

#[test]
fn the_bars_stand_between_support_and_difference() {
    for (verdict, cosine, statement, quote) in PAIRS {
        let source = sources(&[quote]);
        let statement = Statement::new(statement);
        let supported = |bar| {
            let passages = Passage::all(0, &source[0]);
            passages.iter().any(|passage| support::score(&statement, passage, Some(*cosine), bar).is_some())
        };
        let expected = match verdict {
            Supports | Missed => (true, true),
            ClaimOnly => (true, false),
            Differs => (false, false),
        };
        let found = (supported(Bar::Claimed), supported(Bar::Unclaimed));
        assert_eq!(found, expected, "{} || {quote}", statement.text);
    }
    let count = |verdict| PAIRS.iter().filter(|pair| pair.0 == verdict).count();
    assert!(count(Supports) > 20 && count(Missed) * 10 < PAIRS.len());
}
