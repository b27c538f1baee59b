//! Dot products of 8-bit codes, for the scan and the graph of a vector index.
//!
//! Rows are unsigned bytes that stand for `byte − 128`; a query is signed bytes. So the instruction that multiplies
//! unsigned by signed bytes (`vpdpbusd`) takes both as they are, and `Σ(byte−128)·q = Σ byte·q − 128·Σq` needs one
//! number of the query and none of the row.
//!
//! Invariants:
//! - Sums are whole numbers, so every instruction set gives the same.
//! - No sum overflows for rows of at most [`MAX_WIDTH`] codes.
//!
//! Limits: a scan reads each code once and computes little on it, so from memory it is bound by bandwidth, and the rows
//! of a graph, which lie apart, by latency: [`CodedQuery::dot_at`] asks for all its rows ahead.
//!
//! Deliberately not here: how codes are made of floats, scales, error bounds.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::Isa;

/// Longest row.
pub const MAX_WIDTH: usize = 1 << 16;

/// The byte that stands for zero.
pub const ZERO_CODE: u8 = 128;

/// A query, ready to be multiplied with rows.
#[derive(Debug, Clone)]
pub struct CodedQuery {
    isa: Isa,
    codes: Vec<i8>,
    /// The same, for multiplication by pairs of 16 bits.
    wide: Vec<i16>,
    /// 128·Σ codes.
    offset: i32,
}

impl CodedQuery {
    /// A query of at most [`MAX_WIDTH`] codes in −127..=127. What is longer is cut off.
    pub fn new(codes: &[i8]) -> Self {
        Self::with(Isa::detect(), codes)
    }

    fn with(isa: Isa, codes: &[i8]) -> Self {
        let codes = codes[..codes.len().min(MAX_WIDTH)].to_vec();
        let wide: Vec<i16> = codes.iter().map(|code| i16::from(*code)).collect();
        let offset = i32::from(ZERO_CODE) * wide.iter().map(|code| i32::from(*code)).sum::<i32>();
        Self { isa, codes, wide, offset }
    }

    /// A query out of a row, so that rows can be compared with each other.
    pub fn of_row(row: &[u8]) -> Self {
        let codes: Vec<i8> = row.iter().map(|byte| (byte ^ ZERO_CODE) as i8).collect();
        Self::new(&codes)
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.codes.len()
    }

    /// Products with rows that stand one after the other, as many as fit into both `rows` and `sums`.
    pub fn dot_rows(&self, rows: &[u8], sums: &mut [i32]) {
        let width = self.width().max(1);
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => {
                // SAFETY: the value of `isa` says that the processor has the instructions.
                unsafe { self.dot_rows_avx512(rows, sums) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => {
                // SAFETY: as above.
                unsafe { self.dot_rows_avx2(rows, sums) }
            }
            Isa::Portable(_) => {
                for (row, sum) in rows.chunks_exact(width).zip(sums) {
                    *sum = self.dot_portable(row);
                }
            }
        }
    }

    /// Products with the rows numbered `at` of the table `rows`, in their order. A number beyond the table gives the
    /// least integer.
    pub fn dot_at(&self, rows: &[u8], at: &[u32], sums: &mut Vec<i32>) {
        let width = self.width().max(1);
        let row = |number: &u32| {
            let start = (*number as usize).checked_mul(width)?;
            rows.get(start..start.checked_add(width)?)
        };
        #[cfg(target_arch = "x86_64")]
        for row in at.iter().filter_map(row) {
            for line in (0..width).step_by(64) {
                // SAFETY: a hint about an address within the row; SSE is part of the target.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().add(line).cast()) };
            }
        }
        sums.clear();
        sums.extend(at.iter().map(|number| {
            let mut sum = [i32::MIN];
            if let Some(row) = row(number) {
                self.dot_rows(row, &mut sum);
            }
            sum[0]
        }));
    }

    fn dot_portable(&self, row: &[u8]) -> i32 {
        let sum: i32 = row.iter().zip(&self.wide).map(|(byte, code)| i32::from(*byte) * i32::from(*code)).sum();
        sum - self.offset
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn dot_rows_avx512(&self, rows: &[u8], sums: &mut [i32]) {
        let width = self.width().max(1);
        let (query, rest) = self.codes.as_chunks::<64>();
        // Bytes of a last, partial register.
        let mask = (1u64 << rest.len()) - 1;
        for (row, sum) in rows.chunks_exact(width).zip(sums) {
            let (lines, row_rest) = row.as_chunks::<64>();
            let mut sums = [_mm512_setzero_si512(); 2];
            for (at, (line, codes)) in lines.iter().zip(query).enumerate() {
                // SAFETY: both are references to 64 bytes.
                let (line, codes) =
                    unsafe { (_mm512_loadu_si512(line.as_ptr().cast()), _mm512_loadu_si512(codes.as_ptr().cast())) };
                sums[at % 2] = _mm512_dpbusd_epi32(sums[at % 2], line, codes);
            }
            if mask != 0 {
                // SAFETY: the mask selects only bytes within both remainders, which are of equal length; others are
                // not read.
                let (line, codes) = unsafe {
                    (
                        _mm512_maskz_loadu_epi8(mask, row_rest.as_ptr().cast()),
                        _mm512_maskz_loadu_epi8(mask, rest.as_ptr()),
                    )
                };
                sums[0] = _mm512_dpbusd_epi32(sums[0], line, codes);
            }
            *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) - self.offset;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn dot_rows_avx2(&self, rows: &[u8], sums: &mut [i32]) {
        let width = self.width().max(1);
        let (query, rest) = self.wide.as_chunks::<16>();
        for (row, sum) in rows.chunks_exact(width).zip(sums) {
            let (lines, row_rest) = row.as_chunks::<16>();
            let mut sums = [_mm256_setzero_si256(); 2];
            for (at, (line, codes)) in lines.iter().zip(query).enumerate() {
                // SAFETY: references to 16 bytes and to 16 numbers of two bytes.
                let (line, codes) =
                    unsafe { (_mm_loadu_si128(line.as_ptr().cast()), _mm256_loadu_si256(codes.as_ptr().cast())) };
                let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(line), codes);
                sums[at % 2] = _mm256_add_epi32(sums[at % 2], products);
            }
            let all = _mm256_add_epi32(sums[0], sums[1]);
            let halves = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
            let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b01_00_11_10>(halves));
            let total = _mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs));
            let mut total = _mm_cvtsi128_si32(total);
            for (byte, code) in row_rest.iter().zip(rest) {
                total += i32::from(*byte) * i32::from(*code);
            }
            *sum = total - self.offset;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(query: &[i8], row: &[u8]) -> i32 {
        query.iter().zip(row).map(|(q, b)| i32::from(*q) * (i32::from(*b) - 128)).sum()
    }

    proptest! {
        #[test]
        fn products_are_the_definition_on_every_instruction_set(
            width in 1usize..200, rows in 0usize..5, seed in prop::collection::vec(any::<u8>(), 1..40),
            at in prop::collection::vec(0u32..8, 0..6),
        ) {
            let byte = |n: usize| seed[n % seed.len()].wrapping_mul(n as u8 | 1);
            let query: Vec<i8> = (0..width).map(|n| (byte(n + 7) as i8).max(-127)).collect();
            let table: Vec<u8> = (0..width * rows).map(byte).collect();
            let expected: Vec<i32> = table.chunks_exact(width).map(|row| reference(&query, row)).collect();
            for isa in Isa::available() {
                let coded = CodedQuery::with(isa, &query);
                let mut sums = vec![0; rows];
                coded.dot_rows(&table, &mut sums);
                prop_assert_eq!(&sums, &expected);
                coded.dot_at(&table, &at, &mut sums);
                let picked: Vec<i32> =
                    at.iter().map(|at| expected.get(*at as usize).copied().unwrap_or(i32::MIN)).collect();
                prop_assert_eq!(sums, picked);
            }
        }
    }

    #[test]
    fn the_longest_row_does_not_overflow() {
        for (code, byte) in [(127, 255), (-127, 255), (-127, 0), (127, 0)] {
            let (query, row) = (vec![code; MAX_WIDTH], vec![byte; MAX_WIDTH]);
            for isa in Isa::available() {
                let mut sum = [0];
                CodedQuery::with(isa, &query).dot_rows(&row, &mut sum);
                assert_eq!(sum[0], reference(&query, &row), "{}", isa.name());
            }
        }
    }

    #[test]
    fn a_row_can_be_a_query() {
        let rows: Vec<u8> = (0..=255).collect();
        let mut sums = [0; 2];
        CodedQuery::of_row(&rows[128..]).dot_rows(&rows, &mut sums);
        let codes: Vec<i8> = (0..=127).collect();
        assert_eq!(sums, [reference(&codes, &rows[..128]), reference(&codes, &rows[128..])]);
    }
}
