//! Passwords of encrypted files. They are shown nowhere: not by `Debug`, not in errors, not in logs.

use std::fmt;
use std::sync::Arc;

/// Passwords to try on an encrypted file, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passwords(Arc<[String]>);

impl Passwords {
    /// These passwords; blank ones are left out, and so are repeated ones.
    pub fn new(passwords: impl IntoIterator<Item = String>) -> Self {
        let mut kept: Vec<String> = Vec::new();
        for password in passwords {
            if !password.is_empty() && !kept.contains(&password) {
                kept.push(password);
            }
        }
        Self(kept.into())
    }

    /// The passwords in a file: one a line, spaces included.
    pub fn from_lines(text: &str) -> Self {
        Self::new(text.trim_start_matches('\u{feff}').lines().map(str::to_owned))
    }

    /// These and then those of `more`.
    pub fn and(&self, more: &Self) -> Self {
        Self::new(self.iter().chain(more.iter()).cloned())
    }

    /// The passwords in order. Whoever asks is about to use them.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({} not shown)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_keep_their_order_and_are_never_shown() {
        let passwords = Passwords::from_lines("\u{feff}open sesame \r\n\nb\nb\n").and(&Passwords::from_lines("c"));
        assert_eq!(passwords.iter().collect::<Vec<_>>(), ["open sesame ", "b", "c"]);
        assert_eq!(format!("{passwords:?}"), "Passwords(3 not shown)");
    }
}
