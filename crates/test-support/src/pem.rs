//! DER as PEM (RFC 7468), for tests that need files of certificates and keys.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `der` under the label `label`, such as `CERTIFICATE` or `PRIVATE KEY`.
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut digits = String::new();
    for group in der.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            digits.push(if digit <= group.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    let lines: Vec<&str> = (0..digits.len()).step_by(64).map(|at| &digits[at..digits.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
